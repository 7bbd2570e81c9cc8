"""A compiled network: called with arrays, trained with gradients, its parameters read and set."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from convdsl.graph import Graph
from convdsl.plan.model import Plan, Port
from convdsl.runtime import parameters as files
from convdsl.runtime.machine import Machine
from convdsl.runtime.parameters import initial

Array = np.ndarray


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
        inputs = self._inference_inputs(x)
        with self._lock:
            self._execute(inputs)
            results = tuple(self._copy(port) for port in self.plan.outputs)
        found: Array | tuple[Array, ...] = _single(results)
        return found

    def on_device(self, *x: Any) -> Any:
        """Like a call, but the output stays where it was computed, on the GPU.

        It speaks DLPack and has a ``__cuda_array_interface__``, so that torch and CuPy take it
        without a copy; the program's next call writes into it. Raises TypeError for a program that
        runs elsewhere.
        """
        if not self.machine.takes_device_arrays:
            raise TypeError("this program does not run on a GPU")
        inputs = self._inference_inputs(x)
        with self._lock:
            self._execute(inputs)
            machine: Any = self.machine
            results = tuple(machine.on_device(port) for port in self.plan.outputs)
        return _single(results)

    def prefetch(self, batches: Iterable[Sequence[Any]]) -> Generator[tuple[Any, ...], None, None]:
        """The same batches, each a tuple of arrays, for `step`, `value_and_grad` or a call.

        Where the program runs on a GPU, a thread reads the next batch and sends it there while the
        one before is in use. Raises ValueError for arrays that do not fit, when their batch is due.
        """
        source = iter(batches)
        if not self.machine.takes_device_arrays:
            yield from (tuple(batch) for batch in source)
            return

        def following() -> tuple[Any, ...] | None:
            batch = next(source, None)
            if batch is None:
                return None
            ports = self._inputs[: len(batch)]
            return tuple(self.machine.upload(self._checked(ports, tuple(batch))).values())

        with ThreadPoolExecutor(1, thread_name_prefix="convdsl-prefetch") as thread:
            waiting = thread.submit(following)
            while (batch := waiting.result()) is not None:
                waiting = thread.submit(following)
                yield batch

    def map(self, batches: Iterable[Sequence[Any]]) -> Iterator[Any]:
        """What calls with each of the batches return, in their order.

        On a GPU a batch is computed while the next one is sent there and the outputs of the one
        before come back.
        """
        earlier: Callable[[], tuple[Array, ...]] | None = None
        for batch in self.prefetch(batches):
            inputs = self._inference_inputs(batch)
            with self._lock:
                self._execute(inputs)
                later = self.machine.later(self.plan.outputs)
            if earlier is not None:
                yield _single(earlier())
            earlier = later
        if earlier is not None:
            yield _single(earlier())

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

    def _inference_inputs(self, arrays: tuple[Any, ...]) -> dict[str, Any]:
        wanted = [p for p in self._inputs if p.role == "input"]
        inputs = self._checked(wanted, arrays)
        if len(wanted) < len(self._inputs):
            raise TypeError("this program was compiled for training; call `value_and_grad`")
        return inputs

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
        given = {p.name: self._fitting(p, a) for p, a in zip(ports, arrays, strict=True)}
        # From batches that were sent ahead it is off already.
        if self._input_mean is not None and not self.machine.was_sent(arrays[0]):
            name = self.graph.inputs[0].name
            if not isinstance(given[name], np.ndarray):
                raise TypeError("these weights take a mean off inputs, which is done on the host")
            given[name] = given[name] - self._input_mean
        return given

    def _fitting(self, port: Port, array: Any) -> Any:
        remote = self.machine.remote(array)
        if remote is None:
            return _checked(port, array)
        if (remote.shape, remote.dtype) != (port.shape, port.dtype):
            raise _misfit(port, remote.dtype, remote.shape)
        return remote

    def profile(self, *arrays: Array, repeats: int = 5) -> list[tuple[str, str, float]]:
        """For every step: the layer, its kernel and the median seconds it takes."""
        inputs = self._checked(self._inputs, arrays)
        steps = self.plan.steps[: self.plan.forward]
        times = np.zeros((repeats, len(steps)))
        with self._lock:
            self._execute(inputs)
            self.machine.wait()
            for run in range(repeats):
                for index in range(len(steps)):
                    start = time.perf_counter()
                    self.machine.run(inputs, index, index + 1)
                    self.machine.wait()
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


def _checked(port: Port, array: Any) -> Array:
    """An array of the host, as kernels read it."""
    given = np.asarray(array)
    kinds = "f" if port.dtype == "float32" else "iu"
    if given.shape != port.shape or given.dtype.kind not in kinds or given.dtype.itemsize > 8:
        raise _misfit(port, given.dtype, given.shape)
    if port.dtype == "float32" and given.dtype != np.float32:
        raise _misfit(port, given.dtype, given.shape)
    return np.ascontiguousarray(given, port.dtype)


def _single(results: tuple[Any, ...]) -> Any:
    """The only result itself, or several as a tuple."""
    return results[0] if len(results) == 1 else results


def _misfit(port: Port, dtype: object, shape: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"`{port.name}` takes {port.dtype} of shape {port.shape}, got {dtype} of shape {shape}"
    )
