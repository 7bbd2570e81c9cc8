"""The types of the values that flow through a graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

Shape = tuple[int, ...]


def extents(sizes: tuple[int, ...]) -> str:
    """Sizes in the papers' notation: ``5x5``."""
    return "x".join(str(s) for s in sizes)


@dataclass(frozen=True)
class TensorType:
    """A tensor's shape and element type.

    ``shape`` leaves out the batch axis: ``(channels, *spatial)`` for a feature map, ``(features,)``
    for a vector, ``()`` for a scalar. ``batched`` says whether a batch axis stands before it; the
    batch is symbolic until a program is planned. Weights are not batched.
    """

    shape: Shape
    dtype: str = "float32"
    batched: bool = True

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def spatial(self) -> Shape:
        return self.shape[1:]

    @property
    def rank(self) -> int:
        """The number of spatial axes: 1 for series, 2 for images, 3 for volumes, 0 for vectors."""
        return max(len(self.shape) - 1, 0)

    @property
    def size(self) -> int:
        """The number of elements, without the batch."""
        return math.prod(self.shape)

    def with_batch(self, batch: int) -> Shape:
        """The full shape for a batch of that many."""
        return (batch, *self.shape) if self.batched else self.shape

    def __str__(self) -> str:
        if not self.shape:
            return "scalar"
        text = str(self.shape[0])
        if self.spatial:
            text += f"@{extents(self.spatial)}"
        return text
