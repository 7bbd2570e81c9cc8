"""Runs this folder's network: `import`, `load()`, call. Needs numpy and numba alone.

This file stands in every package that `convdsl compile -o` writes for the CPU, beside `plan.json`
(what runs on which memory), `kernels.py` (the code), `native.py` (what the code is written with),
`team.py` (the threads that run it), `packaged.py` (what is not the CPU's own) and `weights.npz`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numba
import numpy as np

from .packaged import Packaged, modules

Array = np.ndarray
ALIGNMENT = 64
MODULES = ("kernels", "native", "team")


class Program(Packaged):
    """The network, on as many ``threads`` as are asked for, else as it was compiled for."""

    def __init__(self, directory: str | Path | None = None, threads: int | None = None) -> None:
        super().__init__(directory)
        # Scratch memory is there for as many threads as the plan was made for.
        most = min(self.plan["threads"], numba.config.NUMBA_NUM_THREADS)
        self.threads = max(1, min(threads or most, most))
        self._memory = {
            "arena": _aligned(self.plan["arena_bytes"]),
            "constant": _aligned(self.plan["constant_bytes"]),
        }
        self._compile()
        self._preparation = self._table(self.plan["prepare"])
        self._steps = self._table(self.plan["steps"])
        for table in self.plan["tables"]:
            buffer = self.plan["buffers"][table["buffer"]]
            port = {"shape": [len(table["values"])], "dtype": buffer["dtype"], **table}
            self._view(port)[:] = table["values"]

    def _compile(self) -> None:
        kernels, native, team = modules(self.folder, MODULES)

        def compiled(name: str, options: list[str]) -> int:
            fast = set(options)
            wrap = numba.cfunc(native.SIGNATURE, cache=True, error_model="numpy", fastmath=fast)
            return int(wrap(getattr(kernels, name)).address)

        self._addresses = {n: compiled(n, options) for n, options in self.plan["kernels"].items()}
        self._described = team.described
        self._team = team.Team(compiled("team", []))

    def _prepare(self) -> None:
        self._launch(self._preparation, len(self.plan["prepare"]))

    def _run(self, given: Mapping[str, Array]) -> None:
        for buffer, array in given.items():
            for row, step in enumerate(self.plan["steps"]):
                for column, name in enumerate(step["buffers"]):
                    if name == buffer:
                        self._steps[1][row, column] = array.ctypes.data
        self._launch(self._steps, self.plan["forward"])

    def _output(self, port: Mapping[str, Any]) -> Array:
        return self._view(port).copy()

    def _launch(self, tables: tuple[Array, Array, Array], count: int) -> None:
        """Run so many steps."""
        if count:
            self._team.run(self._described(*tables, self.threads), 0, count)

    def _view(self, port: Mapping[str, Any]) -> Array:
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


def _aligned(bytes: int) -> Array:
    raw = np.empty(bytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + bytes]
