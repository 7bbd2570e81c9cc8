"""The kernels of checks: made here, or taken from a file that another machine made.

A machine with a GPU may have no network, another numba-cuda or no NVVM. PTX is text, so it can be
made elsewhere: a file of it is a zip whose members are called ARCHITECTURE/KEY.ptx.
"""

from __future__ import annotations

import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from convdsl.plan.model import Kernel
from convdsl.runtime import cuda_compilation
from gpu_checks.checks import Check

TOGETHER = 32
"""Kernels that are compiled before anybody hears of it."""


def kernels_of(checks: Iterable[Check]) -> dict[str, Kernel]:
    """The distinct kernels of the checks' programs, by key."""
    found: dict[str, Kernel] = {}
    for check in checks:
        for wanted in check.programs:
            for kernel in wanted.plan().kernels:
                found.setdefault(kernel.key, kernel)
    return found


def pack(path: Path, checks: Sequence[Check], arch: str, seconds: float) -> int:
    """Put the PTX of all kernels into a file; returns how many are missing when time is up.

    What the file has already is not compiled again, and what nobody needs any more goes out.
    """
    start = time.perf_counter()
    wanted = kernels_of(checks)
    texts = {key: text for (a, key), text in unpacked(path).items() if a == arch and key in wanted}
    missing = [kernel for key, kernel in wanted.items() if key not in texts]
    while missing and time.perf_counter() - start < seconds:
        some, missing = missing[:TOGETHER], missing[TOGETHER:]
        texts |= cuda_compilation.load(some, arch)
        _write(path, arch, texts)
        print(f"{len(texts)} of {len(wanted)} kernels", file=sys.stderr, flush=True)
    _write(path, arch, texts)
    return len(missing)


def _write(path: Path, arch: str, texts: dict[str, str]) -> None:
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
        for key, text in texts.items():
            file.writestr(f"{arch}/{key}.ptx", text)
    part.replace(path)


def unpacked(path: Path) -> dict[tuple[str, str], str]:
    """PTX by architecture and key; nothing where there is no such file."""
    if not path.exists():
        return {}
    with zipfile.ZipFile(path) as file:
        names = {name: tuple(name.removesuffix(".ptx").split("/")) for name in file.namelist()}
        return {(a, key): file.read(name).decode() for name, (a, key) in names.items()}


def provide(
    kernels: Iterable[Kernel],
    arch: str,
    packed: dict[tuple[str, str], str],
    say: Callable[[str], None],
) -> None:
    """Have kernels in the cache: from the file, for this architecture or an older one; or made.

    ``say`` is told how it goes. What cannot be made is missed by the checks that need it.
    """
    architectures = sorted({a for a, _ in packed if _number(a) <= _number(arch)}, key=_number)
    missing = []
    for kernel in kernels:
        texts = [packed[a, kernel.key] for a in architectures if (a, kernel.key) in packed]
        if texts:
            cuda_compilation.supply(kernel, arch, texts[-1])
        elif not cuda_compilation.is_kept(kernel, arch):
            missing.append(kernel)
    for first in range(0, len(missing), TOGETHER):
        try:
            cuda_compilation.load(missing[first : first + TOGETHER], arch)
        except Exception as reason:
            say(f"{len(missing)} were to be made here: {type(reason).__name__}: {reason}")
            return
        say(f"{min(first + TOGETHER, len(missing))} of {len(missing)} made here")


def _number(arch: str) -> int:
    return int(arch.removeprefix("sm_"))
