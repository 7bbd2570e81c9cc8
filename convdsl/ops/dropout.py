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


@dataclass(frozen=True)
class _Masked(Op):
    """In training the input times a random mask of zeros and 1/(1 − rate); else the identity."""

    category: ClassVar[str] = "regularisation"

    rate: float = attribute(
        Real(low=0, high=1, open_high=True),
        "the probability of leaving out",
        notation="value",
        default=0.5,
    )

    def mask(self, x: TensorType) -> TensorType:
        """The type of the mask, which is repeated along the axes that it lacks."""
        raise NotImplementedError

    def result(self, *x: TensorType) -> TensorType:
        return x[0]

    def flops(self, *x: TensorType) -> int:
        return 0

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        return inputs[0]

    def specialise(
        self, b: Builder, node: Node, training: bool, processes: int
    ) -> tuple[Value, ...] | None:
        (x,) = node.inputs
        if not training or self.rate == 0:
            return (x,)
        # Every layer draws its own numbers: the key is moved by the layer's name.
        own = Symbol("x0", "int64") + Number(zlib.crc32(node.name.encode()) >> 1, "int64")
        keep = select(less(random(own, FLAT), 1.0 - self.rate), 1.0 / (1.0 - self.rate), 0.0)
        drawn = compute(b, keep, [_random_key(b)], self.mask(x.type))
        return (compute(b, operand(0) * operand(1), [x, drawn], x.type, name=node.name),)


def _random_key(b: Builder) -> Value:
    """The state that random ops share: the key of this step."""
    for variable in b.variables:
        if variable.role == "state" and variable.name == "random_key":
            return variable
    return b.variable("random_key", TensorType((), "int64", batched=False), "state")


@op("dropout")
@dataclass(frozen=True)
class Dropout(_Masked):
    """In training, each element is zero with probability `rate`, the rest divided by 1 − rate.

    In inference it is the identity. The mask is a function of the program's seed, the step, the
    layer's name and the element's position, so that a step can be repeated.
    (Srivastava et al. 2014)
    """

    samples: ClassVar[Sequence[Sample]] = (Sample("dropout", "12"), Sample("dropout 0.25", "2@4x4"))
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("dropout 1", "12", "E201"),
        Mistake("dropout -0.5", "12", "E201"),
    )

    def mask(self, x: TensorType) -> TensorType:
        return x


@op("spatial_dropout")
@dataclass(frozen=True)
class SpatialDropout(_Masked):
    """Dropout of whole channels: in training each is zero with probability `rate`.

    The rest is divided by 1 − rate; in inference it is the identity. (Tompson et al. 2015)
    """

    samples: ClassVar[Sequence[Sample]] = (
        Sample("spatial_dropout", "6@2x3"),
        Sample("spatial_dropout 0.2", "6"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("spatial_dropout 1", "6@2x3", "E201"),)

    def mask(self, x: TensorType) -> TensorType:
        return TensorType((x.channels,))


@op("drop_path")
@dataclass(frozen=True)
class DropPath(_Masked):
    """Stochastic depth: in training an image's whole value is zero with probability `rate`.

    The rest is divided by 1 − rate; in inference it is the identity. (Huang et al. 2016)
    """

    samples: ClassVar[Sequence[Sample]] = (
        Sample("drop_path 0.1", "6@2x3"),
        Sample("drop_path", "6"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("drop_path 1", "6@2x3", "E201"),)

    def mask(self, x: TensorType) -> TensorType:
        return TensorType(())
