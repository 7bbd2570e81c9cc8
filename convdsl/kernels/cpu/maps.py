"""Maps and reductions on the CPU, a vector at a time.

Over feature maps in blocks of channels a vector is a block; maps of anything else go along their
last axis, or along all of them where the operands are whole.
"""

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
CHAIN = 256
"""Terms that are added up before their sum goes to the total: the rounding of a sum of many terms
grows with how many are added one after the other."""

CHUNK = 1 << 13
"""Elements of a row that a unit of work covers."""
UNITS = 16
"""Units of work that a long sum is cut into at least, whatever the number of threads, so that
results do not depend on it."""


def recipe(family: Map | Reduction, lanes: int) -> Recipe | None:
    """One call; None where the family is not one of float32 along a contiguous axis."""
    names = {f"x{k}" for k in range(len(family.present))}
    if (
        set(family.dtypes) - {"float32"}
        or not {s.name for s in symbols(family.expression)} <= names
    ):
        return None
    if isinstance(family, Reduction):
        return _reduced(family) if _in_blocks(family, lanes) else None
    if family.result != "float32":
        return None
    full = tuple(size != 1 for size in family.shape)
    if any(p != full for p in family.present) and _in_blocks(family, lanes):
        return _mapped(family)
    return _along(family, lanes)


def _in_blocks(family: Map | Reduction, most: int) -> bool:
    """Whether the last axis is a vector's lanes, and is kept."""
    lanes = family.shape[-1]
    plain = lanes in (4, 8, 16) and lanes <= most and math.prod(family.shape[:-1]) > 1
    if isinstance(family, Map):
        return plain
    reduced = [size for size, k in zip(family.shape, family.kept, strict=True) if not k]
    return plain and family.kept[-1] and family.reducer == "sum" and math.prod(reduced) > 1


def _mapped(family: Map) -> Recipe:
    """A map over blocks of channels; a unit of work is a chunk of a row."""
    lanes, outer = family.shape[-1], family.shape[:-1]
    columns = [(True,) * len(outer), *(p[:-1] for p in family.present)]
    merged = Loops.merge(outer, columns, frozenset())
    names = _names(merged)
    place = _Places(merged, names, [p[-1] for p in family.present], lanes)
    *units, last = names
    each = CHUNK // lanes
    chunks = -(-merged.sizes[-1] // each)
    loads, value = place.value(family.expression)
    body = [
        f"start = unit % chunks * {each}",
        "row = unit // chunks",
        *decode(tuple(units), "row"),
        f"for {last.index} in range(start, min(start + {each}, {last.size})):",
        *(INDENT + line for line in loads),
        f"{INDENT}store(y, (row * {last.size} + {last.index}) * {lanes}, wide({value}))",
    ]
    sizes, work = (*merged.sizes, chunks), math.prod(merged.sizes[:-1]) * chunks
    axes = [*names, Axis("chunk", "chunks")]
    return _recipe(family, f"map_{lanes}", axes, body, sizes, work, lanes)


def _reduced(family: Reduction) -> Recipe:
    """A reduction over blocks of channels; a unit of work is what is kept but for lanes.

    Where these are few and their sums are long, a unit is a part of such a sum.
    """
    lanes, outer = family.shape[-1], family.shape[:-1]
    columns = [family.kept[:-1], *(p[:-1] for p in family.present)]
    merged = Loops.merge(outer, columns, frozenset())
    names = _names(merged)
    place = _Places(merged, names, [p[-1] for p in family.present], lanes)
    kept = [a for a in range(len(names)) if merged.present[a][0]]
    rest = [a for a in range(len(names)) if a not in kept]
    work = math.prod(merged.sizes[a] for a in kept)
    terms = math.prod(merged.sizes[a] for a in rest)
    parts = 1
    if work < UNITS and work * terms * lanes > 2 * CHUNK:
        parts = min(-(-UNITS // work), merged.sizes[rest[0]])
    kernel_axes = [*names, Axis("part", "parts")]
    body = [
        "row = unit // parts",
        *decode(tuple(names[a] for a in kept), "row"),
        *_reduction(family, [names[a] for a in rest], place),
    ]
    name = f"{'mean' if family.mean else 'sum'}_{lanes}"
    sizes = (*merged.sizes, parts)
    if parts == 1:
        body += _stored_total(lanes, " * ".join(names[a].size for a in rest) if family.mean else "")
        return _recipe(family, name, kernel_axes, body, sizes, work, lanes)
    body += _stored_total(lanes)
    summed = _recipe(
        family, f"sum_{lanes}_in_parts", kernel_axes, body, sizes, work * parts, lanes, "sums"
    )
    lines = [
        "for unit in range(begin, end):",
        "    total = zero()",
        "    for part in range(parts):",
        f"        total = total + load(sums, (unit * parts + part) * {lanes})",
        *_indent(1, _stored_total(lanes, "terms" if family.mean else "")),
    ]
    pointers = [("sums", "float32"), ("y", "float32")]
    doc = f"y[units, {lanes}] from sums[units, parts, {lanes}]."
    added = kernel(f"{name}_of_parts", pointers, ["parts", "terms"], lines, doc, (), lanes)
    call = Call(added, ("sums", "out"), (parts, terms), work, work * parts)
    sums = (("sums", work * parts * lanes),)
    return Recipe((*summed.calls, call), sums, f"{summed.reason}, in {parts} parts")


def _stored_total(lanes: int, count: str = "") -> list[str]:
    """Statements that store a unit's ``total``, divided by a count where there is one."""
    total = f"total / float32({count})" if count else "total"
    return [f"store(y, unit * {lanes}, {total})"]


def _along(family: Map, lanes: int) -> Recipe | None:
    """A map along its last axis; a unit of work is a chunk of a row."""
    columns = [(True,) * len(family.shape), *family.present]
    merged = Loops.merge(family.shape, columns, frozenset())
    if not merged.sizes or merged.sizes[-1] < lanes:
        return None
    names = _names(merged)
    *units, last = names
    chunks = -(-merged.sizes[-1] // CHUNK)
    place = _Places(merged, names, [False] * len(family.present), 1)
    body = [
        f"stop = min(start + {CHUNK}, {last.size})",
        f"for {last.index} in range(start, stop - {lanes - 1}, {lanes}):",
    ]
    position = f"row * {last.size} + {last.index}"
    for few in ("", f"stop - {last.index}"):
        loads, value = place.value(family.expression, few)
        lines = [*loads, f"store(y, {position}, wide({value}))"]
        if few:
            # What is left is less than a vector.
            body.append(f"{last.index} = start + (stop - start) // {lanes} * {lanes}")
            body.append(f"if {last.index} < stop:")
            lines[-1] = f"store_first(y, {position}, wide({value}), {few})"
        body += [INDENT + line for line in lines]
    start = [
        f"start = unit % chunks * {CHUNK}",
        "row = unit // chunks",
        *decode(tuple(units), "row"),
    ]
    sizes, work = (*merged.sizes, chunks), math.prod(merged.sizes[:-1]) * chunks
    axes = [*names, Axis("chunk", "chunks")]
    return _recipe(family, "map", axes, [*start, *body], sizes, work, lanes)


def _names(merged: Loops) -> list[Axis]:
    return [Axis(f"j{a}", f"n{a}") for a in range(len(merged.sizes))]


def _recipe(
    family: Map | Reduction,
    name: str,
    axes: Sequence[Axis],
    body: Sequence[str],
    sizes: tuple[int, ...],
    work: int,
    lanes: int,
    result: str = "out",
) -> Recipe:
    """One call, of a kernel whose ``body`` is what it does for a ``unit``."""
    count = len(family.present)
    made = kernel(
        name,
        [*((f"x{k}", "float32") for k in range(count)), ("y", "float32")],
        [axis.size for axis in axes],
        ["for unit in range(begin, end):", *_indent(1, body)],
        f"{name.replace('_', ' ')}: {bare(family.expression)}, {lanes} elements at a time.",
        ("contract",),
        lanes,
    )
    cost = math.prod(family.shape) * max(1, operations(family.expression)) // lanes
    operands = (*(f"in{k}" for k in range(count)), result)
    return Recipe((Call(made, operands, sizes, work, cost),), reason=f"{lanes} at a time")


def _indent(depth: int, lines: Sequence[str]) -> list[str]:
    return [INDENT * depth + line for line in lines]


class _Places:
    """Where operands have their elements."""

    def __init__(
        self, merged: Loops, names: Sequence[Axis], vectors: Sequence[bool], lanes: int
    ) -> None:
        self.merged, self.names, self.vectors, self.lanes = merged, names, vectors, lanes

    def load(self, k: int, few: str) -> str:
        """The statement's right side that reads operand ``k``, or the first ``few`` of a vector."""
        own = [a for a in range(len(self.names)) if self.merged.present[a][k + 1]]
        indices: list[Expr] = [Symbol(self.names[a].index, "int64") for a in own]
        sizes: list[Expr] = [Symbol(self.names[a].size, "int64") for a in own]
        at = bare(flat(indices, sizes))
        if self.lanes > 1:
            return f"load(x{k}, ({at}) * {self.lanes})" if self.vectors[k] else f"splat(x{k}, {at})"
        if not self.merged.present[-1][k + 1]:
            return f"splat(x{k}, {at})"
        return f"load_first(x{k}, {at}, {few})" if few else f"load(x{k}, {at})"

    def value(self, expression: Expr, few: str = "") -> tuple[list[str], str]:
        """Statements that load the operands, and the expression of them."""
        used = sorted(k for k in range(len(self.vectors)) if operand(k) in symbols(expression))
        lines = [f"v{k} = {self.load(k, few)}" for k in used]
        renamed = substitute(expression, {operand(k): Symbol(f"v{k}") for k in used})
        return lines, lanewise.text(renamed)


def _reduction(family: Reduction, rest: Sequence[Axis], place: _Places) -> list[str]:
    """Statements that sum a unit's ``total``: along the first axis, its part of ``parts``."""
    loads, value = place.value(family.expression)
    totals = [f"total{t}" for t in range(TOTALS)]
    *outer, last = rest
    lines = ["total = zero()"]
    bounds = [("0", axis.size) for axis in rest]
    part = f"(unit % parts{{}}) * {rest[0].size} // parts"
    bounds[0] = (part.format(""), part.format(" + 1"))
    for depth, (axis, (first, end)) in enumerate(zip(outer, bounds, strict=False)):
        lines.append(f"{INDENT * depth}for {axis.index} in range({first}, {end}):")
    at, (first, end) = last.index, bounds[-1]
    body = [*(f"{name} = zero()" for name in totals), f"stop = min(start + {CHAIN}, {end})"]
    body += [f"{at} = start", f"while {at} + {TOTALS} <= stop:"]
    for name in totals:
        body += _indent(1, [*loads, f"{name} = {name} + ({value})", f"{at} += 1"])
    body.append(f"while {at} < stop:")
    body += _indent(1, [*loads, f"total0 = total0 + ({value})", f"{at} += 1"])
    body.append("total = total + ((total0 + total1) + (total2 + total3))")
    inner = [f"for start in range({first}, {end}, {CHAIN}):", *_indent(1, body)]
    return lines + _indent(len(outer), inner)
