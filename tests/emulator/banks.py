"""Bank conflicts: how often a warp's access to shared memory has to be repeated.

Shared memory has 32 banks of 4 bytes, each of which serves one word at a time to as many threads as
want it. An access of up to 4 bytes is served to a warp at once, one of 8 bytes to half a warp, one
of 16 bytes to a quarter: those are *phases*. A phase takes as many wavefronts as the busiest bank
has words to serve.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emulator.activity import Array

if TYPE_CHECKING:
    from emulator.execution import Execution
    from emulator.memory import Pointer

BANKS = 32
WORD = 4
"""Bytes of a bank's word."""


@dataclass
class Tally:
    """What a line of a kernel did to a memory."""

    memory: str
    phases: int = 0
    wavefronts: int = 0

    @property
    def ways(self) -> float:
        """How many times as long accesses take as without conflicts."""
        return self.wavefronts / self.phases


class Banks:
    """The accesses of a launch to shared memory, by line and memory."""

    def __init__(self) -> None:
        self.tallies: dict[tuple[int, str], Tally] = {}

    def add(self, run: Execution, pointer: Pointer, at: Any, width: int, line: int) -> None:
        """Count an access of so many elements from ``at`` on, by the active threads."""
        bytes = width * pointer.items.itemsize
        threads = {16: 8, 8: 16}.get(bytes, 32)
        first = np.broadcast_to(at, run.threads) * pointer.items.itemsize // WORD
        words = first[:, None] + np.arange(max(1, bytes // WORD))
        phases = words.reshape(-1, threads, words.shape[1])
        active = run.active(run.mask).reshape(-1, threads)
        tally = self.tallies.setdefault((line, pointer.name), Tally(pointer.name))
        tally.phases += int(active.any(axis=1).sum())
        tally.wavefronts += _wavefronts(phases, active)

    @property
    def conflicts(self) -> dict[tuple[int, str], float]:
        """By line and memory, how many times as long accesses take, where there are conflicts."""
        return {place: tally.ways for place, tally in self.tallies.items() if tally.ways > 1}


def _wavefronts(words: Array, active: Array) -> int:
    """Those of all phases together: phases × threads × words."""
    phase = np.broadcast_to(np.arange(len(words))[:, None, None], words.shape)
    chosen = np.broadcast_to(active[:, :, None], words.shape)
    served = np.unique(np.stack([phase[chosen], words[chosen]]), axis=1)
    counts = np.zeros((len(words), BANKS), np.int64)
    np.add.at(counts, (served[0], served[1] % BANKS), 1)
    return int(counts.max(axis=1).sum())


def report(banks: Iterable[Banks]) -> str:
    """A line for every access that has conflicts."""
    return "\n".join(
        f"line {line}, `{memory}`: {ways:.1f} times as long"
        for found in banks
        for (line, memory), ways in sorted(found.conflicts.items())
    )
