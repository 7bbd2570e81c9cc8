"""Runs plans on the CPU: memory, argument tables and the native call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from convdsl.plan.memory import ALIGNMENT
from convdsl.plan.model import Buffer, Kernel, Plan, Step
from convdsl.runtime import cache as kernels
from convdsl.runtime import compilation, processor, team
from convdsl.runtime.machine import Machine

Array = np.ndarray

GUARD = 0xA5
"""What guard zones are filled with."""
GRAIN = 3_000
"""Operations below which a second thread costs more than it saves."""
TEAM = Kernel("team", (("state", "int64"),), (), team.text())
"""What runs the steps."""


def thread_count(requested: int | None) -> int:
    """How many threads to use: as asked, else ``NUMBA_NUM_THREADS``, else all cores."""
    most = processor.threads()
    return max(1, min(requested or most, most))


@cache
def _team() -> team.Team:
    """The threads of this process."""
    return team.Team(kernels.compiled(TEAM))


class _Memory:
    """Uninitialised bytes that start at a cache line, with a guard zone behind them."""

    def __init__(self, bytes: int) -> None:
        raw = np.empty(bytes + 2 * ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        self.data = raw[start : start + bytes]
        self.guard = raw[start + bytes : start + bytes + ALIGNMENT]


def call(kernel: Kernel, arrays: Sequence[Array], sizes: Sequence[int], work: int) -> None:
    """Run a kernel by itself on contiguous arrays, on the thread that calls."""
    table = np.array([*(a.ctypes.data for a in arrays), *sizes], np.int64)
    team.KERNEL(kernels.compiled(kernel))(table.ctypes.data, 0, work, 0)


class _Table:
    """Steps with the addresses of their kernels and arguments, and how they are split."""

    def __init__(self, functions: Array, arguments: Array, work: Array, threads: int) -> None:
        self.arguments = arguments
        self._kept = functions, work
        self._program = team.described(functions, arguments, work, threads)

    def run(self, first: int, last: int) -> None:
        if last > first:
            _team().run(self._program, first, last)


class CpuMachine(Machine):
    """A plan with its memory, ready to run. Not safe for threads: the caller holds a lock."""

    def __init__(self, plan: Plan, variables: Mapping[str, Array]) -> None:
        self.plan = plan
        self.threads = plan.threads
        self._arena = _Memory(plan.arena_bytes)
        self._constants = _Memory(plan.constant_bytes)
        self._variables = variables
        self._given: Mapping[str, Array] = {}
        self._views: dict[tuple[int, tuple[int, ...]], Array] = {}
        self._fill_tables()
        compilation.load((TEAM, *plan.kernels), self.threads)
        self._prepare = self._table(plan.prepare)
        self._steps = self._table(plan.steps)
        self._slots = {
            port.name: self._uses(port.buffer)
            for port in plan.variables
            if port.buffer.place == "input"
        }

    def _fill_tables(self) -> None:
        for buffer, values in self.plan.tables:
            self.view(buffer, (len(values),))[:] = values

    def prepare(self) -> None:
        """Compute what depends on parameters alone; after every change of parameters."""
        self._prepare.run(0, len(self.plan.prepare))

    def run(self, inputs: Mapping[str, Array], first: int, last: int) -> None:
        """Run steps [first, last) on contiguous arrays of the right types."""
        self._given = inputs
        for name, array in inputs.items():
            address = array.__array_interface__["data"][0]
            for slot in self._slots[name]:
                self._steps.arguments[slot] = address
        self._steps.run(first, last)

    def view(self, buffer: Buffer, shape: Sequence[int]) -> Array:
        """The memory of a buffer as an array; overwritten by the next run."""
        if buffer.place == "variable":
            return self._variables[buffer.name].reshape(shape)
        if buffer.place == "input":
            return self._given[buffer.name].reshape(shape)
        key = (id(buffer), tuple(shape))
        if key not in self._views:
            data = self._memory(buffer).data[buffer.offset : buffer.offset + buffer.bytes]
            self._views[key] = data.view(buffer.dtype).reshape(shape)
        return self._views[key]

    def poison(self) -> None:
        """Fill the memory with NaN and the zones around it with a pattern; for tests."""
        for memory in (self._arena, self._constants):
            memory.data[:] = 0xFF
            memory.guard[:] = GUARD
        self._fill_tables()

    def guards_intact(self) -> bool:
        """Whether no kernel wrote behind the memory since `poison`."""
        return all(bool((m.guard == GUARD).all()) for m in (self._arena, self._constants))

    def _memory(self, buffer: Buffer) -> _Memory:
        return self._arena if buffer.place == "arena" else self._constants

    def _table(self, steps: Sequence[Step]) -> _Table:
        width = max((len(s.buffers) + len(s.sizes) for s in steps), default=1)
        functions = np.zeros(len(steps), np.int64)
        arguments = np.zeros((len(steps), width), np.int64)
        work = np.zeros((len(steps), 2), np.int64)
        for row, step in enumerate(steps):
            functions[row] = kernels.compiled(step.kernel)
            addresses = [self._address(b) for b in step.buffers]
            arguments[row, : len(addresses) + len(step.sizes)] = [*addresses, *step.sizes]
            work[row] = step.work, self._parts(step)
        return _Table(functions, arguments, work, self.threads)

    def _parts(self, step: Step) -> int:
        return max(1, min(self.threads, step.work, step.cost // GRAIN))

    def _address(self, buffer: Buffer) -> int:
        if buffer.place == "input":
            return 0
        if buffer.place == "variable":
            return int(self._variables[buffer.name].ctypes.data)
        return int(self._memory(buffer).data.ctypes.data) + buffer.offset

    def _uses(self, buffer: Buffer) -> list[tuple[int, int]]:
        """Where in the table of arguments a buffer stands."""
        return [
            (row, column)
            for row, step in enumerate(self.plan.steps)
            for column, used in enumerate(step.buffers)
            if used == buffer
        ]
