"""Depthwise convolution on the CPU: every channel with a window of its own, channels along lanes.

A tile of neighbouring pixels is in registers while the window moves over it. The gradient by the
input consists of such convolutions of dy, as in a direct convolution.
"""

from __future__ import annotations

import math
from dataclasses import replace

from convdsl.kernels.cpu import lanewise
from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.cpu.padding import pad_call
from convdsl.kernels.nests import INDENT
from convdsl.kernels.parts import Part, has_parts, parts_of, turned
from convdsl.kernels.sizes import sizes_of, triple
from convdsl.ops.families import Convolution
from convdsl.plan.model import RESULT, Call, Images, Kernel, Recipe

PIXELS = 8
"""Pixels of a tile: enough multiply-adds under way to hide their latency."""


def fits(family: Convolution) -> bool:
    """Whether this generator computes the convolution: a filter a channel, all in blocks."""
    if not family.groups == family.channels == family.filters or family.x_lanes == 1:
        return False
    if family.epilogue is not None and not family.epilogue.planar(trailing=1):
        return False
    return has_parts(family)


def recipe(family: Convolution, images: Images) -> Recipe:
    """Pack the weights, pad the input, convolve; or pad x, sum over pixels."""
    if family.direction == "weight":
        return _weight_gradient(family, images)
    calls: list[Call] = []
    temporaries: list[tuple[str, int]] = []
    parts = parts_of(family)
    for number, part in enumerate(parts):
        mark = str(number) if len(parts) > 1 else ""
        _add(family, part, images, mark, calls, temporaries)
    reason = f"depthwise, {family.x_lanes} channels at a time"
    return Recipe(tuple(calls), tuple(temporaries), reason)


def _add(
    original: Convolution,
    part: Part,
    images: Images,
    mark: str,
    calls: list[Call],
    temporaries: list[tuple[str, int]],
) -> None:
    """Add the calls and temporaries of one part."""
    family = replace(turned(original), geometry=part.geometry)
    s, lanes = sizes_of(family.geometry), family.x_lanes
    blocks = -(-family.channels // lanes)
    planes = family.batch * blocks
    packed, source = f"packed{mark}", "in0"
    mirrored = original.direction == "input"
    window = triple(original.geometry.window, 1)
    # Element m of the part's window is element taken + step·m of the whole, turned round.
    taken = triple(part.taken, 0) if mirrored else (0, 0, 0)
    step = triple(part.step, 1)
    sizes = (family.channels, *window, *taken, *step, s.KD, s.KH, s.KW)
    size = blocks * lanes * s.taps
    calls.append(Call(_pack(lanes, mirrored), ("in1", packed), sizes, blocks, size))
    temporaries.append((packed, max(size, 1)))
    depth, height, width = s.D, s.H, s.W
    apart = images.blocks(0, s.inputs * lanes) or blocks
    if s.taps and not s.inside:
        source = f"padded{mark}"
        depth, height, width = s.padded_depth, s.padded_height, s.padded_width
        calls.append(pad_call(s, family.batch, blocks, apart, lanes, "in0", source))
        temporaries.append((source, planes * s.padded_pixels * lanes))
        apart = blocks
    count = 2 + family.bias + (len(family.epilogue.present) if family.epilogue else 0)
    full = triple(original.geometry.input, 1) if mirrored else (s.OD, s.OH, s.OW)
    pixels = min(s.OW, PIXELS)
    calls.append(
        Call(
            _kernel(pixels, s.OW % pixels, s.SW, step[2], family),
            (source, packed, *(f"in{k}" for k in range(2, count)), "out"),
            (
                *(family.batch, family.filters, blocks, apart),
                images.blocks(RESULT, math.prod(full) * lanes) or blocks,
                *(depth, height, width),
                *(s.OD, s.OH, s.OW, s.KD, s.KH, s.KW, s.SD, s.SH, s.DD, s.DH, s.DW),
                *(*full, *step[:2], *triple(part.first, 0)),
            ),
            planes * s.OD * s.OH,
            planes * s.outputs * s.taps,
        )
    )


def _pack(lanes: int, mirrored: bool) -> Kernel:
    place = [
        f"(R{a} + S{a} * (M{a} - 1 - k{b}))" if mirrored else f"k{b}"
        for a, b in zip("DHW", "zyx", strict=True)
    ]
    body = [
        "for block in range(begin, end):",
        f"    at = block * MD * MH * MW * {lanes}",
        "    for kz in range(MD):",
        "        for ky in range(MH):",
        "            for kx in range(MW):",
        f"                k = ({place[0]} * KH + {place[1]}) * KW + {place[2]}",
        f"                for c in range(block * {lanes}, block * {lanes} + {lanes}):",
        "                    packed[at] = w[c * KD * KH * KW + k] if c < C else float32(0.0)",
        "                    at += 1",
    ]
    return kernel(
        f"pack_depthwise_{lanes}" + ("_mirrored" if mirrored else ""),
        [("w", "float32"), ("packed", "float32")],
        ["C", "KD", "KH", "KW", "RD", "RH", "RW", "SD", "SH", "SW", "MD", "MH", "MW"],
        body,
        f"packed[C/{lanes}, window, {lanes}] from w[C, 1, window]; a unit per block.",
    )


SIZES = (
    *("N", "F", "FB", "XB", "YB", "D", "H", "W", "OD", "OH", "OW", "KD", "KH", "KW"),
    *("SD", "SH", "DD", "DH", "DW"),
    *("YD", "YH", "YW", "TD", "TH", "first_z", "first_y", "first_x"),
)


def _kernel(pixels: int, rest: int, stride: int, step: int, family: Convolution) -> Kernel:
    lanes = family.x_lanes
    body = [
        "P = YD * YH * YW",
        "for unit in range(begin, end):",
        "    row = unit % (OD * OH)",
        "    plane = unit // (OD * OH)",
        "    n = plane // FB",
        "    fb = plane % FB",
        "    oz = row // OH",
        "    oy = row % OH",
        "    place = ((oz * TD + first_z) * YH + oy * TH + first_y) * YW + first_x",
        "    ox = 0",
        f"    while ox + {pixels} <= OW:",
        *_indent(2, _tile(pixels, stride, step, family)),
        f"        ox += {pixels}",
        *_indent(1, _tile(rest, stride, step, family) if rest else []),
    ]
    pointers = [("x", "float32"), ("packed", "float32")]
    if family.bias:
        pointers.append(("b", "float32"))
    if family.epilogue:
        pointers += family.epilogue.operands
    return kernel(
        f"depthwise_{pixels}x{lanes}_stride{stride}"
        + (f"_into{step}" if step > 1 else "")
        + ("_bias" if family.bias else ""),
        [*pointers, ("y", "float32")],
        SIZES,
        body,
        f"y[N, YB, OD, OH, OW, {lanes}] from x[N, XB, D, H, W, {lanes}]; a unit per row.",
        ("contract",),
        lanes,
        _finish(family).function,
    )


def _finish(family: Convolution) -> lanewise.Finish:
    return lanewise.Finish(family.epilogue, family.x_lanes, "b" if family.bias else "")


def _indent(depth: int, lines: list[str]) -> list[str]:
    return [INDENT * depth + line for line in lines]


def _tile(pixels: int, stride: int, spread: int, family: Convolution) -> list[str]:
    """Statements that compute and store the pixels at column ox of a row."""
    lanes = family.x_lanes
    start = "(((n * XB + fb) * D + oz * SD + kz * DD) * H + oy * SH + ky * DH) * W"
    lines = [f"s{p} = zero()" for p in range(pixels)]
    lines += [
        f"k = fb * KD * KH * KW * {lanes}",
        "for kz in range(KD):",
        "    for ky in range(KH):",
        f"        at = ({start} + ox * {stride}) * {lanes}",
        "        for kx in range(KW):",
        "            w = load(packed, k)",
        f"            k += {lanes}",
    ]
    for p in range(pixels):
        lines.append(f"            s{p} = fma(load(x, at + {p * stride * lanes}), w, s{p})")
    lines.append(f"            at += DW * {lanes}")
    finish = _finish(family)
    lines += finish.before("n", "fb", "0")
    along = "ox" if spread == 1 else f"ox * {spread}"
    lines.append(f"at = ((n * YB + fb) * P + place + {along}) * {lanes}")
    for p in range(pixels):
        at, pixel = f"at + {p * spread * lanes}", f"place + {along} + {p * spread}"
        lines.append(f"store(y, {at}, {finish.value(f's{p}', 'n', 'fb', pixel, at, '0')})")
    return lines


def _weight_gradient(family: Convolution, images: Images) -> Recipe:
    """Pad x, sum over pixels; a unit of work is an element of the window for a block."""
    s, lanes = sizes_of(family.geometry), family.x_lanes
    blocks = -(-family.channels // lanes)
    calls, temporaries = [], []
    source, depth, height, width = "in0", s.D, s.H, s.W
    apart = images.blocks(0, s.inputs * lanes) or blocks
    if not s.inside:
        source = "padded"
        depth, height, width = s.padded_depth, s.padded_height, s.padded_width
        calls.append(pad_call(s, family.batch, blocks, apart, lanes, "in0", source))
        temporaries.append((source, family.batch * blocks * s.padded_pixels * lanes))
        apart = blocks
    body = [
        "for unit in range(begin, end):",
        "    block = unit // (KD * KH * KW)",
        "    k = unit % (KD * KH * KW)",
        "    kz = k // (KH * KW)",
        "    ky = k // KW % KH",
        "    kx = k % KW",
        "    total = zero()",
        "    for n in range(N):",
        "        for row in range(OD * OH):",
        "            iz = row // OH * SD + kz * DD",
        "            iy = row % OH * SH + ky * DH",
        f"            at = ((((n * XB + block) * D + iz) * H + iy) * W + kx * DW) * {lanes}",
        f"            y = ((n * YB + block) * OD * OH + row) * OW * {lanes}",
        "            partial = zero()",
        "            for ox in range(OW):",
        "                partial = fma(load(x, at), load(dy, y), partial)",
        f"                at += SW * {lanes}",
        f"                y += {lanes}",
        "            total = total + partial",
        f"    for c in range(min({lanes}, C - block * {lanes})):",
        f"        dw[(block * {lanes} + c) * KD * KH * KW + k] = lane_of(total, c)",
    ]
    made = kernel(
        f"depthwise_weight_gradient_{lanes}",
        [("x", "float32"), ("dy", "float32"), ("dw", "float32")],
        [
            *("N", "C", "XB", "YB", "D", "H", "W", "OD", "OH", "OW", "KD", "KH", "KW"),
            *("SD", "SH", "SW", "DD", "DH", "DW"),
        ],
        body,
        f"dw[C, 1, window] of x[N, XB, D, H, W, {lanes}] · dy; a unit per block and element.",
        ("contract",),
        lanes,
    )
    sizes = (
        *(family.batch, family.channels, apart),
        images.blocks(1, s.outputs * lanes) or blocks,
        *(depth, height, width),
        *(s.OD, s.OH, s.OW, s.KD, s.KH, s.KW, s.SD, s.SH, s.SW, s.DD, s.DH, s.DW),
    )
    work = blocks * s.taps
    cost = family.batch * work * s.outputs
    calls.append(Call(made, (source, "in1", "out"), sizes, work, cost))
    return Recipe(tuple(calls), tuple(temporaries), f"{lanes} channels at a time")
