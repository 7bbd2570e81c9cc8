"""Checkpoints: everything that a training needs to go on, bit by bit, after it was killed.

One file, `state.safetensors`, holds weights, statistics, the optimiser's state and, as JSON in its
metadata, where the training stands. It is replaced by a rename, so that it is always whole; the
other files of the folder are written before it and written again if they were not. `state.json` has
the JSON for people to read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convdsl.diagnostics import problem
from convdsl.runtime import parameters

Array = np.ndarray

LAST, BEST, STATE = "last.safetensors", "best.safetensors", "state.safetensors"
ABOUT, METRICS, CURVES = "state.json", "metrics.jsonl", "curves.svg"
CONFUSION, MISTAKES = "confusion.svg", "mistakes.png"


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    ``epoch`` epochs are done, and ``batch`` batches of the next one, with losses that add up to
    ``loss``, and shares of examples that were told right to ``right``, in ``seconds`` of training.
    ``history`` has the metrics of the epochs; ``best`` is the value that the best epoch had.
    """

    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    right: float = 0.0
    seconds: float = 0.0
    steps: int = 0
    best: float | None = None
    history: tuple[dict[str, Any], ...] = ()
    recipe: dict[str, str] = field(default_factory=dict)
    finished: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A progress with the arrays that belong to it: ``weights`` are parameters and buffers."""

    progress: Progress
    weights: Mapping[str, Array]
    state: Mapping[str, Array]
    learned: Mapping[str, Array]
    """What augmentations found in the data."""


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint, whole or not at all. Raises CompileError E504."""
    arrays = {
        f"{kind}/{name}": array
        for kind in ("weights", "state", "learned")
        for name, array in getattr(checkpoint, kind).items()
    }
    about = json.dumps(asdict(checkpoint.progress), indent=1)
    # Where the state says that the training is finished, nobody looks for what is missing.
    parameters.write_text(folder / ABOUT, about + "\n")
    parameters.write(folder / STATE, arrays, {"progress": about})


def read(folder: Path) -> Checkpoint | None:
    """The checkpoint of a folder, or None. Raises CompileError E503 for one that is damaged."""
    path = folder / STATE
    if not path.exists():
        return None
    arrays = parameters.read(path)
    try:
        values = json.loads(parameters.metadata(path)["progress"])
        values["history"] = tuple(values["history"])
        progress = Progress(**values)
    except (KeyError, TypeError, ValueError):
        raise problem("E503", f"{path} is no checkpoint of a training") from None
    parts: dict[str, dict[str, Array]] = {"weights": {}, "state": {}, "learned": {}}
    for name, array in arrays.items():
        kind, _, rest = name.partition("/")
        parts[kind][rest] = array
    return Checkpoint(progress, **parts)


def clean(folder: Path) -> None:
    """Remove what a killed process was about to write."""
    for path in folder.glob("*" + parameters.UNFINISHED):
        path.unlink(missing_ok=True)
