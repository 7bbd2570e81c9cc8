"""Says what is wrong where the parser stopped, and which part to leave out to read on."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from convdsl.diagnostics import Diagnostic, Note, Source, Span
from convdsl.language.lexing import RESERVED, Mark, outline

Region = tuple[int, int]

_OPENING = {"(": ")", "[": "]", "{": "}"}
_CLOSING = {close: open for open, close in _OPENING.items()}

_VALUE = "a value"
_AFTER = {
    "@": "a window such as `3x3`",
    "/": "a stride such as `2`",
    "->": "an op, a block or a value",
    "=": _VALUE,
    "==": _VALUE,
    "!=": _VALUE,
    "<": _VALUE,
    ">": _VALUE,
    "<=": _VALUE,
    ">=": _VALUE,
    "+": _VALUE,
    "-": _VALUE,
    "*": _VALUE,
    "**": _VALUE,
    "//": _VALUE,
    "%": _VALUE,
    "and": _VALUE,
    "or": _VALUE,
    "not": _VALUE,
    "..": "the end of the range",
    "=>": "the condition of the predicate",
    "~": "a number",
    "net": "the network's name",
    "block": "the block's name",
    "for": "the name of the variable that counts",
    "if": "a condition",
    "else": "`{` or `if`",
    "yield": "the value to yield",
    "expect": "a shape such as `6@28x28`, or a quantity such as `params=156`",
    "default": "the name of an op",
    "train": "`{`",
    "import": "a file name in double quotes",
    "input": "a type such as `3@224x224`",
    "output": "the output's name and a colon",
    ".": "`c`, `d`, `h`, `w`, `rank` or `size`",
    ":": "an op, a block or a value",
}

_LOOKALIKES = {
    "×": "`x` stands between sizes: `3x3`",
    "−": "the minus sign is `-`",
    "–": "the minus sign is `-`",
    "→": "an arrow is written `->`",
    "“": 'strings stand in plain double quotes: `"`',
    "”": 'strings stand in plain double quotes: `"`',
    "'": 'strings stand in double quotes: `"`',
    "^": "a power is written `**`",
    "&": "both conditions: `and`",
    "|": "one of two conditions: `or`",
    "!": "a condition is turned round by `not`",
    "\\": "a statement goes on in the next line after `->`, `,` or an operator",
}

_HINTS = {
    "/": "whole numbers are divided by `//`",
    "-": "a difference has a space on both sides of its minus: `a - b`",
    ":": "a label is one name at the beginning of a statement: `C1: conv 6@5x5`",
    "=": "`name = ...` names a value, `name: ...` labels a layer, `==` compares",
    "==": "`name = ...` names a value, `name: ...` labels a layer, `==` compares",
    ".": "members are those of a tensor: `in.c`, `x.h`",
    "->": "an arrow stands between two steps",
    ",": "arguments have spaces between them: `conv 6@5x5 pad=2`",
    "expect": "`expect` stands once, after a statement or a network",
}

_WORDS = re.compile(r"\w+|->|=>|\.\.|\*\*|//|[=!<>]=|\S")


def explain(error: Any, text: str, source: Source) -> tuple[Diagnostic, Region | None]:
    """A diagnostic for Lark's error, and the region to leave out; None where that cannot help."""
    token = getattr(error, "token", None)
    ended = token is not None and token.type == "$END"
    position = len(text) if ended else error.pos_in_stream if token is None else token.start_pos
    place = _Place(source, text, position, ended, frozenset(getattr(error, "accepts", None) or ()))
    finding = (
        place.unclosed()
        or place.bracket()
        or place.character()
        or place.dangling()
        or place.at_top()
        or place.token()
    )
    return finding, place.region(finding)


def without(text: str, region: Region) -> str:
    """The text with a region blank, except for line ends and braces; offsets stay."""
    start, end = region
    return text[:start] + re.sub(r"[^\n{}]", " ", text[start:end]) + text[end:]


@dataclass(frozen=True)
class _Place:
    """Where the parser stopped; ``text`` lacks the statements that were left out before."""

    source: Source
    text: str
    position: int
    ended: bool
    accepts: frozenset[str]

    # -- what was found ----------------------------------------------------------------------
    @property
    def word(self) -> str:
        """The word or sign at the place."""
        match = _WORDS.match(self.text, self.position)
        return match.group() if match and not self.at_line_end else ""

    @property
    def at_line_end(self) -> bool:
        return self.ended or self.text[self.position] in "\n;"

    @property
    def before(self) -> str:
        """The word or sign before the place, comments left out."""
        end = self._end_of_word_before()
        words = _WORDS.findall(self.text[max(0, end - 80) : end])
        return words[-1] if words else ""

    def _end_of_word_before(self) -> int:
        """Where the word or sign before the place ends."""
        comments = [m for m in outline(self.text[: self.position]) if m.kind == "comment"]
        end = len(self.text[: self.position].rstrip())
        while comments and comments[-1].start + len(comments[-1].text.rstrip()) == end:
            end = len(self.text[: comments.pop().start].rstrip())
        return end

    def span(self) -> Span:
        if not self.ended:
            return Span(self.source, self.position, self.position + max(1, len(self.word)))
        end = len(self.text.rstrip())
        return Span(self.source, end, end)

    def open_brackets(self) -> list[Mark]:
        """The brackets that are open at the place, outermost first."""
        found: list[Mark] = []
        for mark in outline(self.text):
            if mark.start >= self.position:
                break
            if mark.text in _OPENING:
                found.append(mark)
            elif found and mark.text in _CLOSING and _OPENING[found[-1].text] == mark.text:
                found.pop()
        return found

    # -- messages ----------------------------------------------------------------------------
    def unclosed(self) -> Diagnostic | None:
        """A bracket that is open where its statement must have ended, or the file did."""
        brackets = self.open_brackets()
        if not brackets:
            return None
        last = brackets[-1]
        inside = last.text in "(["
        line_began = self.text[: self.position].rstrip(" \t").endswith("\n")
        runaway = inside and (
            self.ended or self.word in "{}" or self.word in RESERVED - {"in", "if"} or line_began
        )
        if not (runaway or (self.ended and last.text == "{")):
            return None
        if runaway and self.word in _CLOSING and self.word != "}":
            return None
        span = Span(self.source, last.start, last.end)
        return Diagnostic("E003", f"this `{last.text}` is never closed", span)

    def bracket(self) -> Diagnostic | None:
        """A closing bracket that closes nothing, or the wrong one."""
        if self.word not in _CLOSING:
            return None
        brackets = self.open_brackets()
        if brackets and _OPENING[brackets[-1].text] == self.word:
            return None
        message = f"this `{self.word}` closes nothing"
        notes: tuple[Note, ...] = ()
        if brackets and brackets[-1].text in "([":
            last = brackets[-1]
            message = f"expected `{_OPENING[last.text]}`, found `{self.word}`"
            notes = (Note("opened here", Span(self.source, last.start, last.end)),)
        return Diagnostic("E003", message, self.span(), notes)

    def character(self) -> Diagnostic | None:
        """A character or a literal that is no part of the language."""
        if self.at_line_end:
            return None
        rest = self.text[self.position :]
        if rest[0] == '"' and not re.match(r'"""[\s\S]*?"""|"([^"\\\n]|\\.)*"', rest):
            span = Span(self.source, self.position, self.position + 1)
            return Diagnostic("E001", "this string has no end", span, help=_string_help(rest))
        literal = re.match(r"\d\w*", rest)
        if literal and not _LITERAL.match(rest):
            span = Span(self.source, self.position, self.position + literal.end())
            return Diagnostic(
                "E001", f"`{literal[0]}` is not a number", span, help=_number_help(literal[0])
            )
        if re.match(r"[\w\"(){}\[\]@/=~:;,.+\-*%<>#]|!=", rest):
            return None
        shown = rest[0] if rest[0].isprintable() else f"U+{ord(rest[0]):04X}"
        help = (_LOOKALIKES[rest[0]],) if rest[0] in _LOOKALIKES else ()
        span = Span(self.source, self.position, self.position + 1)
        return Diagnostic("E001", f"the character `{shown}` has no meaning here", span, help=help)

    def dangling(self) -> Diagnostic | None:
        """A line that ends too early, so that the next statement became a part of it."""
        line = self.text.rfind("\n", 0, self.position) + 1
        begins_statement = re.fullmatch(r"\s*\w+\s*", self.text[line : self.position])
        if self.word not in ("=", ":") or not begins_statement:
            return None
        earlier = replace(self, position=line)
        end = earlier._end_of_word_before()
        if earlier.before not in _AFTER or "\n" not in self.text[end:line]:
            return None
        message = f"expected {_AFTER[earlier.before]} after `{earlier.before}`"
        return self._error(message, Span(self.source, end, end))

    def at_top(self) -> Diagnostic | None:
        """A statement that belongs in a body, at the top of the file."""
        if any(b.text == "{" for b in self.open_brackets()) or self.before in ("", "}", *_AFTER):
            return None
        head = self._head()
        if not head.text.isidentifier() or head.text in RESERVED:
            return None
        return self._error("a layer stands in a network or a block", head)

    def token(self) -> Diagnostic:
        """A word or a sign that cannot stand here."""
        word, before = self.word, self.before
        found = f", found `{word}`" if word else ""
        if self._is_misused_keyword(word):
            return Diagnostic(
                "E004", f"`{word}` is a word of the language and cannot be a name", self.span()
            )
        if before == "in" and self._heads("for"):
            return self._expected("a range such as `0..4`, or a list,", before, found)
        if before == ":" and not self._is_statement_colon():
            return self._expected("a type such as `int` or `block`", before, found)
        if before in _AFTER:
            return self._expected(_AFTER[before], before, found)
        if before in ("(", "[", ","):
            return self._expected("a value", before, found)
        return self._by_what_fits(word, before, found)

    def _by_what_fits(self, word: str, before: str, found: str) -> Diagnostic:
        """Told from what the parser would have accepted."""
        fits, fresh = self.accepts, self._is_fresh()
        if word == "else":
            return self._error("`else` stands behind the closing brace of an `if`", self.span())
        if fits and fits <= {"NAME", "RBRACE", "_SEP", "MINUS"}:
            return self._expected("a name", before, found)
        if {"EQUAL", "ABOUT"} <= fits:
            return self._expected("`=` or `~`", before, found)
        if "COMMA" in fits and fits & {"RPAR", "RSQB"} and before not in ",([":
            close = "`)`" if "RPAR" in fits else "`]`"
            return self._expected(f"`,` or {close}", before, found)
        if "IN" in fits and self._heads("for"):
            return self._expected("`in`", before, found)
        if "LBRACE" in fits and not fresh and fits.isdisjoint({"_SEP", "_ARROW"}):
            return self._expected("`{`", before, found)
        if not word:
            return self._expected("more", before, "")
        if fresh:
            return self._error(f"`{word}` cannot begin a statement", self.span(), *self._hint(word))
        where = f" after `{before}`" if before not in ("{", "}", ";", "") else " here"
        return self._error(f"`{word}` cannot stand{where}", self.span(), *self._hint(word))

    def _expected(self, what: str, before: str, found: str) -> Diagnostic:
        """At the place, or where the line before it ends if the place is on the next one."""
        end = self._end_of_word_before()
        if "\n" in self.text[end : self.position] or self.ended:
            span = Span(self.source, end, end)
            return self._error(f"expected {what} after `{before}`", span)
        help = (_HINTS["-"],) if self.word == "-" else ()
        return self._error(f"expected {what} after `{before}`{found}", self.span(), *help)

    @staticmethod
    def _error(message: str, span: Span, *help: str) -> Diagnostic:
        return Diagnostic("E002", message, span, help=help)

    # -- where it stands ---------------------------------------------------------------------
    def _head(self) -> Span:
        """The first word of the statement."""
        start, _ = self._statement(self.position)
        match = _WORDS.search(self.text, start)
        begin, end = match.span() if match else (self.position, self.position)
        if begin == self.position:  # the statement before it has no end yet
            begin = self.text.rfind("\n", 0, self._end_of_word_before()) + 1
            match = _WORDS.search(self.text, begin)
            begin, end = match.span() if match else (begin, begin)
        return Span(self.source, begin, end)

    def _is_fresh(self) -> bool:
        """Whether the place is the beginning of a statement."""
        if self.ended:
            return False
        start, _ = self._statement(self.position)
        return not re.sub(r"#[^\n]*", "", self.text[start : self.position]).strip()

    def _is_misused_keyword(self, word: str) -> bool:
        if word not in RESERVED or word in ("expect", "else"):
            return False
        follows = self.text[self.position + len(word) :].lstrip(" \t")[:1]
        named = self._is_fresh() and follows in (":", "=")
        return named or self.before in _NAMING or ("NAME" in self.accepts and not self._is_fresh())

    def _is_statement_colon(self) -> bool:
        """Whether the colon before the place belongs to a label, and not to a parameter."""
        return not any(b.text == "(" for b in self.open_brackets())

    def _heads(self, keyword: str) -> bool:
        """Whether the statement begins with a keyword."""
        start, _ = self._statement(self.position)
        return self.text[start : self.position].split()[:1] == [keyword]

    def _hint(self, word: str) -> tuple[str, ...]:
        if word == "//" and self._is_fresh():
            return ("a comment begins with `#`",)
        if word in _HINTS:
            return (_HINTS[word],)
        return ("a statement ends with its line or with `;`",) if "_SEP" in self.accepts else ()

    # -- reading on --------------------------------------------------------------------------
    def region(self, finding: Diagnostic) -> Region | None:
        """What to leave out: the statement, or the rest of the line of an unclosed bracket."""
        assert finding.span is not None
        if self.ended and finding.code == "E003" and finding.span.text == "{":
            return None
        # The finding may stand before the place, where a statement had no end.
        position = min(finding.span.start, self.position, max(len(self.text) - 1, 0))
        whole = finding.code != "E003"
        for at in (position, self.position):
            start, end = self._statement(at, whole)
            if re.sub(r"[\s{}]", "", self.text[start:end]):
                return start, end
        return None

    def _statement(self, position: int, whole: bool = True) -> Region:
        """The statement around an offset: up to separators, braces and the ends of lines.

        Where ``whole``, lines that brackets hold together belong to it.
        """
        start, end, depth = 0, len(self.text), 0
        for mark in outline(self.text):
            if mark.kind != "mark":
                continue
            if mark.text in "()[]":
                depth += 1 if mark.text in "([" else -1 if depth else 0
                continue
            if mark.text in "{}":
                depth = 0
            held = depth > 0 and whole
            goes_on = held or _CONTINUES.match(self.text, mark.end) is not None
            if mark.text == "\n" and goes_on:
                continue
            if mark.end <= position:
                start, depth = mark.end, 0
            elif mark.start >= position:
                end = mark.start
                break
        return start, end


_LITERAL = re.compile(r"(\d[\d_]*(\.\d[\d_]*)?([eE][+-]?\d+)?[KMGT]?|\d+(x\d+)+)(?!\w)")
_NAMING = frozenset({"net", "block", "for", "output", "default", "."})
_CONTINUES = re.compile(r"(?:\s|#[^\n]*\n)*(?:->|expect\b|else\b)")


def _string_help(rest: str) -> tuple[str, ...]:
    if rest.startswith('"""'):
        return ('it began with `"""` and ends with `"""`',)
    return ('a string over several lines stands in `"""`',)


def _number_help(literal: str) -> tuple[str, ...]:
    if re.match(r"\d+[xX]", literal):
        return ("a size is written `3x3`; with expressions, `(a)x(b)`",)
    if re.match(r"\d+[kmgt]$", literal):
        return (f"the suffixes are K, M, G and T: `{literal[:-1]}{literal[-1].upper()}`",)
    return ("names begin with a letter",)
