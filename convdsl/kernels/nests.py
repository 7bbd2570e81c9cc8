"""The text of a loop nest: one element of the result, for targets to put in their own frame."""

from __future__ import annotations

from convdsl.ops.expressions import Apply, Expr, bare, text
from convdsl.ops.families import Axis, Nest

INDENT = "    "
START = {"sum": "float32(0.0)", "maximum": "float32(-inf)", "winner": "float32(-inf)"}


def decode(axes: tuple[Axis, ...], position: str) -> list[str]:
    """Statements that recover the axes' indices from a row-major position."""
    lines = []
    for k, axis in enumerate(axes):
        inner = " * ".join(a.size for a in axes[k + 1 :])
        outer = f"{position} // ({inner})" if len(axes) - k > 2 else f"{position} // {inner}"
        quotient = outer if inner else position
        lines.append(f"{axis.index} = {quotient}" + (f" % {axis.size}" if k else ""))
    return lines


def element(nest: Nest, position: str) -> list[str]:
    """Statements that compute the element of the result at ``position`` and store it."""
    if nest.reducer is None:
        return [f"y[{position}] = {bare(nest.element)}"]
    start = START[nest.reducer]
    lines = [f"total = {start}"]
    if nest.reducer == "winner":
        lines.append("winner = -1")
    depth = 0
    for axis in nest.reduced:
        lines.append(f"{INDENT * depth}for {axis.index} in range({axis.size}):")
        depth += 1
    lines += [INDENT * depth + line for line in _accumulate(nest)]
    result = bare(nest.finish)
    if nest.reducer == "winner":
        result = "winner" if nest.result == "int64" else "float32(winner)"
    lines.append(f"y[{position}] = {result}")
    return lines


def joined(nest: Nest, value: str, mark: str = "") -> list[str]:
    """Statements that bring a value into the total, and the winner, of that mark."""
    total, winner = f"total{mark}", f"winner{mark}"
    if nest.reducer == "sum":
        return [f"{total} += {value}"]
    if nest.reducer == "maximum":
        return [f"if {value} > {total} or {value} != {value}:", f"{INDENT}{total} = {value}"]
    assert nest.tag is not None
    nan = f"({value} != {value} and {total} == {total})"
    return [
        f"if {winner} < 0 or {value} > {total} or {nan}:",
        f"{INDENT}{total} = {value}",
        f"{INDENT}{winner} = {bare(nest.tag)}",
    ]


def _accumulate(nest: Nest) -> list[str]:
    # What falls outside the input adds nothing, so it is skipped, not computed.
    condition, value = guarded(nest.element)
    if nest.reducer == "sum":
        lines = joined(nest, bare(value))
    else:
        lines = [f"value = {bare(value)}", *joined(nest, "value")]
    if condition is None:
        return lines
    return [f"if {bare(condition)}:", *(INDENT + line for line in lines)]


def guarded(expression: Expr) -> tuple[Expr | None, Expr]:
    """Split ``select(condition, value, nothing)``: padding is neutral for every reduction."""
    if isinstance(expression, Apply) and expression.function == "select":
        condition, value, other = expression.arguments
        if text(other) in ("float32(0.0)", "float32(-inf)"):
            return condition, value
    return None, expression
