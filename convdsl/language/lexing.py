"""What the grammar's regular expressions cannot say about tokens, and a scan for comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from lark import Token

RESERVED = frozenset(
    (
        *("net", "block", "for", "in", "if", "else", "yield", "expect", "default", "import"),
        *("input", "output", "train", "and", "or", "not"),
    )
)

DEEPEST = 100
"""How deep brackets may nest; beyond it no one reads a program, and recursion ends somewhere."""


class TooDeep(Exception):
    """Brackets nest deeper than `DEEPEST`; ``position`` is the offset of the one too many."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


_VALUE_ENDS = frozenset({"NAME", "NUMBER", "SIZE", "STRING", "IN", "RPAR", "RSQB"})


class Layout:
    """Between Lark's lexer and its parser: line ends in brackets, and minus signs.

    A newline within brackets ends no statement. A minus is a sign where no value stands before it.
    Behind a value it subtracts, unless it is set apart on the left alone (``leaky_relu -0.1``):
    then it begins an argument; in brackets, where arguments are rare, only for an op after an
    arrow.
    """

    always_accept: ClassVar[tuple[str, ...]] = ("MINUS",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        depth = braces = 0
        before = last = ""
        for token in stream:
            kind = token.type
            if kind in ("LPAR", "CALL", "LSQB", "INDEX"):
                depth += 1
            elif kind in ("RPAR", "RSQB"):
                depth -= 1
            elif kind == "LBRACE":
                braces += 1
            elif kind == "RBRACE":
                braces -= 1
            elif kind == "_SEP":
                if depth > 0 and not token.partition("\n")[0].strip():
                    continue
            elif kind == "NAME" and token in RESERVED:
                token.type = token.upper()
            elif kind in ("MINUS", "NEGATIVE"):
                apart = kind == "NEGATIVE" and (depth <= 0 or (before, last) == ("_ARROW", "NAME"))
                token.type = "NEGATIVE" if apart or last not in _VALUE_ENDS else "MINUS"
            if depth + braces > DEEPEST:
                assert token.start_pos is not None
                raise TooDeep(token.start_pos)
            before, last = last, token.type
            yield token


# -- trivia ----------------------------------------------------------------------------------

_OUTLINE = re.compile(
    r'''(?P<string>"""[\s\S]*?"""|"(?:[^"\\\n]|\\.)*")|(?P<comment>\#[^\n]*)|(?P<mark>[(){}\[\];\n])''',
    re.VERBOSE,
)


@dataclass(frozen=True)
class Mark:
    """A string, a comment, a bracket, or a character that may separate statements."""

    kind: str
    text: str
    start: int
    end: int


def outline(text: str) -> Iterator[Mark]:
    """The places that give a text its structure, however broken the rest of it is."""
    for match in _OUTLINE.finditer(text):
        kind = match.lastgroup or ""
        yield Mark(kind, match.group(), match.start(), match.end())
