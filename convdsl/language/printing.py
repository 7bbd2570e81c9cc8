"""Prints expressions, flows and heads of statements in the canonical layout, each on one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from convdsl.language import syntax

_TIGHT = {"**"}


def expression(node: syntax.Expression, tight: bool = False) -> str:
    """An expression; ``tight`` without spaces around arithmetic, as among arguments."""
    return _RULES[type(node)](node, tight)


def flow(node: syntax.Flow) -> str:
    """Steps with arrows between them."""
    return " -> ".join(steps(node))


def steps(node: syntax.Flow) -> list[str]:
    """The steps of a flow, each as text."""
    return [expression(step) for step in node.steps]


def arguments(given: Sequence[syntax.Argument], tight: bool = True) -> list[str]:
    """Arguments one by one; ``tight`` as after an op's name, else as in a call."""
    return [_argument(a, tight) for a in given]


def claims(given: Sequence[syntax.Claim]) -> str:
    """``expect ...``, or nothing."""
    return f"expect {', '.join(map(_claim, given))}" if given else ""


def parameters(given: Sequence[syntax.Parameter]) -> str:
    """``(c, s=1)``, or nothing."""
    return f"({', '.join(map(_parameter, given))})" if given else ""


def _argument(node: syntax.Argument, tight: bool) -> str:
    value = expression(node.value, tight)
    if node.stride:
        return f"/{value}"
    if node.name is None:
        return value
    equals = " = " if isinstance(node.value, syntax.Conditional) else "="
    return f"{node.name.text}{equals}{value}"


def _claim(node: syntax.Claim) -> str:
    value = expression(node.value, True)
    if node.quantity is None:
        return value
    between = "=" if node.relation == "=" else f" {node.relation} "
    return f"{node.quantity.text}{between}{value}"


def _parameter(node: syntax.Parameter) -> str:
    shown = node.name.text
    if node.type is not None:
        count = "" if node.type.count is None else str(node.type.count)
        shown += f": {node.type.name}" + (f"[{count}]" if node.type.list else "")
    if node.default is not None:
        equals = " = " if node.type is not None else "="
        shown += equals + expression(node.default)
    return shown


# -- expressions -----------------------------------------------------------------------------


def _listed(items: Sequence[syntax.Expression]) -> str:
    return ", ".join(map(expression, items))


def _unary(node: syntax.Unary, tight: bool) -> str:
    space = " " if node.operator == "not" else ""
    return f"{node.operator}{space}{expression(node.operand, tight)}"


def _binary(node: syntax.Binary, tight: bool) -> str:
    logical = node.operator in ("and", "or")
    close = node.operator in _TIGHT or (tight and not logical)
    operator = node.operator if close else f" {node.operator} "
    return expression(node.left, tight) + operator + expression(node.right, tight)


def _comparison(node: syntax.Comparison, tight: bool) -> str:
    shown = expression(node.operands[0], tight)
    for operator, operand in zip(node.operators, node.operands[1:], strict=True):
        shown += f" {operator} {expression(operand, tight)}"
    return shown


def _conditional(node: syntax.Conditional, tight: bool) -> str:
    parts = (node.then, node.condition, node.otherwise)
    then, condition, otherwise = (expression(part, tight) for part in parts)
    return f"{then} if {condition} else {otherwise}"


def _application(node: syntax.Application, tight: bool) -> str:
    if node.called:
        return f"{node.name.text}({', '.join(arguments(node.arguments, tight=False))})"
    return " ".join([node.name.text, *arguments(node.arguments)])


def _flow(node: syntax.Flow, tight: bool) -> str:
    return f"({flow(node)})" if node.parenthesised else flow(node)


def _predicate(node: syntax.Predicate, tight: bool) -> str:
    names = ", ".join(p.text for p in node.parameters)
    return f"({names}) => {expression(node.body)}"


_RULES: Mapping[type, Callable[[Any, bool], str]] = {
    syntax.Number: lambda n, _: n.text,
    syntax.String: lambda n, _: n.span.text,
    syntax.Size: lambda n, _: "x".join(map(str, n.sizes)),
    syntax.Computed: lambda n, _: "x".join(f"({expression(s)})" for s in n.sizes),
    syntax.Name: lambda n, _: n.text,
    syntax.In: lambda n, _: "in",
    syntax.List: lambda n, _: f"[{_listed(n.items)}]",
    syntax.Tuple: lambda n, _: f"({_listed(n.items)})",
    syntax.Unary: _unary,
    syntax.Binary: _binary,
    syntax.Comparison: _comparison,
    syntax.Conditional: _conditional,
    syntax.Index: lambda n, _: f"{expression(n.value, True)}[{expression(n.index)}]",
    syntax.Member: lambda n, _: f"{expression(n.value, True)}.{n.name.text}",
    syntax.Range: lambda n, _: f"{expression(n.low, True)}..{expression(n.high, True)}",
    syntax.Predicate: _predicate,
    syntax.Bank: lambda n, _: f"{expression(n.filters, True)}@{expression(n.window, True)}",
    syntax.Application: _application,
    syntax.Flow: _flow,
}
