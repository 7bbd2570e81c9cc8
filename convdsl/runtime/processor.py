"""What the processor is, as far as it decides machine code and how many threads pay."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

IDENTITY = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU", "Features")
"""Beginnings of the lines of /proc/cpuinfo that tell processors apart."""


@cache
def _described() -> tuple[tuple[str, str], ...]:
    """The lines about the first processor in /proc/cpuinfo; none where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ()
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return tuple((key.strip(), value.strip()) for key, _, value in lines)


@cache
def identity() -> str:
    """A text that is the same only where machine code may be shared."""
    known = [": ".join(entry) for entry in _described() if entry[0].startswith(IDENTITY)]
    if known:
        return "\n".join((platform.machine(), *known))
    from llvmlite import binding

    features = binding.get_host_cpu_features().flatten()
    return "\n".join((platform.machine(), binding.get_host_cpu_name(), features))


def lanes() -> int:
    """How many float32 elements a vector register holds: 16, 8 or 4.

    Where ``NUMBA_CPU_FEATURES`` restricts what kernels are compiled for, it is asked instead.
    """
    if _is_arm():
        return 4
    features = _features()
    if "avx512f" in features:
        return 16
    return 8 if "avx" in features else 4


def registers() -> int:
    """How many vectors a kernel may hold at a time: 32 with AVX-512, 30 on ARM, else 16.

    Two of ARM's 32 are for factors that are being loaded, which x86 multiplies out of memory.
    """
    if _is_arm():
        return 30
    return 32 if lanes() == 16 else 16


def _is_arm() -> bool:
    """Whether vectors are NEON's, which every 64-bit ARM has; longer ones are not used."""
    return platform.machine().lower() in ("aarch64", "arm64")


def _features() -> set[str]:
    restricted = os.environ.get("NUMBA_CPU_FEATURES")
    if restricted is not None:
        return {f[1:] for f in restricted.split(",") if f.startswith("+")}
    told = dict(_described()).get("flags")
    if told is not None:
        return set(told.split())
    from llvmlite import binding

    return {name for name, there in binding.get_host_cpu_features().items() if there}


def name() -> str:
    """What the processor calls itself."""
    told = dict(_described()).get("model name")
    return told or platform.processor() or platform.machine()


def own_cores() -> set[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def cores() -> int:
    """How many cores this process may use."""
    return len(own_cores())


def threads() -> int:
    """How many threads a program may use: ``NUMBA_NUM_THREADS``, else one per core."""
    given = os.environ.get("NUMBA_NUM_THREADS", "")
    return max(1, int(given)) if given.isdecimal() else cores()
