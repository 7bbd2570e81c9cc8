"""The formatter: the canonical layout of a file, comments kept.

A statement stands on a line, bodies are indented by two spaces, `expect` is aligned between blank
lines, a flow that is too long is broken before its arrows. Blank lines and bodies on one line stay
as the author set them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from convdsl.diagnostics import Source, Span
from convdsl.language import printing, syntax
from convdsl.language.parsing import parse

WIDTH = 100
INDENT = "  "
FARTHEST = 72
"""The column up to which `expect` is aligned; longer lines have it directly behind them."""


def format_text(source: Source) -> str:
    """The text in canonical layout. Raises CompileError where it does not parse."""
    return render(parse(source), True)


def render(file: syntax.File, comments: bool) -> str:
    """A file as text: with all comments of its source, or with the documentation alone."""
    printer = _Printer(list(file.comments) if comments else None)
    whole = Span(file.source, 0, len(file.source.text) + 1)
    entries = printer.entries(file.items, whole)
    if not comments:
        _separate(entries)
    return "".join(f"{line}\n" for line in _layout(entries, WIDTH))


@dataclass
class _Entry:
    """A statement, or a comment on lines of its own; ``first`` and ``last`` are source lines."""

    lines: list[str]
    first: int
    last: int
    claims: str = ""
    trailing: list[str] = field(default_factory=list)
    apart: bool = False
    """Whether a blank line goes before it."""
    documents: bool = False


class _Printer:
    """Prints statements; ``comments`` are those not yet printed, or None to print documentation."""

    def __init__(self, comments: list[syntax.Comment] | None) -> None:
        self.comments = comments
        self.width = WIDTH
        """Columns that are left at the current depth."""

    # -- bodies ------------------------------------------------------------------------------
    def entries(self, statements: Sequence[syntax.Statement], span: Span) -> list[_Entry]:
        """The statements of a body with the comments between them."""
        found: list[_Entry] = []
        for statement in statements:
            found += self._comments(statement.span.start)
            inner = self._hoisted(statement)
            entry = self._statement(statement)
            found += [*self._documentation(statement), *inner, entry]
            self._trail(entry, statement.span)
        found += self._comments(span.end)
        if self.comments is not None:
            self._blank_lines(found)
        return found

    def _documentation(self, statement: syntax.Statement) -> list[_Entry]:
        """The documentation as comments, where comments are not kept."""
        if self.comments is not None or not statement.documentation:
            return []
        lines = [f"## {line}".rstrip() for line in statement.documentation.split("\n")]
        return [_Entry(lines, 0, 0, documents=True)]

    def _take(self, end: int) -> list[syntax.Comment]:
        """The comments before an offset, which are then printed."""
        if not self.comments:
            return []
        count = next(
            (i for i, c in enumerate(self.comments) if c.span.start >= end), len(self.comments)
        )
        taken, self.comments = self.comments[:count], self.comments[count:]
        return taken

    def _comments(self, end: int) -> list[_Entry]:
        return [_comment(c) for c in self._take(end)]

    def _hoisted(self, statement: syntax.Statement) -> list[_Entry]:
        """Comments within a statement but outside of its bodies, which go before it."""
        if not self.comments:
            return []
        bodies = _bodies(statement)
        within = [
            c
            for c in self.comments
            if c.span.start < statement.span.end
            and not any(b.span.start <= c.span.start < b.span.end for b in bodies)
        ]
        self.comments = [c for c in self.comments if c not in within]
        return [_comment(c, hoisted=True) for c in within]

    def _trail(self, entry: _Entry, span: Span) -> None:
        """Put the comment that follows on the statement's last line behind it."""
        if not self.comments or self.comments[0].alone:
            return
        between = span.source.text[span.end : self.comments[0].span.start]
        if "\n" not in between and not between.strip(" \t;"):
            entry.trailing.append(_text(self.comments.pop(0)))

    @staticmethod
    def _blank_lines(entries: list[_Entry]) -> None:
        previous: _Entry | None = None
        for entry in entries:
            gap = previous is not None and entry.first > previous.last + 1
            entry.apart = gap and entry.first > 0
            previous = entry

    def _body(self, head: str, body: syntax.Body) -> list[str]:
        """A head and its body, on one line where the author had it so and it fits."""
        held = self.comments and any(
            body.span.start <= c.span.start < body.span.end for c in self.comments
        )
        start = f"{head} {{"
        if not held and "\n" not in body.span.text:
            line = self._one_line(head, body)
            if line is not None:
                return [line]
        if not body.statements and not held:
            return [start + "}"]
        first = self.comments[0] if held and self.comments else None
        opening = body.span.source.text[body.span.start + 1 : first.span.start] if first else "\n"
        if self.comments and not opening.strip(" \t"):
            start += "  " + _text(self.comments.pop(0))
        self.width -= len(INDENT)
        inside = _layout(self.entries(body.statements, body.span), self.width)
        self.width += len(INDENT)
        return [start, *(INDENT + line if line else "" for line in inside), "}"]

    def _one_line(self, head: str, body: syntax.Body) -> str | None:
        if not body.statements:
            return f"{head} {{}}"
        if self.comments is None and any(s.documentation for s in body.statements):
            return None
        parts: list[str] = []
        for statement in body.statements:
            entry = self._statement(statement)
            if len(entry.lines) > 1:
                return None
            parts.append("  ".join(filter(None, [entry.lines[0], entry.claims])))
        line = f"{head} {{ {'; '.join(parts)} }}"
        return line if len(line) <= self.width and "\n" not in line else None

    # -- statements --------------------------------------------------------------------------
    def _statement(self, statement: syntax.Statement) -> _Entry:
        source = statement.span.source
        first = source.position(statement.span.start)[0]
        last = source.position(max(statement.span.end - 1, statement.span.start))[0]
        lines = self._lines(statement)
        claims = printing.claims(getattr(statement, "claims", ()))
        if isinstance(statement, syntax.Net) and claims:
            lines[-1] += f" {claims}"
            claims = ""
        return _Entry(lines, first, last, claims)

    def _lines(self, statement: syntax.Statement) -> list[str]:
        match statement:
            case syntax.Layer(label=label, flow=flow):
                return _flow(f"{label.text}: " if label else "", flow, self.width)
            case syntax.Definition(names=names, flow=flow):
                return _flow(f"{', '.join(n.text for n in names)} = ", flow, self.width)
            case syntax.Output(name=name, flow=flow):
                return _flow(f"output {name.text}: ", flow, self.width)
            case syntax.Yield(flows=flows):
                if len(flows) == 1:
                    return _flow("yield ", flows[0], self.width)
                return ["yield " + ", ".join(map(printing.flow, flows))]
            case syntax.Input(name=name, arguments=given):
                head = f"input {name.text}: " if name else "input "
                return [head + " ".join(printing.arguments(given))]
            case syntax.Default(op=op, arguments=given):
                inside = ", ".join(printing.arguments(given))
                return [
                    f"default {op.text} {{ {inside} }}" if inside else f"default {op.text} {{}}"
                ]
            case syntax.Train(arguments=given):
                return self._train(given)
            case syntax.For(variable=variable, values=values, body=body):
                return self._body(f"for {variable.text} in {printing.expression(values)}", body)
            case syntax.If():
                return self._if(statement)
        return self._item(statement)

    def _train(self, given: Sequence[syntax.Argument]) -> list[str]:
        """Settings on one line, or where they do not fit, one a line."""
        settings = printing.arguments(given, tight=False)
        if not settings:
            return ["train {}"]
        line = f"train {{ {', '.join(settings)} }}"
        if len(line) <= self.width and "\n" not in line:
            return [line]
        return ["train {", *(INDENT + setting for setting in settings), "}"]

    def _item(self, item: syntax.Statement) -> list[str]:
        match item:
            case syntax.Version(number=number):
                return [f"cnn {number.text}"]
            case syntax.Import(path=path):
                return [f"import {path.span.text}"]
            case syntax.Block(name=name, parameters=parameters, body=body):
                return self._body(f"block {name.text}{printing.parameters(parameters)}", body)
            case syntax.Net(name=name, parameters=parameters, body=body):
                return self._body(f"net {name.text}{printing.parameters(parameters)}", body)
            case syntax.Instance(name=name, base=base, arguments=given):
                inside = ", ".join(printing.arguments(given, tight=False))
                return [f"net {name.text} = {base.text}({inside})"]
        raise TypeError(type(item).__name__)

    def _if(self, statement: syntax.If) -> list[str]:
        lines = self._body(f"if {printing.expression(statement.condition)}", statement.then)
        otherwise = statement.otherwise
        if otherwise is None:
            return lines
        if isinstance(otherwise, syntax.If):
            rest = self._if(otherwise)
            rest[0] = f"else {rest[0]}"
        else:
            rest = self._body("else", otherwise)
        joined = f"{lines[-1]} {rest[0]}"
        one_line = len(lines) == len(rest) == 1
        if one_line and (len(joined) > self.width or "\n" in statement.span.text):
            return [*lines, *rest]
        return [*lines[:-1], joined, *rest[1:]]


# -- layout ----------------------------------------------------------------------------------


def _layout(entries: list[_Entry], width: int) -> list[str]:
    """The lines of a body."""
    found: list[str] = []
    for group in _groups(entries):
        column = _expect_column(group)
        if found and group[0].apart:
            found.append("")
        for entry in group:
            found += _lines(entry, column, width)
    return found


def _groups(entries: list[_Entry]) -> Iterator[list[_Entry]]:
    """The entries between blank lines."""
    group: list[_Entry] = []
    for entry in entries:
        if entry.apart and group:
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def _lines(entry: _Entry, column: int, width: int) -> list[str]:
    """The lines of an entry, with `expect` at a column where that is possible."""
    lines = list(entry.lines)
    if entry.claims:
        room = width - _width(lines[-1]) - len(entry.claims)
        gap = max(2, column - _width(lines[-1]))
        if room >= 2:
            lines[-1] += " " * (gap if gap <= room else 2) + entry.claims
        else:
            lines.append(INDENT + entry.claims)
    if entry.trailing:
        lines[-1] += "  " + " ".join(entry.trailing)
    return lines


def _separate(entries: list[_Entry]) -> None:
    """A blank line before every definition of more than one line, its documentation included."""
    for previous, entry in pairwise(entries):
        documented = previous.documents
        starts = entry.documents or (not documented and len(entry.lines) > 1)
        entry.apart = starts or (not documented and len(previous.lines) > 1)


def _expect_column(entries: list[_Entry]) -> int:
    widths = [_width(e.lines[-1]) for e in entries if e.claims and "\n" not in e.lines[-1]]
    return max((w for w in widths if w <= FARTHEST), default=0) + 2


def _width(line: str) -> int:
    """The length of the last line of a text: a string may span several."""
    return len(line) - line.rfind("\n") - 1


def _flow(head: str, flow: syntax.Flow, width: int) -> list[str]:
    """A flow on one line, or broken before its arrows where it is too long."""
    steps = printing.steps(flow)
    if flow.parenthesised:
        return [head + printing.expression(flow)]
    whole = head + " -> ".join(steps)
    if max(map(len, whole.split("\n"))) <= width or len(steps) == 1:
        return [whole]
    lines, current = [], head + steps[0]
    for step in steps[1:]:
        longer = f"{current} -> {step}"
        if _width(longer) > width:
            lines.append(current)
            longer = f"{INDENT}-> {step}"
        current = longer
    return [*lines, current]


def _comment(comment: syntax.Comment, hoisted: bool = False) -> _Entry:
    line = comment.span.source.position(comment.span.start)[0]
    return _Entry([_text(comment, hoisted)], 0 if hoisted else line, line)


def _text(comment: syntax.Comment, hoisted: bool = False) -> str:
    """The comment; one that documents nothing where it stood must not begin to where it goes."""
    text = comment.span.text
    return "#" + text.lstrip("#") if hoisted and text.startswith("##") else text


def _bodies(statement: syntax.Statement) -> list[syntax.Body]:
    match statement:
        case syntax.Block(body=body) | syntax.Net(body=body) | syntax.For(body=body):
            return [body]
        case syntax.If(then=then, otherwise=otherwise):
            rest = _bodies(otherwise) if isinstance(otherwise, syntax.If) else [otherwise]
            return [then, *(b for b in rest if b is not None)]
    return []
