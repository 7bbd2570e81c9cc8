"""The blocks style: the papers' table of configurations, for one network or several side by side.

Rows are stages of one output size; what all networks have in common spans the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from heapq import merge
from itertools import pairwise
from math import prod
from typing import Literal

from convdsl.ops import times
from convdsl.views.drawing.captions import counted, shown
from convdsl.views.drawing.configurations import (
    Configuration,
    Line,
    Part,
    Stage,
    configuration,
    usual_name,
)
from convdsl.views.drawing.repeats import LONGEST_PERIOD, run
from convdsl.views.drawing.svg import Canvas
from convdsl.views.drawing.text import width
from convdsl.views.drawing.theme import Theme
from convdsl.views.summary import Summary
from convdsl.views.table import Column, markdown_table

SIZE, LINE = 9.5, 12.5
PADDING = 8.0
MOST_LINES = 24
"""Cells with more lines than that have their repeats as units."""
NOTE = "Activations, batch normalisation, dropout and shortcuts are not shown."


@dataclass(frozen=True)
class Entry:
    """Lines of a cell: those of a unit, in brackets with its copies, or plain ones."""

    lines: tuple[str, ...]
    copies: int = 0
    bold: tuple[bool, ...] = ()
    """The lines that the column before does not have."""


Cell = tuple[Entry, ...]


@dataclass(frozen=True)
class TableRow:
    """A row: stage, output size, and a cell per network, or one for all of them."""

    name: str
    size: str
    cells: tuple[Cell, ...]
    spans: bool
    kind: Literal["head", "body", "foot"] = "body"


@dataclass(frozen=True)
class Table:
    """The table of some networks."""

    networks: tuple[str, ...]
    rows: tuple[TableRow, ...]

    @property
    def is_named(self) -> bool:
        """Whether the stages of all networks have names in common."""
        return any(row.name for row in self.rows)


def table(summaries: Sequence[Summary]) -> Table:
    """The configurations of networks."""
    columns = [configuration(summary) for summary in summaries]
    writer = _Writer(usual_name(columns), any(column.has_units for column in columns))
    rows = list(_head(columns))
    for key in _keys(columns):
        found = [_stage(column, key) for column in columns]
        rows += _stage_rows(found, writer)
    rows += _foot(columns)
    return Table(tuple(column.summary.network for column in columns), tuple(rows))


# -- rows ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Writer:
    """How lines are written: in full beside units, else as short as in the VGG paper."""

    usual: str
    in_full: bool

    def text(self, line: Line) -> str:
        return line.text(self.usual) if self.in_full else line.compact

    def cell(self, parts: Sequence[Part]) -> Cell:
        entries: list[Entry] = []
        for part in parts:
            lines = tuple(map(self.text, part.lines))
            if not part.is_unit and entries and not entries[-1].copies:
                entries[-1] = Entry(entries[-1].lines + lines)
            else:
                entries.append(Entry(lines, part.copies if part.is_unit else 0))
        return tuple(short for entry in entries for short in _shortened(entry))


def _shortened(entry: Entry) -> list[Entry]:
    """An entry, or where it has very many lines its repeats as units."""
    if entry.copies or len(entry.lines) <= MOST_LINES:
        return [entry]
    lines, start = entry.lines, 0
    found: list[Entry] = []

    def follows(at: int, period: int) -> bool:
        copy = lines[at + period : at + 2 * period]
        return len(copy) == period and copy == lines[at : at + period]

    while start < len(lines):
        period, copies = run(start, LONGEST_PERIOD, follows)
        part = lines[start : start + period]
        if copies == 1 and found and not found[-1].copies:
            found[-1] = Entry(found[-1].lines + part)
        else:
            found.append(Entry(part, copies if copies > 1 else 0))
        start += period * copies
    return found


def _head(columns: Sequence[Configuration]) -> list[TableRow]:
    layers = tuple(_plain(f"{column.weight_layers} weight layers") for column in columns)
    inputs = tuple(
        _plain(*(f"{name} {shown(type)}" for name, type in column.summary.inputs))
        for column in columns
    )
    return [_row("", "", layers, "head"), _row("", "", inputs, "head")]


def _foot(columns: Sequence[Configuration]) -> list[TableRow]:
    totals = [column.summary.total for column in columns]
    parameters = tuple(_plain(counted(total.parameters)) for total in totals)
    macs = tuple(_plain(counted(total.macs)) for total in totals)
    return [
        TableRow("", "parameters", parameters, False, "foot"),
        TableRow("", "multiply-adds", macs, False, "foot"),
    ]


def _plain(*lines: str) -> Cell:
    return (Entry(lines),) if lines else ()


def _row(name: str, size: str, cells: tuple[Cell, ...], kind: Literal["head", "body"]) -> TableRow:
    spans = len(set(cells)) == 1
    return TableRow(name, size, cells[:1] if spans else cells, spans, kind)


def _keys(columns: Sequence[Configuration]) -> list[tuple[tuple[int, ...], int]]:
    """The stages of all networks in one order, those of the same size in line."""
    merged = [stage.key for stage in columns[0].stages]
    for column in columns[1:]:
        other = [stage.key for stage in column.stages]
        matches = SequenceMatcher(None, merged, other, autojunk=False).get_opcodes()
        merged = [
            key
            for tag, a, b, c, d in matches
            for key in merge(merged[a:b], other[c:d] if tag != "equal" else [], key=_smallness)
        ]
    return list(dict.fromkeys(merged))


def _smallness(key: tuple[tuple[int, ...], int]) -> int:
    return -prod(key[0])


def _stage(column: Configuration, key: tuple[tuple[int, ...], int]) -> Stage | None:
    return next((stage for stage in column.stages if stage.key == key), None)


def _stage_rows(stages: Sequence[Stage | None], writer: _Writer) -> list[TableRow]:
    """The rows of a stage: a row for every chunk where all networks have the same ones."""
    present = [stage for stage in stages if stage]
    size = times(present[0].spatial) or "1×1"
    patterns = {tuple(chunk[0].is_pooling for chunk in stage.chunks) for stage in present}
    if len(patterns) > 1 or len(present) < len(stages):
        parts = [[p for chunk in stage.chunks for p in chunk] if stage else [] for stage in stages]
        return [_chunk_row(size, parts, writer)]
    chunks = list(zip(*(stage.chunks for stage in present), strict=True))
    return [
        _chunk_row(size if index == 0 else "", chunk, writer) for index, chunk in enumerate(chunks)
    ]


def _chunk_row(size: str, columns: Sequence[Sequence[Part]], writer: _Writer) -> TableRow:
    cells = [writer.cell(parts) for parts in columns]
    names = {part.name for parts in columns for part in parts} if all(columns) else set()
    row = _row(names.pop() if len(names) == 1 else "", size, tuple(cells), "body")
    if row.spans or writer.in_full or any(entry.copies for cell in cells for entry in cell):
        return row
    marked = [
        cells[0],
        *(_marked(one, other) for one, other in pairwise(cells)),
    ]
    return TableRow(row.name, row.size, tuple(marked), False)


def _marked(before: Cell, cell: Cell) -> Cell:
    """A cell in which the lines that the column before has not are bold."""
    known = [line for entry in before for line in entry.lines]
    own = [line for entry in cell for line in entry.lines]
    if not known:
        return cell
    matches = SequenceMatcher(None, known, own, autojunk=False).get_matching_blocks()
    same = {index for match in matches for index in range(match.b, match.b + match.size)}
    return tuple(
        Entry(entry.lines, 0, tuple(index not in same for index in range(len(own))))
        for entry in cell
    )


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
