"""What a program's `train` section says: how the network is to be trained; training reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convdsl.diagnostics import Span


@dataclass(frozen=True)
class Choice:
    """Something chosen by its name, with parameters: ``adam``, ``step(every=10)``.

    ``places`` are the spans of the parameters, by name.
    """

    name: str
    given: Mapping[str, int | float | bool | list[Any]] = field(default_factory=dict)
    span: Span | None = field(default=None, compare=False, repr=False)
    places: Mapping[str, Span] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in self.given.items())
        return f"{self.name}({given})" if given else self.name


@dataclass(frozen=True)
class Setting:
    """One setting of a recipe: a number, a truth value, a `Choice` or a tuple of them."""

    name: str
    value: Any
    name_span: Span
    span: Span
