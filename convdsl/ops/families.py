"""Kernel families: what a step computes, free of any target, with its meaning as a loop nest.

About ten families carry every op. A target may bring a fast generator for a family; the loop nest
(`Family.nest`) is the meaning of them all, and what any target can fall back on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

from convdsl.graph.types import Shape
from convdsl.ops.expressions import (
    Expr,
    Load,
    Number,
    Scalar,
    Symbol,
    apply,
    both,
    cast,
    equal,
    less,
    less_equal,
    select,
    substitute,
    symbols,
)

Reducer = Literal["sum", "maximum", "winner"]
"""``winner`` gives the ``tag`` of the first element that is the maximum (or NaN)."""


@dataclass(frozen=True)
class Axis:
    """A loop: its variable and the name of the size that bounds it."""

    index: str
    size: str


@dataclass(frozen=True)
class Nest:
    """One element of the result per point of ``axes``, row-major: the meaning of a kernel.

    ``element`` is reduced over the ``reduced`` axes, outermost first; ``finish`` turns the reduced
    value, called ``total``, into the result. Sizes are given at run time, so that layers share
    kernels; ``sizes`` holds their values in the order in which the kernel takes them.
    """

    name: str
    inputs: tuple[tuple[str, Scalar], ...]
    result: Scalar
    sizes: tuple[tuple[str, int], ...]
    axes: tuple[Axis, ...]
    element: Expr
    reduced: tuple[Axis, ...] = ()
    reducer: Reducer | None = None
    finish: Expr = Symbol("total")
    tag: Expr | None = None

    @property
    def extent(self) -> dict[str, int]:
        return dict(self.sizes)

    @property
    def points(self) -> int:
        """The number of elements of the result."""
        return math.prod(self.extent[a.size] for a in self.axes)


@dataclass(frozen=True)
class Table:
    """A constant array that a kernel reads."""

    dtype: Scalar
    values: tuple[float, ...]


class Family:
    """What a step computes on its operands; ``inputs`` in order, one result."""

    def nest(self) -> Nest:
        """The meaning as a loop nest."""
        raise NotImplementedError

    @property
    def in_place(self) -> tuple[int, ...]:
        """The inputs whose buffer the result may take over."""
        return ()

    @property
    def tables(self) -> tuple[Table, ...]:
        """Constant operands, which follow the inputs."""
        return ()


def flat(indices: Sequence[Expr], sizes: Sequence[Expr]) -> Expr:
    """The row-major position of an element."""
    return reduce(
        lambda position, pair: position * pair[1] + pair[0],
        zip(indices[1:], sizes[1:], strict=True),
        indices[0] if indices else _int(0),
    )


def _int(value: int) -> Expr:
    return Number(value, "int64")


def _index(name: str) -> Symbol:
    return Symbol(name, "int64")


class _Sizes:
    """Names sizes as a nest is built; one that is the same for a family by nature is a number."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def __call__(self, name: str, value: int) -> Symbol:
        assert self.values.setdefault(name, value) == value, name
        return _index(name)

    def row(self, name: str, values: Sequence[int]) -> list[Expr]:
        return [self(f"{name}{axis}", value) for axis, value in enumerate(values)]

    @property
    def items(self) -> tuple[tuple[str, int], ...]:
        return tuple(self.values.items())


@dataclass(frozen=True)
class Epilogue:
    """What a family's results go through: an expression of the result x0 and of operands x1, ….

    ``present`` says per operand along which axes of the result it varies. The operands follow the
    family's own.
    """

    expression: Expr
    present: tuple[tuple[bool, ...], ...]
    whole: tuple[bool, ...]
    """Per operand: whether it has an element for every one of the result."""

    def apply(self, total: Expr, axes: Sequence[Expr], sizes: Sequence[Expr]) -> Expr:
        """The stored value, from the family's and the indices of the result."""
        values: dict[Symbol, Expr] = {operand(0): total}
        for k, present in enumerate(self.present, 1):
            own = [a for a, here in enumerate(present) if here]
            at = flat([axes[a] for a in own], [sizes[a] for a in own])
            values[operand(k)] = Load(f"e{k}", at)
        return substitute(self.expression, values)

    @property
    def planar(self) -> bool:
        """Whether every operand varies along all spatial axes of the result or along none."""
        return all(len(set(present[2:])) < 2 for present in self.present)

    def flattened(self) -> Epilogue:
        """The same with the spatial axes of the result as one."""
        assert self.planar
        present = tuple((*p[:2], any(p[2:])) for p in self.present)
        return Epilogue(self.expression, present, self.whole)

    def full(self, first: int) -> tuple[int, ...]:
        """The places, counted from ``first``, of the operands that are as large as the result."""
        return tuple(k for k, whole in enumerate(self.whole, first) if whole)

    @property
    def operands(self) -> tuple[tuple[str, Scalar], ...]:
        return tuple((f"e{k}", "float32") for k in range(1, len(self.present) + 1))


# -- maps and reductions ---------------------------------------------------------------------


def operand(position: int, dtype: Scalar = "float32") -> Symbol:
    """The element of a map's input."""
    return Symbol(f"x{position}", dtype)


BATCH = Symbol("batch", "int64")
"""In a map or reduction: the number of images."""
FLAT = Symbol("position", "int64")
"""In a map: the row-major position of the element."""


def coordinate(axis: int) -> Symbol:
    """In a map or reduction: the index along an axis of the type (batch left out)."""
    return Symbol(f"i{axis}", "int64")


def align(shape: Shape, batched: bool, to: Shape) -> tuple[bool, ...]:
    """For every axis of ``to`` (batch first), whether an operand has it or is repeated along it.

    Operands are aligned from the left, after the batch: a vector of channels fits feature maps,
    a value per image fits vectors.
    """
    own = (to[0] if batched else 1, *shape)
    assert len(own) <= len(to), (shape, to)
    own = own + (1,) * (len(to) - len(own))
    for size, full in zip(own, to, strict=True):
        assert size in (1, full), (shape, to)
    return tuple(size == full and full != 1 for size, full in zip(own, to, strict=True))


@dataclass(frozen=True)
class _Loops:
    """The axes of a broadcast, merged where every operand treats them alike."""

    sizes: tuple[int, ...]
    present: tuple[tuple[bool, ...], ...]
    """Per loop: which operands vary along it."""
    of_axis: tuple[tuple[int, int], ...]
    """(axis, loop) for the axes that were kept apart."""

    @staticmethod
    def merge(shape: Shape, present: Sequence[tuple[bool, ...]], apart: frozenset[int]) -> _Loops:
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
        return _Loops(tuple(sizes), tuple(columns), tuple(alone.items()))


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
            "map", self.expression, self.shape, self.present, self.dtypes, self.result
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
) -> Nest:
    used = {s.name for s in symbols(expression)}
    apart = frozenset(a + 1 for a in range(len(shape) - 1) if f"i{a}" in used)
    kept = kept or (True,) * len(shape)
    merged = _Loops.merge(shape, [kept, *present], apart)
    size = _Sizes()
    extents = size.row("n", merged.sizes)
    loops = [_index(f"j{axis}") for axis in range(len(merged.sizes))]
    values: dict[Symbol, Expr] = {
        coordinate(axis - 1): loops[position] for axis, position in merged.of_axis
    }
    for k, dtype in enumerate(dtypes):
        own = [a for a in range(len(loops)) if merged.present[a][k + 1]]
        at = flat([loops[a] for a in own], [extents[a] for a in own])
        values[operand(k, dtype)] = Load(f"x{k}", at, dtype)
    if "batch" in used:
        values[BATCH] = size("batch", shape[0])
    if "position" in used:
        values[FLAT] = flat(loops, extents)
    axes = tuple(Axis(f"j{a}", f"n{a}") for a in range(len(loops)) if merged.present[a][0])
    reduced = tuple(Axis(f"j{a}", f"n{a}") for a in range(len(loops)) if not merged.present[a][0])
    finish: Expr = Symbol("total")
    if mean:
        count: Expr = reduce(lambda a, b: a * b, [_index(a.size) for a in reduced], _int(1))
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


# -- windows ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Geometry:
    """A window that slides over spatial axes."""

    input: Shape
    output: Shape
    window: Shape
    stride: Shape
    before: Shape
    dilation: Shape


class _Spatial:
    """The index arithmetic that all window families share."""

    def __init__(self, size: _Sizes, g: Geometry) -> None:
        self.rank = len(g.window)
        self.input = size.row("I", g.input)
        self.output = size.row("O", g.output)
        self.window = size.row("K", g.window)
        self.stride = size.row("S", g.stride)
        self.before = size.row("P", g.before)
        self.dilation = size.row("D", g.dilation)
        self.i = [_index(f"i{a}") for a in range(self.rank)]
        self.o = [_index(f"o{a}") for a in range(self.rank)]
        self.k = [_index(f"k{a}") for a in range(self.rank)]

    def axes(self, letter: str, extent: str) -> tuple[Axis, ...]:
        return tuple(Axis(f"{letter}{a}", f"{extent}{a}") for a in range(self.rank))

    def source(self) -> tuple[list[Expr], Expr]:
        """The input position under output o and window element k, and whether it is inside."""
        at = [
            self.o[a] * self.stride[a] + self.k[a] * self.dilation[a] - self.before[a]
            for a in range(self.rank)
        ]
        inside = [
            test
            for a in range(self.rank)
            for test in (less_equal(_int(0), at[a]), less(at[a], self.input[a]))
        ]
        return at, both(*inside)

    def target(self) -> tuple[list[Expr], Expr]:
        """The output position that sees input i by window element k, and whether there is one."""
        shifted = [
            self.i[a] + self.before[a] - self.k[a] * self.dilation[a] for a in range(self.rank)
        ]
        at = [shifted[a] // self.stride[a] for a in range(self.rank)]
        inside = [
            test
            for a in range(self.rank)
            for test in (
                less_equal(_int(0), shifted[a]),
                equal(shifted[a] % self.stride[a], _int(0)),
                less(at[a], self.output[a]),
            )
        ]
        return at, both(*inside)


@dataclass(frozen=True)
class Convolution(Family):
    """Cross-correlation of N×C×input with K×C/groups×window, in one of its three directions.

    ``forward``: x, w (, bias) → y; ``input``: dy, w → dx; ``weight``: x, dy → dw. Products are
    summed in float32 over channels, then window elements.
    """

    direction: Literal["forward", "input", "weight"]
    batch: int
    channels: int
    filters: int
    groups: int
    geometry: Geometry
    bias: bool = False
    epilogue: Epilogue | None = None

    @property
    def in_place(self) -> tuple[int, ...]:
        return self.epilogue.full(3 if self.bias else 2) if self.epilogue else ()

    def nest(self) -> Nest:
        size = _Sizes()
        n, c, f = _index("n"), _index("c"), _index("f")
        count = size("N", self.batch)
        per_group_in = size("C", self.channels // self.groups)
        per_group_out = size("F", self.filters // self.groups)
        s = _Spatial(size, self.geometry)
        all_in, all_out = size("CG", self.channels), size("FG", self.filters)

        def x(channel: Expr, at: Sequence[Expr]) -> Expr:
            return Load("x", flat([n, channel, *at], [count, all_in, *s.input]))

        def y(name: str, filter: Expr, at: Sequence[Expr]) -> Expr:
            return Load(name, flat([n, filter, *at], [count, all_out, *s.output]))

        def w(filter: Expr, channel: Expr) -> Expr:
            return Load("w", flat([filter, channel, *s.k], [all_out, per_group_in, *s.window]))

        name = f"convolution{s.rank}d_{self.direction}"
        batch_axis, filter_axis = Axis("n", "N"), Axis("f", "FG")
        if self.direction == "forward":
            at, inside = s.source()
            channel = (f // per_group_out) * per_group_in + c if self.groups > 1 else c
            operands: list[tuple[str, Scalar]] = [("x", "float32"), ("w", "float32")]
            total: Expr = Symbol("total")
            if self.bias:
                operands.append(("b", "float32"))
                total = total + Load("b", f)
            if self.epilogue:
                operands += self.epilogue.operands
                total = self.epilogue.apply(total, [n, f, *s.o], [count, all_out, *s.output])
            return Nest(
                name + ("_grouped" if self.groups > 1 else ""),
                tuple(operands),
                "float32",
                size.items,
                (batch_axis, filter_axis, *s.axes("o", "O")),
                select(inside, x(channel, at) * w(f, c), 0.0),
                (Axis("c", "C"), *s.axes("k", "K")),
                "sum",
                total,
            )
        if self.direction == "input":
            at, inside = s.target()
            # Here c runs over all channels and f over the filters of c's group.
            filter = (c // per_group_in) * per_group_out + f if self.groups > 1 else f
            own = c % per_group_in if self.groups > 1 else c
            return Nest(
                name + ("_grouped" if self.groups > 1 else ""),
                (("dy", "float32"), ("w", "float32")),
                "float32",
                size.items,
                (batch_axis, Axis("c", "CG"), *s.axes("i", "I")),
                select(inside, y("dy", filter, at) * w(filter, own), 0.0),
                (Axis("f", "F"), *s.axes("k", "K")),
                "sum",
            )
        at, inside = s.source()
        channel = (f // per_group_out) * per_group_in + c if self.groups > 1 else c
        return Nest(
            name + ("_grouped" if self.groups > 1 else ""),
            (("x", "float32"), ("dy", "float32")),
            "float32",
            size.items,
            (filter_axis, Axis("c", "C"), *s.axes("k", "K")),
            select(inside, x(channel, at) * y("dy", f, s.o), 0.0),
            (batch_axis, *s.axes("o", "O")),
            "sum",
        )


@dataclass(frozen=True)
class Pooling(Family):
    """The maximum or the mean of every window of planes×input, or the maximum's position.

    The padding is −∞ for the maximum; for the mean it counts as zeros when ``count_pad`` is set
    and is left out of the divisor otherwise. A NaN in a window makes its maximum NaN. The
    ``winner`` is the row-major position in the plane of the first element that is the maximum.
    """

    mode: Literal["maximum", "mean", "winner"]
    planes: int
    geometry: Geometry
    count_pad: bool = False
    after: Shape = ()

    def nest(self) -> Nest:
        size = _Sizes()
        p = _index("p")
        planes = size("planes", self.planes)
        s = _Spatial(size, self.geometry)
        at, inside = s.source()
        value = Load("x", flat([p, *at], [planes, *s.input]))
        finish: Expr = Symbol("total")
        if self.mode == "mean":
            finish = finish / cast(_divisor(size, s, self.count_pad, self.after, s.o))
        return Nest(
            f"{self.mode}_pool{s.rank}d" + ("_padded" if self.count_pad else ""),
            (("x", "float32"),),
            "int64" if self.mode == "winner" else "float32",
            size.items,
            (Axis("p", "planes"), *s.axes("o", "O")),
            select(inside, value, 0.0 if self.mode == "mean" else -math.inf),
            s.axes("k", "K"),
            "sum" if self.mode == "mean" else self.mode,
            finish,
            flat(at, s.input) if self.mode == "winner" else None,
        )


def _divisor(size: _Sizes, s: _Spatial, count_pad: bool, after: Shape, o: Sequence[Expr]) -> Expr:
    """How many elements the mean at output ``o`` divides by."""
    trailing = size.row("A", after) if count_pad else []
    count: Expr = _int(1)
    for a in range(s.rank):
        start = o[a] * s.stride[a] - s.before[a]
        low: Expr = _int(0) - s.before[a] if count_pad else _int(0)
        high: Expr = s.input[a] + trailing[a] if count_pad else s.input[a]
        end = start + s.window[a]
        count = count * (apply("minimum", end, high) - apply("maximum", start, low))
    return count


@dataclass(frozen=True)
class PoolingGradient(Family):
    """The gradient of a pooling by its input: winner, dy → dx (maximum) or dy → dx (mean)."""

    mode: Literal["maximum", "mean"]
    planes: int
    geometry: Geometry
    count_pad: bool = False
    after: Shape = ()

    def nest(self) -> Nest:
        size = _Sizes()
        p = _index("p")
        planes = size("planes", self.planes)
        s = _Spatial(size, self.geometry)
        at, inside = s.target()
        dy = Load("dy", flat([p, *at], [planes, *s.output]))
        if self.mode == "mean":
            divisor = cast(_divisor(size, s, self.count_pad, self.after, at))
            inputs: tuple[tuple[str, Scalar], ...] = (("dy", "float32"),)
            element = select(inside, dy / divisor, 0.0)
        else:
            winner = Load("winner", flat([p, *at], [planes, *s.output]), "int64")
            here = flat(s.i, s.input)
            inputs = (("winner", "int64"), ("dy", "float32"))
            element = select(both(inside, equal(winner, here)), dy, 0.0)
        return Nest(
            f"{self.mode}_pool{s.rank}d_gradient" + ("_padded" if self.count_pad else ""),
            inputs,
            "float32",
            size.items,
            (Axis("p", "planes"), *s.axes("i", "I")),
            element,
            s.axes("k", "K"),
            "sum",
        )


# -- products --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Product(Family):
    """A matrix product A·B (rows×inner by inner×columns), either factor stored transposed.

    With ``bias`` a third operand is added to every row.
    """

    rows: int
    columns: int
    inner: int
    transpose_a: bool = False
    transpose_b: bool = False
    bias: bool = False
    epilogue: Epilogue | None = None

    @property
    def in_place(self) -> tuple[int, ...]:
        return self.epilogue.full(3 if self.bias else 2) if self.epilogue else ()

    def nest(self) -> Nest:
        size = _Sizes()
        m, n, k = _index("m"), _index("n"), _index("k")
        rows, columns, inner = (
            size("M", self.rows),
            size("N", self.columns),
            size("K", self.inner),
        )
        a = flat([k, m], [inner, rows]) if self.transpose_a else flat([m, k], [rows, inner])
        b = flat([n, k], [columns, inner]) if self.transpose_b else flat([k, n], [inner, columns])
        name = "product_" + ("t" if self.transpose_a else "n") + ("t" if self.transpose_b else "n")
        operands: list[tuple[str, Scalar]] = [("a", "float32"), ("b", "float32")]
        total: Expr = Symbol("total")
        if self.bias:
            operands.append(("bias", "float32"))
            total = total + Load("bias", n)
        if self.epilogue:
            operands += self.epilogue.operands
            total = self.epilogue.apply(total, [m, n], [rows, columns])
        return Nest(
            name + ("_bias" if self.bias else ""),
            tuple(operands),
            "float32",
            size.items,
            (Axis("m", "M"), Axis("n", "N")),
            Load("a", a) * Load("b", b),
            (Axis("k", "K"),),
            "sum",
            total,
        )


# -- moves and linear maps along an axis -----------------------------------------------------


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
    def tables(self) -> tuple[Table, ...]:
        return (
            Table("int64", tuple(s for row in self.source for s in row)),
            Table("float32", tuple(w for row in self.weight for w in row)),
        )

    def nest(self) -> Nest:
        size = _Sizes()
        a, o, b, t = (_index(name) for name in "aobt")
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

    def nest(self) -> Nest:
        size = _Sizes()
        a, o, b = (_index(name) for name in "aob")
        outer, inner = size("A", self.outer), size("B", self.inner)
        extents = size.row("P", self.parts)
        element: Expr | None = None
        start: Expr = _int(0)
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
        size = _Sizes()
        extents = size.row("n", self.shape)
        indices = [_index(f"j{axis}") for axis in range(len(self.shape))]
        return Nest(
            f"permute_{len(self.shape)}d_" + "".join(map(str, self.order)),
            (("x", "float32"),),
            "float32",
            size.items,
            tuple(Axis(f"j{axis}", f"n{axis}") for axis in self.order),
            Load("x", flat(indices, extents)),
        )


@dataclass(frozen=True)
class Fill(Family):
    """A constant array."""

    table: Table

    @property
    def tables(self) -> tuple[Table, ...]:
        return (self.table,)

    def nest(self) -> Nest:
        size = _Sizes()
        size("n", len(self.table.values))
        return Nest(
            "fill",
            (("values", self.table.dtype),),
            self.table.dtype,
            size.items,
            (Axis("j", "n"),),
            Load("values", _index("j"), self.table.dtype),
        )


@dataclass(frozen=True)
class AdaptiveMaximum(Family):
    """The maximum (or its position) of planes×input over windows that divide it into planes×output.

    Window o covers floor(o·I/O) up to ceil((o + 1)·I/O).
    """

    mode: Literal["maximum", "winner"]
    planes: int
    input: Shape
    output: Shape

    def nest(self) -> Nest:
        size = _Sizes()
        p = _index("p")
        planes = size("planes", self.planes)
        inputs, outputs = size.row("I", self.input), size.row("O", self.output)
        widest = [
            -(-i // o) + (1 if i % o else 0) for i, o in zip(self.input, self.output, strict=True)
        ]
        size.row("K", widest)
        rank = range(len(self.input))
        o, k = [_index(f"o{a}") for a in rank], [_index(f"k{a}") for a in rank]
        at = [o[a] * inputs[a] // outputs[a] + k[a] for a in rank]
        ends = [((o[a] + 1) * inputs[a] + outputs[a] - 1) // outputs[a] for a in rank]
        value = Load("x", flat([p, *at], [planes, *inputs]))
        return Nest(
            f"adaptive_{self.mode}{len(self.input)}d",
            (("x", "float32"),),
            "int64" if self.mode == "winner" else "float32",
            size.items,
            (Axis("p", "planes"), *(Axis(f"o{a}", f"O{a}") for a in rank)),
            select(both(*(less(at[a], ends[a]) for a in rank)), value, -math.inf),
            tuple(Axis(f"k{a}", f"K{a}") for a in rank),
            self.mode,
            tag=flat(at, inputs) if self.mode == "winner" else None,
        )


@dataclass(frozen=True)
class WinnerGradient(Family):
    """winner, dy → dx for windows of any kind: every dy goes to its winner's position."""

    planes: int
    size: int
    results: int

    def nest(self) -> Nest:
        size = _Sizes()
        p, i, o = _index("p"), _index("i"), _index("o")
        planes, results = size("planes", self.planes), size("O", self.results)
        size("I", self.size)
        at = flat([p, o], [planes, results])
        here = equal(Load("winner", at, "int64"), i)
        return Nest(
            "winner_gradient",
            (("winner", "int64"), ("dy", "float32")),
            "float32",
            size.items,
            (Axis("p", "planes"), Axis("i", "I")),
            select(here, Load("dy", at), 0.0),
            (Axis("o", "O"),),
            "sum",
        )
