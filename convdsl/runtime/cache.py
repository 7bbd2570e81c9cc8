"""The kernel cache: rendered source files, compiled by Numba, kept on disk between processes.

A file is named by a hash of its text, in a folder named by everything else that decides the machine
code: versions and the processor. Files are written whole and renamed, so processes may share it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
import tempfile
from functools import cache
from inspect import getsource
from pathlib import Path
from typing import Any

from convdsl.plan.model import Kernel

NATIVE = "convdsl.runtime.native"
"""The module that CPU kernels are written with."""


def directory() -> Path:
    """The cache folder: ``CONVDSL_CACHE_DIR``, else the platform's for this user."""
    given = os.environ.get("CONVDSL_CACHE_DIR")
    if given:
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_cache_dir("convdsl"))


@cache
def _folder() -> Path:
    import llvmlite
    import numba
    from llvmlite import binding

    from convdsl.runtime import native

    parts = (
        sys.version,
        numba.__version__,
        llvmlite.__version__,
        binding.get_host_cpu_name(),
        binding.get_host_cpu_features().flatten(),
        getsource(native),
    )
    name = "cpu-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    try:
        folder = directory() / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        # A cache that cannot be written costs time, not correctness.
        folder = Path(tempfile.mkdtemp(prefix="convdsl-"))
    return folder


def module_text(source: str, library: str, shown_as: str = "") -> str:
    """Rendered functions as a module that imports what they use of a library module."""
    known = [*importlib.import_module(library).__all__, "_call", "prange"]
    words = set(re.findall(r"\w+", source)) - set(re.findall(r"^def (\w+)", source, re.MULTILINE))
    names = sorted(n for n in known if n in words)
    needed = f"from {shown_as or library} import {', '.join(names)}\n\n\n" if names else ""
    return needed + source


def function(kernel: Kernel, library: str = NATIVE) -> Any:
    """The Python function of a kernel, from its file in the cache."""
    return _function(kernel.name, kernel.key, kernel.source, library)


def _function(name: str, key: str, source: str, library: str = NATIVE) -> Any:
    path = _folder() / f"{name}_{key}.py"
    text = module_text(source, library)
    if not path.exists() or path.read_text() != text:
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    specification = importlib.util.spec_from_file_location(f"convdsl_kernel_{key}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # Numba looks the module up by name when it loads compiled code from disk.
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return getattr(module, name)


_loaded: dict[str, Any] = {}


def compiled(kernel: Kernel) -> Any:
    """The kernel as a Numba C callback; compiled at most once per cache."""
    if kernel.key not in _loaded:
        import numba

        from convdsl.runtime.native import SIGNATURE

        _loaded[kernel.key] = numba.cfunc(
            SIGNATURE, cache=True, error_model="numpy", fastmath=set(kernel.options)
        )(function(kernel))
    return _loaded[kernel.key]


def inspect(kernel: Kernel, stage: str) -> str:
    """The LLVM code or the assembly of a kernel, compiled afresh."""
    import numba

    from convdsl.runtime.native import SIGNATURE

    python = function(kernel)
    fresh = numba.cfunc(SIGNATURE, error_model="numpy", fastmath=set(kernel.options))(python)
    text: str = fresh.inspect_llvm() if stage == "llvm" else fresh._library.get_asm_str()
    return text


@cache
def launcher() -> Any:
    """The compiled function that runs the steps of a program."""
    import numba

    from convdsl.runtime import native

    source = getsource(native.launch)
    key = hashlib.sha256(source.encode()).hexdigest()[:16]
    python = _function("launch", key, source)
    return numba.njit(native.LAUNCH_SIGNATURE, parallel=True, cache=True)(python)


@cache
def host_lanes() -> int:
    """How many float32 elements a vector register of this processor holds."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 16
    return 8 if features.get("avx") else 4
