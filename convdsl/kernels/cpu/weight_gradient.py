"""The gradient of a convolution by its weights on the CPU: filters along the lanes, pixels summed.

A register tile holds the sums of some channels (or, where the input is plain, of some elements of
the window) × vectors of filters; it goes over the pixels of all images, chunk by chunk of rows so
that what is read stays in the cache while the window moves over it. Of short rows, instead, a row
of dy is in registers while one of x goes by, each of whose elements is read once.
"""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.cpu.padding import pad_call
from convdsl.kernels.cpu.rows import WIDEST, WORTH, Column, met_by, rows_inside
from convdsl.kernels.cpu.tiles import LATENCY, NEAR
from convdsl.kernels.nests import INDENT
from convdsl.kernels.sizes import sizes_of
from convdsl.ops.families import Convolution
from convdsl.plan.model import Call, Images, Kernel, Recipe

FILTERS = 48
"""Filters of a tile at most."""


@dataclass(frozen=True)
class _Tile:
    """Sources of the input × vectors of filters whose sums are in registers at a time."""

    sources: int
    vectors: int


def fits(family: Convolution) -> bool:
    """Whether this generator computes the gradient: of whole blocks of filters in every group."""
    if family.direction != "weight" or family.y_lanes == 1:
        return False
    channels, filters = (n // family.groups for n in (family.channels, family.filters))
    whole = channels % family.x_lanes == 0 and filters % family.y_lanes == 0
    return family.groups == 1 or whole


def _tile_of(family: Convolution, extent: int, registers: int) -> _Tile:
    """The best tile for so many sources: the channels of a block, or a plane of the window."""
    lanes = family.y_lanes
    blocks = -(-family.filters // family.groups // lanes)

    def cost(tile: _Tile) -> float:
        # Cycles for one pixel, over all tiles: the multiply-adds or their latency, and the loads.
        step = max(tile.sources * tile.vectors, LATENCY) + 0.25 * (tile.sources + tile.vectors)
        return (step + 1) * -(-extent // tile.sources) * -(-blocks // tile.vectors)

    return min(
        (
            _Tile(sources, vectors)
            for vectors in range(1, FILTERS // lanes + 1)
            for sources in range(1, extent + 1)
            if (sources + 1) * vectors + 1 <= registers
            and (family.groups == 1 or blocks % vectors == 0)
            and (family.x_lanes == 1 or extent % sources == 0)
        ),
        key=cost,
    )


@dataclass(frozen=True)
class _Row:
    """A row of dy in registers."""

    pixels: int
    """Vectors of dy."""
    paired: bool
    """Whether a vector holds two neighbouring pixels."""
    met: tuple[Column, ...]

    @property
    def products(self) -> int:
        """Multiply-adds for a channel, a row of the window and a vector of filters."""
        return sum(len(column.meeting) for column in self.met)


def _row_of(family: Convolution, lanes: int, registers: int) -> _Row | None:
    """The rows of dy, where they are short and going by them pays."""
    s = sizes_of(family.geometry)
    paired = 2 * family.y_lanes == lanes and s.OW % 2 == 0
    pixels = s.OW // 2 if paired else s.OW
    if s.KW > WIDEST or pixels + s.KW + 1 > registers:
        return None
    row = _Row(pixels, paired, met_by(s, pixels, paired))
    # In half cycles for a row of x, or a block of its channels, and a vector of filters.
    loads = sum(column.loads for column in row.met)
    by_row: float = max(row.products, loads + s.KW, 2 * s.KW)
    channels = family.channels // family.groups
    plain = family.x_lanes == 1
    extent = s.KH * s.KW if plain else family.x_lanes
    tile = _tile_of(family, extent, registers)
    step = max(tile.sources * tile.vectors, LATENCY, tile.sources + tile.vectors) / tile.vectors
    by_tile = s.OW * -(-extent // tile.sources) * step
    if plain:
        by_row *= s.KH
    else:
        by_row = by_row * channels / -(-channels // family.x_lanes)
        by_tile *= s.KW
    return row if by_row < WORTH * by_tile else None


def recipe(family: Convolution, images: Images, lanes: int, registers: int, threads: int) -> Recipe:
    """Sum, put the sums where the weights are.

    ``lanes`` is the processor's vector width, of ``registers`` vectors.
    """
    row = _row_of(family, lanes, registers)
    if row:
        return _by_rows(row, family, images, threads)
    return _by_tiles(family, images, registers, threads)


def _splits(family: Convolution, units: int, threads: int) -> int:
    """Among how many units the images are divided: where there are few sums, threads take some."""
    return 1 if units >= 2 * threads else min(family.batch, -(-2 * threads // units))


def _by_rows(row: _Row, family: Convolution, images: Images, threads: int) -> Recipe:
    s, lanes = sizes_of(family.geometry), family.y_lanes
    wide = 2 * lanes if row.paired else lanes
    blocks = -(-family.filters // lanes)
    channels = family.channels // family.groups
    channel_blocks = -(-channels // family.x_lanes)
    units = blocks * channel_blocks
    splits = _splits(family, units, threads)
    size = units * family.x_lanes * s.taps * wide
    sum_up = Call(
        _row_kernel(row, family),
        ("in0", "in1", "sums"),
        (
            images.blocks(0, s.inputs * family.x_lanes) or channel_blocks * family.groups,
            images.blocks(1, s.outputs * lanes) or blocks,
            *(family.batch, channels, channel_blocks, blocks // family.groups),
            *(s.D, s.H, s.W, s.OD, s.OH, s.OW, s.KD, s.KH),
            *(s.SD, s.SH, s.DD, s.DH, s.PD, s.PH, units, splits),
        ),
        units * splits,
        row.products * s.KD * s.KH * s.OD * s.OH * channels * blocks * family.batch,
    )
    unpack = Call(
        _unpack(1, lanes, row.paired, plain=False),
        ("sums", "out"),
        (
            *(family.filters, channels, s.KD * s.KH, s.KW, s.KW),
            *(channel_blocks * family.x_lanes, splits, size),
        ),
        blocks,
        family.filters * channels * s.taps,
    )
    reason = f"summed over pixels, {s.OW} of a row × {lanes} filters in registers"
    return Recipe((sum_up, unpack), (("sums", splits * size),), reason)


def _row_kernel(row: _Row, family: Convolution) -> Kernel:
    s = sizes_of(family.geometry)
    channels, lanes = family.x_lanes, family.y_lanes
    wide = 2 * lanes if row.paired else lanes
    columns = range(s.KW)
    step = [f"s{k} = load(sums, k + {k * wide})" for k in columns]
    for column in row.met:
        step.append(f"pixel = {column.vector('c', channels, row.paired)}")
        step += [f"s{k} = fma(pixel, dy{p}, s{k})" for p, k in column.meeting]
    step += [f"store(sums, k + {k * wide}, s{k})" for k in columns]
    body = [
        f"taps = KD * KH * {s.KW * wide}",
        "for unit in range(begin, end):",
        "    split = unit // units",
        "    tile = unit % units // CB",
        "    xb = tile // tiles * CB + unit % CB",
        f"    here = min({channels}, C - unit % CB * {channels})",
        f"    first = unit * {channels} * taps",
        f"    for k in range(first, first + {channels} * taps):",
        "        sums[k] = float32(0.0)",
        "    for n in range(split * N // splits, (split + 1) * N // splits):",
        "        for row in range(OD * OH):",
        "            oz = row // OH",
        "            oy = row % OH",
        f"            place = ((n * YB + tile) * OD * OH + row) * OW * {lanes}",
        *_indent(3, [f"dy{p} = load(dy, place + {p * wide})" for p in range(row.pixels)]),
        *_indent(3, rows_inside("xb", channels)),
        f"                    k = first + (kz * KH + ky) * {s.KW * wide}",
        "                    for c in range(at, at + here):",
        *_indent(6, step),
        "                        k += taps",
    ]
    name = f"weight_gradient_row_of_{row.pixels}x{lanes}"
    return kernel(
        name + ("_in_pairs" if row.paired else ""),
        [("x", "float32"), ("dy", "float32"), ("sums", "float32")],
        (
            *("XB", "YB", "N", "C", "CB", "tiles", "D", "H", "W", "OD", "OH", "OW", "KD", "KH"),
            *("SD", "SH", "DD", "DH", "PD", "PH", "units", "splits"),
        ),
        body,
        f"sums[F/{lanes}, C, window, {wide}] of x · dy over pixels.",
        ("contract",),
        wide,
    )


def _by_tiles(family: Convolution, images: Images, registers: int, threads: int) -> Recipe:
    s = sizes_of(family.geometry)
    plain = family.x_lanes == 1
    # Of a plain input, as of an image, the elements of a plane of the window are the sources.
    rows, across = (1, s.KH * s.KW) if plain else (s.KH, s.KW)
    tile = _tile_of(family, across if plain else family.x_lanes, registers)
    lanes, wide = family.y_lanes, tile.vectors * family.y_lanes
    tiles = -(-family.filters // wide)
    blocks = -(-family.filters // lanes)
    channels = family.channels // family.groups
    channel_blocks = -(-channels // family.x_lanes)
    columns = -(-across // tile.sources) if plain else across
    parts = 1 if plain else family.x_lanes // tile.sources
    window = s.KD * rows * columns
    units = tiles * channel_blocks * parts
    splits = _splits(family, units, threads)
    each = window * tile.sources * wide
    sums = splits * units * each
    calls, temporaries = [], [("sums", sums)]
    source, depth, height, width = "in0", s.D, s.H, s.W
    held = channel_blocks * family.groups
    apart = images.blocks(0, s.inputs * family.x_lanes) or held
    if not s.inside:
        source, depth, height, width = (
            "padded",
            s.padded_depth,
            s.padded_height,
            s.padded_width,
        )
        calls.append(pad_call(s, family.batch, held, apart, family.x_lanes, "in0", source))
        pixels = family.batch * held * s.padded_pixels
        temporaries.append((source, pixels * family.x_lanes))
        apart = held
    row_bytes = 4 * (width * s.SH * family.x_lanes + s.OW * wide)
    chunk = max(1, min(s.OD * s.OH, NEAR // row_bytes))
    calls.append(
        Call(
            _kernel(tile, s.SW, family, columns * tile.sources > across and plain),
            (source, "in1", "sums"),
            (
                *(family.batch, apart, channel_blocks, blocks),
                images.blocks(1, s.outputs * lanes) or blocks,
                tiles // family.groups,
                *(depth, height, width, s.OD, s.OH, s.OW, s.KD, rows, columns, across, s.KW),
                *(s.SD, s.SH, s.DD, s.DH, s.DW, chunk, units, splits),
            ),
            units * splits,
            family.filters * channels * s.taps * family.batch * s.outputs // lanes,
        )
    )
    sizes = (
        *(family.filters, channels, s.KD * rows, across, columns),
        *(channel_blocks * parts, splits, units * each),
    )
    calls.append(
        Call(
            _unpack(tile.sources, wide, False, plain),
            ("sums", "out"),
            sizes,
            tiles,
            family.filters * channels * s.taps,
        )
    )
    what = "elements of the window" if plain else "channels"
    reason = f"summed over pixels, {tile.sources} {what} × {wide} filters in registers"
    return Recipe((*calls,), tuple(temporaries), reason)


SIZES = (
    *("N", "XB", "CB", "FB", "YB", "tiles", "D", "H", "W", "OD", "OH", "OW"),
    *("KD", "KH", "columns", "across", "KW"),
    *("SD", "SH", "DD", "DH", "DW", "rows", "units", "splits"),
)


def _kernel(tile: _Tile, stride: int, family: Convolution, ragged: bool) -> Kernel:
    lanes, channels = family.y_lanes, family.x_lanes
    wide = tile.vectors * lanes
    plain = channels == 1
    parts = 1 if plain else channels // tile.sources
    sources, vectors = range(tile.sources), range(tile.vectors)
    sums = [(q, v) for q in sources for v in vectors]
    scaled = "" if plain else f" * {channels}"
    start = "(((n * XB + xb) * D + oz * SD + kz * DD) * H + oy * SH + ky * DH) * W"
    column = "" if plain else " + column * DW"
    first = "" if plain else " + first"
    # An element beyond the window's last is summed along with the last and left out in the end.
    elements = [f"column * {tile.sources} + {q}" for q in sources]
    if ragged:
        elements = [f"min({element}, across - 1)" for element in elements]
    step = [f"w{v} = load(dy, y{v})" for v in vectors]
    for q in sources:
        place = f"at + x{q}" if plain else f"at + {q}"
        step.append(f"pixel = splat(x, {place})")
        step += [f"s{q}_{v} = fma(pixel, w{v}, s{q}_{v})" for v in vectors]
    step.append(f"at += {stride * channels}")
    step += [f"y{v} += {lanes}" for v in vectors]
    body = [
        "P = OD * OH * OW",
        f"each = KD * KH * columns * {tile.sources * wide}",
        "for unit in range(begin, end):",
        "    split = unit // units",
        f"    tile = unit % units // (CB * {parts})",
        f"    xb = tile // tiles * CB + unit // {parts} % CB",
        *([] if plain else [f"    first = unit % {parts} * {tile.sources}"]),
        # A last tile with fewer blocks of filters sums its last one again.
        *(f"    f{v} = min(tile * {tile.vectors} + {v}, FB - 1)" for v in vectors),
        "    for k in range(unit * each, (unit + 1) * each):",
        "        sums[k] = float32(0.0)",
        "    for n in range(split * N // splits, (split + 1) * N // splits):",
        "        for begin_row in range(0, OD * OH, rows):",
        "            end_row = min(begin_row + rows, OD * OH)",
        "            k = unit * each",
        "            for kz in range(KD):",
        "                for ky in range(KH):",
        "                    for column in range(columns):",
        *_indent(6, _offsets(elements) if plain else []),
        *_indent(6, [f"s{q}_{v} = load(sums, k + {q * wide + v * lanes})" for q, v in sums]),
        "                        for row in range(begin_row, end_row):",
        "                            oz = row // OH",
        "                            oy = row % OH",
        f"                            at = ({start}{column}){scaled}{first}",
        *_indent(7, [f"y{v} = ((n * YB + f{v}) * P + row * OW) * {lanes}" for v in vectors]),
        "                            for ox in range(OW):",
        *_indent(8, step),
        *_indent(6, [f"store(sums, k + {q * wide + v * lanes}, s{q}_{v})" for q, v in sums]),
        f"                        k += {tile.sources * wide}",
    ]
    name = f"weight_gradient_{tile.sources}x{wide}_stride{stride}"
    return kernel(
        name + ("_plain" if plain else "") + ("_ragged" if ragged else ""),
        [("x", "float32"), ("dy", "float32"), ("sums", "float32")],
        SIZES,
        body,
        f"sums[F/{wide}, C/{tile.sources}, window, {tile.sources}, {wide}] of x · dy over pixels.",
        ("contract",),
        lanes,
    )


def _offsets(elements: list[str]) -> list[str]:
    """Statements that say where in a plane these elements of the window are."""
    lines = []
    for q, element in enumerate(elements):
        lines += [f"k{q} = {element}", f"x{q} = k{q} // KW * DH * W + k{q} % KW * DW"]
    return lines


def _indent(depth: int, lines: list[str]) -> list[str]:
    return [INDENT * depth + line for line in lines]


def _unpack(sources: int, wide: int, paired: bool, plain: bool) -> Kernel:
    rows = "(f // {wide} * parts + {part}) * R * columns + r * columns + {column}"
    part, column, source = (
        ("c", f"k // {sources}", f"k % {sources}")
        if plain
        else (f"c // {sources}", "k", f"c % {sources}")
    )
    held, halves = (2 * wide, ("", f" + {wide}")) if paired else (wide, ("",))
    at = rows.format(wide=wide, part=part, column=column)
    body = [
        "for unit in range(begin, end):",
        "    for c in range(C):",
        f"        for f in range(unit * {wide}, min(unit * {wide} + {wide}, F)):",
        "            for r in range(R):",
        "                for k in range(KW):",
        f"                    at = (({at}) * {sources} + {source}) * {held} + f % {wide}",
        "                    total = float32(0.0)",
        "                    for split in range(splits):",
        *(f"                        total += sums[split * size + at{half}]" for half in halves),
        "                    dw[((f * C + c) * R + r) * KW + k] = total",
    ]
    return kernel(
        f"unpack_{sources}x{wide}" + ("_plain" if plain else "") + ("_in_pairs" if paired else ""),
        [("sums", "float32"), ("dw", "float32")],
        ["F", "C", "R", "KW", "columns", "parts", "splits", "size"],
        body,
        f"dw[F, C, R, KW] from sums; a unit per {wide} filters.",
    )
