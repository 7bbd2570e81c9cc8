"""How weights start: the schemes that a program can name."""

from __future__ import annotations

import math
from dataclasses import dataclass

from convdsl.graph import Initialiser
from convdsl.graph.types import Shape
from convdsl.ops.attributes import Choice, Real, Word, attribute
from convdsl.ops.base import Op, Weight

SCHEMES = (
    "fan_in",
    "zeros",
    "constant",
    "uniform",
    "normal",
    "glorot",
    "he",
    "lecun",
    "orthogonal",
)


@dataclass(frozen=True)
class Initialised(Op):
    """An op with a weight and perhaps a bias, whose first values a program can choose.

    `init`: `fan_in`, the default and PyTorch's, uniform on ±1/√fan_in for weight and bias;
    `uniform` on ±`spread`; `normal` with the standard deviation `spread`; `constant` the value
    `spread`; `glorot` uniform on ±√(6/(fan_in + fan_out)) (Glorot and Bengio 2010); `he` normal
    with √(2/fan_in) (He et al. 2015); `lecun` uniform on ±2.4/fan_in (LeCun et al. 1998);
    `orthogonal` rows or columns (Saxe et al. 2014). With any but `fan_in` the bias starts at
    `bias_fill`.
    """

    init: str = attribute(
        Choice("a scheme", SCHEMES), "how the weight starts", default=Word("fan_in")
    )
    spread: float = attribute(Real(low=0), "the scheme's amount", default=0.01)
    bias_fill: float = attribute(Real(), "what the bias starts at", default=0.0)

    def initialised(
        self, shape: Shape, filters: int, fan_in: int, fan_out: int, bias: bool
    ) -> tuple[Weight, ...]:
        """The weight of that shape and, where wanted, the bias of the filters."""
        weight = Weight("weight", shape, self._weight(fan_in, fan_out))
        if not bias:
            return (weight,)
        start = Initialiser("constant", self.bias_fill)
        if self.init == "fan_in":
            start = weight.initialiser
        return weight, Weight("bias", (filters,), start)

    def _weight(self, fan_in: int, fan_out: int) -> Initialiser:
        fan_in, fan_out = max(fan_in, 1), max(fan_out, 1)
        match self.init:
            case "zeros":
                return Initialiser("zeros")
            case "constant":
                return Initialiser("constant", self.spread)
            case "uniform":
                return Initialiser("uniform", self.spread)
            case "normal":
                return Initialiser("normal", self.spread)
            case "glorot":
                return Initialiser("uniform", math.sqrt(6 / (fan_in + fan_out)))
            case "he":
                return Initialiser("normal", math.sqrt(2 / fan_in))
            case "lecun":
                return Initialiser("uniform", 2.4 / fan_in)
            case "orthogonal":
                return Initialiser("orthogonal")
        return Initialiser("uniform", 1 / math.sqrt(fan_in))
