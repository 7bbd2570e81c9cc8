"""Confusion matrices: which classes a network takes for which others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convdsl.views.drawing.svg import ASCENT, Canvas, mixed
from convdsl.views.drawing.text import shortened, width
from convdsl.views.drawing.theme import LIGHT, Theme

Array = np.ndarray

MOST_CLASSES = 100
"""Of more classes those are drawn with the most mistakes."""
LARGEST, SMALLEST, WIDE = 34.0, 10.0, 680.0
"""The side of a cell at most and at least, and how wide the matrix is where it decides."""
SIZE, SMALL = 9.0, 7.5
LONGEST = 110.0
"""Names of classes are shortened to that width."""
RIGHT, WRONG = "#77AADD", "#EE8866"
GAP = 6.0
OTHERS = "others"


@dataclass(frozen=True)
class _Matrix:
    """Counts, a row for every class that is shown, a column for what it was taken for."""

    counts: Array
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def cell(self) -> float:
        return min(LARGEST, max(SMALLEST, WIDE / len(self.columns)))

    @property
    def size(self) -> float:
        """Of names and numbers beside the cells."""
        return min(SIZE, SMALL / SMALLEST * self.cell)


def confusion(
    labels: Array, predicted: Array, classes: Sequence[str], title: str, theme: Theme = LIGHT
) -> str:
    """The matrix of N class numbers and what was predicted instead, as SVG.

    A row is a class, a column what its examples were taken for, the shade a cell's share of its
    row. Of more than 100 classes those with the most mistakes are drawn, with a column for what
    was taken for any of the others.
    """
    matrix = _counted(labels, predicted, classes)
    canvas = Canvas()
    right = np.count_nonzero(labels == predicted)
    share = f"{right / len(labels):.2%} of " if len(labels) else ""
    shown = f"; shown are the {MOST_CLASSES} of {len(classes):,} classes with the most mistakes"
    canvas.text(0, 0, title, 12, theme.ink, bold=True)
    told = (
        f"{share}{len(labels):,} examples are told right"
        f"{shown if len(classes) > MOST_CLASSES else ''}",
        "row: what an example is; column: what it was taken for; shade: the root of a share of "
        "its row",
    )
    for line, text in enumerate(told):
        canvas.text(0, 15 + 12 * line, text, SIZE, theme.faint)
    names = [shortened(name, matrix.size, LONGEST) for name in matrix.columns]
    turned = any(width(name, matrix.size) > matrix.cell - 2 for name in names)
    above = max(width(name, matrix.size) for name in names) if turned else matrix.size
    left = max(width(shortened(n, matrix.size, LONGEST), matrix.size) for n in matrix.rows) + GAP
    top = 27 + 3 * GAP + above
    _draw_names(canvas, matrix, left, top, turned, theme)
    _draw_grid(canvas, matrix, left, top, theme)
    _draw_cells(canvas, matrix, left, top, theme)
    _draw_shares(canvas, matrix, left + len(matrix.columns) * matrix.cell + 2 * GAP, top, theme)
    return canvas.document(theme.ground, title)


def _counted(labels: Array, predicted: Array, classes: Sequence[str]) -> _Matrix:
    count = len(classes)
    if count <= MOST_CLASSES:
        pairs = np.bincount(labels * count + predicted, minlength=count * count)
        return _Matrix(pairs.reshape(count, count), tuple(classes), tuple(classes))
    mistakes = np.bincount(labels[labels != predicted], minlength=count)
    chosen = np.sort(np.argsort(-mistakes, kind="stable")[:MOST_CLASSES])
    place = np.full(count, MOST_CLASSES)
    place[chosen] = np.arange(MOST_CLASSES)
    columns = MOST_CLASSES + 1
    of_chosen = place[labels] < MOST_CLASSES
    pairs = place[labels[of_chosen]] * columns + place[predicted[of_chosen]]
    counts = np.bincount(pairs, minlength=MOST_CLASSES * columns).reshape(MOST_CLASSES, columns)
    names = tuple(classes[i] for i in chosen)
    return _Matrix(counts, names, (*names, OTHERS))


def _draw_names(
    canvas: Canvas, matrix: _Matrix, left: float, top: float, turned: bool, theme: Theme
) -> None:
    middle = matrix.cell / 2 + ASCENT / 2 * matrix.size
    for row, name in enumerate(matrix.rows):
        text = shortened(name, matrix.size, LONGEST)
        y = top + row * matrix.cell + middle
        canvas.text(left - GAP, y, text, matrix.size, theme.ink, anchor="end")
    for column, name in enumerate(matrix.columns):
        text = shortened(name, matrix.size, LONGEST)
        x = left + column * matrix.cell
        if turned:
            canvas.text(x + middle, top - GAP, text, matrix.size, theme.ink, upwards=True)
        else:
            x += matrix.cell / 2
            canvas.text(x, top - GAP, text, matrix.size, theme.ink, anchor="middle")


def _draw_grid(canvas: Canvas, matrix: _Matrix, left: float, top: float, theme: Theme) -> None:
    high, wide = (n * matrix.cell for n in matrix.counts.shape)
    canvas.rectangle(left, top, wide, high, "#FFFFFF", theme.faint, 0.4)
    ink = mixed("#FFFFFF", theme.faint, 0.4)
    for row in range(1, len(matrix.rows)):
        y = top + row * matrix.cell
        canvas.path([(left, y), (left + wide, y)], ink, 0.2)
    for column in range(1, len(matrix.columns)):
        x = left + column * matrix.cell
        canvas.path([(x, top), (x, top + high)], ink, 0.2)


def _draw_cells(canvas: Canvas, matrix: _Matrix, left: float, top: float, theme: Theme) -> None:
    """The cells that are not empty, each with its number."""
    cell = matrix.cell
    widest = max((width(f"{n:,}", 1.0) for n in np.unique(matrix.counts)), default=1.0)
    size = min(SIZE, 0.86 * cell / widest, 0.8 * cell)
    totals = matrix.counts.sum(axis=1)
    for row, column in np.argwhere(matrix.counts).tolist():
        number, total = int(matrix.counts[row, column]), int(totals[row])
        x, y = left + column * cell, top + row * cell
        said = f"{matrix.rows[row]} taken for {matrix.columns[column]}: {number:,} of {total:,}"
        with canvas.group("cell", said):
            hue = RIGHT if row == column else WRONG
            fill = mixed("#FFFFFF", hue, (number / total) ** 0.5)
            canvas.rectangle(x + 0.3, y + 0.3, cell - 0.6, cell - 0.6, fill, "none", 0)
            baseline = y + cell / 2 + 0.36 * size
            text = f"{number:,}"
            canvas.text(x + cell / 2, baseline, text, size, theme.on_fill, anchor="middle")


def _draw_shares(canvas: Canvas, matrix: _Matrix, left: float, top: float, theme: Theme) -> None:
    """Beside every row, how many of its examples are told right, and how many there are."""
    size = matrix.size
    end = left + width("100.0%", size)
    last = end + GAP + max(width(f"{n:,}", size) for n in matrix.counts.sum(axis=1))
    last = max(last, end + GAP + width("examples", size))
    canvas.text(end, top - GAP, "right", size, theme.faint, anchor="end")
    canvas.text(last, top - GAP, "examples", size, theme.faint, anchor="end")
    for row, counts in enumerate(matrix.counts):
        total = int(counts.sum())
        y = top + (row + 0.5) * matrix.cell + ASCENT / 2 * size
        share = f"{counts[row] / total:.1%}" if total else "–"
        canvas.text(end, y, share, size, theme.ink, anchor="end")
        canvas.text(last, y, f"{total:,}", size, theme.faint, anchor="end")
