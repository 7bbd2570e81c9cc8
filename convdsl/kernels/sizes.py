"""The sizes of a window over volumes, as the generators name them.

Images have depth 1 and series height 1 too, so that one kernel serves all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convdsl.ops.families import Geometry


@dataclass(frozen=True)
class Sizes:
    """Input, output, window, stride, padding before and dilation, by depth, height and width."""

    D: int
    H: int
    W: int
    OD: int
    OH: int
    OW: int
    KD: int
    KH: int
    KW: int
    SD: int
    SH: int
    SW: int
    PD: int
    PH: int
    PW: int
    DD: int
    DH: int
    DW: int

    @property
    def padded_depth(self) -> int:
        """As many planes as the windows reach; fewer than the input's where they leave some out."""
        return (self.OD - 1) * self.SD + (self.KD - 1) * self.DD + 1

    @property
    def padded_height(self) -> int:
        """As many rows as the windows reach."""
        return (self.OH - 1) * self.SH + (self.KH - 1) * self.DH + 1

    @property
    def padded_width(self) -> int:
        """As many columns as the windows reach."""
        return (self.OW - 1) * self.SW + (self.KW - 1) * self.DW + 1

    @property
    def padded_pixels(self) -> int:
        return self.padded_depth * self.padded_height * self.padded_width

    @property
    def inputs(self) -> int:
        """Positions of the input."""
        return self.D * self.H * self.W

    @property
    def outputs(self) -> int:
        """Positions of the result."""
        return self.OD * self.OH * self.OW

    @property
    def taps(self) -> int:
        """Elements of the window."""
        return self.KD * self.KH * self.KW

    @property
    def inside(self) -> bool:
        """Whether no window meets a border, so that the input serves as it is."""
        fits = self.padded_depth <= self.D
        fits = fits and self.padded_height <= self.H and self.padded_width <= self.W
        return fits and self.PD == self.PH == self.PW == 0


def triple(sizes: Sequence[int], fill: int) -> tuple[int, ...]:
    """Sizes of a series, image or volume by depth, height and width."""
    return (fill, fill, *sizes)[-3:]


def sizes_of(g: Geometry) -> Sizes:
    """The sizes of a window over volumes, images or series."""
    rows = (
        (g.input, 1),
        (g.output, 1),
        (g.window, 1),
        (g.stride, 1),
        (g.before, 0),
        (g.dilation, 1),
    )
    return Sizes(*(size for sizes, fill in rows for size in triple(sizes, fill)))
