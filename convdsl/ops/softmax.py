"""Softmax and its logarithm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from convdsl.graph import Builder, Node, TensorType, Value
from convdsl.ops.base import Mistake, Op, Sample, op, single
from convdsl.ops.expressions import exp, log
from convdsl.ops.families import operand
from convdsl.ops.primitive import compute

if TYPE_CHECKING:
    import numpy as np


def per_row(x: TensorType) -> TensorType:
    """One value per image and position: the channels reduced."""
    return TensorType((1, *x.spatial) if x.spatial else ())


def exponentials(b: Builder, x: Value) -> tuple[Value, Value]:
    """The maximum of x over the channels and the sum of exp(x − maximum): stable for large x."""
    rows = per_row(x.type)
    top = compute(b, operand(0), [x], x.type, rows, reducer="maximum")
    return top, compute(b, exp(operand(0) - operand(1)), [x, top], x.type, rows)


@op("softmax")
@dataclass(frozen=True)
class Softmax(Op):
    """exp(x) / Σ exp(x) over the channels, computed after subtracting the largest of them."""

    category: ClassVar[str] = "activation"
    samples: ClassVar[Sequence[Sample]] = (Sample("softmax", "7"), Sample("softmax", "3@4x5"))
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("softmax 3", "7", "E106"),)

    def result(self, *x: TensorType) -> TensorType:
        return x[0]

    def flops(self, *x: TensorType) -> int:
        # Per element: comparison, subtraction, exponential, sum, division.
        return 5 * x[0].size

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...]:
        (x,) = node.inputs
        top, total = exponentials(b, x)
        y = exp(operand(0) - operand(1)) / operand(2)
        return (compute(b, y, [x, top, total], x.type, name=node.name),)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        (x,) = inputs
        e = np.exp(x - x.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        y, upstream = node.output, single(dy)
        rows = per_row(y.type)
        inner = compute(b, operand(0) * operand(1), [y, upstream], y.type, rows)
        dx = operand(0) * (operand(1) - operand(2))
        return [compute(b, dx, [y, upstream, inner], y.type)]


@op("log_softmax")
@dataclass(frozen=True)
class LogSoftmax(Op):
    """x − log Σ exp(x) over the channels, computed after subtracting the largest of them."""

    category: ClassVar[str] = "activation"
    samples: ClassVar[Sequence[Sample]] = (
        Sample("log_softmax", "7"),
        Sample("log_softmax", "3@4x5"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("log_softmax 3", "7", "E106"),)

    def result(self, *x: TensorType) -> TensorType:
        return x[0]

    def flops(self, *x: TensorType) -> int:
        # Per element: comparison, subtraction, exponential, sum, subtraction.
        return 5 * x[0].size

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...]:
        (x,) = node.inputs
        top, total = exponentials(b, x)
        y = operand(0) - operand(1) - log(operand(2))
        return (compute(b, y, [x, top, total], x.type, name=node.name),)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        (x,) = inputs
        apart = x - x.max(axis=1, keepdims=True)
        return np.asarray(apart - np.log(np.exp(apart).sum(axis=1, keepdims=True)))

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        y, upstream = node.output, single(dy)
        total = compute(b, operand(0), [upstream], y.type, per_row(y.type))
        dx = operand(1) - exp(operand(0)) * operand(2)
        return [compute(b, dx, [y, upstream, total], y.type)]
