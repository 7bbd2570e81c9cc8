"""Direct convolution on the CPU: a register tile of pixels × filters, filters along the lanes.

The result lies in blocks of channels, the input in blocks or plain; weights are packed so that the
lanes' weights lie side by side, and every pixel is broadcast against them (Georganas et al. 2018).
A gradient by the input consists of such convolutions itself, of dy with mirrored windows.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from convdsl.kernels.cpu import lanewise
from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.cpu.padding import pad_call
from convdsl.kernels.nests import INDENT
from convdsl.kernels.parts import Part, has_parts, parts_of, turned
from convdsl.kernels.sizes import Sizes, sizes_of, triple
from convdsl.ops.families import Convolution, Geometry
from convdsl.plan.model import RESULT, Call, Images, Kernel, Recipe

REGISTERS = {4: 16, 8: 16, 16: 32}
"""Vector registers by lanes: SSE, AVX and NEON (which has more than are counted on), AVX-512."""
LATENCY = 8
"""Multiply-adds that must be under way for one to finish every half cycle."""
NEAR = 1 << 18
"""Bytes of input that one unit of work may sweep: they stay in the second-level cache."""
SUMMED = 512
"""Products that an exact sum adds up at a time."""
MOST_COLUMNS = 7
"""Columns of a window that are written out."""
WORTH_EDGES = 0.9
"""The share of products, of those with zeros, up to which leaving the others out pays."""
SPARSE = 8
"""Groups up to which computing their zeros along is faster than keeping groups apart."""


def fits(family: Convolution) -> bool:
    """Whether this generator computes the convolution."""
    if family.direction == "weight" or family.y_lanes == family.x_lanes == 1:
        return False
    if family.epilogue is not None and not family.epilogue.planar(trailing=1):
        return False
    return has_parts(family) and _grouping(turned(family)) is not None


@dataclass(frozen=True)
class _Grouping:
    """How groups are computed: ``count`` of them, each of whole blocks."""

    count: int
    channels: int
    filters: int


def _grouping(family: Convolution) -> _Grouping | None:
    """Groups of whole blocks that hold the family's own; None where they would be mostly zeros."""
    groups = family.groups
    channels, filters = family.channels // groups, family.filters // groups
    if groups == 1 or (channels % family.x_lanes == 0 and filters % family.y_lanes == 0):
        return _Grouping(groups, channels, filters)
    lanes = family.y_lanes
    alike = channels == filters and family.x_lanes == lanes and family.channels % lanes == 0
    if alike and lanes % channels == 0 and lanes // channels <= SPARSE:
        return _Grouping(family.channels // lanes, lanes, lanes)
    return _Grouping(1, family.channels, family.filters) if groups <= SPARSE else None


@dataclass(frozen=True)
class Tile:
    """Pixels and vectors of filters whose totals are in registers at a time."""

    pixels: int
    vectors: int


def tile_of(width: int, blocks: int, lanes: int, whole: bool = False) -> Tile:
    """The best tile for rows of that width and so many blocks of filters.

    With ``whole`` the tiles divide the blocks.
    """

    def step(pixels: int, vectors: int) -> float:
        # Cycles for one channel: the multiply-adds or their latency, and some for the loads.
        return max(pixels * vectors, LATENCY) + 0.25 * (pixels + 2 * vectors) + 1

    def cost(tile: Tile) -> float:
        full, rest = divmod(width, tile.pixels)
        row = full * step(tile.pixels, tile.vectors)
        if rest:  # a second tile, which has to be compiled, too
            row = (row + step(rest, tile.vectors)) * 1.03
        return row * -(-blocks // tile.vectors)

    candidates = [
        Tile(pixels, vectors)
        for vectors in range(1, 5)
        if vectors <= blocks and not (whole and blocks % vectors)
        for pixels in range(1, min(width, (REGISTERS[lanes] - 1 - vectors) // vectors) + 1)
    ]
    return min(candidates, key=cost)


def recipe(family: Convolution, images: Images, threads: int, exact: bool = False) -> Recipe:
    """Pack the weights (once, where they do not change), pad the input, convolve.

    With ``exact`` long sums are added up from shorter ones, which rounds less.
    """
    calls: list[Call] = []
    temporaries: list[tuple[str, int]] = []
    parts = parts_of(family)
    reason = ""
    for number, part in enumerate(parts):
        mark = str(number) if len(parts) > 1 else ""
        forward = replace(turned(family), geometry=part.geometry)
        if family.direction == "forward":
            forward = _flattened(forward)
        reason = _add(forward, part, family, images, threads, exact, mark, calls, temporaries)
    return Recipe(tuple(calls), tuple(temporaries), reason)


def _add(
    family: Convolution,
    part: Part,
    original: Convolution,
    images: Images,
    threads: int,
    exact: bool,
    mark: str,
    calls: list[Call],
    temporaries: list[tuple[str, int]],
) -> str:
    """Add the calls and temporaries of one part; returns how it is computed, for people."""
    grouping = _grouping(family)
    assert grouping is not None
    s = sizes_of(family.geometry)
    lanes = family.y_lanes
    blocks = -(-family.filters // lanes)
    each = -(-grouping.filters // lanes)
    edges = None if exact else edges_of(family)
    tile = edges.tile if edges else tile_of(s.OW, each, lanes, whole=grouping.count > 1)
    tiles = -(-blocks // tile.vectors)
    packed, source = f"packed{mark}", "in0"
    size = tiles * tile.vectors * lanes * grouping.channels * s.taps
    temporaries.append((packed, max(size, 1)))
    groups = (
        family.filters,
        family.filters // family.groups,
        family.channels // family.groups,
        grouping.channels,
        tiles // grouping.count,
    )
    mirrored = original.direction == "input"
    window = triple(original.geometry.window, 1)
    taken = (*triple(part.taken, 0), *triple(part.step, 1)) if mirrored else ()
    calls.append(
        Call(
            pack_kernel(lanes * tile.vectors, family.x_lanes, mirrored),
            ("in1", packed),
            (*groups, *window, *((*taken, s.KD, s.KH, s.KW) if mirrored else ())),
            tiles,
            size,
        )
    )
    depth, height, width = s.D, s.H, s.W
    channel_blocks = -(-family.channels // family.x_lanes)
    apart = images.blocks(0, s.inputs * family.x_lanes) or channel_blocks
    if edges is None and s.taps and not s.inside:
        source = f"padded{mark}"
        depth, height, width = s.padded_depth, s.padded_height, s.padded_width
        calls.append(
            pad_call(s, family.batch, channel_blocks, apart, family.x_lanes, "in0", source)
        )
        pixels = family.batch * channel_blocks * s.padded_pixels
        temporaries.append((source, pixels * family.x_lanes))
        apart = channel_blocks
    parts, filters_outermost = _division(family, s, tiles, threads)
    chunks = family.batch * parts
    span = max(1, SUMMED // (family.x_lanes * max(s.taps, 1)))
    split = exact and span * family.x_lanes < grouping.channels
    count = 2 + family.bias + (len(family.epilogue.present) if family.epilogue else 0)
    step, first = triple(part.step, 1), triple(part.first, 0)
    # The part's results may be some of all.
    full = triple(original.geometry.input, 1) if mirrored else (s.OD, s.OH, s.OW)
    calls.append(
        Call(
            _kernel(tile, s.OW % tile.pixels, s.SW, step[2], family, split, edges),
            (source, packed, *(f"in{k}" for k in range(2, count)), "out"),
            (
                family.batch,
                grouping.channels,
                apart,
                -(-grouping.channels // family.x_lanes),
                family.filters,
                blocks,
                images.blocks(RESULT, math.prod(full) * lanes) or blocks,
                tiles,
                tiles // grouping.count,
                *(depth, height, width, s.OD, s.OH, s.OW, s.KD, s.KH, s.KW),
                *(s.SD, s.SH, s.DD, s.DH, s.DW),
                *(*full, *step[:2], *first),
                parts,
                chunks,
                *((span,) if split else ()),
                *((s.PD, s.PH) if edges else ()),
                *((chunks, 1) if filters_outermost else (1, tiles)),
            ),
            tiles * chunks,
            products(family, edges) * tiles * tile.vectors * grouping.channels,
        )
    )
    return f"direct, {tile.pixels} pixels × {tile.vectors * lanes} filters in registers"


def _flattened(family: Convolution) -> Convolution:
    """A pointwise convolution of small images as one of a long row, which tiles fill better."""
    g = family.geometry
    plain = set(g.window) == set(g.stride) == {1} and set(g.before) == {0} and g.input == g.output
    width = g.output[-1]
    pixels = 1
    for size in g.output:
        pixels *= size
    if not plain or len(g.output) == 1 or pixels > 256 or width % 13 == 0 or width % 14 == 0:
        return family
    epilogue = family.epilogue.flattened(trailing=1) if family.epilogue else None
    one = (1,)
    row = Geometry((pixels,), (pixels,), one, one, (0,), one)
    return replace(family, geometry=row, epilogue=epilogue)


@dataclass(frozen=True)
class Edges:
    """The rows of a small image with windows over its border, when a tile is as wide as they are.

    Which elements of a window a pixel meets is known then, so that none is multiplied with zeros.
    """

    tile: Tile
    meets: tuple[tuple[tuple[int, int], ...], ...]
    """Per column of the window: the pixels of the tile that it meets, and the columns of x."""

    @property
    def products(self) -> int:
        """Pairs of a pixel of a row and a column of the window."""
        return sum(map(len, self.meets))


def edges_of(family: Convolution) -> Edges | None:
    """The rows of a forward convolution at stride 1, where they are short and it pays."""
    s = sizes_of(family.geometry)
    blocks = -(-family.filters // family.y_lanes)
    registers = REGISTERS[family.y_lanes]
    vectors = min(blocks, (registers - 1) // (s.OW + 1))
    if family.x_lanes == 1 or family.groups > 1 or s.inside or s.SW > 1 or s.KW > MOST_COLUMNS:
        return None
    if vectors < 1:
        return None
    reached = [[(p, p + k * s.DW - s.PW) for p in range(s.OW)] for k in range(s.KW)]
    meets = tuple(tuple((p, x) for p, x in row if 0 <= x < s.W) for row in reached)
    edges = Edges(Tile(s.OW, vectors), meets)
    return edges if edges.products < WORTH_EDGES * s.OW * s.KW else None


def products(family: Convolution, edges: Edges | None) -> int:
    """Pairs of a pixel and an element of the window that a forward convolution multiplies."""
    s = sizes_of(family.geometry)
    if edges is None:
        return family.batch * s.outputs * s.taps
    depth = _inside(s.D, s.OD, s.KD, s.SD, s.PD, s.DD)
    height = _inside(s.H, s.OH, s.KH, s.SH, s.PH, s.DH)
    return family.batch * depth * height * edges.products


def _inside(size: int, results: int, window: int, stride: int, before: int, apart: int) -> int:
    """Pairs of a result and an element of its window that meet inside an axis."""
    met = (o * stride + k * apart - before for o in range(results) for k in range(window))
    return sum(0 <= at < size for at in met)


def _division(family: Convolution, s: Sizes, tiles: int, threads: int) -> tuple[int, bool]:
    """Into how many parts an image's rows are cut, and whether units sweep images within filters.

    What is swept again and again, the images or the weights, comes from the second-level cache if
    it fits there, else from farther away.
    """
    rows = s.OD * s.OH
    image = 4 * family.channels * s.W * s.SH * rows
    weights = 4 * family.filters * family.channels // family.groups * s.taps
    images = family.batch * image
    parts = max(1, min(rows, -(-image // NEAR)))

    def moved(swept: int, sweeps: int, once: int) -> int:
        return once + swept * (sweeps if swept > 2 * NEAR else 1)

    filters_outermost = moved(images, tiles, weights) < moved(weights, family.batch * parts, images)
    if filters_outermost:
        parts = 1

    def longest(parts: int) -> int:
        """Rows × tiles of the thread that has most."""
        units = family.batch * parts * tiles

        def before(unit: int) -> int:
            chunk = unit % (family.batch * parts) if filters_outermost else unit // tiles
            here = chunk // parts * rows + chunk % parts * rows // parts
            if filters_outermost:
                return unit // (family.batch * parts) * family.batch * rows + here
            return here * tiles + unit % tiles * (rows // parts)

        ends = [before(units * t // threads) for t in range(threads + 1)]
        return max(end - start for start, end in itertools.pairwise(ends))

    candidates = range(parts, min(rows, parts + 2 * threads) + 1)
    # A cut costs something, too.
    return min(candidates, key=lambda parts: longest(parts) * (100 + parts)), filters_outermost


def pack_kernel(block: int, channels: int, mirrored: bool) -> Kernel:
    """Weights F×CG×window, ``block`` filters side by side, by groups of blocks of ``channels``.

    Where groups of blocks hold several groups, weights between those are zero. Mirrored, filters
    and channels change places and the window is turned round; of its elements some may be taken.
    """
    sizes = ["F", "FG", "CG", "C", "tiles", "KD", "KH", "KW"]
    if mirrored:
        sizes += ["RD", "RH", "RW", "SD", "SH", "SW", "MD", "MH", "MW"]
        row = "channel * FG + f % FG"
        kz, ky, kx = (
            f"(R{a} + S{a} * (M{a} - 1 - k{b}))" for a, b in zip("DHW", "zyx", strict=True)
        )
    else:
        row = "f * CG + channel % CG"
        kz, ky, kx = "kz", "ky", "kx"
    extent = "M" if mirrored else "K"
    body = [
        "for unit in range(begin, end):",
        f"    at = unit * C * {extent}D * {extent}H * {extent}W * {block}",
        "    first = (unit // tiles) * C",
        f"    for start in range(0, C, {channels}):",
        f"        for kz in range({extent}D):",
        f"            for ky in range({extent}H):",
        f"                for kx in range({extent}W):",
        f"                    k = ({kz} * KH + {ky}) * KW + {kx}",
        f"                    for c in range(start, min(start + {channels}, C)):",
        "                        channel = first + c",
        f"                        for f in range(unit * {block}, unit * {block} + {block}):",
        "                            if f < F and f // FG == channel // CG:",
        f"                                packed[at] = w[({row}) * KD * KH * KW + k]",
        "                            else:",
        "                                packed[at] = float32(0.0)",
        "                            at += 1",
    ]
    return kernel(
        f"pack_{channels}x{block}" + ("_mirrored" if mirrored else ""),
        [("w", "float32"), ("packed", "float32")],
        sizes,
        body,
        f"packed[F/{block}, C/{channels}, window, {channels}, {block}] from "
        + ("mirrored weights" if mirrored else "w[F, CG, window]")
        + "; a unit per tile of filters.",
    )


SIZES = (
    *("N", "C", "XB", "CB", "F", "FB", "YB", "tiles", "each"),
    *("D", "H", "W", "OD", "OH", "OW", "KD", "KH", "KW", "SD", "SH", "DD", "DH", "DW"),
    *("YD", "YH", "YW", "TD", "TH", "first_z", "first_y", "first_x"),
    *("parts", "chunks"),
)


def _kernel(
    tile: Tile,
    rest: int,
    stride: int,
    step: int,
    family: Convolution,
    split: bool,
    edges: Edges | None,
) -> Kernel:
    body = [
        "P = YD * YH * YW",
        "for unit in range(begin, end):",
        "    tile = unit // by_filters % tiles",
        f"    fb = tile * {tile.vectors}",
        "    xb = tile // each * CB",
        "    chunk = unit // by_chunks % chunks",
        "    n = chunk // parts",
        "    cut = chunk % parts",
        "    for row in range(cut * OD * OH // parts, (cut + 1) * OD * OH // parts):",
        "        oz = row // OH",
        "        oy = row % OH",
        "        place = ((oz * TD + first_z) * YH + oy * TH + first_y) * YW + first_x",
        "        ox = 0",
        f"        while ox + {tile.pixels} <= OW:",
        *_indent(3, _tile(tile, stride, step, family, split, edges)),
        f"            ox += {tile.pixels}",
        *_indent(2, _tile(Tile(rest, tile.vectors), stride, step, family, split) if rest else []),
    ]
    pointers = [("x", "float32"), ("packed", "float32")]
    if family.bias:
        pointers.append(("b", "float32"))
    if family.epilogue:
        pointers += family.epilogue.operands
    lanes, wide = family.y_lanes, tile.vectors * family.y_lanes
    name = f"convolution_{tile.pixels}x{wide}_stride{stride}" + (f"_into{step}" if step > 1 else "")
    source = "x[N, C, D, H, W]" if family.x_lanes == 1 else f"x[N, XB, D, H, W, {family.x_lanes}]"
    return kernel(
        name
        + ("_split" if split else "")
        + ("_edges" if edges else "")
        + ("_plain" if family.x_lanes == 1 else "")
        + ("_bias" if family.bias else ""),
        [*pointers, ("y", "float32")],
        (
            *SIZES,
            *(["span"] if split else []),
            *(["PD", "PH"] if edges else []),
            *("by_filters", "by_chunks"),
        ),
        body,
        f"y[N, YB, OD, OH, OW, {lanes}] from {source}; a unit per {wide} filters and rows.",
        ("contract",),
        lanes,
        _finish(family).function,
    )


def _finish(family: Convolution) -> lanewise.Finish:
    return lanewise.Finish(family.epilogue, family.y_lanes, "b" if family.bias else "")


def _indent(depth: int, lines: list[str]) -> list[str]:
    return [INDENT * depth + line for line in lines]


def _tile(
    tile: Tile,
    stride: int,
    spread: int,
    family: Convolution,
    split: bool,
    edges: Edges | None = None,
) -> list[str]:
    """Statements that compute and store the tile at column ox of a row.

    With ``split`` its sums over ``span`` blocks of channels at a time are added up.
    """
    lanes, channels = family.y_lanes, family.x_lanes
    pixels, vectors = range(tile.pixels), range(tile.vectors)
    block = tile.vectors * lanes
    scaled = f" * {channels}" if channels > 1 else ""
    start = "(((n * XB + xb + cb) * D + oz * SD + kz * DD) * H + oy * SH + ky * DH) * W"
    along = "ox" if spread == 1 else f"ox * {spread}"

    def result(v: int | str) -> str:
        return f"((n * YB + fb + {v}) * P + place + {along}) * {lanes}"

    finish = _finish(family)
    # Blocks of channels lie too far apart for hardware to foresee the next one, and what sums meet
    # in the end is far away, too: a line of each is fetched along with every channel.
    coming = [("near", "x", f"at + D * H * W{scaled}", stride * channels)]
    for e in finish.whole:
        coming.append((f"late_{e}", e, result(f"cb % {tile.vectors}"), spread * lanes))
    step = [f"w{v} = load(packed, k + {v * lanes})" for v in vectors]
    for p in pixels:
        step.append(f"pixel = splat(x, c + {p * stride * channels})")
        step += [f"s{p}_{v} = fma(pixel, w{v}, s{p}_{v})" for v in vectors]
    step.append(f"k += {block}")
    taps = (
        ["c = at", *step]
        if channels == 1
        else [
            *(f"{line} = {first}" for line, _, first, _ in coming),
            "for c in range(at, at + here):",
            *(f"    prefetch({buffer}, {line})" for line, buffer, _, _ in coming),
            *(f"    {line} += {distance}" for line, _, _, distance in coming),
            *_indent(1, step),
        ]
    )
    sums = [f"s{p}_{v}" for p in pixels for v in vectors]
    blocks = (
        _within(edges, channels, lanes)
        if edges
        else [
            *([f"here = min({channels}, C - cb * {channels})"] if channels > 1 else []),
            "for kz in range(KD):",
            "    for ky in range(KH):",
            f"        at = ({start} + ox * {stride}){scaled}",
            "        for kx in range(KW):",
            *_indent(3, taps),
            f"            at += DW{scaled}",
        ]
    )
    lines = [f"{'total_' if split else ''}{name} = zero()" for name in sums]
    if edges is None:
        lines.append(f"k = tile * C * KD * KH * KW * {block}")
    if split:
        lines += [
            "for begin_cb in range(0, CB, span):",
            *_indent(1, [f"{name} = zero()" for name in sums]),
            "    for cb in range(begin_cb, min(begin_cb + span, CB)):",
            *_indent(2, blocks),
            *_indent(1, [f"total_{name} = total_{name} + {name}" for name in sums]),
        ]
    else:
        lines += ["for cb in range(CB):", *_indent(1, blocks)]
    for v in vectors:
        here = f"fb + {v}"
        stores = finish.before("n", here, str(v))
        stores.append(f"at = {result(v)}")
        for p in pixels:
            at = f"at + {p * spread * lanes}"
            pixel = f"place + {along} + {p * spread}"
            value = finish.value(
                f"{'total_' if split else ''}s{p}_{v}", "n", here, pixel, at, str(v)
            )
            stores.append(f"store(y, {at}, {value})")
        # The last tile may have fewer blocks of filters than vectors.
        lines += [f"if {here} < FB:", *_indent(1, stores)] if v else stores
    return lines


def _within(edges: Edges, channels: int, lanes: int) -> list[str]:
    """Statements that sum up block cb of the channels where windows are inside the input."""
    vectors = range(edges.tile.vectors)
    block = edges.tile.vectors * lanes
    inner = []
    for meets in edges.meets:
        step = [f"w{v} = load(packed, k + {v * lanes})" for v in vectors]
        for p, column in meets:
            step.append(f"pixel = splat(x, c + {column * channels})")
            step += [f"s{p}_{v} = fma(pixel, w{v}, s{p}_{v})" for v in vectors]
        step.append(f"k += {block}")
        inner += ["for c in range(row, row + here):", *_indent(1, step)]
    return [
        f"here = min({channels}, C - cb * {channels})",
        "for kz in range(KD):",
        "    for ky in range(KH):",
        "        iz = oz * SD + kz * DD - PD",
        "        iy = oy * SH + ky * DH - PH",
        "        if iz < 0 or iz >= D or iy < 0 or iy >= H:",
        "            continue",
        f"        row = (((n * XB + xb + cb) * D + iz) * H + iy) * W * {channels}",
        f"        k = (tile * C + cb * {channels}) * KD * KH * KW * {block}",
        f"        k += (kz * KH + ky) * KW * here * {block}",
        *_indent(2, inner),
    ]
