"""Pooling and its gradients on the CPU: feature maps in blocks of channels, a vector a position."""

from __future__ import annotations

import itertools
import math

from convdsl.kernels.cpu import lanewise
from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.nests import INDENT
from convdsl.kernels.sizes import sizes_of
from convdsl.ops.families import Pooling, PoolingGradient
from convdsl.plan.model import RESULT, Call, Images, Kernel, Recipe

SIZES = (
    *("D", "H", "W", "OD", "OH", "OW", "KD", "KH", "KW"),
    *("SD", "SH", "SW", "PD", "PH", "PW", "DD", "DH", "DW"),
)
IMAGES = ("B", "XB", "YB")
"""Blocks of channels, and how many of them images of x and y lie apart."""
LIMITS = ("low_z", "low_y", "low_x", "high_z", "high_y", "high_x")
UNROLLED = 27
"""Elements up to which a window is written out; a larger one is a loop."""
SUMMED = 16
"""Elements of a row that a mean adds up before it adds the sum to the others."""

Window = tuple[int, int, int]


def fits(family: Pooling | PoolingGradient) -> bool:
    """Whether this generator computes the pooling."""
    if isinstance(family, PoolingGradient):
        if set(family.geometry.dilation) != {1}:
            return False
        if family.epilogue and not family.epilogue.planar(trailing=1):
            return False
    return family.lanes > 1


def recipe(family: Pooling | PoolingGradient, images: Images) -> Recipe:
    """One call; a unit of work is a row of the result."""
    s = sizes_of(family.geometry)
    sizes = tuple(getattr(s, name) for name in SIZES)
    if family.mode == "mean":
        # Between these, padding included where it counts, the elements are in the mean.
        before, inputs = (s.PD, s.PH, s.PW), (s.D, s.H, s.W)
        after = (0, 0, 0, *family.after)[-3:]
        counted = family.count_pad
        sizes += tuple(-b if counted else 0 for b in before)
        sizes += tuple(i + (a if counted else 0) for i, a in zip(inputs, after, strict=True))
    planes = family.batch * family.planes
    if isinstance(family, PoolingGradient):
        made = _tiled_gradient(family, s.KW) if family.tiles else _gradient(family, s.KW)
        sizes += (family.batch, family.planes)
        work = planes * s.D * s.H
    else:
        window = (s.KD, s.KH, s.KW) if s.taps <= UNROLLED else None
        made = _kernel(family.mode, family.lanes, window)
        apart = (
            images.blocks(0, s.inputs * family.lanes) or family.planes,
            images.blocks(RESULT, s.outputs * family.lanes) or family.planes,
        )
        sizes += (family.planes, *apart)
        work = planes * s.OD * s.OH
    operands = (*(f"in{k}" for k in range(len(made.pointers) - 1)), "out")
    call = Call(made, operands, sizes, work, planes * s.outputs * s.taps)
    return Recipe((call,), reason=f"{family.lanes} channels at a time")


def _kernel(mode: str, lanes: int, window: Window | None) -> Kernel:
    def first(size: str, start: str) -> str:
        return f"max(0, (D{size} - 1 - {start}) // D{size})"

    def last(size: str, extent: str, start: str) -> str:
        return f"min(K{size}, ({extent} - {start} + D{size} - 1) // D{size})"

    body = [
        "for unit in range(begin, end):",
        "    row = unit // OH",
        "    oy = unit - row * OH",
        "    place = row // OD",
        "    oz = row - place * OD",
        "    n = place // B",
        "    block = place - n * B",
        "    plane = n * XB + block",
        "    target = (n * YB + block) * OD * OH + oz * OH + oy",
        "    z = oz * SD - PD",
        "    y0 = oy * SH - PH",
        "    whole = z >= 0 and z + (KD - 1) * DD < D and y0 >= 0 and y0 + (KH - 1) * DH < H",
        "    first_z, last_z, first_y, last_y = 0, KD, 0, KH",
        # Divisions take as long as a short row.
        "    if not whole:",
        f"        first_z = {first('D', 'z')}",
        f"        last_z = {last('D', 'D', 'z')}",
        f"        first_y = {first('H', 'y0')}",
        f"        last_y = {last('H', 'H', 'y0')}",
        "    for ox in range(OW):",
        "        x0 = ox * SW - PW",
    ]
    general = [
        f"first_x = {first('W', 'x0')}",
        f"last_x = {last('W', 'W', 'x0')}",
        *_looped(mode, lanes),
    ]
    if window:
        body += [
            "        if whole and x0 >= 0 and x0 + (KW - 1) * DW < W:",
            *_indent(3, _written_out(mode, lanes, window)),
            "        else:",
            *_indent(3, general),
        ]
    else:
        body += _indent(2, general)
    result = "winner" if mode == "winner" else "total"
    body.append(f"        store(y, (target * OW + ox) * {lanes}, {result})")
    shape = "x".join(map(str, window)) if window else "any"
    return kernel(
        f"{mode}_pool_{lanes}_{shape}",
        [("x", "float32"), ("y", "float32")],
        (*SIZES, *(LIMITS if mode == "mean" else ()), *IMAGES),
        body,
        f"y[N, YB, OD, OH, OW, {lanes}] from x[N, XB, D, H, W, {lanes}]; a unit per row.",
        lanes=lanes,
    )


def _indent(depth: int, lines: list[str]) -> list[str]:
    return [INDENT * depth + line for line in lines]


def _taken(mode: str, number: str) -> list[str]:
    """Statements that let ``value``, the window's element of that number, count."""
    if mode == "mean":
        return ["total = total + value"]
    # A NaN is kept, the first of them where it is the winner.
    if mode == "maximum":
        larger = "(value > total) | (value != value)"
        return [f"larger = {larger}", "total = select(larger, value, total)"]
    return [
        "larger = (value > total) | ((value != value) & (total == total))",
        "total = select(larger, value, total)",
        f"winner = select(larger, float32({number}), winner)",
    ]


def _written_out(mode: str, lanes: int, window: Window) -> list[str]:
    """Statements for a window that meets no border."""
    lines = [f"at = ((plane * D + z) * H + y0) * W * {lanes} + x0 * {lanes}"]
    for number, (kz, ky, kx) in enumerate(itertools.product(*map(range, window))):
        place = f"load(x, at + (({kz} * DD * H + {ky} * DH) * W + {kx} * DW) * {lanes})"
        if number:
            lines += [f"value = {place}", *_taken(mode, str(number))]
        else:
            lines.append(f"total = {place}")
            lines += ["winner = zero()"] if mode == "winner" else []
    if mode == "mean":
        lines.append(f"total = {_divided('total', math.prod(window))}")
    return lines


def _divided(value: str, taps: int) -> str:
    """A value divided by a number."""
    exact = taps & (taps - 1) == 0  # the inverse of a power of two is
    return f"{value} * float32({1 / taps!r})" if exact else f"{value} / float32({taps})"


def _looped(mode: str, lanes: int) -> list[str]:
    """Statements for any window, of which some elements may be outside."""
    lines = [f"total = {'zero()' if mode == 'mean' else 'wide(float32(-inf))'}"]
    if mode == "winner":
        # Where nothing is larger than −∞ the first element inside wins.
        lines.append("winner = wide(float32((first_z * KH + first_y) * KW + first_x))")
    lines += [
        "for kz in range(first_z, last_z):",
        "    for ky in range(first_y, last_y):",
        "        row = (plane * D + z + kz * DD) * H + y0 + ky * DH",
        f"        at = (row * W + x0 + first_x * DW) * {lanes}",
    ]
    step = [
        "    value = load(x, at)",
        *_indent(1, _taken(mode, "(kz * KH + ky) * KW + kx")),
        f"    at += DW * {lanes}",
    ]
    if mode == "mean":
        # Sums of sums round less, where a window is the whole input.
        step = [
            f"for start in range(first_x, last_x, {SUMMED}):",
            "    before = total",
            "    total = zero()",
            f"    for kx in range(start, min(start + {SUMMED}, last_x)):",
            *_indent(1, step),
            "    total = before + total",
        ]
    else:
        step = ["for kx in range(first_x, last_x):", *step]
    lines += _indent(2, step)
    if mode == "mean":
        lines += _counts({"z": "z", "y": "y0", "x": "x0"})
        lines.append("total = total / float32(count_z * count_y * count_x)")
    return lines


def _counts(starts: dict[str, str]) -> list[str]:
    """How many elements a mean counts along every axis, from where its window starts."""
    sizes = {"z": "KD", "y": "KH", "x": "KW"}
    return [
        f"count_{a} = min({start} + {sizes[a]}, high_{a}) - max({start}, low_{a})"
        for a, start in starts.items()
    ]


def _gradient(family: PoolingGradient, width: int) -> Kernel:
    """The kernel for rows of windows of that ``width``: every result adds to its window."""
    mode, lanes = family.mode, family.lanes
    window = width if width <= UNROLLED else None
    finish = lanewise.Finish(family.epilogue, lanes)
    body = [
        "for unit in range(begin, end):",
        "    plane = unit // (D * H)",
        "    z = unit // H % D + PD",
        "    y0 = unit % H + PH",
        f"    start = unit * W * {lanes}",
        "    for ix in range(W):",
        f"        store(dx, start + ix * {lanes}, zero())",
        # Row y is row k of the windows that start at y + P − k, where the stride divides that.
        "    for kz in range(z % SD, min(KD, z + 1), SD):",
        "        oz = (z - kz) // SD",
        "        for ky in range(y0 % SH, min(KH, y0 + 1), SH):",
        "            oy = (y0 - ky) // SH",
        "            if oz >= OD or oy >= OH:",
        "                continue",
        f"            row = ((plane * OD + oz) * OH + oy) * OW * {lanes}",
    ]
    once = [f"dy_here = load(dy, row + ox * {lanes})"]
    if mode == "maximum":
        body.append("            first = (kz * KH + ky) * KW")
        once.append(f"winner_here = load(winner, row + ox * {lanes})")
        part = "select(winner_here == float32(first + {0}), dy_here, zero())"
    else:
        counts = _counts({"z": "oz * SD - PD", "y": "oy * SH - PH", "x": "x0"})
        body += _indent(3, counts[:2])
        once += [counts[2], "dy_here = dy_here / float32(count_z * count_y * count_x)"]
        part = "dy_here"
    add = f"store(dx, at + {{0}} * {lanes}, load(dx, at + {{0}} * {lanes}) + {part})"
    some = ["for kx in range(max(0, -x0), min(KW, W - x0)):", INDENT + add.format("kx")]
    body += [
        "            for ox in range(OW):",
        "                x0 = ox * SW - PW",
        f"                at = start + x0 * {lanes}",
        *_indent(4, once),
    ]
    if window:
        body += [
            "                if x0 >= 0 and x0 + KW <= W:",
            *_indent(5, [add.format(kx) for kx in range(window)]),
            "                else:",
            *_indent(5, some),
        ]
    else:
        body += _indent(4, some)
    if family.epilogue:
        body += _indent(1, [*_place(), *finish.before("n", "fb", "0")])
        total = f"load(dx, start + ix * {lanes})"
        value = finish.value(total, "n", "fb", "place + ix", f"start + ix * {lanes}", "0")
        body += ["    for ix in range(W):", f"        store(dx, start + ix * {lanes}, {value})"]
    return _gradient_kernel(family, f"{mode}_pool_gradient_{lanes}_{window or 'any'}", body)


def _tiled_gradient(family: PoolingGradient, width: int) -> Kernel:
    """The kernel for windows of that ``width`` side by side: every element is written once."""
    mode, lanes = family.mode, family.lanes
    finish = lanewise.Finish(family.epilogue, lanes)

    def stored(total: str, x: str) -> str:
        at = f"start + ({x}) * {lanes}"
        return f"store(dx, {at}, {finish.value(total, 'n', 'fb', f'place + {x}', at, '0')})"

    lines = [f"dy_here = load(dy, row + ox * {lanes})"]
    if mode == "maximum":
        lines.append(f"winner_here = load(winner, row + ox * {lanes})")
        part = "select(winner_here == float32(first + {0}), dy_here, zero())"
    else:
        lines.append(f"dy_here = {_divided('dy_here', math.prod(family.geometry.window))}")
        part = "dy_here"
    window = width if width <= UNROLLED else "any"
    columns = [stored(part.format(kx), f"ox * {width} + {kx}") for kx in range(width)]
    if window == "any":
        columns = ["for kx in range(KW):", INDENT + stored(part.format("kx"), "ox * KW + kx")]
    body = [
        "for unit in range(begin, end):",
        "    plane = unit // (D * H)",
        "    z = unit // H % D",
        "    y0 = unit % H",
        f"    start = unit * W * {lanes}",
        "    oz = z // KD",
        "    oy = y0 // KH",
        f"    row = ((plane * OD + oz) * OH + oy) * OW * {lanes}",
        "    first = (z % KD * KH + y0 % KH) * KW",
        *_indent(1, [*_place(), *finish.before("n", "fb", "0")]),
        "    windows = OW if oz < OD and oy < OH else 0",
        "    for ox in range(windows):",
        *_indent(2, lines),
        *_indent(2, columns),
        "    for ix in range(windows * KW, W):",
        f"        {stored('zero()', 'ix')}",
    ]
    return _gradient_kernel(family, f"{mode}_pool_gradient_{lanes}_tiles_{window}", body)


def _place() -> list[str]:
    """Statements that say where in an image the unit's row is."""
    return [
        "n = plane // FB",
        "fb = plane % FB",
        "P = D * H * W",
        "place = unit % (D * H) * W",
    ]


def _gradient_kernel(family: PoolingGradient, name: str, body: list[str]) -> Kernel:
    mode, lanes = family.mode, family.lanes
    pointers = [("winner", "float32")] if mode == "maximum" else []
    pointers.append(("dy", "float32"))
    if family.epilogue:
        pointers += family.epilogue.operands
    return kernel(
        name,
        [*pointers, ("dx", "float32")],
        (*SIZES, *(LIMITS if mode == "mean" else ()), "N", "FB"),
        body,
        f"dx[N, FB, D, H, W, {lanes}] from dy[N, FB, OD, OH, OW, {lanes}]; a unit per row.",
        lanes=lanes,
        function=lanewise.Finish(family.epilogue, lanes).function,
    )
