"""What expressions evaluate to, and the arithmetic on it, within bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convdsl.diagnostics import Span
from convdsl.graph import Value
from convdsl.language import syntax
from convdsl.language.reading import LARGEST
from convdsl.ops.attributes import Bank, Extents, Word
from convdsl.ops.attributes import Span as Range

LONGEST = 10_000
"""Elements of a list, and rounds of a loop."""


class Refused(Exception):
    """An operation that has no result; the caller adds the place."""

    def __init__(self, code: str, message: str, *help: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.help = help


class Poison:
    """Stands for a value whose computation failed, which has been reported."""

    def __repr__(self) -> str:
        return "POISON"


POISON = Poison()


@dataclass(frozen=True)
class Unbound:
    """A name that nothing in scope has: a word for an attribute, or a mistake.

    ``known`` are the names in scope where it stands, for proposals.
    """

    name: str
    span: Span = field(compare=False)
    known: Callable[[], Sequence[str]] = field(compare=False, repr=False)


@dataclass(frozen=True, eq=False)
class BlockValue:
    """A block with what is in scope where it is defined."""

    syntax: syntax.Block
    home: dict[str, Any]
    defaults: Defaults

    @property
    def name(self) -> str:
        return self.syntax.name.text


@dataclass(frozen=True, eq=False)
class NetValue:
    """A network, or an instance of one, with what is in scope where it is defined."""

    syntax: syntax.Net | syntax.Instance
    home: dict[str, Any]
    defaults: Defaults

    @property
    def name(self) -> str:
        return self.syntax.name.text


Defaults = Mapping[str, Mapping[str, tuple[Any, syntax.Argument]]]
"""By op and attribute: the value, and where it was given."""


def kind(value: Any) -> str:
    """What a value is, for messages."""
    match value:
        case bool():
            return "a truth value"
        case int():
            return "a whole number"
        case float():
            return f"the number {value:g}"
        case str():
            return "a string"
        case list():
            return "a list"
        case tuple():
            return "a tuple"
        case Value():
            return "a tensor"
        case Range():
            return "a range"
        case Extents():
            return "a size"
        case Bank():
            return "a bank"
        case Unbound(name=name) | Word(name=name):
            return f"the word `{name}`"
        case BlockValue():
            return "a block"
        case NetValue():
            return "a network"
    return "a predicate" if callable(value) else "no value"


def show(value: Any) -> str:
    """A value in short, as it could have been written."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"{value:g}" if isinstance(value, float) else str(value)
        case str():
            return f'"{value}"' if len(value) < 20 else '"..."'
        case list():
            shown = ", ".join(map(show, value[:8]))
            return f"[{shown}{', ...' if len(value) > 8 else ''}]"
        case tuple():
            return f"({', '.join(map(show, value[:8]))})"
        case Value():
            return str(value.type)
        case Range():
            return f"{value.low:g}..{value.high:g}"
        case Extents():
            return "x".join(map(str, value.sizes))
        case Bank():
            return f"{show(value.filters)}@{show(value.window)}"
        case Unbound() | Word() | BlockValue() | NetValue():
            return value.name
    return "..."


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# -- arithmetic ------------------------------------------------------------------------------


def bounded(value: int | float) -> int | float:
    """The number, unless it is out of bounds."""
    if isinstance(value, float) and not math.isfinite(value):
        raise Refused("E401", "the result is too large", "numbers stay below 2^63")
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise Refused("E401", "the result is too large", "numbers stay below 2^63")
    return value


def unary(operator: str, value: Any) -> Any:
    """``-x`` and ``not x``."""
    if operator == "not":
        return not truth(value)
    if not is_number(value):
        raise Refused("E207", f"`-` takes a number, not {kind(value)}")
    return bounded(-value)


def truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Refused(
            "E207", f"a condition is true or false, not {kind(value)}", "compare it: `x == 1`"
        )
    return value


def binary(operator: str, a: Any, b: Any) -> Any:
    """Arithmetic; lists are joined by ``+`` and repeated by ``*``."""
    if isinstance(a, list) and isinstance(b, list) and operator == "+":
        return listed([*a, *b])
    if isinstance(a, list) and type(b) is int and operator == "*":
        return listed(a * b if len(a) * max(b, 0) <= LONGEST else range(LONGEST + 1))
    if isinstance(a, str) and isinstance(b, str) and operator == "+":
        return listed(a + b)
    return _numeric(operator, a, b)


def compare(operator: str, a: Any, b: Any) -> bool:
    """``==`` and ``!=`` between values of a kind; the rest between numbers."""
    if operator in ("==", "!="):
        return _equal(a, b) == (operator == "==")
    return bool(_numeric(operator, a, b))


def _numeric(operator: str, a: Any, b: Any) -> Any:
    if not (is_number(a) and is_number(b)):
        wrong = b if is_number(a) else a
        raise Refused("E207", f"`{operator}` takes numbers, not {kind(wrong)}")
    return _NUMERIC[operator](a, b)


def listed(items: Any) -> Any:
    """The list, unless it is too long."""
    if len(items) > LONGEST:
        raise Refused("E401", f"a list has at most {LONGEST:,} elements")
    return items


def _equal(a: Any, b: Any) -> bool:
    names = (Unbound, Word, str)
    if isinstance(a, names) and isinstance(b, names):
        return text(a) == text(b)
    comparable = (
        (is_number(a) and is_number(b))
        or type(a) is type(b)
        or (isinstance(a, BlockValue) and isinstance(b, BlockValue))
    )
    if not comparable:
        raise Refused("E207", f"{kind(a)} cannot be compared with {kind(b)}")
    return bool(a == b)


def text(value: Any) -> str:
    """The text of a word or a string."""
    return value if isinstance(value, str) else str(value.name)


def _power(a: float, b: float) -> float:
    if isinstance(a, int) and isinstance(b, int) and b >= 0:
        if abs(a) > 1 and b * math.log2(abs(a)) > 64:
            raise Refused("E401", "the result is too large", "numbers stay below 2^63")
        return bounded(a**b)
    try:
        result = float(a) ** float(b)
    except (OverflowError, ZeroDivisionError):
        raise Refused("E208", f"{show(a)} to the power of {show(b)} has no value") from None
    if isinstance(result, complex):
        raise Refused("E208", f"{show(a)} to the power of {show(b)} has no value")
    return bounded(result)


def _divide(a: float, b: float) -> float:
    if b == 0:
        raise Refused("E208", "a division by zero has no value")
    return bounded(a // b)


def _modulo(a: float, b: float) -> float:
    if b == 0:
        raise Refused("E208", "a division by zero has no value")
    return bounded(a % b)


_NUMERIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: bounded(a + b),
    "-": lambda a, b: bounded(a - b),
    "*": lambda a, b: bounded(a * b),
    "//": _divide,
    "%": _modulo,
    "**": _power,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}

# -- access ----------------------------------------------------------------------------------


def index(value: Any, at: Any) -> Any:
    """``value[at]``; negative indices count from the end."""
    if not isinstance(value, list | tuple | Extents):
        raise Refused("E207", f"only lists are indexed, not {kind(value)}")
    items = value.sizes if isinstance(value, Extents) else value
    if type(at) is not int:
        raise Refused("E207", f"an index is a whole number, not {kind(at)}")
    if not -len(items) <= at < len(items):
        held = f"indices go from 0 to {len(items) - 1}" if items else "it is empty"
        raise Refused("E208", f"the list has no element {at}", held)
    return items[at]


_AXES = {"d": -3, "h": -2, "w": -1}
MEMBERS = ("c", "d", "h", "w", "rank", "size")


def member(value: Any, name: str) -> Any:
    """``x.c`` and the other numbers of a tensor."""
    if not isinstance(value, Value):
        raise Refused("E207", f"`.{name}` belongs to tensors, not to {kind(value)}")
    type = value.type
    if name == "rank":
        return type.rank
    if name == "size":
        return type.size
    if name == "c":
        return type.channels
    if name in _AXES and type.rank >= -_AXES[name]:
        return type.spatial[_AXES[name]]
    if name in _AXES:
        raise Refused("E203", f"the tensor {type} has no `.{name}`")
    raise Refused("E103", f"a tensor has no `.{name}`", f"it has {_backquoted(MEMBERS)}")


def _backquoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)


# -- functions -------------------------------------------------------------------------------


def _numbers(name: str, values: Sequence[Any]) -> list[Any]:
    items = values[0] if len(values) == 1 and isinstance(values[0], list) else list(values)
    for value in items:
        if not is_number(value):
            raise Refused("E207", f"`{name}` takes numbers, not {kind(value)}")
    return list(items)


def _extreme(name: str, choose: Callable[[Any], Any]) -> Callable[..., Any]:
    def call(*values: Any) -> Any:
        items = _numbers(name, values)
        if not items:
            raise Refused("E208", f"`{name}` of nothing has no value")
        return choose(items)

    return call


def _rounded(name: str, how: Callable[[Any], int]) -> Callable[..., Any]:
    def call(*values: Any) -> Any:
        if len(values) != 1:
            raise Refused("E106", f"`{name}` takes one number")
        return bounded(how(_numbers(name, values)[0]))

    return call


def _length(*values: Any) -> int:
    if len(values) != 1 or not isinstance(values[0], list | tuple):
        raise Refused("E207", "`len` takes one list")
    return len(values[0])


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": _rounded("abs", abs),
    "ceil": _rounded("ceil", math.ceil),
    "floor": _rounded("floor", math.floor),
    "len": _length,
    "max": _extreme("max", max),
    "min": _extreme("min", min),
    "round": _rounded("round", lambda x: math.floor(x + 0.5)),
    "sum": lambda *values: bounded(sum(_numbers("sum", values))),
}
"""What can be called on numbers. An op of the same name is meant wherever a tensor flows in."""
