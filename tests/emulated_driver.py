"""A stand-in for NVIDIA's driver: memory on the host, kernels in the emulator, errors on request.

It knows the calls that `convdsl.runtime.driver` makes, and holds them to the order in which a
driver allows them: nothing but launches while a graph is captured, no use of freed memory.
"""

import ctypes
from bisect import bisect_right
from enum import Enum, IntEnum
from types import SimpleNamespace

import numpy as np
from emulator import launch

DTYPES = {"float32": np.float32, "int64": np.int64, "float16": np.uint16, "bfloat16": np.uint16}


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


class EmulatedDriver:
    """The driver of one GPU that has ``room`` bytes."""

    CUresult = CUresult
    CUdevice_attribute = Enum(
        "CUdevice_attribute",
        [f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{part}" for part in ("MAJOR", "MINOR")],
    )
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self, room=1 << 30):
        self.room = room
        self.memory = {}
        self.kernels = {}
        self.calls = []
        self._capture = None

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)

        def answer(*arguments):
            self.calls.append(name)
            if self._capture is not None and name not in ("cuLaunchKernel", "cuStreamEndCapture"):
                return (CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
            found = getattr(self, f"_{name}", lambda *a: 1)(*arguments)
            if isinstance(found, CUresult):
                return (found,)
            return (CUresult.CUDA_SUCCESS,) if found is None else (CUresult.CUDA_SUCCESS, found)

        return answer

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
        return self._new(size)

    def _cuMemFree(self, address):
        self.room += len(self.memory.pop(address))

    _cuMemFreeHost = _cuMemFree

    def at(self, address):
        """The memory from an address to the end of its allocation."""
        starts = sorted(self.memory)
        start = starts[bisect_right(starts, address) - 1]
        block = self.memory[start]
        assert start <= address < start + max(len(block), 1), "an address of nothing"
        return block[address - start :]

    def _cuMemcpyHtoDAsync(self, target, source, size, stream):
        self.at(target)[:size] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(source))

    def _cuMemcpyDtoHAsync(self, target, source, size, stream):
        np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(target))[:] = self.at(source)[
            :size
        ]

    def _cuMemcpyDtoDAsync(self, target, source, size, stream):
        self.at(target)[:size] = self.at(source)[:size]

    def _cuDeviceGetAttribute(self, attribute, device):
        return 8 if "MAJOR" in attribute.name else 0

    def _cuCtxSetCurrent(self, context):
        return None

    def _cuStreamSynchronize(self, stream):
        return None

    def _cuCtxSynchronize(self):
        return None

    # -- kernels -----------------------------------------------------------------------------
    def load(self, kernels, arch):
        """In the place of compiling: texts whose entry points are the kernels' keys."""
        assert arch == "sm_80"
        self.kernels |= {kernel.key: kernel for kernel in kernels}
        return {kernel.key: f".visible .entry {kernel.key}(" for kernel in kernels}

    def _cuModuleLoadData(self, text):
        assert text.endswith(b"\0")
        return text

    def _cuModuleGetFunction(self, module, name):
        assert name in module
        return self.kernels[name.decode()]

    def _cuLaunchKernel(self, kernel, *rest):
        (x, y, z, threads, *others), (dynamic, _, (values, types), extra) = rest[:6], rest[6:]
        assert (y, z, others, dynamic, extra) == (1, 1, [1, 1], 0, 0)
        assert len(values) == len(types) == len(kernel.pointers) + len(kernel.sizes)
        assert x > 0
        assert threads == kernel.threads
        work = (kernel, x, threads, values)
        if self._capture is not None:
            self._capture.append(work)
        else:
            self._execute(*work)

    def _execute(self, kernel, blocks, threads, values):
        arrays = []
        for address, (_, dtype) in zip(values, kernel.pointers, strict=False):
            bytes = self.at(address)
            item = np.dtype(DTYPES[dtype]).itemsize
            arrays.append(bytes[: len(bytes) // item * item].view(DTYPES[dtype]))
        launch(kernel, blocks, threads, arrays, values[len(arrays) :])

    def _cuStreamBeginCapture(self, stream, mode):
        self._capture = []

    def _cuStreamEndCapture(self, stream):
        found, self._capture = self._capture, None
        return found

    def _cuGraphInstantiate(self, graph, flags):
        return tuple(graph)

    def _cuGraphLaunch(self, graph, stream):
        for work in graph:
            self._execute(*work)
