"""Direct convolution of short rows on the CPU: a row of results in registers while x goes by.

Every element of a row of x is read once and multiplied into all results whose windows it is in,
and none is multiplied with the zeros around x. Where blocks of filters are half as wide as a
vector, a vector holds two neighbouring results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from convdsl.kernels.cpu.tiles import LATENCY, Ahead, tile_of
from convdsl.kernels.nests import INDENT
from convdsl.kernels.sizes import Sizes, sizes_of
from convdsl.ops.families import Convolution

WIDEST = 7
"""Columns of a window that are written out."""
WORTH = 0.95
"""The share of a tile's time up to which the row is taken."""


@dataclass(frozen=True)
class Column:
    """An element of a row of x, or a pair of them, and what it is multiplied with."""

    places: tuple[int, int]
    """Where it is, and where the second of the pair is; −1 stands for outside, or for no pair."""
    meeting: tuple[tuple[int, int], ...]
    """A vector of results and a column of the window, each."""

    def vector(self, start: str, channels: int, paired: bool) -> str:
        """The element in all lanes, or the pair in its halves, of a row that begins there."""
        first, second = (f"{start} + {place * channels}" for place in self.places)
        if not paired:
            return f"splat(x, {first})"
        if self.places[1] < 0:
            return f"former(x, {first})"
        if self.places[0] < 0:
            return f"latter(x, {second})"
        return f"pair(x, {first}, {second})"

    @property
    def loads(self) -> int:
        return sum(place >= 0 for place in self.places)


@dataclass(frozen=True)
class Row:
    """How the rows of a convolution are computed."""

    pixels: int
    """Vectors of results that are in registers, for every vector of filters."""
    vectors: int
    """Vectors of filters."""
    paired: bool
    """Whether a vector holds two neighbouring results."""
    sums: int
    """Into how many sums the elements of a window's row go, which are added up in the end."""
    columns: int
    """Columns of the window whose weights are in registers at a time."""
    met: tuple[Column, ...]
    """The columns of x that any result meets."""

    @property
    def time(self) -> float:
        """Half cycles for a channel, a row of the window and a vector of filters.

        They go into multiply-adds, into loads, or into waiting for the sum before.
        """
        width = max(k for column in self.met for _, k in column.meeting) + 1
        products = sum(len(column.meeting) for column in self.met) * self.vectors
        together = [c for first in _firsts(self, width) for c in _within(self, first)]
        loads = sum(c.loads for c in together) + width * self.vectors
        return max(products, loads, -(-width // self.sums) * LATENCY) / self.vectors


def row_of(family: Convolution, lanes: int, registers: int, step: int = 1) -> Row | None:
    """The rows of a forward convolution, where they are short and computing them so pays.

    ``lanes`` is the processor's vector width, of ``registers`` vectors; ``step`` tells how far
    apart results of a row lie.
    """
    s = sizes_of(family.geometry)
    if family.groups > 1 or not 1 < s.KW <= WIDEST:
        return None
    paired = 2 * family.y_lanes == lanes and s.OW % 2 == 0 and step == 1
    pixels = s.OW // 2 if paired else s.OW
    blocks = -(-family.filters // family.y_lanes)
    met = met_by(s, pixels, paired)
    rows = []
    for vectors in range(1, min(blocks, (registers - 1) // (pixels + 1)) + 1):
        held = (registers - 1) // vectors
        sums = min(-(-LATENCY // (pixels * vectors)), s.KW, (held - 1) // pixels)
        columns = min(s.KW, held - pixels * sums)
        rows.append(Row(pixels, vectors, paired, sums, columns, met))
    if not rows or not met:  # too long, or with windows all around x
        return None

    def cost(row: Row) -> float:
        return row.time * row.vectors * -(-blocks // row.vectors)

    # Of equals the one whose weights take least of the cache.
    row = min(rows, key=cost)
    tile = tile_of(s.OW, blocks, registers)
    full, rest = divmod(s.OW, tile.pixels)
    tiles = [tile.pixels] * full + [rest] * (rest > 0)
    by_tiles = s.KW * sum(max(p * tile.vectors, p + tile.vectors, LATENCY) for p in tiles)
    return row if cost(row) < WORTH * by_tiles * -(-blocks // tile.vectors) else None


def met_by(s: Sizes, pixels: int, paired: bool) -> tuple[Column, ...]:
    """The columns of x from left to right, met by a row of so many vectors of results."""
    each = 2 if paired else 1
    meeting: dict[int, list[tuple[int, int]]] = {}
    for p in range(pixels):
        for k in range(s.KW):
            meeting.setdefault(each * p * s.SW + k * s.DW - s.PW, []).append((p, k))
    columns = []
    for at in sorted(meeting):
        first, second = (x if 0 <= x < s.W else -1 for x in (at, at + s.SW))
        places = (first, second if paired else -1)
        if max(places) >= 0:
            columns.append(Column(places, tuple(meeting[at])))
    return tuple(columns)


def _firsts(row: Row, width: int) -> range:
    """The columns of a window with which others are loaded."""
    return range(0, width, row.columns)


def _within(row: Row, first: int) -> Iterator[Column]:
    """What meets the columns of the window that are loaded with this one."""
    for column in row.met:
        here = [(p, k) for p, k in column.meeting if first <= k < first + row.columns]
        if here:
            yield Column(column.places, tuple(here))


def time_of(family: Convolution, row: Row | None) -> int:
    """Half cycles for a channel and a vector of filters, in all images.

    Without a row every pixel is multiplied with every element of the window.
    """
    s = sizes_of(family.geometry)
    if row is None:
        return family.batch * s.outputs * s.taps
    depth = _inside(s.D, s.OD, s.KD, s.SD, s.PD, s.DD)
    height = _inside(s.H, s.OH, s.KH, s.SH, s.PH, s.DH)
    return int(family.batch * depth * height * row.time)


def _inside(size: int, results: int, window: int, stride: int, before: int, apart: int) -> int:
    """Pairs of a result and an element of its window that meet inside an axis."""
    met = (o * stride + k * apart - before for o in range(results) for k in range(window))
    return sum(0 <= at < size for at in met)


def rows_inside(block: str, channels: int) -> list[str]:
    """The loops over the window's rows that are inside x, for results (oz, oy) of image n.

    What follows stands two levels deeper; ``at`` is where the row begins in that block of channels.
    """
    return [
        "for kz in range(KD):",
        "    iz = oz * SD + kz * DD - PD",
        "    if iz < 0 or iz >= D:",
        "        continue",
        "    for ky in range(KH):",
        "        iy = oy * SH + ky * DH - PH",
        "        if iy < 0 or iy >= H:",
        "            continue",
        f"        at = (((n * XB + {block}) * D + iz) * H + iy) * W * {channels}",
    ]


def statements(row: Row, family: Convolution, ahead: Ahead) -> list[str]:
    """Statements that sum up a row of results, into s0_0, s0_1, … by pixels and vectors.

    They read x and ``packed`` of image n and row (oz, oy), as a tile's do.
    """
    s = sizes_of(family.geometry)
    channels, block = family.x_lanes, row.vectors * family.y_lanes
    load = "repeat" if row.paired else "load"
    inner = []
    for first in _firsts(row, s.KW):
        kept = range(first, min(first + row.columns, s.KW))
        coming = [] if first else ahead.statements("packed", family.y_lanes)
        step = [
            f"w{k}_{v} = {load}(packed, k + {k} * apart + {v * family.y_lanes})"
            for k in kept
            for v in range(row.vectors)
        ]
        for column in _within(row, first):
            start = "c" if channels > 1 else "at"
            step.append(f"pixel = {column.vector(start, channels, row.paired)}")
            for p, k in column.meeting:
                for v in range(row.vectors):
                    total = f"s{p}_{v}_{k % row.sums}"
                    step.append(f"{total} = fma(pixel, w{k}_{v}, {total})")
        if channels == 1:
            inner += step
        else:
            inner += [
                "k = start",
                "for c in range(at, at + here):",
                *(INDENT + line for line in [*coming, *step, f"k += {block}"]),
            ]
    results = [(p, v) for p in range(row.pixels) for v in range(row.vectors)]
    lines = [f"s{p}_{v}_{i} = zero()" for p, v in results for i in range(row.sums)]
    start = "k" if channels == 1 else "start"
    lines += [
        "for cb in range(CB):",
        f"    here = min({channels}, C - cb * {channels})" if channels > 1 else "    here = 1",
        f"    apart = here * {block}",
        *(INDENT + line for line in rows_inside("cb", channels)),
        f"            {start} = (tile * C + cb * {channels}) * KD * KH * KW * {block}",
        f"            {start} += (kz * KH + ky) * KW * apart",
        *(INDENT * 3 + line for line in inner),
    ]
    for p, v in results:
        total = " + ".join(f"s{p}_{v}_{i}" for i in range(row.sums))
        lines.append(f"s{p}_{v} = {total}")
    return lines
