"""Pooling and its gradients on the CPU: feature maps in blocks of channels, a vector a position."""

from __future__ import annotations

from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.nests import INDENT
from convdsl.kernels.sizes import sizes_of
from convdsl.ops.families import Pooling, PoolingGradient
from convdsl.plan.model import Call, Kernel, Recipe

SIZES = (
    *("D", "H", "W", "OD", "OH", "OW", "KD", "KH", "KW"),
    *("SD", "SH", "SW", "PD", "PH", "PW", "DD", "DH", "DW"),
)
LIMITS = ("low_z", "low_y", "low_x", "high_z", "high_y", "high_x")


def fits(family: Pooling | PoolingGradient) -> bool:
    """Whether this generator computes the pooling."""
    if isinstance(family, PoolingGradient) and set(family.geometry.dilation) != {1}:
        return False
    return family.lanes > 1


def recipe(family: Pooling | PoolingGradient) -> Recipe:
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
    if isinstance(family, PoolingGradient):
        made = _gradient(family.mode, family.lanes, (s.SD, s.SH, s.SW))
        operands: tuple[str, ...] = (*(f"in{k}" for k in range(len(made.pointers) - 1)), "out")
        work = family.planes * s.D * s.H
    else:
        made, operands = _kernel(family.mode, family.lanes, s.inside), ("in0", "out")
        work = family.planes * s.OD * s.OH
    call = Call(made, operands, sizes, work, family.planes * s.outputs * s.taps)
    return Recipe((call,), reason=f"{family.lanes} channels at a time")


def _kernel(mode: str, lanes: int, inside: bool) -> Kernel:
    # Where no window meets a border, all its elements are inside.
    ends = {"z": ("D", "z"), "y": ("H", "y0"), "x": ("W", "x0")}
    limits = {
        a: ["0", f"K{size}"]
        if inside
        else [
            f"max(0, (D{size} - 1 - {start}) // D{size})",
            f"min(K{size}, ({size} - {start} + D{size} - 1) // D{size})",
        ]
        for a, (size, start) in ends.items()
    }
    body = [
        "for unit in range(begin, end):",
        "    plane = unit // (OD * OH)",
        "    z = unit // OH % OD * SD - PD",
        "    y0 = unit % OH * SH - PH",
        f"    first_z = {limits['z'][0]}",
        f"    last_z = {limits['z'][1]}",
        f"    first_y = {limits['y'][0]}",
        f"    last_y = {limits['y'][1]}",
        "    for ox in range(OW):",
        "        x0 = ox * SW - PW",
        f"        first_x = {limits['x'][0]}",
        f"        last_x = {limits['x'][1]}",
        f"        total = {'zero()' if mode == 'mean' else 'wide(float32(-inf))'}",
        *(["        winner = wide(float32(-1.0))"] if mode == "winner" else []),
        "        for kz in range(first_z, last_z):",
        "            for ky in range(first_y, last_y):",
        "                row = (plane * D + z + kz * DD) * H + y0 + ky * DH",
        f"                at = (row * W + x0 + first_x * DW) * {lanes}",
        "                for kx in range(first_x, last_x):",
        "                    value = load(x, at)",
    ]
    deep = INDENT * 5
    if mode == "mean":
        body.append(f"{deep}total = total + value")
    else:
        # A NaN is kept, the first of them where it is the winner.
        larger = "(value > total) | (value != value)"
        if mode == "winner":
            larger = "(value > total) | ((value != value) & (total == total)) | (winner < 0.0)"
        body.append(f"{deep}larger = {larger}")
        body.append(f"{deep}total = select(larger, value, total)")
    if mode == "winner":
        body.append(f"{deep}number = float32((kz * KH + ky) * KW + kx)")
        body.append(f"{deep}winner = select(larger, number, winner)")
    body.append(f"{deep}at += DW * {lanes}")
    if mode == "mean" and inside:
        body.append("        total = total / float32(KD * KH * KW)")
    elif mode == "mean":
        starts = {"z": "z", "y": "y0", "x": "x0"}
        body += [INDENT * 2 + line for line in _counts(starts)]
        body.append("        total = total / float32(count_z * count_y * count_x)")
    result = "winner" if mode == "winner" else "total"
    body.append(f"        store(y, (unit * OW + ox) * {lanes}, {result})")
    return kernel(
        f"{mode}_pool_{lanes}" + ("" if inside else "_bordered"),
        [("x", "float32"), ("y", "float32")],
        (*SIZES, *LIMITS) if mode == "mean" else SIZES,
        body,
        f"y[planes, OD, OH, OW, {lanes}] from x[planes, D, H, W, {lanes}]; a unit per row.",
        lanes=lanes,
    )


def _counts(starts: dict[str, str]) -> list[str]:
    """How many elements a mean counts along every axis, from where its window starts."""
    sizes = {"z": "KD", "y": "KH", "x": "KW"}
    return [
        f"count_{a} = min({start} + {sizes[a]}, high_{a}) - max({start}, low_{a})"
        for a, start in starts.items()
    ]


def _gradient(mode: str, lanes: int, stride: tuple[int, int, int]) -> Kernel:
    # Position i is element k of the windows that start at i + P − k, where the stride divides that;
    # dividing by a number that is known is much faster.
    by_depth, by_height, by_width = stride
    body = [
        "for unit in range(begin, end):",
        "    plane = unit // (D * H)",
        "    z = unit // H % D + PD",
        "    y0 = unit % H + PH",
        "    for ix in range(W):",
        "        x0 = ix + PW",
        "        total = zero()",
        f"        for kz in range(z % {by_depth}, min(KD, z + 1), {by_depth}):",
        f"            oz = (z - kz) // {by_depth}",
        "            if oz >= OD:",
        "                continue",
        f"            for ky in range(y0 % {by_height}, min(KH, y0 + 1), {by_height}):",
        f"                oy = (y0 - ky) // {by_height}",
        "                if oy >= OH:",
        "                    continue",
        f"                for kx in range(x0 % {by_width}, min(KW, x0 + 1), {by_width}):",
        f"                    ox = (x0 - kx) // {by_width}",
        "                    if ox >= OW:",
        "                        continue",
        f"                    at = (((plane * OD + oz) * OH + oy) * OW + ox) * {lanes}",
    ]
    deep = INDENT * 5
    if mode == "maximum":
        body += [
            f"{deep}here = load(winner, at) == float32((kz * KH + ky) * KW + kx)",
            f"{deep}total = total + select(here, load(dy, at), zero())",
        ]
    else:
        starts = {
            "z": f"oz * {by_depth} - PD",
            "y": f"oy * {by_height} - PH",
            "x": f"ox * {by_width} - PW",
        }
        body += [deep + line for line in _counts(starts)]
        body.append(f"{deep}total = total + load(dy, at) / float32(count_z * count_y * count_x)")
    body.append(f"        store(dx, (unit * W + ix) * {lanes}, total)")
    pointers = [("winner", "float32")] if mode == "maximum" else []
    return kernel(
        f"{mode}_pool_gradient_{lanes}_stride{'x'.join(map(str, stride))}",
        [*pointers, ("dy", "float32"), ("dx", "float32")],
        (*SIZES, *LIMITS) if mode == "mean" else SIZES,
        body,
        f"dx[planes, D, H, W, {lanes}] from dy[planes, OD, OH, OW, {lanes}]; a unit per row.",
        lanes=lanes,
    )
