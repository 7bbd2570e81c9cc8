"""Winograd's convolution on the CPU: 3×3 and 5×5 at stride 1 with a third of the multiplications.

Tiles of inputs, transformed, are multiplied with the transformed weights as products of matrices,
one per element of a tile, and transformed back (`kernels.winograd`). F(2×2, 3×3) is for images so
small that reading the weights is what takes time. Groups of tiles go through all three steps while
they are in the cache (Jia et al. 2018). It rounds some ten times as much as the direct sum.
"""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.kernels.cpu import lanewise
from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.cpu.rows import row_of, time_of
from convdsl.kernels.cpu.tiles import LINE, Ahead, Tile, ahead_of, tile_of
from convdsl.kernels.nests import INDENT
from convdsl.kernels.parts import as_forward
from convdsl.kernels.sizes import sizes_of
from convdsl.kernels.winograd import (
    FORMS,
    Form,
    transformed_back,
    transformed_inputs,
    transformed_weights,
)
from convdsl.ops.families import Convolution
from convdsl.plan.model import RESULT, Call, Images, Kernel, Recipe

GROUP = 28
"""Tiles of a group: their products read every weight once, and they stay in the cache."""
STREAM = 5
"""Bytes that come from memory in the time of a vector's multiply-add, for all threads together."""
HELD = 1 << 20
"""Bytes of weights that stay in a cache from one call to the next."""
DIRECT = 1.2
"""Such times that a multiply-add takes in a direct sum, which waits now and then."""
MOVED = 6
"""Such times that a vector's way through the transforms takes, at each point of a tile."""


@dataclass(frozen=True)
class _Division:
    """Tiles in all, groups of how many, and into how many parts the filters of a group are cut."""

    tiles: int
    group: int
    cuts: int


def _division(form: Form, family: Convolution, threads: int) -> _Division:
    s = sizes_of(family.geometry)
    tiles = family.batch * -(-s.OH // form.side) * -(-s.OW // form.side)
    if tiles < threads * GROUP // 2:
        return _Division(tiles, tiles, threads)
    groups = -(-tiles // GROUP)
    groups = -(-groups // threads) * threads
    return _Division(tiles, -(-tiles // groups), 1)


def form_of(family: Convolution, lanes: int, registers: int, threads: int) -> Form | None:
    """The fastest form for the family; None where it has none, or its direct sum is faster.

    ``lanes`` is the processor's vector width, of ``registers`` vectors.
    """
    if family.direction == "weight" or len(family.geometry.window) != 2 or family.groups > 1:
        return None
    g = family.geometry
    if len(set(g.window)) > 1 or set(g.stride) | set(g.dilation) != {1}:
        return None
    family = as_forward(family)
    # Blocks of the input are transformed by vectors of the result's.
    if family.x_lanes == 1 or family.x_lanes % family.y_lanes:
        return None
    if min(family.channels, family.filters) < 4:
        return None
    if family.epilogue is not None and not family.epilogue.planar(trailing=1):
        return None
    s = sizes_of(family.geometry)
    channel_blocks = -(-family.channels // family.x_lanes)
    blocks = -(-family.filters // family.y_lanes)

    def time(pairs: int, points: int, passes: int, transforms: float) -> float:
        # In multiply-adds of a vector; weights come from memory as they are used.
        computed = pairs * family.channels * blocks + transforms
        weights = 4 * family.channels * family.filters * points
        moved = passes * weights / STREAM if weights > HELD else 0.0
        return max(computed / threads, moved)

    def fast(form: Form) -> float:
        division = _division(form, family, threads)
        pairs = division.tiles * form.points
        # Threads that read the same weights do so at about the same time.
        together = division.group * (threads if division.cuts == 1 else 1)
        passes = -(-division.tiles // max(together, 1))
        return time(pairs, form.points, passes, MOVED * pairs * (channel_blocks + blocks))

    direct = DIRECT * time(time_of(family, row_of(family, lanes, registers)), s.taps, 1, 0.0)
    times = {form: fast(form) for form in FORMS if form.window == s.KW}
    best = min(times, key=times.__getitem__, default=None)
    return best if best and times[best] < direct else None


def recipe(family: Convolution, images: Images, form: Form, registers: int, threads: int) -> Recipe:
    """Transform the weights (once, where they do not change), then everything group by group."""
    mirrored = family.direction == "input"
    family = as_forward(family)
    s = sizes_of(family.geometry)
    division = _division(form, family, threads)
    lanes, points = family.y_lanes, form.points
    blocks = -(-family.filters // lanes)
    channel_blocks = -(-family.channels // family.x_lanes)
    tile = tile_of(division.group, blocks, registers, weight=0.5)
    filter_tiles = -(-blocks // tile.vectors)
    wide = tile.vectors * lanes
    held = -(-division.group // tile.pixels) * tile.pixels
    weights = filter_tiles * points * family.channels * wide
    transform = Call(
        _weights_kernel(form, wide, lanes, mirrored),
        ("in1", "transformed"),
        (family.filters, family.channels),
        filter_tiles,
        weights * 4,
    )
    # The transformed inputs, the products, and one tile between its two passes.
    plane = _apart(channel_blocks * held * family.x_lanes)
    sheet = _apart(held * wide)
    scratch = points * (plane + sheet + lanes)
    count = 2 + family.bias + (len(family.epilogue.present) if family.epilogue else 0)
    groups = -(-division.tiles // division.group)
    ahead = ahead_of(tile.vectors, lanes, held // tile.pixels)
    convolve = Call(
        _kernel(form, tile, ahead, family),
        ("in0", "transformed", "scratch", *(f"in{k}" for k in range(2, count)), "out"),
        (
            *(family.batch, family.channels, channel_blocks, family.filters, blocks),
            images.blocks(0, s.inputs * family.x_lanes) or channel_blocks,
            images.blocks(RESULT, s.outputs * lanes) or blocks,
            *(s.H, s.W, s.OH, s.OW, s.PH, s.PW),
            *(division.tiles, division.group, held, plane, sheet, scratch),
            *(filter_tiles, division.cuts, ahead.pace),
        ),
        groups * division.cuts,
        division.tiles * points * family.channels * family.filters // lanes,
    )
    reason = (
        f"Winograd F({form.side}×{form.side}, {s.KW}×{s.KW}), groups of {division.group} tiles, "
        f"{tile.pixels} tiles × {wide} filters in registers"
    )
    temporaries = (("transformed", weights), ("scratch", scratch * threads))
    return Recipe((transform, convolve), temporaries, reason)


def _apart(elements: int) -> int:
    """How far apart to lay planes of so many elements, whose same elements are used together.

    By an odd number of cache lines, so that these do not meet in few sets of the cache.
    """
    lines = -(-elements // LINE)
    return LINE * (lines + (lines % 2 == 0))


def _weights_kernel(form: Form, wide: int, lanes: int, mirrored: bool) -> Kernel:
    """U = G·g·Gᵀ for every filter and channel, filters side by side."""
    window, reach, points = form.window, form.reach, form.points
    # Filters of a vector are this far apart; those beyond the last are read as the last vector's.
    count = window * window
    step = str(count) if mirrored else f"C * {count}"
    start = f"(c * F + f) * {count}" if mirrored else f"(f * C + c) * {count}"
    taps = [(k, count - 1 - k if mirrored else k) for k in range(count)]
    body = [
        "for unit in range(begin, end):",
        f"    for f in range(unit * {wide}, min(unit * {wide} + {wide}, F), {lanes}):",
        f"        whole = f + {lanes} <= F",
        "        for c in range(C):",
        f"            at = (unit * {points} * C + c) * {wide} + f % {wide}",
        f"            start = {start}",
        "            if whole:",
        *_indent(4, [f"g{k} = gather(w, start + {t}, {step})" for k, t in taps]),
        "            else:",
        *_indent(4, [f"g{k} = gather_first(w, start + {t}, {step}, F - f)" for k, t in taps]),
    ]
    for column in range(window):
        weights = [f"g{r * window + column}" for r in range(window)]
        body += _indent(3, transformed_weights(form, weights, f"h{column}_"))
    for row in range(reach):
        body += _indent(3, transformed_weights(form, [f"h{c}_{row}" for c in range(window)], "u"))
        for column in range(reach):
            point = row * reach + column
            body.append(f"            store(packed, at + {point} * C * {wide}, u{column})")
    return kernel(
        f"winograd_weights_{form.side}x{form.side}_{window}x{window}_{wide}"
        + ("_mirrored" if mirrored else ""),
        [("w", "float32"), ("packed", "float32")],
        ["F", "C"],
        body,
        f"packed[F/{wide}, {points}, C, {wide}] from w, transformed; a unit per {wide} filters.",
        ("contract",),
        lanes,
    )


SIZES = ("N", "C", "CB", "F", "FB", "XB", "YB", "H", "W", "OH", "OW", "PH", "PW")
GROUPS = ("tiles", "group", "held", "plane", "sheet", "size", "filter_tiles", "cuts", "pace")


def _kernel(form: Form, tile: Tile, ahead: Ahead, family: Convolution) -> Kernel:
    lanes, side, points = family.y_lanes, form.side, form.points
    wide = tile.vectors * lanes
    finish = lanewise.Finish(family.epilogue, lanes, "b" if family.bias else "")
    body = [
        "P = OH * OW",
        f"TX = (OW + {side - 1}) // {side}",
        f"TY = (OH + {side - 1}) // {side}",
        "own = part * size",
        f"products = own + {points} * plane",
        f"between = products + {points} * sheet",
        "for unit in range(begin, end):",
        "    first = unit // cuts * group",
        "    here = min(group, tiles - first)",
        "    for cb in range(CB):",
        "        for t in range(here):",
        "            n = (first + t) // (TY * TX)",
        f"            y0 = (first + t) // TX % TY * {side} - PH",
        f"            x0 = (first + t) % TX * {side} - PW",
        *_indent(3, _transform_input(form, family.x_lanes, lanes)),
        "    cut = unit % cuts",
        "    for ob in range(cut * filter_tiles // cuts, (cut + 1) * filter_tiles // cuts):",
        f"        for point in range({points}):",
        f"            for t in range(0, here, {tile.pixels}):",
        *_indent(4, _product(form, tile, ahead, family)),
        "        for t in range(here):",
        "            n = (first + t) // (TY * TX)",
        f"            y0 = (first + t) // TX % TY * {side}",
        f"            x0 = (first + t) % TX * {side}",
        *_indent(3, _transform_output(form, tile, finish, lanes)),
    ]
    pointers = [("x", "float32"), ("u", "float32"), ("scratch", "float32")]
    if family.bias:
        pointers.append(("b", "float32"))
    if family.epilogue:
        pointers += family.epilogue.operands
    return kernel(
        f"winograd_{side}x{side}_{form.window}x{form.window}_{tile.pixels}x{wide}"
        + ("_bias" if family.bias else ""),
        [*pointers, ("y", "float32")],
        (*SIZES, *GROUPS),
        body,
        f"y[N, YB, OH, OW, {lanes}] from x[N, XB, H, W, {family.x_lanes}]; "
        "a unit per group of tiles and cut of the filters.",
        ("contract",),
        lanes,
        finish.function,
    )


def _indent(depth: int, lines: list[str]) -> list[str]:
    return [INDENT * depth + line for line in lines]


def _transform_input(form: Form, channels: int, lanes: int) -> list[str]:
    """Statements that transform the inputs of tile t, block cb, into V[points, CB, held, channels].

    A block is transformed by vectors of so many ``lanes``.
    """
    reach = form.reach
    lines = [
        f"start = (((n * XB + cb) * H + y0) * W + x0) * {channels} + first_lane",
        f"for j in range({reach}):",
        "    inside = x0 + j >= 0 and x0 + j < W",
        f"    at = start + j * {channels}",
    ]
    for i in range(reach):
        test = f"inside and y0 + {i} >= 0 and y0 + {i} < H"
        lines.append(f"    d{i} = load(x, at + {i} * W * {channels}) if {test} else zero()")
    lines += _indent(1, transformed_inputs([f"d{i}" for i in range(reach)]))
    lines += [
        f"    store(scratch, between + ({i * reach} + j) * {lanes}, r{i})" for i in range(reach)
    ]
    lines.append(f"for i in range({reach}):")
    for j in range(reach):
        lines.append(f"    d{j} = load(scratch, between + (i * {reach} + {j}) * {lanes})")
    lines += _indent(1, transformed_inputs([f"d{j}" for j in range(reach)]))
    lines.append(f"    at = own + i * {reach} * plane + (cb * held + t) * {channels} + first_lane")
    lines += [f"    store(scratch, at + {j} * plane, r{j})" for j in range(reach)]
    return [f"for first_lane in range(0, {channels}, {lanes}):", *_indent(1, lines)]


def _product(form: Form, tile: Tile, ahead: Ahead, family: Convolution) -> list[str]:
    """Statements that multiply tiles t, t + 1, … at a point with the weights of tile ob."""
    lanes, channels = family.y_lanes, family.x_lanes
    wide = tile.vectors * lanes
    pixels, vectors = range(tile.pixels), range(tile.vectors)
    lines = [f"s{p}_{v} = zero()" for p in pixels for v in vectors]
    lines += [
        f"k = (ob * {form.points} + point) * C * {wide}",
        # The next point's weights are fetched while this one's are multiplied with all tiles.
        f"next = k + C * ({wide} + t // {tile.pixels} * pace)",
        f"at = own + point * plane + t * {channels}",
        "for cb in range(CB):",
        f"    for c in range(at, at + min({channels}, C - cb * {channels})):",
        *(f"        w{v} = load(u, k + {v * lanes})" for v in vectors),
    ]
    for p in pixels:
        lines.append(f"        pixel = splat(scratch, c + {p * channels})")
        lines += [f"        s{p}_{v} = fma(pixel, w{v}, s{p}_{v})" for v in vectors]
    lines += [
        *_indent(2, ahead.statements("u", lanes)),
        f"        k += {wide}",
        f"    at += held * {channels}",
        f"at = products + point * sheet + t * {wide}",
    ]
    lines += [
        f"store(scratch, at + {p * wide + v * lanes}, s{p}_{v})" for p in pixels for v in vectors
    ]
    return lines


def _transform_output(form: Form, tile: Tile, finish: lanewise.Finish, lanes: int) -> list[str]:
    """Statements that turn the products of tile t into results."""
    side, reach, wide = form.side, form.reach, tile.vectors * lanes
    results = []
    for j in range(side):
        at = f"at + {j * lanes}"
        value = finish.value(f"r{j}", "n", "fb", f"pixel + {j}", at, "0")
        results += [f"if x0 + {j} < OW:" if j else "if True:", f"    store(y, {at}, {value})"]
    return [
        f"for v in range(min({tile.vectors}, FB - ob * {tile.vectors})):",
        f"    fb = ob * {tile.vectors} + v",
        *_indent(1, finish.before("n", "fb", "0")),
        f"    for j in range({reach}):",
        f"        at = products + j * sheet + t * {wide} + v * {lanes}",
        *(f"        d{i} = load(scratch, at + {i * reach} * sheet)" for i in range(reach)),
        *_indent(2, transformed_back([f"d{i}" for i in range(reach)], side)),
        *(
            f"        store(scratch, between + ({i * reach} + j) * {lanes}, r{i})"
            for i in range(side)
        ),
        f"    for i in range(min({side}, OH - y0)):",
        *(
            f"        d{j} = load(scratch, between + (i * {reach} + {j}) * {lanes})"
            for j in range(reach)
        ),
        *_indent(2, transformed_back([f"d{j}" for j in range(reach)], side)),
        "        pixel = (y0 + i) * OW + x0",
        f"        at = ((n * YB + fb) * P + pixel) * {lanes}",
        *_indent(2, results),
    ]
