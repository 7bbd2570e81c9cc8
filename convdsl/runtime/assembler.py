"""Assembles PTX without a device, for what only the assembler knows: registers, spills, occupancy.

NVIDIA's `ptxas` comes with the `cuda` extra; one on the PATH serves as well.
"""

from __future__ import annotations

import re
import shutil
import site
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from convdsl.diagnostics import problem
from convdsl.kernels.cuda.frame import WARP
from convdsl.runtime.driver import understood

REGISTERS = 1 << 16
"""Of a multiprocessor."""
CHUNK = 256
"""Registers that a warp is given at a time."""
SHARED = {"sm_80": 164 << 10, "sm_90": 228 << 10}
"""Bytes of shared memory of a multiprocessor (CUDA C++ programming guide, compute capabilities)."""
RESERVED = 1 << 10
"""Bytes of it that every block takes for the system."""
THREADS = 2_048
BLOCKS = 32
"""The most threads and blocks of a multiprocessor."""


@dataclass(frozen=True)
class Usage:
    """What a kernel takes, as `ptxas` reports it."""

    registers: int
    stack: int
    """Bytes of a thread's own memory, for arrays that are not in registers."""
    spills: int
    """Bytes stored and loaded because registers ran out."""
    shared: int

    def occupancy(self, threads: int, arch: str) -> float:
        """The share of a multiprocessor's threads that blocks of so many can fill."""
        warps = -(-threads // WARP)
        per_warp = -(-self.registers * WARP // CHUNK) * CHUNK
        fits = min(
            BLOCKS,
            THREADS // threads,
            REGISTERS // (per_warp * warps),
            SHARED.get(arch, SHARED["sm_80"]) // (self.shared + RESERVED),
        )
        return fits * warps * WARP / THREADS


@cache
def assembler() -> str:
    """The path of `ptxas`. Raises CompileError E513 where there is none."""
    folders = [*site.getsitepackages(), sysconfig.get_paths()["purelib"]]
    for folder in map(Path, folders):
        for found in sorted(folder.glob("nvidia/*/bin/ptxas")):
            return str(found)
    found_on_path = shutil.which("ptxas")
    if found_on_path is None:
        raise problem(
            "E513",
            "there is no `ptxas` here to assemble PTX",
            "`pip install 'convdsl[cuda]'` brings what it needs",
        )
    return found_on_path


def assemble(ptx: str, arch: str) -> Usage:
    """What a kernel takes on an architecture. Raises ValueError where its PTX does not assemble.

    It is assembled as a driver is given it.
    """
    with tempfile.TemporaryDirectory(prefix="convdsl-") as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(understood(ptx), encoding="utf-8")
        command = [assembler(), f"-arch={arch}", "-v", "-O3", str(source), "-o", f"{source}.cubin"]
        done = subprocess.run(command, capture_output=True, text=True)
    report = done.stdout + done.stderr
    if done.returncode:
        raise ValueError(report)

    def number(pattern: str) -> int:
        return sum(map(int, re.findall(pattern, report)))

    return Usage(
        number(r"Used (\d+) registers"),
        number(r"(\d+) bytes stack frame"),
        number(r"(\d+) bytes spill"),
        number(r"(\d+) bytes smem"),
    )
