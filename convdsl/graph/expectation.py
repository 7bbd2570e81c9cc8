"""What a program's `expect` clauses claim; analysis holds them against the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from convdsl.diagnostics import Span
from convdsl.graph.graph import Value

Quantity = Literal["shape", "params", "macs", "flops", "rf", "memory"]


@dataclass(frozen=True)
class Expectation:
    """One claim about a statement or about the whole network.

    ``expected`` is a tuple for ``shape`` (channels, *spatial) and for a receptive field given per
    axis, else a number. For the relation ``~`` the precision is the one of ``written``, the number
    as it stands in the text (``60M`` holds from 59.5M to 60.5M).
    """

    quantity: Quantity
    relation: Literal["=", "~"]
    expected: tuple[int, ...] | int | float
    written: str
    span: Span
    nodes: tuple[str, ...] = ()
    """Names of the nodes of the statement; for the whole network, none."""
    value: Value | None = None
    """The statement's result; for the whole network, None."""
