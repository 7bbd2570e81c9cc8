"""Measures text as the drawings set it, so that boxes can be made to fit."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

FAMILY = "Helvetica, Arial, sans-serif"
"""Arial, and the free Liberation Sans and Arimo, have Helvetica's widths."""


@lru_cache(16384)
def width(text: str, size: float, bold: bool = False) -> float:
    """The width of a line in points: Helvetica's, an em for each character that it lacks."""
    from reportlab.pdfbase.pdfmetrics import stringWidth

    font = "Helvetica-Bold" if bold else "Helvetica"
    known = "".join(c for c in text if _is_latin(c))
    return float(stringWidth(known, font, size)) + size * sum(not _is_latin(c) for c in text)


def _is_latin(character: str) -> bool:
    return unicodedata.normalize("NFC", character).encode("cp1252", "ignore") != b""


def shortened(text: str, size: float, most: float, bold: bool = False) -> str:
    """The text, or as much of its start as fits that width, with an ellipsis."""
    if width(text, size, bold) <= most:
        return text
    while text and width(f"{text}…", size, bold) > most:
        text = text[:-1].rstrip()
    return f"{text}…"


def wrapped(text: str, size: float, most: float, bold: bool = False) -> list[str]:
    """The text in lines of at most that width, broken between words; a long word stays whole."""
    lines: list[str] = []
    for word in text.split():
        if lines and width(f"{lines[-1]} {word}", size, bold) <= most:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
