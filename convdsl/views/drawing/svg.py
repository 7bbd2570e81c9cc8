"""Writes SVG: shapes and text on a page that grows with what is drawn on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape

from convdsl.views.drawing.text import FAMILY, width

Point = tuple[float, float]

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
MARGIN = 12
"""Around all that is drawn, in points."""
ASCENT, DESCENT = 0.76, 0.22
"""How far text reaches above and below its baseline, by its size."""


class Canvas:
    """A page; coordinates in points, y downwards, from wherever the drawing likes."""

    def __init__(self) -> None:
        self._elements: list[str] = []
        self._xs: list[float] = []
        self._ys: list[float] = []

    @contextmanager
    def group(self, kind: str, title: str = "") -> Iterator[None]:
        """What is drawn meanwhile belongs together; ``title`` is shown on hovering."""
        self._elements.append(f'<g class="{kind}">')
        if title:
            self._elements.append(f"<title>{escape(title)}</title>")
        yield
        self._elements.append("</g>")

    def polygon(self, points: Sequence[Point], fill: str, ink: str, line: float = 0.8) -> None:
        self._cover(points)
        listed = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        style = _style(fill, ink, line)
        self._elements.append(f'<polygon points="{listed}" stroke-linejoin="round"{style}/>')

    def rectangle(
        self, x: float, y: float, w: float, h: float, fill: str, ink: str, line: float = 0.8
    ) -> None:
        self._cover([(x, y), (x + w, y + h)])
        place = f'x="{number(x)}" y="{number(y)}" width="{number(w)}" height="{number(h)}"'
        self._elements.append(f"<rect {place}{_style(fill, ink, line)}/>")

    def circle(self, x: float, y: float, radius: float, fill: str, ink: str) -> None:
        self._cover([(x - radius, y - radius), (x + radius, y + radius)])
        place = f'cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"'
        self._elements.append(f"<circle {place}{_style(fill, ink, 0.8)}/>")

    def path(
        self,
        points: Sequence[Point],
        ink: str,
        line: float = 0.8,
        dash: str = "",
        curved: bool = False,
        arrow: bool = False,
    ) -> None:
        """Lines through the points, or where they are ``curved`` Bézier curves of three each."""
        self._cover(points)
        start, *rest = (f"{number(x)},{number(y)}" for x, y in points)
        step = "C" if curved else "L"
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        data = f"M{start} {step}{' '.join(rest)}"
        self._elements.append(f'<path d="{data}"{_style("none", ink, line)}{dashed}/>')
        if arrow:
            self._arrow(points[-2], points[-1], ink)

    def _arrow(self, before: Point, end: Point, ink: str, size: float = 5) -> None:
        dx, dy = end[0] - before[0], end[1] - before[1]
        length = (dx * dx + dy * dy) ** 0.5 or 1
        ux, uy = dx / length * size, dy / length * size
        back = (end[0] - ux, end[1] - uy)
        side = (-uy * 0.38, ux * 0.38)
        corners = [
            end,
            (back[0] + side[0], back[1] + side[1]),
            (back[0] - side[0], back[1] - side[1]),
        ]
        self.polygon(corners, ink, ink, 0.4)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        ink: str,
        bold: bool = False,
        anchor: str = "start",
        upwards: bool = False,
    ) -> None:
        """A line whose baseline is at y; ``anchor``: x is its start, its middle or its end.

        One that goes ``upwards`` is turned about that point.
        """
        wide = width(text, size, bold)
        start = -{"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
        corners = [(start, -ASCENT * size), (start + wide, DESCENT * size)]
        if upwards:
            corners = [(down, -along) for along, down in corners]
        self._cover([(x + along, y + down) for along, down in corners])
        weight = ' font-weight="bold"' if bold else ""
        placed = f'x="{number(x)}" y="{number(y)}" text-anchor="{anchor}"'
        if upwards:
            placed += f' transform="rotate(-90 {number(x)} {number(y)})"'
        font = f'font-family="{FAMILY}" font-size="{number(size)}"{weight}'
        self._elements.append(f'<text {placed} {font} fill="{ink}">{escape(text)}</text>')

    @property
    def bottom(self) -> float:
        """The lowest point drawn so far."""
        return max(self._ys, default=0.0)

    def document(self, ground: str, title: str) -> str:
        """The page as SVG, as large as what is on it."""
        left, top = min(self._xs) - MARGIN, min(self._ys) - MARGIN
        w, h = max(self._xs) + MARGIN - left, max(self._ys) + MARGIN - top
        place = " ".join(number(n) for n in (left, top, w, h))
        root = f'xmlns="http://www.w3.org/2000/svg" width="{number(w)}pt" height="{number(h)}pt"'
        page = (
            f'<rect x="{number(left)}" y="{number(top)}" width="{number(w)}" '
            f'height="{number(h)}" fill="{ground}"/>'
        )
        lines = [
            f'<svg {root} viewBox="{place}">',
            f"<title>{escape(title)}</title>",
            page,
            *self._elements,
            "</svg>",
        ]
        return HEAD + "\n".join(lines) + "\n"

    def _cover(self, points: Sequence[Point]) -> None:
        self._xs += [x for x, _ in points]
        self._ys += [y for _, y in points]


def number(value: float) -> str:
    """A coordinate to a hundredth of a point."""
    return f"{round(value, 2) + 0:g}" if abs(value) < 1e4 else f"{value:.1f}"


def _style(fill: str, ink: str, line: float) -> str:
    stroke = f' stroke="{ink}" stroke-width="{number(line)}"' if line else ""
    return f' fill="{fill}"{stroke}'


def mixed(colour: str, other: str, share: float) -> str:
    """A colour with a share of another, both ``#RRGGBB``."""
    pairs = ((int(colour[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02X}" for a, b in pairs)
