"""Regularisation by leaving out units, channels or branches at random."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from convdsl.graph import Builder, Node, TensorType, Value
from convdsl.ops.attributes import Real, attribute
from convdsl.ops.base import Mistake, Op, Sample, op
from convdsl.ops.expressions import Number, Symbol, less, random, select
from convdsl.ops.families import FLAT, operand
from convdsl.ops.primitive import compute

if TYPE_CHECKING:
    import numpy as np


RATE = Real(low=0, high=1, open_high=True)


@op("dropout")
@dataclass(frozen=True)
class Dropout(Op):
    """In training, each element is zero with probability `rate`, the rest divided by 1 − rate.

    In inference it is the identity. The mask is a function of the program's seed, the step and the
    element's position, so that a step can be repeated. (Srivastava et al. 2014)
    """

    category: ClassVar[str] = "regularisation"
    samples: ClassVar[Sequence[Sample]] = (Sample("dropout", "12"), Sample("dropout 0.25", "2@4x4"))
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("dropout 1", "12", "E201"),
        Mistake("dropout -0.5", "12", "E201"),
    )

    rate: float = attribute(RATE, "the probability of leaving out", notation="value", default=0.5)

    def result(self, *x: TensorType) -> TensorType:
        return x[0]

    def flops(self, *x: TensorType) -> int:
        return 0

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        return inputs[0]

    def specialise(self, b: Builder, node: Node, training: bool) -> tuple[Value, ...] | None:
        x = node.inputs[0]
        if not training or self.rate == 0:
            return (x,)
        return (_masked(b, node, x.type, self.rate),)


def _masked(b: Builder, node: Node, mask: TensorType, rate: float) -> Value:
    """The input with a mask of the given type, whose zeros are repeated along missing axes."""
    x = node.inputs[0]
    # Every layer draws its own numbers: the key is moved by the layer's name.
    own = Symbol("x0", "int64") + Number(zlib.crc32(node.name.encode()) >> 1, "int64")
    keep = select(less(random(own, FLAT), 1.0 - rate), 1.0 / (1.0 - rate), 0.0)
    drawn = compute(b, keep, [random_key(b)], mask)
    return compute(b, operand(0) * operand(1), [x, drawn], x.type, name=node.name)


@op("spatial_dropout")
@dataclass(frozen=True)
class SpatialDropout(Op):
    """Dropout of whole channels: in training each is zero with probability `rate`.

    The rest is divided by 1 − rate; in inference it is the identity. (Tompson et al. 2015)
    """

    category: ClassVar[str] = "regularisation"
    samples: ClassVar[Sequence[Sample]] = (
        Sample("spatial_dropout", "6@2x3"),
        Sample("spatial_dropout 0.2", "6"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("spatial_dropout 1", "6@2x3", "E201"),)

    rate: float = attribute(RATE, "the probability of leaving out", notation="value", default=0.5)

    def result(self, *x: TensorType) -> TensorType:
        return x[0]

    def flops(self, *x: TensorType) -> int:
        return 0

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        return inputs[0]

    def specialise(self, b: Builder, node: Node, training: bool) -> tuple[Value, ...] | None:
        x = node.inputs[0]
        if not training or self.rate == 0:
            return (x,)
        return (_masked(b, node, TensorType((x.type.channels,)), self.rate),)


@op("drop_path")
@dataclass(frozen=True)
class DropPath(Op):
    """Stochastic depth: in training an image's whole value is zero with probability `rate`.

    The rest is divided by 1 − rate; in inference it is the identity. (Huang et al. 2016)
    """

    category: ClassVar[str] = "regularisation"
    samples: ClassVar[Sequence[Sample]] = (
        Sample("drop_path 0.1", "6@2x3"),
        Sample("drop_path 0.5", "6"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("drop_path 1", "6@2x3", "E201"),
        Mistake("drop_path", "6@2x3", "E104"),
    )

    rate: float = attribute(RATE, "the probability of leaving out", notation="value")

    def result(self, *x: TensorType) -> TensorType:
        return x[0]

    def flops(self, *x: TensorType) -> int:
        return 0

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        return inputs[0]

    def specialise(self, b: Builder, node: Node, training: bool) -> tuple[Value, ...] | None:
        if not training or self.rate == 0:
            return (node.inputs[0],)
        return (_masked(b, node, TensorType(()), self.rate),)


def random_key(b: Builder) -> Value:
    """The state that random ops share: the key of this step."""
    for variable in b.variables:
        if variable.role == "state" and variable.name == "random_key":
            return variable
    return b.variable("random_key", TensorType((), "int64", batched=False), "state")
