"""What is said to a person about their program: sources, spans and diagnostics, and their text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal


@dataclass(frozen=True)
class Source:
    """A text that was read, with the name under which a person knows it."""

    name: str
    text: str

    @cached_property
    def _line_starts(self) -> tuple[int, ...]:
        starts = [0]
        for offset, character in enumerate(self.text):
            if character == "\n":
                starts.append(offset + 1)
        return tuple(starts)

    def position(self, offset: int) -> tuple[int, int]:
        """The 1-based line and column of a character offset."""
        low, high = 0, len(self._line_starts) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._line_starts[middle] <= offset:
                low = middle
            else:
                high = middle - 1
        return low + 1, offset - self._line_starts[low] + 1

    def line(self, number: int) -> str:
        """The text of a 1-based line, without its line break."""
        start = self._line_starts[number - 1]
        end = self._line_starts[number] if number < len(self._line_starts) else len(self.text)
        return self.text[start:end].rstrip("\r\n")


@dataclass(frozen=True)
class Span:
    """A half-open range of characters [start, end) in a source."""

    source: Source
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    def to(self, other: Span) -> Span:
        """The smallest span that covers both."""
        return Span(self.source, min(self.start, other.start), max(self.end, other.end))


Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Note:
    """A remark below a diagnostic, with the place it speaks of where there is one."""

    message: str
    span: Span | None = None


@dataclass(frozen=True)
class Diagnostic:
    """One finding: a stable code, a sentence that stands alone, and the smallest span it concerns.

    Codes: ``E0xx`` syntax, ``E1xx`` names, ``E2xx`` types and shapes, ``E3xx`` expectations,
    ``E4xx`` limits, ``E5xx`` files, data and devices, ``W...`` warnings.
    """

    code: str
    message: str
    span: Span | None = None
    notes: tuple[Note, ...] = ()
    help: tuple[str, ...] = ()
    severity: Severity = "error"

    def as_json(self) -> dict[str, object]:
        """The form that ``check --format json`` prints; lines and columns start at 1."""
        file, line, column, end_line, end_column = None, None, None, None, None
        if self.span is not None:
            file = self.span.source.name
            line, column = self.span.source.position(self.span.start)
            end_line, end_column = self.span.source.position(self.span.end)
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "file": file,
            "line": line,
            "column": column,
            "end_line": end_line,
            "end_column": end_column,
            "help": list(self.help),
        }


class CompileError(Exception):
    """Something a person can mend, told by one or more diagnostics."""

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic]) -> None:
        if isinstance(diagnostics, Diagnostic):
            diagnostics = (diagnostics,)
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        super().__init__("\n\n".join(render(d) for d in self.diagnostics))


def problem(code: str, message: str, *help: str, span: Span | None = None) -> CompileError:
    """A CompileError with a single diagnostic; for findings outside a program's text."""
    return CompileError(Diagnostic(code, message, span, help=help))


def refused(error: OSError | MemoryError) -> CompileError:
    """What the operating system refused, as a finding."""
    if isinstance(error, MemoryError):
        return problem("E500", "there is not enough memory for this")
    reason = error.strerror or str(error)
    return problem("E500", f"{error.filename}: {reason}" if error.filename else reason)


_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "mark": "\x1b[1;34m", "bold": "\x1b[1m"}


def render(diagnostic: Diagnostic, *, colour: bool = False) -> str:
    """The text shown to a person: message, source line with a caret, notes and help."""

    def paint(kind: str, text: str) -> str:
        return f"{_COLOURS[kind]}{text}\x1b[0m" if colour else text

    head = paint(diagnostic.severity, f"{diagnostic.severity}[{diagnostic.code}]")
    lines = [f"{head}: {paint('bold', diagnostic.message)}"]
    if diagnostic.span is not None:
        lines += _excerpt(diagnostic.span, "^", paint)
    for note in diagnostic.notes:
        lines.append(f"  {paint('mark', '=')} note: {note.message}")
        if note.span is not None:
            lines += _excerpt(note.span, "-", paint)
    for text in diagnostic.help:
        first, *rest = text.split("\n")
        lines.append(f"  {paint('mark', '=')} help: {first}")
        lines += [f"          {line}" for line in rest]
    return "\n".join(lines)


def _excerpt(span: Span, mark: str, paint: object) -> list[str]:
    assert callable(paint)
    line, column = span.source.position(span.start)
    text = span.source.line(line)
    # A span over several lines is marked to the end of its first one.
    length = max(1, min(span.end - span.start, len(text) - column + 1))
    gutter = " " * len(str(line))
    # Tabs are kept in the padding so that the caret stands under the same column.
    padding = "".join("\t" if c == "\t" else " " for c in text[: column - 1])
    bar = paint("mark", "|")
    return [
        f"{gutter}{paint('mark', '-->')} {span.source.name}:{line}:{column}",
        f"{gutter} {bar}",
        f"{paint('mark', str(line))} {bar} {text}",
        f"{gutter} {bar} {padding}{paint('mark', mark * length)}",
    ]


def did_you_mean(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Help lines that propose the nearest known names; empty when none is near."""
    near = nearest(name, known)
    if not near:
        return ()
    return (f"did you mean {' or '.join(f'`{n}`' for n in near)}?",)


def nearest(name: str, known: Iterable[str], count: int = 2) -> Sequence[str]:
    """The known names closest to ``name`` in spelling, best first."""
    by_folded = {k.lower(): k for k in known}
    return [by_folded[m] for m in difflib.get_close_matches(name.lower(), by_folded, count, 0.6)]
