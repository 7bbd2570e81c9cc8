"""Writes a program as a Python package that runs without convdsl, and loads such a one.

Packages for the CPU need numpy and numba, those for a GPU numpy and numba-cuda.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from convdsl.diagnostics import problem
from convdsl.kernels.cpu.frame import VECTOR_FUNCTIONS, vectors_line
from convdsl.kernels.cpu.lanewise import FINISH
from convdsl.kernels.cuda.frame import resident
from convdsl.plan.model import Buffer, Kernel, Port, Step
from convdsl.runtime import cuda_compilation
from convdsl.runtime.cache import NATIVE, module_text
from convdsl.runtime.cpu import GRAIN, TEAM
from convdsl.runtime.program import Program

MARK = "convdsl-package"
"""What tells a package from any other folder."""
LIBRARIES = {"cpu": NATIVE, "cuda": cuda_compilation.NATIVE}
"""The modules that kernels are written with."""
CODE = {
    "cpu": {
        "packaged.py": "packaged",
        "native.py": "native",
        "team.py": "team",
        "program.py": "standalone",
    },
    "cuda": {
        "packaged.py": "packaged",
        "native.py": "cuda_native",
        "driver.py": "driver",
        "borrowing.py": "borrowing",
        "dlpack.py": "dlpack",
        "program.py": "standalone_cuda",
    },
}
"""The files of a package that are the same for all networks, and the modules that they copy."""


def write(program: Program, directory: str | Path) -> list[Path]:
    """Write the package and return its files; the same program gives the same bytes.

    The program needs no device. Raises CompileError E504 where the folder cannot be written or
    holds something else.
    """
    folder = Path(directory)
    try:
        if folder.exists() and (not folder.is_dir() or _foreign(folder)):
            raise problem(
                "E504",
                f"{folder} exists and is not a compiled network",
                "give a new folder, or an empty one",
            )
        folder.mkdir(parents=True, exist_ok=True)
        kernels = program.plan.kernels
        if program.plan.target == "cpu":
            kernels = (*kernels, TEAM)
        names = _function_names(kernels)
        library = LIBRARIES[program.plan.target]
        files = {
            "__init__.py": _init(program).encode(),
            **{name: _own(module) for name, module in CODE[program.plan.target].items()},
            "kernels.py": _kernels(kernels, names, library).encode(),
            "plan.json": _plan(program, names).encode(),
            "weights.npz": _weights(program),
        }
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as reason:
        raise problem("E504", f"{folder} cannot be written: {reason.strerror}") from None
    return [folder / name for name in files]


def _own(module: str) -> bytes:
    """The text of a module of this folder; not imported, for some import Numba."""
    return Path(__file__).with_name(f"{module}.py").read_bytes()


def is_package(directory: str | Path) -> bool:
    """Whether a folder was written by `write`."""
    try:
        return MARK in (Path(directory) / "plan.json").read_text()[:200]
    except (OSError, UnicodeDecodeError):
        return False


def load(directory: str | Path, threads: int | None = None) -> Any:
    """The program of a package: a `standalone.Program`.

    Raises CompileError E507 where the folder is not a package or is damaged, E512 and E514 for one
    that the GPU here, or its driver, does not run.
    """
    folder = Path(directory).resolve()
    if not is_package(folder):
        raise problem(
            "E507",
            f"{directory} is not a compiled network",
            "`convdsl compile NETWORK -o DIR` writes one",
        )
    name = f"convdsl_loaded_{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    specification = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
        # The folder is given, for modules of equal code are loaded once.
        return module.load(folder, threads)
    except Exception as reason:  # the folder's own code may fail in any way
        refused = vars(reason)  # of its `driver.Refused`
        if refused.get("code") in ("E512", "E514"):
            raise problem(refused["code"], str(reason), *refused["help"]) from None
        raise problem("E507", f"{directory} is damaged: {reason}", "compile it again") from None


def _foreign(folder: Path) -> bool:
    return any(folder.iterdir()) and not is_package(folder)


def _init(program: Program) -> str:
    return (
        f'"""{program.graph.name}, compiled by convdsl: `load()` gives the program to call."""\n\n'
        "from .program import Program, load\n\n"
        '__all__ = ["Program", "load"]\n'
    )


def _function_names(kernels: tuple[Kernel, ...]) -> dict[str, str]:
    """A distinct function name for every kernel key."""
    taken: dict[str, int] = {}
    names = {}
    for kernel in kernels:
        taken[kernel.name] = taken.get(kernel.name, 0) + 1
        count = taken[kernel.name]
        names[kernel.key] = kernel.name if count == 1 else f"{kernel.name}_{count}"
    return names


def _kernels(kernels: tuple[Kernel, ...], names: dict[str, str], library: str) -> str:
    widths: dict[int, str] = {}
    sources = [_renamed(k, names[k.key], widths) for k in kernels]
    body = "\n\n".join(["\n".join(widths.values()), *sources] if widths else sources)
    return f'"""The kernels, rendered by convdsl."""\n\n{module_text(body, library, ".native")}'


def _renamed(kernel: Kernel, name: str, widths: dict[int, str]) -> str:
    """The source under a name of its own, its vector functions named by their width."""
    source = re.sub(rf"^def {kernel.name}\(", f"def {name}(", kernel.source, flags=re.MULTILINE)
    source = re.sub(rf"\b{FINISH}\(", f"{FINISH}_{name}(", source)
    width = re.search(r"= vectors\((\d+)\)\n+", source)
    if width is None:
        return source
    lanes = int(width[1])
    widths[lanes] = vectors_line(lanes, f"_{lanes}")
    functions = "|".join(VECTOR_FUNCTIONS)
    return re.sub(rf"\b({functions})\(", rf"\1_{lanes}(", source[width.end() :])


def _plan(program: Program, names: dict[str, str]) -> str:
    plan = program.plan
    buffers: dict[str, Buffer] = {}
    numbers: dict[Buffer, str] = {}

    def named(buffer: Buffer) -> str:
        if buffer not in numbers:
            label = buffer.name
            while label in buffers:
                label += "'"
            numbers[buffer], buffers[label] = label, buffer
        return numbers[buffer]

    def step(s: Step) -> dict[str, Any]:
        return {
            "name": s.name,
            "kernel": names[s.kernel.key],
            "buffers": [named(b) for b in s.buffers],
            "sizes": list(s.sizes),
            "work": s.work,
            "cost": s.cost,
        }

    def port(p: Port) -> dict[str, Any]:
        return {
            "name": p.name,
            "buffer": named(p.buffer),
            "shape": list(p.shape),
            "dtype": p.dtype,
            "role": p.role,
        }

    content = {
        "format": MARK,
        "target": plan.target,
        "network": plan.network,
        "batch": plan.batch,
        "inputs": [port(p) for p in plan.variables if p.role in ("input", "target")],
        "preprocessing": [dict(v.attributes) for v in program.graph.inputs],
        "labels": list(program.graph.labels),
        "outputs": [port(p) for p in plan.outputs],
        "grain": GRAIN,
        "threads": program.plan.threads,
        "arena_bytes": plan.arena_bytes,
        "constant_bytes": plan.constant_bytes,
        "kernels": {names[k.key]: _told(k) for k in plan.kernels},
        "prepare": [step(s) for s in plan.prepare],
        "steps": [step(s) for s in plan.steps],
        "forward": plan.forward,
        "tables": [{"buffer": named(b), "values": list(values)} for b, values in plan.tables],
    }
    content["buffers"] = {label: asdict(b) for label, b in buffers.items()}
    return _readable(content)


def _told(kernel: Kernel) -> Any:
    """What compiling a kernel takes besides its code."""
    if not kernel.threads:
        return list(kernel.options)
    return {
        "parameters": len(kernel.pointers) + len(kernel.sizes),
        "threads": kernel.threads,
        "resident": resident(kernel.threads),
    }


def _readable(content: dict[str, Any]) -> str:
    """JSON with a line per entry of every list or table at the second level."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list) and value:
            rows = ",\n  ".join(json.dumps(row) for row in value)
            parts.append(f'"{key}": [\n  {rows}\n ]')
        elif isinstance(value, dict) and value:
            rows = ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            parts.append(f'"{key}": {{\n  {rows}\n }}')
        else:
            parts.append(f'"{key}": {json.dumps(value)}')
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def _weights(program: Program) -> bytes:
    stream = io.BytesIO()
    arrays: dict[str, Any] = {**program.variables, **program.weights}
    np.savez(stream, **arrays)
    return stream.getvalue()
