"""Kernels of whole networks assemble for GPUs, keep to registers, and the tool says what they take.

Distinct kernels cost a second each. The default run takes one for every generator and tile, the
one with the longest text; the slow run all of them for both architectures.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from convdsl.runtime.assembler import Usage, assemble
from convdsl.runtime.cuda_compilation import ptx

TOOL = Path(__file__).resolve().parents[2] / "tools" / "offline.py"


@pytest.fixture(scope="module")
def offline():
    spec = importlib.util.spec_from_file_location("offline", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(found, arch):
    assert found
    for kernel in found:
        text = ptx(kernel, arch)
        assert ".f64" not in text, f"{kernel.name} computes in double precision"
        usage = assemble(text, arch)
        assert usage.spills == 0, f"{kernel.name} {kernel.key} spills: {usage}"
        assert usage.stack == 0, f"{kernel.name} {kernel.key} has arrays in memory: {usage}"
        assert usage.occupancy(kernel.threads, arch) > 0.1


def test_a_kernel_of_every_kind_keeps_to_registers(offline):
    longest = {}
    for kernel in offline.kernels(["lenet5", "alexnet", "vgg16", "resnet18", "resnet50"]).values():
        known = longest.setdefault(kernel.name, kernel)
        if len(kernel.source) > len(known.source):
            longest[kernel.name] = kernel
    assert len(longest) > 50
    check(list(longest.values()), "sm_80")


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("network", ["lenet5", "alexnet", "vgg16", "resnet18", "resnet50"])
def test_all_kernels_of_the_networks_keep_to_registers(offline, network, arch):
    check(list(offline.kernels([network]).values()), arch)


def test_the_tool_prints_a_line_for_every_kernel(offline, tmp_path):
    written = tmp_path / "found.md"
    command = [sys.executable, str(TOOL), "lenet5", "--inference", "--arch", "sm_90"]
    done = subprocess.run([*command, "--markdown", str(written)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = written.read_text(encoding="utf-8")
    assert text.strip() == done.stdout.strip()
    lines = text.strip().splitlines()[2:]
    assert len(lines) == len(offline.kernels(["lenet5"], training=False))
    assert all("sm_90" in line and "%" in line for line in lines)


def test_occupancy_is_what_registers_shared_memory_and_threads_allow():
    # 2048 threads; 65536 registers, given to warps in chunks of 256; 164 KiB of shared memory.
    assert Usage(32, 0, 0, 0).occupancy(256, "sm_80") == 1.0
    assert Usage(128, 0, 0, 0).occupancy(256, "sm_80") == 0.25
    assert Usage(32, 0, 0, 40 << 10).occupancy(256, "sm_80") == 0.5
    assert Usage(32, 0, 0, 40 << 10).occupancy(256, "sm_90") == 0.625
    assert Usage(16, 0, 0, 0).occupancy(32, "sm_80") == 0.5  # 32 blocks at most
