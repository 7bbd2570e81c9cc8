"""Kernels as AArch64 gets them, compiled for it on any machine: sums stay in registers."""

import re

import pytest
from llvmlite import binding

import convdsl
from convdsl.compiler import laid_out, lower, plan
from convdsl.kernels.cpu.target import CpuTarget
from convdsl.kernels.cpu.tiles import LATENCY
from convdsl.runtime import cache

TRIPLE = "aarch64-unknown-linux-gnu"


def planned(text):
    target = CpuTarget(lanes=4, registers=30)
    return plan(laid_out(lower(convdsl.load_source(text).graph), target), 1, target)


def assembly(kernel):
    """LLVM's code for the processor here, translated for that one."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    code = cache.emitted(kernel).llvm()
    code = re.sub(r"^target datalayout = .*", "", code, flags=re.MULTILINE)
    code = re.sub(r"^target triple = .*", f'target triple = "{TRIPLE}"', code, flags=re.MULTILINE)
    code = re.sub(r'"(target-cpu|target-features)"="[^"]*"', "", code)
    machine = binding.Target.from_triple(TRIPLE).create_target_machine(
        "neoverse-n1", opt=3, codemodel="large"
    )
    return machine.emit_assembly(binding.parse_assembly(code))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("input 64@28x28\n conv 64@1x1", r"convolution_(\d+)x(\d+)_stride1"),
        ("input 64@28x28\n conv 64@3x3/2 pad=1", r"convolution_(\d+)x(\d+)_stride2"),
        ("input 64@14x14\n conv 64@3x3 pad=1", r"winograd_4x4_3x3_(\d+)x(\d+)"),
    ],
    ids=["direct", "strided", "winograd"],
)
def test_the_sums_of_a_tile_stay_in_registers(text, name):
    kernels = planned(f"net T {{ {text} }}").kernels
    (kernel,) = (kernel for kernel in kernels if re.match(name, kernel.name))
    pixels, filters = map(int, re.match(name, kernel.name).groups())
    blocks = re.split(r"^\.LBB\w+:", assembly(kernel), flags=re.MULTILINE)
    inner = max(blocks, key=lambda block: block.count("fmla"))
    # Pixels are multiplied out of a lane.
    sums = set(re.findall(r"fmla\s+(v\d+)\.4s, v\d+\.4s, v\d+\.s\[\d\]", inner))
    assert len(sums) == pixels * filters // 4 > LATENCY
    # Nothing lies on the stack, and nothing moves from one register to another.
    assert not re.search(r"\[sp\b|mov\s+v", inner)
