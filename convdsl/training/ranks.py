"""Training as one of several processes: the ranks of an MPI job, which `mpiexec -n K` started.

What fails in some ranks fails in all, so that none waits for another without end. mpi4py is
imported only by processes that a launcher says it started.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import numpy as np

from convdsl.diagnostics import CompileError, Diagnostic, problem, refused, render
from convdsl.runtime.processor import own_cores
from convdsl.runtime.program import Program
from convdsl.training.jobs import Job
from convdsl.training.last_words import LastWords
from convdsl.training.launchers import launched, started
from convdsl.training.parallel import BUCKET, DataParallel

T = TypeVar("T")

PASSED_ON = 0.5
"""Seconds in which launchers have passed on what was printed; aborted, they drop what they have."""
RESTED = 0.005
"""Seconds between two looks whether the others are there, where they may take long."""


class Ranks(Job):
    """The processes of an MPI job, seen from one of them: one is a rank of ``communicator``."""

    def __init__(self, communicator: Any) -> None:
        from mpi4py import MPI

        super().__init__()
        self.rank, self.size = communicator.rank, communicator.size
        self.failure: BaseException | None = None
        """What all ranks failed with together."""
        self._mpi: Any = MPI
        self._ranks = communicator
        self._neighbours = communicator.Split_type(MPI.COMM_TYPE_SHARED)
        self._last_words = LastWords() if self.writes and self.size > 1 else None
        self.leave_words("it had come to no checkpoint")

    def share(self, batch: int) -> int:
        if batch % self.size:
            raise problem(
                "E574",
                f"a batch of {batch} does not divide into equal parts for {self.size} processes",
                f"`--batch {batch + -batch % self.size}` does",
            )
        return batch // self.size

    def threads(self, wanted: int | None = None) -> int | None:
        """As wanted, else as ``NUMBA_NUM_THREADS`` says, else this process's share of the cores.

        Cores are shared by the processes of a machine that may use them: where the launcher binds
        each to cores of its own, these are its share.
        """
        mine = own_cores()
        sharing = sum(bool(mine & others) for others in self._neighbours.allgather(mine))
        if wanted is not None or "NUMBA_NUM_THREADS" in os.environ:
            return wanted
        return max(1, len(mine) // sharing)

    def parallel(self, program: Program, bucket: int = BUCKET) -> DataParallel:
        return DataParallel(program, self._ranks, bucket)

    # -- what fails --------------------------------------------------------------------------
    def together(self, interruptible: bool = True) -> AbstractContextManager[None]:
        return self._together(interruptible)

    @contextmanager
    def _together(self, interruptible: bool = True, patient: bool = False) -> Iterator[None]:
        failure: CompileError | KeyboardInterrupt | None = None
        try:
            with super().together(interruptible):
                yield
        except (CompileError, KeyboardInterrupt) as error:
            failure = error
        except (OSError, MemoryError) as error:
            failure = refused(error)
        if patient:
            self._rest()
        self._agree(failure)

    def _rest(self) -> None:
        """Wait for all ranks, long as it may take, and leave the cores to them.

        MPI's own waiting is fast because it keeps a core busy.
        """
        all_here = self._ranks.Ibarrier()
        while not all_here.Test():
            time.sleep(RESTED)

    def _agree(self, failure: CompileError | KeyboardInterrupt | None) -> None:
        """Raise in all ranks what failed in some; diagnostics before an interruption."""
        failed = np.array([failure is not None], np.int32)
        self._ranks.Allreduce(self._mpi.IN_PLACE, failed, self._mpi.MAX)
        if not failed[0]:
            return
        mine = isinstance(failure, CompileError) and (type(failure), failure.diagnostics)
        told = [pair for pair in self.all_of(mine) if pair]
        self.failure = KeyboardInterrupt()
        if told:
            # Most mistakes are found by every rank, and told once.
            found = dict.fromkeys(d for _, diagnostics in told for d in diagnostics)
            self.failure = told[0][0](found)
        raise self.failure from failure

    def leave_words(self, words: str) -> None:
        if self._last_words is not None:
            gone = "the training has ended, because a process of it was killed or failed"
            self._last_words.leave(render(Diagnostic("E575", gone, help=(words,))))

    def close(self) -> None:
        """There is nothing to be told any more should this process be killed."""
        if self._last_words is not None:
            self._last_words.close()

    # -- what is exchanged -------------------------------------------------------------------
    def mean(self, value: float) -> float:
        summed = np.array([value])
        self._ranks.Allreduce(self._mpi.IN_PLACE, summed)
        return float(summed[0]) / self.size

    def all_of(self, value: T) -> list[T]:
        found: list[T] = self._ranks.allgather(value)
        return found

    def of_first(self, make: Callable[[], T]) -> T:
        with self._together(patient=True):
            made = make() if self.rank == 0 else None
        shared: T = self._ranks.bcast(made)
        return shared

    def in_turn(self, make: Callable[[], T]) -> T:
        made: list[T] = []
        for first in (True, False):
            with self._together(patient=True):
                if first is (self._neighbours.rank == 0):
                    made.append(make())
        return made[0]


@contextmanager
def job() -> Iterator[Job]:
    """The job that this process was started in; one alone where no launcher started it.

    What all processes fail with `together`, where alone Ctrl-C takes effect, is raised in the first
    of them, and the others end without a word. Anything else that fails in one process ends all of
    them, where they would wait for it without end. Raises CompileError E570 where mpi4py cannot be
    imported, or belongs to another MPI than the launcher.
    """
    if not launched():
        yield Job()
        return
    world = _world()
    ranks = Ranks(world)
    try:
        with ranks.held_back():
            yield ranks
            with ranks.together():  # for Ctrl-C at the last moment
                pass
    except BaseException as error:
        if error is ranks.failure:
            if ranks.writes:
                raise
            raise SystemExit(0) from None
        if ranks.size == 1:
            raise
        told = str(error) if isinstance(error, CompileError) else traceback.format_exc()
        print(f"{told}\nrank {ranks.rank} of {ranks.size} failed", file=sys.stderr, flush=True)
        time.sleep(PASSED_ON)
        world.Abort(1)
    finally:
        ranks.close()


def _world() -> Any:
    """The communicator of all ranks."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as reason:
        raise problem(
            "E570",
            f"training in several processes needs mpi4py and an MPI: {reason}",
            "`pip install 'convdsl[mpi]'` has both",
        ) from None
    if started() > 1 and MPI.COMM_WORLD.size == 1:
        raise problem(
            "E570",
            f"mpiexec started {started()} processes, but is of another MPI than mpi4py's",
            f"mpi4py was built for {MPI.Get_library_version().splitlines()[0].strip()}",
        )
    return MPI.COMM_WORLD
