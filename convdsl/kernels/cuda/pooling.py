"""Pooling on the GPU: gradients by a thread to an input, which looks at the windows that hold it.

A mean over whole planes is a reduction. Other pooling is its loop nest: a thread to a result, for
neighbouring threads' windows overlap in the cache. In blocks of channels a thread has four lanes,
which share everything but the values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

from convdsl.kernels.cuda import nests, reductions
from convdsl.kernels.cuda.frame import Gaps, blocks, decode, indent, kernel, over, result_gaps, used
from convdsl.kernels.cuda.narrow.results import Blocks
from convdsl.kernels.cuda.results import QUAD
from convdsl.kernels.nests import START, guarded, joined
from convdsl.kernels.sizes import sizes_of, triple
from convdsl.ops.expressions import Load, Symbol, bare, shifted, substitute
from convdsl.ops.families import Axis, Geometry, Pooling, PoolingGradient, Reduction, operand
from convdsl.plan.model import CONTIGUOUS, RESULT, Call, Images, Recipe

SIZES = (
    *("size", "N", "planes", "D", "H", "W", "OD", "OH", "OW", "KD", "KH", "KW"),
    *("SD", "SH", "SW", "PD", "PH", "PW", "AD", "AH", "AW"),
)


def recipe(family: Pooling | PoolingGradient, images: Images = CONTIGUOUS) -> Recipe:
    """One launch."""
    g = family.geometry
    if isinstance(family, PoolingGradient):
        return _gradient(family, images) if _fits(family) else nests.recipe(family, images)
    if family.mode == "mean" and _whole(g) and not any(family.after) and not images.gap(RESULT):
        return reductions.recipe(_mean(family), images)
    return _by_lanes(family, images) if family.lanes > 1 else nests.recipe(family, images)


def _by_lanes(family: Pooling, images: Images) -> Recipe:
    """The loop nest, four lanes to a thread."""
    nest, place = nests.placed(family, images)
    condition, value = guarded(nest.element)
    assert nest.reducer is not None
    assert condition is not None
    assert isinstance(value, Load)
    names = [f"value{q}" for q in range(QUAD)]
    inner = [f"{', '.join(names)} = load4(x, {bare(value.index)})"]
    lines = []
    for q, name in enumerate(names):
        inner += joined(nest, name, str(q))
        lines.append(f"total{q} = {START[nest.reducer]}")
        lines += [f"winner{q} = -1"] * (family.mode == "winner")
    depth = 0
    for axis in nest.reduced:
        lines.append("    " * depth + f"for {axis.index} in range({axis.size}):")
        depth += 1
    lines += indent(depth, [f"if {bare(condition)}:", *indent(1, inner)])
    results = [
        f"float32(winner{q})"
        if family.mode == "winner"
        else bare(substitute(nest.finish, {Symbol("total"): Symbol(f"total{q}")}))
        for q in range(QUAD)
    ]
    body = [
        f"at = int64(cuda.grid(1)) * {QUAD}",
        "if at < size:",
        *indent(1, _position(nest.axes, family.lanes)),
        *indent(1, lines),
        f"    store4(y, {place('at')}, {', '.join(results)})",
    ]
    named = {"size": nest.points, **dict(nest.sizes)}
    made = kernel(
        f"{nest.name}_of_{family.lanes}_lanes",
        [("x", "float32"), ("y", "float32")],
        used(named, body),
        body,
        f"{nest.name.replace('_', ' ')}: {QUAD} lanes of {family.lanes} to a thread.",
    )
    given = tuple(named[name] for name in made.sizes)
    cost = nest.points * math.prod(family.geometry.window)
    call = Call(made, ("in0", "out"), given, blocks(nest.points // QUAD), cost)
    return Recipe((call,), reason=f"loop nest, {QUAD} lanes a thread")


def _position(axes: Sequence[Axis], lanes: int) -> list[str]:
    """Statements that recover the axes' indices, of which the lane is the last."""
    return [
        f"place = {over('at', str(lanes))}",
        *decode(axes[:-1], "place"),
        f"{axes[-1].index} = at & {lanes - 1}",
    ]


def _whole(g: Geometry) -> bool:
    """Whether the one window is the whole plane."""
    return g.window == g.input and set(g.before) == {0} and set(g.output) == {1}


def _mean(family: Pooling) -> Reduction:
    """The mean of whole planes."""
    shape = (family.batch, family.planes, math.prod(family.geometry.input), family.lanes)
    kept = (True, True, False, True)
    varies = tuple(n != 1 for n in shape)
    return Reduction(operand(0), "sum", shape, (varies,), ("float32",), kept, mean=True)


def _fits(family: PoolingGradient) -> bool:
    trailing = int(family.lanes > 1)
    planar = family.epilogue is None or family.epilogue.planar(trailing)
    return planar and max(family.geometry.dilation) == 1


def _gradient(family: PoolingGradient, images: Images) -> Recipe:
    s = sizes_of(family.geometry)
    read = ["winner", "dy"] if family.mode == "maximum" else ["dy"]
    more = family.epilogue.operands if family.epilogue else ()
    finishing = result_gaps(images, family.epilogue, len(read))
    gaps = Gaps({**{name: images.gap(k) for k, name in enumerate(read)}, **finishing.elements})
    axes = [Axis("n", "N"), Axis("p", "planes"), Axis("z", "D"), Axis("y_", "H"), Axis("x", "W")]
    place = "(((n * planes + p) * OD + oz) * OH + oy) * OW + ox"
    width = QUAD if family.lanes > 1 else 1
    if width > 1:
        place = f"({place}) * {family.lanes} + lane"
        lines = _position([*axes, Axis("lane", "")], family.lanes)
    else:
        lines = decode(axes, "at")
    letters = ("D", "H", "W")
    for here, o, a in zip(("z", "y_", "x"), ("oz", "oy", "ox"), letters, strict=True):
        lines += [
            f"{o}_first = quotient(max({here} + P{a} - K{a} + S{a}, 0), S{a})",
            f"{o}_end = min(quotient({here} + P{a}, S{a}) + 1, O{a})",
        ]
    totals = [f"total{q}" for q in range(width)]
    lines += [f"{total} = float32(0.0)" for total in totals]
    depth = 0
    for o in ("oz", "oy", "ox"):
        lines.append("    " * depth + f"for {o} in range({o}_first, {o}_end):")
        depth += 1
    inner = [f"from_ = {place}"]
    winner_from, dy_from = (gaps.beyond(name, "from_", "n") for name in ("winner", "dy"))
    numbers, errors = [f"winner[{winner_from}]"], [f"dy[{dy_from}]"]
    if width > 1:
        errors = [f"error{q}" for q in range(width)]
        inner.append(f"{', '.join(errors)} = load4(dy, {dy_from})")
    if family.mode == "maximum":
        inner.append("tap = ((z + PD - oz * SD) * KH + y_ + PH - oy * SH) * KW + x + PW - ox * SW")
        if width > 1:
            numbers = [f"number{q}" for q in range(width)]
            inner.append(f"{', '.join(numbers)} = load4(winner, {winner_from})")
        for total, number, error in zip(totals, numbers, errors, strict=True):
            inner += [f"if {number} == float32(tap):", f"    {total} += {error}"]
    else:
        for o, a in zip(("oz", "oy", "ox"), letters, strict=True):
            low, high = (f"-P{a}", f"{a} + A{a}") if family.count_pad else ("0", a)
            inner += [
                f"{o}_start = {o} * S{a} - P{a}",
                f"{o}_count = min({o}_start + K{a}, {high}) - max({o}_start, {low})",
            ]
        divisor = "float32(oz_count * oy_count * ox_count)"
        pairs = zip(totals, errors, strict=True)
        inner += [f"{total} += {error} / {divisor}" for total, error in pairs]
    lines += indent(depth, inner)
    lines += _finished_lanes(family, totals, gaps) if width > 1 else _finished(family, gaps)
    step = f" * {width}" if width > 1 else ""
    body = [f"at = int64(cuda.grid(1)){step}", "if at < size:", *indent(1, lines)]
    made = kernel(
        f"{family.mode}_pool_gradient"
        + ("_padded" if family.count_pad else "")
        + (f"_of_{family.lanes}_lanes" if family.lanes > 1 else ""),
        [*((name, "float32") for name in read), *more, ("y", "float32")],
        used((*SIZES, *gaps.sizes), body),
        body,
        "y[N, planes, D, H, W] from dy[N, planes, OD, OH, OW]; a thread an element.",
    )
    size = family.batch * family.planes * s.D * s.H * s.W * family.lanes
    after = triple(family.after, 0) if family.after else (0, 0, 0)
    named = {"size": size, "N": family.batch, "planes": family.planes, **asdict(s)}
    named |= dict(zip(("AD", "AH", "AW"), after, strict=True)) | gaps.sizes
    operands = (*(f"in{k}" for k in range(len(made.pointers) - 1)), "out")
    values = tuple(named[name] for name in made.sizes)
    reason = "a thread an input, over the windows that hold it"
    call = Call(made, operands, values, blocks(size // width), size * s.taps)
    return Recipe((call,), reason=reason)


def _finished(family: PoolingGradient, gaps: Gaps) -> list[str]:
    """Statements that store ``total0``, finished."""
    place = gaps.beyond("y", "at", "n")
    if family.epilogue is None:
        return [f"y[{place}] = total0"]
    axes = [("n", "N"), ("p", "planes"), ("pixel", "pixels")]
    indices, sizes = ([Symbol(axis[k], "int64") for axis in axes] for k in range(2))
    value = family.epilogue.flattened().apply(Symbol("total0"), indices, sizes)
    further = {
        name: indices[0] * Symbol(f"gap_{name}", "int64")
        for name, _ in family.epilogue.operands
        if gaps.elements[name]
    }
    return [
        "pixel = (z * H + y_) * W + x",
        "pixels = D * H * W",
        f"y[{place}] = float32({bare(shifted(value, further))})",
    ]


def _finished_lanes(family: PoolingGradient, totals: Sequence[str], gaps: Gaps) -> list[str]:
    """Statements that store totals of neighbouring lanes, finished."""
    epilogue = family.epilogue.flattened(trailing=1) if family.epilogue else None
    loads, values = Blocks(family.lanes, epilogue=epilogue, gaps=gaps).finished(totals)
    place = ["image = n", "block = p", "pixel = (z * H + y_) * W + x"]
    sizes = ["YB = planes", "YP = D * H * W"]
    to = gaps.beyond("y", "at", "n")
    return [*(place + sizes if loads else []), *loads, f"store4(y, {to}, {', '.join(values)})"]
