"""A compiled network: called with arrays, trained with gradients, its parameters read and set."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from convdsl.graph import Graph
from convdsl.plan.model import Buffer, Plan, Port
from convdsl.runtime import parameters as files
from convdsl.runtime.parameters import initial

Array = np.ndarray


class Machine(Protocol):
    """A device with a plan loaded."""

    takes_device_arrays: bool
    """Whether inputs may be arrays of a GPU, by ``__cuda_array_interface__``."""

    def prepare(self) -> None: ...

    def run(self, inputs: Mapping[str, Array], first: int, last: int) -> None: ...

    def view(self, buffer: Buffer, shape: tuple[int, ...]) -> Array: ...

    def fetch(self) -> None:
        """Bring the program's memory of its variables up to date."""


@dataclass(frozen=True)
class Pause:
    """What is done between two steps of the plan, before gradients are used.

    ``call`` is called when the first ``after`` of the steps have run; it may read and write what
    they computed.
    """

    after: int
    call: Callable[[], None]


class Program:
    """A network compiled for a target, a batch and a mode.

    Calling it with one float32 array N×C×spatial per input returns the output, or a tuple of
    outputs; N is the batch it was compiled for, and the arrays returned belong to the caller.
    """

    def __init__(self, graph: Graph, plan: Plan, seed: int = 0) -> None:
        self.graph = graph
        self.plan = plan
        self.batch = plan.batch
        self._lock = threading.Lock()
        self._seed = seed
        kept = [v for v in graph.variables if v.role not in ("input", "target")]
        self._variables = initial(kept, seed)
        self._stale = True
        self._count = 0
        self.stream = 0
        """Tells programs apart that share a seed and a batch; their random numbers differ."""
        self.input_grad: Array | tuple[Array, ...] | None = None
        """The gradients by the inputs, after `value_and_grad`."""
        self._input_mean: Array | None = None
        self._machine: Machine | None = None
        self._inputs = [p for p in plan.variables if p.role in ("input", "target")]

    # -- running -----------------------------------------------------------------------------
    def attach(self, machine: Machine) -> None:
        """Give the program the device it runs on."""
        self._machine = machine

    @property
    def machine(self) -> Machine:
        """The device the program runs on."""
        assert self._machine is not None
        return self._machine

    @property
    def variables(self) -> Mapping[str, Array]:
        """The memory of all variables that the program keeps."""
        return self._variables

    def __call__(self, *x: Array) -> Array | tuple[Array, ...]:
        """The outputs for one array per input.

        Raises ValueError, naming what was given and what is expected, for a wrong number of
        arrays, a wrong shape or element type.
        """
        wanted = [p for p in self._inputs if p.role == "input"]
        inputs = self._checked(wanted, x)
        if len(wanted) < len(self._inputs):
            raise TypeError("this program was compiled for training; call `value_and_grad`")
        with self._lock:
            self._execute(inputs)
            results = tuple(self._copy(port) for port in self.plan.outputs)
        return results[0] if len(results) == 1 else results

    def on_device(self, *x: Any) -> Any:
        """Like a call, but the output stays where it was computed, on the GPU.

        It has a ``__cuda_array_interface__``, so that torch and CuPy take it without a copy; the
        program's next call writes into it. Raises TypeError for a program that runs elsewhere.
        """
        if not self.machine.takes_device_arrays:
            raise TypeError("this program does not run on a GPU")
        inputs = self._checked([p for p in self._inputs if p.role == "input"], x)
        with self._lock:
            self._execute(inputs)
            machine: Any = self.machine
            results = tuple(machine.on_device(p.buffer, p.shape) for p in self.plan.outputs)
        return results[0] if len(results) == 1 else results

    def value_and_grad(self, *arrays: Array) -> tuple[float, dict[str, Array]]:
        """The loss and its gradients by all parameters, for the inputs and then the target.

        Gradients come in the order of `parameters`; `input_grad` is set. Parameters do not change.
        """
        inputs = self._training_inputs(arrays)
        with self._lock:
            self._draw_key()
            self._execute(inputs)
            results = {port.name: self._copy(port) for port in self.plan.outputs}
        by_input = tuple(
            results[f"gradient of {p.name}"] for p in self._inputs if p.role == "input"
        )
        self.input_grad = by_input[0] if len(by_input) == 1 else by_input
        gradients = {name: results[f"gradient of {name}"] for name in self.parameters}
        return float(results["loss"]), gradients

    def step(self, *arrays: Array, lr: float, pauses: Sequence[Pause] = ()) -> float:
        """One optimiser step at learning rate ``lr``; returns the loss before it.

        Where the loss is not finite, nothing is updated. ``pauses`` are called on the way, in their
        order; see `Pause`.
        """
        if "learning_rate" not in self._variables:
            raise TypeError("this program was compiled without an optimiser")
        inputs = self._training_inputs(arrays)
        with self._lock:
            self._variables["learning_rate"][...] = lr
            self._draw_key()
            # Gradients by the inputs, which no update needs, are left out.
            first = 0
            for pause in pauses:
                self._execute(inputs, pause.after, first)
                pause.call()
                first = pause.after
            self._execute(inputs, self.plan.shared, first)
            loss = float(self._copy(self.plan.outputs[0]))
            if math.isfinite(loss):
                self.machine.run(inputs, self.plan.forward, len(self.plan.steps))
                self._count += 1
        return loss

    @property
    def prediction(self) -> Array:
        """What the network gave in the last `step` or `value_and_grad`: N×classes, for example."""
        if all(p.role == "input" for p in self._inputs):
            raise TypeError("this program was compiled for inference; a call returns what it gives")
        with self._lock:
            return self._copy(self.plan.outputs[1])

    def _training_inputs(self, arrays: tuple[Array, ...]) -> dict[str, Array]:
        if all(p.role == "input" for p in self._inputs):
            raise TypeError("this program was compiled for inference; compile with train=True")
        return self._checked(self._inputs, arrays)

    def _draw_key(self) -> None:
        if "random_key" in self._variables:
            self._variables["random_key"][...] = self._key()

    def _key(self) -> int:
        """The key of this step's random numbers: a function of seed, step and stream."""
        parts = [self._seed, self._count, self.stream]
        return int(np.random.SeedSequence(parts).generate_state(1)[0])

    def _execute(self, inputs: dict[str, Array], last: int | None = None, first: int = 0) -> None:
        if self._stale:
            self.machine.prepare()
            self._stale = False
        self.machine.run(inputs, first, self.plan.forward if last is None else last)

    def _copy(self, port: Port) -> Array:
        return self.machine.view(port.buffer, port.shape).copy()

    def _checked(self, ports: list[Port], arrays: tuple[Array, ...]) -> dict[str, Array]:
        if len(arrays) != len(ports):
            names = ", ".join(p.name for p in ports)
            raise ValueError(f"expected {len(ports)} arrays ({names}), got {len(arrays)}")
        remote = self.machine.takes_device_arrays
        given = {p.name: _checked(p, a, remote) for p, a in zip(ports, arrays, strict=True)}
        if self._input_mean is not None:
            name = self.graph.inputs[0].name
            if not isinstance(given[name], np.ndarray):
                raise TypeError("these weights take a mean off inputs, which is done on the host")
            given[name] = given[name] - self._input_mean
        return given

    def profile(self, *arrays: Array, repeats: int = 5) -> list[tuple[str, str, float]]:
        """For every step: the layer, its kernel and the median seconds it takes."""
        inputs = self._checked(self._inputs, arrays)
        steps = self.plan.steps[: self.plan.forward]
        times = np.zeros((repeats, len(steps)))
        with self._lock:
            self._execute(inputs)
            for run in range(repeats):
                for index in range(len(steps)):
                    start = time.perf_counter()
                    self.machine.run(inputs, index, index + 1)
                    times[run, index] = time.perf_counter() - start
        medians = np.median(times, axis=0)
        return [(s.name, s.kernel.name, float(t)) for s, t in zip(steps, medians, strict=True)]

    # -- parameters --------------------------------------------------------------------------
    @property
    def parameters(self) -> Mapping[str, Array]:
        """The learned arrays by name, in definition order; read-only, see `update`."""
        return self._read_only("parameter")

    @property
    def buffers(self) -> Mapping[str, Array]:
        """The running statistics by name, in definition order; read-only, see `update`."""
        return self._read_only("buffer")

    def _read_only(self, role: str) -> Mapping[str, Array]:
        found = {}
        if self._machine is not None:
            self._machine.fetch()
        for variable in self.graph.variables:
            if variable.role == role:
                view = self._variables[variable.name].view()
                view.flags.writeable = False
                found[variable.name] = view
        return MappingProxyType(found)

    def update(self, arrays: Mapping[str, Array]) -> None:
        """Write parameters or buffers, or `input.mean`; takes effect at the next call.

        Raises CompileError E505, and writes nothing, where a name or a shape is not the network's.
        """
        files.check_update(self.graph, arrays)
        with self._lock:
            if self._machine is not None:
                self._machine.fetch()
            for name, array in arrays.items():
                if name == files.INPUT_MEAN:
                    self._input_mean = np.array(array, np.float32)
                else:
                    self._variables[name][...] = array
            self._stale = True

    @property
    def input_mean(self) -> Array | None:
        """What is taken off every input, of its shape, where the weights were trained so.

        Weights files call it `input.mean`.
        """
        return self._input_mean

    @property
    def weights(self) -> Mapping[str, Array]:
        """All that a weights file holds: parameters, buffers, `input_mean` as `input.mean`."""
        mean = {} if self._input_mean is None else {files.INPUT_MEAN: self._input_mean}
        return {**self.parameters, **self.buffers, **mean}

    @property
    def state(self) -> Mapping[str, Array]:
        """What an optimiser keeps, by name; read-only, see `resume`."""
        return self._read_only("state")

    @property
    def steps_taken(self) -> int:
        """How many optimiser steps were taken: with the seed, the key of the random numbers."""
        return self._count

    def resume(self, state: Mapping[str, Array], steps_taken: int) -> None:
        """Continue after that many steps with the `state` that was kept then.

        Raises CompileError E505, and changes nothing, where names or shapes are not the program's.
        """
        files.check_state(self.graph, state)
        with self._lock:
            if self._machine is not None:
                self._machine.fetch()
            for name, array in state.items():
                self._variables[name][...] = array
            self._count = steps_taken
            self._stale = True

    def load(self, path: str | Path) -> None:
        """Set all parameters and buffers, and `input_mean`, from a safetensors file.

        Raises CompileError E503 where it cannot be read, E505 where it is not of this network.
        """
        arrays = files.read(path)
        files.check_update(self.graph, arrays)
        files.check_complete(self.graph, arrays, path)
        self._input_mean = None
        self.update(arrays)

    def save(self, path: str | Path) -> None:
        """Write all parameters, buffers and `input_mean` to a safetensors file, or nothing."""
        files.write(path, self.weights)


def _checked(port: Port, array: Any, remote: bool = False) -> Any:
    if remote and hasattr(array, "__cuda_array_interface__"):
        return _checked_remote(port, array)
    given = np.asarray(array)
    kinds = "f" if port.dtype == "float32" else "iu"
    if given.shape != port.shape or given.dtype.kind not in kinds or given.dtype.itemsize > 8:
        raise _misfit(port, given.dtype, given.shape)
    if port.dtype == "float32" and given.dtype != np.float32:
        raise _misfit(port, given.dtype, given.shape)
    return np.ascontiguousarray(given, port.dtype)


def _checked_remote(port: Port, array: Any) -> Any:
    """An array of a GPU, which has to be as the kernels read it."""
    described = array.__cuda_array_interface__
    dtype, shape = np.dtype(described["typestr"]), tuple(described["shape"])
    if dtype != np.dtype(port.dtype) or shape != port.shape:
        raise _misfit(port, dtype, shape)
    strides = described.get("strides")
    if strides is not None and tuple(strides) != _strides(shape, dtype.itemsize):
        raise ValueError(f"`{port.name}` takes a contiguous array on the GPU")
    return array


def _strides(shape: tuple[int, ...], item: int) -> tuple[int, ...]:
    return tuple(item * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _misfit(port: Port, dtype: np.dtype[Any], shape: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"`{port.name}` takes {port.dtype} of shape {port.shape}, got {dtype} of shape {shape}"
    )
