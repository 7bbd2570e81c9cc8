"""Depthwise convolution on the GPU: every channel with a window of its own, so nothing is shared.

A thread computes neighbouring results, whose inputs overlap in the cache. The gradient by the input
consists of such convolutions of dy. For the gradient by the weights threads keep the sums of all
elements of a window, and a block adds them up.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace

from convdsl.kernels.cuda.frame import (
    EVERY,
    PLAIN,
    WARP,
    blocks,
    decode,
    indent,
    kernel,
    result_gaps,
    used,
)
from convdsl.kernels.cuda.results import QUAD, Result, combine, planar
from convdsl.kernels.cuda.tiles import PROCESSORS
from convdsl.kernels.parts import Part, has_parts, parts_of, turned
from convdsl.kernels.sizes import Sizes, sizes_of, triple
from convdsl.ops.families import Axis, Convolution
from convdsl.plan.model import CONTIGUOUS, Call, Images, Kernel, Recipe

MOST_TAPS = 27
"""Elements of a window whose sums a thread keeps in registers."""
SIZES = (
    *("size", "N", "F", "P", "XF", "YF", "D", "H", "W", "OD", "OH", "OW", "KD", "KH", "KW"),
    *("SD", "SH", "SW", "PD", "PH", "PW", "DD", "DH", "DW"),
    *("YD", "YH", "YW", "FD", "FH", "FW", "TD", "TH", "TW"),
    *("WH", "WW", "taps", "ED", "EH", "EW", "UD", "UH", "UW"),
    *("splits", "total_pixels"),
)


def fits(family: Convolution) -> bool:
    """Whether this generator computes the convolution: a filter a channel."""
    g = family.geometry
    if not family.groups == family.channels == family.filters:
        return False
    if family.direction == "weight":
        return sizes_of(g).taps <= MOST_TAPS
    if family.epilogue and not family.epilogue.planar():
        return False
    return has_parts(family)


def recipe(family: Convolution, images: Images = CONTIGUOUS) -> Recipe:
    """One launch per part; for the weights one, and a sum of its parts where it is split."""
    if family.direction == "weight":
        return _weight_gradient(family, images)
    calls = tuple(_call(family, part, images) for part in parts_of(family))
    return Recipe(calls, reason="depthwise, neighbouring results to a thread")


def _call(original: Convolution, part: Part, images: Images) -> Call:
    family = replace(turned(original), geometry=part.geometry)
    s = sizes_of(part.geometry)
    mirrored = original.direction == "input"
    spread = mirrored and max(original.geometry.stride) > 1
    width = 1 if spread or s.OW % QUAD else QUAD
    gaps = result_gaps(images, family.epilogue, 3 if family.bias else 2)
    bias = "b" if family.bias else ""
    result = Result(width, bias, "channel", planar(family.epilogue), gaps)
    made = _kernel(result, mirrored, spread)
    count = len(result.pointers)
    size = family.batch * family.channels * s.outputs
    window = triple(original.geometry.window, 1)
    named = {
        "size": size,
        "N": family.batch,
        "F": family.channels,
        "P": s.outputs,
        "XF": family.channels + images.gap(0) // s.inputs,
        "WH": window[1],
        "WW": window[2],
        "taps": window[0] * window[1] * window[2],
        **asdict(s),
        **gaps.sizes,
    }
    if mirrored:
        # Element m of the part's window is number taken + step·m of the whole, from the end.
        taken, step = triple(part.taken, 0), triple(part.step, 1)
        ends = [r + d * (m - 1) for r, d, m in zip(taken, step, (s.KD, s.KH, s.KW), strict=True)]
        full, first = triple(original.geometry.input, 1), triple(part.first, 0)
        for letters, values in (("E", ends), ("U", step), ("Y", full), ("F", first), ("T", step)):
            named |= {f"{letters}{axis}": v for axis, v in zip("DHW", values, strict=True)}
    operands = ("in0", "in1", *(f"in{k}" for k in range(2, 2 + count)), "out")
    given = tuple(named[name] for name in made.sizes)
    return Call(made, operands, given, blocks(-(-size // width)), size * s.taps)


def _kernel(result: Result, mirrored: bool, spread: bool) -> Kernel:
    width = result.width
    axes = (("image", "N"), ("channel", "F"), ("oz", "OD"), ("oy", "OH"), ("ox", "OW"))
    tap = "((EZ - kz * UD) * WH + EY - ky * UH) * WW + EX - kx * UW"
    tap = tap.replace("EZ", "ED").replace("EY", "EH").replace("EX", "EW")
    lines = [
        *decode([Axis(*axis) for axis in axes], "at"),
        *(f"total{q} = float32(0.0)" for q in range(width)),
        "plane = image * XF + channel",
        "for kz in range(KD):",
        "    z = oz * SD + kz * DD - PD",
        "    for ky in range(KH):",
        "        y_ = oy * SH + ky * DH - PH",
        "        if (0 <= z) & (z < D) & (0 <= y_) & (y_ < H):",
        "            line = ((plane * D + z) * H + y_) * W",
        "            for kx in range(KW):",
        f"                tap = {tap if mirrored else '(kz * KH + ky) * KW + kx'}",
        "                weight = w[channel * taps + tap]",
        "                x_ = ox * SW + kx * DW - PW",
    ]
    for q in range(width):
        here = f"x_ + {q} * SW" if q else "x_"
        lines += indent(
            4,
            [
                f"if (0 <= {here}) & ({here} < W):",
                f"    total{q} += x[line + {here}] * weight",
            ],
        )
    if spread:
        lines += [
            "row = (oz * TD + FD) * YH + oy * TH + FH",
            "at = ((image * F + channel) * YD * YH + row) * YW + ox * TW + FW",
        ]
    lines.append("pixel = (oz * OH + oy) * OW + ox")
    loads, values = result.finished([f"total{q}" for q in range(width)], "", "at")
    to = result.gaps.beyond("y", "at", "image")
    store = f"store4(y, {to}, {', '.join(values)})" if width > 1 else f"y[{to}] = {values[0]}"
    step = f" * {width}" if width > 1 else ""
    body = [
        f"at = int64(cuda.grid(1)){step}",
        "if at < size:",
        *indent(1, [*lines, *loads, store]),
    ]
    words = ["depthwise", "mirrored" if mirrored else "", "spread" if spread else ""]
    return kernel(
        "_".join(word for word in words if word) + ("_by_4" if width > 1 else ""),
        [("x", "float32"), ("w", "float32"), *result.pointers, ("y", "float32")],
        used((*SIZES, *result.gaps.sizes), body),
        body,
        f"y[N, F, P] of x[N, F, D, H, W], a window a channel; {width} results a thread.",
    )


def _weight_gradient(family: Convolution, images: Images) -> Recipe:
    s = sizes_of(family.geometry)
    pixels = family.batch * s.outputs
    splits = max(1, min(4 * PROCESSORS // family.channels, pixels // (4 * PLAIN)))
    made = _weight_kernel(s, splits > 1)
    size = family.channels * s.taps
    named = {
        "size": size,
        "F": family.channels,
        "P": s.outputs,
        "XF": family.channels + images.gap(0) // s.inputs,
        "YF": family.channels + images.gap(1) // s.outputs,
        "splits": splits,
        "total_pixels": pixels,
        **asdict(s),
    }
    target = "partials" if splits > 1 else "out"
    given = tuple(named[name] for name in made.sizes)
    calls = [Call(made, ("in0", "in1", target), given, family.channels * splits, size * pixels)]
    temporaries: tuple[tuple[str, int], ...] = ()
    if splits > 1:
        temporaries = ((target, size * splits),)
        result = Result(1 if size % QUAD else QUAD)
        calls.append(combine(result, splits, (1, 1, size), target))
    reason = f"depthwise, {PLAIN} threads a channel" + (
        f", in {splits} parts" if splits > 1 else ""
    )
    return Recipe(tuple(calls), temporaries, reason)


def _weight_kernel(s: Sizes, partial: bool) -> Kernel:
    taps = list(itertools.product(range(s.KD), range(s.KH), range(s.KW)))
    warps = PLAIN // WARP
    adding = []
    for number, (kz, ky, kx) in enumerate(taps):
        adding += [
            f"z_at = z + {kz} * DD",
            f"y_at = y_ + {ky} * DH",
            f"x_at = x_ + {kx} * DW",
            "if (0 <= z_at) & (z_at < D) & (0 <= y_at) & (y_at < H) & (0 <= x_at) & (x_at < W):",
            f"    total{number} += error * x[((plane * D + z_at) * H + y_at) * W + x_at]",
        ]
    numbers = range(len(taps))
    body = [
        f"shared = shared_floats({len(taps) * warps})",
        "thread = int64(cuda.threadIdx.x)",
        "block = int64(cuda.blockIdx.x)",
        "channel = quotient(block, splits)",
        "split = block - channel * splits",
        "each = quotient(total_pixels + splits - 1, splits)",
        "end = min((split + 1) * each, total_pixels)",
        *(f"total{k} = float32(0.0)" for k in numbers),
        f"for number in range(split * each + thread, end, {PLAIN}):",
        *indent(
            1,
            [
                "image = quotient(number, P)",
                "pixel = number - image * P",
                "line = quotient(pixel, OW)",
                "oz = quotient(line, OH)",
                "z = oz * SD - PD",
                "y_ = (line - oz * OH) * SH - PH",
                "x_ = (pixel - line * OW) * SW - PW",
                "plane = image * XF + channel",
                "error = dy[(image * YF + channel) * P + pixel]",
                *adding,
            ],
        ),
        "for step in range(5):",
        *(f"    total{k} += cuda.shfl_xor_sync({EVERY}, total{k}, 16 >> step)" for k in numbers),
        "if thread & 31 == 0:",
        *(f"    shared[{k * warps} + (thread >> 5)] = total{k}" for k in numbers),
        "cuda.syncthreads()",
        f"if thread < {len(taps)}:",
        "    total = float32(0.0)",
        f"    for warp in range({warps}):",
        f"        total += shared[thread * {warps} + warp]",
        f"    y[{'split * size + ' if partial else ''}channel * {len(taps)} + thread] = total",
    ]
    window = "x".join(str(k) for k in (s.KD, s.KH, s.KW))
    return kernel(
        f"depthwise_weight_gradient_{window}" + ("_partial" if partial else ""),
        [("x", "float32"), ("dy", "float32"), ("y", "float32")],
        used(SIZES, body),
        body,
        "y[F, window] of x · dy over images and pixels; a block per channel and part.",
    )
