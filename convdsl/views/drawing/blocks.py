"""The blocks style: the papers' table of configurations, for one network or several side by side.

Rows are stages of one output size; what all networks have in common spans the columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from convdsl.views.drawing.svg import Canvas
from convdsl.views.drawing.tables import Cell, Entry, Table, TableRow, table
from convdsl.views.drawing.text import width
from convdsl.views.drawing.theme import Theme
from convdsl.views.summary import Summary
from convdsl.views.table import Column, markdown_table

SIZE, LINE = 9.5, 12.5
PADDING = 8.0
NOTE = "Activations, batch normalisation, dropout and shortcuts are not shown."


# -- Markdown --------------------------------------------------------------------------------


def markdown(summaries: Sequence[Summary]) -> str:
    """The table in Markdown, which has no cells that span columns."""
    found = table(summaries)
    headings = [Column("stage")] if found.is_named else []
    headings += [Column("output size"), *(Column(name) for name in found.networks)]
    lines = []
    for row in found.rows:
        cells = row.cells * len(found.networks) if row.spans else row.cells
        texts = [row.size, *(_cell_text(cell) for cell in cells)]
        lines.append(tuple([row.name, *texts] if found.is_named else texts))
    return f"{markdown_table(headings, lines)}\n\n{NOTE}\n"


def _cell_text(cell: Cell) -> str:
    texts = []
    for entry in cell:
        bold = entry.bold or (False,) * len(entry.lines)
        lines = [f"**{t}**" if b else t for t, b in zip(entry.lines, bold, strict=True)]
        joined = "<br>".join(lines)
        texts.append(f"[ {'; '.join(entry.lines)} ]{_copies(entry)}" if entry.copies else joined)
    return "<br>".join(texts)


def _copies(entry: Entry) -> str:
    return f" × {entry.copies}" if entry.copies > 1 else ""


# -- SVG -------------------------------------------------------------------------------------


def blocks(summaries: Sequence[Summary], theme: Theme) -> str:
    """The table as SVG."""
    canvas = Canvas()
    _Drawn(table(summaries), canvas, theme).draw()
    return canvas.document(theme.ground, " and ".join(s.network for s in summaries))


class _Drawn:
    """Draws a table from the page's origin on."""

    def __init__(self, table: Table, canvas: Canvas, theme: Theme) -> None:
        self.table = table
        self.canvas = canvas
        self.theme = theme
        self.widths = self._widths()
        self.lefts = [sum(self.widths[:index]) for index in range(len(self.widths) + 1)]

    def _widths(self) -> list[float]:
        """Of the name's, the size's and the networks' columns."""
        rows = self.table.rows
        names = max((width(row.name, SIZE) for row in rows), default=0)
        sizes = max(width(text, SIZE, True) for text in ["output size", *(r.size for r in rows)])
        own = []
        for index, network in enumerate(self.table.networks):
            cells = [row.cells[index] for row in rows if not row.spans]
            own.append(max([width(network, SIZE, True), *map(_cell_width, cells)]))
        # What spans all columns must fit in them together.
        spanning = max((_cell_width(row.cells[0]) for row in rows if row.spans), default=0)
        gaps = 2 * PADDING * (len(own) - 1)
        lacking = max(0.0, spanning - sum(own) - gaps) / len(own)
        first = [names + 2 * PADDING] if self.table.is_named else []
        return [*first, sizes + 2 * PADDING, *(w + lacking + 2 * PADDING for w in own)]

    def draw(self) -> None:
        top = self._draw_heading(0.0)
        for row in self.table.rows:
            height = max(_cell_height(cell) for cell in row.cells) + PADDING
            with self.canvas.group("row"):
                self._draw_row(row, top, height)
            top += height
        self._rule(top, 1.2)
        self.canvas.text(0, top + 14, NOTE, SIZE - 1, self.theme.faint)

    def _draw_heading(self, top: float) -> float:
        height = LINE + PADDING
        right = self.lefts[-1]
        self.canvas.rectangle(0, top, right, height, self.theme.panel, self.theme.panel, 0)
        self._rule(top, 1.2)
        headings = ["stage"] if self.table.is_named else []
        headings += ["output size", *self.table.networks]
        with self.canvas.group("heading"):
            for index, heading in enumerate(headings):
                x = (self.lefts[index] + self.lefts[index + 1]) / 2
                self._write(x, top + height / 2, heading, True)
        return top + height

    def _draw_row(self, row: TableRow, top: float, height: float) -> None:
        first = 2 if self.table.is_named else 1
        # The further rows of a stage belong to the same size.
        self._rule(top, 0.8 if row.size or row.kind == "head" else 0.4, 0 if row.size else first)
        middle = top + height / 2
        if self.table.is_named and row.name:
            self._write((self.lefts[0] + self.lefts[1]) / 2, middle, row.name)
        if row.size:
            self._write((self.lefts[first - 1] + self.lefts[first]) / 2, middle, row.size)
        ends = [self.lefts[first], self.lefts[-1]] if row.spans else self.lefts[first:]
        for left, right, cell in zip(ends, ends[1:], row.cells, strict=False):
            self._draw_cell((left + right) / 2, middle, cell)
            bottom = [(left, top), (left, top + height)]
            self.canvas.path(bottom, self.theme.faint, 0.4)

    def _draw_cell(self, x: float, middle: float, cell: Cell) -> None:
        y = middle - _cell_height(cell) / 2
        for entry in cell:
            high = _entry_height(entry)
            if entry.copies:
                self._draw_unit(x, y, entry)
            else:
                bold = entry.bold or (False,) * len(entry.lines)
                for index, (line, strong) in enumerate(zip(entry.lines, bold, strict=True)):
                    self._write(x, y + (index + 0.5) * LINE, line, strong)
            y += high

    def _draw_unit(self, x: float, y: float, entry: Entry) -> None:
        """Lines in tall brackets, with the number of copies."""
        inner = max(width(line, SIZE) for line in entry.lines)
        copies = _copies(entry).strip()
        after = 5 + width(copies, SIZE) if copies else 0
        whole = inner + 10 + after
        left = x - whole / 2
        top, bottom = y + 2, y + _entry_height(entry) - 2
        for edge, inward in ((left, 4), (left + inner + 10, -4)):
            bracket = [(edge + inward, top), (edge, top), (edge, bottom), (edge + inward, bottom)]
            self.canvas.path(bracket, self.theme.ink, 0.9)
        for index, line in enumerate(entry.lines):
            self._write(left + 5 + inner / 2, y + 2 + (index + 0.5) * LINE, line)
        if copies:
            self._write(left + whole - width(copies, SIZE) / 2, (top + bottom) / 2, copies)

    def _write(self, x: float, middle: float, text: str, bold: bool = False) -> None:
        self.canvas.text(x, middle + 0.34 * SIZE, text, SIZE, self.theme.ink, bold, "middle")

    def _rule(self, y: float, line: float, first: int = 0) -> None:
        ends = [(self.lefts[first], y), (self.lefts[-1], y)]
        self.canvas.path(ends, self.theme.ink, line)


def _entry_height(entry: Entry) -> float:
    return len(entry.lines) * LINE + (4 if entry.copies else 0)


def _cell_height(cell: Cell) -> float:
    return sum(_entry_height(entry) for entry in cell) or LINE


def _cell_width(cell: Cell) -> float:
    found = [0.0]
    for entry in cell:
        inner = max(width(line, SIZE, True) for line in entry.lines)
        copies = width(_copies(entry), SIZE) + 5
        found.append(inner + (10 + copies if entry.copies else 0))
    return max(found)
