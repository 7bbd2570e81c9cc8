"""Direct convolution on the CPU: a register tile of pixels × filters, filters along the lanes.

The weights are packed once so that the lanes' weights lie side by side; every pixel is broadcast
against them (Georganas et al. 2018, with the plain N×C×H×W layout of the activations kept).
"""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.nests import INDENT
from convdsl.ops.expressions import Expr, Load, Symbol, bare
from convdsl.ops.families import Convolution, Geometry
from convdsl.plan.model import Call, Kernel, Recipe

PIXELS = 6
"""Pixels of a register tile: with two vectors of filters, 12 accumulators of 16 registers."""
VECTORS = 2
"""Vectors of filters in a tile."""


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


@dataclass(frozen=True)
class _Sizes:
    """The sizes of a convolution of images; a series is an image of height 1."""

    H: int
    W: int
    OH: int
    OW: int
    KH: int
    KW: int
    SH: int
    SW: int
    PH: int
    PW: int
    DH: int
    DW: int


def geometry_sizes(g: Geometry) -> _Sizes:
    """The sizes of a window over images or series."""
    rows = (
        (g.input, 1),
        (g.output, 1),
        (g.window, 1),
        (g.stride, 1),
        (g.before, 0),
        (g.dilation, 1),
    )
    pairs = [(fill, *sizes)[-2:] for sizes, fill in rows]
    return _Sizes(*(size for pair in pairs for size in pair))


def recipe(family: Convolution, lanes: int) -> Recipe:
    """Pack the weights (once, where they do not change), then convolve."""
    if family.direction == "input":
        return _recipe(_transposed(family), lanes, transposed=True)
    return _recipe(family, lanes, transposed=False)


def _transposed(family: Convolution) -> Convolution:
    """The convolution of dy, with mirrored windows, that is the gradient by the input."""
    g = family.geometry
    before = tuple(d * (k - 1) - b for b, d, k in zip(g.before, g.dilation, g.window, strict=True))
    turned = Geometry(g.output, g.input, g.window, g.stride, before, g.dilation)
    return Convolution("forward", family.batch, family.filters, family.channels, 1, turned)


def _recipe(family: Convolution, lanes: int, transposed: bool) -> Recipe:
    s = geometry_sizes(family.geometry)
    block = lanes * VECTORS
    blocks = -(-family.filters // block)
    elements = s.KH * s.KW
    taps = family.channels * elements
    pack = Call(
        _pack(lanes, transposed),
        ("in1", "packed"),
        (family.filters, family.channels, elements),
        blocks,
        blocks * block * taps,
    )
    sizes = (family.channels, family.filters, blocks, *vars(s).values())
    count = 2 + family.bias + (len(family.epilogue.present) if family.epilogue else 0)
    operands = ("in0", "packed", *(f"in{k}" for k in range(2, count)), "out")
    cost = family.batch * family.filters * s.OH * s.OW * taps
    work = family.batch * blocks * s.OH
    convolve = Call(_convolve(lanes, family), operands, sizes, work, cost)
    reason = f"direct, {PIXELS} pixels × {block} filters in registers"
    return Recipe((pack, convolve), (("packed", blocks * block * taps),), reason)


def _pack(lanes: int, transposed: bool) -> Kernel:
    block = lanes * VECTORS
    # Transposed: filters and channels change places, and the window is mirrored.
    source = "(c * F + f) * K + K - 1 - k" if transposed else "(f * C + c) * K + k"
    stored = "w[C, F, K] mirrored" if transposed else "w[F, C, K]"
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
        f"pack_filters_by_{block}" + ("_transposed" if transposed else ""),
        [("w", "float32"), ("packed", "float32")],
        ["F", "C", "K"],
        body,
        f"packed[F/{block}, C, K, {block}] from {stored}, zeros beyond F; a unit per block.",
    )


def _convolve(lanes: int, family: Convolution) -> Kernel:
    block = lanes * VECTORS
    names = ["C", "F", "blocks", *_Sizes.__annotations__]
    body = [
        "for unit in range(begin, end):",
        "    oy = unit % OH",
        "    ob = (unit // OH) % blocks",
        "    n = unit // (OH * blocks)",
        f"    f = ob * {block}",
        "    top = oy * SH - PH",
        # The rows of the window that lie inside the input.
        "    first = max(0, (-top + DH - 1) // DH)",
        "    last = min(KH, (H - top + DH - 1) // DH)",
        "    ox = 0",
        "    while ox < OW:",
        "        left = ox * SW - PW",
        f"        right = left + {PIXELS - 1} * SW + (KW - 1) * DW",
        f"        inside = left >= 0 and right < W and ox + {PIXELS} <= OW",
        "        if inside:",
        *_indent(3, _tile(lanes, PIXELS, family, "0", "KW")),
        f"            ox += {PIXELS}",
        "        else:",
        "            start = max(0, (-left + DW - 1) // DW)",
        "            stop = min(KW, (W - left + DW - 1) // DW)",
        *_indent(3, _tile(lanes, 1, family, "start", "stop")),
        "            ox += 1",
    ]
    pointers = [("x", "float32"), ("w", "float32")]
    if family.bias:
        pointers.append(("b", "float32"))
    if family.epilogue:
        pointers += family.epilogue.operands
    return kernel(
        f"convolution2d_direct_{lanes}" + ("_bias" if family.bias else ""),
        [*pointers, ("y", "float32")],
        names,
        body,
        f"Convolution; a unit per image, block of {block} filters and row of the result.",
        ("contract",),
        lanes,
    )


def _indent(depth: int, lines: list[str]) -> list[str]:
    return [INDENT * depth + line for line in lines]


def _tile(lanes: int, pixels: int, family: Convolution, start: str, stop: str) -> list[str]:
    """The sums of ``pixels`` neighbouring results for a block of filters, and their stores."""
    block = lanes * VECTORS
    tile = [(r, v) for r in range(pixels) for v in range(VECTORS)]
    lines = [f"s{r}_{v} = zero()" for r, v in tile]
    lines += [
        "for c in range(C):",
        "    for ky in range(first, last):",
        "        row = ((n * C + c) * H + top + ky * DH) * W + left",
        f"        taps = ((ob * C + c) * KH + ky) * KW * {block}",
        f"        for kx in range({start}, {stop}):",
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
