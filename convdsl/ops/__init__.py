"""The rule book: one class per op, found by walking this folder."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from convdsl.ops.base import REGISTRY, Caption, Mistake, Op, Problem, Sample, Weight, Window, times

__all__ = [
    "Caption",
    "Mistake",
    "Op",
    "Problem",
    "Sample",
    "Weight",
    "Window",
    "lookup",
    "registry",
    "times",
]


@cache
def registry() -> dict[str, type[Op]]:
    """All ops that a program can name, by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(REGISTRY.items()))


def lookup(name: str) -> type[Op] | None:
    """The op of that name, or None."""
    return registry().get(name)
