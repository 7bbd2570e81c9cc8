"""Losses: what training makes small. Each is a mean over the batch (and over positions)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from convdsl.graph import Builder, Node, TensorType, Value
from convdsl.ops.base import Op, Problem, single
from convdsl.ops.expressions import (
    Expr,
    Symbol,
    absolute,
    cast,
    equal,
    evaluate,
    exp,
    log,
    log1p,
    maximum,
    operations,
    select,
)
from convdsl.ops.families import BATCH, coordinate, operand
from convdsl.ops.primitive import Constant, Reshape, compute, map_gradient
from convdsl.ops.softmax import exponentials, per_row

if TYPE_CHECKING:
    import numpy as np

SCALAR = TensorType((), batched=False)


class Loss(Op):
    """A scalar from a prediction and a target."""

    category: ClassVar[str] = "loss"
    arity: ClassVar[int | None] = 2

    def target(self, prediction: TensorType) -> TensorType:
        """The type of the target for a prediction; raises Problem where there is none."""
        raise NotImplementedError

    def result(self, *x: TensorType) -> TensorType:
        return SCALAR

    def notation(self) -> str:
        return self.kind


class _Pointwise(Loss):
    """The mean over all elements of an expression of prediction and target."""

    def each(self, x: Expr, t: Expr) -> Expr:
        """The loss of an element."""
        raise NotImplementedError

    def target(self, prediction: TensorType) -> TensorType:
        return prediction

    def flops(self, *x: TensorType) -> int:
        return (operations(self.each(operand(0), operand(1))) + 1) * x[0].size

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...]:
        each = self.each(operand(0), operand(1))
        over = node.inputs[0].type
        return (compute(b, each, node.inputs, over, SCALAR, mean=True, name=node.name),)

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        over = node.inputs[0].type
        each = self.each(operand(0), operand(1)) / (cast(BATCH) * float(over.size))
        return map_gradient(b, each, node.inputs, over, dy[0], needs)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        x, t = inputs
        each = evaluate(self.each(operand(0), operand(1)), {"x0": x, "x1": t})
        return np.asarray(np.mean(each), x.dtype)


@dataclass(frozen=True)
class MeanSquaredError(_Pointwise):
    """(x − t)²."""

    kind: ClassVar[str] = "mean_squared_error"

    def each(self, x: Expr, t: Expr) -> Expr:
        return (x - t) * (x - t)


@dataclass(frozen=True)
class MeanAbsoluteError(_Pointwise):
    """|x − t|; its derivative at 0 is 0."""

    kind: ClassVar[str] = "mean_absolute_error"

    def each(self, x: Expr, t: Expr) -> Expr:
        return absolute(x - t)


@dataclass(frozen=True)
class Hinge(_Pointwise):
    """max(0, 1 − t·x) for targets −1 and 1. (Cortes and Vapnik 1995)"""

    kind: ClassVar[str] = "hinge"

    def each(self, x: Expr, t: Expr) -> Expr:
        return maximum(1.0 - t * x, 0.0)


@dataclass(frozen=True)
class BinaryCrossEntropy(_Pointwise):
    """−t·log σ(x) − (1 − t)·log(1 − σ(x)) for logits x, stable for large x."""

    kind: ClassVar[str] = "binary_cross_entropy"

    def each(self, x: Expr, t: Expr) -> Expr:
        return maximum(x, 0.0) - x * t + log1p(exp(-absolute(x)))


@dataclass(frozen=True)
class _ByClass(Loss):
    """A loss of scores per class (the channels) against class numbers, one per position.

    The mean is weighted by the targets' class weights, where there are any. With label smoothing
    s, the target is 1 − s of the class and s/K of every one of the K classes.
    """

    class_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0

    def target(self, prediction: TensorType) -> TensorType:
        if self.class_weights and len(self.class_weights) != prediction.channels:
            raise Problem(
                "E502",
                f"`{self.kind}` has {len(self.class_weights)} class weights, "
                f"the prediction {prediction} has {prediction.channels} classes",
            )
        return TensorType(prediction.spatial, "int64")

    def flops(self, *x: TensorType) -> int:
        return 7 * x[0].size + 4

    @property
    def shares_sum_to_one(self) -> bool:
        """Whether the shares of all classes are known to be 1 together."""
        return not self.class_weights

    def logarithm(self, b: Builder, x: Value) -> tuple[list[Value], Expr]:
        """An element's log-probability: the values it needs as x1, x2, …, and its expression."""
        raise NotImplementedError

    def _shares(self, b: Builder, x: Value, target: Value) -> Value:
        """How much of the target every class is, times its weight."""
        hit = select(equal(coordinate(0), Symbol("x0", "int64")), 1.0, 0.0)
        smooth = self.label_smoothing
        share: Expr = hit * (1 - smooth) + smooth / x.type.channels if smooth else hit
        given = [self._where(b, x, target)]
        if self.class_weights:
            share = share * operand(1)
            given.append(self._weights(b, x))
        return compute(b, share, given, x.type)

    def _where(self, b: Builder, x: Value, target: Value) -> Value:
        rows = per_row(x.type)
        return b.add(Reshape(TensorType(rows.shape, "int64")), target) if rows.shape else target

    def _weights(self, b: Builder, x: Value) -> Value:
        table = TensorType((x.type.channels,), batched=False)
        return b.add(Constant(self.class_weights, table))

    def _total_weight(self, b: Builder, x: Value, target: Value) -> Value:
        hit = select(equal(coordinate(0), Symbol("x0", "int64")), operand(1), 0.0)
        return compute(b, hit, [self._where(b, x, target), self._weights(b, x)], x.type, SCALAR)

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...]:
        x, target = node.inputs
        needed, score = self.logarithm(b, x)
        share = operand(len(needed) + 1)
        given = [x, *needed, self._shares(b, x, target)]
        rows = compute(b, -(share * score), given, x.type, per_row(x.type))
        if not self.class_weights:
            return (compute(b, operand(0), [rows], rows.type, SCALAR, mean=True, name=node.name),)
        total = compute(b, operand(0), [rows], rows.type, SCALAR)
        weight = self._total_weight(b, x, target)
        mean = operand(0) / operand(1)
        return (compute(b, mean, [total, weight], SCALAR, name=node.name),)

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        x, target = node.inputs
        shares = self._shares(b, x, target)
        given, each = self.slope(b, x, shares)
        if self.class_weights:
            count: Expr = operand(len(given))
            given = [*given, self._total_weight(b, x, target)]
        else:
            count = cast(BATCH) * float(math.prod(x.type.spatial))
        scaled = each * operand(len(given)) / count
        return [compute(b, scaled, [*given, single(dy)], x.type), None]

    def slope(self, b: Builder, x: Value, shares: Value) -> tuple[list[Value], Expr]:
        """Values and an expression of them: the derivative of the summed loss by x."""
        raise NotImplementedError

    def log_probabilities(self, x: np.ndarray) -> np.ndarray:
        """The scores of the reference."""
        raise NotImplementedError

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        x, target = inputs
        scores, classes = self.log_probabilities(x), x.shape[1]
        weights = np.array(self.class_weights or (1.0,) * classes, x.dtype)
        onehot = np.moveaxis(np.eye(classes, dtype=x.dtype)[target], -1, 1)
        along = (1, -1, *(1,) * (x.ndim - 2))
        shares = onehot * (1 - self.label_smoothing) + self.label_smoothing / classes
        total = -(shares * weights.reshape(along) * scores).sum()
        return np.asarray(total / weights[target].sum(), x.dtype)


@dataclass(frozen=True)
class CrossEntropy(_ByClass):
    """The mean of log Σ exp(x) − x[target] for logits x.

    Stable for logits of any size: the largest is subtracted before exponentials are taken.
    """

    kind: ClassVar[str] = "cross_entropy"

    def logarithm(self, b: Builder, x: Value) -> tuple[list[Value], Expr]:
        return list(exponentials(b, x)), operand(0) - operand(1) - log(operand(2))

    def slope(self, b: Builder, x: Value, shares: Value) -> tuple[list[Value], Expr]:
        probability = exp(operand(0) - operand(1)) / operand(2)
        given = [x, *exponentials(b, x), shares]
        if self.shares_sum_to_one:
            return given, probability - operand(3)
        row = compute(b, operand(0), [shares], x.type, per_row(x.type))
        return [*given, row], probability * operand(4) - operand(3)

    def log_probabilities(self, x: np.ndarray) -> np.ndarray:
        import numpy as np

        apart = x - x.max(axis=1, keepdims=True)
        return np.asarray(apart - np.log(np.exp(apart).sum(axis=1, keepdims=True)))


@dataclass(frozen=True)
class SoftCrossEntropy(CrossEntropy):
    """The mean of −Σ t·log softmax(x) for logits x and a target t of shares of all classes.

    The loss of images that are mixed (Zhang et al. 2018), whose target is several classes in part.
    It has no class weights.
    """

    kind: ClassVar[str] = "soft_cross_entropy"

    def target(self, prediction: TensorType) -> TensorType:
        if self.class_weights:
            raise Problem("E502", f"`{self.kind}` has no class weights")
        return prediction

    @property
    def shares_sum_to_one(self) -> bool:
        return False  # whoever makes the target decides

    def _shares(self, b: Builder, x: Value, target: Value) -> Value:
        smooth = self.label_smoothing
        if not smooth:
            return target
        return compute(b, operand(0) * (1 - smooth) + smooth / x.type.channels, [target], x.type)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        x, target = inputs
        shares = target * (1 - self.label_smoothing) + self.label_smoothing / x.shape[1]
        each = -(shares * self.log_probabilities(x)).sum(axis=1)
        return np.asarray(each.mean(), x.dtype)


@dataclass(frozen=True)
class NegativeLogLikelihood(_ByClass):
    """The mean of −x[target] for log-probabilities x."""

    kind: ClassVar[str] = "negative_log_likelihood"

    def logarithm(self, b: Builder, x: Value) -> tuple[list[Value], Expr]:
        return [], operand(0)

    def slope(self, b: Builder, x: Value, shares: Value) -> tuple[list[Value], Expr]:
        return [shares], -operand(0)

    def log_probabilities(self, x: np.ndarray) -> np.ndarray:
        return x


LOSSES: dict[str, type[Loss]] = {
    loss.kind: loss
    for loss in (
        CrossEntropy,
        SoftCrossEntropy,
        NegativeLogLikelihood,
        MeanSquaredError,
        MeanAbsoluteError,
        Hinge,
        BinaryCrossEntropy,
    )
}
"""The losses that a program can be trained with, by name."""
