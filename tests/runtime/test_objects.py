"""Machine code runs in a process that knows no compiler."""

import os
import subprocess
import sys

import pytest
from small_kernels import kernel, outcome

from convdsl.plan.model import Kernel
from convdsl.runtime import cache, objects


@pytest.fixture(scope="module")
def code():
    return cache.emitted(kernel(3)).object()


def test_an_object_is_a_function(code):
    assert outcome(objects.load(code)) == 3


def test_llvm_loads_what_is_foreign(code, monkeypatch):
    assert outcome(objects._load_by_llvm(code)) == 3
    monkeypatch.setattr(objects, "_X86_64", 0)
    assert outcome(objects.load(code)) == 3


def test_functions_of_the_c_library_are_found():
    source = (
        "def powers(table, begin, end, part):\n"
        "    x = floats(table[0])\n"
        "    for i in range(begin, end):\n"
        "        x[i] = exp(x[i]) + x[i] ** float32(2.5)\n"
    )
    made = cache.emitted(Kernel("powers", (("x", "float32"),), (), source)).object()
    assert outcome(objects.load(made)) == pytest.approx(1 + 2.718281828)


def test_code_cannot_be_written():
    with open("/proc/self/maps") as maps:
        own = [line for line in maps if "rwx" in line]
    address = objects.load(cache.emitted(kernel(5)).object())
    with open("/proc/self/maps") as maps:
        lines = maps.readlines()
    (where,) = [
        line
        for line in lines
        if (span := [int(end, 16) for end in line.split()[0].split("-")])[0] <= address < span[1]
    ]
    assert where.split()[1] == "r-xp"
    assert [line for line in lines if "rwx" in line] == own


WARM = """
import sys
import numpy as np
import convdsl
program = convdsl.load("lenet").compile(batch=2)
assert np.isfinite(program(np.zeros((2, 1, 32, 32), np.float32))).all()
print([name for name in ("numba", "llvmlite") if name in sys.modules])
"""


def test_a_warm_start_imports_no_compiler():
    for expected in (None, "[]\n"):  # the first may have to compile
        done = subprocess.run(
            [sys.executable, "-c", WARM], env=os.environ, capture_output=True, text=True, check=True
        )
        assert expected is None or done.stdout == expected
