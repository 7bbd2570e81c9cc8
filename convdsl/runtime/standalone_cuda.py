"""Runs this folder's network on an NVIDIA GPU: `import`, `load()`, call. Needs numpy, numba-cuda.

This file stands in every package that `convdsl compile --target cuda -o` writes, beside `plan.json`
(what runs on which memory), `kernels.py` (the code), `native.py` (what the code is written with),
`driver.py` (the calls of the GPU's driver), `borrowing.py` and `dlpack.py` (arrays that lie on the
GPU), `packaged.py` (what is not the GPU's own) and `weights.npz`. Kernels are compiled for the GPU
at hand at the first load, which takes a second or two for each, and kept in the folder `ptx`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .borrowing import borrowed
from .driver import Device, Graph, Launch
from .packaged import Packaged, check, modules, text_hash

Array = np.ndarray
MODULES = ("kernels", "native")


class Program(Packaged):
    """The network on the first GPU; ``threads`` say nothing there.

    Inputs and targets may be contiguous arrays on it that speak DLPack or have a
    ``__cuda_array_interface__``, such as torch's and CuPy's; they are copied there, and are the
    caller's again when a call returns.

    Raises `driver.Refused` where there is no GPU, and for what its driver refuses.
    """

    def __init__(self, directory: str | Path | None = None, threads: int | None = None) -> None:
        super().__init__(directory)
        self.device = Device()
        with self.device as device:
            self._memory = {
                place: device.allocate(self.plan[f"{place}_bytes"])
                for place in ("arena", "constant")
            }
            kept = {name: array.nbytes for name, array in self.variables.items()}
            buffers = self.plan["buffers"]
            given = {p["buffer"]: _bytes(p) for p in self.inputs}
            self._staging = {name: device.staging(bytes) for name, bytes in given.items()}
            sizes = kept | {buffers[b]["name"]: bytes for b, bytes in given.items()}
            self._addresses = {name: device.allocate(bytes) for name, bytes in sizes.items()}
            self._functions = {
                name: device.load(text, _entry(text), self.plan["kernels"][name]["parameters"])
                for name, text in self._texts().items()
            }
            for table in self.plan["tables"]:
                values = np.array(table["values"], buffers[table["buffer"]]["dtype"])
                device.send(self._address(table["buffer"]), values)
            device.wait()
        self._graph: Graph | None = None

    def _texts(self) -> dict[str, str]:
        """The kernels' PTX."""
        arch = self.device.arch
        store = self.folder / "ptx"
        version = f"{arch}_{text_hash(self.folder, MODULES)}"
        texts = {}
        for name, kernel in self.plan["kernels"].items():
            path = store / f"{name}_{version}.ptx"
            with suppress(OSError):
                texts[name] = path.read_text(encoding="utf-8")
                continue
            kernels, _ = modules(self.folder, MODULES)
            texts[name] = _compiled(getattr(kernels, name), kernel, arch)
            with suppress(OSError):  # a folder that cannot be written serves as well
                store.mkdir(exist_ok=True)
                part = path.with_suffix(".part")
                part.write_text(texts[name], encoding="utf-8")
                part.replace(path)
        return texts

    def _fitting(self, port: dict[str, Any], array: Any) -> Any:
        with self.device as device:
            found = borrowed(array, device)
        if found is None:
            return super()._fitting(port, array)
        check(port, found.dtype, found.shape)
        if not found.contiguous:
            raise ValueError(f"`{port['name']}` takes arrays of the GPU that are contiguous")
        return found

    def _prepare(self) -> None:
        with self.device as device:
            for name, array in self.variables.items():
                device.send(self._addresses[name], array)
            for step in self.plan["prepare"]:
                device.launch(self._launch(step))
            device.wait()

    def _run(self, given: Mapping[str, Any]) -> None:
        with self.device as device:
            if self._graph is None:
                steps = self.plan["steps"][: self.plan["forward"]]
                self._graph = device.graph([self._launch(step) for step in steps])
            for name, array in given.items():
                if isinstance(array, Array):
                    self._staging[name][:] = array.reshape(-1).view(np.uint8)
                    device.send(self._address(name), self._staging[name])
                else:
                    device.move(self._address(name), array.address, self._staging[name].nbytes)
            device.replay(self._graph)
            device.wait()

    def _output(self, port: Mapping[str, Any]) -> Array:
        found = np.empty(port["shape"], port["dtype"])
        with self.device as device:
            device.fetch(found, self._address(port["buffer"]))
        return found

    def _launch(self, step: Mapping[str, Any]) -> Launch:
        arguments = (*map(self._address, step["buffers"]), *step["sizes"])
        threads = self.plan["kernels"][step["kernel"]]["threads"]
        return Launch(self._functions[step["kernel"]], step["work"], threads, arguments)

    def _address(self, name: str) -> int:
        buffer = self.plan["buffers"][name]
        if buffer["place"] in ("input", "variable"):
            return self._addresses[buffer["name"]]
        return self._memory[buffer["place"]] + int(buffer["offset"])


def load(directory: str | Path | None = None, threads: int | None = None) -> Program:
    """The program of this folder."""
    return Program(directory, threads)


def _bytes(port: Mapping[str, Any]) -> int:
    elements: int = math.prod(port["shape"])
    return elements * int(np.dtype(port["dtype"]).itemsize)


def _entry(text: str) -> str:
    """The name of a kernel's entry point in its PTX."""
    return text.split(".visible .entry ", 1)[1].split("(", 1)[0].strip()


def _compiled(function: Any, kernel: Mapping[str, Any], arch: str) -> str:
    from numba import cuda, types

    text: str = cuda.compile(
        function,
        (types.int64,) * kernel["parameters"],
        device=False,
        abi="numba",
        cc=divmod(int(arch.removeprefix("sm_")), 10),
        output="ptx",
        launch_bounds=(kernel["threads"], kernel["resident"]),
    )[0]
    return text
