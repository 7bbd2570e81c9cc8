"""From Lark's parse tree to the syntax tree."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from convdsl.diagnostics import Diagnostic, Source, Span
from convdsl.language import syntax
from convdsl.language.lexing import outline

if TYPE_CHECKING:
    from lark import Token, Tree

LARGEST = 1 << 63
"""Numbers from here on are refused."""

_SUFFIXES = {"K": 3, "M": 6, "G": 9, "T": 12}
_STRAY = "E002", "braces stand after `net`, `block`, `for`, `if`, `else` or `default`"
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


def read(tree: Tree[Token], source: Source) -> tuple[syntax.File, list[Diagnostic]]:
    """The file, and what the grammar lets through but the language does not."""
    reader = _Reader(source)
    items = tuple(reader.read(child) for child in tree.children)
    for item in items:
        if isinstance(item, syntax.Body):
            reader.findings.append(Diagnostic(*_STRAY, item.span))
    return syntax.File(source, items, reader.comments), reader.findings


def number(text: str) -> int | float:
    """The value of a number as written: ``1_000``, ``0.5``, ``1e-5``, ``11.7M``."""
    digits = text.replace("_", "")
    shift = _SUFFIXES.get(digits[-1], 0)
    digits = digits.rstrip("KMGT")
    if shift == 0:
        return int(digits) if digits.isdigit() else float(digits)
    whole, _, fraction = digits.partition(".")
    if not (whole + fraction).isdigit() or len(fraction) > shift:
        return float(digits) * 10**shift
    return int(whole + fraction) * 10 ** (shift - len(fraction))


def _comments(source: Source) -> tuple[syntax.Comment, ...]:
    found = []
    for mark in outline(source.text):
        if mark.kind == "comment":
            line_start = source.text.rfind("\n", 0, mark.start) + 1
            alone = not source.text[line_start : mark.start].strip()
            end = mark.start + len(mark.text.rstrip())
            found.append(syntax.Comment(Span(source, mark.start, end), alone))
    return tuple(found)


class _Reader:
    """Makes a syntax node of every parse tree node; one method per rule of the grammar."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.findings: list[Diagnostic] = []
        self.comments = _comments(source)
        self._documentation = {
            source.position(c.span.start)[0]: c.span.text.lstrip("#").strip()
            for c in self.comments
            if c.alone and c.documents
        }
        self._methods: dict[str, Callable[[Tree[Token]], Any]] = {}

    def read(self, tree: Any) -> Any:
        name = tree.data
        method = self._methods.get(name)
        if method is None:
            method = self._methods[name] = getattr(self, "_" + name)
        return method(tree)

    def _all(self, trees: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(map(self.read, trees))

    def _span(self, tree: Tree[Token]) -> Span:
        return Span(self.source, tree.meta.start_pos, tree.meta.end_pos)

    def _token(self, token: Any) -> Span:
        return Span(self.source, token.start_pos, token.end_pos)

    def _named(self, token: Any) -> syntax.Name:
        return syntax.Name(self._token(token), str(token))

    def _complain(self, code: str, message: str, span: Span, *help: str) -> None:
        self.findings.append(Diagnostic(code, message, span, help=help))

    def _docs(self, tree: Tree[Token]) -> str:
        """The ``##`` comments on the lines directly above."""
        if not self._documentation:
            return ""
        line, found = tree.meta.line - 1, []
        while line in self._documentation:
            found.append(self._documentation[line])
            line -= 1
        return "\n".join(reversed(found))

    # -- the file ----------------------------------------------------------------------------
    def _version(self, tree: Tree[Token]) -> syntax.Version:
        word, text = cast(Any, tree.children)
        if word != "cnn":
            self._complain(
                "E002", f"`{word}` does not begin anything at the top of a file", self._token(word)
            )
        number = syntax.Number(self._token(text), self._value(text), str(text))
        return syntax.Version(self._span(tree), "", number)

    def _import(self, tree: Tree[Token]) -> syntax.Import:
        return syntax.Import(self._span(tree), self._docs(tree), self._string(tree))

    def _block(self, tree: Tree[Token]) -> syntax.Block:
        name, *parameters, body = cast(Any, tree.children)
        return syntax.Block(
            self._span(tree),
            self._docs(tree),
            self._named(name),
            self.read(parameters[0]) if parameters else (),
            self.read(body),
        )

    def _net(self, tree: Tree[Token]) -> syntax.Net:
        name, *rest = cast(Any, tree.children)
        claims = self._claims(rest)
        parameters = self.read(rest.pop(0)) if rest[0].data == "parameters" else ()
        return syntax.Net(
            self._span(tree),
            self._docs(tree),
            self._named(name),
            parameters,
            self.read(rest[0]),
            claims,
        )

    def _instance(self, tree: Tree[Token]) -> syntax.Instance:
        name, base, *rest = cast(Any, tree.children)
        claims = self._claims(rest)
        arguments = self._all(rest[1:])  # without the bracket
        span, documentation = self._span(tree), self._docs(tree)
        return syntax.Instance(
            span, documentation, self._named(name), self._named(base), arguments, claims
        )

    def _parameters(self, tree: Tree[Token]) -> tuple[syntax.Parameter, ...]:
        return self._all([c for c in tree.children if not isinstance(c, str)])

    def _parameter(self, tree: Tree[Token]) -> syntax.Parameter:
        name, *rest = cast(Any, tree.children)
        type = self.read(rest.pop(0)) if rest and rest[0].data == "type" else None
        default = self.read(rest[0]) if rest else None
        return syntax.Parameter(self._span(tree), self._named(name), type, default)

    def _type(self, tree: Tree[Token]) -> syntax.Type:
        name, *count = cast(Any, tree.children)
        if not count:
            return syntax.Type(self._span(tree), str(name))
        numbers = [t for t in count[0].children if t.type == "NUMBER"]
        length = self._value(numbers[0]) if numbers else None
        return syntax.Type(self._span(tree), str(name), True, cast(Any, length))

    # -- statements --------------------------------------------------------------------------
    def _body(self, tree: Tree[Token]) -> syntax.Body:
        # A body alone comes from a line that was left out because of an error, or is one.
        for child in tree.children:
            if cast(Any, child).data == "body":
                self._complain(*_STRAY, self._span(cast(Any, child)))
        return syntax.Body(self._span(tree), self._all(tree.children))

    def _input(self, tree: Tree[Token]) -> syntax.Input:
        first, *rest = cast(Any, tree.children)
        name = self._named(first) if isinstance(first, str) else None
        arguments = self._all(rest if name else tree.children)
        return syntax.Input(self._span(tree), self._docs(tree), name, arguments)

    def _output(self, tree: Tree[Token]) -> syntax.Output:
        name, flow, *rest = cast(Any, tree.children)
        return syntax.Output(
            self._span(tree),
            self._docs(tree),
            self._named(name),
            self.read(flow),
            self._claims(rest),
        )

    def _label(self, tree: Tree[Token]) -> syntax.Layer:
        name, flow, *rest = cast(Any, tree.children)
        label, claims = self._named(name), self._claims(rest)
        return syntax.Layer(self._span(tree), self._docs(tree), label, self.read(flow), claims)

    def _layer(self, tree: Tree[Token]) -> syntax.Layer:
        flow, *rest = cast(Any, tree.children)
        claims = self._claims(rest)
        return syntax.Layer(self._span(tree), self._docs(tree), None, self.read(flow), claims)

    def _definition(self, tree: Tree[Token]) -> syntax.Definition:
        rest = list(cast(Any, tree.children))
        claims = self._claims(rest)
        *names, flow = rest
        named = tuple(self._named(n) for n in names)
        return syntax.Definition(self._span(tree), self._docs(tree), named, self.read(flow), claims)

    def _yield(self, tree: Tree[Token]) -> syntax.Yield:
        flows = list(cast(Any, tree.children))
        claims = self._claims(flows)
        return syntax.Yield(self._span(tree), self._docs(tree), self._all(flows), claims)

    def _for(self, tree: Tree[Token]) -> syntax.For:
        variable, _, values, body = cast(Any, tree.children)
        return syntax.For(
            self._span(tree),
            self._docs(tree),
            self._named(variable),
            self.read(values),
            self.read(body),
        )

    def _if(self, tree: Tree[Token]) -> syntax.If:
        condition, then, *otherwise = self._all(tree.children)
        last = otherwise[0] if otherwise else None
        return syntax.If(self._span(tree), self._docs(tree), condition, then, last)

    def _default(self, tree: Tree[Token]) -> syntax.Default:
        op, *settings = cast(Any, tree.children)
        return syntax.Default(
            self._span(tree), self._docs(tree), self._named(op), self._all(settings)
        )

    def _claims(self, children: list[Any]) -> tuple[syntax.Claim, ...]:
        """Takes the `expect` from the end, if there is one."""
        if children and not isinstance(children[-1], str) and children[-1].data == "expect":
            return self._all(children.pop().children)
        return ()

    def _quantity(self, tree: Tree[Token]) -> syntax.Claim:
        name, relation, value = cast(Any, tree.children)
        span = self._span(tree)
        return syntax.Claim(span, self._named(name), str(relation), self.read(value))

    def _shape(self, tree: Tree[Token]) -> syntax.Claim:
        return syntax.Claim(self._span(tree), None, "=", self.read(tree.children[0]))

    # -- flows -------------------------------------------------------------------------------
    def _flow(self, tree: Tree[Token]) -> syntax.Flow:
        return syntax.Flow(self._span(tree), self._all(tree.children))

    def _application(self, tree: Tree[Token]) -> syntax.Application:
        name, *arguments = cast(Any, tree.children)
        return syntax.Application(self._span(tree), self._named(name), self._all(arguments))

    def _call(self, tree: Tree[Token]) -> syntax.Application:
        name, _, *arguments = cast(Any, tree.children)
        return syntax.Application(self._span(tree), self._named(name), self._all(arguments), True)

    def _keyword(self, tree: Tree[Token]) -> syntax.Argument:
        name, value = cast(Any, tree.children)
        return syntax.Argument(self._span(tree), self.read(value), self._named(name))

    def _stride(self, tree: Tree[Token]) -> syntax.Argument:
        return syntax.Argument(self._span(tree), self.read(tree.children[0]), stride=True)

    def _positional(self, tree: Tree[Token]) -> syntax.Argument:
        return syntax.Argument(self._span(tree), self.read(tree.children[0]))

    def _given(self, tree: Tree[Token]) -> syntax.Argument:
        name, flow = cast(Any, tree.children)
        return syntax.Argument(self._span(tree), _alone(self.read(flow)), self._named(name))

    def _positional_flow(self, tree: Tree[Token]) -> syntax.Argument:
        return syntax.Argument(self._span(tree), _alone(self.read(tree.children[0])))

    # -- values ------------------------------------------------------------------------------
    def _bank(self, tree: Tree[Token]) -> syntax.Bank:
        return syntax.Bank(self._span(tree), *self._all(tree.children))

    def _range(self, tree: Tree[Token]) -> syntax.Range:
        return syntax.Range(self._span(tree), *self._all(tree.children))

    def _predicate(self, tree: Tree[Token]) -> syntax.Predicate:
        pattern, body = self._all(tree.children)
        items = pattern.items if isinstance(pattern, syntax.Tuple) else (pattern,)
        names = tuple(_alone(item) for item in items)
        for item in names:
            if not isinstance(item, syntax.Name):
                self._complain(
                    "E002", "before `=>` stand names, as in `(source, destination)`", item.span
                )
        return syntax.Predicate(self._span(tree), names, body)

    def _conditional(self, tree: Tree[Token]) -> syntax.Conditional:
        return syntax.Conditional(self._span(tree), *self._all(tree.children))

    def _chain(self, tree: Tree[Token]) -> syntax.Expression:
        """Operands with operators between them, joined from the left."""
        children = cast(Any, tree.children)
        left: syntax.Expression = self.read(children[0])
        for operator, operand in zip(children[1::2], children[2::2], strict=True):
            right = self.read(operand)
            left = syntax.Binary(left.span.to(right.span), str(operator), left, right)
        return left

    _disjunction = _conjunction = _sum = _product = _chain

    def _comparison(self, tree: Tree[Token]) -> syntax.Comparison:
        children = cast(Any, tree.children)
        operators = tuple(map(str, children[1::2]))
        return syntax.Comparison(self._span(tree), self._all(children[::2]), operators)

    def _negation(self, tree: Tree[Token]) -> syntax.Unary:
        return syntax.Unary(self._span(tree), "not", self.read(tree.children[0]))

    def _minus(self, tree: Tree[Token]) -> syntax.Unary:
        return syntax.Unary(self._span(tree), "-", self.read(tree.children[1]))

    def _power(self, tree: Tree[Token]) -> syntax.Binary:
        base, exponent = self._all(tree.children)
        return syntax.Binary(self._span(tree), "**", base, exponent)

    def _index(self, tree: Tree[Token]) -> syntax.Index:
        value, _, index = cast(Any, tree.children)
        return syntax.Index(self._span(tree), self.read(value), self.read(index))

    def _member(self, tree: Tree[Token]) -> syntax.Member:
        value, _, name = cast(Any, tree.children)
        return syntax.Member(self._span(tree), self.read(value), self._named(name))

    def _number(self, tree: Tree[Token]) -> syntax.Number:
        token = cast(Any, tree.children[0])
        return syntax.Number(self._token(token), self._value(token), str(token))

    def _value(self, token: Any) -> int | float:
        value = math.inf if len(token) > 40 else number(str(token))
        if not value < LARGEST:
            span = self._token(token)
            self._complain("E401", "this number is too large", span, "numbers stay below 2^63")
            return 1
        return value

    def _string(self, tree: Tree[Token]) -> syntax.String:
        token = cast(Any, tree.children[0])
        if token.startswith('"""'):
            return syntax.String(self._token(token), token[3:-3])
        value = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), token[1:-1])
        return syntax.String(self._token(token), value)

    def _size(self, tree: Tree[Token]) -> syntax.Size:
        token = cast(Any, tree.children[0])
        span = self._token(token)
        sizes = tuple(int(part) if len(part) < 20 else LARGEST for part in token.split("x"))
        if max(sizes) >= LARGEST:
            self._complain("E401", "this size is too large", span, "numbers stay below 2^63")
            sizes = (1,) * len(sizes)
        return syntax.Size(span, sizes)

    def _name(self, tree: Tree[Token]) -> syntax.Name:
        return self._named(tree.children[0])

    def _here(self, tree: Tree[Token]) -> syntax.In:
        return syntax.In(self._span(tree))

    def _list(self, tree: Tree[Token]) -> syntax.List:
        return syntax.List(self._span(tree), self._all(tree.children))

    def _paren(self, tree: Tree[Token]) -> syntax.Flow:
        flow = self.read(tree.children[0])
        return syntax.Flow(self._span(tree), flow.steps, True)

    def _tuple(self, tree: Tree[Token]) -> syntax.Tuple:
        return syntax.Tuple(self._span(tree), tuple(map(_alone, self._all(tree.children))))

    def _computed(self, tree: Tree[Token]) -> syntax.Computed:
        parts = [c for c in tree.children if not isinstance(c, str)]
        return syntax.Computed(self._span(tree), tuple(map(_alone, self._all(parts))))


def _alone(value: Any) -> Any:
    """The only step of a flow, or the flow."""
    return value.steps[0] if isinstance(value, syntax.Flow) and len(value.steps) == 1 else value
