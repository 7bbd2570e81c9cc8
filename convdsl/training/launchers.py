"""What the launcher that started this process, as `mpiexec` does, says of the processes it started.

It is told by the environment, so that nothing of MPI is needed to know that there is none.
"""

from __future__ import annotations

import os

SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
"""What launchers tell a process about how many they started: MPICH and its kin, Open MPI."""
RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
"""What they call its number among them."""


def started() -> int:
    """How many processes the launcher says it started; 1 without one, or where it does not say."""
    counts = (os.environ.get(name, "") for name in SIZES)
    return max((int(count) for count in counts if count.isdecimal()), default=1)


def launched() -> bool:
    """Whether this process may be one of several, which MPI then knows."""
    if any(os.environ.get(name) for name in SIZES):
        return started() > 1
    return any(name in os.environ for name in RANKS)
