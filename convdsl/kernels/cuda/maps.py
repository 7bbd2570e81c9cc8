"""Elementwise maps on the GPU, four neighbours to a thread where they lie side by side."""

from __future__ import annotations

import math

from convdsl.kernels.cuda import nests
from convdsl.kernels.cuda.frame import blocks, decode, indent, kernel
from convdsl.kernels.cuda.results import QUAD
from convdsl.ops.expressions import Symbol, bare, operations, substitute, symbols
from convdsl.ops.families import Axis, Map, flat, operand
from convdsl.ops.families.maps import Loops
from convdsl.plan.model import Call, Recipe


def recipe(family: Map) -> Recipe:
    """One launch; an element to a thread where a map reads its place or anything but float32."""
    return _by_fours(family) if fits(family) else nests.recipe(family)


def fits(family: Map) -> bool:
    """Whether threads can take four neighbours."""
    if {*family.dtypes, family.result} != {"float32"}:
        return False
    own = {operand(k) for k in range(len(family.present))}
    loops = _loops(family)
    return symbols(family.expression) <= own and bool(loops.sizes) and not loops.sizes[-1] % QUAD


def _loops(family: Map) -> Loops:
    columns = [(True,) * len(family.shape), *family.present]
    return Loops.merge(family.shape, columns, frozenset())


def _by_fours(family: Map) -> Recipe:
    loops = _loops(family)
    axes = [Axis(f"j{a}", f"n{a}") for a in range(len(loops.sizes))]
    indices = [Symbol(axis.index, "int64") for axis in axes]
    sizes = [Symbol(axis.size, "int64") for axis in axes]
    lines = []
    names: list[list[str]] = []
    for k in range(len(family.present)):
        own = [a for a in range(len(axes)) if loops.present[a][k + 1]]
        at = bare(flat([indices[a] for a in own], [sizes[a] for a in own]))
        if operand(k) not in symbols(family.expression):
            names.append([])
        elif own and own[-1] == len(axes) - 1:
            names.append([f"v{k}_{q}" for q in range(QUAD)])
            # An operand that varies along every axis lies as the result does.
            at = "at" if len(own) == len(axes) else at
            lines.append(f"{', '.join(names[-1])} = load4(x{k}, {at})")
        else:
            names.append([f"v{k}"] * QUAD)
            lines.append(f"v{k} = x{k}[{at}]")
    values = []
    for q in range(QUAD):
        known = {operand(k): Symbol(n[q]) for k, n in enumerate(names) if n}
        values.append(f"float32({bare(substitute(family.expression, known))})")
    lines.append(f"store4(y, at, {', '.join(values)})")
    whole = all(all(column) for column in loops.present)
    body = [
        f"at = int64(cuda.grid(1)) * {QUAD}",
        "if at < size:",
        *indent(1, [] if whole else decode(axes, "at")),
        *indent(1, lines),
    ]
    made = kernel(
        "map_by_4",
        [*((f"x{k}", "float32") for k in range(len(family.present))), ("y", "float32")],
        ["size", *([] if whole else [axis.size for axis in axes])],
        body,
        f"map: {bare(family.expression)}, {QUAD} elements a thread.",
    )
    size = math.prod(family.shape)
    operands = (*(f"in{k}" for k in range(len(family.present))), "out")
    given = (size, *(() if whole else loops.sizes))
    cost = size * max(1, operations(family.expression))
    call = Call(made, operands, given, blocks(size // QUAD), cost)
    return Recipe((call,), reason=f"{QUAD} elements a thread")
