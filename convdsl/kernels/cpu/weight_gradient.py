"""The gradient of a convolution by its weights on the CPU: filters along the lanes, pixels summed.

dy is turned so that a pixel's filters lie side by side and x is padded; then every weight of a tile
of taps × filters is a sum over the pixels of all images, held in registers.
"""

from __future__ import annotations

from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.cpu.padding import pad_call
from convdsl.kernels.cpu.sizes import sizes_of
from convdsl.ops.families import Convolution
from convdsl.plan.model import Call, Kernel, Recipe

TAPS = 6
"""Taps of a register tile: with two vectors of filters, 12 accumulators of 16 registers."""
VECTORS = 2
"""Vectors of filters in a tile."""


def fits(family: Convolution, lanes: int) -> bool:
    """Whether this generator computes the gradient: ungrouped, of series and images."""
    return (
        family.direction == "weight"
        and family.groups == 1
        and len(family.geometry.window) in (1, 2)
        and family.filters >= lanes // 2
    )


def recipe(family: Convolution, lanes: int) -> Recipe:
    """Turn dy, pad x, sum."""
    s = sizes_of(family.geometry)
    block = lanes * VECTORS
    blocks = -(-family.filters // block)
    pixels = family.batch * s.OH * s.OW
    planes = family.batch * family.channels
    taps = family.channels * s.KH * s.KW
    groups = -(-taps // TAPS)
    turn = Call(
        _turn(block),
        ("in1", "turned"),
        (family.batch, family.filters, s.OH * s.OW, blocks),
        blocks * family.batch,
        blocks * block * pixels,
    )
    calls, temporaries = [turn], [("turned", blocks * block * pixels)]
    source, height, width = "in0", s.H, s.W
    if not s.inside:
        source, height, width = "padded", s.padded_height, s.padded_width
        calls.append(pad_call(s, planes, "in0", source))
        temporaries.append((source, planes * s.padded_size))
    total = Call(
        _sum(lanes),
        (source, "turned", "out"),
        (
            family.batch,
            family.channels,
            family.filters,
            groups,
            height,
            width,
            s.OH,
            s.OW,
            s.KH,
            s.KW,
            s.SH,
            s.SW,
            s.DH,
            s.DW,
        ),
        blocks * groups,
        family.filters * taps * pixels,
    )
    reason = f"summed over pixels, {TAPS} taps × {block} filters in registers"
    return Recipe((*calls, total), tuple(temporaries), reason)


def _turn(block: int) -> Kernel:
    body = [
        "for unit in range(begin, end):",
        "    fb = unit // N",
        "    n = unit % N",
        "    for p in range(P):",
        f"        at = ((fb * N + n) * P + p) * {block}",
        f"        for lane in range({block}):",
        f"            f = fb * {block} + lane",
        "            inside = f < F",
        "            turned[at + lane] = dy[(n * F + f) * P + p] if inside else float32(0.0)",
    ]
    return kernel(
        f"filters_innermost_by_{block}",
        [("dy", "float32"), ("turned", "float32")],
        ["N", "F", "P", "blocks"],
        body,
        f"turned[F/{block}, N, P, {block}] from dy[N, F, P]; a unit per block and image.",
    )


def _sum(lanes: int) -> Kernel:
    block = lanes * VECTORS
    tile = [(q, v) for q in range(TAPS) for v in range(VECTORS)]
    body = [
        "taps = C * KH * KW",
        "for unit in range(begin, end):",
        "    fb = unit // groups",
        f"    first = (unit % groups) * {TAPS}",
    ]
    for q in range(TAPS):
        # Beyond the last tap the first is summed again and not stored.
        body += [
            f"    q{q} = first + {q} if first + {q} < taps else first",
            f"    c{q} = q{q} // (KH * KW)",
            f"    k{q} = q{q} % (KH * KW)",
            f"    o{q} = (c{q} * PH + k{q} // KW * DH) * PW + k{q} % KW * DW",
        ]
    body += [f"    s{q}_{v} = zero()" for q, v in tile]
    body += [
        "    for n in range(N):",
        "        for oy in range(OH):",
        "            row = (n * C * PH + oy * SH) * PW",
        f"            at = ((fb * N + n) * OH + oy) * OW * {block}",
        "            for ox in range(OW):",
    ]
    inner = [f"d{v} = load(turned, at + ox * {block} + {v * lanes})" for v in range(VECTORS)]
    for q in range(TAPS):
        inner.append(f"x{q} = splat(padded, row + o{q} + ox * SW)")
        inner += [f"s{q}_{v} = fma(x{q}, d{v}, s{q}_{v})" for v in range(VECTORS)]
    body += ["                " + line for line in inner]
    for v in range(VECTORS):
        body += [
            f"    start = fb * {block} + {v * lanes}",
            f"    for k in range(min(F - start, {lanes})):",
            "        at = (start + k) * taps + first",
        ]
        for q in range(TAPS):
            body += [
                f"        if first + {q} < taps:",
                f"            dw[at + {q}] = lane(s{q}_{v}, k)",
            ]
    return kernel(
        f"convolution2d_weight_{lanes}",
        [("padded", "float32"), ("turned", "float32"), ("dw", "float32")],
        ["N", "C", "F", "groups", "PH", "PW", "OH", "OW", "KH", "KW", "SH", "SW", "DH", "DW"],
        body,
        f"dw[F, taps] summed over pixels; a unit per {block} filters and {TAPS} taps.",
        ("contract",),
        lanes,
    )
