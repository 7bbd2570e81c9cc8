"""Plans a graph of primitive ops: the order of steps and the memory of every value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from convdsl.graph import Graph, Node, Value, Variable
from convdsl.ops.families import Family, Table
from convdsl.plan.memory import Lifetime, largest_live_set, place
from convdsl.plan.model import (
    ITEM_SIZE,
    Buffer,
    Call,
    Free,
    Images,
    Placed,
    Plan,
    Port,
    Recipe,
    Step,
    Stored,
    Target,
)
from convdsl.plan.parts import Part, Parts, copy
from convdsl.plan.storage import Storage


@dataclass
class _Draft:
    """A call with its storages, before they have addresses."""

    node: Node
    call: Call
    storages: tuple[Storage, ...]
    reason: str


@dataclass
class _Planner:
    graph: Graph
    batch: int
    target: Target
    families: dict[Node, Family]
    """What the nodes compute that are no views."""
    dtypes: dict[Value, str]
    """The element types that values are stored in."""
    parts: Parts
    storage: dict[Value, Storage] = field(default_factory=dict)
    storages: list[Storage] = field(default_factory=list)
    prepare: list[_Draft] = field(default_factory=list)
    steps: list[_Draft] = field(default_factory=list)
    recipes: dict[object, Recipe] = field(default_factory=dict)
    tables: dict[Table, Storage] = field(default_factory=dict)
    homes: dict[Value, Storage] = field(default_factory=dict)
    """Where values will be that are parts, or have some."""
    free: list[tuple[Node, int, Storage, str]] = field(default_factory=list)
    """Nodes that take no step: the number of steps before them, where the result is, and why."""

    def new(self, name: str, elements: int, dtype: str = "float32") -> Storage:
        made = Storage(name, elements, dtype)
        self.storages.append(made)
        return made

    def keep(self, value: Value, storage: Storage) -> None:
        self.storage[value] = storage
        storage.values.append(value)

    def table(self, table: Table) -> Storage:
        """The storage of a constant; equal tables share it."""
        if table not in self.tables:
            name = f"table{len(self.tables)}"
            self.tables[table] = self.new(name, len(table.values), table.dtype)
            self.tables[table].constant = True
        return self.tables[table]

    def home(self, value: Value) -> Storage | None:
        """The storage of a value that is a part; None where it may be anywhere."""
        if value in self.parts.of and value not in self.homes:
            self.homes[value] = self.place(value, self.parts.of[value])
        return self.homes.get(value)

    def whole(self, value: Value) -> Storage:
        """The storage of a value that others lie in."""
        known = self.storage.get(value) or self.home(value)
        if known is None:
            name = self.graph.producers[value].name
            known = self.homes[value] = self.new(name, self.elements(value), self.dtypes[value])
        return known

    def place(self, value: Value, part: Part) -> Storage:
        """A storage for a value, within that of another one."""
        name = self.graph.producers[value].name
        return self.whole(part.whole).part(name, self.elements(value), part.start, self.batch)

    def elements(self, value: Value) -> int:
        return math.prod(value.type.with_batch(self.batch))


def plan(graph: Graph, batch: int, target: Target) -> Plan:
    """The plan of a graph of primitive ops for a batch and a target.

    Nodes keep their order, except that what depends on parameters alone moves to ``prepare``
    (where no assignment changes parameters).
    """
    return _finish(*_drafted(graph, batch, target))


def live_bytes(graph: Graph, batch: int, target: Target) -> int:
    """The ``live_bytes`` of the plan, without placing buffers: time linear in the nodes."""
    p, _ = _drafted(graph, batch, target)
    return largest_live_set([Lifetime(s.bytes, s.first, s.last) for s in _arena(p)])


def _drafted(graph: Graph, batch: int, target: Target) -> tuple[_Planner, tuple[int, int]]:
    """Steps over storages that have no addresses yet, and where their three parts end."""
    families = {node: _family(node, batch) for node in graph.nodes if not node.op.alias}
    dtypes = _dtypes(graph, families, target)
    parts = Parts(graph, families, dtypes, batch, target)
    p = _Planner(graph, batch, target, families, dtypes, parts)
    for variable in graph.variables:
        storage = p.new(variable.name, p.elements(variable), variable.type.dtype)
        storage.variable = variable
        storage.constant = _is_constant(graph, variable)
        p.keep(variable, storage)
    order = _ordered(graph)
    ends = []
    position = 0
    last_read = _last_reads(order, graph)
    for nodes in order:
        for node in nodes:
            _lower(p, node, position, last_read)
            position += 1
        ends.append(len(p.steps))
    _close_lifetimes(p)
    return p, (ends[0], ends[1])


def _family(node: Node, batch: int) -> Family:
    """What a node computes."""
    shapes = [v.type.with_batch(batch) for v in node.inputs]
    results = [v.type.with_batch(batch) for v in node.outputs]
    family: Family = node.op.family_for(batch, shapes, results)
    return family


def _dtypes(graph: Graph, families: dict[Node, Family], target: Target) -> dict[Value, str]:
    """The element types that values are stored in."""
    found: dict[Value, str] = {v: v.type.dtype for v in graph.variables}
    exposed = _exposed(graph)
    for node in graph.nodes:
        given = [found[v] for v in node.inputs]
        if node.op.alias:
            found[node.output] = given[0]
        elif node.output in exposed:
            found[node.output] = node.output.type.dtype
        else:
            found[node.output] = _stored_as(node, families[node], given, target)
    return found


def _stored_as(node: Node, family: Family, inputs: Sequence[str], target: Target) -> str:
    """The element type that a result is stored in, from those of what it is made of.

    Feature maps are stored as the target wants where their family says so, or where one that it
    reads is. Vectors, parameters and what is computed from those alone stay as they are.
    """
    type = node.output.type
    if type.dtype != "float32" or not type.batched or len(type.shape) < 2:
        return type.dtype
    if family.storage == "exact":
        return type.dtype
    if family.storage == "narrow" or target.storage in inputs:
        return target.storage
    return type.dtype


def _exposed(graph: Graph) -> set[Value]:
    """The outputs, and what they are views of: they leave as float32."""
    found = {v for _, v in graph.outputs}
    for node in reversed(graph.nodes):
        if node.op.alias and node.output in found:
            found.update(node.inputs)
    return found


def _is_constant(graph: Graph, variable: Variable) -> bool:
    return variable.role in ("parameter", "buffer") and not graph.assignments


def _last_reads(order: Sequence[Sequence[Node]], graph: Graph) -> dict[Value, int]:
    nodes = [node for part in order for node in part]
    found = {v: i for i, node in enumerate(nodes) for v in node.inputs}
    # Outputs are read after the last step.
    found.update({v: len(nodes) for _, v in graph.outputs})
    return found


def _ordered(graph: Graph) -> tuple[list[Node], list[Node], list[Node]]:
    """The nodes in three parts, each in its order: shared, for outputs alone, for updates alone.

    The first two outputs, loss and prediction of a training program, are wanted along with updates.
    """
    for_outputs = _needed(graph, {v for _, v in graph.outputs})
    first = {v for _, v in graph.outputs[:2]}
    for_updates = _needed(graph, first | {v for _, v in graph.assignments})
    if not graph.assignments:
        for_updates = for_outputs
    shared = for_outputs & for_updates
    return (
        [n for n in graph.nodes if n in shared],
        [n for n in graph.nodes if n in for_outputs and n not in shared],
        [n for n in graph.nodes if n not in for_outputs],
    )


def _needed(graph: Graph, values: set[Value]) -> set[Node]:
    """The nodes that values depend on."""
    needed, found = set(values), set()
    for node in reversed(graph.nodes):
        if any(v in needed for v in node.outputs):
            found.add(node)
            needed.update(node.inputs)
    return found


def _lower(p: _Planner, node: Node, position: int, last_read: dict[Value, int]) -> None:
    """Choose the node's storages and add its calls."""
    inputs = [p.storage[v] for v in node.inputs]
    if node.op.alias:
        p.keep(node.output, inputs[0])
        return
    if node in p.parts.joins:
        _join(p, node)
        return
    if node in p.parts.cuts:
        _cut(p, node)
        return
    family = p.families[node]
    dtype = p.dtypes[node.output]
    inputs += [p.table(table) for table in family.tables]
    constant = all(s.constant for s in inputs)
    output = (
        _assigned(p, node)
        or p.home(node.output)
        or _in_place(p, node, family.in_place, position, last_read)
    )
    if output is None or output.dtype != dtype:
        output = p.new(node.name, p.elements(node.output), dtype)
        output.constant = constant
    p.keep(node.output, output)
    reason = p.parts.unaligned(node)
    _compute(p, node, family, inputs, output, f"copied: {reason}" if reason else "")


def _join(p: _Planner, node: Node) -> None:
    """Copy those of the inputs to their places that are not there."""
    whole = p.whole(node.output)
    p.keep(node.output, whole)
    runs = p.families[node].joined
    reasons = p.parts.joins[node]
    assert runs is not None
    if not any(reasons):
        p.free.append((node, len(p.steps), whole, "its inputs are computed in their places"))
    for value, start, reason in zip(node.inputs, runs.starts, reasons, strict=True):
        if reason:
            family = copy(p.batch, value.type.size)
            part = whole.part(node.name, p.elements(value), start, p.batch)
            _compute(p, node, family, [p.storage[value]], part, f"copied: {reason}")


def _cut(p: _Planner, node: Node) -> None:
    """Leave the result in the input, or copy it to where it has to be."""
    cut = p.parts.cuts[node]
    if p.parts.of.get(node.output) == cut:
        output = p.whole(node.output)
        p.keep(node.output, output)
        p.free.append((node, len(p.steps), output, f"read where it is, in {output.root.name}"))
        return
    dtype = p.dtypes[node.output]
    output = p.home(node.output) or p.new(node.name, p.elements(node.output), dtype)
    p.keep(node.output, output)
    family = copy(p.batch, node.output.type.size)
    reason = p.parts.misplaced(node.output, cut) or "it has its place elsewhere"
    _compute(p, node, family, [p.place(node.output, cut)], output, f"copied: {reason}")


def _compute(
    p: _Planner,
    node: Node,
    family: Family,
    inputs: Sequence[Storage],
    output: Storage,
    reason: str = "",
) -> None:
    """Add the calls that compute a family."""
    recipe = _recipe(p, family, inputs, output)
    named = {f"in{k}": s for k, s in enumerate(inputs)} | {"out": output}
    for name, elements, *types in recipe.temporaries:
        named[name] = p.new(f"{node.name}.{name}", elements, *types)
    for call in recipe.calls:
        storages = tuple(named[o] for o in call.operands)
        # What a call writes is its last operand; it can be prepared when all it reads is constant.
        fixed = all(s.constant for s in storages[:-1])
        if fixed:
            storages[-1].constant = True
        drafts = p.prepare if fixed else p.steps
        drafts.append(_Draft(node, call, storages, reason or recipe.reason))


def _recipe(p: _Planner, family: Family, inputs: Sequence[Storage], output: Storage) -> Recipe:
    """How the target computes a family on operands that lie so; equal ones share it."""
    dtypes = (*(s.dtype for s in inputs), output.dtype)
    constants = tuple(s.constant for s in inputs)
    storages = (*inputs, output)
    images = tuple(s.image for s in storages)
    if any(images):
        gaps = tuple(s.image and s.image - s.elements // p.batch for s in storages)
        family = Placed(family, Images(images, gaps, p.batch))
    if p.target.storage != "float32" and (p.target.storage in dtypes or any(constants)):
        family = Stored(family, dtypes, constants)
    if family not in p.recipes:
        p.recipes[family] = p.target.recipe(family)
    return p.recipes[family]


def _assigned(p: _Planner, node: Node) -> Storage | None:
    """The storage of the variable that the node's result is assigned to."""
    for variable, value in p.graph.assignments:
        if value is node.output:
            return p.storage[variable]
    return None


def _in_place(
    p: _Planner, node: Node, candidates: tuple[int, ...], position: int, last_read: dict[Value, int]
) -> Storage | None:
    """The storage of an input that dies here and that the result may take over.

    It is not one that the node reads elsewhere, too, as a convolution that its own input is added
    to: of that, neighbours are read when the result is written already.
    """
    inputs = [p.storage[v] for v in node.inputs]
    others = [s for k, s in enumerate(inputs) if k not in candidates]
    for k in candidates:
        storage = inputs[k]
        if storage.variable is not None or storage.constant or any(storage is s for s in others):
            continue
        if storage.whole is not None and p.parts.obstacle(node.output):
            continue
        sharing = storage.overlapping
        if any(s is not storage and s in sharing for s in inputs):
            continue
        if all(last_read.get(v, -1) <= position for s in sharing for v in s.values):
            return storage
    return None


def _close_lifetimes(p: _Planner) -> None:
    seen: set[int] = set()
    for index, draft in enumerate(p.steps):
        for storage in (s.root for s in draft.storages):
            if id(storage) not in seen:
                storage.first = index
                seen.add(id(storage))
            storage.last = index
    for _, value in p.graph.outputs:
        p.storage[value].root.last = len(p.steps)


def _arena(p: _Planner) -> list[Storage]:
    """What lives in memory that is used again and again."""
    return [s for s in p.storages if s.variable is None and not s.constant and s.last >= 0]


def _finish(p: _Planner, ends: tuple[int, int]) -> Plan:
    arena = _arena(p)
    lifetimes = [Lifetime(s.bytes, s.first, s.last) for s in arena]
    offsets, arena_bytes = place(lifetimes)
    kept = [s for s in p.storages if s.variable is None and s.constant]
    kept_offsets, constant_bytes = place([Lifetime(s.bytes, 0, 0) for s in kept])
    buffers: dict[int, Buffer] = {}
    for s, offset in zip(arena, offsets, strict=True):
        buffers[id(s)] = Buffer(s.name, "arena", s.elements, s.dtype, offset)
    for s, offset in zip(kept, kept_offsets, strict=True):
        buffers[id(s)] = Buffer(s.name, "constant", s.elements, s.dtype, offset)
    for s in p.storages:
        if s.variable is not None:
            given = s.variable.role in ("input", "target")
            buffers[id(s)] = Buffer(s.name, "input" if given else "variable", s.elements, s.dtype)
    for s in p.storages:
        for part in s.parts:
            whole = buffers[id(s)]
            offset = whole.offset + part.start * ITEM_SIZE[s.dtype]
            buffers[id(part)] = replace(
                whole, name=part.name, elements=part.elements, offset=offset, image=part.image
            )

    def step(draft: _Draft) -> Step:
        call = draft.call
        types = (v.type for v in draft.node.data)
        flops = draft.node.op.flops(*types) * (p.batch if draft.node.output.type.batched else 1)
        return Step(
            draft.node.name,
            call.kernel,
            tuple(buffers[id(s)] for s in draft.storages),
            call.sizes,
            call.work,
            call.cost,
            flops,
            draft.reason,
            draft.node.op.exchanged,
        )

    def port(name: str, value: Value, role: str) -> Port:
        buffer = buffers[id(p.storage[value])]
        return Port(name, buffer, value.type.with_batch(p.batch), value.type.dtype, role)

    return Plan(
        p.graph.name,
        p.target.name,
        p.target.threads,
        p.batch,
        tuple(port(v.name, v, v.role) for v in p.graph.variables),
        tuple(port(name, value, "output") for name, value in p.graph.outputs),
        tuple(step(d) for d in p.prepare),
        tuple(step(d) for d in p.steps),
        *ends,
        tuple((buffers[id(storage)], table.values) for table, storage in p.tables.items()),
        arena_bytes,
        constant_bytes,
        largest_live_set(lifetimes),
        tuple(
            Free(node.name, before, buffers[id(storage)], reason)
            for node, before, storage, reason in p.free
        ),
    )
