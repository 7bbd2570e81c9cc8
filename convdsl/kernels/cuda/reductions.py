"""Sums, means and maxima on the GPU: a team of threads to a result, along what lies side by side.

Teams add up by exchanging registers. Where results are fewer than the device is wide (a feature
map's statistics), several teams share one and their parts are added up in a second launch. In
blocks of channels a team adds up the results of all lanes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from convdsl.kernels.cuda import nests
from convdsl.kernels.cuda.frame import (
    EVERY,
    PLAIN,
    WARP,
    Gaps,
    blocks,
    decode,
    indent,
    kernel,
    used,
)
from convdsl.kernels.cuda.maps import apart
from convdsl.kernels.cuda.results import QUAD
from convdsl.kernels.cuda.tiles import PROCESSORS
from convdsl.kernels.nests import START
from convdsl.ops.expressions import Symbol, bare, operations, substitute, symbols
from convdsl.ops.families import Axis, Reduction, flat, operand
from convdsl.ops.families.maps import Loops
from convdsl.plan.model import CONTIGUOUS, Call, Images, Kernel, Recipe

SHORT = 8
"""Elements that one thread adds up alone."""
LONG = 1 << 12
"""Elements that are worth a team of their own where one result is shared."""


def recipe(family: Reduction, images: Images = CONTIGUOUS) -> Recipe:
    """Teams; a thread to a result where neighbours are results, or where sums are short."""
    loops = _loops(family, images)
    gaps = Gaps({f"x{k}": images.gap(k) for k in range(len(family.present))})
    if _in_lanes(family, loops):
        return _by_lanes(family, loops, gaps)
    if not _fits(family, loops):
        return nests.recipe(family, images)
    kept = [a for a, column in enumerate(loops.present) if column[0]]
    results = math.prod(loops.sizes[a] for a in kept)
    length = math.prod(loops.sizes) // results
    team = WARP if length <= PLAIN and results >= PROCESSORS else PLAIN
    parts = max(1, min(4 * PROCESSORS // results, length // LONG))
    # What is between images lies between fours, too.
    width = 1 if loops.sizes[-1] % QUAD or len(loops.sizes) == len(apart(images)) else QUAD
    made = _kernel(family, loops, gaps, team, width, parts > 1)
    sizes = dict(zip((f"n{a}" for a in range(len(loops.sizes))), loops.sizes, strict=True))
    named = {"results": results, "length": length, "parts": parts, **sizes, **gaps.sizes}
    target = "partials" if parts > 1 else "out"
    operands = (*(f"in{k}" for k in range(len(family.present))), target)
    cost = results * length * max(1, operations(family.expression))
    teams = results * parts
    call = Call(
        made,
        operands,
        tuple(named[name] for name in made.sizes),
        teams if team == PLAIN else blocks(teams, PLAIN // WARP),
        cost,
    )
    who = f"{team} threads a result" + (f", in {parts} parts" if parts > 1 else "")
    if parts == 1:
        return Recipe((call,), reason=who)
    added = _added(family)
    again = Call(added, (target, "out"), (results, parts, length), blocks(results), teams)
    return Recipe((call, again), ((target, teams),), who)


def _loops(family: Reduction, images: Images) -> Loops:
    return Loops.merge(family.shape, [family.kept, *family.present], apart(images))


def _simple(family: Reduction) -> bool:
    """Whether it reads float32 and nothing of its place."""
    own = {operand(k) for k in range(len(family.present))}
    plain = set(family.dtypes) == {"float32"} and symbols(family.expression) <= own
    return plain and family.reducer != "winner"


def _in_lanes(family: Reduction, loops: Loops) -> bool:
    """Whether the last axis is the lanes of blocks, of which every one has its result."""
    if not _simple(family) or len(loops.sizes) < 2:
        return False
    return loops.present[-1][0] and not loops.present[-2][0] and loops.sizes[-1] in (QUAD, 2 * QUAD)


def _fits(family: Reduction, loops: Loops) -> bool:
    if not _simple(family) or not loops.sizes or loops.present[-1][0]:
        return False
    length = math.prod(n for n, c in zip(loops.sizes, loops.present, strict=True) if not c[0])
    return length >= SHORT


def _by_lanes(family: Reduction, loops: Loops, gaps: Gaps) -> Recipe:
    """Teams of a block; a thread has four neighbouring lanes."""
    lanes = loops.sizes[-1]
    kept = [a for a, column in enumerate(loops.present[:-1]) if column[0]]
    results = math.prod(loops.sizes[a] for a in kept)
    length = math.prod(loops.sizes[:-1]) // results
    parts = max(1, min(4 * PROCESSORS // results, length // (LONG // lanes)))
    made = _lanes_kernel(family, loops, gaps, parts > 1)
    named = {"length": length, "parts": parts, **gaps.sizes}
    named |= {f"n{a}": size for a, size in enumerate(loops.sizes)}
    target = "partials" if parts > 1 else "out"
    operands = (*(f"in{k}" for k in range(len(family.present))), target)
    given = tuple(named[name] for name in made.sizes)
    cost = results * length * lanes * max(1, operations(family.expression))
    call = Call(made, operands, given, results * parts, cost)
    who = f"{PLAIN} threads for {lanes} lanes" + (f", in {parts} parts" if parts > 1 else "")
    if parts == 1:
        return Recipe((call,), reason=who)
    results *= lanes
    sizes = (results, parts, length)
    again = Call(_added(family), (target, "out"), sizes, blocks(results), results * parts)
    return Recipe((call, again), ((target, results * parts),), who)


def _lanes_kernel(family: Reduction, loops: Loops, gaps: Gaps, partial: bool) -> Kernel:
    lanes = loops.sizes[-1]
    teams = lanes // QUAD
    axes = [Axis(f"j{a}", f"n{a}") for a in range(len(loops.sizes))]
    kept = [axis for axis, column in zip(axes[:-1], loops.present, strict=False) if column[0]]
    rest = [axis for axis, column in zip(axes[:-1], loops.present, strict=False) if not column[0]]
    totals = [f"total{q}" for q in range(QUAD)]
    body = [
        f"shared = shared_floats({PLAIN // WARP * lanes})",
        "thread = int64(cuda.threadIdx.x)",
        "unit = int64(cuda.blockIdx.x)",
        *(["found = quotient(unit, parts)", "part = unit - found * parts"] if partial else []),
        *([] if partial else ["found = unit"]),
        *decode(kept, "found", "_kept"),
        f"{axes[-1].index} = (thread & {teams - 1}) * {QUAD}",
        *(f"{total} = {START[family.reducer]}" for total in totals),
        *(["begin = quotient(part * length, parts)"] if partial else ["begin = 0"]),
        *(["end = quotient((part + 1) * length, parts)"] if partial else ["end = length"]),
        f"for at in range(begin + (thread >> {teams.bit_length() - 1}), end, {PLAIN // teams}):",
        *indent(1, decode(rest, "at", "_rest")),
        *indent(1, _values(family, loops, gaps, axes, totals)),
        f"for step in range({6 - teams.bit_length()}):",
    ]
    for total in totals:
        body.append(f"    other = cuda.shfl_xor_sync({EVERY}, {total}, 16 >> step)")
        body += indent(1, _joined(family, total, "other"))
    target = "(found * L + thread) * parts + part" if partial else "found * L + thread"
    body += [
        f"if thread & 31 < {teams}:",
        f"    place = (thread >> 5) * {lanes} + {axes[-1].index}",
        *(f"    shared[place + {q}] = {total}" for q, total in enumerate(totals)),
        "cuda.syncthreads()",
        f"if thread < {lanes}:",
        "    total = shared[thread]",
        f"    for warp in range(1, {PLAIN // WARP}):",
        f"        other = shared[warp * {lanes} + thread]",
        *indent(2, _joined(family, "total", "other")),
        f"    y[{target.replace('L', str(lanes))}] = {'total' if partial else _finished(family)}",
    ]
    name = f"{_name(family)}_of_{lanes}_lanes"
    return kernel(
        name + ("_partial" if partial else ""),
        [*((f"x{k}", "float32") for k in range(len(family.present))), ("y", "float32")],
        used(("length", "parts", *(axis.size for axis in axes), *gaps.sizes), body),
        body,
        f"{_name(family)}: {bare(family.expression)}, {PLAIN} threads for {lanes} results.",
    )


def _joined(family: Reduction, total: str, value: str) -> list[str]:
    """Statements that bring a value into a total; a NaN makes every maximum NaN."""
    if family.reducer == "sum":
        return [f"{total} += {value}"]
    return [f"if {value} > {total} or {value} != {value}:", f"    {total} = {value}"]


def _exchanged(family: Reduction) -> list[str]:
    """Statements after which every thread of a warp has its total."""
    return [
        "for step in range(5):",
        f"    other = cuda.shfl_xor_sync({EVERY}, total, 16 >> step)",
        *indent(1, _joined(family, "total", "other")),
    ]


def _finished(family: Reduction) -> str:
    return "total / float32(length)" if family.mean else "total"


def _name(family: Reduction) -> str:
    return "mean" if family.mean else "maximum" if family.reducer == "maximum" else "sum"


def _kernel(
    family: Reduction, loops: Loops, gaps: Gaps, team: int, width: int, partial: bool
) -> Kernel:
    axes = [Axis(f"j{a}", f"n{a}") for a in range(len(loops.sizes))]
    kept = [axis for axis, column in zip(axes, loops.present, strict=True) if column[0]]
    rest = [axis for axis, column in zip(axes, loops.present, strict=True) if not column[0]]
    start = START[family.reducer]
    body = [
        f"thread = int64(cuda.threadIdx.x) & {team - 1}",
        "unit = int64(cuda.blockIdx.x)"
        if team == PLAIN
        else f"unit = int64(cuda.grid(1)) >> {WARP.bit_length() - 1}",
    ]
    # Warps whose result does not exist compute the last one again: all threads must exchange.
    if team == WARP:
        body.append("found = min(unit, results - 1)")
    else:
        body += (
            ["found = quotient(unit, parts)", "part = unit - found * parts"]
            if partial
            else ["found = unit"]
        )
    body += decode(kept, "found", "_kept")
    begin, end = "thread", "length"
    if partial:
        # In whole accesses, so that they stay aligned.
        body += [
            f"each = quotient(length + parts * {width} - 1, parts * {width}) * {width}",
            "begin = part * each",
            "end = min(begin + each, length)",
        ]
        begin, end = "begin + thread", "end"
    step = f" * {width}" if width > 1 else ""
    start_at = begin.replace("thread", f"thread{step}")
    body += [
        f"total = {start}",
        f"for at in range({start_at}, {end}, {team * width}):",
        *indent(1, decode(rest, "at", "_rest")),
        *indent(1, _values(family, loops, gaps, axes, ["total"] * width)),
        *_exchanged(family),
    ]
    target = "unit" if partial else "found"
    result = "total" if partial else _finished(family)
    if team == WARP:
        body += ["if thread == 0 and unit < results:", f"    y[unit] = {result}"]
    else:
        body = [f"shared = shared_floats({PLAIN // WARP})", *body]
        body += [
            "if thread & 31 == 0:",
            "    shared[thread >> 5] = total",
            "cuda.syncthreads()",
            "if thread == 0:",
            f"    for warp in range(1, {PLAIN // WARP}):",
            "        other = shared[warp]",
            *indent(2, _joined(family, "total", "other")),
            f"    y[{target}] = {result}",
        ]
    sizes = ("results", "length", "parts", *(axis.size for axis in axes), *gaps.sizes)
    name = f"{_name(family)}_by_{team}" + ("_fours" if width > 1 else "")
    return kernel(
        name + ("_partial" if partial else ""),
        [*((f"x{k}", "float32") for k in range(len(family.present))), ("y", "float32")],
        used(sizes, body),
        body,
        f"{_name(family)}: {bare(family.expression)}, {team} threads a result.",
    )


def _values(
    family: Reduction, loops: Loops, gaps: Gaps, axes: Sequence[Axis], totals: Sequence[str]
) -> list[str]:
    """Statements that bring an access' elements into a total each."""
    lines = []
    width = len(totals)
    names: list[list[str]] = []
    for k in range(len(family.present)):
        own = [a for a in range(len(axes)) if loops.present[a][k + 1]]
        at = bare(
            flat(
                [Symbol(axes[a].index, "int64") for a in own],
                [Symbol(axes[a].size, "int64") for a in own],
            )
        )
        at = gaps.beyond(f"x{k}", at, "j0")
        if own and own[-1] == len(axes) - 1 and width > 1:
            names.append([f"v{k}_{q}" for q in range(width)])
            lines.append(f"{', '.join(names[-1])} = load4(x{k}, {at})")
        else:
            names.append([f"v{k}"] * width)
            lines.append(f"v{k} = x{k}[{at}]")
    for q, total in enumerate(totals):
        known = {operand(k): Symbol(n[q]) for k, n in enumerate(names)}
        value = f"float32({bare(substitute(family.expression, known))})"
        if family.reducer == "sum":
            lines.append(f"{total} += {value}")
        else:
            lines += [f"value = {value}", *_joined(family, total, "value")]
    return lines


def _added(family: Reduction) -> Kernel:
    """The kernel that brings together the parts of every result."""
    body = [
        "unit = int64(cuda.grid(1))",
        "if unit < results:",
        f"    total = {START[family.reducer]}",
        "    for part in range(parts):",
        "        other = partials[unit * parts + part]",
        *indent(2, _joined(family, "total", "other")),
        f"    y[unit] = {_finished(family)}",
    ]
    return kernel(
        f"{_name(family)}_of_parts",
        [("partials", "float32"), ("y", "float32")],
        ["results", "parts", "length"],
        body,
        f"{_name(family)} from parts: a thread a result.",
    )
