"""Evaluates a network on data: loss, accuracy, and what was predicted for every example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from convdsl.diagnostics import problem
from convdsl.network import Network
from convdsl.ops.losses import CrossEntropy
from convdsl.runtime.program import Program
from convdsl.training.data import Data
from convdsl.training.loading import evaluation_batches

Array = np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """What came of evaluating, example by example.

    ``indices`` are the examples' numbers in the data, ``labels`` their classes, ``predicted`` the
    classes with the highest scores and ``probability`` how probable these are said to be;
    ``losses`` are cross entropies.
    """

    indices: Array
    labels: Array
    predicted: Array
    probability: Array
    losses: Array

    @property
    def samples(self) -> int:
        """The number of examples."""
        return len(self.labels)

    @property
    def loss(self) -> float:
        """The mean cross entropy."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """The share of examples that are told right."""
        return float((self.predicted == self.labels).mean())

    @property
    def worst(self) -> Array:
        """Places of the examples that are told wrong, those with the highest losses first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(-self.losses[wrong], kind="stable")]


def evaluate(program: Program, data: Data, indices: Array | None = None) -> Evaluation:
    """Evaluate on these examples of the data, else on all; memory is that of a batch.

    ``program`` is compiled for inference and gives logits N×classes.
    """
    chosen = np.arange(len(data)) if indices is None else np.asarray(indices)
    targets: list[Array] = []

    def images() -> Iterator[tuple[Array]]:
        for x, target, count in evaluation_batches(data, chosen, program.batch):
            targets.append(target[:count])
            yield (x,)

    parts = []
    for number, logits in enumerate(program.map(images())):
        target = targets[number]
        start = number * program.batch
        indices = chosen[start : start + len(target)]
        parts.append(_told(indices, logits[: len(target)].astype(np.float64), target))
    return joined(parts)


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Evaluations one behind the other; there may be none."""
    none = np.arange(0)
    names = (field.name for field in fields(Evaluation))
    return Evaluation(*(np.concatenate([none, *(getattr(p, n) for p in parts)]) for n in names))


def _told(indices: Array, logits: Array, target: Array) -> Evaluation:
    """What came of a batch."""
    scores = CrossEntropy().log_probabilities(logits)
    predicted = logits.argmax(axis=1)
    rows = np.arange(len(logits))
    losses = 0.0 - scores[rows, target]  # of a single class 0, not -0
    return Evaluation(indices, target, predicted, np.exp(scores[rows, predicted]), losses)


def share_right(scores: Array, target: Array) -> float:
    """The share of examples whose class has the highest score.

    ``scores`` are N×classes; ``target`` are N class numbers, or N×classes shares of classes, of
    which the largest counts.
    """
    classes = target if target.ndim == 1 else target.argmax(axis=1)
    return np.count_nonzero(scores.argmax(axis=1) == classes) / len(classes)


def class_count(network: Network) -> int:
    """How many classes a network tells apart.

    Raises CompileError E572 where it has not one input and one output of scores per class.
    """
    graph = network.graph
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise problem("E572", f"`{network.name}` has several inputs or outputs")
    scores = graph.outputs[0][1].type
    if scores.spatial:
        raise problem("E572", f"`{network.name}` gives {scores}, a map, not a score per class")
    return scores.channels
