"""Makes the syntax tree while Lark's parser reads: what a rule of the grammar becomes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from convdsl.diagnostics import Diagnostic, Source, Span
from convdsl.language import syntax
from convdsl.language.lexing import outline

LARGEST = 1 << 63
"""Numbers from here on are refused."""

_SUFFIXES = {"K": 3, "M": 6, "G": 9, "T": 12}
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


def number(text: str) -> int | float:
    """The value of a number as written: ``1_000``, ``0.5``, ``1e-5``, ``11.7M``."""
    digits = text.replace("_", "")
    shift = _SUFFIXES.get(digits[-1], 0)
    digits = digits.rstrip("KMGT")
    if shift == 0:
        return int(digits) if digits.isdigit() else float(digits)
    whole, _, fraction = digits.partition(".")
    if not (whole + fraction).isdigit() or len(fraction) > shift:
        return float(digits) * float(10**shift)
    return int(whole + fraction) * int(10 ** (shift - len(fraction)))


def _comments(source: Source) -> tuple[syntax.Comment, ...]:
    found = []
    for mark in outline(source.text):
        if mark.kind == "comment":
            line_start = source.text.rfind("\n", 0, mark.start) + 1
            alone = not source.text[line_start : mark.start].strip()
            end = mark.start + len(mark.text.rstrip())
            found.append(syntax.Comment(Span(source, mark.start, end), alone))
    return tuple(found)


@dataclass(frozen=True)
class _Part(syntax.Node):
    """What is no node by itself: parameters, or the claims of an `expect`."""

    items: tuple[Any, ...]


class Reader:
    """Has a method for every rule of the grammar, which Lark calls with the rule's parts in order.

    Parts are tokens (strings with offsets) and what rules have become. `begin` comes first.
    """

    def __init__(self) -> None:
        self.begin(Source("", ""))

    def __getattr__(self, rule: str) -> Callable[[list[Any]], Any]:
        # Rules have names such as `if`, which no method can have.
        if rule.startswith("_"):
            raise AttributeError(rule)
        method: Callable[[list[Any]], Any] = getattr(self, f"_{rule}")
        return method

    def begin(self, source: Source) -> None:
        """Read this source from now on."""
        self.source = source
        self.findings: list[Diagnostic] = []
        self.comments = _comments(source)
        self.documentation = {
            source.position(c.span.start)[0]: c.span.text.lstrip("#").strip()
            for c in self.comments
            if c.alone and c.documents
        }

    # -- helpers -----------------------------------------------------------------------------
    def _span(self, parts: Sequence[Any]) -> Span:
        first, last = parts[0], parts[-1]
        # Lark's tokens are strings that know where they stood.
        start = first.span.start if isinstance(first, syntax.Node) else first.start_pos
        end = last.span.end if isinstance(last, syntax.Node) else last.end_pos
        return Span(self.source, start, end)

    def _named(self, token: Any) -> syntax.Name:
        return syntax.Name(Span(self.source, token.start_pos, token.end_pos), str(token))

    def _complain(self, code: str, message: str, span: Span, *help: str) -> None:
        self.findings.append(Diagnostic(code, message, span, help=help))

    def _begin(self, parts: Sequence[Any]) -> tuple[Span, str]:
        """The span of a statement, and the ``##`` comments on the lines directly above.

        They document the statement that begins its line, not those that share it.
        """
        span = self._span(parts)
        if not self.documentation:
            return span, ""
        line, column = self.source.position(span.start)
        if self.source.text[span.start - column + 1 : span.start].strip():
            return span, ""
        line, found = line - 1, []
        while line in self.documentation:
            found.append(self.documentation[line])
            line -= 1
        return span, "\n".join(reversed(found))

    def _only_statements(self, statements: list[Any]) -> tuple[Any, ...]:
        """The statements; a body alone among them is a mistake."""
        for statement in statements:
            if isinstance(statement, syntax.Body):
                # Or it is what is left of a line that was left out because of another mistake.
                self._complain(
                    "E002",
                    "braces stand after `net`, `block`, `for`, `if`, `else`, `default` or `train`",
                    statement.span,
                )
        return tuple(statements)

    # -- the file ----------------------------------------------------------------------------
    def _start(self, parts: list[Any]) -> syntax.File:
        return syntax.File(self.source, self._only_statements(_nodes(parts)), self.comments)

    def _version(self, parts: list[Any]) -> syntax.Version:
        word, text = parts
        if word != "cnn":
            message = f"`{word}` does not begin anything at the top of a file"
            self._complain("E002", message, self._span([word]))
        return syntax.Version(*self._begin(parts), self._number([text]))

    def _import(self, parts: list[Any]) -> syntax.Import:
        return syntax.Import(*self._begin(parts), self._string(parts[1:]))

    def _block(self, parts: list[Any]) -> syntax.Block:
        name, (*parameters, body) = parts[1], _nodes(parts)
        items = parameters[0].items if parameters else ()
        return syntax.Block(*self._begin(parts), self._named(name), items, body)

    def _net(self, parts: list[Any]) -> syntax.Net:
        name, claims = parts[1], _claims(parts)
        (*parameters, body) = _nodes(parts[:-1] if claims else parts)
        items = parameters[0].items if parameters else ()
        return syntax.Net(*self._begin(parts), self._named(name), items, body, claims)

    def _instance(self, parts: list[Any]) -> syntax.Instance:
        name, base, claims = parts[1], parts[3], _claims(parts)
        arguments = tuple(p for p in parts if isinstance(p, syntax.Argument))
        named = self._named(name), self._named(base)
        return syntax.Instance(*self._begin(parts), *named, arguments, claims)

    def _parameters(self, parts: list[Any]) -> _Part:
        return _Part(self._span(parts), tuple(_nodes(parts)))

    def _parameter(self, parts: list[Any]) -> syntax.Parameter:
        name, *rest = parts
        type = rest.pop(0) if rest and isinstance(rest[0], syntax.Type) else None
        default = rest[0] if rest else None
        return syntax.Parameter(self._span(parts), self._named(name), type, default)

    def _type(self, parts: list[Any]) -> syntax.Type:
        _, name, *brackets = parts
        numbers = [int(self._number([t]).value) for t in brackets[1:-1]]
        count = numbers[0] if numbers else None
        return syntax.Type(self._span(parts[1:]), str(name), bool(brackets), count)

    # -- statements --------------------------------------------------------------------------
    def _body(self, parts: list[Any]) -> syntax.Body:
        return syntax.Body(self._span(parts), self._only_statements(_nodes(parts)))

    def _input(self, parts: list[Any]) -> syntax.Input:
        _, *rest = parts
        name = self._named(rest[0]) if rest and isinstance(rest[0], str) else None
        return syntax.Input(*self._begin(parts), name, tuple(_nodes(parts)))

    def _output(self, parts: list[Any]) -> syntax.Output:
        _, name, _, flow, *_ = parts
        return syntax.Output(*self._begin(parts), self._named(name), flow, _claims(parts))

    def _label(self, parts: list[Any]) -> syntax.Layer:
        name, flow, *_ = parts
        return syntax.Layer(*self._begin(parts), self._named(name), flow, _claims(parts))

    def _layer(self, parts: list[Any]) -> syntax.Layer:
        return syntax.Layer(*self._begin(parts), None, parts[0], _claims(parts))

    def _definition(self, parts: list[Any]) -> syntax.Definition:
        names = tuple(self._named(p) for p in parts if isinstance(p, str))
        flow = parts[len(names)]
        return syntax.Definition(*self._begin(parts), names, flow, _claims(parts))

    def _yield(self, parts: list[Any]) -> syntax.Yield:
        flows = tuple(p for p in parts if isinstance(p, syntax.Flow))
        return syntax.Yield(*self._begin(parts), flows, _claims(parts))

    def _for(self, parts: list[Any]) -> syntax.For:
        _, variable, _, values, body = parts
        return syntax.For(*self._begin(parts), self._named(variable), values, body)

    def _if(self, parts: list[Any]) -> syntax.If:
        condition, then, *otherwise = _nodes(parts)
        return syntax.If(*self._begin(parts), condition, then, otherwise[0] if otherwise else None)

    def _default(self, parts: list[Any]) -> syntax.Default:
        return syntax.Default(*self._begin(parts), self._named(parts[1]), tuple(_nodes(parts)))

    def _train(self, parts: list[Any]) -> syntax.Train:
        return syntax.Train(*self._begin(parts), tuple(_nodes(parts)))

    def _expect(self, parts: list[Any]) -> _Part:
        return _Part(self._span(parts), tuple(_nodes(parts)))

    def _quantity(self, parts: list[Any]) -> syntax.Claim:
        name, relation, value = parts
        return syntax.Claim(self._span(parts), self._named(name), str(relation), value)

    def _shape(self, parts: list[Any]) -> syntax.Claim:
        return syntax.Claim(self._span(parts), None, "=", parts[0])

    # -- flows -------------------------------------------------------------------------------
    def _flow(self, parts: list[Any]) -> syntax.Flow:
        return syntax.Flow(self._span(parts), tuple(parts))

    def _application(self, parts: list[Any]) -> syntax.Application:
        name, *arguments = parts
        return syntax.Application(self._span(parts), self._named(name), tuple(arguments))

    def _call(self, parts: list[Any]) -> syntax.Application:
        arguments = tuple(_nodes(parts))
        return syntax.Application(self._span(parts), self._named(parts[0]), arguments, True)

    def _keyword(self, parts: list[Any]) -> syntax.Argument:
        name, value = parts
        return syntax.Argument(self._span(parts), _alone(value), self._named(name))

    _given = _keyword

    def _stride(self, parts: list[Any]) -> syntax.Argument:
        return syntax.Argument(self._span(parts), parts[1], stride=True)

    def _positional(self, parts: list[Any]) -> syntax.Argument:
        return syntax.Argument(self._span(parts), _alone(parts[0]))

    _given_flow = _positional

    # -- values ------------------------------------------------------------------------------
    def _bank(self, parts: list[Any]) -> syntax.Bank:
        return syntax.Bank(self._span(parts), *parts)

    def _range(self, parts: list[Any]) -> syntax.Range:
        return syntax.Range(self._span(parts), *parts)

    def _predicate(self, parts: list[Any]) -> syntax.Predicate:
        pattern, body = parts
        items = pattern.items if isinstance(pattern, syntax.Tuple) else pattern.steps
        names = tuple(item for item in items if isinstance(item, syntax.Name))
        for item in items:
            if not isinstance(item, syntax.Name):
                message = "before `=>` stand names, as in `(source, destination)`"
                self._complain("E002", message, item.span)
        return syntax.Predicate(self._span(parts), names, body)

    def _conditional(self, parts: list[Any]) -> syntax.Conditional:
        return syntax.Conditional(self._span(parts), *parts)

    def _chain(self, parts: list[Any]) -> syntax.Expression:
        """Operands with operators between them, joined from the left."""
        left: syntax.Expression = parts[0]
        for operator, right in zip(parts[1::2], parts[2::2], strict=True):
            left = syntax.Binary(self._span([left, right]), str(operator), left, right)
        return left

    _disjunction = _conjunction = _sum = _product = _chain

    def _comparison(self, parts: list[Any]) -> syntax.Comparison:
        operators = tuple(map(str, parts[1::2]))
        return syntax.Comparison(self._span(parts), tuple(parts[::2]), operators)

    def _not(self, parts: list[Any]) -> syntax.Unary:
        return syntax.Unary(self._span(parts), "not", parts[1])

    def _minus(self, parts: list[Any]) -> syntax.Unary:
        return syntax.Unary(self._span(parts), "-", parts[1])

    def _power(self, parts: list[Any]) -> syntax.Binary:
        return syntax.Binary(self._span(parts), "**", *parts)

    def _index(self, parts: list[Any]) -> syntax.Index:
        return syntax.Index(self._span(parts), *_nodes(parts))

    def _member(self, parts: list[Any]) -> syntax.Member:
        value, _, name = parts
        return syntax.Member(self._span(parts), value, self._named(name))

    def _number(self, parts: list[Any]) -> syntax.Number:
        (token,) = parts
        span = self._span(parts)
        value = math.inf if len(token) > 40 else number(token)
        if not value < LARGEST:
            self._complain("E401", "this number is too large", span, "numbers stay below 2^63")
            value = 1
        return syntax.Number(span, value, str(token))

    def _string(self, parts: list[Any]) -> syntax.String:
        (token,) = parts
        if token.startswith('"""'):
            return syntax.String(self._span(parts), token[3:-3])
        value = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), token[1:-1])
        return syntax.String(self._span(parts), value)

    def _size(self, parts: list[Any]) -> syntax.Size:
        span = self._span(parts)
        sizes = tuple(int(p) if len(p) < 20 else LARGEST for p in parts[0].split("x"))
        if max(sizes) >= LARGEST:
            self._complain("E401", "this size is too large", span, "numbers stay below 2^63")
            sizes = (1,) * len(sizes)
        return syntax.Size(span, sizes)

    def _name(self, parts: list[Any]) -> syntax.Name:
        return self._named(parts[0])

    def _here(self, parts: list[Any]) -> syntax.In:
        return syntax.In(self._span(parts))

    def _list(self, parts: list[Any]) -> syntax.List:
        return syntax.List(self._span(parts), tuple(map(_alone, _nodes(parts))))

    def _paren(self, parts: list[Any]) -> syntax.Flow:
        return syntax.Flow(self._span(parts), parts[1].steps, True)

    def _tuple(self, parts: list[Any]) -> syntax.Tuple:
        return syntax.Tuple(self._span(parts), tuple(map(_alone, _nodes(parts))))

    def _computed(self, parts: list[Any]) -> syntax.Computed:
        sizes = tuple(map(_inside, _nodes(parts)))
        return syntax.Computed(self._span(parts), sizes)


def _nodes(parts: Sequence[Any]) -> list[Any]:
    """The parts that are no tokens."""
    return [part for part in parts if not isinstance(part, str)]


def _claims(parts: Sequence[Any]) -> tuple[syntax.Claim, ...]:
    """What stands after `expect`, where the last part is one."""
    last = parts[-1]
    return last.items if isinstance(last, _Part) else ()


def _alone(value: Any) -> Any:
    """The only step of a flow that is not in parentheses, or the value."""
    plain = isinstance(value, syntax.Flow) and not value.parenthesised
    return value.steps[0] if plain and len(value.steps) == 1 else value


def _inside(value: syntax.Flow) -> syntax.Expression:
    """What stands in parentheses."""
    return value.steps[0] if len(value.steps) == 1 else value
