"""What convolutions of 16 bits multiply: feature maps in blocks, and groups of whole blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from convdsl.kernels.cuda import maps, nests
from convdsl.kernels.cuda.frame import stored
from convdsl.kernels.cuda.narrow.slices import PIECE
from convdsl.kernels.cuda.tiles import NARROW
from convdsl.ops.families import Convolution, Reblock
from convdsl.plan.model import Call, Images
from convdsl.plan.parts import copy

Temporaries = list[tuple[str, int] | tuple[str, int, str]]
FEW = 4
"""Channels that half a piece holds."""


@dataclass(frozen=True)
class Groups:
    """Groups put together until each is whole blocks; weights between the parts are zero.

    ``channels`` and ``filters`` are those of one of the ``count`` groups, ``own_channels`` and
    ``own_filters`` those that are connected.
    """

    count: int
    channels: int
    filters: int
    own_channels: int
    own_filters: int

    @property
    def joined(self) -> int:
        """How many groups are one."""
        return self.channels // self.own_channels


def groups_of(family: Convolution, x_lanes: int, y_lanes: int) -> Groups:
    """As few groups together as have whole blocks of channels and of filters; or all of them."""
    channels, filters = family.channels // family.groups, family.filters // family.groups
    together = [
        n
        for n in range(1, family.groups + 1)
        if family.groups % n == 0 and channels * n % x_lanes == filters * n % y_lanes == 0
    ]
    n = min(together, default=family.groups)
    return Groups(family.groups // n, channels * n, filters * n, channels, filters)


@dataclass(frozen=True)
class FeatureMap:
    """A map of so many channels in blocks of ``lanes``, and what it is called in a recipe."""

    operand: str
    channels: int
    lanes: int
    between: int = 0
    """Elements between two images, where it is a part of a larger map."""

    @property
    def blocks(self) -> int:
        return -(-self.channels // self.lanes)

    def blocks_apart(self, pixels: int) -> int:
        """How many blocks of so many pixels lie from an image to the next."""
        return self.blocks + self.between // (pixels * self.lanes)


def in_blocks(
    given: FeatureMap,
    dtype: str,
    images: int,
    pixels: Sequence[int],
    precision: str,
    calls: list[Call],
    temporaries: Temporaries,
) -> FeatureMap:
    """A feature map in blocks of 16-bit numbers, in a temporary if it is not so already."""
    wanted = NARROW[precision]
    if given.lanes > 1 and dtype == wanted:
        return given
    lanes = given.lanes
    if lanes == 1:
        lanes = FEW if given.channels <= FEW else PIECE
    made = FeatureMap(f"{given.operand}_rounded", given.channels, lanes)
    size = made.blocks * math.prod(pixels) * lanes
    temporaries.append((made.operand, images * size, wanted))
    apart = Images(gaps=(given.between, 0), count=images)
    if given.lanes == 1:
        move = Reblock(images, given.channels, math.prod(pixels), lanes)
        moved = nests.recipe(move, apart)
    else:
        moved = maps.recipe(copy(images, size), apart)
    (call,) = stored(moved, (dtype, wanted)).calls
    calls.append(replace(call, operands=(given.operand, made.operand)))
    return made
