"""Windows that slide over spatial axes: convolution and pooling, in all directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from convdsl.graph.types import Shape
from convdsl.ops.expressions import (
    Expr,
    Load,
    Scalar,
    Symbol,
    apply,
    both,
    cast,
    equal,
    less,
    less_equal,
    select,
)
from convdsl.ops.families.base import (
    Axis,
    Epilogue,
    Family,
    Nest,
    SizeNames,
    flat,
    integer,
    symbol,
)


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

    def __init__(self, size: SizeNames, g: Geometry) -> None:
        self.rank = len(g.window)
        self.input = size.row("I", g.input)
        self.output = size.row("O", g.output)
        self.window = size.row("K", g.window)
        self.stride = size.row("S", g.stride)
        self.before = size.row("P", g.before)
        self.dilation = size.row("D", g.dilation)
        self.i = [symbol(f"i{a}") for a in range(self.rank)]
        self.o = [symbol(f"o{a}") for a in range(self.rank)]
        self.k = [symbol(f"k{a}") for a in range(self.rank)]

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
            for test in (less_equal(integer(0), at[a]), less(at[a], self.input[a]))
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
                less_equal(integer(0), shifted[a]),
                equal(shifted[a] % self.stride[a], integer(0)),
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
        size = SizeNames()
        n, c, f = symbol("n"), symbol("c"), symbol("f")
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
        size = SizeNames()
        p = symbol("p")
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


def _divisor(
    size: SizeNames, s: _Spatial, count_pad: bool, after: Shape, o: Sequence[Expr]
) -> Expr:
    """How many elements the mean at output ``o`` divides by."""
    trailing = size.row("A", after) if count_pad else []
    count: Expr = integer(1)
    for a in range(s.rank):
        start = o[a] * s.stride[a] - s.before[a]
        low: Expr = integer(0) - s.before[a] if count_pad else integer(0)
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
        size = SizeNames()
        p = symbol("p")
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
        size = SizeNames()
        p = symbol("p")
        planes = size("planes", self.planes)
        inputs, outputs = size.row("I", self.input), size.row("O", self.output)
        widest = [
            -(-i // o) + (1 if i % o else 0) for i, o in zip(self.input, self.output, strict=True)
        ]
        size.row("K", widest)
        rank = range(len(self.input))
        o, k = [symbol(f"o{a}") for a in rank], [symbol(f"k{a}") for a in rank]
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
        size = SizeNames()
        p, i, o = symbol("p"), symbol("i"), symbol("o")
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
