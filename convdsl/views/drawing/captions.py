"""The words of drawings: shapes and layers as papers print them, headings, tooltips."""

from __future__ import annotations

import re

from convdsl.graph import TensorType
from convdsl.views.drawing.boxes import Box, Row
from convdsl.views.drawing.svg import Canvas
from convdsl.views.drawing.text import wrapped
from convdsl.views.drawing.theme import Theme
from convdsl.views.summary import Summary

HEADING_WIDTH = 420
"""Headings are broken into lines of at most that width, in points."""


def shown(type: TensorType) -> str:
    """A shape: ``64@56×56``."""
    return str(type).replace("x", "×")


def counted(number: float) -> str:
    """A number to three digits."""
    for unit, size in ((" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def row_text(row: Row) -> str:
    """A row in one line."""
    head = row[0].caption
    joined = [layer.caption.name for layer in row[1:]]
    return " ".join([head.symbol, *joined]) if head.symbol else ", ".join([str(head), *joined])


def tooltip(box: Box) -> str:
    """What the program says about the layers, then their numbers."""
    first = [layer for row in box.rows for layer in row]
    lines = list(dict.fromkeys(layer.documentation for layer in first if layer.documentation))
    lines.append(f"{box.name}: {' -> '.join(layer.brief for layer in first)}")
    lines.append(f"{box.parameters:,} parameters, {box.macs:,} MACs")
    return "\n".join(lines)


def first_sentence(documentation: str) -> str:
    return re.split(r"(?<=\.)\s|\n\n", documentation)[0]


def add_heading(canvas: Canvas, summary: Summary, x: float, top: float, theme: Theme) -> float:
    """A network's name, what its program says of it, its totals; returns where they end."""
    y = top + 14
    canvas.text(x, y, summary.network, 14, theme.ink, bold=True)
    for line in wrapped(first_sentence(summary.documentation), 10, HEADING_WIDTH):
        y += 13
        canvas.text(x, y, line, 10, theme.ink)
    y += 12
    total = summary.total
    text = f"{total.parameters:,} parameters, {total.macs:,} MACs"
    canvas.text(x, y, text, 9, theme.faint)
    return y + 4
