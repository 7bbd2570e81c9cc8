"""Finds stretches of a network that repeat one after the other, so that they are drawn once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

from convdsl.graph import Scope
from convdsl.ops import Caption
from convdsl.views.drawing.boxes import Box
from convdsl.views.summary import Layer, Summary

LONGEST_PERIOD = 8
"""Patterns of more rows than that are not looked for."""


def folded(boxes: tuple[Box, ...], summary: Summary, periodic: bool = False) -> tuple[Box, ...]:
    """The boxes with alike neighbours as one: closed blocks, or with ``periodic`` any pattern.

    Stretches are alike that hold the same ops, joined in the same way. Each copy reads nothing but
    the one before, and nothing but the next copy reads it.
    """
    finder = _Finder(boxes, summary)
    found: list[Box] = []
    start = 0
    while start < len(boxes):
        longest = LONGEST_PERIOD if periodic else int(boxes[start].scope is not None)
        period, copies = run(start, longest, finder.follows)
        found.append(_joined(boxes[start : start + period * copies], period, copies))
        start += period * copies
    return tuple(found)


def _joined(boxes: Sequence[Box], period: int, copies: int) -> Box:
    if copies == 1:
        return boxes[0]
    return replace(
        boxes[0],
        rows=tuple(row for box in boxes[:period] for row in box.rows),
        layers=tuple(layer for box in boxes for layer in box.layers),
        copies=copies * (boxes[0].copies if period == 1 else 1),
    )


def run(start: int, longest: int, follows: Callable[[int, int], bool]) -> tuple[int, int]:
    """The period and the number of copies of the run that covers most, from a place on.

    ``follows`` says whether what begins there, of that length, is followed by another copy.
    """
    best = (1, 1)
    for period in range(1, longest + 1):
        copies = 1
        while follows(start + (copies - 1) * period, period):
            copies += 1
        if copies > 1 and copies * period > best[0] * best[1]:
            best = (period, copies)
    return best


class _Finder:
    """Runs of alike stretches in a sequence of boxes."""

    def __init__(self, boxes: tuple[Box, ...], summary: Summary) -> None:
        self.boxes = boxes
        self.users: dict[str, set[str]] = {}
        for layer in summary.layers:
            for name in layer.inputs:
                self.users.setdefault(name, set()).add(layer.name)
        self.results = set(summary.sources)
        self._patterns: dict[tuple[int, int], Hashable] = {}

    def follows(self, start: int, period: int) -> bool:
        """Whether the next stretch is like this one, and reads nothing else."""
        one = self.boxes[start : start + period]
        other = self.boxes[start + period : start + 2 * period]
        if len(other) < period or [_place(b) for b in one] != [_place(b) for b in other]:
            return False
        if self._pattern(start, period) != self._pattern(start + period, period):
            return False
        before, after = _names(one), _names(other)
        read = {name for box in other for layer in box.layers for name in layer.inputs} - after
        if not read <= before or before & self.results:
            return False
        return all(self.users.get(name, set()) <= before | after for name in before)

    def _pattern(self, start: int, period: int) -> Hashable:
        """The ops of a stretch and how they are joined."""
        key = (start, period)
        if key not in self._patterns:
            layers = [layer for box in self.boxes[start : start + period] for layer in box.layers]
            place: dict[str, int] = {}
            pattern: list[tuple[Caption, tuple[int, ...]]] = []
            outside: dict[str, int] = {}
            for layer in layers:
                pattern.append((layer.caption, _places(layer, place, outside)))
                place[layer.name] = len(place)
            self._patterns[key] = tuple(pattern)
        return self._patterns[key]


def _places(layer: Layer, place: Mapping[str, int], outside: dict[str, int]) -> tuple[int, ...]:
    """Where its inputs come from: the place within the stretch, a negative number for outside."""
    found = []
    for name in layer.inputs:
        if name not in place:
            outside.setdefault(name, -1 - len(outside))
        found.append(place[name] if name in place else outside[name])
    return tuple(found)


def _place(box: Box) -> tuple[tuple[Scope, ...], str]:
    """The open blocks around a box, and what block it is."""
    return box.path, box.scope.block if box.scope else ""


def _names(boxes: Sequence[Box]) -> set[str]:
    return {layer.name for box in boxes for layer in box.layers}
