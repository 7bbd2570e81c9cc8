"""Pointwise (1×1) convolution on the CPU: a product of matrices, pixels along the lanes.

Planes are contiguous, so a plane is one long row of pixels; the tile holds a few filters by two
vectors of pixels, and every weight is broadcast against them. Nothing is packed or turned.
"""

from __future__ import annotations

import math

from convdsl.kernels.cpu.convolution import LATENCY, REGISTERS, as_forward
from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.nests import INDENT
from convdsl.ops.expressions import Expr, Load, Symbol, bare
from convdsl.ops.families import Convolution
from convdsl.plan.model import Call, Kernel, Recipe

VECTORS = 2
"""Vectors of pixels in a tile."""
PANEL = 256
"""Pixels that a work unit covers: their channels stay in the second-level cache."""


def fits(family: Convolution, lanes: int) -> bool:
    """Whether this generator computes the convolution: 1×1, stride 1, no padding, one group.

    Planes of less than a vector are better off with filters along the lanes.
    """
    g = family.geometry
    plain = set(g.window) | set(g.stride) == {1} and set(g.before) == {0} and g.input == g.output
    return (
        plain
        and family.groups == 1
        and family.direction in ("forward", "input")
        and math.prod(g.output) >= lanes
        and (family.epilogue is None or family.epilogue.planar)
    )


def recipe(family: Convolution, lanes: int) -> Recipe:
    """One product per image."""
    transposed = family.direction == "input"
    family = as_forward(family)
    pixels = math.prod(family.geometry.output)
    rows = min((REGISTERS[lanes] - VECTORS - 1) // VECTORS, LATENCY)
    panels = -(-pixels // PANEL)
    groups = -(-family.filters // rows)
    count = 2 + family.bias + (len(family.epilogue.present) if family.epilogue else 0)
    call = Call(
        _kernel(lanes, rows, family, transposed),
        (*(f"in{k}" for k in range(count)), "out"),
        (family.channels, family.filters, pixels, panels, groups),
        family.batch * panels * groups,
        family.batch * family.filters * family.channels * pixels,
    )
    reason = f"pointwise, {rows} filters × {VECTORS * lanes} pixels in registers"
    return Recipe((call,), reason=reason)


def _kernel(lanes: int, rows: int, family: Convolution, transposed: bool) -> Kernel:
    block = VECTORS * lanes
    body = [
        "for unit in range(begin, end):",
        "    group = unit % groups",
        "    panel = (unit // groups) % panels",
        "    n = unit // (groups * panels)",
        f"    f = group * {rows}",
        f"    p = panel * {PANEL}",
        f"    last = min(p + {PANEL}, P)",
        "    while p < last:",
        # Filters beyond the last are computed from the last one's weights and not stored.
        *(f"        f{r} = min(f + {r}, F - 1)" for r in range(rows)),
        f"        if p + {block} <= last:",
        *_indent(3, _tile(lanes, rows, VECTORS, False, family, transposed)),
        f"            p += {block}",
        "        else:",
        f"            few = min(last - p, {lanes})",
        *_indent(3, _tile(lanes, rows, 1, True, family, transposed)),
        "            p += few",
    ]
    pointers = [("x", "float32"), ("w", "float32")]
    if family.bias:
        pointers.append(("b", "float32"))
    if family.epilogue:
        pointers += family.epilogue.operands
    name = f"pointwise_{lanes}x{rows}" + ("_transposed" if transposed else "")
    return kernel(
        name + ("_bias" if family.bias else ""),
        [*pointers, ("y", "float32")],
        ["C", "F", "P", "panels", "groups"],
        body,
        f"y[N, F, P] = w · x[N, C, P]; a unit per image, {PANEL} pixels and {rows} filters.",
        ("contract",),
        lanes,
    )


def _indent(depth: int, lines: list[str]) -> list[str]:
    return [INDENT * depth + line for line in lines]


def _tile(
    lanes: int, rows: int, vectors: int, partly: bool, family: Convolution, transposed: bool
) -> list[str]:
    tile = [(r, v) for r in range(rows) for v in range(vectors)]
    lines = [f"s{r}_{v} = zero()" for r, v in tile]
    lines.append("for c in range(C):")
    lines.append("    at = (n * C + c) * P + p")
    for v in range(vectors):
        read = "load_first(x, at, few)" if partly else f"load(x, at + {v * lanes})"
        lines.append(f"    x{v} = {read}")
    for r in range(rows):
        lines.append(f"    k = splat(w, {f'c * F + f{r}' if transposed else f'f{r} * C + c'})")
        lines += [f"    s{r}_{v} = fma(k, x{v}, s{r}_{v})" for v in range(vectors)]
    for r in range(rows):
        lines += [f"if f + {r} < F:", f"    at = (n * F + f{r}) * P + p"]
        for v in range(vectors):
            lines.append(f"    for k in range({'few' if partly else lanes}):")
            stored = _stored(family, f"lane(s{r}_{v}, k)", f"f{r}", v * lanes)
            lines.append(f"        y[at + k + {v * lanes}] = {stored}")
    return lines


def _stored(family: Convolution, total: str, filter: str, ahead: int) -> str:
    """What is stored for a filter and the pixel at p + k + ``ahead``."""
    f = Symbol(filter, "int64")
    value: Expr = Symbol(total)
    if family.bias:
        value = value + Load("b", f)
    if family.epilogue:
        pixel: Expr = Symbol("p", "int64") + Symbol("k", "int64") + ahead
        sizes = [Symbol(name, "int64") for name in ("N", "F", "P")]
        # The spatial axes of the result are one here, so an operand has all of them or none.
        value = family.epilogue.flattened().apply(value, [Symbol("n", "int64"), f, pixel], sizes)
    return bare(value)
