"""Activations: each one scalar expression, from which kernels and derivatives follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from convdsl.graph import Builder, Initialiser, Node, TensorType, Value
from convdsl.graph.types import Shape
from convdsl.ops.attributes import Real, attribute
from convdsl.ops.base import Mistake, Op, Sample, Weight, op, single
from convdsl.ops.expressions import (
    Expr,
    absolute,
    both,
    erf,
    evaluate,
    exp,
    expm1,
    less,
    log1p,
    logistic,
    maximum,
    minimum,
    operations,
    select,
    tanh,
)
from convdsl.ops.families import Family, Map, operand
from convdsl.ops.primitive import compute, map_gradient

if TYPE_CHECKING:
    import numpy as np


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


class Activation(Op):
    """An op that is one expression of one input."""

    category: ClassVar[str] = "activation"
    samples: ClassVar[Sequence[Sample]]

    def expression(self, x: Expr) -> Expr:
        """The value for an element."""
        raise NotImplementedError

    def slope_at(self, y: Expr) -> Expr | None:
        """The derivative where the value is y, if that tells it.

        Then the input need not be kept, and the op can be joined with what computes it.
        """
        return None

    def result(self, *x: TensorType) -> TensorType:
        return x[0]

    def flops(self, *x: TensorType) -> int:
        return operations(self.expression(operand(0))) * x[0].size

    def pointwise(self, *inputs: TensorType) -> Expr:
        return self.expression(operand(0))

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        shape = outputs[0]
        full = tuple(size != 1 for size in shape)
        return Map(self.expression(operand(0)), shape, (full,), ("float32",))

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        (x,) = inputs
        value = np.asarray(evaluate(self.expression(operand(0)), {"x0": x}))
        return value.astype(x.dtype)

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        slope = self.slope_at(operand(0))
        if slope is None:
            expression = self.expression(operand(0))
            return map_gradient(b, expression, node.inputs, node.output.type, dy[0], needs)
        y = node.output
        return [compute(b, slope * operand(1), [y, single(dy)], y.type)]


def _samples(kind: str) -> tuple[Sample, ...]:
    return Sample(kind, "3@4x5"), Sample(kind, "7")


@op("relu")
@dataclass(frozen=True)
class Relu(Activation):
    """Rectified linear unit: max(x, 0). Its derivative at 0 is 0. (Nair and Hinton 2010)"""

    samples = _samples("relu")
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("relu alpha=1", "7", "E103"),)

    def expression(self, x: Expr) -> Expr:
        return maximum(x, 0.0)

    def slope_at(self, y: Expr) -> Expr:
        return select(less(0.0, y), 1.0, 0.0)


@op("leaky_relu")
@dataclass(frozen=True)
class LeakyRelu(Activation):
    """Leaky rectifier: x where x > 0, else slope·x. (Maas, Hannun, Ng 2013)"""

    samples = (*_samples("leaky_relu"), Sample("leaky_relu 0.2", "7"))
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake('leaky_relu "a"', "7", "E201"),)

    slope: float = attribute(Real(), "the slope below zero", notation="value", default=0.01)

    def expression(self, x: Expr) -> Expr:
        return select(less(0.0, x), x, x * self.slope)


@op("sigmoid")
@dataclass(frozen=True)
class Sigmoid(Activation):
    """Logistic function: 1 / (1 + exp(−x))."""

    samples = _samples("sigmoid")
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("sigmoid 2", "7", "E106"),)

    def expression(self, x: Expr) -> Expr:
        return logistic(x)

    def slope_at(self, y: Expr) -> Expr:
        return y * (1.0 - y)


@op("tanh")
@dataclass(frozen=True)
class Tanh(Activation):
    """Hyperbolic tangent: (exp(x) − exp(−x)) / (exp(x) + exp(−x))."""

    samples = _samples("tanh")
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("tanh 2", "7", "E106"),)

    def expression(self, x: Expr) -> Expr:
        return tanh(x)

    def slope_at(self, y: Expr) -> Expr:
        return 1.0 - y * y


@op("relu6")
@dataclass(frozen=True)
class Relu6(Activation):
    """Rectifier with a ceiling: min(max(x, 0), 6). (Krizhevsky 2010)"""

    samples = _samples("relu6")
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("relu6 factor=2", "7", "E103"),)

    def expression(self, x: Expr) -> Expr:
        return minimum(maximum(x, 0.0), 6.0)

    def slope_at(self, y: Expr) -> Expr:
        return select(both(less(0.0, y), less(y, 6.0)), 1.0, 0.0)


@op("elu")
@dataclass(frozen=True)
class Elu(Activation):
    """Exponential linear unit: x where x > 0, else alpha·(exp(x) − 1). (Clevert et al. 2016)"""

    samples = _samples("elu")
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("elu factor=2", "7", "E103"),)

    alpha: float = attribute(Real(), "the limit below zero, negated", notation="value", default=1.0)

    def expression(self, x: Expr) -> Expr:
        return select(less(0.0, x), x, expm1(x) * self.alpha)


@op("selu")
@dataclass(frozen=True)
class Selu(Activation):
    """Scaled ELU, whose fixed point is mean 0 and variance 1. (Klambauer et al. 2017)"""

    samples = _samples("selu")
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("selu factor=2", "7", "E103"),)

    def expression(self, x: Expr) -> Expr:
        return select(less(0.0, x), x, expm1(x) * SELU_ALPHA) * SELU_SCALE


@op("gelu")
@dataclass(frozen=True)
class Gelu(Activation):
    """Gaussian error linear unit: x·Φ(x), by the error function. (Hendrycks, Gimpel 2016)"""

    samples = _samples("gelu")
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("gelu factor=2", "7", "E103"),)

    def expression(self, x: Expr) -> Expr:
        return x * 0.5 * (erf(x * (1 / math.sqrt(2))) + 1.0)


@op("silu")
@dataclass(frozen=True)
class Silu(Activation):
    """Sigmoid-weighted linear unit, or swish: x·σ(x). (Elfwing et al. 2018)"""

    samples = _samples("silu")
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("silu factor=2", "7", "E103"),)

    def expression(self, x: Expr) -> Expr:
        return x * logistic(x)


@op("softplus")
@dataclass(frozen=True)
class Softplus(Activation):
    """log(1 + exp(x)), computed so that no exponential overflows."""

    samples = _samples("softplus")
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("softplus factor=2", "7", "E103"),)

    def expression(self, x: Expr) -> Expr:
        return maximum(x, 0.0) + log1p(exp(-absolute(x)))


@op("mish")
@dataclass(frozen=True)
class Mish(Activation):
    """x·tanh(log(1 + exp(x))). (Misra 2020)"""

    samples = _samples("mish")
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("mish factor=2", "7", "E103"),)

    def expression(self, x: Expr) -> Expr:
        return x * tanh(maximum(x, 0.0) + log1p(exp(-absolute(x))))


@op("hard_sigmoid")
@dataclass(frozen=True)
class HardSigmoid(Activation):
    """A piecewise linear sigmoid: min(max(x + 3, 0), 6) / 6. (Howard et al. 2019)"""

    samples = _samples("hard_sigmoid")
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("hard_sigmoid factor=2", "7", "E103"),)

    def expression(self, x: Expr) -> Expr:
        return minimum(maximum(x + 3.0, 0.0), 6.0) * (1 / 6)


@op("hard_swish")
@dataclass(frozen=True)
class HardSwish(Activation):
    """x·min(max(x + 3, 0), 6) / 6. (Howard et al. 2019)"""

    samples = _samples("hard_swish")
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("hard_swish factor=2", "7", "E103"),)

    def expression(self, x: Expr) -> Expr:
        return x * minimum(maximum(x + 3.0, 0.0), 6.0) * (1 / 6)


@op("scaled_tanh")
@dataclass(frozen=True)
class ScaledTanh(Activation):
    """LeCun's scaled tanh: 1.7159·tanh(2x/3). (LeCun et al. 1998, appendix A)"""

    samples = _samples("scaled_tanh")
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("scaled_tanh factor=2", "7", "E103"),)

    def expression(self, x: Expr) -> Expr:
        return tanh(x * (2 / 3)) * 1.7159

    def slope_at(self, y: Expr) -> Expr:
        return (1.7159 - y * y / 1.7159) * (2 / 3)


@op("prelu")
@dataclass(frozen=True)
class Prelu(Op):
    """Parametric rectifier: x where x > 0, else slope·x, with a learned slope per channel.

    Weights: `slope` (channels), 0.25 at first. (He et al. 2015)
    """

    category: ClassVar[str] = "activation"
    samples: ClassVar[Sequence[Sample]] = _samples("prelu")
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("prelu 2", "7", "E106"),)

    def _expression(self) -> Expr:
        return select(less(0.0, operand(0)), operand(0), operand(0) * operand(1))

    def weights(self, *x: TensorType) -> tuple[Weight, ...]:
        return (Weight("slope", (x[0].channels,), Initialiser("constant", 0.25)),)

    def result(self, *x: TensorType) -> TensorType:
        return x[0]

    def flops(self, *x: TensorType) -> int:
        return operations(self._expression()) * x[0].size

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...]:
        return (compute(b, self._expression(), node.inputs, node.output.type, name=node.name),)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        x, slope = inputs
        return np.where(x > 0, x, x * slope.reshape(-1, *(1,) * (x.ndim - 2)))

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        type = node.output.type
        return map_gradient(b, self._expression(), node.inputs, type, dy[0], needs)
