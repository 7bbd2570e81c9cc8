"""The language stage: text to syntax tree to typed graph, and back to text."""

from __future__ import annotations

from convdsl.language.elaboration import Elaborated, elaborate, net_names
from convdsl.language.parsing import parse

__all__ = ["Elaborated", "elaborate", "net_names", "parse"]
