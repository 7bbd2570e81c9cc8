"""The sizes of a window over images, as the generators name them; a series has height 1."""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.ops.families import Geometry


@dataclass(frozen=True)
class Sizes:
    """Input, output, window, stride, padding before and dilation, by height and width."""

    H: int
    W: int
    OH: int
    OW: int
    KH: int
    KW: int
    SH: int
    SW: int
    PH: int
    PW: int
    DH: int
    DW: int

    @property
    def padded_height(self) -> int:
        """As many rows as the windows reach; fewer than the input's where they leave some out."""
        return (self.OH - 1) * self.SH + (self.KH - 1) * self.DH + 1

    @property
    def padded_width(self) -> int:
        """As many columns as the windows reach."""
        return (self.OW - 1) * self.SW + (self.KW - 1) * self.DW + 1

    @property
    def padded_size(self) -> int:
        return self.padded_height * self.padded_width

    @property
    def inside(self) -> bool:
        """Whether no window meets a border, so that the input serves as it is."""
        fits = self.padded_height <= self.H and self.padded_width <= self.W
        return fits and self.PH == self.PW == 0


def sizes_of(g: Geometry) -> Sizes:
    """The sizes of a window over images or series."""
    rows = (
        (g.input, 1),
        (g.output, 1),
        (g.window, 1),
        (g.stride, 1),
        (g.before, 0),
        (g.dilation, 1),
    )
    pairs = [(fill, *sizes)[-2:] for sizes, fill in rows]
    return Sizes(*(size for pair in pairs for size in pair))
