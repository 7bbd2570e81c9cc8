"""Plots of a summary: parameters, multiply-adds and activations of every layer, as bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convdsl.analysis import Costs
from convdsl.views.drawing.boxes import Row
from convdsl.views.drawing.captions import add_heading, counted, row_text
from convdsl.views.drawing.svg import Canvas
from convdsl.views.drawing.text import shortened, width
from convdsl.views.drawing.theme import LIGHT, Theme
from convdsl.views.summary import Summary, rows

BAR, STEP = 9.0, 13.0
"""The height of a bar, and from one to the next, in points."""
LENGTH = 150.0
"""The longest bar."""
SIZE = 8.5
WIDEST = 230.0
"""Labels are shortened to that width."""
GAP = 22.0


@dataclass(frozen=True)
class _Panel:
    """A number of layers that is plotted."""

    title: str
    of: Callable[[Costs], int]
    shown: Callable[[float], str]


PANELS = (
    _Panel("parameters", lambda costs: costs.parameters, counted),
    _Panel("multiply-adds", lambda costs: costs.macs, counted),
    _Panel("activations", lambda costs: costs.activation_bytes, lambda n: f"{counted(n)}B"),
)


def plot(summary: Summary, theme: Theme = LIGHT) -> str:
    """The bars as SVG, a line for each row of the table."""
    canvas = Canvas()
    table = [tuple(row) for row in rows(summary.layers)]
    top = add_heading(canvas, summary, 0, 0, theme) + 24
    labels = [_label(row) for row in table]
    left = max((width(label, SIZE) for label in labels), default=0) + 8
    for index, label in enumerate(labels):
        y = top + index * STEP + BAR / 2 + 0.34 * SIZE
        canvas.text(left - 8, y, label, SIZE, theme.ink, anchor="end")
    for panel in PANELS:
        with canvas.group("panel", panel.title):
            left = _draw_panel(canvas, panel, table, left, top, theme) + GAP
    return canvas.document(theme.ground, summary.network)


def _label(row: Row) -> str:
    head = row[0]
    return shortened(f"{head.name}: {row_text(row)}", SIZE, WIDEST)


def _draw_panel(
    canvas: Canvas, panel: _Panel, table: Sequence[Row], left: float, top: float, theme: Theme
) -> float:
    """The bars of one number; returns where they and their numbers end."""
    amounts = [sum(panel.of(layer.costs) for layer in row) for row in table]
    largest = max(amounts, default=0) or 1
    canvas.text(left, top - 8, panel.title, SIZE + 0.5, theme.ink, bold=True)
    axis = [(left, top - 3), (left, top + len(table) * STEP)]
    canvas.path(axis, theme.faint, 0.6)
    end = left + width(panel.title, SIZE + 0.5, True)
    for index, (row, amount) in enumerate(zip(table, amounts, strict=True)):
        y = top + index * STEP
        long = LENGTH * amount / largest
        if amount:
            canvas.rectangle(left, y, long, BAR, theme.fill(row[0].category), theme.outline, 0.3)
            text = panel.shown(amount)
            canvas.text(left + long + 4, y + BAR / 2 + 0.34 * SIZE, text, SIZE, theme.faint)
            end = max(end, left + long + 4 + width(text, SIZE))
    return end
