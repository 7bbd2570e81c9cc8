"""The few calls of NVIDIA's driver that running a plan takes, and what it says where it refuses.

Everything happens in the device's primary context, which torch and CuPy use as well, on streams of
this module's own. It needs `cuda.bindings` and nothing of convdsl: packages hold a copy.
"""

from __future__ import annotations

import ctypes
import re
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray

NUMBER = 0
"""Of the GPU that is used: the first."""
LOG = 8_192
"""Bytes of what the driver's assembler may have to say."""
OLDEST_PTX = {80: "7.0", 86: "7.1", 87: "7.4", 89: "7.8", 90: "7.8"}
"""The version of PTX that first knew an architecture (PTX ISA, release notes)."""
UNTIMED = 2
"""The flag of events that only order work."""


class Refused(RuntimeError):
    """What a driver refuses; ``code`` is that of the diagnostic."""

    def __init__(self, code: str, message: str, *help: str) -> None:
        super().__init__(message)
        self.code = code
        self.help = help


Problem = Callable[..., Exception]
"""Makes an exception of a code, a message and what may help."""


def binding() -> Any:
    """The module of the driver's calls. Raises ImportError where there is none."""
    from cuda.bindings import driver

    return driver


def _no_device(problem: Problem, reason: Exception) -> Exception:
    said = next(iter(str(reason).splitlines()), type(reason).__name__)
    return problem(
        "E512",
        "there is no CUDA driver or no GPU on this machine",
        "`convdsl compile --emit ptx` works without one; `--target cpu` runs here",
        f"what was found out: {said}",
    )


@dataclass(frozen=True)
class Function:
    """A kernel on the device."""

    handle: Any
    parameters: int
    """All of them int64."""


@dataclass(frozen=True)
class Launch:
    """A kernel on a grid of blocks, with its arguments."""

    function: Function
    blocks: int
    threads: int
    arguments: tuple[int, ...]

    def __post_init__(self) -> None:
        assert len(self.arguments) == self.function.parameters

    @property
    def values(self) -> tuple[tuple[int, ...], tuple[Any, ...]]:
        """The arguments as the bindings take them: values, and their types."""
        return self.arguments, (ctypes.c_int64,) * len(self.arguments)


@dataclass(frozen=True, eq=False)
class Graph:
    """Launches one after the other that are replayed at the cost of one."""

    executable: Any
    nodes: tuple[Any, ...]


class Device:
    """The first GPU, with a stream that everything is put on in order unless another is named.

    Its calls belong into a ``with`` statement, which makes the device the calling thread's. What it
    gives lives as long as it does. ``problem`` makes the exceptions: E512 where there is no device,
    E514 for whatever its driver refuses later.
    """

    def __init__(self, problem: Problem = Refused) -> None:
        self._problem = problem
        try:
            self._api = binding()
            self._call("cuInit", 0)
            self._number = self._call("cuDeviceGet", NUMBER)
        except Exception as reason:  # a broken driver installation may raise anything at all
            raise _no_device(problem, reason) from None
        self._context = self._call("cuDevicePrimaryCtxRetain", self._number)
        self._owned: list[tuple[str, Any]] = []
        self._streams: list[Any] = []
        weakref.finalize(self, _release, self._api, self._context, self._streams, self._owned)
        self._ordering = threading.Lock()
        with self:
            self.stream = self.new_stream()
            self._handover = self.event()

    def __enter__(self) -> Device:
        self._call("cuCtxPushCurrent", self._context)
        return self

    def __exit__(self, *error: object) -> None:
        self._api.cuCtxPopCurrent()

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *values = getattr(self._api, name)(*arguments)
        if code != self._api.CUresult.CUDA_SUCCESS:
            raise self._problem("E514", f"the GPU's driver refused `{name}`: {_word(code)}")
        return values[0] if len(values) == 1 else None

    def _own(self, release: str, handle: Any) -> Any:
        """What is given back in the end, by that call."""
        self._owned.append((release, handle))
        return handle

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
    def allocate(self, bytes: int) -> int:
        """The address of new memory, aligned to 256 bytes."""
        return int(self._own("cuMemFree", self._call("cuMemAlloc", max(bytes, 1))))

    def staging(self, bytes: int) -> Array:
        """New memory of the host that the device reads and writes by itself (pinned), as bytes."""
        address = int(self._own("cuMemFreeHost", self._call("cuMemHostAlloc", max(bytes, 1), 0)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * bytes).from_address(address))

    def send(self, address: int, array: Array, stream: Any = None) -> None:
        """Copy contiguous memory of the host to the device; returns at once where it is pinned."""
        given = (address, array.ctypes.data, array.nbytes, self._on(stream))
        self._call("cuMemcpyHtoDAsync", *given)

    def bring(self, array: Array, address: int, stream: Any = None) -> None:
        """Copy memory of the device into a contiguous array; at once where that is pinned."""
        given = (array.ctypes.data, address, array.nbytes, self._on(stream))
        self._call("cuMemcpyDtoHAsync", *given)

    def fetch(self, array: Array, address: int) -> None:
        """Copy memory of the device into a contiguous array, after all that was asked for."""
        self.bring(array, address)
        self.wait()

    def move(self, address: int, source: int, bytes: int) -> None:
        """Copy memory of the device."""
        self._call("cuMemcpyDtoDAsync", address, source, bytes, self.stream)

    # -- order -------------------------------------------------------------------------------
    def _on(self, stream: Any) -> Any:
        return self.stream if stream is None else stream

    def new_stream(self) -> Any:
        """Another stream, which waits for no other unless it is told to."""
        stream = self._own("cuStreamDestroy", self._call("cuStreamCreate", 1))
        self._streams.append(stream)
        return stream

    def event(self) -> Any:
        """A point in a stream to wait for, once it is marked; nobody waits for it before."""
        return self._own("cuEventDestroy", self._call("cuEventCreate", UNTIMED))

    def mark(self, event: Any, stream: Any = None) -> None:
        """Let the event be the present end of a stream."""
        self._call("cuEventRecord", event, self._on(stream))

    def follow(self, event: Any, stream: Any = None) -> None:
        """Let what is put on a stream from now on begin after the event."""
        self._call("cuStreamWaitEvent", self._on(stream), event, 0)

    def order(self, first: Any, then: Any) -> None:
        """Let what is put on the second stream from now on begin after what is on the first."""
        with self._ordering:
            self.mark(self._handover, first)
            self.follow(self._handover, then)

    def wait_for(self, event: Any) -> None:
        """Return when the event has come."""
        self._call("cuEventSynchronize", event)

    def wait(self, stream: Any = None) -> None:
        """Return when all that was put on a stream is done."""
        self._call("cuStreamSynchronize", self._on(stream))

    def wait_for_others(self) -> None:
        """Return when what other libraries put on any stream is done."""
        self._call("cuCtxSynchronize")

    def named_stream(self, number: int) -> Any:
        """The stream of that handle; 1 and 2 are the default ones, all threads' and this one's."""
        return self._api.CUstream(number)

    # -- kernels -----------------------------------------------------------------------------
    def load(self, ptx: str, name: str, parameters: int) -> Function:
        """The kernel of that entry point."""
        kinds = self._api.CUjit_option
        log = bytearray(LOG)
        options = [kinds.CU_JIT_ERROR_LOG_BUFFER, kinds.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES]
        text = understood(ptx)
        image = text.encode() + b"\0"
        code, module = self._api.cuModuleLoadDataEx(image, len(options), options, [log, LOG])
        if code != self._api.CUresult.CUDA_SUCCESS:
            told = bytes(log).split(b"\0")[0].decode(errors="replace").strip()
            quoted = _quoted(text, told)
            words = ": ".join(filter(None, (_word(code), told.replace("\n", "; "), quoted)))
            raise self._problem(
                "E514",
                f"the GPU's driver refused the kernel `{name}`: {words}",
                "a driver that is older than the CUDA toolkit may not know its PTX",
            )
        self._own("cuModuleUnload", module)
        return Function(self._call("cuModuleGetFunction", module, name.encode()), parameters)

    def launch(self, launch: Launch) -> None:
        """Put a kernel on the stream."""
        grid = (launch.blocks, 1, 1, launch.threads, 1, 1)
        self._call(
            "cuLaunchKernel", launch.function.handle, *grid, 0, self.stream, launch.values, 0
        )

    def graph(self, launches: Sequence[Launch]) -> Graph:
        """The launches, each after the one before, to be replayed.

        They are put together by hand, not captured from a stream, for the nodes are needed to
        `change` one, and what other threads and libraries do meanwhile cannot break a capture.
        """
        whole = self._own("cuGraphDestroy", self._call("cuGraphCreate", 0))
        nodes: list[Any] = []
        for launch in launches:
            before = nodes[-1:]
            given = (whole, before, len(before), self._node(launch))
            nodes.append(self._call("cuGraphAddKernelNode", *given))
        made = self._own("cuGraphExecDestroy", self._call("cuGraphInstantiate", whole, 0))
        return Graph(made, tuple(nodes))

    def change(self, graph: Graph, position: int, launch: Launch) -> None:
        """Give a launch of a graph other arguments, from its next replay on."""
        node = self._node(launch)
        given = (graph.executable, graph.nodes[position], node)
        self._call("cuGraphExecKernelNodeSetParams", *given)

    def _node(self, launch: Launch) -> Any:
        node = self._api.CUDA_KERNEL_NODE_PARAMS()
        node.func = launch.function.handle
        node.gridDimX, node.gridDimY, node.gridDimZ = launch.blocks, 1, 1
        node.blockDimX, node.blockDimY, node.blockDimZ = launch.threads, 1, 1
        node.sharedMemBytes = 0
        node.kernelParams = launch.values
        return node

    def replay(self, graph: Graph) -> None:
        """Put a graph's launches on the stream, at the cost of one."""
        self._call("cuGraphLaunch", graph.executable, self.stream)


def understood(ptx: str) -> str:
    """PTX in the oldest version that knows its architecture, for the driver may be older than the
    toolkit, whose own version it says it is. The kernels need no instruction that came later.
    """
    target = re.search(r"^\.target sm_(\d+)", ptx, re.MULTILINE)
    version = target and OLDEST_PTX.get(int(target[1]))
    return re.sub(r"^\.version .*$", f".version {version}", ptx, flags=re.M) if version else ptx


def _release(api: Any, context: Any, streams: list[Any], owned: list[tuple[str, Any]]) -> None:
    """Give everything back when the work is done, the latest first.

    At the end of the process the driver may be gone before what it gave: nothing is checked here.
    """
    api.cuCtxPushCurrent(context)
    for stream in streams:
        api.cuStreamSynchronize(stream)
    while owned:
        release, handle = owned.pop()
        getattr(api, release)(handle)
    api.cuCtxPopCurrent()


def _quoted(ptx: str, told: str) -> str:
    """The line of PTX that the assembler complains about first, where it names one."""
    lines = ptx.splitlines()
    named = re.search(r"\bline (\d+)", told)
    number = int(named[1]) if named else 0
    return f"`{lines[number - 1].strip()}`" if 0 < number <= len(lines) else ""


def _word(code: Any) -> str:
    """An error's name as words."""
    name: str = getattr(code, "name", str(code))
    return name.removeprefix("CUDA_ERROR_").replace("_", " ").lower()
