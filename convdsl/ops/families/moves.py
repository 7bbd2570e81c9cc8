"""Moves of elements and sparse linear maps along an axis."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from convdsl.graph.types import Shape
from convdsl.ops.expressions import (
    Expr,
    Load,
    less,
    select,
)
from convdsl.ops.families.base import (
    Axis,
    Family,
    Nest,
    Runs,
    SizeNames,
    Storage,
    Table,
    flat,
    integer,
    symbol,
)


@dataclass(frozen=True)
class Along(Family):
    """A sparse linear map along one axis of outer×size×inner.

    y[a, o, b] = Σ_t weight[o, t] · x[a, source[o, t], b] with as many terms for every o; a term
    that is not needed has weight 0. Slices, padding, resampling, banded sums and permutations of
    channels are all of this form, and so are their gradients.
    """

    outer: int
    size: int
    inner: int
    source: tuple[tuple[int, ...], ...]
    weight: tuple[tuple[float, ...], ...]

    @property
    def taken(self) -> Runs | None:
        first = self.source[0][0]
        for row, (sources, weights) in enumerate(zip(self.source, self.weight, strict=True)):
            if sources != (first + row,) or weights != (1.0,):
                return None
        return Runs(self.outer, (first * self.inner,))

    @property
    def tables(self) -> tuple[Table, ...]:
        return (
            Table("int64", tuple(s for row in self.source for s in row)),
            Table("float32", tuple(w for row in self.weight for w in row)),
        )

    def nest(self) -> Nest:
        size = SizeNames()
        a, o, b, t = (symbol(name) for name in "aobt")
        outer, inner = size("A", self.outer), size("B", self.inner)
        size("O", len(self.source))
        extent, terms = size("I", self.size), size("T", len(self.source[0]))
        term = o * terms + t
        at = flat([a, Load("source", term, "int64"), b], [outer, extent, inner])
        return Nest(
            "along_axis",
            (("x", "float32"), ("source", "int64"), ("weight", "float32")),
            "float32",
            size.items,
            (Axis("a", "A"), Axis("o", "O"), Axis("b", "B")),
            Load("weight", term) * Load("x", at),
            (Axis("t", "T"),),
            "sum",
        )


@dataclass(frozen=True)
class Join(Family):
    """Arrays of outer×size×inner put one behind the other along their middle axis."""

    outer: int
    parts: tuple[int, ...]
    inner: int

    @property
    def joined(self) -> Runs | None:
        starts = accumulate(self.parts[:-1], initial=0)
        return Runs(self.outer, tuple(start * self.inner for start in starts))

    def nest(self) -> Nest:
        size = SizeNames()
        a, o, b = (symbol(name) for name in "aob")
        outer, inner = size("A", self.outer), size("B", self.inner)
        extents = size.row("P", self.parts)
        element: Expr | None = None
        start: Expr = integer(0)
        pieces = []
        for k, extent in enumerate(extents):
            at = flat([a, o - start, b], [outer, extent, inner])
            start = start + extent
            pieces.append((start, Load(f"x{k}", at)))
        for end, piece in reversed(pieces):
            element = piece if element is None else select(less(o, end), piece, element)
        assert element is not None
        size("O", sum(self.parts))
        return Nest(
            f"join_{len(self.parts)}",
            tuple((f"x{k}", "float32") for k in range(len(self.parts))),
            "float32",
            size.items,
            (Axis("a", "A"), Axis("o", "O"), Axis("b", "B")),
            element,
        )


@dataclass(frozen=True)
class Permute(Family):
    """The axes in another order: result axis k is input axis ``order[k]``."""

    shape: Shape
    order: tuple[int, ...]

    def nest(self) -> Nest:
        size = SizeNames()
        extents = size.row("n", self.shape)
        indices = [symbol(f"j{axis}") for axis in range(len(self.shape))]
        return Nest(
            f"permute_{len(self.shape)}d_" + "".join(map(str, self.order)),
            (("x", "float32"),),
            "float32",
            size.items,
            tuple(Axis(f"j{axis}", f"n{axis}") for axis in self.order),
            Load("x", flat(indices, extents)),
        )


@dataclass(frozen=True)
class Reblock(Family):
    """Feature maps N×channels×pixels into blocks of channels, N×⌈C/lanes⌉×pixels×lanes, or back.

    Lanes beyond the last channel become zero.
    """

    batch: int
    channels: int
    pixels: int
    lanes: int
    back: bool = False

    @property
    def storage(self) -> Storage:
        return "as read" if self.back else "narrow"

    def nest(self) -> Nest:
        size = SizeNames()
        n, p = symbol("n"), symbol("p")
        count, channels, pixels = (
            size("N", self.batch),
            size("C", self.channels),
            size("P", self.pixels),
        )
        blocks, lanes = size("B", -(-self.channels // self.lanes)), size("L", self.lanes)
        batch_axis, pixel_axis = Axis("n", "N"), Axis("p", "P")
        if self.back:
            c = symbol("c")
            at = flat([n, c // lanes, p, c % lanes], [count, blocks, pixels, lanes])
            axes: tuple[Axis, ...] = (batch_axis, Axis("c", "C"), pixel_axis)
            element: Expr = Load("x", at)
        else:
            channel = symbol("b") * lanes + symbol("l")
            at = flat([n, channel, p], [count, channels, pixels])
            axes = (batch_axis, Axis("b", "B"), pixel_axis, Axis("l", "L"))
            element = select(less(channel, channels), Load("x", at), 0.0)
        return Nest(
            "from_blocks" if self.back else "to_blocks",
            (("x", "float32"),),
            "float32",
            size.items,
            axes,
            element,
        )


@dataclass(frozen=True)
class Fill(Family):
    """A constant array."""

    table: Table

    @property
    def tables(self) -> tuple[Table, ...]:
        return (self.table,)

    def nest(self) -> Nest:
        size = SizeNames()
        size("n", len(self.table.values))
        return Nest(
            "fill",
            (("values", self.table.dtype),),
            self.table.dtype,
            size.items,
            (Axis("j", "n"),),
            Load("values", symbol("j"), self.table.dtype),
        )
