"""The volumes style: feature maps to scale from left to right, with the windows between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from convdsl.graph import TensorType
from convdsl.views.drawing.boxes import Box
from convdsl.views.drawing.captions import add_heading, shown, tooltip
from convdsl.views.drawing.diagram import Diagram
from convdsl.views.drawing.flow import Flow, Step
from convdsl.views.drawing.solids import Cuboid, Join, Scale, Sheet, Solid, Stack
from convdsl.views.drawing.svg import Canvas, Point
from convdsl.views.drawing.text import width, wrapped
from convdsl.views.drawing.theme import Theme

SIDE, DEPTH, TALLEST = 120.0, 46.0, 150.0
"""The longest side of a map, the thickest body and the highest vector, in points."""
MOST_MAPS = 32
"""With at most that many channels, every map is drawn; with more, one body for all."""
GAP = 30.0
"""Between columns."""
LINE = 10.5
"""From one line of text to the next."""
WIDEST = 92.0
"""Text below a body is broken into lines of at most that width."""
ABOVE = 13.0
"""From one skip that is led round to the next."""
SIZE = 8.5
LEGIBLE = 40
"""Networks with more bodies than that keep their blocks closed."""


def volumes(diagrams: Sequence[Diagram], theme: Theme) -> str:
    """Networks as SVG, one below the other."""
    canvas = Canvas()
    top = 0.0
    for diagram in diagrams:
        with canvas.group("network", diagram.summary.documentation):
            top = add_heading(canvas, diagram.summary, 0, top, theme)
            _Picture(diagram, canvas, top + 14, theme).draw()
        top = canvas.bottom + 28
    return canvas.document(theme.ground, " and ".join(d.summary.network for d in diagrams))


@dataclass(frozen=True)
class _Sizes:
    """The scales of a network's bodies."""

    sides: Scale
    channels: Scale
    stacked: bool

    @classmethod
    def of(cls, types: Sequence[TensorType]) -> _Sizes:
        maps = [type for type in types if math.prod(type.spatial) > 1]
        sides = [size for type in maps for size in type.spatial if size > 1]
        channels = [type.channels for type in maps]
        stacked = all(t.rank == 2 and t.channels <= MOST_MAPS for t in maps)
        return cls(Scale.over(sides, SIDE), Scale.over(channels, DEPTH), stacked)

    def solid(self, type: TensorType) -> Solid:
        """The body of a value."""
        if math.prod(type.spatial) == 1:
            return Sheet(8, min(TALLEST, 18 + 11 * math.log2(type.size)))
        sides = [max(self.sides.of(size), 3.0) for size in type.spatial]
        thickness = max(self.channels.of(type.channels), 3.0)
        if type.rank == 1:
            return Sheet(thickness, sides[0])
        if type.rank == 3:
            return Cuboid(0.5 * sides[0], sides[1], 0.7 * sides[2], min(type.channels, 3))
        if self.stacked:
            return Stack(type.channels, sides[1], sides[0])
        return Cuboid(thickness, sides[0], sides[1])

    @property
    def note(self) -> str:
        """What a reader has to know of the scales."""
        names = {"sides": self.sides, "channels": self.channels}
        if self.stacked:
            del names["channels"]
        found = [name for name, scale in names.items() if scale.logarithmic]
        return f"{' and '.join(found)} on a logarithmic scale" if found else ""


class _Picture:
    """Draws one network below a line."""

    def __init__(self, diagram: Diagram, canvas: Canvas, top: float, theme: Theme) -> None:
        self.canvas = canvas
        self.top = top
        self.theme = theme
        self.flow = Flow(diagram)
        self.sizes = _Sizes.of([step.type for step in self.flow.steps])
        self.solids = {step.name: self._solid(step) for step in self.flow.steps}
        self.lines = {step.name: _lines(step) for step in self.flow.steps}

    def _solid(self, step: Step) -> Solid:
        sign = step.box.symbol if step.box else ""
        return Join(sign) if sign else self.sizes.solid(step.type)

    # -- places ------------------------------------------------------------------------------
    @cached_property
    def _columns(self) -> tuple[float, ...]:
        """The middle of every column."""
        count = 1 + max(step.rank for step in self.flow.steps)
        widths = [0.0] * count
        for step in self.flow.steps:
            texts = [width(line, SIZE, bold) for line, bold in self.lines[step.name]]
            widths[step.rank] = max([widths[step.rank], self.solids[step.name].width, *texts])
        middles, left = [], 0.0
        for wide in widths:
            middles.append(left + wide / 2)
            left += wide + GAP
        return tuple(middles)

    @cached_property
    def _lanes(self) -> tuple[tuple[float, float], ...]:
        """The top of the bodies in every lane, and their middle."""
        lanes, top = [], self.top
        for lane in range(1 + max(step.lane for step in self.flow.steps)):
            steps = [step for step in self.flow.steps if step.lane == lane]
            high = max((self.solids[step.name].height for step in steps), default=0.0)
            text = max((len(self.lines[step.name]) for step in steps), default=0)
            levels = [level for (_, head), level in self.flow.levels.items() if head.lane == lane]
            top += ABOVE * (max(levels) + 1) + 4 if levels else 0
            lanes.append((top, top + high / 2))
            top += high + text * LINE + 22
        return tuple(lanes)

    def _place(self, step: Step) -> Point:
        """The left end and the vertical middle of a body."""
        middle = self._columns[step.rank]
        return middle - self.solids[step.name].width / 2, self._lanes[step.lane][1]

    # -- drawing -----------------------------------------------------------------------------
    def draw(self) -> None:
        for step in self.flow.steps:
            with self.canvas.group("volume", tooltip(step.box) if step.box else step.name):
                self._draw_step(step)
        for tail, head in self.flow.links:
            with self.canvas.group("link", f"{tail.name} to {head.name}"):
                self._draw_link(tail, head)
        if self.sizes.note:
            y = self.canvas.bottom + 16
            self.canvas.text(0, y, self.sizes.note, SIZE, self.theme.faint)

    def _draw_step(self, step: Step) -> None:
        x, y = self._place(step)
        category = step.box.category if step.box else ""
        fill = self.theme.fill(category) if step.box else self.theme.input
        solid = self.solids[step.name]
        solid.draw(self.canvas, x, y, fill, self.theme)
        tallest = 2 * (self._lanes[step.lane][1] - self._lanes[step.lane][0])
        # Below small bodies the text is near, below those of a lane in one line.
        below = y + max(solid.height, 0.0 if step.is_join else tallest) / 2 + 13
        for index, (line, bold) in enumerate(self.lines[step.name]):
            ink = self.theme.ink if bold else self.theme.faint
            middle = self._columns[step.rank]
            self.canvas.text(middle, below + index * LINE, line, SIZE, ink, bold, "middle")

    def _draw_link(self, tail: Step, head: Step) -> None:
        dash = "2,2" if self.flow.is_projection(tail, head) else ""
        if (tail, head) in self.flow.levels:
            self._lead_over(tail, head, dash)
        elif tail.lane != head.lane:
            self._lead_across(tail, head, dash)
        elif head.sees_all and not head.is_join and isinstance(self.solids[head.name], Sheet):
            self._fan(tail, head)
        elif self._window(tail, head):
            self._draw_window(tail, head)
        else:
            ends = [self._out(tail), self._into(head)]
            self.canvas.path(ends, self.theme.ink, dash=dash, arrow=True)

    def _out(self, step: Step) -> Point:
        x, y = self._place(step)
        return x + self.solids[step.name].width + 2, y

    def _into(self, step: Step) -> Point:
        x, y = self._place(step)
        return x - 2, y

    def _lead_over(self, tail: Step, head: Step, dash: str) -> None:
        """Up from the tail, along above what is skipped, and down to the head."""
        y = self._lanes[head.lane][0] - 4 - ABOVE * (self.flow.levels[tail, head] + 0.5)
        points = []
        # Lines that leave and lines that arrive keep off each other.
        for step, shift in ((tail, 4.0), (head, -4.0)):
            x, middle = self._place(step)
            solid = self.solids[step.name]
            points.append((x + solid.width / 2 + shift, middle - solid.height / 2 - 1))
        (x0, y0), (x1, y1) = points
        path = [(x0, y0), (x0, y), (x1, y), (x1, y1)]
        self.canvas.path(path, self.theme.ink, dash=dash, arrow=True)

    def _lead_across(self, tail: Step, head: Step, dash: str) -> None:
        """To another lane, in the space before the column where lanes part or meet."""
        (x0, y0), (x1, y1) = self._out(tail), self._into(head)
        down = head.lane > tail.lane
        edge = x0 + GAP if down else x1 - GAP
        if down and edge < x1:
            curve = [(x0, y0), (x0 + GAP / 2, y0), (edge - GAP / 2, y1), (edge, y1)]
            self.canvas.path(curve, self.theme.ink, dash=dash, curved=True)
            self.canvas.path([(edge, y1), (x1, y1)], self.theme.ink, dash=dash, arrow=True)
        elif not down and edge > x0:
            self.canvas.path([(x0, y0), (edge, y0)], self.theme.ink, dash=dash)
            curve = [(edge, y0), (edge + GAP / 2, y0), (x1 - GAP / 2, y1), (x1, y1)]
            self.canvas.path(curve, self.theme.ink, dash=dash, curved=True, arrow=True)
        else:
            middle = (x0 + x1) / 2
            curve = [(x0, y0), (middle, y0), (middle, y1), (x1, y1)]
            self.canvas.path(curve, self.theme.ink, dash=dash, curved=True, arrow=True)

    def _fan(self, tail: Step, head: Step) -> None:
        """Every unit sees everything: from end to end."""
        before, after = self.solids[tail.name], self.solids[head.name]
        x, y = self._place(head)
        for v in (0, 1):
            start = before.face(*self._place(tail), 0, v)
            end = (x, y + (v - 0.5) * after.height)
            self.canvas.path([start, end], self.theme.faint, 0.6)

    def _window(self, tail: Step, head: Step) -> tuple[float, float] | None:
        """The part of the tail's face that one element of the head sees, across and down."""
        window = head.box.head.window if head.box and head.box.is_row else None
        if window is None or window.whole or not tail.type.spatial:
            return None
        if all(size <= 1 for size in window.size) or isinstance(self.solids[tail.name], Join):
            return None
        shares = [
            min(float(k) / n, 1.0) for k, n in zip(window.size, tail.type.spatial, strict=True)
        ]
        return (shares[-1], shares[-2]) if len(shares) > 1 else (1.0, shares[0])

    def _draw_window(self, tail: Step, head: Step) -> None:
        """A window on the tail's face, and lines from its corners to the element that sees it."""
        share = self._window(tail, head)
        assert share is not None
        across, down = share
        solid, place = self.solids[tail.name], self._place(tail)
        left, top = 0.62 * (1 - across), 0.3 * (1 - down)
        corners = [
            solid.face(*place, left + across * u, top + down * v)
            for u, v in ((0, 0), (1, 0), (1, 1), (0, 1))
        ]
        end = self.solids[head.name].entry(*self._place(head))
        if tail.type.rank > 1:
            self.canvas.polygon(corners, self.theme.window, self.theme.ink, 0.6)
        for corner in dict.fromkeys(corners):
            self.canvas.path([corner, end], self.theme.faint, 0.5, dash="2,1.5")


def _lines(step: Step) -> list[tuple[str, bool]]:
    """What stands below a body: its name and shape, then what it comes from."""
    box = step.box
    if box is None:
        lines = [(step.name, True), (shown(step.type), True)]
        return lines + [(text, False) for text in step.joined]
    if step.is_join:
        return [(text, False) for text in (*_joined(box), *step.joined)]
    lines = [(title, True) for title in _titles(box)] + [(shown(step.type), True)]
    words = [str(box.head.caption), *_joined(box)] if box.is_row else []
    for text in (*words, *step.joined):
        lines += [(part, False) for part in wrapped(text, SIZE, WIDEST)]
    return lines


def _titles(box: Box) -> list[str]:
    if box.is_row:
        return [box.label] if box.label else []
    title = box.scope.block if box.scope else "repeated"
    if box.copies > 1:
        return [f"{title} × {box.copies}"]
    return [box.scope.name] if box.scope else [title]


def _joined(box: Box) -> list[str]:
    return [layer.caption.name for layer in box.layers[1:]]
