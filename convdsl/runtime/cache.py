"""The kernel cache: rendered source files, compiled by Numba, kept on disk between processes.

A kernel's files are named by a hash of its text, in a folder named by everything else that decides
the machine code: versions, settings and the processor. Files are written whole and renamed, and
machine code is loaded only where its checksum is right, so any number of processes may share the
folder and stop at any moment. Who compiles, and when, is the business of `compilation`.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from convdsl import resources
from convdsl.diagnostics import problem
from convdsl.plan.model import Kernel
from convdsl.runtime import objects, processor

if TYPE_CHECKING:
    from convdsl.runtime.emission import Emission

NATIVE = "convdsl.runtime.native"
"""The module that CPU kernels are written with."""
FORMAT = "2"
"""Raised when the files, or what Numba is asked for, change their meaning."""
PREFIX = "cpu-"
"""What names of folders of compiled kernels begin with."""
SUFFIX = ".bin"
"""What names of files of machine code end with."""
SETTINGS = tuple(
    f"NUMBA_{name}"
    for name in (
        "BOUNDSCHECK",
        "CPU_FEATURES",
        "CPU_NAME",
        "DEBUGINFO_DEFAULT",
        "ENABLE_AVX",
        "OPT",
    )
)
"""Numba's settings that change the machine code."""
COMPILED_WITH = ("native.py", "emission.py")
"""Modules that change the machine code."""
SIZE = 512 * 2**20
"""Bytes that the cache may take, unless ``CONVDSL_CACHE_SIZE`` says otherwise."""
SAFE = 3600.0
"""Seconds since its last use before a file may be removed: a process may be about to load it."""
FORGOTTEN = 30 * 24 * 3600.0
"""Seconds without use after which the folder of another version is removed."""


# -- the folder ------------------------------------------------------------------------------


@cache
def folder() -> Path:
    """Where kernels are kept: one for these versions, settings and this processor.

    A temporary one where the cache cannot be used, and one that cannot exist where there is not
    even that: files then cannot be written, which costs time but nothing else.
    """
    name = PREFIX + hashlib.sha256("\n".join(_circumstances()).encode()).hexdigest()[:12]
    try:
        path = resources.own_directory(resources.cache_directory().absolute() / name)
        path.chmod(0o700)
        with tempfile.TemporaryFile(dir=path):
            pass
        return path
    except OSError as reason:
        where = f" ({reason.filename})" if reason.filename else ""
        warnings.warn(
            f"every process compiles its kernels anew, the cache cannot be used: "
            f"{reason.strerror}{where}; CONVDSL_CACHE_DIR can name another folder",
            RuntimeWarning,
            stacklevel=2,
        )
    try:
        return resources.own_directory(Path(_temporary().name) / name)
    except OSError:
        return Path(os.devnull) / name


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    """A folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="convdsl-")


def _circumstances() -> list[str]:
    """Everything but a kernel's own text that decides its machine code."""
    runtime = Path(__file__).parent
    return [
        FORMAT,
        sys.version,
        metadata.version("numba"),
        metadata.version("llvmlite"),
        processor.identity(),
        *(f"{name}={value}" for name, value in sorted(os.environ.items()) if name in SETTINGS),
        *((runtime / name).read_text(encoding="utf-8") for name in COMPILED_WITH),
    ]


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or, where that is impossible, not at all."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
    except BaseException:  # such as Ctrl-C
        Path(temporary).unlink(missing_ok=True)
        raise


# -- source ----------------------------------------------------------------------------------


def module_text(source: str, library: str, shown_as: str = "") -> str:
    """Rendered functions as a module that imports what they use of a library module."""
    known = importlib.import_module(library).__all__
    words = set(re.findall(r"\w+", source)) - set(re.findall(r"^def (\w+)", source, re.MULTILINE))
    names = sorted(n for n in known if n in words)
    needed = f"from {shown_as or library} import {', '.join(names)}\n\n\n" if names else ""
    return needed + source


def function(kernel: Kernel, library: str = NATIVE) -> Any:
    """The Python function of a kernel; its file in the cache is there to be read by people."""
    path = folder() / f"{kernel.name}_{kernel.key}.py"
    text = module_text(kernel.source, library)
    if _read(path) != text.encode():
        _write(path, text.encode())
    module = ModuleType(f"convdsl_kernel_{kernel.key}")
    module.__file__ = str(path)
    # Not by an import, which would keep bytecode beside the file and trust it unchecked.
    exec(compile(text, str(path), "exec"), module.__dict__)
    return getattr(module, kernel.name)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def kept(name: str, make: Callable[[], str]) -> str:
    """A text that the cache keeps under a name, made where it is missing."""
    path = folder() / name
    content = _read(path)
    if content is not None:
        with suppress(OSError):
            os.utime(path)  # tells `prune` that it is in use
        return content.decode()
    text = make()
    _write(path, text.encode())
    return text


def has(name: str) -> bool:
    """Whether the cache keeps a text under a name."""
    return (folder() / name).is_file()


# -- machine code ----------------------------------------------------------------------------

_loaded: dict[str, int] = {}


def compiled(kernel: Kernel) -> int:
    """The address of a kernel's machine code; compiled at most once per cache."""
    if not is_loaded(kernel):
        code = emitted(kernel).object()
        _write(_path(kernel), hashlib.sha256(code).digest() + code)
        _loaded[kernel.key] = objects.load(code)
    return _loaded[kernel.key]


def is_loaded(kernel: Kernel) -> bool:
    """Load the kernel if it is on disk; whether it can be had without compiling it."""
    if kernel.key not in _loaded and (code := _stored(kernel)) is not None:
        _loaded[kernel.key] = objects.load(code)
    return kernel.key in _loaded


def is_stored(kernel: Kernel) -> bool:
    """Whether the kernel's machine code is on disk."""
    return _stored(kernel) is not None


def emitted(kernel: Kernel) -> Emission:
    """The kernel compiled afresh, to look at or to keep."""
    from convdsl.runtime.emission import Emission

    return Emission(function(kernel), kernel.options)


def _path(kernel: Kernel) -> Path:
    return folder() / f"{kernel.name}_{kernel.key}{SUFFIX}"


def _stored(kernel: Kernel) -> bytes | None:
    """What was stored, or None where there is nothing or something that is damaged."""
    content = _read(_path(kernel)) or b""
    checksum, code = content[:32], content[32:]
    if not code or hashlib.sha256(code).digest() != checksum:
        return None
    with suppress(OSError):
        os.utime(_path(kernel))  # tells `prune` that it is in use
    return code


# -- size ------------------------------------------------------------------------------------


def size_limit() -> int:
    """How many bytes the cache may take: ``CONVDSL_CACHE_SIZE``, else 512 MiB.

    Raises CompileError E511 where the variable is not a size.
    """
    given = os.environ.get("CONVDSL_CACHE_SIZE", "").strip()
    if not given:
        return SIZE
    match = re.fullmatch(r"(\d+)([KMG]?)", given, re.IGNORECASE | re.ASCII)
    if match is None:
        raise problem(
            "E511",
            f"the environment variable CONVDSL_CACHE_SIZE is `{given}`, which is not a size",
            "it is a number of bytes, or of larger units: `800M` or `2G`",
        )
    return int(match[1]) << 10 * " KMG".index(match[2].upper() or " ")


@dataclass
class _Kept:
    """The files of one kernel."""

    used: float = 0.0
    bytes: int = 0
    paths: list[Path] = field(default_factory=list)


def prune(limit: int) -> None:
    """Remove forgotten versions, and what was used longest ago until the rest fits.

    What was used within the last hour stays, for a process may be about to load it.
    """
    now = time.time()
    kept: list[_Kept] = []
    for version in folder().parent.glob(f"{PREFIX}*"):
        found = _kept(version)
        used = max([_used(version), *(k.used for k in found)])
        if version != folder() and now - used > FORGOTTEN:
            shutil.rmtree(version, ignore_errors=True)
        else:
            kept += found
    total = sum(k.bytes for k in kept)
    for old in sorted(kept, key=lambda k: k.used):
        if now - old.used < SAFE:
            break
        # A process that was killed while it wrote leaves a temporary file.
        unfinished = all(path.suffix == ".tmp" for path in old.paths)
        if total > limit or unfinished:
            total -= old.bytes
            for path in old.paths:
                with suppress(OSError):
                    path.unlink()


def _used(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:  # another process was faster
        return 0.0


def _kept(version: Path) -> list[_Kept]:
    """What a folder holds, kernel by kernel."""
    kernels: dict[Path, _Kept] = {}
    for path in version.rglob("*"):
        try:
            status = path.lstat()
        except OSError:  # another process was faster
            continue
        if stat.S_ISDIR(status.st_mode):
            continue
        kernel = kernels.setdefault(path.with_suffix(""), _Kept())
        kernel.used = max(kernel.used, status.st_mtime)
        kernel.bytes += status.st_size
        kernel.paths.append(path)
    return list(kernels.values())
