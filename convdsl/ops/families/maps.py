"""Elementwise maps and reductions of scalar expressions over broadcast operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from convdsl.graph.types import Shape
from convdsl.ops.expressions import (
    Expr,
    Load,
    Scalar,
    Symbol,
    cast,
    substitute,
    symbols,
)
from convdsl.ops.families.base import (
    BATCH,
    FLAT,
    Axis,
    Family,
    Nest,
    Reducer,
    SizeNames,
    Storage,
    coordinate,
    flat,
    integer,
    operand,
    symbol,
)


@dataclass(frozen=True)
class Loops:
    """The axes of a broadcast, merged where every operand treats them alike."""

    sizes: tuple[int, ...]
    present: tuple[tuple[bool, ...], ...]
    """Per loop: which operands vary along it."""
    of_axis: tuple[tuple[int, int], ...]
    """(axis, loop) for the axes that were kept apart."""

    @staticmethod
    def merge(shape: Shape, present: Sequence[tuple[bool, ...]], apart: frozenset[int]) -> Loops:
        """Merge neighbouring axes, except those ``apart``, whose own index is needed."""
        sizes: list[int] = []
        columns: list[tuple[bool, ...]] = []
        alone: dict[int, int] = {}
        for axis, size in enumerate(shape):
            column = tuple(p[axis] for p in present)
            if axis in apart:
                alone[axis] = len(sizes)
            elif size == 1:
                continue
            elif columns and columns[-1] == column and len(sizes) - 1 not in alone.values():
                sizes[-1] *= size
                continue
            sizes.append(size)
            columns.append(column)
        return Loops(tuple(sizes), tuple(columns), tuple(alone.items()))


@dataclass(frozen=True)
class Map(Family):
    """Elementwise: ``expression`` of x0, x1, … at every element of ``shape`` (batch first).

    ``present`` says per operand along which axes of ``shape`` it varies.
    """

    expression: Expr
    shape: Shape
    present: tuple[tuple[bool, ...], ...]
    dtypes: tuple[Scalar, ...]
    result: Scalar = "float32"
    batch: int = 1
    """The number of images, which the shape of weights does not show."""

    @property
    def in_place(self) -> tuple[int, ...]:
        full = tuple(size != 1 for size in self.shape)
        return tuple(
            k
            for k, (p, d) in enumerate(zip(self.present, self.dtypes, strict=True))
            if p == full and d == self.result
        )

    def nest(self) -> Nest:
        return _broadcast_nest(
            "map",
            self.expression,
            self.shape,
            self.present,
            self.dtypes,
            self.result,
            batch=self.batch,
        )


@dataclass(frozen=True)
class Reduction(Family):
    """``expression`` of x0, x1, … over ``shape``, reduced along the axes that ``kept`` leaves out.

    The result is row-major over the kept axes. With ``mean`` it is divided by the number of
    elements reduced. Sums run in index order in float32.
    """

    expression: Expr
    reducer: Reducer
    shape: Shape
    present: tuple[tuple[bool, ...], ...]
    dtypes: tuple[Scalar, ...]
    kept: tuple[bool, ...]
    mean: bool = False

    @property
    def storage(self) -> Storage:
        return "exact"

    def nest(self) -> Nest:
        return _broadcast_nest(
            "mean" if self.mean else "maximum" if self.reducer == "maximum" else "sum",
            self.expression,
            self.shape,
            self.present,
            self.dtypes,
            "float32",
            self.kept,
            self.reducer,
            self.mean,
        )


def _broadcast_nest(
    name: str,
    expression: Expr,
    shape: Shape,
    present: tuple[tuple[bool, ...], ...],
    dtypes: tuple[Scalar, ...],
    result: Scalar,
    kept: tuple[bool, ...] | None = None,
    reducer: Reducer | None = None,
    mean: bool = False,
    batch: int | None = None,
) -> Nest:
    used = {s.name for s in symbols(expression)}
    apart = frozenset(a + 1 for a in range(len(shape) - 1) if f"i{a}" in used)
    kept = kept or (True,) * len(shape)
    merged = Loops.merge(shape, [kept, *present], apart)
    size = SizeNames()
    extents = size.row("n", merged.sizes)
    loops = [symbol(f"j{axis}") for axis in range(len(merged.sizes))]
    values: dict[Symbol, Expr] = {
        coordinate(axis - 1): loops[position] for axis, position in merged.of_axis
    }
    for k, dtype in enumerate(dtypes):
        own = [a for a in range(len(loops)) if merged.present[a][k + 1]]
        at = flat([loops[a] for a in own], [extents[a] for a in own])
        values[operand(k, dtype)] = Load(f"x{k}", at, dtype)
    if "batch" in used:
        values[BATCH] = size("batch", shape[0] if batch is None else batch)
    if "position" in used:
        values[FLAT] = flat(loops, extents)
    axes = tuple(Axis(f"j{a}", f"n{a}") for a in range(len(loops)) if merged.present[a][0])
    reduced = tuple(Axis(f"j{a}", f"n{a}") for a in range(len(loops)) if not merged.present[a][0])
    finish: Expr = Symbol("total")
    if mean:
        count: Expr = reduce(lambda a, b: a * b, [symbol(a.size) for a in reduced], integer(1))
        finish = finish / cast(count)
    return Nest(
        name,
        tuple((f"x{k}", d) for k, d in enumerate(dtypes)),
        result,
        size.items,
        axes,
        substitute(expression, values),
        reduced,
        reducer if reduced else None,
        finish if reduced else Symbol("total"),
    )
