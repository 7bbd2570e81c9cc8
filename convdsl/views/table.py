"""Lays out tables of text: aligned for a terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A heading, and the side to which the cells under it are aligned."""

    heading: str
    right: bool = False


Rows = Sequence[tuple[str, ...] | None]
"""Cells for every column; None is a rule across the table."""


def text_table(columns: Sequence[Column], rows: Rows) -> str:
    """Columns two spaces apart under their headings."""
    cells = [row for row in rows if row is not None]
    widths = [
        max(len(text) for text in (column.heading, *(row[index] for row in cells)))
        for index, column in enumerate(columns)
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))

    def line(row: Sequence[str]) -> str:
        fields = zip(row, widths, columns, strict=True)
        shown = [text.rjust(w) if c.right else text.ljust(w) for text, w, c in fields]
        return "  ".join(shown).rstrip()

    body = [rule if row is None else line(row) for row in rows]
    return "\n".join([line([column.heading for column in columns]), rule, *body])


def markdown_table(columns: Sequence[Column], rows: Rows) -> str:
    """The same in Markdown; rules are left out, since it has none."""

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in row) + " |"

    marks = ["---:" if column.right else "---" for column in columns]
    body = [line(row) for row in rows if row is not None]
    return "\n".join([line([column.heading for column in columns]), line(marks), *body])
