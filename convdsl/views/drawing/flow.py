"""Where values stand from left to right: in columns by their way from the inputs, in lanes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from convdsl.graph import TensorType
from convdsl.views.drawing.boxes import Box
from convdsl.views.drawing.diagram import Diagram


@dataclass(frozen=True, eq=False)
class Step:
    """A value that is shown, with what computes it; a network input has no box.

    ``joined`` are what is done to it element by element before the next, in words.
    """

    name: str
    type: TensorType
    box: Box | None
    rank: int
    lane: int
    joined: tuple[str, ...] = ()

    @property
    def is_join(self) -> bool:
        return self.box is not None and bool(self.box.symbol)

    @property
    def sees_all(self) -> bool:
        """Whether each of its elements sees all of its input."""
        window = self.box.head.window if self.box and self.box.is_row else None
        return window is not None and window.whole


class Flow:
    """The steps of a network and the links between them.

    A box that changes its only input element by element is no step of its own.
    """

    def __init__(self, diagram: Diagram) -> None:
        self.diagram = diagram
        self._stands: dict[str, str] = {name: name for name, _ in diagram.summary.inputs}
        self._joined: dict[str, list[str]] = {}
        for box in diagram.boxes:
            tails = diagram.sources[box.name]
            if self._is_joined(box):
                step = self._stands[tails[0]]
                names = [layer.caption.name for layer in box.layers]
                self._joined.setdefault(step, []).extend(names)
                self._stands[box.name] = step
            else:
                self._stands[box.name] = box.name

    def _is_joined(self, box: Box) -> bool:
        types = self.diagram.types_into[box.name]
        elementwise = all(layer.window is None for layer in box.layers)
        return (
            box.is_row
            and not box.symbol
            and elementwise
            and len(types) == 1
            and types[0].size == box.output.size
        )

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """In topological order."""
        ranks = self._ranks
        lanes = _Lanes(self._heirs)
        made = []
        for name, type in self.diagram.summary.inputs:
            lane = lanes.place(name, (), -1, self._last(name, ranks))
            made.append(Step(name, type, None, 0, lane, self._words(name)))
        for box in self.diagram.boxes:
            if self._stands[box.name] != box.name:
                continue
            name, rank = box.name, ranks[box.name]
            tails = self._sources[name]
            first = min((ranks[tail] for tail in tails), default=rank - 1)
            lane = lanes.place(name, tails, first, self._last(name, ranks))
            made.append(Step(name, box.output, box, rank, lane, self._words(name)))
        return tuple(made)

    @cached_property
    def links(self) -> tuple[tuple[Step, Step], ...]:
        """Which step reads which."""
        by_name = {step.name: step for step in self.steps}
        return tuple(
            (by_name[tail], by_name[head])
            for head, tails in self._sources.items()
            for tail in tails
        )

    @cached_property
    def levels(self) -> Mapping[tuple[Step, Step], int]:
        """The links that are led over others of their lane, and how high, from 0."""
        over = [
            (tail, head)
            for tail, head in self.links
            if tail.lane == head.lane and self._has_between(tail, head)
        ]
        found: dict[tuple[Step, Step], int] = {}
        for tail, head in sorted(over, key=lambda link: link[1].rank - link[0].rank):
            taken = {
                level
                for (a, b), level in found.items()
                if a.lane == tail.lane and a.rank < head.rank and tail.rank < b.rank
            }
            found[tail, head] = next(n for n in range(len(taken) + 1) if n not in taken)
        return found

    def _has_between(self, tail: Step, head: Step) -> bool:
        """Whether something stands in the way of a straight line."""
        return any(
            step.lane == tail.lane and tail.rank < step.rank < head.rank for step in self.steps
        )

    def is_projection(self, tail: Step, head: Step) -> bool:
        """Whether a link is part of a projection shortcut."""
        return any(
            edge.kind == "projection"
            and self._stands[edge.tail] == tail.name
            and self._stands[edge.head] == head.name
            for edge in self.diagram.edges
        )

    @cached_property
    def _sources(self) -> Mapping[str, tuple[str, ...]]:
        """The steps that each step with a box reads."""
        found: dict[str, dict[str, None]] = {}
        for box in self.diagram.boxes:
            if self._stands[box.name] == box.name:
                tails = (self._stands[tail] for tail in self.diagram.sources[box.name])
                found[box.name] = dict.fromkeys(tails)
        return {name: tuple(tails) for name, tails in found.items()}

    @cached_property
    def _ranks(self) -> Mapping[str, int]:
        found = dict.fromkeys((name for name, _ in self.diagram.summary.inputs), 0)
        for name, tails in self._sources.items():
            found[name] = 1 + max((found[tail] for tail in tails), default=0)
        return found

    @cached_property
    def _heirs(self) -> Mapping[str, str]:
        """The reader of each step from which it is furthest to the end: it stays in the lane."""
        further: dict[str, int] = {}
        heirs: dict[str, str] = {}
        for head, tails in reversed(list(self._sources.items())):
            own = further.setdefault(head, 0)
            for tail in tails:
                if own + 1 >= further.get(tail, 0):
                    further[tail], heirs[tail] = own + 1, head
        return heirs

    def _last(self, name: str, ranks: Mapping[str, int]) -> int:
        """The last column that a line from a step crosses in its lane."""
        readers = [ranks[head] - 1 for head, tails in self._sources.items() if name in tails]
        return max([ranks[name], *readers])

    def _words(self, name: str) -> tuple[str, ...]:
        return tuple(self._joined.get(name, ()))


class _Lanes:
    """Gives every step a lane: that of what it continues, else the first that is free.

    ``heirs`` says which step continues each; a lane is kept for the one that is to come.
    """

    def __init__(self, heirs: Mapping[str, str]) -> None:
        self._heirs = heirs
        self._ends: list[str] = []
        self._busy: list[int] = []
        self._placed: set[str] = set()

    def place(self, name: str, tails: tuple[str, ...], first: int, last: int) -> int:
        """The lane of a step whose lines come from column ``first`` on and go on to ``last``."""
        lane = self._lane(name, tails, first)
        if lane == len(self._ends):
            self._ends.append(name)
            self._busy.append(last)
        self._ends[lane], self._busy[lane] = name, last
        self._placed.add(name)
        return lane

    def _lane(self, name: str, tails: tuple[str, ...], first: int) -> int:
        for lane, end in enumerate(self._ends):
            if end in tails and self._heirs[end] == name:
                return lane
        for lane, (end, busy) in enumerate(zip(self._ends, self._busy, strict=True)):
            awaited = end in self._heirs and self._heirs[end] not in self._placed
            if busy <= first and not awaited:
                return lane
        return len(self._ends)
