"""Which part of a matrix product a block computes, and the model that chooses it by shape.

Convolutions are matrix products here (implicit GEMM, Chetlur et al. 2014): a block computes a tile
of the result, a thread a tile of that in registers, from slices of both factors in shared memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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


DEPTH = 16
"""Rows of a slice, the same for all tiles: how weights are packed depends on it."""
RATES = {"fp32": 1, "tf32": 4, "bf16": 8, "fp16": 8}
"""How many times as fast as float32 units tensor cores multiply (A100)."""
PADS = {"tf32": 8}
"""Floats between rows of a slice, with which the lanes of a fragment meet 32 different banks."""
NARROW = {"bf16": "bfloat16", "fp16": "float16"}
"""The precisions whose factors have 16 bits, and the element types of their memory."""


@dataclass(frozen=True)
class Tile:
    """What a block computes of rows×columns, and how.

    With the precision ``fp32`` a thread computes height×width of it; with another a warp does, on
    tensor cores, with the factors rounded to that precision and sums in float32. Slices hold
    float32, and factors of 16 bits where the precision is one of those.
    """

    rows: int
    columns: int
    height: int = 8
    width: int = 8
    stages: int = 2
    """Slices in shared memory: one is used while the others arrive."""
    precision: str = "fp32"
    depth: int = DEPTH

    @property
    def on_tensor_cores(self) -> bool:
        return self.precision != "fp32"

    @property
    def narrow(self) -> bool:
        return self.precision in NARROW

    @property
    def threads(self) -> int:
        teams = self.rows // self.height * (self.columns // self.width)
        return teams * 32 if self.on_tensor_cores else teams

    @property
    def sums(self) -> int:
        """How many a thread keeps."""
        return self.height * self.width // (32 if self.on_tensor_cores else 1)

    @property
    def row_offsets(self) -> list[int]:
        """The rows whose sums a thread has in the end, counted from its first."""
        if self.on_tensor_cores:
            return list(range(0, self.height, 16))
        apart = self.rows * 4 // self.height
        return [row // 4 * apart + row % 4 for row in range(self.height)]

    @property
    def column_offsets(self) -> list[int]:
        """The columns whose sums a thread has in the end, counted from its first; in fours."""
        if self.on_tensor_cores:
            return [first + k for first in range(0, self.width, 8) for k in range(4)]
        apart = self.columns * 4 // self.width
        return [column // 4 * apart + column % 4 for column in range(self.width)]

    @property
    def rate(self) -> float:
        """Sums of a multiprocessor in a cycle, while all its threads are busy."""
        if self.on_tensor_cores:
            # Fragments are read from shared memory, 128 bytes in a cycle.
            reads = (self.height + self.width) / (64 if self.narrow else 32)
            multiplies = self.height * self.width / (LANES * RATES[self.precision])
            return self.height * self.width / max(reads, multiplies)
        # The rest of its cycles a thread reads factors.
        sums = self.height * self.width
        return LANES * sums / (sums + self.height + self.width + 8)

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


NARROW_DEPTH = 32
"""Elements of a slice's rows that have 16 bits: four accesses of 16 bytes."""
NARROW_SHAPES = (
    (128, 128, 64, 32, 3),
    (128, 64, 64, 32, 3),
    (64, 128, 32, 64, 3),
    (64, 64, 32, 32, 4),
    (128, 32, 32, 32, 4),
    (32, 128, 32, 32, 4),
    (32, 64, 16, 32, 4),
    (64, 32, 32, 16, 4),
)
"""Rows, columns, height and width of a warp's part, and stages, which fit into 48 KiB."""
MOST_GATHERING = 128
"""Threads of a block that gathers by windows: two blocks of twice as many would leave too few
registers for addresses, and ptxas would spill."""


def tiles_for(precision: str, gathering: bool = False) -> tuple[Tile, ...]:
    """The tiles to choose from, for slices that are ``gathering`` by windows or lie in rows."""
    if precision in NARROW:
        return tuple(Tile(*shape, precision, NARROW_DEPTH) for shape in NARROW_SHAPES)
    if gathering:
        return tuple(t for t in tiles_for(precision) if t.threads <= MOST_GATHERING)
    if precision == "fp32":
        return TILES
    shapes = (
        (128, 128, 64, 32, 2),
        (64, 128, 32, 64, 3),
        (128, 64, 64, 32, 3),
        (64, 64, 32, 32, 3),
        (32, 128, 32, 32, 3),
        (32, 64, 16, 32, 3),
        (64, 32, 32, 16, 3),
        (16, 128, 16, 32, 3),
    )
    return tuple(Tile(*shape, precision) for shape in shapes)


@dataclass(frozen=True)
class Work:
    """A tile, and into how many parts the sums over the inner axis are split."""

    tile: Tile
    splits: int
    blocks: int
    cycles: float = 0.0
    """How long it should take, of a multiprocessor's."""

    @property
    def reason(self) -> str:
        """The choice, for people who read plans."""
        split = f", sums in {self.splits} parts" if self.splits > 1 else ""
        plural = "s" if self.blocks > 1 else ""
        tile = self.tile
        who = f"a warp in {tile.precision}" if tile.on_tensor_cores else "a thread"
        return (
            f"tiles of {tile}, {tile.height}×{tile.width} {who}{split}: {self.blocks} block{plural}"
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
    best: Work | None = None
    for tile in tiles:
        down = -(-rows // tile.rows)
        across = sum(-(-width // tile.columns) for width in columns)
        units = batch * down * across
        slices = max(1, -(-inner // tile.depth))
        for splits in _splits(slices) if splittable else (1,):
            work = Work(tile, splits, units * splits)
            cycles = _cycles(work, slices, 4 * batch * rows * sum(columns))
            if best is None or cycles < best.cycles:
                best = replace(work, cycles=cycles)
    assert best is not None
    return best


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
    cycles = each * sums / (tile.rate * busy) + START * -(-each // together)
    if work.splits > 1:
        cycles += LAUNCH + 2 * work.splits * result / BANDWIDTH
    return cycles
