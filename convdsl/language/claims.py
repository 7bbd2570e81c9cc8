"""What follows `expect`, turned into the graph's expectations."""

from __future__ import annotations

from typing import Any, cast, get_args

from convdsl.diagnostics import did_you_mean
from convdsl.graph import Expectation, Value
from convdsl.graph.expectation import Quantity
from convdsl.language import syntax, values
from convdsl.language.expressions import Expressions
from convdsl.language.session import Frame
from convdsl.language.values import POISON, Refused, is_number
from convdsl.ops.attributes import Bank, Extents

QUANTITIES = tuple(q for q in get_args(Quantity) if q != "shape")


def expectations(
    claims: tuple[syntax.Claim, ...],
    nodes: tuple[str, ...],
    value: Value | None,
    expressions: Expressions,
    frame: Frame,
) -> list[Expectation]:
    """The claims as expectations about these nodes and this value; mistakes are reported."""
    found = []
    for claim in claims:
        expected = expressions.known(claim.value, frame)
        if expected is POISON:
            continue
        try:
            quantity, expected = _checked(claim, expected)
        except Refused as reason:
            about_name = reason.code == "E101" and claim.quantity is not None
            span = claim.quantity.span if about_name and claim.quantity else claim.value.span
            expressions.session.refuse(reason, span, frame)
            continue
        relation = cast(Any, claim.relation)
        span = claim.value.span
        found.append(Expectation(quantity, relation, expected, span.text, span, nodes, value))
    return found


def _checked(claim: syntax.Claim, value: Any) -> tuple[Quantity, Any]:
    if claim.quantity is None:
        return "shape", _shape(value)
    name = claim.quantity.text
    if name not in QUANTITIES:
        known = ", ".join(f"`{q}`" for q in QUANTITIES)
        help = did_you_mean(name, QUANTITIES) or (f"the quantities are {known}",)
        raise Refused("E101", f"there is no quantity called `{name}`", *help)
    if claim.relation == "~" and not isinstance(claim.value, syntax.Number):
        raise Refused("E207", "after `~` stands a number, whose digits say how exact it is")
    if name == "rf" and isinstance(value, Extents):
        return "rf", value.sizes
    if not is_number(value):
        raise Refused("E207", f"`{name}` is a number, not {values.kind(value)}")
    return cast(Quantity, name), value


def _shape(value: Any) -> tuple[int, ...]:
    match value:
        case Bank(channels, Extents(sizes)):
            shape: tuple[Any, ...] = (channels, *sizes)
        case Bank(channels, window):
            shape = (channels, window)
        case _:
            shape = (value,)
    if not all(type(size) is int for size in shape):
        raise Refused("E207", "a shape is written `6@28x28`, or `10` for a vector")
    return shape
