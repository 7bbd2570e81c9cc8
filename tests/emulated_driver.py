"""A stand-in for NVIDIA's driver: memory on the host, kernels in the emulator, errors on request.

It knows the calls that `convdsl.runtime.driver` makes, and holds them to what a driver allows: no
use of freed memory, no call without a context. Work on streams is not done when it is asked for but
when something waits for it, or in between, so that what forgets to wait finds what nobody has
written yet.
"""

import ctypes
import itertools
import random
import re
import threading
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from types import SimpleNamespace

import numpy as np
from cuda.bindings import driver as bindings
from emulator import launch

DTYPES = {"float32": np.float32, "int64": np.int64, "float16": np.uint16, "bfloat16": np.uint16}
ANYWHERE = (
    "cuInit",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuCtxPushCurrent",
)
"""Calls that need no current context."""
KERNELS = 2
"""The place of the first stream that is created, behind the two default ones."""


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_INVALID_PTX = 218
    CUDA_ERROR_ILLEGAL_ADDRESS = 700


@dataclass(eq=False)
class Stream:
    """Work in its order: ``done`` of the ``asked`` pieces have been done."""

    waiting: deque = field(default_factory=deque)
    asked: int = 0
    done: int = 0


@dataclass(eq=False)
class Event:
    """A point in a stream: the number of pieces of work that are done by then."""

    stream: Stream | None = None
    after: int = 0


@dataclass(frozen=True)
class Wait:
    """A piece of work that is done when a stream has come to a point."""

    stream: Stream
    after: int


@cache
def _arity(call):
    """How many arguments a call of the bindings takes, by the first line of its documentation."""
    first = getattr(bindings, call).__doc__.splitlines()[0]
    text = first[first.index("(") + 1 : first.rindex(")")]
    while (simpler := re.sub(r"\[[^][]*\]", "", text)) != text:
        text = simpler  # commas within brackets part nothing
    return len(text.split(",")) if text else 0


class EmulatedDriver:
    """The driver of one GPU that has ``room`` bytes.

    Streams work ``"late"``, when something waits for them; ``"at once"``; ``"copies at once"``,
    where the first stream, that of the kernels, works late; or by chance, as a number decides.
    """

    CUresult = CUresult
    CUdevice_attribute = bindings.CUdevice_attribute
    CUjit_option = bindings.CUjit_option
    CUDA_KERNEL_NODE_PARAMS = bindings.CUDA_KERNEL_NODE_PARAMS

    def __init__(self, room=1 << 30, working="late"):
        self.room = room
        self.working = working
        self.memory = {}
        self.pinned = set()
        self.kernels = {}
        self.calls = []
        self.streams = {1: Stream(), 2: Stream()}
        self.refuses = None
        """What the assembler says of every kernel, where it refuses them."""
        self.faulty = None
        """A part of the name of kernels that access an illegal address, when they are run."""
        self._lost = False
        self._chance = random.Random(working)
        self._functions = {}
        self._numbers = itertools.count(0x1000)
        self._lock = threading.RLock()
        self._contexts = threading.local()

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)

        def answer(*arguments):
            assert len(arguments) == _arity(name), f"{name} takes {_arity(name)} arguments"
            with self._lock:
                self.calls.append(name)
                if name not in ANYWHERE and not self._stack():
                    return (CUresult.CUDA_ERROR_INVALID_CONTEXT,)
                if self._lost and not name.startswith("cuCtxP"):
                    return (CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,)
                found = getattr(self, f"_{name}", lambda *a: 1)(*arguments)
                self._work()
                if self._lost:
                    return (CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,)
            if isinstance(found, CUresult):
                return (found, None)
            return (CUresult.CUDA_SUCCESS,) if found is None else (CUresult.CUDA_SUCCESS, found)

        return answer

    def _stack(self):
        if not hasattr(self._contexts, "stack"):
            self._contexts.stack = []
        return self._contexts.stack

    def _cuCtxPushCurrent(self, context):
        self._stack().append(context)

    def _cuCtxPopCurrent(self):
        return self._stack().pop()

    # -- streams -----------------------------------------------------------------------------
    @staticmethod
    def CUstream(number):
        assert number > 0
        return number

    def _cuStreamCreate(self, flags):
        assert flags == 1, "it would wait for the default stream"
        number = next(self._numbers)
        self.streams[number] = Stream()
        return number

    def _cuStreamDestroy(self, stream):
        assert not self.streams.pop(stream).waiting

    def _cuEventCreate(self, flags):
        return Event()

    def _cuEventDestroy(self, event):
        return None

    def _cuEventRecord(self, event, stream):
        event.stream = self.streams[stream]
        event.after = event.stream.asked

    def _cuStreamWaitEvent(self, stream, event, flags):
        if event.stream is not None:
            self._put(stream, Wait(event.stream, event.after))

    def _cuEventSynchronize(self, event):
        if event.stream is not None:
            self._finish(event.stream, event.after)

    def _cuStreamSynchronize(self, stream):
        self._finish(self.streams[stream])

    def _cuCtxSynchronize(self):
        for stream in self.streams.values():
            self._finish(stream)

    def _put(self, stream, work):
        found = self.streams[stream]
        found.waiting.append(work)
        found.asked += 1

    def _finish(self, stream, after=None):
        """Do a stream's work up to a point, and what it waits for."""
        after = stream.asked if after is None else after
        while stream.done < after:
            work = stream.waiting[0]
            if isinstance(work, Wait):
                self._finish(work.stream, work.after)
            self._step(stream)

    def _step(self, stream):
        """Do a stream's next piece of work, unless it waits for something."""
        if not stream.waiting:
            return
        work = stream.waiting[0]
        if isinstance(work, Wait):
            if work.stream.done < work.after:
                return
        else:
            work()
        stream.waiting.popleft()
        stream.done += 1

    def _work(self):
        """What streams do of themselves meanwhile."""
        if self.working == "at once":
            self._cuCtxSynchronize()
        elif self.working == "copies at once":
            for number, stream in enumerate(self.streams.values()):
                for _ in range(0 if number == KERNELS else len(stream.waiting)):
                    self._step(stream)
        elif self.working != "late":
            for _ in range(self._chance.randrange(6)):
                self._step(self._chance.choice(list(self.streams.values())))

    # -- memory ------------------------------------------------------------------------------
    def _new(self, size):
        if size > self.room:
            return CUresult.CUDA_ERROR_OUT_OF_MEMORY
        self.room -= size
        # Aligned as the driver does, and full of what nobody has written.
        raw = np.full(size + 256, 0xFF, np.uint8)
        start = -raw.ctypes.data % 256
        block = raw[start : start + size]
        self.memory[block.ctypes.data] = block
        return block.ctypes.data

    def _cuMemAlloc(self, size):
        return self._new(size)

    def _cuMemHostAlloc(self, size, flags):
        found = self._new(size)
        self.pinned.add(found)
        return found

    def _cuMemFree(self, address):
        self._cuCtxSynchronize()
        self.room += len(self.memory.pop(address))

    _cuMemFreeHost = _cuMemFree

    def at(self, address):
        """The memory from an address to the end of its allocation."""
        starts = sorted(self.memory)
        start = starts[bisect_right(starts, address) - 1]
        block = self.memory[start]
        assert start <= address < start + max(len(block), 1), "an address of nothing"
        return block[address - start :]

    def _host(self, address, size):
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def _cuMemcpyHtoDAsync(self, target, source, size, stream):
        # Other memory than pinned is read before the call returns.
        given = self._host(source, size)
        content = given if source in self.pinned else given.copy()

        def copy():
            self.at(target)[:size] = content

        self._put(stream, copy)

    def _cuMemcpyDtoHAsync(self, target, source, size, stream):
        def copy():
            self._host(target, size)[:] = self.at(source)[:size]

        self._put(stream, copy)
        if target not in self.pinned:
            self._finish(self.streams[stream])

    def _cuMemcpyDtoDAsync(self, target, source, size, stream):
        def copy():
            self.at(target)[:size] = self.at(source)[:size]

        self._put(stream, copy)

    def _cuDeviceGet(self, number):
        return number

    def _cuDeviceGetAttribute(self, attribute, device):
        return 8 if attribute.name.endswith("CAPABILITY_MAJOR") else 0

    # -- kernels -----------------------------------------------------------------------------
    def load(self, kernels, arch):
        """In the place of compiling: texts whose entry points are the kernels' keys."""
        assert arch == "sm_80"
        self.kernels |= {kernel.key: kernel for kernel in kernels}
        return {kernel.key: f".visible .entry {kernel.key}(" for kernel in kernels}

    def _cuModuleLoadDataEx(self, image, count, options, values):
        assert image.endswith(b"\0")
        assert count == len(options) == len(values)
        if self.refuses:
            values[0][: len(self.refuses)] = self.refuses
            return CUresult.CUDA_ERROR_INVALID_PTX
        return image

    def _cuModuleGetFunction(self, module, name):
        assert name in module
        number = next(self._numbers)
        self._functions[number] = self.kernels[name.decode()]
        return bindings.CUfunction(number)

    def _cuLaunchKernel(self, function, *rest):
        (x, y, z, *block), (dynamic, stream, (values, types), extra) = rest[:6], rest[6:]
        assert extra == 0
        assert types == (ctypes.c_int64,) * len(values)
        work = self._checked(function, (x, y, z), block, dynamic, values)
        self._put(stream, lambda: self._execute(*work))

    def _checked(self, function, grid, block, dynamic, values):
        kernel = self._functions[int(function)]
        assert (grid[1:], list(block[1:]), dynamic) == ((1, 1), [1, 1], 0)
        assert len(values) == len(kernel.pointers) + len(kernel.sizes)
        assert grid[0] > 0
        assert block[0] == kernel.threads
        return kernel, grid[0], block[0], values

    def _execute(self, kernel, blocks, threads, values):
        if self.faulty and self.faulty in kernel.name:
            self._lost = True  # for all that this process asks for from now on
            return
        arrays = []
        for address, (_, dtype) in zip(values, kernel.pointers, strict=False):
            bytes = self.at(address)
            item = np.dtype(DTYPES[dtype]).itemsize
            arrays.append(bytes[: len(bytes) // item * item].view(DTYPES[dtype]))
        launch(kernel, blocks, threads, arrays, values[len(arrays) :])

    # -- graphs ------------------------------------------------------------------------------
    def _cuGraphCreate(self, flags):
        return []

    def _node(self, p):
        grid, block = (
            [getattr(p, f"{name}Dim{axis}") for axis in "XYZ"] for name in ("grid", "block")
        )
        kernel = self._functions[int(p.func)]
        count = len(kernel.pointers) + len(kernel.sizes)
        # As the driver reads them: an array of the parameters' addresses.
        addresses = (ctypes.c_void_p * count).from_address(p.kernelParams)
        values = tuple(ctypes.c_int64.from_address(address).value for address in addresses)
        return self._checked(p.func, tuple(grid), block, p.sharedMemBytes, values)

    def _cuGraphAddKernelNode(self, graph, before, count, parameters):
        assert count == len(before)
        assert list(before) == [(id(graph), n - 1) for n in [len(graph)] if n], "not one by one"
        graph.append(self._node(parameters))
        return (id(graph), len(graph) - 1)

    def _cuGraphInstantiate(self, graph, flags):
        return SimpleNamespace(graph=id(graph), works=list(graph))

    def _cuGraphExecKernelNodeSetParams(self, made, node, parameters):
        graph, position = node
        assert graph == made.graph
        changed = self._node(parameters)
        assert changed[:3] == made.works[position][:3], "another kernel, or another grid"
        made.works[position] = changed

    def _cuGraphLaunch(self, made, stream):
        for work in made.works:
            self._put(stream, lambda work=work: self._execute(*work))
