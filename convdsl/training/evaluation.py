"""Evaluates a network on data: loss, accuracy and what was predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from convdsl.ops.losses import CrossEntropy
from convdsl.runtime.program import Program
from convdsl.training.augment import Augmentation
from convdsl.training.data import Data
from convdsl.training.loading import evaluation_batches

Array = np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """What came of evaluating; ``predicted`` are class numbers, one per example."""

    samples: int
    loss: float
    accuracy: float
    predicted: Array


def evaluate(
    program: Program,
    data: Data,
    indices: Array | None = None,
    augmentations: Sequence[Augmentation] = (),
) -> Evaluation:
    """The mean cross entropy and the share of examples whose class has the highest score.

    ``program`` is compiled for inference and gives logits N×classes.
    """
    chosen = np.arange(len(data)) if indices is None else indices
    counts: list[int] = []

    def images() -> Iterator[tuple[Array]]:
        for x, _, count in evaluation_batches(data, chosen, program.batch, augmentations):
            counts.append(count)
            yield (x,)

    scores = [scored[: counts[n]] for n, scored in enumerate(program.map(images()))]
    logits = np.concatenate(scores).astype(np.float64)
    target = data.labels[chosen]
    loss = float(CrossEntropy().evaluate(logits, target))
    predicted = logits.argmax(axis=1)
    return Evaluation(len(chosen), loss, float((predicted == target).mean()), predicted)
