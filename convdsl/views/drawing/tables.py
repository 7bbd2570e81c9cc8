"""The rows and columns of configuration tables: what the blocks style, and its Markdown, show."""

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
from convdsl.views.summary import Summary

MOST_LINES = 24
"""Cells with more lines than that have their repeats as units."""


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
