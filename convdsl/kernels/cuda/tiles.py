"""Which part of a matrix product a block computes, and the model that chooses it by shape.

Convolutions are matrix products here (implicit GEMM, Chetlur et al. 2014): a block computes a tile
of the result, a thread a tile of that in registers, from slices of both factors in shared memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convdsl.kernels.cuda.frame import resident

PROCESSORS = 132
"""Streaming multiprocessors of an H100; an A100 has 108, which changes few choices."""
LANES = 128
"""Multiply-adds a multiprocessor does in a cycle."""
WARPS = 8
"""Warps that hide the latency of multiply-adds and of shared memory."""
START = 2_000
"""Cycles a block takes besides its sums: first loads, addresses, storing."""
LAUNCH = 3_000
"""Cycles a further kernel costs."""
BANDWIDTH = 1_400
"""Bytes of memory the whole device moves in a cycle."""


@dataclass(frozen=True)
class Tile:
    """What a block and a thread compute of rows×columns, and how deep the slices are."""

    rows: int
    columns: int
    height: int = 8
    width: int = 8
    depth: int = 16
    stages: int = 2
    """Slices in shared memory: one is used while the others arrive."""

    @property
    def threads(self) -> int:
        return self.rows // self.height * (self.columns // self.width)

    @property
    def efficiency(self) -> float:
        """The share of its cycles that a thread multiplies; the rest loads from shared memory."""
        sums = self.height * self.width
        return sums / (sums + 4 * (self.height + self.width) / 4 + 8)

    def __str__(self) -> str:
        return f"{self.rows}×{self.columns}"


TILES = (
    Tile(128, 128),
    Tile(64, 128),
    Tile(128, 64),
    Tile(64, 64, 8, 4),
    Tile(32, 128, 4, 8),
    Tile(32, 64, 4, 4),
    Tile(64, 32, 4, 4),
    Tile(32, 32, 4, 4),
    Tile(16, 128, 4, 4),
    Tile(16, 64, 4, 4),
)


@dataclass(frozen=True)
class Work:
    """A tile, and into how many parts the sums over the inner axis are split."""

    tile: Tile
    splits: int
    blocks: int

    @property
    def reason(self) -> str:
        """The choice, for people who read plans."""
        split = f", sums in {self.splits} parts" if self.splits > 1 else ""
        plural = "s" if self.blocks > 1 else ""
        return (
            f"tiles of {self.tile}, {self.tile.height}×{self.tile.width} a thread{split}: "
            f"{self.blocks} block{plural}"
        )


def choose(
    rows: int,
    columns: Sequence[int],
    inner: int,
    batch: int = 1,
    tiles: Sequence[Tile] = TILES,
    splittable: bool = True,
) -> Work:
    """The fastest tile and split for ``batch`` products of rows×inner by inner×columns.

    ``columns`` are the widths of the pieces that tiles do not straddle.
    """
    best: tuple[float, Work] | None = None
    for tile in tiles:
        down = -(-rows // tile.rows)
        across = sum(-(-width // tile.columns) for width in columns)
        units = batch * down * across
        slices = max(1, -(-inner // tile.depth))
        for splits in _splits(slices) if splittable else (1,):
            work = Work(tile, splits, units * splits)
            cycles = _cycles(work, slices, 4 * batch * rows * sum(columns))
            if best is None or cycles < best[0]:
                best = cycles, work
    assert best is not None
    return best[1]


def _splits(slices: int) -> list[int]:
    found = [1]
    # A part of fewer slices than this does little else than start.
    while found[-1] * 2 * 4 <= slices and found[-1] < 256:
        found.append(found[-1] * 2)
    return found


def _cycles(work: Work, slices: int, result: int) -> float:
    tile = work.tile
    each = -(-work.blocks // PROCESSORS)
    together = min(each, resident(tile.threads))
    busy = min(1.0, together * tile.threads / 32 / WARPS)
    sums = tile.rows * tile.columns * tile.depth * -(-slices // work.splits)
    cycles = each * sums / (LANES * busy * tile.efficiency) + START * -(-each // together)
    if work.splits > 1:
        cycles += LAUNCH + 2 * work.splits * result / BANDWIDTH
    return cycles
