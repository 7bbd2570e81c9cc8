"""Dense layers and the views that lead to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from convdsl.graph import Builder, Initialiser, Node, TensorType, Value
from convdsl.graph.types import Shape
from convdsl.ops.attributes import Count, Flag, attribute
from convdsl.ops.base import Caption, Mistake, Op, Sample, Weight, Window, op, single
from convdsl.ops.families import Family, Product, operand
from convdsl.ops.initialisers import Initialised
from convdsl.ops.primitive import MatMul, Reshape, compute

if TYPE_CHECKING:
    import numpy as np


@op("dense")
@dataclass(frozen=True)
class Dense(Initialised):
    """A fully connected layer: y[n, o] = b[o] + Σ_i x[n, i] · w[o, i].

    A feature map is flattened first, in the order channels, height, width. How the weights start
    is `init`'s to say, as for `conv`.
    Weights: `weight` (units × inputs), `bias` (units).
    """

    category: ClassVar[str] = "dense"
    samples: ClassVar[Sequence[Sample]] = (
        Sample("dense 10", "16"),
        Sample("dense 3 bias=off", "2@4x5"),
        Sample("dense 4", "2@3x2x2"),
        Sample("dense 4 init=normal spread=0.1 bias_fill=1", "7"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("dense", "16", "E104"),
        Mistake("dense 0", "16", "E201"),
        Mistake("dense 10@3x3", "16", "E106"),
        Mistake("dense 10 init=kaiming", "16", "E201"),
    )

    takes_epilogue: ClassVar[bool] = True

    units: int = attribute(Count(), "the number of units", notation="value")
    bias: bool = attribute(Flag(), "whether a bias is added", default=True)

    def weights(self, *x: TensorType) -> tuple[Weight, ...]:
        inputs = x[0].size
        return self.initialised((self.units, inputs), self.units, inputs, self.units, self.bias)

    def result(self, *x: TensorType) -> TensorType:
        return TensorType((self.units,))

    def macs(self, *x: TensorType) -> int:
        return x[0].size * self.units

    def flops(self, *x: TensorType) -> int:
        return 2 * self.macs(*x) + (self.units if self.bias else 0)

    def caption(self, *x: TensorType) -> Caption:
        return Caption("fc", filters=self.units)

    def sees(self, *x: TensorType) -> Window:
        return Window(whole=True)

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        x = inputs[0]
        return Product(x[0], self.units, math.prod(x[1:]), transpose_b=True, bias=self.bias)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        x, w = inputs[:2]
        y = x.reshape(x.shape[0], -1) @ w.T
        return np.asarray(y + inputs[2] if self.bias else y)

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        x, w = node.inputs[:2]
        upstream = single(dy)
        dx = b.add(MatMul(x.type), upstream, w) if needs[0] else None
        dw = b.add(MatMul(w.type, transpose_a=True), upstream, x) if needs[1] else None
        if not self.bias:
            return dx, dw
        db = None
        if needs[2]:
            db = compute(b, operand(0), [upstream], upstream.type, node.inputs[2].type)
        return dx, dw, db


@op("flatten")
@dataclass(frozen=True)
class Flatten(Op):
    """The feature map as one vector, in the order channels, height, width."""

    category: ClassVar[str] = "shape"
    alias: ClassVar[bool] = True
    samples: ClassVar[Sequence[Sample]] = (
        Sample("flatten", "3@4x5"),
        Sample("flatten", "7"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("flatten 3", "3@4x5", "E106"),)

    def result(self, *x: TensorType) -> TensorType:
        return TensorType((x[0].size,))

    def flops(self, *x: TensorType) -> int:
        return 0

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        return inputs[0].reshape(inputs[0].shape[0], -1)

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        return [b.add(Reshape(node.inputs[0].type), single(dy))]


@op("rbf")
@dataclass(frozen=True)
class Rbf(Op):
    """LeNet-5's output: y[n, o] = Σ_i (x[n, i] − c[o, i])², the distances to fixed centres.

    The centres are a buffer and not learned: they start at ±1 at random and are set like any
    buffer.
    Buffers: `centre` (units × inputs). (LeCun et al. 1998, section II.B)
    """

    category: ClassVar[str] = "dense"
    samples: ClassVar[Sequence[Sample]] = (Sample("rbf 3", "7"), Sample("rbf 4", "2@2x3"))
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("rbf", "7", "E104"),
        Mistake("rbf 0", "7", "E201"),
    )

    units: int = attribute(Count(), "the number of units", notation="value")

    def weights(self, *x: TensorType) -> tuple[Weight, ...]:
        return (Weight("centre", (self.units, x[0].size), Initialiser("signs"), "buffer"),)

    def result(self, *x: TensorType) -> TensorType:
        return TensorType((self.units,))

    def flops(self, *x: TensorType) -> int:
        return 3 * x[0].size * self.units

    def sees(self, *x: TensorType) -> Window:
        return Window(whole=True)

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...]:
        x, centre = node.inputs
        row = b.add(Reshape(TensorType((1, x.type.size))), x)
        apart = operand(0) - operand(1)
        over = TensorType((self.units, x.type.size))
        return (compute(b, apart * apart, [row, centre], over, node.output.type, name=node.name),)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        x, centre = inputs
        apart = x.reshape(x.shape[0], 1, -1) - centre
        return np.asarray((apart**2).sum(axis=-1))
