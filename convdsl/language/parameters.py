"""Parameters of blocks and networks: which argument goes where, and whether it fits its type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convdsl.diagnostics import Span, did_you_mean
from convdsl.graph import Value
from convdsl.language import syntax, values
from convdsl.language.values import POISON, BlockValue, Refused, Unbound
from convdsl.ops import lookup
from convdsl.ops.attributes import Extents

Report = Callable[[str, str, Span, Sequence[str]], Any]
"""Takes code, message, place and help; returns POISON."""

Placed = tuple[Any, syntax.Argument]


@dataclass(frozen=True)
class Signature:
    """Whose parameters they are, for messages: ``kind`` and ``name`` as in "block `basic`"."""

    name: str
    parameters: tuple[syntax.Parameter, ...]

    def place(
        self,
        positional: Sequence[Placed],
        keywords: Mapping[str, Placed],
        report: Report,
    ) -> dict[str, Placed]:
        """The arguments by parameter; what does not fit is reported and left out."""
        names = [p.name.text for p in self.parameters]
        placed: dict[str, Placed] = dict(zip(names, positional, strict=False))
        for _, argument in positional[len(names) :]:
            report("E106", f"`{self.name}` takes {_count(len(names))}", argument.span, self.usage())
            break
        for name, (value, argument) in keywords.items():
            place = argument.name.span if argument.name else argument.span
            if name not in names:
                help = did_you_mean(name, names) or self.usage()
                report("E103", f"`{self.name}` has no parameter `{name}`", place, help)
            elif name in placed:
                report("E105", f"`{name}` of `{self.name}` is given twice", place, ())
            else:
                placed[name] = value, argument
        return placed

    def usage(self) -> tuple[str, ...]:
        """How the parameters are written, as a help line."""
        if not self.parameters:
            return ()
        shown = []
        for parameter in self.parameters:
            type = f": {parameter.type.span.text.lstrip(': ')}" if parameter.type else ""
            default = f"={parameter.default.span.text}" if parameter.default else ""
            shown.append(f"{parameter.name.text}{type}{default}")
        return (f"its parameters: `{self.name}({', '.join(shown)})`",)


def _count(number: int) -> str:
    return {0: "no arguments", 1: "one argument"}.get(number, f"at most {number} arguments")


# -- types -----------------------------------------------------------------------------------


def _is_block(value: Any) -> bool:
    is_op = isinstance(value, Unbound) and lookup(value.name) is not None
    return is_op or isinstance(value, BlockValue)


_TYPES: Mapping[str, tuple[str, str, Callable[[Any], bool]]] = {
    "int": ("a whole number", "whole numbers", lambda v: type(v) is int),
    "float": ("a number", "numbers", values.is_number),
    "bool": ("`true` or `false`", "truth values", lambda v: isinstance(v, bool)),
    "string": ("a string", "strings", lambda v: isinstance(v, str)),
    "size": ("a size", "sizes", lambda v: isinstance(v, Extents) or type(v) is int),
    "block": ("a block or an op", "blocks", _is_block),
    "tensor": ("a tensor", "tensors", lambda v: isinstance(v, Value)),
    "word": ("a word", "words", lambda v: isinstance(v, Unbound | str)),
}


def check_type(type: syntax.Type | None, value: Any, what: str) -> Any:
    """The value as the type has it; raises Refused where it does not fit."""
    if type is None or value is POISON:
        return value
    if type.name not in _TYPES:
        known = ", ".join(f"`{t}`" for t in _TYPES)
        help = did_you_mean(type.name, _TYPES) or (f"the types are {known}",)
        raise Refused("E101", f"there is no type called `{type.name}`", *help)
    one, many, fits = _TYPES[type.name]
    if not type.list:
        if fits(value):
            return float(value) if type.name == "float" else value
        raise Refused("E201", f"{what} takes {one}, not {values.kind(value)}")
    wanted = f"a list of {f'{type.count} ' if type.count is not None else ''}{many}"
    if not isinstance(value, list) or not all(map(fits, value)):
        raise Refused("E201", f"{what} takes {wanted}, not {_shown(value)}")
    if type.count is not None and len(value) != type.count:
        raise Refused("E201", f"{what} takes {wanted}, this list has {len(value)}")
    return value


def _shown(value: Any) -> str:
    return f"`{values.show(value)}`" if isinstance(value, list) else values.kind(value)
