"""Contact sheets of mistakes: what a network was shown, what it said and what it was, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from convdsl.views.drawing.sheets import (
    MARGIN,
    TEXT,
    TITLE,
    enlarged,
    font,
    plotted,
    png,
    text_width,
)

Array = np.ndarray

SIDE = 128
"""The side of an image and the width of a series, in pixels."""
SERIES = (SIDE, 64)
INKS = ("#222222", "#1F6FB4", "#D2691E", "#2E8B57", "#8B3A8B", "#999999")
"""Of the channels of a series; further ones are left out."""
GAP, LINE = 14, TEXT + 4
PER_LINE = 6
WRONG, TRUE = "#B03A2E", "#222222"


@dataclass(frozen=True)
class Mistake:
    """An example that was told wrong: C×spatial with values from 0 to 1, and two classes.

    ``probability`` is that of the class that was said.
    """

    values: Array
    said: str
    true: str
    probability: float


def contact_sheet(title: str, mistakes: Sequence[Mistake]) -> bytes:
    """The mistakes in lines of six, as PNG: images, series as plots, the middle of volumes."""
    tiles = [_tile(mistake.values) for mistake in mistakes]
    high = max((tile.height for tile in tiles), default=0)
    columns, lines = min(PER_LINE, len(tiles)), -(-len(tiles) // PER_LINE)
    cell = SIDE + GAP, high + 2 * LINE + GAP
    width = max(text_width(title, TITLE), columns * cell[0] - GAP) + 2 * MARGIN
    page = Image.new("RGB", (width, 2 * MARGIN + TITLE + GAP + lines * cell[1]), "white")
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), title, "black", font(TITLE))
    for index, (tile, mistake) in enumerate(zip(tiles, mistakes, strict=True)):
        line, column = divmod(index, PER_LINE)
        left = MARGIN + column * cell[0]
        top = MARGIN + TITLE + GAP + line * cell[1]
        page.paste(tile, (left + (SIDE - tile.width) // 2, top + high - tile.height))
        below = top + high + 3
        chance = f" {mistake.probability:.0%}"
        said = _cut(f"said {mistake.said}", SIDE - text_width(chance, TEXT)) + chance
        draw.text((left, below), said, WRONG, font(TEXT))
        draw.text((left, below + LINE), _cut(f"is {mistake.true}", SIDE), TRUE, font(TEXT))
    return png(page)


def _tile(values: Array) -> Image.Image:
    if values.ndim == 1:  # a vector, whose elements are a series
        return plotted([values], SERIES)
    if values.ndim == 2:
        return plotted(list(values), SERIES, INKS)
    while values.ndim > 3:  # a volume: the slice in its middle
        values = values[:, values.shape[1] // 2]
    channels = len(values)
    return enlarged(np.moveaxis(values, 0, -1) if channels == 3 else values.mean(axis=0), SIDE)


def _cut(text: str, most: int) -> str:
    """The text, or as much of its start as fits that many pixels, with an ellipsis."""
    if text_width(text, TEXT) <= most:
        return text
    while text and text_width(f"{text}…", TEXT) > most:
        text = text[:-1].rstrip()
    return f"{text}…"
