"""Maps and reductions on the CPU, a vector at a time.

Over feature maps in blocks of channels a vector is a block; maps of anything else go along their
last axis, or along all of them where the operands are whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from convdsl.graph.types import Shape
from convdsl.kernels.cpu import lanewise
from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.nests import INDENT, decode
from convdsl.ops.expressions import Expr, Symbol, bare, operations, substitute, symbols
from convdsl.ops.families import Axis, Map, Reduction, flat, operand
from convdsl.ops.families.maps import Loops
from convdsl.plan.model import RESULT, Call, Images, Recipe

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


def recipe(family: Map | Reduction, images: Images, lanes: int) -> Recipe | None:
    """One call; None where the family is not one of float32 along a contiguous axis."""
    if not _is_plain(family):
        return None
    if isinstance(family, Reduction):
        return _reduced(family, images) if _in_blocks(family, lanes) else None
    if _goes_by_blocks(family, lanes):
        return _mapped(family, images)
    return _along(family, images, lanes)


def takes_part(family: Map | Reduction, operand: int, lanes: int) -> bool:
    """Whether `recipe` knows the family with that operand as a part of a larger feature map."""
    if not _is_plain(family) or (operand != RESULT and not family.present[operand][0]):
        return False
    if isinstance(family, Reduction):
        return operand != RESULT and _in_blocks(family, lanes)
    if _goes_by_blocks(family, lanes):
        return True
    sizes = _merged(family.shape, family.present, apart=True).sizes
    return len(sizes) > 1 and sizes[-1] >= lanes


def _is_plain(family: Map | Reduction) -> bool:
    """Whether all is float32, and depends on the operands alone."""
    names = {f"x{k}" for k in range(len(family.present))}
    result = family.result if isinstance(family, Map) else "float32"
    if {*family.dtypes, result} != {"float32"}:
        return False
    return {s.name for s in symbols(family.expression)} <= names


def _in_blocks(family: Map | Reduction, most: int) -> bool:
    """Whether the last axis is a vector's lanes, and is kept."""
    lanes = family.shape[-1]
    plain = lanes in (4, 8, 16) and lanes <= most and math.prod(family.shape[:-1]) > 1
    if isinstance(family, Map):
        return plain
    reduced = [size for size, k in zip(family.shape, family.kept, strict=True) if not k]
    return plain and family.kept[-1] and family.reducer == "sum" and math.prod(reduced) > 1


def _goes_by_blocks(family: Map, lanes: int) -> bool:
    """Whether a map goes over blocks of channels: none has to where all operands are whole."""
    full = tuple(size != 1 for size in family.shape)
    return any(p != full for p in family.present) and _in_blocks(family, lanes)


def _merged(
    shape: Shape,
    present: Sequence[tuple[bool, ...]],
    kept: tuple[bool, ...] | None = None,
    *,
    apart: bool,
) -> Loops:
    """The loops over a shape; the first is over images, where these lie ``apart``."""
    columns = [kept or (True,) * len(shape), *present]
    return Loops.merge(shape, columns, frozenset({0} if apart else ()))


def _mapped(family: Map, images: Images) -> Recipe:
    """A map over blocks of channels; a unit of work is a chunk of a row."""
    lanes, outer = family.shape[-1], family.shape[:-1]
    merged = _merged(outer, [p[:-1] for p in family.present], apart=any(images.elements))
    place = _Places(merged, [p[-1] for p in family.present], lanes, images)
    *units, last = place.names
    each = CHUNK // lanes
    chunks = -(-merged.sizes[-1] // each)
    loads, value = place.value(family.expression)
    at = place.result or f"(row * {last.size} + {last.index}) * {lanes}"
    body = [
        f"start = unit % chunks * {each}",
        "row = unit // chunks",
        *decode(tuple(units), "row"),
        f"for {last.index} in range(start, min(start + {each}, {last.size})):",
        *(INDENT + line for line in loads),
        f"{INDENT}store(y, {at}, wide({value}))",
    ]
    work = math.prod(merged.sizes[:-1]) * chunks
    sizes = {**place.sizes, "chunks": chunks}
    return _recipe(family, f"map_{lanes}", sizes, body, work, lanes)


def _reduced(family: Reduction, images: Images) -> Recipe:
    """A reduction over blocks of channels; a unit of work is what is kept but for lanes.

    Where these are few and their sums are long, a unit is a part of such a sum.
    """
    lanes, outer = family.shape[-1], family.shape[:-1]
    present = [p[:-1] for p in family.present]
    merged = _merged(outer, present, family.kept[:-1], apart=any(images.elements))
    place = _Places(merged, [p[-1] for p in family.present], lanes, images)
    names = place.names
    kept = [a for a in range(len(names)) if merged.present[a][0]]
    rest = [a for a in range(len(names)) if a not in kept]
    work = math.prod(merged.sizes[a] for a in kept)
    terms = math.prod(merged.sizes[a] for a in rest)
    parts = 1
    if work < UNITS and work * terms * lanes > 2 * CHUNK:
        parts = min(-(-UNITS // work), merged.sizes[rest[0]])
    body = [
        "row = unit // parts",
        *decode(tuple(names[a] for a in kept), "row"),
        *_reduction(family, [names[a] for a in rest], place),
    ]
    name = f"{'mean' if family.mean else 'sum'}_{lanes}"
    sizes = {**place.sizes, "parts": parts}
    if parts == 1:
        body += _stored_total(lanes, " * ".join(names[a].size for a in rest) if family.mean else "")
        return _recipe(family, name, sizes, body, work, lanes)
    body += _stored_total(lanes)
    summed = _recipe(family, f"sum_{lanes}_in_parts", sizes, body, work * parts, lanes, "sums")
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


def _along(family: Map, images: Images, lanes: int) -> Recipe | None:
    """A map along its last axis; a unit of work is a chunk of a row."""
    merged = _merged(family.shape, family.present, apart=any(images.elements))
    if not merged.sizes or merged.sizes[-1] < lanes:
        return None
    place = _Places(merged, [False] * len(family.present), 1, images)
    *units, last = place.names
    chunks = -(-merged.sizes[-1] // CHUNK)
    body = [
        f"stop = min(start + {CHUNK}, {last.size})",
        f"for {last.index} in range(start, stop - {lanes - 1}, {lanes}):",
    ]
    position = place.result or f"row * {last.size} + {last.index}"
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
    work = math.prod(merged.sizes[:-1]) * chunks
    sizes = {**place.sizes, "chunks": chunks}
    return _recipe(family, "map", sizes, [*start, *body], work, lanes)


def _recipe(
    family: Map | Reduction,
    name: str,
    sizes: Mapping[str, int],
    body: Sequence[str],
    work: int,
    lanes: int,
    result: str = "out",
) -> Recipe:
    """One call, of a kernel whose ``body`` is what it does for a ``unit``."""
    count = len(family.present)
    made = kernel(
        name,
        [*((f"x{k}", "float32") for k in range(count)), ("y", "float32")],
        list(sizes),
        ["for unit in range(begin, end):", *_indent(1, body)],
        f"{name.replace('_', ' ')}: {bare(family.expression)}, {lanes} elements at a time.",
        ("contract",),
        lanes,
    )
    cost = math.prod(family.shape) * max(1, operations(family.expression)) // lanes
    operands = (*(f"in{k}" for k in range(count)), result)
    call = Call(made, operands, tuple(sizes.values()), work, cost)
    return Recipe((call,), reason=f"{lanes} at a time")


def _indent(depth: int, lines: Sequence[str]) -> list[str]:
    return [INDENT * depth + line for line in lines]


class _Places:
    """Where operands have their elements."""

    def __init__(self, merged: Loops, vectors: Sequence[bool], lanes: int, images: Images) -> None:
        self.merged, self.vectors, self.lanes = merged, vectors, lanes
        self.names = [Axis(f"j{a}", f"n{a}") for a in range(len(merged.sizes))]
        self.apart = {
            k: f"apart{k if k < len(vectors) else ''}"
            for k, elements in enumerate(images.elements)
            if elements
        }
        sizes = zip((axis.size for axis in self.names), merged.sizes, strict=True)
        self.sizes = {**dict(sizes), **{n: images.elements[k] for k, n in self.apart.items()}}

    @property
    def result(self) -> str:
        """The position of the result, where its images lie apart; else ""."""
        k = len(self.vectors)
        return self._place(k, range(len(self.names)), self.lanes) if k in self.apart else ""

    def _place(self, k: int, axes: Sequence[int], scale: int) -> str:
        """The position of an operand's element under the indices of its axes."""
        start = ""
        if k in self.apart:
            first, *axes = axes
            start = f"{self.names[first].index} * {self.apart[k]} + "
        indices: list[Expr] = [Symbol(self.names[a].index, "int64") for a in axes]
        sizes: list[Expr] = [Symbol(self.names[a].size, "int64") for a in axes]
        at = bare(flat(indices, sizes))
        return start + (f"({at}) * {scale}" if scale > 1 else at)

    def load(self, k: int, few: str) -> str:
        """The statement's right side that reads operand ``k``, or the first ``few`` of a vector."""
        own = [a for a in range(len(self.names)) if self.merged.present[a][k + 1]]
        at = self._place(k, own, self.lanes if self.vectors[k] else 1)
        if self.lanes > 1:
            return f"load(x{k}, {at})" if self.vectors[k] else f"splat(x{k}, {at})"
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
