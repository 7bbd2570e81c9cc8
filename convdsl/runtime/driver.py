"""The few calls of NVIDIA's driver that running a plan takes; what it refuses is a diagnostic.

Everything happens in the device's primary context, which torch and CuPy use as well, on a stream
of this module's own.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from convdsl.diagnostics import problem

Array = np.ndarray


def binding() -> Any:
    """The module of the driver's calls. Raises CompileError E512 where there is none."""
    try:
        from cuda.bindings import driver
    except ImportError:
        raise _no_device() from None
    return driver


def _no_device() -> Exception:
    return problem(
        "E512",
        "there is no CUDA driver or no GPU on this machine",
        "`convdsl compile --emit ptx` works without one; `--target cpu` runs here",
    )


@dataclass(frozen=True)
class Function:
    """A kernel on the device."""

    handle: Any
    parameters: int
    """All of them int64."""


class Device:
    """The first GPU, with a stream that everything is put on in order.

    Raises CompileError E512 where there is none, E514 for whatever the driver refuses later.
    """

    def __init__(self) -> None:
        self._api = binding()
        try:
            self._call("cuInit", 0)
            self._number = self._call("cuDeviceGet", 0)
            self._context = self._call("cuDevicePrimaryCtxRetain", self._number)
        except Exception:  # a broken driver installation may raise anything at all
            raise _no_device() from None
        self.enter()
        self._stream = self._call("cuStreamCreate", 1)  # does not wait for the default stream
        self._modules: list[Any] = []

    def enter(self) -> None:
        """Make the device the calling thread's."""
        self._call("cuCtxSetCurrent", self._context)

    @property
    def arch(self) -> str:
        """Such as ``sm_90``."""
        name = "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{}"
        kinds = self._api.CUdevice_attribute
        major, minor = (
            self._call("cuDeviceGetAttribute", getattr(kinds, name.format(part)), self._number)
            for part in ("MAJOR", "MINOR")
        )
        return f"sm_{major}{minor}"

    # -- memory ------------------------------------------------------------------------------
    def allocate(self, bytes: int, owner: object) -> int:
        """The address of new memory, which lives as long as its owner; aligned to 256 bytes."""
        address = int(self._call("cuMemAlloc", max(bytes, 1)))
        weakref.finalize(owner, self._free, "cuMemFree", address)
        return address

    def staging(self, bytes: int, owner: object) -> Array:
        """New memory of the host that the device reads by itself (pinned), as bytes."""
        address = int(self._call("cuMemHostAlloc", max(bytes, 1), 0))
        weakref.finalize(owner, self._free, "cuMemFreeHost", address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * bytes).from_address(address))

    def _free(self, call: str, address: int) -> None:
        # At the end of the process the driver may be gone before its memory is.
        getattr(self._api, call)(address)

    def send(self, address: int, array: Array) -> None:
        """Copy contiguous memory of the host to the device; returns at once where it is pinned."""
        self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, self._stream)

    def fetch(self, array: Array, address: int) -> None:
        """Copy memory of the device into a contiguous array, after all that was asked for."""
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, self._stream)
        self.wait()

    def move(self, address: int, source: int, bytes: int) -> None:
        """Copy memory of the device."""
        self._call("cuMemcpyDtoDAsync", address, source, bytes, self._stream)

    def wait(self) -> None:
        """Return when all that was asked for is done."""
        self._call("cuStreamSynchronize", self._stream)

    def wait_for_others(self) -> None:
        """Return when what other libraries put on any stream is done."""
        self._call("cuCtxSynchronize")

    # -- kernels -----------------------------------------------------------------------------
    def load(self, ptx: str, name: str, parameters: int) -> Function:
        """The kernel of that entry point."""
        module = self._call("cuModuleLoadData", ptx.encode() + b"\0")
        self._modules.append(module)
        handle = self._call("cuModuleGetFunction", module, name.encode())
        return Function(handle, parameters)

    def launch(
        self, function: Function, blocks: int, threads: int, arguments: Sequence[int]
    ) -> None:
        """Put a kernel on the stream."""
        assert len(arguments) == function.parameters
        values = (tuple(arguments), (ctypes.c_int64,) * len(arguments))
        grid = (blocks, 1, 1, threads, 1, 1)
        self._call("cuLaunchKernel", function.handle, *grid, 0, self._stream, values, 0)

    @contextmanager
    def _capturing(self) -> Iterator[list[Any]]:
        mode = self._api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._stream, mode)
        found: list[Any] = []
        try:
            yield found
        finally:
            found.append(self._call("cuStreamEndCapture", self._stream))

    def captured(self, launches: Callable[[], None]) -> Any:
        """A graph of the launches that a function makes, which are not made now."""
        with self._capturing() as found:
            launches()
        return self._call("cuGraphInstantiate", found[0], 0)

    def replay(self, graph: Any) -> None:
        """Put a graph's launches on the stream, at the cost of one."""
        self._call("cuGraphLaunch", graph, self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *values = getattr(self._api, name)(*arguments)
        if code != self._api.CUresult.CUDA_SUCCESS:
            raise problem("E514", f"the GPU's driver refused `{name}`: {_word(code)}")
        return values[0] if len(values) == 1 else None


def _word(code: Any) -> str:
    """An error's name as words."""
    name: str = getattr(code, "name", str(code))
    return name.removeprefix("CUDA_ERROR_").replace("_", " ").lower()
