"""The processes that train together, seen from one of them; here the one that trains alone.

`training/ranks.py` has the others. What trains is written for any number of them: it asks the
job for its part of the work, and lets what may fail in one process alone fail in all `together`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

import numpy as np

from convdsl.runtime.program import Program
from convdsl.training.interruption import Interruptions
from convdsl.training.loading import Shard

Array = np.ndarray
T = TypeVar("T")


class Steps(Protocol):
    """What takes the steps of a training."""

    def step(self, *arrays: Array, lr: float) -> float:
        """One step on this process's part of a batch; returns the loss of the whole batch."""


class Job:
    """A process that trains alone.

    Where there are several, all of them have to call the methods that give or take something of the
    others, in the same order: `parallel`, `together`, `mean`, `all_of`, `of_first`, `in_turn`.
    """

    rank = 0
    """The number of this process."""
    size = 1
    """How many processes there are."""

    def __init__(self) -> None:
        self._interruptions = Interruptions()

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and speaks to people."""
        return self.rank == 0

    @property
    def shard(self) -> Shard:
        """The part of every batch that this process takes."""
        return Shard(self.rank, self.size)

    def share(self, batch: int) -> int:
        """How many examples of a batch this process takes.

        Raises CompileError E574 where the processes' parts would differ.
        """
        return batch

    def part(self, indices: Array) -> Array:
        """The part of these that falls to this process where everything is done once."""
        part: Array = np.array_split(indices, self.size)[self.rank]
        return part

    def threads(self, wanted: int | None = None) -> int | None:
        """How many threads this process computes with, as `Network.compile` takes it."""
        return wanted

    def parallel(self, program: Program) -> Steps:
        """What takes the steps of a program for this process's part of the batch."""
        return program

    # -- what fails --------------------------------------------------------------------------
    def held_back(self) -> AbstractContextManager[None]:
        """Within, Ctrl-C takes effect only `together`."""
        return self._interruptions.held_back()

    def together(self, interruptible: bool = True) -> AbstractContextManager[None]:
        """Within, a CompileError or Ctrl-C in one process is raised in all of them, at the end.

        So is what the operating system refused, where there are several, as E500.
        Nothing that needs the other processes may be done there. What is not ``interruptible`` is
        done to the end before Ctrl-C takes effect.
        """
        return self._interruptions.allowed() if interruptible else nullcontext()

    def leave_words(self, words: str) -> None:
        """What to tell people should the job be killed; each time in place of the words before."""

    # -- what is exchanged -------------------------------------------------------------------
    def mean(self, value: float) -> float:
        """The mean of a number over all processes."""
        return value

    def all_of(self, value: T) -> list[T]:
        """What every process has, in their order."""
        return [value]

    def of_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all of them; failing is done together."""
        with self.together():
            return make()

    def in_turn(self, make: Callable[[], T]) -> T:
        """What every process makes, first one of each machine and then its others.

        So these find in the machine's cache what the first one put there. Failing is done together.
        """
        with self.together():
            return make()
