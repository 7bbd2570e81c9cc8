"""Some blocks of a launch, all of whose threads run side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from emulator.activity import Activity, Array, Mask
from emulator.errors import EmulationError
from emulator.memory import BLANK, Pointer
from emulator.races import Log, Members, Memory

if TYPE_CHECKING:
    from emulator.banks import Banks
    from emulator.instructions import Copies

WARP = 32
"""Threads of a warp."""


class Execution(Activity):
    """The threads of some neighbouring blocks, their shared memory, and their place in the grid.

    Blocks are filled up to whole warps with threads that never become active. ``logs`` are those
    of global memory.
    """

    def __init__(self, kernel: str, grid: int, block_threads: int, first: int, blocks: int) -> None:
        self.kernel = kernel
        self.grid = grid
        self.block_threads = block_threads
        self.row = -(-block_threads // WARP) * WARP
        self.first = first
        self.blocks = blocks
        numbers = np.arange(blocks * self.row)
        live = None if self.row == block_threads else numbers % self.row < block_threads
        super().__init__(len(numbers), live)
        self.thread = numbers % self.row
        self.block: Any = first if blocks == 1 else first + numbers // self.row
        self.lane = numbers % WARP
        self.members = Members(first * self.row + numbers, self._thread_name)
        self.warps = Members(self.members.numbers // WARP, self._warp_name)
        self.logs: list[Log] = []
        self.copies: Copies | None = None
        self.banks: Banks | None = None
        self._shared: dict[int, Pointer] = {}

    # -- names, for people ---------------------------------------------------------------------
    def at(self, line: int) -> str:
        return f"kernel `{self.kernel}`, line {line}"

    def who(self, thread: int) -> str:
        """One of the threads that run side by side, by its place in the grid."""
        return self._thread_name(int(self.members.numbers[thread]))

    def _thread_name(self, number: int) -> str:
        return f"thread {number % self.row} of block {number // self.row}"

    def _warp_name(self, number: int) -> str:
        warps = self.row // WARP
        return f"warp {number % warps} of block {number // warps}"

    # -- shared memory -------------------------------------------------------------------------
    def share(self, name: str, dtype: str, count: int, line: int) -> Pointer:
        """The shared memory that a line of the kernel declares; it is there from the start."""
        if line not in self._shared:
            items = np.full(count * self.blocks, BLANK[dtype], dtype)
            base = None if self.blocks == 1 else np.arange(self.threads) // self.row * count
            described = f"kernel `{self.kernel}`, shared `{name}`"
            memory = Memory(
                np.full(len(items), -1), lambda element: f"{described}[{element % count}]"
            )
            log = Log(memory, self.members, self.warps)
            self._shared[line] = Pointer(name, "shared", items, count, base, log=log)
        return self._shared[line]

    @property
    def all_logs(self) -> Sequence[Log]:
        return [*self.logs, *(p.log for p in self._shared.values())]

    # -- convergence ---------------------------------------------------------------------------
    def together(self, size: int, what: str, line: int, exited: bool = True) -> Mask:
        """The active threads, in groups of so many of which all must be active or none.

        Threads that have returned, or never were, need not be there if ``exited`` ones may be
        missing.
        """
        if self.mask is self.live and (exited or self.live is None):
            return self.mask
        active = self.active(self.mask)
        wanted = self.active(self.live if exited else None)
        groups = active.reshape(-1, size)
        missing = groups.any(axis=1, keepdims=True) & ~groups & wanted.reshape(-1, size)
        if missing.any():
            absent = self.who(int(np.flatnonzero(missing)[0]))
            present = self.who(int(np.flatnonzero(active & missing.any(axis=1).repeat(size))[0]))
            raise EmulationError(
                f"{self.at(line)}: {present} is at {what}, {absent} is not, and never both will be"
            )
        return active


def per_warp(values: Any, run: Execution) -> Array:
    """Values as a row per warp."""
    return np.broadcast_to(values, run.threads).reshape(-1, WARP)
