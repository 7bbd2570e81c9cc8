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
import pickle
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
from inspect import getsource
from pathlib import Path
from types import ModuleType
from typing import Any

from convdsl import resources
from convdsl.diagnostics import problem
from convdsl.plan.model import Kernel

NATIVE = "convdsl.runtime.native"
"""The module that CPU kernels are written with."""
FORMAT = "1"
"""Raised when the files, or what Numba is asked for, change their meaning."""
PREFIX = "cpu-"
"""What names of folders of compiled kernels begin with."""
SUFFIX = ".bin"
"""What names of files of machine code end with."""
SETTINGS = ("BOUNDSCHECK", "CPU_FEATURES", "CPU_NAME", "DEBUGINFO_DEFAULT", "ENABLE_AVX", "OPT")
"""Numba's settings that change the machine code."""
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
    import llvmlite
    import numba
    from llvmlite import binding

    from convdsl.runtime import native

    return [
        FORMAT,
        sys.version,
        numba.__version__,
        llvmlite.__version__,
        binding.get_host_cpu_name(),
        binding.get_host_cpu_features().flatten(),
        *(f"{name}={getattr(numba.config, name, None)}" for name in SETTINGS),
        getsource(native),
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
    known = [*importlib.import_module(library).__all__, "_call", "prange"]
    words = set(re.findall(r"\w+", source)) - set(re.findall(r"^def (\w+)", source, re.MULTILINE))
    names = sorted(n for n in known if n in words)
    needed = f"from {shown_as or library} import {', '.join(names)}\n\n\n" if names else ""
    return needed + source


def function(kernel: Kernel, library: str = NATIVE) -> Any:
    """The Python function of a kernel; its file in the cache is there to be read by people."""
    return _function(kernel.name, kernel.key, kernel.source, library)


def _function(name: str, key: str, source: str, library: str = NATIVE) -> Any:
    path = folder() / f"{name}_{key}.py"
    text = module_text(source, library)
    if _read(path) != text.encode():
        _write(path, text.encode())
    module = ModuleType(f"convdsl_kernel_{key}")
    module.__file__ = str(path)
    # Numba looks the module up by name when it loads compiled code from disk.
    sys.modules[module.__name__] = module
    # Not by an import, which would keep bytecode beside the file and trust it unchecked.
    exec(compile(text, str(path), "exec"), module.__dict__)
    return getattr(module, name)


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


class _Entry:
    """One file of machine code, with the methods that Numba expects of a function's cache."""

    cache_path = None

    def __init__(self, name: str, key: str) -> None:
        self.path = folder() / f"{name}_{key}{SUFFIX}"

    def read(self) -> bytes | None:
        """What was stored, or None where there is nothing or something that is damaged."""
        content = _read(self.path)
        if content is None:
            return None
        checksum, stored = content[:32], content[32:]
        if hashlib.sha256(stored).digest() != checksum:
            return None
        with suppress(OSError):
            os.utime(self.path)  # tells `prune` that it is in use
        return stored

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Numba's compilation result, or None where it has to be compiled."""
        from numba.core.compiler import CompileResult

        context.refresh()
        stored = self.read()
        if stored is None:
            return None
        try:
            return CompileResult._rebuild(context, *pickle.loads(stored))
        except Exception:  # whatever it was, compiling replaces it
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep a compilation result, if it is the same in every process."""
        from numba.core.serialize import dumps

        if not result.library.has_dynamic_globals:
            stored = dumps(result._reduce())
            _write(self.path, hashlib.sha256(stored).digest() + stored)


_loaded: dict[str, Any] = {}


def compiled(kernel: Kernel) -> Any:
    """The kernel as a Numba C callback; compiled at most once per cache."""
    if kernel.key not in _loaded:
        callback = _callback(kernel)
        callback._cache = _Entry(kernel.name, kernel.key)
        callback.compile()
        _loaded[kernel.key] = callback
    return _loaded[kernel.key]


def is_compiled(kernel: Kernel) -> bool:
    """Whether the kernel can be had without compiling it."""
    return kernel.key in _loaded or is_stored(kernel)


def is_stored(kernel: Kernel) -> bool:
    """Whether the kernel's machine code is on disk."""
    return _Entry(kernel.name, kernel.key).read() is not None


def _callback(kernel: Kernel) -> Any:
    """The kernel as a Numba C callback that is not compiled yet."""
    from numba.core import sigutils
    from numba.core.ccallback import CFunc

    from convdsl.runtime.native import SIGNATURE

    options = {"error_model": "numpy", "fastmath": set(kernel.options)}
    return CFunc(function(kernel), sigutils.normalize_signature(SIGNATURE), {}, options)


def inspect(kernel: Kernel, stage: str) -> str:
    """The LLVM code or the assembly of a kernel, compiled afresh."""
    fresh = _callback(kernel)
    fresh.compile()
    text: str = fresh.inspect_llvm() if stage == "llvm" else fresh._library.get_asm_str()
    return text


@cache
def launcher() -> Any:
    """The compiled function that runs the steps of a program.

    It lets other Python threads work meanwhile, so callers see to it that it runs once at a time.
    """
    from convdsl.runtime import native

    source, key = _launcher_source()
    return _routine("launch", source, key, native.LAUNCH_SIGNATURE, parallel=True)


@cache
def routine(function: Callable[..., None], signature: str) -> Any:
    """A plain Python function on arrays, compiled for one signature and kept like a kernel.

    It runs on the thread that calls it and lets other Python threads work meanwhile.
    """
    source = getsource(function)
    key = hashlib.sha256(f"{signature}\n{source}".encode()).hexdigest()[:16]
    return _routine(function.__name__, source, key, signature, parallel=False)


def _routine(name: str, source: str, key: str, signature: Any, parallel: bool) -> Any:
    import numba

    dispatcher = numba.njit(parallel=parallel, nogil=True)(_function(name, key, source))
    dispatcher._cache = _Entry(name, key)
    dispatcher.compile(signature)
    dispatcher.disable_compile()
    return dispatcher


def launcher_is_compiled() -> bool:
    """Whether the launcher can be had without compiling it."""
    return launcher.cache_info().currsize > 0 or (
        _Entry("launch", _launcher_source()[1]).read() is not None
    )


def _launcher_source() -> tuple[str, str]:
    from convdsl.runtime import native

    source = getsource(native.launch)
    return source, hashlib.sha256(f"nogil\n{source}".encode()).hexdigest()[:16]


@cache
def host_lanes() -> int:
    """How many float32 elements a vector register of this processor holds."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 16
    return 8 if features.get("avx") else 4


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
