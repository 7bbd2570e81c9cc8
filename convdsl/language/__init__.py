"""The language stage: text to syntax tree to typed graph, and back to text."""

from __future__ import annotations

from convdsl.language.canonical import to_text
from convdsl.language.elaboration import Elaborated, elaborate, net_names, recipe
from convdsl.language.formatting import format_text
from convdsl.language.parsing import parse

__all__ = ["Elaborated", "elaborate", "format_text", "net_names", "parse", "recipe", "to_text"]
