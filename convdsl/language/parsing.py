"""From text to the syntax tree, or to all syntax errors that can be found in one reading."""

from __future__ import annotations

import re
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

from convdsl import resources
from convdsl.diagnostics import CompileError, Diagnostic, Source, Span
from convdsl.language import syntax
from convdsl.language.lexing import DEEPEST, Layout, TooDeep
from convdsl.language.reading import Reader

if TYPE_CHECKING:
    from lark import Lark

MOST_ERRORS = 20
MOST_TEXT = 400_000
"""Characters that are parsed again after errors, all in all: keeps large files quick."""

_VERSION = re.compile(r"\ufeff?(?:\s|#[^\n]*)*cnn[ \t]+(\S+)")

_lock = Lock()
"""The reader knows one source at a time."""


def parse(source: Source) -> syntax.File:
    """The syntax tree of a source. Raises CompileError with every syntax error found."""
    _check_version(source)
    with _lock:
        file, findings = _parse(source)
    if findings:
        findings.sort(key=lambda d: d.span.start if d.span else 0)
        raise CompileError(findings)
    assert file is not None
    return file


@cache
def grammar() -> tuple[Lark, Reader]:
    """Lark's parser for the language, and the reader that it calls.

    The parser's tables come from the cache, where there are some.
    """
    from lark import Lark

    reader = Reader()
    parser = Lark(
        resources.grammar_path("cnn").read_text(encoding="utf-8"),
        parser="lalr",
        lexer="contextual",
        postlex=Layout(),
        transformer=reader,
        maybe_placeholders=False,
        cache=_cache_file() or False,
    )
    return parser, reader


def _cache_file() -> str | None:
    """Where Lark keeps the tables (it checks by itself that they belong to the grammar)."""
    try:
        folder = resources.cache_directory()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return str(folder / "grammar.lark")


def _parse(source: Source) -> tuple[syntax.File | None, list[Diagnostic]]:
    """Reads again and again, each time without the statement where the parser stopped."""
    from lark.exceptions import UnexpectedInput

    from convdsl.language import mistakes

    parser, reader = grammar()
    reader.begin(source)
    findings: list[Diagnostic] = []
    text = source.text.replace("\ufeff", " ", 1) if source.text[:1] == "\ufeff" else source.text
    budget = MOST_TEXT
    while True:
        try:
            reader.findings.clear()
            file: Any = parser.parse(text)
            # What was left out before leaves gaps that would be complained of.
            return file, findings or reader.findings
        except UnexpectedInput as error:
            finding, region = mistakes.explain(error, text, source)
        except TooDeep as error:
            span = Span(source, error.position, error.position + 1)
            message = f"brackets nest more than {DEEPEST} deep"
            return None, [*findings, Diagnostic("E403", message, span)]
        except RecursionError:
            span = Span(source, 0, 0)
            return None, [*findings, Diagnostic("E403", "an expression nests too deeply", span)]
        findings.append(finding)
        budget -= len(text)
        if region is None or len(findings) == MOST_ERRORS or budget < 0:
            return None, findings
        text = mistakes.without(text, region)


def _check_version(source: Source) -> None:
    match = _VERSION.match(source.text)
    if match and match[1] != "1" and not match[1].startswith(("1;", "1#", "=", ":")):
        raise CompileError(
            Diagnostic(
                "E005",
                f"this file is written in version {match[1]} of the language, which is not known",
                Span(source, *match.span(1)),
                help=("this compiler reads version 1: `cnn 1`",),
            )
        )
