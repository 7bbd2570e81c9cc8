"""Register tiles of convolutions on the CPU: pixels × filters whose sums are in registers."""

from __future__ import annotations

from dataclasses import dataclass

LATENCY = 8
"""Multiply-adds that must be under way for one to finish every half cycle."""
LINE = 16
"""Elements of a line of the cache."""
NEAR = 1 << 18
"""Bytes of input that one unit of work may sweep: they stay in the second-level cache."""


@dataclass(frozen=True)
class Tile:
    """Pixels and vectors of filters whose totals are in registers at a time."""

    pixels: int
    vectors: int


def tile_of(
    width: int, blocks: int, registers: int, whole: bool = False, weight: float = 0.75
) -> Tile:
    """The best tile for rows of that width and so many blocks of filters.

    With ``whole`` the tiles divide the blocks. ``weight`` is what loading a vector of weights costs
    in multiply-adds.
    """

    def step(pixels: int, vectors: int) -> float:
        # Half cycles for a channel: the multiply-adds or their latency, and some for the loads.
        return max(pixels * vectors, LATENCY) + 0.25 * pixels + weight * vectors + 1

    def cost(tile: Tile) -> float:
        full, rest = divmod(width, tile.pixels)
        row = full * step(tile.pixels, tile.vectors)
        if rest:  # a second tile, which has to be compiled, too
            row = (row + step(rest, tile.vectors)) * 1.03
        return row * -(-blocks // tile.vectors)

    candidates = [
        Tile(pixels, vectors)
        for vectors in range(1, 5)
        if vectors <= blocks and not (whole and blocks % vectors)
        for pixels in range(1, min(width, (registers - 1 - vectors) // vectors) + 1)
    ]
    return min(candidates, key=cost)


@dataclass(frozen=True)
class Ahead:
    """What is fetched of the weights that are needed next, along with every step of a sum.

    ``count`` vectors of them from ``next`` on, which then moves by ``pace`` elements.
    """

    count: int
    pace: int

    def statements(self, weights: str, lanes: int) -> list[str]:
        """The statements of a step; ``next`` and ``pace`` are variables of the kernel."""
        lines = [f"prefetch({weights}, next + {i * lanes})" for i in range(self.count)]
        return [*lines, "next += pace"] if lines else []


def ahead_of(vectors: int, lanes: int, sweeps: int) -> Ahead:
    """Weights of so many vectors a step are swept so often before the next are needed."""
    count = -(-vectors // max(sweeps, 1))
    return Ahead(count, min(count * lanes, -(-vectors * lanes // max(sweeps, 1))))
