"""Compares a claimed number with the actual one: `=` exactly, `~` to the precision written."""

from __future__ import annotations

import re
from decimal import Decimal

from convdsl.graph import Expectation

SUFFIXES = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12}


def agrees(expectation: Expectation, expected: int | float, actual: int) -> bool:
    """Whether the actual number is what was expected."""
    if expectation.relation == "=":
        return expected == actual
    return abs(Decimal(actual) - Decimal(expected)) * 2 <= precision(expectation.written)


def precision(written: str) -> Decimal:
    """The value of the last digit written: 1M for ``60M``, 10M for ``1.81G``.

    The trailing zeros of a plain whole number only hold its place: 1,000,000 for ``138_000_000``.
    """
    match = re.search(r"(\d[\d_]*)(?:\.(\d+))?(?:[eE]([+-]?\d+))?\s*([kKMGT]?)", written)
    if match is None:
        return Decimal(1)
    whole, decimals, exponent, suffix = match.groups(default="")
    places = SUFFIXES[suffix] + int(exponent or 0) - len(decimals)
    if not (decimals or exponent or suffix):
        digits = whole.replace("_", "")
        places = len(digits) - len(digits.rstrip("0")) if digits.strip("0") else 0
    return Decimal(10) ** places


def amount(number: int | float) -> str:
    """A number as programs write it: ``61_706``."""
    return f"{number:_}"
