"""Contact sheets: the feature maps of an input layer by layer, and the filters of a layer, as PNG.

Maps are grey from the least value of their layer to its largest; filters have zero in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import reportlab
from PIL import Image, ImageDraw, ImageFont

Array = np.ndarray

TILE = 64
"""The side of a map, in pixels; series are curves, longer and less high."""
STRIP = (160, 40)
GAP = 4
MARGIN = 16
MOST_MAPS = 16
"""So many maps of a layer are shown."""
PER_LINE = 8
UNIT, UNITS_PER_LINE = (4, 12), 128
"""The width and height of a vector's element in pixels, and how many stand in a line."""
TITLE, TEXT = 17, 12


@dataclass(frozen=True)
class Section:
    """Tiles under a line of text."""

    heading: str
    tiles: tuple[Image.Image, ...]
    per_line: int = PER_LINE


def maps(heading: str, values: Array) -> Section:
    """The first maps of a feature map C×spatial, the middle slices of volumes; a vector's units.

    Maps of a single position are a vector.
    """
    if values.size == len(values):
        values = values.reshape(-1)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / ((high - low) or 1.0)
    shown = len(values) if values.ndim == 1 else min(len(values), MOST_MAPS)
    rest = f", the first {shown} of {len(values)}" if shown < len(values) else ""
    text = f"{heading}   {low:.3g} to {high:.3g}{rest}"
    if values.ndim == 1:
        return Section(text, (_units(scaled),))
    return Section(text, tuple(_map(scaled[index]) for index in range(shown)))


def filters(heading: str, weights: Array) -> Section:
    """The filters F×C×window of a layer: in colour for three channels, else a tile per channel."""
    most = float(np.abs(weights).max()) or 1.0
    scaled = 0.5 + weights / (2 * most)
    text = f"{heading}   {-most:.3g} to {most:.3g}"
    if scaled.shape[1] == 3 and scaled.ndim == 4:
        return Section(text, tuple(enlarged(np.moveaxis(f, 0, -1), TILE) for f in scaled), 16)
    channels = min(scaled.shape[1], MOST_MAPS)
    tiles = tuple(_map(f[channel]) for f in scaled for channel in range(channels))
    return Section(text, tiles, channels if channels > 1 else PER_LINE)


def sheet(title: str, sections: Sequence[Section]) -> bytes:
    """The sections one below the other, as PNG."""
    width = max([text_width(title, TITLE), *map(_width, sections)]) + 2 * MARGIN
    height = 2 * MARGIN + TITLE + sum(_height(section) for section in sections)
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), title, "black", font(TITLE))
    top = MARGIN + TITLE + GAP
    for section in sections:
        _place(page, draw, section, top)
        top += _height(section)
    return png(page)


def png(page: Image.Image) -> bytes:
    """An image as the content of a PNG file."""
    stream = BytesIO()
    page.save(stream, "PNG")
    return stream.getvalue()


def _place(page: Image.Image, draw: ImageDraw.ImageDraw, section: Section, top: int) -> None:
    draw.text((MARGIN, top + GAP), section.heading, "#333333", font(TEXT))
    top += TEXT + 3 * GAP
    for start in range(0, len(section.tiles), section.per_line):
        left = MARGIN
        line = section.tiles[start : start + section.per_line]
        for tile in line:
            page.paste(tile, (left, top))
            left += tile.width + GAP
        top += max(tile.height for tile in line) + GAP


def _lines(section: Section) -> list[tuple[Image.Image, ...]]:
    starts = range(0, len(section.tiles), section.per_line)
    return [section.tiles[start : start + section.per_line] for start in starts]


def _width(section: Section) -> int:
    lines = [sum(tile.width + GAP for tile in line) for line in _lines(section)]
    return max([text_width(section.heading, TEXT), *lines])


def _height(section: Section) -> int:
    lines = [max(tile.height for tile in line) + GAP for line in _lines(section)]
    return TEXT + 5 * GAP + sum(lines)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Bitstream Vera, which comes with reportlab: the same on every machine."""
    return ImageFont.truetype(Path(reportlab.__file__).parent / "fonts" / "Vera.ttf", size)


def text_width(text: str, size: int) -> int:
    """The width of a line in pixels."""
    return int(np.ceil(font(size).getlength(text)))


# -- tiles -----------------------------------------------------------------------------------


def _map(values: Array) -> Image.Image:
    """One map, with values from 0 to 1."""
    while values.ndim > 2:  # a volume: the slice in its middle
        values = values[len(values) // 2]
    return plotted([values], STRIP) if values.ndim == 1 else enlarged(values, TILE)


def plotted(
    series: Sequence[Array], size: tuple[int, int], inks: Sequence[str] = ("black",)
) -> Image.Image:
    """Series of values from 0 to 1 as lines; where one has more than pixels, it covers its span."""
    tile = Image.new("RGB", size, "#EEEEEE")
    draw = ImageDraw.Draw(tile)
    for values, ink in zip(series, inks, strict=False):
        _plot(draw, values, size, ink)
    return tile


def _plot(draw: ImageDraw.ImageDraw, values: Array, size: tuple[int, int], ink: str) -> None:
    width, height = size
    levels = np.round((1 - np.clip(np.nan_to_num(values), 0, 1)) * (height - 1))
    if len(values) <= width:
        xs = np.linspace(0, width - 1, len(values))
        draw.line(list(zip(xs.tolist(), levels.tolist(), strict=True)), ink)
        return
    for x in range(width):
        part = levels[x * len(levels) // width : (x + 1) * len(levels) // width + 1]
        draw.line([(x, float(part.min())), (x, float(part.max()))], ink)


def enlarged(values: Array, side: int) -> Image.Image:
    """A map with values from 0 to 1, grey or in colours, whose longer side becomes ``side``."""
    height, width = values.shape[:2]
    longer = max(height, width)
    size = max(width * side // longer, 1), max(height * side // longer, 1)
    return _image(values).resize(size, _filter(longer, side))


def _units(values: Array) -> Image.Image:
    """The elements of a vector, line by line; what the last line lacks is white."""
    lines = -(-len(values) // UNITS_PER_LINE)
    columns = min(len(values), UNITS_PER_LINE)
    full = np.ones(lines * columns)
    full[: len(values)] = values
    size = (columns * UNIT[0], lines * UNIT[1])
    return _image(full.reshape(lines, columns)).resize(size, Image.Resampling.NEAREST)


def _image(values: Array) -> Image.Image:
    levels = np.clip(np.round(np.nan_to_num(values) * 255), 0, 255).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")


def _filter(have: int, want: int) -> Image.Resampling:
    """Pixels stay sharp where they grow, and are averaged where they shrink."""
    return Image.Resampling.NEAREST if have <= want else Image.Resampling.BOX
