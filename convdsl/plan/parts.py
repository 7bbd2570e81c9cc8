"""Finds feature maps that can lie within others, so that joining and cutting them copies nothing.

An image of a part is contiguous and lies as far from the next one as images of the whole do. What
is joined is computed where the result has it, what is cut off is read where it lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convdsl.graph import Graph, Node, Value, Variable
from convdsl.ops.families import Family, Map, operand
from convdsl.ops.families.base import Runs
from convdsl.plan.model import RESULT, Target


@dataclass(frozen=True)
class Part:
    """Where a value lies within another one."""

    whole: Value
    start: int
    """Elements from the beginning of an image of the whole."""


def copy(batch: int, size: int) -> Map:
    """The family that copies so many images of so many elements."""
    return Map(operand(0), (batch, size), ((batch != 1, size != 1),), ("float32",))


class Parts:
    """The values of a graph that are parts of others.

    The first of several joins that have an input has it in place; the others copy it.
    """

    def __init__(
        self,
        graph: Graph,
        families: Mapping[Node, Family],
        dtypes: Mapping[Value, str],
        batch: int,
        target: Target,
    ) -> None:
        self.of: dict[Value, Part] = {}
        self.joins: dict[Node, tuple[str, ...]] = {}
        """The nodes that join maps: per input, why it is copied; "" where it is in its place."""
        self.cuts: dict[Node, Part] = {}
        """What the nodes that cut a map take of it."""
        self._graph, self._families, self._dtypes = graph, families, dtypes
        self._batch, self._target = batch, target
        self._homes: dict[Value, Value] = {}
        self._readers: dict[Value, list[tuple[Node, int]]] = {}
        self._obstacles: dict[Value, str] = {}
        self._varying: set[Value] = {
            v for v in graph.variables if graph.assignments or v.role in ("input", "target")
        }
        for node in graph.nodes:
            if any(v in self._varying for v in node.inputs):
                self._varying.update(node.outputs)
            if node.op.alias:
                self._homes[node.output] = self._home(node.inputs[0])
                continue
            for k, value in enumerate(node.inputs):
                self._readers.setdefault(self._home(value), []).append((node, k))
        named = (*graph.outputs, *graph.assignments)
        self._kept = {self._home(value) for _, value in named}
        self._assigned = {self._home(value) for _, value in graph.assignments}
        joins = [node for node in families if self._is_join(node)]
        self.joins = dict.fromkeys(joins, ())
        self.cuts = {node: part for node in families if (part := self._cut(node))}
        for node in joins:
            self.joins[node] = tuple(self._join(node))
        for node, part in self.cuts.items():
            if node.output not in self.of and not self.misplaced(node.output, part):
                self.of[node.output] = part

    def obstacle(self, value: Value) -> str:
        """Why a value has to lie by itself; "" where it may be a part."""
        home = self._home(value)
        if home not in self._obstacles:
            self._obstacles[home] = self._search(home)
        return self._obstacles[home]

    def misplaced(self, value: Value, part: Part) -> str:
        """Why a value cannot be that part; "" where it can."""
        if self._dtypes[self._home(value)] != self._dtypes[part.whole]:
            return f"{self._graph.producers[part.whole].name} is stored in another type"
        return self.obstacle(value)

    def unaligned(self, node: Node) -> str:
        """Why a node that joins or cuts maps is a step of its own; "" where it is none such."""
        runs = self._runs(node)
        aligned = runs is None or self._is_aligned(node, runs)
        return "" if aligned else f"parts begin at multiples of {self._target.grain} elements"

    def _home(self, value: Value) -> Value:
        """The value that it is another shape of, else itself."""
        return self._homes.get(value, value)

    def _runs(self, node: Node) -> Runs | None:
        """Where parts begin of the maps of a node that does nothing but join or cut them."""
        family = self._families[node]
        runs = family.joined or family.taken
        found = runs and runs.rows == self._batch and self._is_arena(node.output)
        return runs if found else None

    def _is_aligned(self, node: Node, runs: Runs) -> bool:
        """Whether parts begin where the target wants it, in every image."""
        whole = node.output if self._families[node].joined else node.inputs[0]
        starts = (*runs.starts, whole.type.size)
        return not any(start % self._target.grain for start in starts)

    def _is_join(self, node: Node) -> bool:
        """Whether a node does nothing but join maps, each of which can be copied to its place."""
        runs = self._families[node].joined and self._runs(node)
        if not runs or not self._is_aligned(node, runs):
            return False
        return all(self._copies(v) for v in node.inputs)

    def _cut(self, node: Node) -> Part | None:
        """What a node takes of a map, where it does nothing else."""
        runs = self._families[node].taken and self._runs(node)
        if not runs or not self._is_aligned(node, runs):
            return None
        whole = self._home(node.inputs[0])
        (start,) = runs.starts
        fits = self._is_arena(whole) and self._copies(node.output)
        fits = fits and whole.type.shape[1:] == node.output.type.shape[1:]
        return Part(whole, start) if fits else None

    def _copies(self, value: Value) -> bool:
        """Whether the target can copy a value that is a part to where it is another."""
        family = copy(self._batch, value.type.size)
        return self._takes(family, 0) and self._takes(family, RESULT)

    def _is_arena(self, value: Value) -> bool:
        """Whether a value lies in memory that is used again and again."""
        known = isinstance(value, Variable) or value not in self._varying
        return not known and value.type.batched and value not in self._assigned

    def _takes(self, family: Family, operand: int) -> bool:
        return self._target.takes_part(family, operand, self._batch)

    def _search(self, value: Value) -> str:
        if isinstance(value, Variable):
            return f"{value.name} is given"
        if not self._is_arena(value):
            return "it is the same at every run"
        if value in self._kept:
            return "it is an output"
        if not self._moves(self._graph.producers[value], RESULT):
            return "its kernel writes no part of a map"
        for reader, k in self._readers.get(value, []):
            if reader.inputs[k].type.shape[1:] != value.type.shape[1:]:
                return f"{reader.name} reads it in another shape"
            if not self._moves(reader, k):
                return f"{reader.name} reads no part of a map"
        return ""

    def _moves(self, node: Node, operand: int) -> bool:
        """Whether an operand of a node may be a part of some map."""
        if node in self.joins or node in self.cuts:
            return True
        return self._takes(self._families[node], operand)

    def _join(self, node: Node) -> list[str]:
        """Put inputs of a join where the result has them; per input why it is not there."""
        runs = self._families[node].joined
        assert runs is not None
        reasons = []
        for value, start in zip(node.inputs, runs.starts, strict=True):
            home = self._home(value)
            if home.type.shape[1:] != node.output.type.shape[1:]:
                reason = "it has another shape"
            elif home in self.of:
                reason = "it has its place elsewhere"
            else:
                reason = self.misplaced(home, Part(node.output, start))
            if not reason:
                self.of[home] = Part(node.output, start)
            reasons.append(reason)
        return reasons
