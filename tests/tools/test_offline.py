"""Kernels of whole networks assemble for GPUs, keep to registers, and the tool says what they take.

Distinct kernels cost a second each. The default run takes one for every generator and tile, the
one with the longest text; the slow run all of them for both architectures.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from convdsl.runtime.assembler import Usage, assemble
from convdsl.runtime.cuda_compilation import ptx

NETWORKS = ["lenet5", "alexnet", "vgg16", "resnet18", "resnet50"]
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
    found = longest(offline.kernels(NETWORKS).values())
    assert len(found) > 50
    check(found, "sm_80")


def test_a_kernel_of_every_generator_for_16_bits_keeps_to_registers(offline):
    """The longest of all its tiles, each of which `test_cuda_precision` assembles."""
    plain = {generator(k) for k in offline.kernels(["lenet5", "resnet18"]).values()}
    found = offline.kernels(["lenet5", "resnet18"], precision="bf16").values()
    kept = longest((k for k in found if generator(k) not in plain), generator)
    assert len(kept) > 10
    check(kept, "sm_90")


def test_winograd_and_results_that_lie_apart_keep_to_registers_on_newer_gpus(offline):
    """They hold most addresses and values at a time; the other tests assemble them for sm_80."""
    found = offline.kernels(["resnet18"]).values()
    kept = longest((k for k in found if re.search("winograd|spread", k.name)), generator)
    assert len(kept) > 5
    check(kept, "sm_90")


def generator(kernel):
    """A kernel's name without its tile."""
    return re.sub(r"_\d+x\d+", "", kernel.name)


def longest(found, key=lambda kernel: kernel.name):
    """Of all kernels of a key, such as their name, the one with the longest text."""
    kept = {}
    for kernel in found:
        known = kept.setdefault(key(kernel), kernel)
        if len(kernel.source) > len(known.source):
            kept[key(kernel)] = kernel
    return list(kept.values())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("network", NETWORKS)
def test_all_kernels_of_the_networks_keep_to_registers(offline, network, arch, precision):
    check(list(offline.kernels([network], precision=precision).values()), arch)


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


def test_a_summary_has_a_line_for_every_network(offline, tmp_path):
    command = [sys.executable, str(TOOL), "--summary", "lenet5", "--inference", "--arch", "sm_90"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, _, line = done.stdout.strip().splitlines()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == ["lenet5", "fp32", "sm_90"]
    assert int(cells[3]) == len(offline.kernels(["lenet5"], training=False))
    assert 0 < int(cells[4]) <= 255
    assert cells[5] == "0"
    assert 0 < int(cells[6].rstrip("%")) <= int(cells[7].rstrip("%"))


def test_occupancy_is_what_registers_shared_memory_and_threads_allow():
    # 2048 threads; 65536 registers, given to warps in chunks of 256; 164 KiB of shared memory.
    assert Usage(32, 0, 0, 0).occupancy(256, "sm_80") == 1.0
    assert Usage(128, 0, 0, 0).occupancy(256, "sm_80") == 0.25
    assert Usage(32, 0, 0, 40 << 10).occupancy(256, "sm_80") == 0.5
    assert Usage(32, 0, 0, 40 << 10).occupancy(256, "sm_90") == 0.625
    assert Usage(16, 0, 0, 0).occupancy(32, "sm_80") == 0.5  # 32 blocks at most
