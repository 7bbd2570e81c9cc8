"""Runs a kernel over a grid, a number of blocks at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from convdsl.plan.model import Kernel
from emulator.activity import Array, Mask
from emulator.banks import Banks
from emulator.execution import Execution
from emulator.memory import Pointer
from emulator.races import Log, Memory, Touched, compare, expanded
from emulator.rewriting import rewritten

TOGETHER = 1 << 14
"""Threads that run side by side, so that their vectors stay in a processor's cache."""
UNIT = 2
"""Bytes that have an owner where races are watched for: the smallest element."""


def launch(
    kernel: Kernel,
    blocks: int,
    threads: int,
    arrays: Sequence[Array],
    sizes: Sequence[int],
    together: int = TOGETHER,
    banks: Banks | None = None,
) -> None:
    """Run a kernel on so many blocks of so many threads; it writes into the arrays.

    ``banks`` counts accesses to shared memory. Arrays are contiguous and have one axis. Raises
    EmulationError for what is undefined on a GPU.
    """
    code = rewritten(kernel.source)
    names = [name for name, _ in kernel.pointers]
    written = set(names) if code.written is None else code.written
    watched = [_Watched(kernel.name, names, arrays, g) for g in _groups(arrays, names, written)]
    pointers = [
        Pointer(name, "buffer", array, len(array))
        for name, array in zip(names, arrays, strict=True)
    ]
    count = max(1, together // threads)
    with np.errstate(all="ignore"):
        for first in range(0, blocks, count):
            run = Execution(kernel.name, blocks, threads, first, min(count, blocks - first))
            run.banks = banks
            given = list(pointers)
            for memory in watched:
                for k, window in memory.windows(run):
                    given[k] = replace(pointers[k], log=window)
            code.run(run, *given, *(int(size) for size in sizes))
            for log in run.all_logs:
                log.block_barrier(None)
            for memory in watched:
                memory.collect(run)
    for memory in watched:
        memory.compare()


def _groups(arrays: Sequence[Array], names: Sequence[str], written: set[str]) -> list[list[int]]:
    """The arguments that lie in memory that the kernel writes, by that memory."""
    groups: list[list[int]] = []
    for k, name in enumerate(names):
        if name in written and not any(k in group for group in groups):
            groups.append([j for j, a in enumerate(arrays) if np.may_share_memory(arrays[k], a)])
    return groups


class _Window(NamedTuple):
    """Where the elements of an argument lie in a watched memory, in its units."""

    log: Log
    start: int
    scale: int

    def typed(self, itemsize: int) -> _Window:
        """The same for elements of another size."""
        return self._replace(scale=itemsize // UNIT)

    def add(self, kind: str, at: int | Array, width: int, mask: Mask, line: int) -> None:
        """Keep an access."""
        self.log.add(kind, at * self.scale + self.start, width * self.scale, mask, line)


class _Watched:
    """Memory that a kernel writes, and all its arguments that lie there."""

    def __init__(
        self, kernel: str, names: Sequence[str], arrays: Sequence[Array], group: list[int]
    ) -> None:
        self._group = {k: (_address(arrays[k]), arrays[k].itemsize) for k in group}
        self._start = min(address for address, _ in self._group.values())
        self._names = {k: names[k] for k in group}
        self._kernel = kernel
        end = max(_address(arrays[k]) + arrays[k].nbytes for k in group)
        owner = np.full((end - self._start) // UNIT, -1)
        self._memory = Memory(owner, self._element)
        self._log: Log | None = None
        self._by_block: list[Touched] = []
        self._rounds = 0
        self._barriers = 0

    def windows(self, run: Execution) -> list[tuple[int, _Window]]:
        """What the pointers get to note accesses with, by the number of the argument."""
        self._log = Log(self._memory, run.members, run.warps, keep=True)
        run.logs.append(self._log)
        return [
            (k, _Window(self._log, (address - self._start) // UNIT, itemsize // UNIT))
            for k, (address, itemsize) in self._group.items()
        ]

    def collect(self, run: Execution) -> None:
        """Keep what some blocks did, for the comparison with the others."""
        assert self._log is not None
        numbers = np.broadcast_to(run.block, run.threads)
        self._by_block += [expanded(access, numbers) for access in self._log.kept]
        self._rounds += 1
        self._barriers += self._log.barriers - 1

    def compare(self) -> None:
        """Raise where blocks are in each other's way, which nothing orders."""
        # What ran side by side without a barrier was compared thread by thread.
        if self._rounds > 1 or self._barriers:
            compare(self._by_block, self._memory, "block {}".format)

    def _element(self, number: int) -> str:
        byte = self._start + number * UNIT
        named = [
            f"`{self._names[k]}`[{(byte - address) // itemsize}]"
            for k, (address, itemsize) in self._group.items()
        ]
        return f"kernel `{self._kernel}`, buffer {' = '.join(named)}"


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
