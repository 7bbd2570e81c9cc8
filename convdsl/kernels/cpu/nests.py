"""Any family by its loop nest: the plain kernel, for whatever has no faster one."""

from __future__ import annotations

import math

from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.nests import INDENT, decode, element
from convdsl.ops.expressions import operations, symbols
from convdsl.ops.families import Family, Nest
from convdsl.plan.model import Call, Recipe


def recipe(family: Family) -> Recipe:
    """One call of the kernel that walks the family's nest."""
    nest = family.nest()
    body, work = _body(nest)
    pointers = (*nest.inputs, ("y", nest.result))
    needed = _needed(nest, body)
    made = kernel(
        nest.name,
        pointers,
        [name for name, _ in nest.sizes if name in needed],
        body,
        f"{nest.name.replace('_', ' ')}: one work unit per "
        + ("row of the result" if _by_rows(nest) else "element of the result")
        + ".",
        ("contract", "reassoc") if nest.reducer == "sum" else ("contract",),
    )
    operands = (*(f"in{k}" for k in range(len(nest.inputs))), "out")
    sizes = tuple(value for name, value in nest.sizes if name in needed)
    return Recipe((Call(made, operands, sizes, work, _cost(nest)),), reason="loop nest")


def _by_rows(nest: Nest) -> bool:
    # A map keeps its last axis as an inner loop, which the compiler turns into vectors.
    return nest.reducer is None and len(nest.axes) > 1


def _body(nest: Nest) -> tuple[list[str], int]:
    """The statements and the number of work units."""
    extent = nest.extent
    if _by_rows(nest):
        *outer, last = nest.axes
        lines = ["for row in range(begin, end):"]
        lines += [INDENT + line for line in decode(tuple(outer), "row")]
        lines.append(f"{INDENT}for {last.index} in range({last.size}):")
        position = f"row * {last.size} + {last.index}"
        lines += [INDENT * 2 + line for line in element(nest, position)]
        return lines, math.prod(extent[a.size] for a in outer)
    if len(nest.axes) == 1:
        index = nest.axes[0].index
        lines = [f"for {index} in range(begin, end):"]
        return [*lines, *(INDENT + line for line in element(nest, index))], nest.points
    lines = ["for position in range(begin, end):"]
    lines += [INDENT + line for line in decode(nest.axes, "position")]
    return [*lines, *(INDENT + line for line in element(nest, "position"))], nest.points


def _needed(nest: Nest, body: list[str]) -> set[str]:
    """The sizes the kernel reads; the first axis bounds the work and may not occur at all."""
    import re

    words = set(re.findall(r"\w+", "\n".join(body)))
    return {name for name, _ in nest.sizes if name in words}


def _cost(nest: Nest) -> int:
    reduced = math.prod(nest.extent[a.size] for a in nest.reduced)
    return nest.points * reduced * max(1, operations(nest.element), len(symbols(nest.element)) // 4)
