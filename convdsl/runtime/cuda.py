"""Runs plans on an NVIDIA GPU: one arena, resident variables, and launches recorded once.

Parameters stay on the device between calls and come back when somebody asks for them. The launches
of a call are put together as a CUDA graph at the first one and replayed afterwards, so that
hundreds of small kernels cost one launch.

An input is read where it lies: a graph's launches that read one are given its address before a
replay, which costs as many calls of the driver as there are such launches (one or two), and none
where the address is that of the last time. The other way, an address that kernels load from memory,
would cost every one of their threads a dependent load.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convdsl.diagnostics import problem
from convdsl.kernels.cuda.gather import gather, lowest
from convdsl.plan.model import Buffer, Kernel, Plan, Port, Step
from convdsl.runtime import cuda_compilation, dlpack
from convdsl.runtime.borrowing import borrowed
from convdsl.runtime.dlpack import Borrowed
from convdsl.runtime.driver import NUMBER, Device, Function, Graph, Launch
from convdsl.runtime.machine import Machine

Array = np.ndarray

ALIGNMENT = 16
"""Bytes: of addresses that kernels read four elements at a time from."""
LEGACY_STREAM = 1
"""DLPack's number of the stream that is meant where none is named."""
UNORDERED = -1
"""DLPack's number of a stream that nothing has to be done for."""


def open_device() -> Device:
    """The GPU, whose refusals are diagnostics. Raises CompileError E512 where there is none."""
    return Device(problem)


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """An array on the GPU for torch and CuPy to take as it is: an output, or an input on its way.

    Of an output the memory is the program's. The next call writes into it, when what was begun with
    it on any stream is done.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    device: Device
    stream: Any
    """What writes it."""
    owner: object
    """Keeps the memory."""
    seen: Callable[[], None]
    """Is called when somebody else takes the array."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """A copy on the host."""
        found = np.empty(self.shape, self.dtype)
        with self.device:
            self.device.bring(found, self.address, self.stream)
            self.device.wait(self.stream)
        return found if dtype is None else found.astype(dtype)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        # Not all libraries look at a stream that is named here, so the work is done first.
        self.seen()
        with self.device:
            self.device.wait(self.stream)
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, NUMBER

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule; what the consumer puts on its ``stream`` begins when the array is there."""
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("an array on the GPU is handed over where it is, without a copy")
        self.seen()
        if stream != UNORDERED:
            with self.device:
                consumer = self.device.named_stream(LEGACY_STREAM if stream is None else stream)
                self.device.order(self.stream, consumer)
        versioned = max_version is not None and max_version[0] >= dlpack.VERSION[0]
        return dlpack.exported(self.address, self.shape, self.dtype, NUMBER, self, versioned)


class _Slot:
    """Memory for the inputs of one call, on both sides."""

    def __init__(self, device: Device, buffers: Mapping[str, Buffer]) -> None:
        self.addresses = {n: device.allocate(b.bytes) for n, b in buffers.items()}
        self.staging = {n: device.staging(b.bytes) for n, b in buffers.items()}
        self.sent = device.event()
        """When the host's side may be written again."""
        self.read = device.event()
        """When the device's side may be."""


class _Lease:
    """The use of a slot; it is free for others when nobody has this object any more."""

    def __init__(self, slot: _Slot, idle: deque[_Slot]) -> None:
        self.slot = slot
        weakref.finalize(self, idle.append, slot)


class _Outbox:
    """Memory for the outputs of one call, on their way to the host."""

    def __init__(self, device: Device, ports: Sequence[Port]) -> None:
        self.addresses = [device.allocate(port.buffer.bytes) for port in ports]
        self.staging = [device.staging(port.buffer.bytes) for port in ports]
        self.copied = device.event()
        self.arrived = device.event()


@dataclass(frozen=True, eq=False)
class _Recorded:
    """A graph of steps, and where its launches read inputs from at present."""

    graph: Graph
    readers: Mapping[str, tuple[int, ...]]
    """The steps that read an input."""
    addresses: dict[str, int]


class CudaMachine(Machine):
    """A plan with its memory on the device.

    Raises CompileError E512 where there is no device, E514 for whatever its driver refuses.
    """

    takes_device_arrays = True

    def __init__(self, plan: Plan, variables: Mapping[str, Array]) -> None:
        self.plan = plan
        self.device = open_device()
        self._host = variables
        self._newer = False
        """Whether the device's variables have changed since the host saw them."""
        self._foreign = False
        """Whether the present inputs lie in memory of the caller's."""
        self._shared = threading.Event()
        """Set when others may be at work on memory of this machine."""
        self._leases: list[_Lease] = []
        self._recorded: dict[tuple[int, int], _Recorded] = {}
        self._idle: deque[_Slot] = deque()
        self._outboxes: deque[_Outbox] = deque()
        with self.device as device:
            self._arena = device.allocate(plan.arena_bytes)
            self._constants = device.allocate(plan.constant_bytes)
            ports = [p for p in plan.variables if p.role in ("input", "target")]
            self._inputs = {p.name: p.buffer for p in ports}
            self._own = _Slot(device, self._inputs)
            written = {step.buffers[-1] for step in plan.steps}
            # Such as the learning rate and the random key, which are set before every step.
            settings = [p for p in plan.variables if p.role == "state" and p.buffer not in written]
            self._settings = _Slot(device, {p.name: p.buffer for p in settings})
            self._addresses = {**self._own.addresses, **self._settings.addresses}
            for port in plan.variables:
                if port.name not in self._addresses:
                    self._addresses[port.name] = device.allocate(port.buffer.bytes)
            self._uploading, self._downloading = device.new_stream(), device.new_stream()
            self._functions: dict[str, Function] = {}
            self._load(plan.kernels)
            for buffer, values in plan.tables:
                device.send(self._address(buffer), np.array(values, buffer.dtype))
            device.wait()

    def _load(self, kernels: Sequence[Kernel]) -> None:
        texts = cuda_compilation.load(kernels, self.device.arch)
        for kernel in kernels:
            text = texts[kernel.key]
            parameters = len(kernel.pointers) + len(kernel.sizes)
            function = self.device.load(text, cuda_compilation.entry(text), parameters)
            self._functions[kernel.key] = function

    # -- running -----------------------------------------------------------------------------
    def prepare(self) -> None:
        """Send all variables, then compute what depends on parameters alone."""
        with self.device:
            for name, array in self._host.items():
                self.device.send(self._addresses[name], array)
            self._newer = False
            for step in self.plan.prepare:
                self.device.launch(self._launch(step))
            self.device.wait()

    def run(self, inputs: Mapping[str, Any], first: int, last: int) -> None:
        """Run steps [first, last) on arrays of the right types, of the host or of the device.

        Steps after the first go on with the inputs that came with it. Memory of the caller's is the
        caller's again when this returns.
        """
        with self.device:
            if first == 0:
                self._take(inputs)
            if last - first == 1:
                self.device.launch(self._launch(self.plan.steps[first]))
            elif last > first:
                self.device.replay(self._graph(first, last))
            self._newer = self._newer or last > self.plan.forward
            for lease in self._leases:
                self.device.mark(lease.slot.read)
            if self._foreign:
                self.device.wait()

    def wait(self) -> None:
        """Return when everything is done."""
        with self.device:
            self.device.wait()

    def view(self, buffer: Buffer, shape: Sequence[int]) -> Array:
        """A copy of a buffer on the host."""
        with self.device:
            found = np.empty(shape, buffer.dtype)
            self.device.fetch(found, self._address(buffer))
        return found

    def on_device(self, port: Port) -> DeviceArray:
        """An output where it is."""
        address = self._address(port.buffer)
        if port.buffer.place == "input" and address != self._own.addresses[port.buffer.name]:
            # The network gives its input back, which is not the program's to give.
            with self.device:
                given, address = address, self._own.addresses[port.buffer.name]
                self.device.move(address, given, port.buffer.bytes)
                self.device.wait()
        return self._array(address, port, self.device.stream, self)

    def _array(self, address: int, port: Port, stream: Any, owner: object) -> DeviceArray:
        return DeviceArray(
            address, port.shape, port.dtype, self.device, stream, owner, self._shared.set
        )

    def fetch(self) -> None:
        """Bring the host's memory of all variables up to date."""
        if not self._newer:
            return
        with self.device:
            for name, array in self._host.items():
                if name not in self._settings.addresses:
                    self.device.fetch(array, self._addresses[name])
        self._newer = False

    def seconds(self, repeats: int, training: bool = False) -> float:
        """How long a call, or a step of training, takes on the device alone.

        It runs on what the host gave last, and trains on it.
        """
        plan = self.plan
        step = ((0, plan.shared), (plan.forward, len(plan.steps)))
        with self.device:
            self._addresses |= self._own.addresses
            graphs = [self._graph(*part) for part in (step if training else ((0, plan.forward),))]
            self._newer = self._newer or training
            self.device.wait()
            start = time.perf_counter()
            for _ in range(repeats):
                for graph in graphs:
                    self.device.replay(graph)
            self.device.wait()
            return (time.perf_counter() - start) / repeats

    # -- looking closely ---------------------------------------------------------------------
    def spoil(self) -> None:
        """Fill the memory between steps with NaN, for checks that no step reads what none wrote.

        What depends on parameters is lost as well: `prepare` has to follow.
        """
        plan = self.plan
        with self.device as device:
            for start, size in (
                (self._arena, plan.arena_bytes),
                (self._constants, plan.constant_bytes),
            ):
                device.send(start, np.full(size, 0xFF, np.uint8))
            for buffer, values in plan.tables:
                device.send(self._address(buffer), np.array(values, buffer.dtype))
            device.wait()

    def one_by_one(self, inputs: Mapping[str, Any]) -> Iterator[Step]:
        """The steps of `prepare` and all others; each is done when the next one is asked for.

        So the step that a caller has when the driver reports an error is the one that failed.
        """
        with self.device:
            for name, array in self._host.items():
                self.device.send(self._addresses[name], array)
            self._take(inputs)
            self.device.wait()
        for step in (*self.plan.prepare, *self.plan.steps):
            yield step
            with self.device:
                self.device.launch(self._launch(step))
                self.device.wait()

    def step_seconds(self, number: int, launches: int = 20, repeats: int = 3) -> float:
        """How long a step takes on the device: the best of a few rounds of launches in a row."""
        with self.device:
            launch = self._launch(self.plan.steps[number])
            graph = self.device.graph([launch] * launches)
            times = []
            for _ in range(1 + repeats):
                self.device.wait()
                start = time.perf_counter()
                self.device.replay(graph)
                self.device.wait()
                times.append((time.perf_counter() - start) / launches)
        return min(times[1:])

    # -- inputs ------------------------------------------------------------------------------
    def was_sent(self, array: Any) -> bool:
        return isinstance(array, DeviceArray) and isinstance(array.owner, _Lease)

    def remote(self, array: Any) -> Borrowed | None:
        """An array of the GPU as it lies, when its producer's work on it is ordered before ours.

        Raises ValueError where it is on another GPU, or its producer does not hand it over.
        """
        with self.device:
            if isinstance(array, Borrowed):
                return array
            if isinstance(array, DeviceArray) and array.device is self.device:
                if isinstance(array.owner, _Lease):
                    self.device.follow(array.owner.slot.sent)
                strides = dlpack.contiguous_strides(array.shape)
                return Borrowed(array.address, array.shape, strides, array.dtype, array)
            return borrowed(array, self.device)

    def upload(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arrays on their way into memory of the device that no other call uses.

        Any thread may call this while the device is at work. The memory is used again when the
        arrays returned are gone. Where some are on the device already, all are left where they are.
        """
        if any(isinstance(array, Borrowed) for array in inputs.values()):
            return inputs
        with self.device as device:
            try:
                slot = self._idle.popleft()
            except IndexError:
                slot = _Slot(device, self._inputs)
            lease = _Lease(slot, self._idle)
            device.follow(slot.read, self._uploading)
            for name, array in inputs.items():
                self._send(slot, name, array, self._uploading)
            device.mark(slot.sent, self._uploading)
        ports = {port.name: port for port in self.plan.variables}
        return {
            name: self._array(slot.addresses[name], ports[name], self._uploading, lease)
            for name in inputs
        }

    def _take(self, inputs: Mapping[str, Any]) -> None:
        """Let the inputs be where this call's steps read them, and the settings up to date."""
        if self._shared.is_set():
            self.device.wait_for_others()
            self._shared.clear()
        self._foreign = False
        self._leases = []
        sent = [self._settings] if self._settings.addresses else []
        for name in self._settings.addresses:
            self._send(self._settings, name, self._host[name])
        for name, array in inputs.items():
            if isinstance(array, Borrowed):
                self._addresses[name] = self._borrow(name, array)
                continue
            if self._own not in sent:
                sent.append(self._own)
            self._addresses[name] = self._own.addresses[name]
            self._send(self._own, name, array)
        for slot in sent:
            self.device.mark(slot.sent)

    def _send(self, slot: _Slot, name: str, array: Array, stream: Any = None) -> None:
        self.device.wait_for(slot.sent)
        staging = slot.staging[name]
        staging[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.device.send(slot.addresses[name], staging, stream)

    def _borrow(self, name: str, array: Borrowed) -> int:
        """Where the steps read an array of the device: where it lies, or a copy that they can."""
        lender = array.lender
        if isinstance(lender, DeviceArray) and isinstance(lender.owner, _Lease):
            self._leases.append(lender.owner)
            return array.address
        self._foreign = True
        # An output of an earlier call lies where this one writes.
        written = self._arena <= array.address < self._arena + self.plan.arena_bytes
        if array.contiguous and not written and array.address % ALIGNMENT == 0:
            return array.address
        own = self._own.addresses[name]
        if array.contiguous:
            self.device.move(own, array.address, self._inputs[name].bytes)
            return own
        call = gather(array.shape, array.strides, self._inputs[name].dtype)
        if call.kernel.key not in self._functions:
            self._load([call.kernel])
        item = np.dtype(array.dtype).itemsize
        start = array.address + item * lowest(array.shape, array.strides)
        function = self._functions[call.kernel.key]
        arguments = (start, own, *call.sizes)
        self.device.launch(Launch(function, call.work, call.kernel.threads, arguments))
        return own

    # -- outputs -----------------------------------------------------------------------------
    def later(self, ports: Sequence[Port]) -> Callable[[], tuple[Array, ...]]:
        """Start to bring outputs to the host; what is returned waits for them.

        They are copied on the device first, where the next run may overwrite them.
        """
        with self.device as device:
            box = self._outboxes.popleft() if self._outboxes else _Outbox(device, ports)
            for address, port in zip(box.addresses, ports, strict=True):
                device.move(address, self._address(port.buffer), port.buffer.bytes)
            device.mark(box.copied)
            device.follow(box.copied, self._downloading)
            for address, staging in zip(box.addresses, box.staging, strict=True):
                device.bring(staging, address, self._downloading)
            device.mark(box.arrived, self._downloading)

        def arrived() -> tuple[Array, ...]:
            with self.device:
                self.device.wait_for(box.arrived)
            pairs = zip(box.staging, ports, strict=True)
            found = tuple(s.view(p.dtype).reshape(p.shape).copy() for s, p in pairs)
            self._outboxes.append(box)
            return found

        return arrived

    # -- launches ----------------------------------------------------------------------------
    def _graph(self, first: int, last: int) -> Graph:
        """The launches of steps [first, last), reading the inputs where they are now."""
        if (first, last) not in self._recorded:
            self._recorded[first, last] = self._record(first, last)
        found = self._recorded[first, last]
        for name, address in found.addresses.items():
            if self._addresses[name] != address:
                found.addresses[name] = self._addresses[name]
                for n in found.readers[name]:
                    launch = self._launch(self.plan.steps[n])
                    self.device.change(found.graph, n - first, launch)
        return found.graph

    def _record(self, first: int, last: int) -> _Recorded:
        steps = self.plan.steps[first:last]
        graph = self.device.graph([self._launch(step) for step in steps])
        readers = {
            name: tuple(n for n, step in enumerate(steps, first) if buffer in step.buffers)
            for name, buffer in self._inputs.items()
        }
        addresses = {name: self._addresses[name] for name in readers}
        return _Recorded(graph, readers, addresses)

    def _launch(self, step: Step) -> Launch:
        arguments = (*(self._address(b) for b in step.buffers), *step.sizes)
        function = self._functions[step.kernel.key]
        return Launch(function, step.work, step.kernel.threads, arguments)

    def _address(self, buffer: Buffer) -> int:
        if buffer.place in ("input", "variable"):
            return self._addresses[buffer.name]
        start = self._arena if buffer.place == "arena" else self._constants
        return start + buffer.offset
