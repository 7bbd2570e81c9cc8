"""Pooling on the GPU: gradients by a thread to an input, which looks at the windows that hold it.

A mean over whole planes is a reduction. Other pooling is its loop nest: a thread to a result, for
neighbouring threads' windows overlap in the cache.
"""

from __future__ import annotations

import math
from dataclasses import asdict

from convdsl.kernels.cuda import nests, reductions
from convdsl.kernels.cuda.frame import blocks, decode, indent, kernel, used
from convdsl.kernels.sizes import sizes_of, triple
from convdsl.ops.expressions import Symbol, bare
from convdsl.ops.families import Axis, Geometry, Pooling, PoolingGradient, Reduction, operand
from convdsl.plan.model import Call, Recipe

SIZES = (
    *("size", "N", "planes", "D", "H", "W", "OD", "OH", "OW", "KD", "KH", "KW"),
    *("SD", "SH", "SW", "PD", "PH", "PW", "AD", "AH", "AW"),
)


def recipe(family: Pooling | PoolingGradient) -> Recipe:
    """One launch."""
    g = family.geometry
    if isinstance(family, PoolingGradient):
        return _gradient(family) if _fits(family) else nests.recipe(family)
    if family.mode == "mean" and _whole(g) and not any(family.after):
        planes = family.batch * family.planes
        return reductions.recipe(_mean(planes, math.prod(g.input), family.lanes))
    return nests.recipe(family)


def _whole(g: Geometry) -> bool:
    """Whether the one window is the whole plane."""
    return g.window == g.input and set(g.before) == {0} and set(g.output) == {1}


def _mean(planes: int, size: int, lanes: int) -> Reduction:
    shape, kept = (planes, size, lanes), (True, False, True)
    varies = tuple(n != 1 for n in shape)
    return Reduction(operand(0), "sum", shape, (varies,), ("float32",), kept, mean=True)


def _fits(family: PoolingGradient) -> bool:
    trailing = int(family.lanes > 1)
    planar = family.epilogue is None or family.epilogue.planar(trailing)
    return planar and max(family.geometry.dilation) == 1


def _gradient(family: PoolingGradient) -> Recipe:
    s = sizes_of(family.geometry)
    axes = [("n", "N"), ("p", "planes"), ("z", "D"), ("y_", "H"), ("x", "W")]
    place = "(((n * planes + p) * OD + oz) * OH + oy) * OW + ox"
    if family.lanes > 1:
        axes.append(("lane", str(family.lanes)))
        place = f"({place}) * {family.lanes} + lane"
    lines = decode([Axis(*axis) for axis in axes], "at")
    letters = ("D", "H", "W")
    for here, o, a in zip(("z", "y_", "x"), ("oz", "oy", "ox"), letters, strict=True):
        lines += [
            f"{o}_first = quotient(max({here} + P{a} - K{a} + S{a}, 0), S{a})",
            f"{o}_end = min(quotient({here} + P{a}, S{a}) + 1, O{a})",
        ]
    lines.append("total = float32(0.0)")
    depth = 0
    for o in ("oz", "oy", "ox"):
        lines.append("    " * depth + f"for {o} in range({o}_first, {o}_end):")
        depth += 1
    inner = [f"place = {place}"]
    if family.mode == "maximum":
        inner += [
            "tap = ((z + PD - oz * SD) * KH + y_ + PH - oy * SH) * KW + x + PW - ox * SW",
            "if winner[place] == float32(tap):",
            "    total += dy[place]",
        ]
    else:
        for o, a in zip(("oz", "oy", "ox"), letters, strict=True):
            low, high = (f"-P{a}", f"{a} + A{a}") if family.count_pad else ("0", a)
            inner += [
                f"{o}_start = {o} * S{a} - P{a}",
                f"{o}_count = min({o}_start + K{a}, {high}) - max({o}_start, {low})",
            ]
        inner.append("total += dy[place] / float32(oz_count * oy_count * ox_count)")
    lines += indent(depth, inner)
    lines += _finished(family)
    body = ["at = int64(cuda.grid(1))", "if at < size:", *indent(1, lines)]
    winner = [("winner", "float32")] if family.mode == "maximum" else []
    more = family.epilogue.operands if family.epilogue else ()
    made = kernel(
        f"{family.mode}_pool_gradient"
        + ("_padded" if family.count_pad else "")
        + (f"_of_{family.lanes}_lanes" if family.lanes > 1 else ""),
        [*winner, ("dy", "float32"), *more, ("y", "float32")],
        used(SIZES, body),
        body,
        "y[N, planes, D, H, W] from dy[N, planes, OD, OH, OW]; a thread an element.",
    )
    size = family.batch * family.planes * s.D * s.H * s.W * family.lanes
    after = triple(family.after, 0) if family.after else (0, 0, 0)
    named = {"size": size, "N": family.batch, "planes": family.planes, **asdict(s)}
    named |= dict(zip(("AD", "AH", "AW"), after, strict=True))
    operands = (*(f"in{k}" for k in range(len(made.pointers) - 1)), "out")
    values = tuple(named[name] for name in made.sizes)
    reason = "a thread an input, over the windows that hold it"
    return Recipe((Call(made, operands, values, blocks(size), size * s.taps),), reason=reason)


def _finished(family: PoolingGradient) -> list[str]:
    """Statements that store a ``total``, finished."""
    if family.epilogue is None:
        return ["y[at] = total"]
    axes = [("n", "N"), ("p", "planes"), ("pixel", "pixels")]
    if family.lanes > 1:
        axes.append(("lane", str(family.lanes)))
    indices, sizes = ([Symbol(axis[k], "int64") for axis in axes] for k in range(2))
    epilogue = family.epilogue.flattened(trailing=int(family.lanes > 1))
    value = bare(epilogue.apply(Symbol("total"), indices, sizes))
    return [
        "pixel = (z * H + y_) * W + x",
        "pixels = D * H * W",
        f"y[at] = float32({value})",
    ]
