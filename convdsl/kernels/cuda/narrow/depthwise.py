"""Depthwise convolution of feature maps in blocks of channels: a window of its own for every lane.

There is nothing to multiply on tensor cores, and memory is what it waits for. A thread has four
lanes of a few results side by side, so that it reads an input once for all windows of a row that
hold it. The gradient by the input consists of such convolutions of dy; for the one by the weights
a thread keeps the sums of its lanes and a block adds them up. Sums and weights are float32.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, replace

from convdsl.kernels.cuda.convolution import pack
from convdsl.kernels.cuda.frame import (
    EVERY,
    PLAIN,
    WARP,
    blocks,
    decode,
    indent,
    kernel,
    over,
    result_gaps,
    used,
)
from convdsl.kernels.cuda.narrow.results import Blocks
from convdsl.kernels.cuda.results import QUAD, Result, combine
from convdsl.kernels.cuda.tiles import PROCESSORS
from convdsl.kernels.parts import Part, has_parts, parts_of, turned
from convdsl.kernels.sizes import Sizes, sizes_of, triple
from convdsl.ops.families import Axis, Convolution
from convdsl.plan.model import CONTIGUOUS, RESULT, Call, Images, Kernel, Recipe

RUN = 4
"""Neighbouring results of a thread."""
MOST_SUMS = 64
"""Of a thread, for the gradient by the weights: elements of the window times lanes."""
SIZES = (
    *("size", "N", "B", "F", "XB", "DB", "P", "apart", "last", "runs", "width", "D", "H", "W"),
    *("OD", "OH", "OW", "KD", "KH", "SD", "SH", "PD", "PH", "PW", "DD", "DH"),
    *("YB", "YP", "YH", "YW", "FD", "FH", "FW", "TD", "TH", "TW", "splits", "total_runs"),
)


def fits(family: Convolution) -> bool:
    """Whether this generator computes the convolution: a filter a channel, all in blocks."""
    if not family.groups == family.channels == family.filters:
        return False
    if family.x_lanes != family.y_lanes or family.x_lanes < QUAD:
        return False
    if family.direction == "weight":
        return bool(_lanes_at_once(sizes_of(family.geometry).taps))
    if family.epilogue and not family.epilogue.planar(trailing=1):
        return False
    return has_parts(family)


def recipe(family: Convolution, images: Images = CONTIGUOUS) -> Recipe:
    """Pack the weights (once, where they do not change) and convolve, per part where several; for
    the weights one launch, and a sum of its parts where it is split."""
    if family.direction == "weight":
        return _weight_gradient(family, images)
    calls: list[Call] = []
    temporaries: list[tuple[str, int]] = []
    parts = parts_of(family)
    width = -(-family.channels // family.x_lanes) * family.x_lanes
    # The weights are those of a convolution of one channel to as many filters.
    forward = family.direction == "forward"
    sides = (1, family.filters) if forward else (family.channels, 1)
    single = replace(family, groups=1, channels=sides[0], filters=sides[1])
    for number, part in enumerate(parts):
        packed = f"packed{number}" if len(parts) > 1 else "packed"
        s = sizes_of(part.geometry)
        temporaries.append((packed, max(1, s.taps * width)))
        if s.taps:
            calls.append(pack(single, part, (s.taps, width, s), False, packed))
        calls.append(_call(family, part, packed, images))
    reason = f"depthwise, {RUN} neighbouring results of {QUAD} channels to a thread"
    return Recipe(tuple(calls), tuple(temporaries), reason)


def _call(original: Convolution, part: Part, packed: str, images: Images) -> Call:
    family = replace(turned(original), geometry=part.geometry)
    s = sizes_of(part.geometry)
    lanes = family.x_lanes
    spread = original.direction == "input" and max(original.geometry.stride) > 1
    epilogue = family.epilogue.flattened(trailing=1) if family.epilogue else None
    gaps = result_gaps(images, epilogue, 3 if family.bias else 2).from_result()
    result = Blocks(lanes, family.bias, epilogue, gaps)
    made = _kernel(result, s, spread)
    held = -(-family.channels // lanes)
    full = triple(original.geometry.input, 1) if spread else (s.OD, s.OH, s.OW)
    runs = -(-s.OW // RUN)
    size = family.batch * held * s.OD * s.OH * runs * (lanes // QUAD)
    own = held * math.prod(full) * lanes
    named = {
        "size": size,
        "N": family.batch,
        "B": held,
        "XB": held + images.gap(0) // (s.inputs * lanes),
        "apart": own + images.gap(RESULT),
        "last": family.channels - 1,
        "runs": runs,
        "width": held * lanes,
        "YB": held,
        "YP": math.prod(full),
        **asdict(s),
        **gaps.sizes,
    }
    if spread:
        first, step = triple(part.first, 0), triple(part.step, 1)
        for letter, values in (("Y", full), ("F", first), ("T", step)):
            named |= {letter + axis: v for axis, v in zip("DHW", values, strict=True)}
    given = tuple(named[name] for name in made.sizes)
    operands = ("in0", packed, *result.operands, "out")
    cost = family.batch * family.channels * s.outputs * s.taps
    return Call(made, operands, given, blocks(size), cost)


def _kernel(result: Blocks, s: Sizes, spread: bool) -> Kernel:
    lanes = result.lanes
    axes = (("image", "N"), ("block", "B"), ("oz", "OD"), ("oy", "OH"), ("run", "runs"))
    totals = [[f"total{q}_{k}" for k in range(QUAD)] for q in range(RUN)]
    row = []
    for tap in range(s.KW):
        weights = ", ".join(f"w{tap}_{k}" for k in range(QUAD))
        place = f"(tap + {tap}) * width + channel" if tap else "tap * width + channel"
        row.append(f"{weights} = load4(packed, {place})")
    for column, pairs in _columns(s):
        products = [
            f"{totals[q][k]} += x_{k} * w{tap}_{k}" for q, tap in pairs for k in range(QUAD)
        ]
        row += [*_input(column, "line", lanes), *products]
    lines = [
        *_position("number", lanes),
        *decode([Axis(*axis) for axis in axes], "unit"),
        f"channel = block * {lanes} + lane",
        f"ox = run * {RUN}",
        f"first = ox * {s.SW} - PW",
        *(f"{name} = float32(0.0)" for names in totals for name in names),
        "for kz in range(KD):",
        "    z = oz * SD + kz * DD - PD",
        "    for ky in range(KH):",
        "        y_ = oy * SH + ky * DH - PH",
        "        if (0 <= z) & (z < D) & (0 <= y_) & (y_ < H):",
        "            line = (((image * XB + block) * D + z) * H + y_) * W",
        f"            tap = (kz * KH + ky) * {s.KW}",
        *indent(3, row),
    ]
    pixel = "(oz * OH + oy) * OW + ox"
    step = ""
    if spread:
        pixel = "((oz * TD + FD) * YH + oy * TH + FH) * YW + ox * TW + FW"
        step = " * TW"
    lines += [f"start = {pixel}", f"base = image * apart + block * (YP * {lanes}) + lane"]
    for q, names in enumerate(totals):
        loads, values = result.finished(names)
        stored = [
            f"pixel = start + {q}{step}" if q else "pixel = start",
            f"at = base + pixel * {lanes}",
            *loads,
            f"store4(y, at, {', '.join(values)})",
        ]
        lines += [f"if ox + {q} < OW:", *indent(1, stored)]
    body = ["number = int64(cuda.grid(1))", "if number < size:", *indent(1, lines)]
    words = ["depthwise_blocks", f"{s.KW}_stride{s.SW}", f"dilation{s.DW}" if s.DW > 1 else ""]
    words.append("spread" if spread else "")
    return kernel(
        "_".join(word for word in words if word),
        [("x", "float32"), ("packed", "float32"), *result.pointers, ("y", "float32")],
        used((*SIZES, *result.gaps.sizes), body),
        body,
        f"y[N, B, YP, {lanes}] of x[N, XB, D, H, W, {lanes}], a window a channel; {RUN} results of "
        f"{QUAD} channels a thread.",
    )


def _position(number: str, lanes: int) -> list[str]:
    """Statements that find the first lane of a number, and the number of its block."""
    teams = lanes // QUAD
    return [
        f"unit = {over(number, str(teams))}",
        f"lane = ({number} & {teams - 1}) * {QUAD}",
    ]


def _columns(s: Sizes) -> list[tuple[int, list[tuple[int, int]]]]:
    """The columns of the input that a run of results meets, from the first on, and where it does:
    which results, each by which element of the window's row."""
    found: dict[int, list[tuple[int, int]]] = {}
    for result, tap in itertools.product(range(RUN), range(s.KW)):
        found.setdefault(result * s.SW + tap * s.DW, []).append((result, tap))
    return sorted(found.items())


def _input(column: int, line: str, lanes: int, width: int = QUAD) -> list[str]:
    """Statements that load ``x_0``, … of a column; outside they are zero."""
    names = [f"x_{k}" for k in range(width)]
    return [
        f"here = first + {column}" if column else "here = first",
        "if (0 <= here) & (here < W):",
        f"    {', '.join(names)} = load{width}(x, ({line} + here) * {lanes} + lane)",
        "else:",
        *(f"    {name} = float32(0.0)" for name in names),
    ]


# -- the gradient by the weights -------------------------------------------------------------


def _lanes_at_once(taps: int) -> int:
    """How many lanes a thread has, whose sums it keeps in registers; 0 where not even two."""
    return next((lanes for lanes in (QUAD, 2) if taps * lanes <= MOST_SUMS), 0)


def _weight_gradient(family: Convolution, images: Images) -> Recipe:
    s = sizes_of(family.geometry)
    lanes, held = family.x_lanes, -(-family.channels // family.x_lanes)
    runs = -(-s.OW // RUN)
    total = family.batch * s.OD * s.OH * runs
    teams = PLAIN * _lanes_at_once(s.taps) // lanes
    splits = max(1, min(4 * PROCESSORS // held, total // (4 * teams)))
    made = _weight_kernel(s, lanes, splits > 1)
    size = family.channels * s.taps
    named = {
        "size": size,
        "F": family.channels,
        "XB": held + images.gap(0) // (s.inputs * lanes),
        "DB": held + images.gap(1) // (s.outputs * lanes),
        "P": s.outputs,
        "runs": runs,
        "splits": splits,
        "total_runs": total,
        **asdict(s),
    }
    target = "partials" if splits > 1 else "out"
    given = tuple(named[name] for name in made.sizes)
    cost = size * family.batch * s.outputs
    calls = [Call(made, ("in0", "in1", target), given, held * splits, cost)]
    temporaries: tuple[tuple[str, int], ...] = ()
    if splits > 1:
        temporaries = ((target, size * splits),)
        calls.append(combine(Result(1 if size % QUAD else QUAD), splits, (1, 1, size), target))
    reason = f"depthwise, {PLAIN} threads a block of channels"
    return Recipe(
        tuple(calls), temporaries, reason + (f", in {splits} parts" if splits > 1 else "")
    )


def _weight_kernel(s: Sizes, lanes: int, partial: bool) -> Kernel:
    taps, width = s.taps, _lanes_at_once(s.taps)
    teams = lanes // width
    sums = [[f"total{tap}_{k}" for k in range(width)] for tap in range(taps)]
    every = [name for names in sums for name in names]
    adding = []
    for q in range(RUN):
        names = [f"dy{q}_{k}" for k in range(width)]
        adding += [
            f"if ox + {q} < OW:",
            f"    {', '.join(names)} = load{width}(dy, (at + {q}) * {lanes} + lane)",
            "else:",
            *(f"    {name} = float32(0.0)" for name in names),
        ]
    for kz, ky in itertools.product(range(s.KD), range(s.KH)):
        inner = []
        for column, pairs in _columns(s):
            inner += _input(column, "line", lanes, width)
            for q, kx in pairs:
                names = sums[(kz * s.KH + ky) * s.KW + kx]
                inner += [f"{name} += x_{k} * dy{q}_{k}" for k, name in enumerate(names)]
        adding += [
            f"z = oz * SD + {kz} * DD - PD",
            f"y_ = oy * SH + {ky} * DH - PH",
            "if (0 <= z) & (z < D) & (0 <= y_) & (y_ < H):",
            "    line = (((image * XB + block) * D + z) * H + y_) * W",
            *indent(1, inner),
        ]
    warps = PLAIN // WARP
    first = f"split * each + ({over('thread', str(teams))})"
    target = f"(block * {lanes} + lane) * {taps} + tap" + (" + split * size" if partial else "")
    body = [
        f"shared = shared_floats({taps * lanes * warps})",
        "thread = int64(cuda.threadIdx.x)",
        f"lane = (thread & {teams - 1}) * {width}",
        "unit = int64(cuda.blockIdx.x)",
        "block = quotient(unit, splits)",
        "split = unit - block * splits",
        "each = quotient(total_runs + splits - 1, splits)",
        "end = min((split + 1) * each, total_runs)",
        *(f"{name} = float32(0.0)" for name in every),
        f"for number in range({first}, end, {PLAIN // teams}):",
        *indent(
            1,
            [
                "row = quotient(number, runs)",
                f"ox = (number - row * runs) * {RUN}",
                "plane = quotient(row, OH)",
                "oy = row - plane * OH",
                "image = quotient(plane, OD)",
                "oz = plane - image * OD",
                f"first = ox * {s.SW} - PW",
                "at = (image * DB + block) * P + (oz * OH + oy) * OW + ox",
                *adding,
            ],
        ),
        f"for step in range({6 - teams.bit_length()}):",
        *(f"    {name} += cuda.shfl_xor_sync({EVERY}, {name}, 16 >> step)" for name in every),
        f"if thread & 31 < {teams}:",
        f"    place = (thread >> 5) * {taps * lanes} + lane",
        *(
            f"    shared[place + {tap * lanes + k}] = {name}"
            for tap, names in enumerate(sums)
            for k, name in enumerate(names)
        ),
        "cuda.syncthreads()",
        f"for number in range(thread, {taps * lanes}, {PLAIN}):",
        f"    tap = {over('number', str(lanes))}",
        f"    lane = number & {lanes - 1}",
        "    total = float32(0.0)",
        f"    for warp in range({warps}):",
        f"        total += shared[warp * {taps * lanes} + number]",
        f"    if block * {lanes} + lane < F:",
        f"        y[{target}] = total",
    ]
    window = "x".join(str(k) for k in (s.KD, s.KH, s.KW))
    return kernel(
        f"depthwise_blocks_weight_gradient_{window}_stride{s.SW}" + ("_partial" if partial else ""),
        [("x", "float32"), ("dy", "float32"), ("y", "float32")],
        used(SIZES, body),
        body,
        "y[F, window] of x · dy over images and positions; a block per block of channels and part.",
    )
