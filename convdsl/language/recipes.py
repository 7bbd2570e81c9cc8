"""The `train` section: which settings a recipe has, and whether their values fit.

What optimisers, schedules and augmentations there are, and what each of them takes, is training's
to say (`training/recipe.py`); here they are choices: names with parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from convdsl.diagnostics import did_you_mean
from convdsl.graph import Choice, Setting
from convdsl.language import syntax, values
from convdsl.language.expressions import Expressions
from convdsl.language.session import Frame
from convdsl.language.values import POISON, Refused, Unbound, is_number, kind


def _count(value: Any) -> int:
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise ValueError(f"takes a whole number of at least 1, not {_told(value)}")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise ValueError(f"takes a whole number of at least 0, not {_told(value)}")
    return value


def _positive(value: Any) -> float:
    if not is_number(value) or not value > 0:
        raise ValueError(f"takes a number above 0, not {_told(value)}")
    return float(value)


def _amount(value: Any) -> float:
    if not is_number(value) or value < 0:
        raise ValueError(f"takes a number of at least 0, not {_told(value)}")
    return float(value)


def _share(value: Any) -> float:
    if not is_number(value) or not 0 <= value < 1:
        raise ValueError(f"takes a number from 0 to below 1, not {_told(value)}")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"takes `on` or `off`, not {kind(value)}")
    return value


def _choice(value: Any) -> Choice:
    if not isinstance(value, Choice):
        raise ValueError(f"takes a name, perhaps with parameters, not {kind(value)}")
    return value


def _choices(value: Any) -> tuple[Choice, ...]:
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, Choice) for item in items):
        raise ValueError("takes a list of names, perhaps with parameters")
    return tuple(items)


def _told(value: Any) -> str:
    return f"{value:g}" if is_number(value) else kind(value)


SETTINGS: Mapping[str, Callable[[Any], Any]] = {
    "loss": _choice,
    "label_smoothing": _share,
    "optimizer": _choice,
    "lr": _positive,
    "momentum": _share,
    "weight_decay": _amount,
    "spare_vectors": _flag,
    "clip": _amount,
    "average": _share,
    "schedule": _choice,
    "warmup": _amount,
    "batch": _count,
    "batch_norm": _choice,
    "epochs": _count,
    "augment": _choices,
    "val": _share,
    "seed": _whole,
}
"""The settings of a recipe, each with what checks its value."""


def settings(
    arguments: Sequence[syntax.Argument], expressions: Expressions, frame: Frame
) -> list[Setting]:
    """The settings that a section makes; mistakes are reported and left out."""
    found = []
    for argument in arguments:
        assert argument.name is not None
        name = argument.name.text
        if name not in SETTINGS:
            known = ", ".join(f"`{s}`" for s in SETTINGS)
            help = did_you_mean(name, SETTINGS) or (f"its settings are {known}",)
            message = f"`train` has no setting `{name}`"
            expressions.session.error("E103", message, argument.name.span, frame, help=help)
            continue
        value = _value(argument.value, expressions, frame)
        if value is POISON or (isinstance(value, list) and POISON in value):
            continue
        span = argument.value.span
        try:
            checked = SETTINGS[name](value)
        except ValueError as reason:
            refused = Refused("E201", f"`{name}` of `train` {reason}")
            expressions.session.refuse(refused, span, frame)
            continue
        found.append(Setting(name, checked, argument.name.span, span))
    return found


def _value(node: syntax.Expression, expressions: Expressions, frame: Frame) -> Any:
    """A setting's value: names and calls are choices, for no op is meant by them."""
    match node:
        case syntax.List(items=items):
            return [_value(item, expressions, frame) for item in items]
        case syntax.Application(called=True):
            return _called(node, expressions, frame)
        case syntax.Name():
            value = expressions.evaluate(node, frame)
            if isinstance(value, bool) or is_number(value) or value is POISON:
                return value
            name = value if isinstance(value, str) else values.show(value)
            return Choice(name, span=node.span)
    value = expressions.evaluate(node, frame)
    if isinstance(value, Unbound):
        return Choice(value.name, span=node.span)
    return value


def _called(node: syntax.Application, expressions: Expressions, frame: Frame) -> Any:
    given, places = {}, {}
    error = expressions.session.error
    for argument in node.arguments:
        if argument.name is None:
            message = f"parameters of `{node.name.text}` are given by name"
            return error("E106", message, argument.span, frame)
        name = argument.name.text
        if name in given:
            return error("E105", f"`{name}` is given twice", argument.name.span, frame)
        value = expressions.evaluate(argument.value, frame)
        if value is POISON:
            return POISON
        if not (isinstance(value, bool | list) or is_number(value)):
            message = f"`{name}` takes a number, not {kind(value)}"
            return error("E201", message, argument.value.span, frame)
        given[name] = value
        places[name] = argument.value.span
    return Choice(node.name.text, given, node.name.span, places)
