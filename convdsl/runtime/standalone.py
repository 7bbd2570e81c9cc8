"""Runs this folder's network: `import`, `load()`, call. Needs numpy and numba alone.

This file stands in every package that `convdsl compile -o` writes, beside `plan.json` (what runs on
which memory), `kernels.py` (the code), `native.py` (what the code is written with), `team.py` (the
threads that run it) and `weights.npz`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np

Array = np.ndarray
ALIGNMENT = 64
MODULES = ("kernels", "native", "team")
INPUT_MEAN = "input.mean"
"""What is taken off the input, among the variables of weights that were trained so."""


class Program:
    """The network, for the batch it was compiled for.

    Calling it with one float32 array N×C×spatial per input returns the output or a tuple of them;
    a package compiled for training has `value_and_grad` instead.
    """

    def __init__(self, directory: str | Path | None = None, threads: int | None = None) -> None:
        folder = Path(directory or Path(__file__).parent)
        self.plan: dict[str, Any] = json.loads((folder / "plan.json").read_text())
        with np.load(folder / "weights.npz") as stored:
            self.variables = {name: np.array(stored[name]) for name in stored.files}
        self.network: str = self.plan["network"]
        self.labels: list[str] = self.plan["labels"]
        self.inputs: list[dict[str, Any]] = self.plan["inputs"]
        # Scratch memory is there for as many threads as the plan was made for.
        most = min(self.plan["threads"], numba.config.NUMBA_NUM_THREADS)
        self.threads = max(1, min(threads or most, most))
        self._memory = {
            "arena": _aligned(self.plan["arena_bytes"]),
            "constant": _aligned(self.plan["constant_bytes"]),
        }
        self._compile(folder)
        self._prepare = self._table(self.plan["prepare"])
        self._steps = self._table(self.plan["steps"])
        for table in self.plan["tables"]:
            buffer = self.plan["buffers"][table["buffer"]]
            port = {"shape": [len(table["values"])], "dtype": buffer["dtype"], **table}
            self._view(port)[:] = table["values"]
        self._stale = True

    def _compile(self, folder: Path) -> None:
        kernels, native, team = _modules(folder)

        def compiled(name: str, options: list[str]) -> int:
            fast = set(options)
            wrap = numba.cfunc(native.SIGNATURE, cache=True, error_model="numpy", fastmath=fast)
            return int(wrap(getattr(kernels, name)).address)

        self._addresses = {n: compiled(n, options) for n, options in self.plan["kernels"].items()}
        self._described = team.described
        self._team = team.Team(compiled("team", []))

    def __call__(self, *x: Array) -> Array | tuple[Array, ...]:
        """The outputs. Raises ValueError for a wrong number, shape or type of arrays."""
        results = tuple(self.run(x).values())
        return results[0] if len(results) == 1 else results

    def value_and_grad(self, *arrays: Array) -> tuple[float, dict[str, Array]]:
        """The loss and its gradients by name, for the inputs and then the target."""
        results = self.run(arrays)
        prefix = "gradient of "
        gradients = {n[len(prefix) :]: a for n, a in results.items() if n.startswith(prefix)}
        return float(results["loss"]), gradients

    def run(self, arrays: tuple[Array, ...]) -> dict[str, Array]:
        """All outputs by name."""
        if len(arrays) != len(self.inputs):
            raise ValueError(f"expected {len(self.inputs)} arrays, got {len(arrays)}")
        checked = [_checked(p, a) for p, a in zip(self.inputs, arrays, strict=True)]
        if INPUT_MEAN in self.variables:
            checked[0] = checked[0] - self.variables[INPUT_MEAN]
        for port, array in zip(self.inputs, checked, strict=True):
            for row, step in enumerate(self.plan["steps"]):
                for column, name in enumerate(step["buffers"]):
                    if name == port["buffer"]:
                        self._steps[1][row, column] = array.ctypes.data
        if self._stale:
            self._launch(self._prepare, len(self.plan["prepare"]))
            self._stale = False
        self._launch(self._steps, self.plan["forward"])
        given = {p["buffer"]: a for p, a in zip(self.inputs, checked, strict=True)}
        return {
            p["name"]: given[p["buffer"]].copy() if p["buffer"] in given else self._view(p).copy()
            for p in self.plan["outputs"]
        }

    def _launch(self, tables: tuple[Array, Array, Array], count: int) -> None:
        """Run so many steps."""
        if count:
            self._team.run(self._described(*tables, self.threads), 0, count)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What can be written, with its shape."""
        mean = {INPUT_MEAN: tuple(self.inputs[0]["shape"][1:])} if len(self.inputs) == 1 else {}
        return {name: array.shape for name, array in self.variables.items()} | mean

    def update(self, arrays: Mapping[str, Array]) -> None:
        """Write parameters or buffers, or `input.mean`; takes effect at the next call."""
        for name, array in arrays.items():
            if self.shapes[name] != np.shape(array):
                raise ValueError(f"{name} has shape {self.shapes[name]}")
        for name, array in arrays.items():
            if name == INPUT_MEAN:
                self.variables[name] = np.array(array, np.float32)
            else:
                self.variables[name][...] = array
        self._stale = True

    def _view(self, port: dict[str, Any]) -> Array:
        buffer = self.plan["buffers"][port["buffer"]]
        if buffer["place"] == "variable":
            stored: Array = self.variables[buffer["name"]].reshape(port["shape"])
            return stored
        item = np.dtype(port["dtype"]).itemsize
        start, size = buffer["offset"], math.prod(port["shape"]) * item
        data = self._memory[buffer["place"]][start : start + size]
        viewed: Array = data.view(port["dtype"]).reshape(port["shape"])
        return viewed

    def _table(self, steps: list[dict[str, Any]]) -> tuple[Array, Array, Array]:
        width = max((len(s["buffers"]) + len(s["sizes"]) for s in steps), default=1)
        functions = np.zeros(len(steps), np.int64)
        table = np.zeros((len(steps), width), np.int64)
        work = np.zeros((len(steps), 2), np.int64)
        for row, step in enumerate(steps):
            functions[row] = self._addresses[step["kernel"]]
            entries = [self._address(name) for name in step["buffers"]] + step["sizes"]
            table[row, : len(entries)] = entries
            parts = max(1, min(self.threads, step["work"], step["cost"] // self.plan["grain"]))
            work[row] = step["work"], parts
        return functions, table, work

    def _address(self, name: str) -> int:
        buffer = self.plan["buffers"][name]
        if buffer["place"] == "input":
            return 0
        if buffer["place"] == "variable":
            return int(self.variables[buffer["name"]].ctypes.data)
        return int(self._memory[buffer["place"]].ctypes.data) + int(buffer["offset"])


def load(directory: str | Path | None = None, threads: int | None = None) -> Program:
    """The program of this folder."""
    return Program(directory, threads)


def _modules(folder: Path) -> tuple[ModuleType, ...]:
    """The modules named in `MODULES`, under a name that depends on their text alone.

    Numba's cache beside them holds that name, so it must be the same however this folder is called
    and imported.
    """
    texts = b"".join((folder / f"{name}.py").read_bytes() for name in MODULES)
    name = f"convdsl_package_{hashlib.sha256(texts).hexdigest()[:16]}"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(folder.resolve())]
        sys.modules[name] = package
    return tuple(importlib.import_module(f"{name}.{module}") for module in MODULES)


def _aligned(bytes: int) -> Array:
    raw = np.empty(bytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + bytes]


def _checked(port: dict[str, Any], array: Array) -> Array:
    given = np.asarray(array)
    if list(given.shape) != port["shape"] or given.dtype != port["dtype"]:
        raise ValueError(
            f"`{port['name']}` takes {port['dtype']} of shape {tuple(port['shape'])}, "
            f"got {given.dtype} of shape {given.shape}"
        )
    return np.ascontiguousarray(given)
