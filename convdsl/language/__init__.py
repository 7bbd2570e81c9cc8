"""The language stage: text to syntax tree to typed graph, and back to text."""

from __future__ import annotations

from convdsl.language.parsing import parse

__all__ = ["parse"]
