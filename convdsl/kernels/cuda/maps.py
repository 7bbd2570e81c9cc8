"""Elementwise maps on the GPU, four neighbours to a thread where they lie side by side."""

from __future__ import annotations

import math

from convdsl.kernels.cuda import nests
from convdsl.kernels.cuda.frame import Gaps, blocks, decode, indent, kernel
from convdsl.kernels.cuda.results import QUAD
from convdsl.ops.expressions import Symbol, bare, operations, substitute, symbols
from convdsl.ops.families import Axis, Map, flat, operand
from convdsl.ops.families.maps import Loops
from convdsl.plan.model import CONTIGUOUS, RESULT, Call, Images, Recipe


def recipe(family: Map, images: Images = CONTIGUOUS) -> Recipe:
    """One launch; an element to a thread where a map reads its place or anything but float32."""
    return _by_fours(family, images) if fits(family, images) else nests.recipe(family, images)


def fits(family: Map, images: Images = CONTIGUOUS) -> bool:
    """Whether threads can take four neighbours."""
    if {*family.dtypes, family.result} != {"float32"}:
        return False
    own = {operand(k) for k in range(len(family.present))}
    sizes = _loops(family, images).sizes[len(apart(images)) :]
    return symbols(family.expression) <= own and bool(sizes) and not sizes[-1] % QUAD


def _loops(family: Map, images: Images) -> Loops:
    columns = [(True,) * len(family.shape), *family.present]
    return Loops.merge(family.shape, columns, apart(images))


def apart(images: Images) -> frozenset[int]:
    """The axes that are loops of their own: that of images, where something lies between these."""
    return frozenset({0} if any(images.gaps) else ())


def _by_fours(family: Map, images: Images) -> Recipe:
    loops = _loops(family, images)
    gaps = Gaps(
        {f"x{k}": images.gap(k) for k in range(len(family.present))} | {"y": images.gap(RESULT)}
    )
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
            at = gaps.beyond(f"x{k}", "at" if len(own) == len(axes) else at, "j0")
            lines.append(f"{', '.join(names[-1])} = load4(x{k}, {at})")
        else:
            names.append([f"v{k}"] * QUAD)
            lines.append(f"v{k} = x{k}[{gaps.beyond(f'x{k}', at, 'j0')}]")
    values = []
    for q in range(QUAD):
        known = {operand(k): Symbol(n[q]) for k, n in enumerate(names) if n}
        values.append(f"float32({bare(substitute(family.expression, known))})")
    lines.append(f"store4(y, {gaps.beyond('y', 'at', 'j0')}, {', '.join(values)})")
    whole = all(all(column) for column in loops.present) and not gaps
    body = [
        f"at = int64(cuda.grid(1)) * {QUAD}",
        "if at < size:",
        *indent(1, [] if whole else decode(axes, "at")),
        *indent(1, lines),
    ]
    made = kernel(
        "map_by_4",
        [*((f"x{k}", "float32") for k in range(len(family.present))), ("y", "float32")],
        ["size", *([] if whole else [axis.size for axis in axes]), *gaps.sizes],
        body,
        f"map: {bare(family.expression)}, {QUAD} elements a thread.",
    )
    size = math.prod(family.shape)
    operands = (*(f"in{k}" for k in range(len(family.present))), "out")
    given = (size, *(() if whole else loops.sizes), *gaps.sizes.values())
    cost = size * max(1, operations(family.expression))
    call = Call(made, operands, given, blocks(size // QUAD), cost)
    return Recipe((call,), reason=f"{QUAD} elements a thread")
