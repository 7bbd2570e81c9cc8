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
    Storage,
    flat,
    integer,
    symbol,
)

COUNTS = 1 << 8
"""Up to which whole numbers are exact in all types of 16 bits."""


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

    Feature maps lie in blocks of channels: ``x_lanes`` of them side by side at every position of x,
    ``y_lanes`` at every position of y, as N×⌈C/lanes⌉×spatial×lanes; 1 is plain N×C×spatial. The
    epilogue's axes are those of the blocks.
    """

    direction: Literal["forward", "input", "weight"]
    batch: int
    channels: int
    filters: int
    groups: int
    geometry: Geometry
    bias: bool = False
    epilogue: Epilogue | None = None
    x_lanes: int = 1
    y_lanes: int = 1

    @property
    def in_place(self) -> tuple[int, ...]:
        return self.epilogue.full(3 if self.bias else 2) if self.epilogue else ()

    @property
    def storage(self) -> Storage:
        return "narrow"

    def nest(self) -> Nest:
        size = SizeNames()
        n, c, f = symbol("n"), symbol("c"), symbol("f")
        count = size("N", self.batch)
        per_group_in = size("C", self.channels // self.groups)
        per_group_out = size("F", self.filters // self.groups)
        s = _Spatial(size, self.geometry)
        all_in, all_out = size("CG", self.channels), size("FG", self.filters)

        x_place = _Blocked(size, "X", self.channels, self.x_lanes)
        y_place = _Blocked(size, "Y", self.filters, self.y_lanes)

        def x(channel: Expr, at: Sequence[Expr]) -> Expr:
            return Load("x", x_place.position(n, count, channel, at, s.input))

        def y(name: str, filter: Expr, at: Sequence[Expr]) -> Expr:
            return Load(name, y_place.position(n, count, filter, at, s.output))

        def w(filter: Expr, channel: Expr) -> Expr:
            return Load("w", flat([filter, channel, *s.k], [all_out, per_group_in, *s.window]))

        name = f"convolution{s.rank}d_{self.direction}" + ("_grouped" if self.groups > 1 else "")
        name += f"_{self.x_lanes}to{self.y_lanes}" if {self.x_lanes, self.y_lanes} != {1} else ""
        batch_axis = Axis("n", "N")
        if self.direction == "forward":
            filter = y_place.channel
            real = less(filter, all_out) if self.y_lanes > 1 else None
            at, inside = s.source()
            channel = (filter // per_group_out) * per_group_in + c if self.groups > 1 else c
            operands: list[tuple[str, Scalar]] = [("x", "float32"), ("w", "float32")]
            total: Expr = Symbol("total")
            if self.bias:
                operands.append(("b", "float32"))
                bias: Expr = Load("b", filter)
                total = total + (bias if real is None else select(real, bias, 0.0))
            axes = y_place.axes(batch_axis, s.axes("o", "O"))
            more, total = _finished(self.epilogue, total, axes)
            return Nest(
                name,
                (*operands, *more),
                "float32",
                size.items,
                axes,
                select(
                    inside if real is None else both(inside, real),
                    x(channel, at) * w(filter, c),
                    0.0,
                ),
                (Axis("c", "C"), *s.axes("k", "K")),
                "sum",
                total,
            )
        if self.direction == "input":
            own = x_place.channel
            at, inside = s.target()
            # Here c runs over all channels and f over the filters of c's group.
            filter = (own // per_group_in) * per_group_out + f if self.groups > 1 else f
            within = own % per_group_in if self.groups > 1 else own
            real = less(own, all_in) if self.x_lanes > 1 else None
            axes = x_place.axes(batch_axis, s.axes("i", "I"))
            more, total = _finished(self.epilogue, Symbol("total"), axes)
            return Nest(
                name,
                (("dy", "float32"), ("w", "float32"), *more),
                "float32",
                size.items,
                axes,
                select(
                    inside if real is None else both(inside, real),
                    y("dy", filter, at) * w(filter, within),
                    0.0,
                ),
                (Axis("f", "F"), *s.axes("k", "K")),
                "sum",
                total,
            )
        at, inside = s.source()
        channel = (f // per_group_out) * per_group_in + c if self.groups > 1 else c
        return Nest(
            name,
            (("x", "float32"), ("dy", "float32")),
            "float32",
            size.items,
            (Axis("f", "FG"), Axis("c", "C"), *s.axes("k", "K")),
            select(inside, x(channel, at) * y("dy", f, s.o), 0.0),
            (batch_axis, *s.axes("o", "O")),
            "sum",
        )


def _finished(
    epilogue: Epilogue | None, total: Expr, axes: Sequence[Axis]
) -> tuple[tuple[tuple[str, Scalar], ...], Expr]:
    """What an epilogue reads, and what it makes of a total under the axes of the result."""
    if epilogue is None:
        return (), total
    indices, sizes = [symbol(a.index) for a in axes], [symbol(a.size) for a in axes]
    return epilogue.operands, epilogue.apply(total, indices, sizes)


class _Blocked:
    """The positions of a feature map's elements, in blocks of ``lanes`` channels."""

    def __init__(self, size: SizeNames, letter: str, channels: int, lanes: int) -> None:
        self.letter = letter
        self.lanes = lanes
        self.blocks = size(f"{letter}B", -(-channels // lanes))
        self.block, self.lane = symbol(f"{letter}b".lower()), symbol(f"{letter}l".lower())
        if lanes > 1:
            size(f"{letter}L", lanes)

    @property
    def channel(self) -> Expr:
        """The channel under the indices of a result's axes."""
        return self.block if self.lanes == 1 else self.block * self.lanes + self.lane

    def axes(self, batch: Axis, spatial: Sequence[Axis]) -> tuple[Axis, ...]:
        """The axes of a result."""
        found = [batch, Axis(f"{self.letter}b".lower(), f"{self.letter}B"), *spatial]
        if self.lanes > 1:
            found.append(Axis(f"{self.letter}l".lower(), f"{self.letter}L"))
        return tuple(found)

    def position(
        self,
        n: Expr,
        count: Expr,
        channel: Expr,
        at: Sequence[Expr],
        spatial: Sequence[Expr],
    ) -> Expr:
        """Where the element of a channel is."""
        if self.lanes == 1:
            return flat([n, channel, *at], [count, self.blocks, *spatial])
        block, lane = channel // self.lanes, channel % self.lanes
        return flat([n, block, *at, lane], [count, self.blocks, *spatial, integer(self.lanes)])


@dataclass(frozen=True)
class Pooling(Family):
    """The maximum or the mean of every window of batch×planes×input, or the maximum's position.

    The padding is −∞ for the maximum; for the mean it counts as zeros when ``count_pad`` is set
    and is left out of the divisor otherwise. A NaN in a window makes its maximum NaN. The
    ``winner`` is the row-major number in the window of the first element that is the maximum.
    """

    mode: Literal["maximum", "mean", "winner"]
    batch: int
    planes: int
    """Those of an image: its channels, or blocks of them."""
    geometry: Geometry
    count_pad: bool = False
    after: Shape = ()
    lanes: int = 1
    """Channels side by side at every position: batch×planes×spatial×lanes."""

    @property
    def storage(self) -> Storage:
        # Of whole numbers, 16 bits have no more than these.
        positions = self.mode == "winner" and math.prod(self.geometry.window) > COUNTS
        return "exact" if positions else "narrow"

    def nest(self) -> Nest:
        size = SizeNames()
        n, p = symbol("n"), symbol("p")
        batch, planes = size("N", self.batch), size("planes", self.planes)
        s = _Spatial(size, self.geometry)
        at, inside = s.source()
        lane, lanes, lane_axis = _lanes(size, self.lanes)
        value = Load("x", flat([n, p, *at, *lane], [batch, planes, *s.input, *lanes]))
        finish: Expr = Symbol("total")
        if self.mode == "mean":
            finish = finish / cast(_divisor(size, s, self.count_pad, self.after, s.o))
        return Nest(
            f"{self.mode}_pool{s.rank}d" + ("_padded" if self.count_pad else ""),
            (("x", "float32"),),
            "float32",
            size.items,
            (Axis("n", "N"), Axis("p", "planes"), *s.axes("o", "O"), *lane_axis),
            select(inside, value, 0.0 if self.mode == "mean" else -math.inf),
            s.axes("k", "K"),
            "sum" if self.mode == "mean" else self.mode,
            finish,
            flat(s.k, s.window) if self.mode == "winner" else None,
        )


def _lanes(size: SizeNames, lanes: int) -> tuple[list[Expr], list[Expr], tuple[Axis, ...]]:
    """Index, size and axis of the channels that lie side by side, where there are several."""
    if lanes == 1:
        return [], [], ()
    return [symbol("l")], [size("L", lanes)], (Axis("l", "L"),)


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
    """The gradient of a pooling by its input: winner, dy → dx (maximum) or dy → dx (mean).

    The epilogue's axes are batch, planes, spatial and, where there are several, lanes.
    """

    mode: Literal["maximum", "mean"]
    batch: int
    planes: int
    """Those of an image: its channels, or blocks of them."""
    geometry: Geometry
    count_pad: bool = False
    after: Shape = ()
    lanes: int = 1
    """Channels side by side at every position: batch×planes×spatial×lanes."""
    epilogue: Epilogue | None = None

    @property
    def tiles(self) -> bool:
        """Whether windows lie side by side and inside, so that a position is in one at most."""
        g = self.geometry
        sides = zip(g.input, g.output, g.window, strict=True)
        inside = all(o * k <= i for i, o, k in sides) and not any(g.before)
        return g.stride == g.window and set(g.dilation) == {1} and inside

    @property
    def in_place(self) -> tuple[int, ...]:
        # Where windows overlap, sums are held in the result until it is finished.
        first = 2 if self.mode == "maximum" else 1
        return self.epilogue.full(first) if self.epilogue and self.tiles else ()

    @property
    def storage(self) -> Storage:
        return "narrow"

    def nest(self) -> Nest:
        size = SizeNames()
        n, p = symbol("n"), symbol("p")
        batch, planes = size("N", self.batch), size("planes", self.planes)
        s = _Spatial(size, self.geometry)
        at, inside = s.target()
        lane, lanes, lane_axis = _lanes(size, self.lanes)
        place = flat([n, p, *at, *lane], [batch, planes, *s.output, *lanes])
        dy = Load("dy", place)
        if self.mode == "mean":
            divisor = cast(_divisor(size, s, self.count_pad, self.after, at))
            inputs: tuple[tuple[str, Scalar], ...] = (("dy", "float32"),)
            element = select(inside, dy / divisor, 0.0)
        else:
            winner = Load("winner", place)
            here = cast(flat(s.k, s.window))
            inputs = (("winner", "float32"), ("dy", "float32"))
            element = select(both(inside, equal(winner, here)), dy, 0.0)
        axes = (Axis("n", "N"), Axis("p", "planes"), *s.axes("i", "I"), *lane_axis)
        more, total = _finished(self.epilogue, Symbol("total"), axes)
        return Nest(
            f"{self.mode}_pool{s.rank}d_gradient" + ("_padded" if self.count_pad else ""),
            (*inputs, *more),
            "float32",
            size.items,
            axes,
            element,
            s.axes("k", "K"),
            "sum",
            total,
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
