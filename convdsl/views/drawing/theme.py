"""The colours of drawings: by kind of op, by amount, on light and on dark ground."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """Colours that go together, as ``#RRGGBB``."""

    ground: str
    ink: str
    """Text on the ground, and outlines."""
    faint: str
    """Secondary text, arrows, clusters' outlines."""
    outline: str
    """Around what is filled."""
    panel: str
    """What lies behind a block instance."""
    on_fill: str
    """Text on the colours below."""
    fills: Mapping[str, str]
    """By category of op."""
    plain: str
    """Ops of another category."""
    input: str
    """What a network is given."""
    window: str
    """The part of a map that an element of the next sees."""
    heat: tuple[str, ...]
    """Amounts, from none to the largest."""

    def fill(self, category: str) -> str:
        """The colour of a kind of op."""
        return self.fills.get(category, self.plain)

    def amount(self, value: float, largest: float) -> str:
        """The colour of an amount, on a logarithmic scale over four decades."""
        if value <= 0 or largest <= 0:
            return self.heat[0]
        share = max(0.0, 1 + math.log10(value / largest) / 4)
        return self.heat[1 + round(share * (len(self.heat) - 2))]


LIGHT = Theme(
    ground="#FFFFFF",
    ink="#222222",
    faint="#666666",
    outline="#222222",
    panel="#F4F4F4",
    on_fill="#000000",
    # Paul Tol's *light* scheme: made for black text on filled cells, distinct to colour-blind
    # people.
    fills={
        "convolution": "#77AADD",
        "pooling": "#EE8866",
        "dense": "#BBCC33",
        "activation": "#EEDD88",
        "normalisation": "#44BB99",
        "merge": "#FFAABB",
        "shape": "#99DDFF",
        "loss": "#AAAA00",
    },
    plain="#DDDDDD",
    input="#FFFFFF",
    window="#FFFFFF",
    # Paul Tol's sequential *YlOrBr*, up to where black text is still read on it.
    heat=("#FFFFFF", "#FFF7BC", "#FEE391", "#FEC44F", "#FB9A29", "#EC7014"),
)

DARK = Theme(
    ground="#1B1E23",
    ink="#E8E8E8",
    faint="#A8ADB4",
    outline="#0C0E11",
    panel="#262A31",
    on_fill="#000000",
    fills=LIGHT.fills,
    plain="#C8C8C8",
    input="#E8E8E8",
    window="#E8E8E8",
    heat=("#E4E6E9", *LIGHT.heat[1:]),
)

THEMES = {"light": LIGHT, "dark": DARK}
