"""Evaluates expressions: names, numbers, lists, arithmetic, conditions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from convdsl.diagnostics import did_you_mean
from convdsl.graph import Value
from convdsl.language import syntax, values
from convdsl.language.session import Frame, Session
from convdsl.language.values import POISON, Refused, Unbound
from convdsl.ops.attributes import Bank, Extents, Word
from convdsl.ops.attributes import Span as Range

TRUTHS = {"true": True, "false": False, "on": True, "off": False}

MISSING: Any = object()

_TENSOR_OPS = {"+": "add", "-": "sub", "*": "mul"}
"""The ops that arithmetic on tensors stands for."""


class Expressions:
    """Evaluates what needs no network; what does is left to the class that extends this."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._rules: dict[type, Callable[[Any, Frame], Any]] = {
            syntax.Number: lambda e, _: e.value,
            syntax.String: lambda e, _: e.value,
            syntax.Size: lambda e, _: Extents(e.sizes),
            syntax.Name: self._name,
            syntax.In: self._in,
            syntax.Computed: self._computed,
            syntax.List: self._list,
            syntax.Tuple: self._tuple,
            syntax.Unary: self._unary,
            syntax.Binary: self._binary,
            syntax.Comparison: self._comparison,
            syntax.Conditional: self._conditional,
            syntax.Index: self._index,
            syntax.Member: self._member,
            syntax.Range: self._range,
            syntax.Predicate: self._predicate,
            syntax.Bank: self._bank,
            syntax.Flow: self.flow,
            syntax.Application: self.application,
        }

    # -- what the network's side provides ----------------------------------------------------
    def flow(self, flow: syntax.Flow, frame: Frame) -> Any:
        raise NotImplementedError

    def application(self, step: syntax.Application, frame: Frame) -> Any:
        raise NotImplementedError

    def combine(self, op: str, step: syntax.Expression, data: list[Value], frame: Frame) -> Any:
        raise NotImplementedError

    # -- evaluation --------------------------------------------------------------------------
    def evaluate(self, expression: syntax.Expression, frame: Frame) -> Any:
        """The value of an expression; POISON where that failed, which has been reported."""
        self.session.tick(expression.span, frame)
        return self._rules[type(expression)](expression, frame)

    def known(self, expression: syntax.Expression, frame: Frame) -> Any:
        """The value of an expression that is no word: names have to be known."""
        value = self.evaluate(expression, frame)
        return self.unknown(value, frame) if isinstance(value, Unbound) else value

    def unknown(self, word: Unbound, frame: Frame) -> Any:
        """Report a name that nothing has."""
        return self.session.error(
            "E101",
            f"there is nothing called `{word.name}` here",
            word.span,
            frame,
            help=did_you_mean(word.name, word.known()),
        )

    def lookup(self, name: str, frame: Frame) -> Any:
        """What a name means in a frame, or MISSING."""
        found = frame.names.get(name, MISSING)
        return frame.home.get(name, MISSING) if found is MISSING else found

    def _name(self, name: syntax.Name, frame: Frame) -> Any:
        found = self.lookup(name.text, frame)
        if found is MISSING:
            found = TRUTHS.get(name.text, MISSING)
        return Unbound(name.text, name.span, frame.known) if found is MISSING else found

    def _in(self, here: syntax.In, frame: Frame) -> Any:
        if frame.received is not None:
            return frame.received
        inputs = self.session.builder.variables
        several = frame.is_net and any(v.role == "input" for v in inputs)
        message = "a network with several inputs has no `in`" if several else "`in` means nothing"
        help = "write the name of the input" if several else "a network begins with its `input`"
        frame.received = self.session.error("E104", message, here.span, frame, help=[help])
        return POISON

    def _refusable(
        self, expression: syntax.Expression, frame: Frame, compute: Callable[[], Any]
    ) -> Any:
        try:
            return compute()
        except Refused as reason:
            return self.session.refuse(reason, expression.span, frame)

    def _parts(self, parts: tuple[syntax.Expression, ...], frame: Frame) -> list[Any] | None:
        """The values of all parts, or None where one failed."""
        found = [self.known(part, frame) for part in parts]
        return None if any(v is POISON for v in found) else found

    def _computed(self, size: syntax.Computed, frame: Frame) -> Any:
        parts = self._parts(size.sizes, frame)
        if parts is None:
            return POISON
        for part, value in zip(size.sizes, parts, strict=True):
            if type(value) is not int:
                message = f"a size is made of whole numbers, not {values.kind(value)}"
                return self.session.error("E207", message, part.span, frame)
        return Extents(tuple(parts))

    def _list(self, items: syntax.List, frame: Frame) -> Any:
        found = [self.evaluate(item, frame) for item in items.items]
        return POISON if any(v is POISON for v in found) else found

    def _tuple(self, items: syntax.Tuple, frame: Frame) -> Any:
        found = [self.evaluate(item, frame) for item in items.items]
        return POISON if any(v is POISON for v in found) else tuple(found)

    def _unary(self, expression: syntax.Unary, frame: Frame) -> Any:
        value = self.known(expression.operand, frame)
        if value is POISON:
            return POISON
        return self._refusable(expression, frame, lambda: values.unary(expression.operator, value))

    def _binary(self, expression: syntax.Binary, frame: Frame) -> Any:
        operator = expression.operator
        if operator in ("and", "or"):
            return self._logical(expression, frame)
        left, right = self.known(expression.left, frame), self.known(expression.right, frame)
        if left is POISON or right is POISON:
            return POISON
        if isinstance(left, Value) and isinstance(right, Value) and operator in _TENSOR_OPS:
            return self.combine(_TENSOR_OPS[operator], expression, [left, right], frame)
        return self._refusable(expression, frame, lambda: values.binary(operator, left, right))

    def _comparison(self, expression: syntax.Comparison, frame: Frame) -> Any:
        found = [self.evaluate(operand, frame) for operand in expression.operands]
        if any(value is POISON for value in found):
            return POISON
        for (left, right), operator, (a, b) in zip(
            pairwise(expression.operands), expression.operators, pairwise(found), strict=True
        ):
            word = _mistaken(operator, (left, a), (right, b))
            if word is not None:
                return self.unknown(word, frame)
            try:
                if not values.compare(operator, a, b):
                    return False
            except Refused as reason:
                return self.session.refuse(reason, left.span.to(right.span), frame)
        return True

    def _logical(self, expression: syntax.Binary, frame: Frame) -> Any:
        """The right side is evaluated only where it decides."""
        left = self.condition(expression.left, frame)
        if left is POISON or left == (expression.operator == "or"):
            return left
        return self.condition(expression.right, frame)

    def condition(self, expression: syntax.Expression, frame: Frame) -> Any:
        """True or False, or POISON."""
        value = self.known(expression, frame)
        if value is POISON:
            return POISON
        return self._refusable(expression, frame, lambda: values.truth(value))

    def _conditional(self, expression: syntax.Conditional, frame: Frame) -> Any:
        condition = self.condition(expression.condition, frame)
        if condition is POISON:
            return POISON
        return self.evaluate(expression.then if condition else expression.otherwise, frame)

    def _index(self, expression: syntax.Index, frame: Frame) -> Any:
        value, index = self.known(expression.value, frame), self.known(expression.index, frame)
        if value is POISON or index is POISON:
            return POISON
        return self._refusable(expression, frame, lambda: values.index(value, index))

    def _member(self, expression: syntax.Member, frame: Frame) -> Any:
        value = self.known(expression.value, frame)
        if value is POISON:
            return POISON
        try:
            return values.member(value, expression.name.text)
        except Refused as reason:
            return self.session.refuse(reason, expression.name.span, frame)

    def _range(self, expression: syntax.Range, frame: Frame) -> Any:
        ends = self._parts((expression.low, expression.high), frame)
        if ends is None:
            return POISON
        for part, value in zip((expression.low, expression.high), ends, strict=True):
            if not values.is_number(value):
                message = f"a range goes between numbers, not to {values.kind(value)}"
                return self.session.error("E207", message, part.span, frame)
        return Range(*ends)

    def _bank(self, expression: syntax.Bank, frame: Frame) -> Any:
        parts = self._parts((expression.filters, expression.window), frame)
        return POISON if parts is None else Bank(*parts)

    def _predicate(self, expression: syntax.Predicate, frame: Frame) -> Any:
        """A Python function that evaluates the body; where that fails, it is false."""
        names = [p.text for p in expression.parameters]

        def call(*arguments: int) -> bool:
            if len(arguments) != len(names):
                message = f"this predicate is asked about {len(arguments)} numbers"
                self.session.error("E106", message, expression.span, frame)
                return False
            outer = {n: frame.names.get(n, MISSING) for n in names}
            frame.names.update(zip(names, arguments, strict=True))
            try:
                return self.condition(expression.body, frame) is True
            finally:
                for name, value in outer.items():
                    if value is MISSING:
                        del frame.names[name]
                    else:
                        frame.names[name] = value

        return call


Side = tuple[syntax.Expression, Any]


def _mistaken(operator: str, left: Side, right: Side) -> Unbound | None:
    """The word in a comparison that can only be a name nobody knows.

    A word is compared with a word that came in through a parameter, or with a string.
    """
    words = []
    for (side, value), (_, other) in ((left, right), (right, left)):
        if isinstance(value, Unbound) and value.span == side.span:
            if not isinstance(other, str | Word | Unbound) or operator not in ("==", "!="):
                return value
            words.append(value)
    return words[0] if len(words) == 2 else None
