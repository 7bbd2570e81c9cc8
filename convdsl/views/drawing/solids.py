"""The bodies that stand for values in the volumes style, and where lines touch them.

A body is placed by the left end and the vertical middle of its frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from convdsl.views.drawing.svg import Canvas, Point, mixed
from convdsl.views.drawing.theme import Theme

SLANT = 0.42
"""What is seen of depth, to the right and upwards."""


class Solid(Protocol):
    """A body of the picture."""

    @property
    def width(self) -> float: ...

    @property
    def height(self) -> float: ...

    def draw(self, canvas: Canvas, x: float, y: float, fill: str, theme: Theme) -> None: ...

    def face(self, x: float, y: float, u: float, v: float) -> Point:
        """A point on the face that the next layer sees, u and v from 0 to 1."""

    def entry(self, x: float, y: float) -> Point:
        """Where the lines of a window meet."""


@dataclass(frozen=True)
class Stack:
    """Feature maps one behind the other, as in the LeNet paper."""

    maps: int
    across: float
    down: float
    step: float = 4.0

    @property
    def width(self) -> float:
        return self.across + self.step * (self.maps - 1)

    @property
    def height(self) -> float:
        return self.down + self.step * (self.maps - 1)

    def draw(self, canvas: Canvas, x: float, y: float, fill: str, theme: Theme) -> None:
        top = y - self.height / 2
        for index in range(self.maps):
            at = index * self.step
            canvas.rectangle(x + at, top + at, self.across, self.down, fill, theme.outline)

    def face(self, x: float, y: float, u: float, v: float) -> Point:
        right, bottom = x + self.width, y + self.height / 2
        return right - (1 - u) * self.across, bottom - (1 - v) * self.down

    def entry(self, x: float, y: float) -> Point:
        return self.face(x, y, 0.5, 0.5)


@dataclass(frozen=True)
class Cuboid:
    """Feature maps as one body: as thick as there are channels, as in the AlexNet paper.

    Volumes (``copies`` above 1) are thick along their first axis; copies stand for channels.
    """

    thickness: float
    down: float
    across: float
    copies: int = 1
    step: float = 5.0

    @property
    def _shift(self) -> float:
        return self.step * (self.copies - 1)

    @property
    def width(self) -> float:
        return self.thickness + SLANT * self.across + self._shift

    @property
    def height(self) -> float:
        return self.down + SLANT * self.across + self._shift

    def draw(self, canvas: Canvas, x: float, y: float, fill: str, theme: Theme) -> None:
        for index in range(self.copies):
            at = self._shift - index * self.step
            self._draw_one(canvas, x + at, y + self.height / 2 - at, fill, theme.outline)

    def _draw_one(self, canvas: Canvas, x: float, bottom: float, fill: str, ink: str) -> None:
        t, h, d = self.thickness, self.down, SLANT * self.across
        top = bottom - h
        canvas.rectangle(x, top, t, h, fill, ink)
        roof = [(x, top), (x + d, top - d), (x + t + d, top - d), (x + t, top)]
        canvas.polygon(roof, mixed(fill, "#FFFFFF", 0.45), ink)
        side = [(x + t, top), (x + t + d, top - d), (x + t + d, bottom - d), (x + t, bottom)]
        canvas.polygon(side, mixed(fill, "#000000", 0.14), ink)

    def face(self, x: float, y: float, u: float, v: float) -> Point:
        bottom, d = y + self.height / 2, SLANT * self.across
        return x + self.thickness + u * d, bottom - u * d - (1 - v) * self.down

    def entry(self, x: float, y: float) -> Point:
        return x + self.thickness / 2, y + self.height / 2 - self.down / 2


@dataclass(frozen=True)
class Sheet:
    """A series: as wide as there are channels, as high as it is long. A vector is a narrow one."""

    width: float
    height: float

    def draw(self, canvas: Canvas, x: float, y: float, fill: str, theme: Theme) -> None:
        canvas.rectangle(x, y - self.height / 2, self.width, self.height, fill, theme.outline)

    def face(self, x: float, y: float, u: float, v: float) -> Point:
        return x + self.width, y - self.height / 2 + v * self.height

    def entry(self, x: float, y: float) -> Point:
        return x, y


@dataclass(frozen=True)
class Join:
    """The sign that joins values element by element."""

    sign: str
    radius: float = 8.0

    @property
    def width(self) -> float:
        return 2 * self.radius

    @property
    def height(self) -> float:
        return 2 * self.radius

    def draw(self, canvas: Canvas, x: float, y: float, fill: str, theme: Theme) -> None:
        canvas.circle(x + self.radius, y, self.radius, fill, theme.outline)
        canvas.text(x + self.radius, y + 4.2, self.sign, 12, theme.on_fill, True, "middle")

    def face(self, x: float, y: float, u: float, v: float) -> Point:
        return x + self.width, y

    def entry(self, x: float, y: float) -> Point:
        return x, y


@dataclass(frozen=True)
class Scale:
    """Lengths for sizes: in proportion where all can be seen so, else by their logarithm."""

    largest: int
    length: float
    logarithmic: bool

    @classmethod
    def over(cls, sizes: list[int], length: float, range: float = 16) -> Scale:
        """The scale for these sizes, the largest of which is drawn that long."""
        largest = max(sizes, default=1)
        return cls(largest, length, largest > range * min(sizes, default=1))

    def of(self, size: int) -> float:
        if self.logarithmic:
            return self.length * math.log2(1 + size) / math.log2(1 + self.largest)
        return self.length * size / self.largest
