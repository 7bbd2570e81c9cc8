"""Direct convolution on the CPU: a register tile of pixels × filters, filters along the lanes.

The weights are packed once so that the lanes' weights lie side by side; every pixel is broadcast
against them (Georganas et al. 2018, with the plain N×C×H×W layout of the activations kept).
"""

from __future__ import annotations

from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.cpu.padding import pad_call
from convdsl.kernels.cpu.sizes import Sizes, sizes_of
from convdsl.kernels.nests import INDENT
from convdsl.ops.expressions import Expr, Load, Symbol, bare
from convdsl.ops.families import Convolution, Geometry
from convdsl.plan.model import Call, Kernel, Recipe

VECTORS = 2
"""Vectors of filters in a tile."""
REGISTERS = {4: 16, 8: 16, 16: 32}
"""Vector registers by lanes: SSE, AVX and NEON (which has more than are counted on), AVX-512."""
LATENCY = 8
"""Multiply-adds that must be under way for one to finish every half cycle."""


def fits(family: Convolution, lanes: int) -> bool:
    """Whether this generator computes the convolution: ungrouped, of series and images.

    The gradient by the input is a convolution itself where the stride is 1.
    """
    g = family.geometry
    if family.groups > 1 or len(g.window) > 2:
        return False
    if family.direction == "input":
        covers = all(
            b < d * (k - 1) + 1 for b, d, k in zip(g.before, g.dilation, g.window, strict=True)
        )
        return set(g.stride) == {1} and covers and family.channels >= lanes // 2
    return family.direction == "forward" and family.filters >= lanes // 2


def as_forward(family: Convolution) -> Convolution:
    """The forward convolution that computes the family.

    For the gradient by the input it is the one of dy, with mirrored windows.
    """
    if family.direction == "forward":
        return family
    g = family.geometry
    before = tuple(d * (k - 1) - b for b, d, k in zip(g.before, g.dilation, g.window, strict=True))
    turned = Geometry(g.output, g.input, g.window, g.stride, before, g.dilation)
    return Convolution("forward", family.batch, family.filters, family.channels, 1, turned)


def tile_width(width: int, lanes: int) -> int:
    """How many neighbouring pixels a tile takes of rows of that width."""
    most = (REGISTERS[lanes] - VECTORS - 1) // VECTORS

    def cost(pixels: int) -> tuple[int, int]:
        full, rest = divmod(width, pixels)
        # A tile too small to hide the latency of its multiply-adds costs as much as a larger one.
        each = [max(p * VECTORS, LATENCY) + VECTORS for p in (pixels, rest)]
        return full * each[0] + (each[1] if rest else 0), -pixels

    return min(range(1, most + 1), key=cost)


def recipe(family: Convolution, lanes: int) -> Recipe:
    """Pack the weights (once, where they do not change), pad the input, convolve."""
    mirrored = family.direction == "input"
    family = as_forward(family)
    s = sizes_of(family.geometry)
    block = lanes * VECTORS
    blocks = -(-family.filters // block)
    taps = family.channels * s.KH * s.KW
    pack = Call(
        _pack(block, mirrored),
        ("in1", "packed"),
        (family.filters, family.channels, s.KH * s.KW),
        blocks,
        blocks * block * taps,
    )
    calls, temporaries = [pack], [("packed", blocks * block * taps)]
    source, height, width = "in0", s.H, s.W
    planes = family.batch * family.channels
    if not s.inside:
        source, height, width = "padded", s.padded_height, s.padded_width
        calls.append(pad_call(s, planes, "in0", source))
        temporaries.append((source, planes * s.padded_size))
    count = 2 + family.bias + (len(family.epilogue.present) if family.epilogue else 0)
    pixels = tile_width(s.OW, lanes)
    convolve = Call(
        _convolve(lanes, pixels, s.OW % pixels, family),
        (source, "packed", *(f"in{k}" for k in range(2, count)), "out"),
        (family.channels, family.filters, blocks, height, width, *_tail(s)),
        family.batch * blocks * s.OH,
        family.batch * family.filters * s.OH * s.OW * taps,
    )
    reason = f"direct, {pixels} pixels × {block} filters in registers"
    return Recipe((*calls, convolve), tuple(temporaries), reason)


def _tail(s: Sizes) -> tuple[int, ...]:
    return (s.OH, s.OW, s.KH, s.KW, s.SH, s.SW, s.DH, s.DW)


def _pack(block: int, mirrored: bool) -> Kernel:
    # Mirrored: filters and channels change places, and the window is turned round.
    source = "(c * F + f) * K + K - 1 - k" if mirrored else "(f * C + c) * K + k"
    stored = "w[C, F, K] mirrored" if mirrored else "w[F, C, K]"
    body = [
        "for unit in range(begin, end):",
        "    for c in range(C):",
        "        for k in range(K):",
        f"            at = ((unit * C + c) * K + k) * {block}",
        f"            for lane in range({block}):",
        f"                f = unit * {block} + lane",
        f"                packed[at + lane] = w[{source}] if f < F else float32(0.0)",
    ]
    return kernel(
        f"pack_filters_by_{block}" + ("_mirrored" if mirrored else ""),
        [("w", "float32"), ("packed", "float32")],
        ["F", "C", "K"],
        body,
        f"packed[F/{block}, C, K, {block}] from {stored}, zeros beyond F; a unit per block.",
    )


def _convolve(lanes: int, pixels: int, rest: int, family: Convolution) -> Kernel:
    block = lanes * VECTORS
    body = [
        "for unit in range(begin, end):",
        "    oy = unit % OH",
        "    ob = (unit // OH) % blocks",
        "    n = unit // (OH * blocks)",
        f"    f = ob * {block}",
        "    ox = 0",
        f"    while ox + {pixels} <= OW:",
        *_indent(2, _tile(lanes, pixels, family)),
        f"        ox += {pixels}",
        *_indent(1, _tile(lanes, rest, family) if rest else []),
    ]
    pointers = [("x", "float32"), ("w", "float32")]
    if family.bias:
        pointers.append(("b", "float32"))
    if family.epilogue:
        pointers += family.epilogue.operands
    return kernel(
        f"convolution2d_direct_{lanes}x{pixels}" + ("_bias" if family.bias else ""),
        [*pointers, ("y", "float32")],
        ["C", "F", "blocks", "H", "W", "OH", "OW", "KH", "KW", "SH", "SW", "DH", "DW"],
        body,
        f"Convolution; a unit per image, block of {block} filters and row of the result.",
        ("contract",),
        lanes,
    )


def _indent(depth: int, lines: list[str]) -> list[str]:
    return [INDENT * depth + line for line in lines]


def _tile(lanes: int, pixels: int, family: Convolution) -> list[str]:
    """The sums of ``pixels`` neighbouring results for a block of filters, and their stores."""
    block = lanes * VECTORS
    tile = [(r, v) for r in range(pixels) for v in range(VECTORS)]
    lines = [f"s{r}_{v} = zero()" for r, v in tile]
    lines += [
        "for c in range(C):",
        "    for ky in range(KH):",
        "        row = ((n * C + c) * H + oy * SH + ky * DH) * W + ox * SW",
        f"        taps = ((ob * C + c) * KH + ky) * KW * {block}",
        "        for kx in range(KW):",
    ]
    inner = [f"w{v} = load(w, taps + kx * {block} + {v * lanes})" for v in range(VECTORS)]
    for r in range(pixels):
        inner.append(f"p = splat(x, row + kx * DW + {r} * SW)")
        inner += [f"s{r}_{v} = fma(p, w{v}, s{r}_{v})" for v in range(VECTORS)]
    lines += _indent(3, inner)
    for v in range(VECTORS):
        lines.append(f"for k in range(min(F - f - {v * lanes}, {lanes})):")
        lines.append(f"    g = f + {v * lanes} + k")
        lines.append("    at = ((n * F + g) * OH + oy) * OW + ox")
        for r in range(pixels):
            lines.append(f"    y[at + {r}] = {_stored(family, f'lane(s{r}_{v}, k)', r)}")
    return lines


def _stored(family: Convolution, total: str, pixel: int) -> str:
    """What is stored for filter g and the pixel at ox + ``pixel``."""
    g = Symbol("g", "int64")
    value: Expr = Symbol(total)
    if family.bias:
        value = value + Load("b", g)
    if family.epilogue:
        names = ("OH", "OW")[-len(family.geometry.window) :]
        place = {"OH": Symbol("oy", "int64"), "OW": Symbol("ox", "int64") + pixel}
        axes = [Symbol("n", "int64"), g, *(place[name] for name in names)]
        sizes = [Symbol(name, "int64") for name in ("N", "F", *names)]
        value = family.epilogue.apply(value, axes, sizes)
    return bare(value)
