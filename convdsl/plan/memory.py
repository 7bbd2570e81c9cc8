"""Places buffers in an arena so that those alive at the same time do not overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ALIGNMENT = 64
"""Bytes: a cache line, and enough for any vector."""


@dataclass(frozen=True)
class Lifetime:
    """A buffer's size in bytes and the steps, both included, between which it holds data."""

    bytes: int
    first: int
    last: int

    @property
    def padded(self) -> int:
        return -(-self.bytes // ALIGNMENT) * ALIGNMENT


def place(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """An offset for every buffer, and the size of the arena.

    Largest first, each at the tightest gap among those already placed that live at the same time
    (Pisarchyk and Lee 2020, greedy by size).
    """
    order = sorted(range(len(lifetimes)), key=lambda i: (-lifetimes[i].padded, lifetimes[i].first))
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    for index in order:
        own = lifetimes[index]
        neighbours = sorted(
            (offsets[other], offsets[other] + lifetimes[other].padded)
            for other in placed
            if lifetimes[other].first <= own.last and own.first <= lifetimes[other].last
        )
        offsets[index] = _tightest(neighbours, own.padded)
        placed.append(index)
    end = max((o + life.padded for o, life in zip(offsets, lifetimes, strict=True)), default=0)
    return offsets, end


def _tightest(taken: Iterable[tuple[int, int]], size: int) -> int:
    best: tuple[int, int] | None = None
    cursor = 0
    for start, end in taken:
        gap = start - cursor
        if gap >= size and (best is None or gap < best[0]):
            best = (gap, cursor)
        cursor = max(cursor, end)
    return best[1] if best else cursor


def largest_live_set(lifetimes: Sequence[Lifetime]) -> int:
    """The most bytes alive at any step."""
    changes: dict[int, int] = {}
    for life in lifetimes:
        changes[life.first] = changes.get(life.first, 0) + life.padded
        changes[life.last + 1] = changes.get(life.last + 1, 0) - life.padded
    live = most = 0
    for step in sorted(changes):
        live += changes[step]
        most = max(most, live)
    return most
