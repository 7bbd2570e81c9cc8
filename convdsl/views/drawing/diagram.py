"""What there is to draw of a network, whatever the style: boxes, edges, and the blocks they lie in.

A box is a row of the summary, or a block instance that is kept closed; closed instances that follow
each other and are alike share one box.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from convdsl.graph import Scope, TensorType
from convdsl.views.drawing.boxes import Box, Row
from convdsl.views.drawing.repeats import folded
from convdsl.views.summary import Summary, rows

Kind = Literal["flow", "skip", "projection"]


@dataclass(frozen=True)
class Edge:
    """A value on its way from a box or an input to a box.

    A ``skip`` passes by what other inputs of its head come through; a ``projection`` is part of a
    shortcut that works position by position beside a branch that does more.
    """

    tail: str
    head: str
    type: TensorType
    kind: Kind = "flow"


@dataclass(frozen=True)
class Diagram:
    """A network as boxes and edges, in topological order."""

    summary: Summary
    boxes: tuple[Box, ...]

    @cached_property
    def box_of(self) -> Mapping[str, str]:
        """The box that computes a layer, or the network input of that name, by name."""
        own = {name: name for name, _ in self.summary.inputs}
        return own | {layer.name: box.name for box in self.boxes for layer in box.layers}

    @cached_property
    def by_name(self) -> Mapping[str, Box]:
        return {box.name: box for box in self.boxes}

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Each pair of ends once, the inputs of a box in the order they are read."""
        kinds = self._kinds
        return tuple(
            Edge(tail, head, type, kinds.get((tail, head), "flow"))
            for tail, head, type in self._links
        )

    @cached_property
    def _links(self) -> tuple[tuple[str, str, TensorType], ...]:
        types = dict(self.summary.inputs)
        types |= {layer.name: layer.output for layer in self.summary.layers}
        links: dict[tuple[str, str], TensorType] = {}
        for box in self.boxes:
            for source in dict.fromkeys(name for layer in box.layers for name in layer.inputs):
                if self.box_of[source] != box.name:
                    links.setdefault((self.box_of[source], box.name), types[source])
        return tuple((tail, head, type) for (tail, head), type in links.items())

    @cached_property
    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """What each box reads."""
        found: dict[str, list[str]] = {box.name: [] for box in self.boxes}
        for tail, head, _ in self._links:
            found[head].append(tail)
        return {name: tuple(tails) for name, tails in found.items()}

    @cached_property
    def types_into(self) -> Mapping[str, tuple[TensorType, ...]]:
        """The types of what each box reads."""
        found: dict[str, list[TensorType]] = {box.name: [] for box in self.boxes}
        for _, head, type in self._links:
            found[head].append(type)
        return {name: tuple(types) for name, types in found.items()}

    @cached_property
    def users(self) -> Mapping[str, tuple[str, ...]]:
        """The boxes that read each box or input."""
        found: dict[str, list[str]] = {}
        for tail, head, _ in self._links:
            found.setdefault(tail, []).append(head)
        return {name: tuple(heads) for name, heads in found.items()}

    @cached_property
    def rank(self) -> Mapping[str, int]:
        """How many steps the longest way to a box or an input has."""
        found = dict.fromkeys((name for name, _ in self.summary.inputs), 0)
        for box in self.boxes:
            found[box.name] = 1 + max((found[tail] for tail in self.sources[box.name]), default=0)
        return found

    def nearest(self, name: str) -> str:
        """Of the boxes that read a box or an input, the first that is fewest steps away."""
        return min(self.users[name], key=lambda user: self.rank[user])

    @cached_property
    def _kinds(self) -> Mapping[tuple[str, str], Kind]:
        """The edges that are no plain flow, by their ends."""
        found: dict[tuple[str, str], Kind] = {}
        for box in self.boxes:
            tails = self.sources[box.name]
            branches = [self._branch(tail) for tail in tails]
            does_more = [self._does_more(*ends) for ends in zip(tails, branches, strict=True)]
            for tail, branch, more in zip(tails, branches, does_more, strict=True):
                if not branch and len(tails) > 1 and self._passes_by(tail, box.name):
                    found[tail, box.name] = "skip"
                elif branch and any(does_more) and not more:
                    found |= self._along(box, branch)
        return found

    def _passes_by(self, tail: str, head: str) -> bool:
        return len(self.users[tail]) > 1 and self.rank[head] - self.rank[tail] > 1

    def _does_more(self, tail: str, branch: Sequence[str]) -> bool:
        """Whether a branch looks beyond single positions; one that is joined itself is taken to."""
        if not branch:
            return tail in self.by_name and len(self.users[tail]) == 1
        return not all(self.by_name[name].pointwise for name in branch)

    def _along(self, box: Box, branch: Sequence[str]) -> dict[tuple[str, str], Kind]:
        """The edges of a shortcut: dotted where it changes a sum's term, else a skip."""
        learned = any(self.by_name[name].parameters for name in branch)
        if learned and not box.symbol:
            return {}
        kind: Kind = "projection" if box.symbol else "skip"
        tails = [*branch, *self.sources[branch[-1]]]
        return dict.fromkeys(zip(tails, [box.name, *branch], strict=True), kind)

    @cached_property
    def shortcuts(self) -> frozenset[str]:
        """The first layers of rows that make up projection shortcuts, in closed blocks too."""
        table = tuple(tuple(row) for row in rows(self.summary.layers))
        opened = Diagram(self.summary, tuple(Box((row,), row, row[0].path) for row in table))
        heads = {edge.head for edge in opened.edges if edge.kind == "projection"}
        return frozenset(head for head in heads if not opened.by_name[head].symbol)

    def _branch(self, end: str) -> list[str]:
        """The boxes from the end of a branch back to where it forked, which is left out."""
        branch = []
        while end in self.by_name and len(self.users[end]) == 1 and len(self.sources[end]) == 1:
            branch.append(end)
            (end,) = self.sources[end]
        return branch


# -- how much is opened ----------------------------------------------------------------------


def diagram(summary: Summary, depth: int | None = None, legible: int = 120) -> Diagram:
    """A network with blocks opened that many levels deep.

    Without a depth as deep as leaves at most ``legible`` boxes; where even closed blocks are more,
    repeats of single layers are folded, too.
    """
    table = [tuple(row) for row in rows(summary.layers)]
    if depth is not None:
        return Diagram(summary, folded(tuple(_boxes(table, depth)), summary))
    deepest = max((len(row[0].path) for row in table), default=0)
    for level in range(deepest, -1, -1):
        boxes = folded(tuple(_boxes(table, level)), summary)
        if len(boxes) <= legible:
            return Diagram(summary, boxes)
    return Diagram(summary, folded(boxes, summary, periodic=True))


def _boxes(table: Sequence[Row], depth: int) -> Iterator[Box]:
    """A box per row, and one per block instance that lies deeper than that."""
    closed: dict[tuple[Scope, ...], list[Row]] = {}
    for row in table:
        closed.setdefault(row[0].path[: depth + 1], []).append(row)
    members = Counter(row[0].path[:end] for row in table for end in range(len(row[0].path) + 1))
    done = set()
    for row in table:
        path = row[0].path
        instance = path[: depth + 1]
        if len(path) <= depth or members[instance] == 1:
            yield Box((row,), row, _shared(path, members))
        elif instance not in done:
            done.add(instance)
            inside = tuple(closed[instance])
            layers = tuple(layer for row in inside for layer in row)
            yield Box(inside, layers, instance[:-1], instance[-1])


def _shared(path: tuple[Scope, ...], members: Mapping[tuple[Scope, ...], int]) -> tuple[Scope, ...]:
    """The block instances on a path that hold more than one row; others need no frame."""
    return tuple(scope for end, scope in enumerate(path, 1) if members[path[:end]] > 1)
