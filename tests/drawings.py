"""What tests of drawings share: the zoo, and the texts and outlines of an SVG, measured."""

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cache

from reportlab.pdfbase.pdfmetrics import stringWidth

from convdsl import resources
from convdsl.language import net_names
from convdsl.network import Network, read

SVG = "{http://www.w3.org/2000/svg}"
ZOO = [
    (path, name)
    for path in sorted(resources.networks_directory().glob("*.cnn"))
    for name in net_names(read(path))
]
NAMES = [name for _, name in ZOO]


@cache
def zoo(name):
    """The graph of a bundled network."""
    (path,) = [path for path, known in ZOO if known == name]
    return Network(read(path), name).graph


@dataclass(frozen=True)
class Frame:
    """A rectangle on the page."""

    left: float
    top: float
    right: float
    bottom: float

    def holds(self, other, slack=0.01):
        return (
            self.left - slack <= other.left
            and self.top - slack <= other.top
            and other.right <= self.right + slack
            and other.bottom <= self.bottom + slack
        )

    def meets(self, other, slack=0.01):
        return not (
            self.right <= other.left + slack
            or other.right <= self.left + slack
            or self.bottom <= other.top + slack
            or other.bottom <= self.top + slack
        )


def texts(svg):
    """What is written, line by line; Graphviz writes a blank around labels of edges."""
    return [(t.text or "").strip() for t in ET.fromstring(svg).iter(f"{SVG}text")]


def text_frame(text):
    """The place of a text in its group: from the capitals' height to the descenders' depth."""
    size = float(text.get("font-size"))
    font = "Helvetica-Bold" if text.get("font-weight") == "bold" else "Helvetica"
    width = stringWidth(text.text, font, size)
    before = {"middle": width / 2, "end": width}.get(text.get("text-anchor"), 0)
    left, baseline = float(text.get("x")) - before, float(text.get("y"))
    return Frame(left, baseline - 0.72 * size, left + width, baseline + 0.21 * size)


def outline_frame(element):
    """The place of a path, a polygon, a circle or a rectangle."""
    if element.tag == f"{SVG}rect":
        left, top, width, height = (float(element.get(k)) for k in ("x", "y", "width", "height"))
        return Frame(left, top, left + width, top + height)
    points = element.get("d") or element.get("points")
    numbers = re.findall(r"(-?[\d.]+)[, ](-?[\d.]+)", points)
    xs, ys = zip(*((float(x), float(y)) for x, y in numbers), strict=True)
    return Frame(min(xs), min(ys), max(xs), max(ys))


def check_on_page(image):
    """All text and all shapes lie on the page."""
    root = ET.fromstring(image)
    page = next(root.iter(f"{SVG}rect"))
    place = outline_frame(page)
    assert root.get("viewBox").split() == [page.get(k) for k in ("x", "y", "width", "height")]
    for text in root.iter(f"{SVG}text"):
        assert place.holds(text_frame(text))
    for tag in ("rect", "polygon", "path"):
        for element in root.iter(f"{SVG}{tag}"):
            assert place.holds(outline_frame(element))
