"""Runs plans on an NVIDIA GPU: one arena, resident variables, and launches recorded once.

Parameters stay on the device between calls and come back when somebody asks for them. The launches
of a call are captured as a CUDA graph at the first one and replayed afterwards, so that hundreds of
small kernels cost one launch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from convdsl.plan.model import Buffer, Plan, Step
from convdsl.runtime import cuda_compilation
from convdsl.runtime.driver import Device

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """An output where it was computed, for torch and CuPy to take as it is.

    Its memory is the program's, and the next call writes into it.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    owner: object

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
        }


class CudaMachine:
    """A plan with its memory on the device. Not safe for threads: the caller holds a lock.

    Raises CompileError E512 where there is no device, E514 for whatever its driver refuses.
    """

    takes_device_arrays = True

    def __init__(self, plan: Plan, variables: Mapping[str, Array]) -> None:
        self.plan = plan
        self.device = Device()
        self._host = variables
        self._arena = self.device.allocate(plan.arena_bytes, self)
        self._constants = self.device.allocate(plan.constant_bytes, self)
        self._addresses: dict[str, int] = {}
        self._staging: dict[str, Array] = {}
        written = {step.buffers[-1] for step in plan.steps}
        for port in plan.variables:
            self._addresses[port.name] = self.device.allocate(port.buffer.bytes, self)
            set_by_host = port.role == "state" and port.buffer not in written
            if port.role in ("input", "target") or set_by_host:
                self._staging[port.name] = self.device.staging(port.buffer.bytes, self)
        # Such as the learning rate and the random key, which are set before every step.
        self._settings = [name for name in self._staging if name in variables]
        self._newer = False
        """Whether the device's variables have changed since the host saw them."""
        self._graphs: dict[tuple[int, int], Any] = {}
        texts = cuda_compilation.load(plan.kernels, self.device.arch)
        self._functions = {
            kernel.key: self.device.load(
                texts[kernel.key],
                cuda_compilation.entry(texts[kernel.key]),
                len(kernel.pointers) + len(kernel.sizes),
            )
            for kernel in plan.kernels
        }
        for buffer, values in plan.tables:
            self.device.send(self._address(buffer), np.array(values, buffer.dtype))
        self.device.wait()

    def prepare(self) -> None:
        """Send all variables, then compute what depends on parameters alone."""
        self.device.enter()
        for name, array in self._host.items():
            self.device.send(self._addresses[name], array)
        self._newer = False
        self._launch(self.plan.prepare)
        self.device.wait()

    def run(self, inputs: Mapping[str, Any], first: int, last: int) -> None:
        """Run steps [first, last) on arrays of the right types, of the host or of the device.

        Inputs are sent with the first step; the others go on with the same ones.
        """
        self.device.enter()
        if first == 0:
            for name, array in inputs.items():
                self._give(name, array)
        for name in self._settings:
            self._give(name, self._host[name])
        if last - first < 2:
            self._launch(self.plan.steps[first:last])
        else:
            self.device.replay(self._graph(first, last))
        self._newer = self._newer or last > self.plan.forward
        # The staging memory is free again, and a clock that stops now has measured the work.
        self.device.wait()

    def view(self, buffer: Buffer, shape: tuple[int, ...]) -> Array:
        """A copy of a buffer on the host."""
        self.device.enter()
        found = np.empty(shape, buffer.dtype)
        self.device.fetch(found, self._address(buffer))
        return found

    def on_device(self, buffer: Buffer, shape: tuple[int, ...]) -> DeviceArray:
        """A buffer where it is."""
        return DeviceArray(self._address(buffer), shape, buffer.dtype, self)

    def fetch(self) -> None:
        """Bring the host's memory of all variables up to date."""
        if not self._newer:
            return
        self.device.enter()
        for name, array in self._host.items():
            if name not in self._settings:
                self.device.fetch(array, self._addresses[name])
        self._newer = False

    def seconds(self, repeats: int) -> float:
        """How long a call takes on the device alone, with what it was given last."""
        self.device.enter()
        graph = self._graph(0, self.plan.forward)
        self.device.wait()
        start = time.perf_counter()
        for _ in range(repeats):
            self.device.replay(graph)
        self.device.wait()
        return (time.perf_counter() - start) / repeats

    def _give(self, name: str, array: Any) -> None:
        """Let an array be the value of an input or of a state."""
        address = self._addresses[name]
        if hasattr(array, "__cuda_array_interface__"):
            # One copy on the device: a captured graph reads from where it always did.
            self.device.wait_for_others()
            source = array.__cuda_array_interface__["data"][0]
            self.device.move(address, source, self._staging[name].nbytes)
            return
        staging = self._staging[name]
        staging[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.device.send(address, staging)

    def _graph(self, first: int, last: int) -> Any:
        """The launches of steps [first, last), captured at the first time."""
        if (first, last) not in self._graphs:
            steps = self.plan.steps[first:last]
            self._graphs[first, last] = self.device.captured(lambda: self._launch(steps))
        return self._graphs[first, last]

    def _launch(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            arguments = [*(self._address(b) for b in step.buffers), *step.sizes]
            function = self._functions[step.kernel.key]
            self.device.launch(function, step.work, step.kernel.threads, arguments)

    def _address(self, buffer: Buffer) -> int:
        if buffer.place in ("input", "variable"):
            return self._addresses[buffer.name]
        start = self._arena if buffer.place == "arena" else self._constants
        return start + buffer.offset
