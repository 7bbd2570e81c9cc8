"""The threads that run a program's steps: one native call for a whole program.

The thread that calls is one of the team; the others, each inside a native call of its own that
never returns, wait for it, for a while by looking and then asleep on a pipe. All go through the
same steps, each doing its part, and meet before and after every step that has several parts. Where
the system wakes a member on the core of another, as it likes to, the member moves to one of its own
before it begins. A copy of this module travels with exported packages, so it imports nothing but
NumPy.
"""

from __future__ import annotations

import ctypes
import os
import threading
from inspect import getsource
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from convdsl.runtime.native import (
        atomic_add,
        atomic_load,
        atomic_store,
        atomic_swap,
        call,
        inlined,
        ints,
        relax,
        system,
    )
else:

    def inlined(function: Any) -> Any:
        """As it is: the functions below are compiled by their text."""
        return function


Array = np.ndarray

KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 3)
"""Every kernel, as Python calls it; see `native.SIGNATURE`."""

# What the words of the team's state, int64, are; a line of the cache has eight of them.
FUNCTIONS, TABLE, WIDTH, WORK, THREADS, FIRST, LAST, SIZE = range(8)
"""The program: as in `Team.run`. Then the steps to run, and how many threads do so."""
READ, WRITE, YIELD, BYTE, LOOKS = range(8, 13)
"""Addresses: functions of the C library, a byte for pipes. How often to look before sleeping."""
CORE, GET_CORES, SET_CORES, ADDRESS = range(32, 36)
"""Addresses: functions of the C library, 0 where it lacks them, and that of the state."""
ARRIVED, PHASE = 16, 24
"""How many wait at the meeting point, and how many meetings there were."""
MEMBERS, LINE = 40, 40
"""Where the lines of the members begin, the caller's first, and how many words each has."""
CALLED, ASLEEP, READ_END, WRITE_END, PLACE, CORES, LEFT = *range(5), 8, 24
"""A member's line: how often it was called, whether it sleeps, the ends of its pipe, the core it
is on; the set of those it may be on, and what is left of it without those of other members."""
SET = 16
"""Words of a set of cores, a bit for each."""

PATIENCE = 300
"""How often to look for others before letting another thread have the core: microseconds."""
WAKEFUL = 8_000
"""How often a member looks for work before it goes to sleep: some hundred microseconds."""
MOST = 256
"""Threads of a team at most."""


def text() -> str:
    """The kernel ``team``: its source, in the terms of `native`."""
    words = {name: value for name, value in globals().items() if type(value) is int}
    constants = "\n".join(f"{name} = {value}" for name, value in words.items())
    functions = "\n\n".join(getsource(f) for f in (_meet, _steps, _begin, _move, _serve, team))
    return f"{constants}\n\n\n{functions}"


# -- compiled by its text ----------------------------------------------------------------------


@inlined
def _meet(state, size):  # type: ignore[no-untyped-def]
    """Go on when all members of the team are here."""
    phase = atomic_load(state, PHASE)
    if atomic_add(state, ARRIVED, 1) == size - 1:
        atomic_store(state, ARRIVED, 0)
        atomic_store(state, PHASE, phase + 1)
    else:
        looks = 0
        while atomic_load(state, PHASE) == phase:
            looks += 1
            if looks < PATIENCE:
                relax()
            else:  # there are more threads than cores
                system(state[YIELD], 0, 0, 0)


@inlined
def _steps(state, member):  # type: ignore[no-untyped-def]
    """A member's parts of all steps."""
    functions, table, work = ints(state[FUNCTIONS]), state[TABLE], ints(state[WORK])
    width, size = state[WIDTH] * 8, state[SIZE]
    first, last = state[FIRST], state[LAST]
    before = 1
    for step in range(first, last):
        units, parts = work[2 * step], work[2 * step + 1]
        if size > 1 and step > first and (parts > 1 or before > 1):
            _meet(state, size)
        for part in range(member, parts, size):
            begin, end = part * units // parts, (part + 1) * units // parts
            call(functions[step], table + width * step, begin, end, part)
        before = parts
    if size > 1:
        _meet(state, size)


@inlined
def _begin(state, first, last):  # type: ignore[no-untyped-def]
    """Call as many members as the steps have parts for."""
    work = ints(state[WORK])
    most = 1
    for step in range(first, last):
        most = max(most, work[2 * step + 1])
    state[FIRST], state[LAST], state[SIZE] = first, last, min(most, state[THREADS])
    if state[CORE] and state[SIZE] > 1:
        atomic_store(state, MEMBERS + PLACE, system(state[CORE], 0, 0, 0) & 0xFFFF)
    for member in range(1, state[SIZE]):
        line = MEMBERS + LINE * member
        atomic_store(state, line + CALLED, state[line + CALLED] + 1)
        if atomic_swap(state, line + ASLEEP, 0) == 1:
            while system(state[WRITE], state[line + WRITE_END], state[BYTE], 1) != 1:
                pass  # it was interrupted


@inlined
def _move(state, member):  # type: ignore[no-untyped-def]
    """Leave the core of a member before this one, if there is another.

    The system would see to it, too, after some milliseconds of both taking turns.
    """
    own = MEMBERS + LINE * member
    core = system(state[CORE], 0, 0, 0) & 0xFFFF
    shared = False
    for other in range(member):
        shared = shared or atomic_load(state, MEMBERS + LINE * other + PLACE) == core
    cores, left = state[ADDRESS] + 8 * (own + CORES), state[ADDRESS] + 8 * (own + LEFT)
    if shared and system(state[GET_CORES], 0, 8 * SET, cores) & 0xFFFF == 0:
        for word in range(SET):
            state[own + LEFT + word] = state[own + CORES + word]
        for other in range(member):
            taken = atomic_load(state, MEMBERS + LINE * other + PLACE)
            if taken < 64 * SET:
                state[own + LEFT + taken // 64] &= ~(1 << taken % 64)
        if system(state[SET_CORES], 0, 8 * SET, left) & 0xFFFF == 0:
            system(state[SET_CORES], 0, 8 * SET, cores)
            core = system(state[CORE], 0, 0, 0) & 0xFFFF
    atomic_store(state, own + PLACE, core)


@inlined
def _serve(state, member):  # type: ignore[no-untyped-def]
    """A member's life: wait for a call, do its parts, again and again."""
    line = MEMBERS + LINE * member
    calls = 0
    while True:
        looks = 0
        while atomic_load(state, line + CALLED) == calls:
            looks += 1
            if looks < state[LOOKS]:
                relax()
                continue
            atomic_swap(state, line + ASLEEP, 1)
            # Called meanwhile, and nobody has seen it asleep: then nobody wakes it.
            called = atomic_load(state, line + CALLED) != calls
            if called and atomic_swap(state, line + ASLEEP, 0) == 1:
                continue
            while system(state[READ], state[line + READ_END], state[BYTE], 1) != 1:
                pass  # it was interrupted
        calls += 1
        if state[CORE]:
            _move(state, member)
        _steps(state, member)


def team(state, first, last, member):  # type: ignore[no-untyped-def]
    """Run the steps [first, last), as the caller; or serve, as another member of the team."""
    if member == 0:
        _begin(state, first, last)
        _steps(state, 0)
    else:
        _serve(state, member)


# -- in Python -----------------------------------------------------------------------------------


class Team:
    """A process's threads for the steps of its programs; one program runs at a time.

    It stays until the process ends. ``address`` is that of the compiled `team`.
    """

    def __init__(self, address: int) -> None:
        self._native = KERNEL(address)
        self._form()
        if hasattr(os, "register_at_fork"):
            # A child has the memory, but not the threads.
            os.register_at_fork(after_in_child=self._form)

    def _form(self) -> None:
        """With the caller for its one member."""
        library = ctypes.CDLL(None)
        library.calloc.restype = ctypes.c_void_p
        # Never freed: while the process ends, the other members may still look at it.
        start = library.calloc(MEMBERS + LINE * (MOST + 1), 8)
        self._address = start + -start % 64
        words = (ctypes.c_int64 * (MEMBERS + LINE * MOST)).from_address(self._address)
        self._state = np.ctypeslib.as_array(words)
        self._state[ADDRESS] = self._address
        functions = {READ: "read", WRITE: "write", YIELD: "sched_yield"}
        moving = {
            CORE: "sched_getcpu",
            GET_CORES: "sched_getaffinity",
            SET_CORES: "sched_setaffinity",
        }
        if all(hasattr(library, name) for name in moving.values()):
            functions |= moving
        for word, name in functions.items():
            self._state[word] = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        self._state[BYTE] = self._address + 8 * (LOOKS + 1)
        self._state[LOOKS] = WAKEFUL
        self._members = 1
        self._running = threading.Lock()

    def run(self, program: Array, first: int, last: int) -> None:
        """Run the steps [first, last) of a program, which `described` describes.

        Other Python threads go on meanwhile; those that want to run a program wait. Raises
        RuntimeError where the system grants no more threads.
        """
        with self._running:
            while self._members < min(program[THREADS], MOST):
                self._hire()
            self._state[: len(program)] = program
            self._native(self._address, first, last, 0)

    def _hire(self) -> None:
        """One more member."""
        line = MEMBERS + LINE * self._members
        ends = os.pipe()
        self._state[line + READ_END], self._state[line + WRITE_END] = ends
        serve = (self._address, 0, 0, self._members)
        threading.Thread(target=self._native, args=serve, daemon=True).start()
        self._members += 1


def described(functions: Array, table: Array, work: Array, threads: int) -> Array:
    """A program for `Team.run`, good for as long as the arrays live.

    ``functions`` has the address of every step's kernel, a row of ``table`` its arguments, a row of
    ``work`` its number of units and into how many parts they are split. ``threads`` run it.
    """
    of_functions, of_table, of_work = (int(a.ctypes.data) for a in (functions, table, work))
    return np.array([of_functions, of_table, table.shape[1], of_work, min(threads, MOST)], np.int64)
