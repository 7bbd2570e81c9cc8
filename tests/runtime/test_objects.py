"""Machine code runs in a process that knows no compiler."""

import ctypes
import os
import subprocess
import sys

import pytest
from llvmlite import binding
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
    monkeypatch.setattr(objects, "_WRITERS", {})
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


FOR_ARM = """
target triple = "aarch64-unknown-linux-gnu"
@numbers = private constant [3 x i64] [i64 3, i64 5, i64 7]
@where = global [3 x i64]* @numbers
declare i8* @memset(i8*, i32, i64)
define i64 @inner(i64 %n) noinline {
  %at = getelementptr [3 x i64], [3 x i64]* @numbers, i64 0, i64 %n
  %x = load volatile i64, i64* %at
  ret i64 %x
}
define void @kernel(i8* %to, i64 %begin, i64 %end) {
  %x = call i64 @inner(i64 1)
  call i8* @memset(i8* %to, i32 1, i64 %x)
  call i8* @memset(i8* %to, i32 2, i64 %x)
  ret void
}
"""


def test_code_for_arm_finds_its_functions_and_numbers():
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple("aarch64-unknown-linux-gnu")
    machine = target.create_target_machine(codemodel="large", reloc="static")
    address = objects._load_elf(machine.emit_object(binding.parse_assembly(FOR_ARM)))
    inner, *others = _calls(address)
    far = objects._VENEER.unpack(ctypes.string_at(others[0], objects._VENEER.size))
    assert others[0] == others[1]
    assert far == (*objects._TO_ADDRESS, objects._address_of("memset"))
    assert list((ctypes.c_int64 * 3).from_address(_moved(inner))) == [3, 5, 7]


def _instructions(address):
    """Those of a function for AArch64, with their addresses."""
    while (word := ctypes.c_uint32.from_address(address).value) != 0xD65F03C0:  # it returns
        yield address, word
        address += 4


def _calls(address):
    """Where the calls of a function go, one after the other."""
    for at, word in _instructions(address):
        if word >> 26 == 0b100101:
            yield at + 4 * ((word & 0x3FFFFFF ^ 0x2000000) - 0x2000000)


def _moved(address):
    """The address that a function moves into a register, 16 bits at a time."""
    moves = [w for _, w in _instructions(address) if w >> 23 in (0b110100101, 0b111100101)]
    assert len(moves) == 4
    return sum((word >> 5 & 0xFFFF) << 16 * (word >> 21 & 3) for word in moves)


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
