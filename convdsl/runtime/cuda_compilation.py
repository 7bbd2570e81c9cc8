"""Compiles CUDA kernels to PTX, in several processes, and keeps the text in the cache.

Workers are plain interpreters that run this module: they take kernels as lines of JSON, and what
they do not get done, for whatever reason, this process does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from convdsl.diagnostics import problem
from convdsl.kernels.cuda.frame import resident
from convdsl.plan.model import Kernel
from convdsl.runtime import cache as files
from convdsl.runtime.compilation import kernel_of, uncollected, worker_environment
from convdsl.runtime.processor import cores

NATIVE = "convdsl.runtime.cuda_native"
OLDEST = 80
"""The first compute capability, times ten, that copies into shared memory asynchronously."""
FEWEST = 6
"""Missing kernels below which another process starts more slowly than it helps."""
PATIENCE = 600.0
"""Seconds that workers may take before this process compiles what is missing."""


def ptx(kernel: Kernel, arch: str = "sm_80") -> str:
    """The PTX of a kernel; needs the toolkit's libraries but no device.

    Raises CompileError E511 for an unknown architecture, E513 where the toolkit is missing.
    """
    capability = _capability(arch)
    return files.kept(_file(kernel, arch), lambda: _compiled(kernel, capability))


def load(kernels: Sequence[Kernel], arch: str) -> dict[str, str]:
    """The PTX of kernels by their keys; what is missing is compiled on all cores."""
    missing = [k for k in kernels if not is_kept(k, arch)]
    count = min(cores(), len(missing) // 2)
    if len(missing) >= FEWEST and count > 1:
        # The longest ones first, dealt out in turn, so that all are done at about the same time.
        missing.sort(key=lambda kernel: -len(kernel.source))
        _in_workers([missing[first::count] for first in range(count)], arch)
    return {kernel.key: ptx(kernel, arch) for kernel in kernels}


def supply(kernel: Kernel, arch: str, text: str) -> None:
    """Keep PTX that was made elsewhere, so that nothing is compiled here."""
    files.kept(_file(kernel, arch), lambda: text)


def is_kept(kernel: Kernel, arch: str) -> bool:
    """Whether the PTX of a kernel need not be made."""
    return files.has(_file(kernel, arch))


def entry(text: str) -> str:
    """The name of a kernel's entry point in its PTX."""
    return text.split(".visible .entry ", 1)[1].split("(", 1)[0].strip()


def _capability(arch: str) -> int:
    if not arch.removeprefix("sm_").isdigit():
        raise problem("E511", f"`{arch}` is not an architecture", "for example sm_80 or sm_90")
    number = int(arch.removeprefix("sm_"))
    if number < OLDEST:
        raise problem("E511", f"`{arch}` is too old", f"sm_{OLDEST} is the oldest architecture")
    return number


def _compiled(kernel: Kernel, capability: int) -> str:
    try:
        from numba import cuda, types

        # Addresses and sizes alike.
        signature = (types.int64,) * (len(kernel.pointers) + len(kernel.sizes))
        with uncollected():
            text: str = cuda.compile(
                files.function(kernel, NATIVE),
                signature,
                device=False,
                abi="numba",
                cc=divmod(capability, 10),
                output="ptx",
                launch_bounds=(kernel.threads, resident(kernel.threads)),
            )[0]
    except Exception as reason:
        if type(reason).__module__.startswith(("numba.core", "numba.cuda.core")):
            raise
        raise problem(
            "E513",
            f"PTX cannot be made here: {str(reason).splitlines()[0]}",
            "`pip install 'convdsl[cuda]'` brings what it needs",
        ) from None
    return text


@cache
def _circumstances() -> str:
    """A hash of what decides the PTX besides the kernel and what the cache goes by anyway."""
    compilers = []
    for name in ("numba-cuda", "cuda-toolkit"):
        with suppress(PackageNotFoundError):
            compilers.append(f"{name} {version(name)}")
    library = Path(__file__).with_name("cuda_native.py").read_text(encoding="utf-8")
    return sha256("\n".join([*compilers, library]).encode()).hexdigest()[:8]


def _file(kernel: Kernel, arch: str) -> str:
    return f"{kernel.name}_{kernel.key}_{arch}_{_circumstances()}.ptx"


# -- workers ---------------------------------------------------------------------------------


def _in_workers(shares: Sequence[Sequence[Kernel]], arch: str) -> None:
    """Have every share compiled by a process of its own."""
    running: list[subprocess.Popen[str]] = []
    try:
        with suppress(OSError):  # no more processes are allowed
            for share in shares:
                running.append(_worker(share, arch))
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
    finally:
        for process in running:
            process.kill()
            process.wait()


def _worker(share: Sequence[Kernel], arch: str) -> subprocess.Popen[str]:
    # -P: nothing is imported from the folder that the user happens to be in.
    command = [sys.executable, "-P", "-m", __name__, arch]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env=worker_environment(),
    )
    assert process.stdin is not None
    with suppress(OSError), process.stdin:
        for kernel in share:
            print(json.dumps(asdict(kernel)), file=process.stdin)
    return process


def _work(arch: str, lines: Any) -> None:
    """The worker's side."""
    for line in lines:
        with suppress(Exception):  # the parent will meet it, too, and tell
            ptx(kernel_of(line), arch)


if __name__ == "__main__":
    _work(sys.argv[1], sys.stdin)
