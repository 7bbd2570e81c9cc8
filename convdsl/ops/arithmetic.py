"""Arithmetic between values: sums of residual branches, gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, ClassVar

from convdsl.graph import Builder, Node, TensorType, Value
from convdsl.graph.types import Shape
from convdsl.ops.base import Caption, Mistake, Op, Problem, Sample, op
from convdsl.ops.expressions import Expr, evaluate, operations
from convdsl.ops.families import Family, Map, align, operand
from convdsl.ops.primitive import map_gradient

if TYPE_CHECKING:
    import numpy as np


class _Arithmetic(Op):
    """An expression of several values, the smaller ones repeated along axes they lack or have 1."""

    category: ClassVar[str] = "merge"
    arity: ClassVar[int | None] = None
    symbol: ClassVar[str]
    """The sign between its inputs."""

    def caption(self, *x: TensorType) -> Caption:
        return Caption(self.kind, symbol=self.symbol)

    def combine(self, x: Expr, y: Expr) -> Expr:
        """The value for two elements."""
        raise NotImplementedError

    def _expression(self, count: int) -> Expr:
        terms: list[Expr] = [operand(k) for k in range(count)]
        return reduce(self.combine, terms)

    def result(self, *x: TensorType) -> TensorType:
        if len(x) < 2:
            raise Problem("E206", f"`{self.kind}` takes at least two values")
        widest = max(x, key=lambda t: (len(t.shape), t.size))
        for other in x:
            if not _fits(other, widest):
                raise Problem(
                    "E205",
                    f"`{self.kind}` cannot combine {x[0]} and "
                    f"{next(t for t in x[1:] if not (_fits(t, x[0]) or _fits(x[0], t)))}",
                    *_repair(other, widest),
                )
        return widest

    def flops(self, *x: TensorType) -> int:
        return operations(self._expression(len(x))) * self.result(*x).size

    def pointwise(self, *inputs: TensorType) -> Expr:
        return self._expression(len(inputs))

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        shape = outputs[0]
        present = tuple(align(tuple(s[1:]), True, shape) for s in inputs)
        dtypes = ("float32",) * len(inputs)
        return Map(self._expression(len(inputs)), shape, present, dtypes)  # type: ignore[arg-type]

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        rank = max(x.ndim for x in inputs)
        full = [x.reshape(*x.shape, *(1,) * (rank - x.ndim)) for x in inputs]
        values = {f"x{k}": x for k, x in enumerate(full)}
        return np.asarray(evaluate(self._expression(len(inputs)), values))

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        expression = self._expression(len(node.inputs))
        return map_gradient(b, expression, node.inputs, node.output.type, dy[0], needs)


def _fits(small: TensorType, large: TensorType) -> bool:
    """Whether a value can be repeated to the other's shape; axes are aligned from the channels."""
    if len(small.shape) > len(large.shape):
        return False
    return all(s in (1, n) for s, n in zip(small.shape, large.shape, strict=False))


def _repair(small: TensorType, large: TensorType) -> tuple[str, ...]:
    if small.rank != large.rank:
        return ()
    if small.spatial == large.spatial:
        return (f"`conv {large.channels}@{_ones(small)}` makes {small} into {large}",)
    steps = {n // s for s, n in zip(small.spatial, large.spatial, strict=True) if n % s == 0}
    if len(steps) == 1:
        (step,) = steps
        return (f"`conv {small.channels}@{_ones(small)} /{step}` makes {large} into {small}",)
    return ()


def _ones(x: TensorType) -> str:
    """The smallest window over a value."""
    return "x".join("1" * x.rank) or "1"


@op("add")
@dataclass(frozen=True)
class Add(_Arithmetic):
    """The sum of values, also written `a + b`: the join of a residual block. (He et al. 2016)"""

    symbol: ClassVar[str] = "+"
    samples: ClassVar[Sequence[Sample]] = (
        Sample("add(in, in)", "3@4x5"),
        Sample("add(in, (in -> avg global))", "3@4x5"),
        Sample("add(in, in, in)", "7"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("add(in, (in -> conv 4@1x1))", "3@4x5", "E205"),
        Mistake("add", "3@4x5", "E206"),
    )

    def combine(self, x: Expr, y: Expr) -> Expr:
        return x + y


@op("sub")
@dataclass(frozen=True)
class Sub(_Arithmetic):
    """The difference of values, also written `a - b`."""

    symbol: ClassVar[str] = "−"
    samples: ClassVar[Sequence[Sample]] = (Sample("sub((in -> relu), in)", "3@4x5"),)
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("sub(in, (in -> max 2))", "3@4x4", "E205"),)

    def combine(self, x: Expr, y: Expr) -> Expr:
        return x - y


@op("mul")
@dataclass(frozen=True)
class Mul(_Arithmetic):
    """The product of values, also written `a * b`: a gate. (Hu et al. 2018)"""

    symbol: ClassVar[str] = "×"
    samples: ClassVar[Sequence[Sample]] = (
        Sample("mul(in, in)", "3@4x5"),
        Sample("mul(in, (in -> avg global -> flatten))", "3@4x5"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("mul(in, (in -> dense 5))", "3@4x5", "E205"),)

    def combine(self, x: Expr, y: Expr) -> Expr:
        return x * y
