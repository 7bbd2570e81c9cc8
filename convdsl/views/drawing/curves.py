"""Learning curves: losses and accuracy over the epochs of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convdsl.views.drawing.svg import Canvas
from convdsl.views.drawing.theme import LIGHT, Theme

WIDE, HIGH, GAP = 260.0, 150.0, 70.0
SIZE = 9.0
TRAINING, VALIDATION = "#1f6fb4", "#d2691e"
PANELS = (("loss", ("loss", "val_loss")), ("accuracy", ("accuracy", "val_accuracy")))


def curves(history: Sequence[Mapping[str, Any]], title: str, theme: Theme = LIGHT) -> str:
    """The metrics of epochs, one mapping each, as SVG; series that are not there are left out."""
    canvas = Canvas()
    canvas.text(0, 0, f"{title}: {len(history)} epochs", 12, theme.ink, bold=True)
    left = 0.0
    for name, series in PANELS:
        found = {s: [m[s] for m in history] for s in series if all(s in m for m in history)}
        if found:
            with canvas.group("panel", name):
                _panel(canvas, left, 24, found, theme)
            left += WIDE + GAP
    return canvas.document(theme.ground, title)


def _panel(
    canvas: Canvas, left: float, top: float, series: Mapping[str, Sequence[float]], theme: Theme
) -> None:
    values = [v for points in series.values() for v in points]
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    canvas.rectangle(left, top, WIDE, HIGH, "none", theme.ink, 0.6)
    for value, y in ((high, top), (low, top + HIGH)):
        canvas.text(left + WIDE + 4, y + 3, f"{value:.4g}", SIZE, theme.ink)
    for row, (name, points) in enumerate(series.items()):
        step = WIDE / max(len(points) - 1, 1)
        line = [
            (left + i * step, top + HIGH * (1 - (v - low) / spread)) for i, v in enumerate(points)
        ]
        colour = VALIDATION if name.startswith("val_") else TRAINING
        if len(line) > 1:
            canvas.path(line, colour, 1.4)
        canvas.circle(*line[-1], 2, colour, colour)
        label = f"{name.replace('val_', 'validation ')} {points[-1]:.4g}"
        canvas.text(left, top + HIGH + 14 + 12 * row, label, SIZE, colour)
