"""Teams of threads: every part of every step runs once, after all of the step before."""

import ctypes
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from convdsl.plan.model import Kernel
from convdsl.runtime import cache, cpu, team

STEPS = 60
"""A step's kernel checks that all parts of the step before are done, and marks its own."""
SOURCE = (
    "def mark(table, begin, end, part):\n"
    "    done = ints(table[0])\n"
    "    step, width = table[1], table[2]\n"
    "    missing = 0\n"
    "    for i in range(width):\n"
    "        if step > 0 and done[(step - 1) * width + i] != 1:\n"
    "            missing += 1\n"
    "    for i in range(begin, end):\n"
    "        done[step * width + i] += 1 + 1000 * missing\n"
)
MARK = Kernel("mark", (("done", "int64"),), ("step", "width"), SOURCE)


class Marks:
    """A program of steps that are split into different numbers of parts."""

    def __init__(self, parts, threads, width=13):
        self.done = np.zeros((len(parts), width), np.int64)
        self.arrays = (
            np.full(len(parts), cache.compiled(MARK), np.int64),
            np.array([[self.done.ctypes.data, k, width] for k in range(len(parts))], np.int64),
            np.array([[width, p] for p in parts], np.int64),
        )
        self.program = team.described(*self.arrays, threads)

    def run(self, own, first=0, last=None):
        self.done[:] = 0
        self.done[:first] = 1
        own.run(self.program, first, len(self.done) if last is None else last)


@pytest.fixture(scope="module")
def own():
    return team.Team(cache.compiled(cpu.TEAM))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_steps_run_in_their_order(own, threads):
    parts = np.random.default_rng(threads).integers(1, threads + 1, STEPS)
    marks = Marks(parts, threads)
    for _ in range(20):
        marks.run(own)
        assert (marks.done == 1).all()


@pytest.mark.parametrize(("first", "last"), [(0, 1), (3, 4), (5, 9), (STEPS - 1, STEPS), (7, 7)])
def test_a_range_of_steps_runs_alone(own, first, last):
    marks = Marks([2] * STEPS, 2)
    marks.run(own, first, last)
    assert (marks.done[:last] == 1).all()
    assert not marks.done[last:].any()


def test_members_wake_up(monkeypatch):
    monkeypatch.setattr(team, "WAKEFUL", 1)
    sleepy = team.Team(cache.compiled(cpu.TEAM))
    marks = Marks([3, 1, 3], 3)
    for _ in range(300):
        marks.run(sleepy)
        assert (marks.done == 1).all()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be told apart")
@pytest.mark.parametrize(("core", "left"), [(1, [0b1101, 0b1111]), (0x3FF, [0b1111] * 2)])
def test_a_member_leaves_the_callers_core(core, left):
    """The system says that all are on one core: of those it may be on, the others are asked for."""
    asked = []

    def allowed(thread, size, mask):
        ctypes.memset(mask, 0, size)
        mask[0] = 0b1111
        return 0

    def moved(thread, size, mask):
        asked.append(mask[0])
        return 0

    function = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int64)
    )
    where = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: core)
    fakes = {team.CORE: where, team.GET_CORES: function(allowed), team.SET_CORES: function(moved)}
    own = team.Team(cache.compiled(cpu.TEAM))
    for word, fake in fakes.items():
        own._state[word] = ctypes.cast(fake, ctypes.c_void_p).value
    marks = Marks([2] * 5, 2)
    marks.run(own)
    assert (marks.done == 1).all()
    assert asked == left
    own._state[team.CORE] = 0  # the fakes end with this test, the member does not
    marks.run(own)
    assert asked == left


def test_more_parts_than_members_run(own):
    marks = Marks([5, 7], 2)
    marks.run(own)
    assert (marks.done == 1).all()


def test_threads_of_python_take_turns(own):
    all_marks = [Marks([2, 1, 2] * 5, 2) for _ in range(4)]

    def often(marks):
        for _ in range(50):
            marks.run(own)

    threads = [threading.Thread(target=often, args=(m,)) for m in all_marks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((marks.done == 1).all() for marks in all_marks)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_a_team_of_its_own(own):
    marks = Marks([2] * 5, 2)
    marks.run(own)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # or it would wait for ever
        marks.run(own)
        os._exit(0 if (marks.done == 1).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    marks.run(own)
    assert (marks.done == 1).all()


ENDS = """
import numpy as np
import convdsl
program = convdsl.load("lenet").compile(batch=64, threads=2)
program(np.zeros((64, 1, 32, 32), np.float32))
"""


def test_a_process_ends_while_its_members_still_look():
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
