"""Maps and reductions on the CPU over feature maps in blocks of channels, a vector at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from convdsl.kernels.cpu import lanewise
from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.nests import INDENT, decode
from convdsl.ops.expressions import Expr, Symbol, bare, operations, substitute, symbols
from convdsl.ops.families import Axis, Map, Reduction, flat, operand
from convdsl.ops.families.maps import Loops
from convdsl.plan.model import Call, Recipe

TOTALS = 4
"""Sums that run side by side, so that one need not wait for the other."""


def fits(family: Map | Reduction, most: int) -> bool:
    """Whether the last axis is a vector's lanes and is kept, and all is float32.

    A map whose operands all are whole is one long loop, which the compiler vectorises itself.
    """
    names = {f"x{k}" for k in range(len(family.present))}
    lanes = family.shape[-1]
    plain = (
        lanes in (4, 8, 16)
        and lanes <= most
        and math.prod(family.shape[:-1]) > 1
        and set(family.dtypes) <= {"float32"}
        and {s.name for s in symbols(family.expression)} <= names
    )
    if isinstance(family, Map):
        full = tuple(size != 1 for size in family.shape)
        broadcast = any(p != full for p in family.present)
        return plain and broadcast and family.result == "float32"
    reduced = [size for size, k in zip(family.shape, family.kept, strict=True) if not k]
    return plain and family.kept[-1] and family.reducer == "sum" and bool(reduced)


def recipe(family: Map | Reduction) -> Recipe:
    """One call; a unit of work is what is kept but for lanes, or a row of a map."""
    lanes = family.shape[-1]
    outer = family.shape[:-1]
    kept = family.kept[:-1] if isinstance(family, Reduction) else (True,) * len(outer)
    columns = [kept, *(p[:-1] for p in family.present)]
    merged = Loops.merge(outer, columns, frozenset())
    names = [Axis(f"j{a}", f"n{a}") for a in range(len(merged.sizes))]
    place = _Places(merged, names, [p[-1] for p in family.present], lanes)
    if isinstance(family, Map):
        units, body = _map(family.expression, names, place)
        work = math.prod(merged.sizes[:-1])
    else:
        own = [a for a in range(len(names)) if merged.present[a][0]]
        units = [names[a] for a in own]
        rest = [names[a] for a in range(len(names)) if a not in own]
        body = _reduction(family, units, rest, place)
        work = math.prod(merged.sizes[a] for a in own)
    count = len(family.present)
    lines = ["for unit in range(begin, end):"]
    lines += [INDENT + line for line in (*decode(tuple(units), "unit"), *body)]
    points = lanes * math.prod(merged.sizes)
    what = "map" if isinstance(family, Map) else "mean" if family.mean else "sum"
    made = kernel(
        f"{what}_{lanes}",
        [*((f"x{k}", "float32") for k in range(count)), ("y", "float32")],
        [axis.size for axis in names],
        lines,
        f"{what} of {bare(family.expression)} over blocks of {lanes} channels.",
        ("contract",),
        lanes,
    )
    cost = points * max(1, operations(family.expression))
    operands = (*(f"in{k}" for k in range(count)), "out")
    call = Call(made, operands, merged.sizes, work, cost)
    return Recipe((call,), reason=f"{lanes} channels at a time")


class _Places:
    """Where operands have their elements."""

    def __init__(
        self, merged: Loops, names: Sequence[Axis], vectors: Sequence[bool], lanes: int
    ) -> None:
        self.merged, self.names, self.vectors, self.lanes = merged, names, vectors, lanes

    def load(self, k: int) -> str:
        """The statement's right side that reads operand ``k``."""
        own = [a for a in range(len(self.names)) if self.merged.present[a][k + 1]]
        indices: list[Expr] = [Symbol(self.names[a].index, "int64") for a in own]
        sizes: list[Expr] = [Symbol(self.names[a].size, "int64") for a in own]
        at = bare(flat(indices, sizes))
        if not self.vectors[k]:
            return f"splat(x{k}, {at})"
        return f"load(x{k}, ({at}) * {self.lanes})"

    def value(self, expression: Expr, mark: str = "") -> tuple[list[str], str]:
        """Statements that load the operands, and the expression of them."""
        used = sorted(k for k in range(len(self.vectors)) if operand(k) in symbols(expression))
        lines = [f"v{k}{mark} = {self.load(k)}" for k in used]
        renamed = substitute(expression, {operand(k): Symbol(f"v{k}{mark}") for k in used})
        return lines, lanewise.text(renamed)


def _map(expression: Expr, names: Sequence[Axis], place: _Places) -> tuple[list[Axis], list[str]]:
    *outer, last = names
    loads, value = place.value(expression)
    body = [
        f"for {last.index} in range({last.size}):",
        *(INDENT + line for line in loads),
        f"{INDENT}store(y, (unit * {last.size} + {last.index}) * {place.lanes}, wide({value}))",
    ]
    return outer, body


def _reduction(
    family: Reduction, units: Sequence[Axis], rest: Sequence[Axis], place: _Places
) -> list[str]:
    *outer, last = rest
    loads, value = place.value(family.expression)
    lines = [f"total{t} = zero()" for t in range(TOTALS)]
    depth = 0
    for axis in outer:
        lines.append(f"{INDENT * depth}for {axis.index} in range({axis.size}):")
        depth += 1
    inner = [f"{last.index} = 0", f"while {last.index} + {TOTALS} <= {last.size}:"]
    for t in range(TOTALS):
        inner += [INDENT + line for line in loads]
        inner += [f"{INDENT}total{t} = total{t} + ({value})", f"{INDENT}{last.index} += 1"]
    inner += [f"while {last.index} < {last.size}:"]
    inner += [INDENT + line for line in loads]
    inner += [f"{INDENT}total0 = total0 + ({value})", f"{INDENT}{last.index} += 1"]
    lines += [INDENT * depth + line for line in inner]
    total = "(total0 + total1) + (total2 + total3)"
    if family.mean:
        count = " * ".join(axis.size for axis in rest)
        total = f"({total}) / float32({count})"
    lines.append(f"store(y, unit * {place.lanes}, {total})")
    return lines
