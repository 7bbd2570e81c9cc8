"""What packages for all targets have in common: what they hold, and how they are called.

This file stands in every package that `convdsl compile -o` writes; it needs numpy alone.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Array = np.ndarray
INPUT_MEAN = "input.mean"
"""What is taken off the input, among the variables of weights that were trained so."""


class Packaged(ABC):
    """The network of a folder, for the batch it was compiled for.

    Calling it with one float32 array N×C×spatial per input returns the output or a tuple of them;
    a package compiled for training has `value_and_grad` instead.
    """

    def __init__(self, directory: str | Path | None) -> None:
        self.folder = Path(directory or Path(__file__).parent)
        self.plan: dict[str, Any] = json.loads((self.folder / "plan.json").read_text())
        with np.load(self.folder / "weights.npz") as stored:
            self.variables = {name: np.array(stored[name]) for name in stored.files}
        self.network: str = self.plan["network"]
        self.labels: list[str] = self.plan["labels"]
        self.inputs: list[dict[str, Any]] = self.plan["inputs"]
        self._stale = True

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
        checked = [self._fitting(p, a) for p, a in zip(self.inputs, arrays, strict=True)]
        if INPUT_MEAN in self.variables:
            checked[0] = _of_host(checked[0]) - self.variables[INPUT_MEAN]
        given = {p["buffer"]: a for p, a in zip(self.inputs, checked, strict=True)}
        if self._stale:
            self._prepare()
            self._stale = False
        self._run(given)
        return {
            p["name"]: a.copy()
            if isinstance(a := given.get(p["buffer"]), Array)
            else self._output(p)
            for p in self.plan["outputs"]
        }

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

    def _fitting(self, port: dict[str, Any], array: Any) -> Any:
        """An input as `_run` takes it. Raises ValueError where it does not fit."""
        given = np.asarray(array)
        check(port, given.dtype, given.shape)
        return np.ascontiguousarray(given)

    @abstractmethod
    def _prepare(self) -> None:
        """Compute what depends on variables alone."""

    @abstractmethod
    def _run(self, given: Mapping[str, Any]) -> None:
        """Run all steps on the inputs, which are given by their buffers."""

    @abstractmethod
    def _output(self, port: Mapping[str, Any]) -> Array:
        """A copy of an output."""


def modules(folder: Path, names: Sequence[str]) -> tuple[ModuleType, ...]:
    """Modules of the folder, under a name that depends on their text alone.

    Numba's cache beside them holds that name, so it must be the same however this folder is called
    and imported.
    """
    name = f"convdsl_package_{text_hash(folder, names)}"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(folder.resolve())]
        sys.modules[name] = package
    return tuple(importlib.import_module(f"{name}.{module}") for module in names)


def text_hash(folder: Path, names: Sequence[str]) -> str:
    """Tells the text of modules from any other."""
    texts = b"".join((folder / f"{name}.py").read_bytes() for name in names)
    return hashlib.sha256(texts).hexdigest()[:16]


def check(port: dict[str, Any], dtype: object, shape: Sequence[int]) -> None:
    """Raise ValueError for an input of another type or shape than the port's."""
    if list(shape) != port["shape"] or dtype != port["dtype"]:
        raise ValueError(
            f"`{port['name']}` takes {port['dtype']} of shape {tuple(port['shape'])}, "
            f"got {dtype} of shape {tuple(shape)}"
        )


def _of_host(array: Any) -> Array:
    if not isinstance(array, Array):
        raise TypeError("these weights take a mean off inputs, which is done on the host")
    return array
