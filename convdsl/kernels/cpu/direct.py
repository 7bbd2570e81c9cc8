"""Direct convolution on the CPU: a register tile of pixels × filters, filters along the lanes.

The result lies in blocks of channels, the input in blocks or plain; weights are packed so that the
lanes' weights lie side by side, and every pixel is broadcast against them (Georganas et al. 2018).
A gradient by the input consists of such convolutions itself, of dy with mirrored windows.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from convdsl.kernels.cpu import lanewise, rows
from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.cpu.padding import pad_call
from convdsl.kernels.cpu.tiles import LINE, NEAR, Ahead, Tile, ahead_of, tile_of
from convdsl.kernels.nests import INDENT
from convdsl.kernels.parts import Part, has_parts, parts_of, turned
from convdsl.kernels.sizes import Sizes, sizes_of, triple
from convdsl.ops.families import Convolution, Geometry
from convdsl.plan.model import RESULT, Call, Images, Kernel, Recipe

SUMMED = 512
"""Products that an exact sum adds up at a time."""
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


def recipe(
    family: Convolution,
    images: Images,
    lanes: int,
    registers: int,
    threads: int,
    exact: bool = False,
) -> Recipe:
    """Pack the weights (once, where they do not change), pad the input, convolve.

    ``lanes`` is the processor's vector width, of ``registers`` vectors. With ``exact`` long sums
    are added up from shorter ones, which rounds less.
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
        row = None if exact else rows.row_of(forward, lanes, registers, triple(part.step, 1)[2])
        reason = _add(
            forward, part, family, images, registers, threads, exact, row, mark, calls, temporaries
        )
    return Recipe(tuple(calls), tuple(temporaries), reason)


def _add(
    family: Convolution,
    part: Part,
    original: Convolution,
    images: Images,
    registers: int,
    threads: int,
    exact: bool,
    row: rows.Row | None,
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
    tile = tile_of(s.OW, each, registers, whole=grouping.count > 1)
    vectors = row.vectors if row else tile.vectors
    tiles = -(-blocks // vectors)
    packed, source = f"packed{mark}", "in0"
    size = tiles * vectors * lanes * grouping.channels * s.taps
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
            pack_kernel(lanes * vectors, family.x_lanes, mirrored),
            ("in1", packed),
            (*groups, *window, *((*taken, s.KD, s.KH, s.KW) if mirrored else ())),
            tiles,
            size,
        )
    )
    depth, height, width = s.D, s.H, s.W
    channel_blocks = -(-family.channels // family.x_lanes)
    apart = images.blocks(0, s.inputs * family.x_lanes) or channel_blocks
    if row is None and s.taps and not s.inside:
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
    # The next tile's weights are fetched while this one's are multiplied with all pixels of a unit.
    sweeps = max(1, s.OD * s.OH // parts * (1 if row else -(-s.OW // tile.pixels)))
    loaded = row.vectors * s.KW if row else tile.vectors
    ahead = ahead_of(loaded, lanes, sweeps)
    step, first = triple(part.step, 1), triple(part.first, 0)
    # The part's results may be some of all.
    full = triple(original.geometry.input, 1) if mirrored else (s.OD, s.OH, s.OW)
    calls.append(
        Call(
            _row_kernel(row, step[2], ahead, family)
            if row
            else _tile_kernel(tile, s.OW % tile.pixels, s.SW, step[2], ahead, family, split),
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
                ahead.pace,
                *((s.PD, s.PH) if row else ()),
                *((span,) if split else ()),
                *((chunks, 1) if filters_outermost else (1, tiles)),
            ),
            tiles * chunks,
            rows.time_of(family, row) * tiles * vectors * grouping.channels,
        )
    )
    pixels = s.OW if row else tile.pixels
    return f"direct, {pixels} pixels × {vectors * lanes} filters in registers"


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
    name: str, row: list[str], sizes: list[str], vectors: int, family: Convolution, wide: int
) -> Kernel:
    """The kernel that computes row after row by these statements, in vectors of ``wide`` lanes."""
    lanes = family.y_lanes
    body = [
        "P = YD * YH * YW",
        "for unit in range(begin, end):",
        "    tile = unit // by_filters % tiles",
        f"    fb = tile * {vectors}",
        "    xb = tile // each * CB",
        "    chunk = unit // by_chunks % chunks",
        "    n = chunk // parts",
        "    cut = chunk % parts",
        f"    next = (tile + 1) * C * KD * KH * KW * {vectors * lanes}",
        "    for row in range(cut * OD * OH // parts, (cut + 1) * OD * OH // parts):",
        "        oz = row // OH",
        "        oy = row % OH",
        "        place = ((oz * TD + first_z) * YH + oy * TH + first_y) * YW + first_x",
        *_indent(2, row),
    ]
    pointers = [("x", "float32"), ("packed", "float32")]
    if family.bias:
        pointers.append(("b", "float32"))
    if family.epilogue:
        pointers += family.epilogue.operands
    source = "x[N, C, D, H, W]" if family.x_lanes == 1 else f"x[N, XB, D, H, W, {family.x_lanes}]"
    return kernel(
        name + ("_plain" if family.x_lanes == 1 else "") + ("_bias" if family.bias else ""),
        [*pointers, ("y", "float32")],
        (*SIZES, *sizes, "by_filters", "by_chunks"),
        body,
        f"y[N, YB, OD, OH, OW, {lanes}] from {source}; a unit per {vectors} blocks and rows.",
        ("contract",),
        wide,
        _finish(family).function,
    )


def _row_kernel(row: rows.Row, step: int, ahead: Ahead, family: Convolution) -> Kernel:
    lanes = family.y_lanes
    name = f"convolution_row_of_{row.pixels}x{row.vectors * lanes}"
    if row.paired:
        name += "_in_pairs"
    if step > 1:
        name += f"_into{step}"
    finish = _finish(family, row.paired)
    body = rows.statements(row, family, ahead)
    for v in range(row.vectors):
        results = [(f"s{p}_{v}", p * (2 if row.paired else step)) for p in range(row.pixels)]
        body += _stores(finish, v, "place", results)
    wide = 2 * lanes if row.paired else lanes
    return _kernel(name, body, ["pace", "PD", "PH"], row.vectors, family, wide)


def _tile_kernel(
    tile: Tile, rest: int, stride: int, step: int, ahead: Ahead, family: Convolution, split: bool
) -> Kernel:
    body = [
        "ox = 0",
        f"while ox + {tile.pixels} <= OW:",
        *_indent(1, _tile(tile, stride, step, ahead, family, split)),
        f"    ox += {tile.pixels}",
        *(_tile(Tile(rest, tile.vectors), stride, step, ahead, family, split) if rest else []),
    ]
    name = f"convolution_{tile.pixels}x{tile.vectors * family.y_lanes}_stride{stride}"
    if step > 1:
        name += f"_into{step}"
    if split:
        name += "_split"
    sizes = ["pace", "span"] if split else ["pace"]
    return _kernel(name, body, sizes, tile.vectors, family, family.y_lanes)


def _finish(family: Convolution, paired: bool = False) -> lanewise.Finish:
    return lanewise.Finish(family.epilogue, family.y_lanes, "b" if family.bias else "", paired)


def _indent(depth: int, lines: list[str]) -> list[str]:
    return [INDENT * depth + line for line in lines]


def _tile(
    tile: Tile, stride: int, spread: int, ahead: Ahead, family: Convolution, split: bool
) -> list[str]:
    """Statements that compute and store the tile at column ox of a row.

    With ``split`` its sums over ``span`` blocks of channels at a time are added up.
    """
    lanes, channels = family.y_lanes, family.x_lanes
    pixels, vectors = range(tile.pixels), range(tile.vectors)
    block = tile.vectors * lanes
    scaled = f" * {channels}" if channels > 1 else ""
    start = "(((n * XB + xb + cb) * D + oz * SD + kz * DD) * H + oy * SH + ky * DH) * W"
    first = "place + ox" if spread == 1 else f"place + ox * {spread}"
    finish = _finish(family)
    # Blocks of channels lie too far apart for hardware to foresee the next one, and what sums meet
    # in the end is far away, too: a line of each is fetched along with every channel.
    coming = [("near", "x", f"at + D * H * W{scaled}", max(stride * channels, LINE))]
    for e in finish.whole:
        result = finish.position("n", f"fb + cb % {tile.vectors}", first)
        coming.append((f"late_{e}", e, result, max(spread * lanes, LINE)))
    step = [f"w{v} = load(packed, k + {v * lanes})" for v in vectors]
    for p in pixels:
        step.append(f"pixel = splat(x, c + {p * stride * channels})")
        step += [f"s{p}_{v} = fma(pixel, w{v}, s{p}_{v})" for v in vectors]
    step += [*ahead.statements("packed", lanes), f"k += {block}"]
    taps = (
        ["c = at", *step]
        if channels == 1
        else [
            *(f"{line} = {start}" for line, _, start, _ in coming),
            "for c in range(at, at + here):",
            *(f"    prefetch({buffer}, {line})" for line, buffer, _, _ in coming),
            *(f"    {line} += {distance}" for line, _, _, distance in coming),
            *_indent(1, step),
        ]
    )
    blocks = [
        *([f"here = min({channels}, C - cb * {channels})"] if channels > 1 else []),
        "for kz in range(KD):",
        "    for ky in range(KH):",
        f"        at = ({start} + ox * {stride}){scaled}",
        "        for kx in range(KW):",
        *_indent(3, taps),
        f"            at += DW{scaled}",
    ]
    sums = [f"s{p}_{v}" for p in pixels for v in vectors]
    total = "total_" if split else ""
    lines = [f"{total}{name} = zero()" for name in sums]
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
        results = [(f"{total}s{p}_{v}", p * spread) for p in pixels]
        lines += _stores(finish, v, first, results)
    return lines


def _stores(
    finish: lanewise.Finish, vector: int, first: str, results: list[tuple[str, int]]
) -> list[str]:
    """Statements that store sums of a vector of filters, each so many pixels after the first."""
    here, mark = f"fb + {vector}", str(vector)
    lines = finish.before("n", here, mark)
    lines.append(f"at = {finish.position('n', here, first)}")
    for total, pixel in results:
        at = f"at + {pixel * finish.lanes}"
        value = finish.value(total, "n", here, f"{first} + {pixel}", at, mark)
        lines.append(f"store(y, {at}, {value})")
    # The last tile may have fewer blocks of filters than vectors.
    return [f"if {here} < FB:", *_indent(1, lines)] if vector else lines
