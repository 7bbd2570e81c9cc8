"""Runs plans on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from convdsl.diagnostics import problem
from convdsl.kernels.cuda.frame import resident
from convdsl.plan.model import Buffer, Kernel, Plan, Step
from convdsl.runtime import cache as files

Array = np.ndarray

OLDEST = 75
"""The first compute capability, times ten, that CUDA 13 compiles for."""


@cache
def _function(kernel: Kernel) -> Any:
    return files.function(kernel, "convdsl.runtime.cuda_native")


@cache
def _compiled(kernel: Kernel) -> Any:
    from numba import cuda

    return cuda.jit(_function(kernel))


def require_device() -> None:
    """Raise CompileError E512 where there is no GPU to run on."""
    try:
        from numba import cuda

        available = cuda.is_available()
    except Exception:  # a broken driver installation may raise anything at all
        available = False
    if not available:
        raise problem(
            "E512",
            "there is no CUDA driver or no GPU on this machine",
            "`convdsl compile --emit ptx` works without one; `--target cpu` runs here",
        )


class CudaMachine:
    """A plan with its memory on the device. Parameters stay there between calls."""

    def __init__(self, plan: Plan, variables: Mapping[str, Array]) -> None:
        require_device()
        from numba import cuda

        self.plan = plan
        self._host = variables
        self._arena = cuda.device_array(max(plan.arena_bytes, 8), np.uint8)
        self._constants = cuda.device_array(max(plan.constant_bytes, 8), np.uint8)
        self._variables: dict[str, Any] = {}
        self._inputs: dict[str, Any] = {}

    def prepare(self) -> None:
        """Send all variables, then compute what depends on parameters alone."""
        from numba import cuda

        for name, array in self._host.items():
            self._variables[name] = cuda.to_device(array.reshape(-1))
        for buffer, values in self.plan.tables:
            self._memory(buffer).copy_to_device(np.array(values, buffer.dtype))
        self._run(self.plan.prepare)

    def run(self, inputs: Mapping[str, Array], first: int, last: int) -> None:
        """Run steps [first, last) on contiguous arrays of the right types."""
        from numba import cuda

        self._inputs = {n: cuda.to_device(a.reshape(-1)) for n, a in inputs.items()}
        for name, array in self._host.items():
            # The learning rate and the random key are set on the host before every step.
            if array.size == 1:
                self._variables[name].copy_to_device(array.reshape(-1))
        self._run(self.plan.steps[first:last])
        if last > self.plan.forward:
            for name, array in self._host.items():
                array[...] = self._variables[name].copy_to_host().reshape(array.shape)

    def view(self, buffer: Buffer, shape: tuple[int, ...]) -> Array:
        """A copy of a buffer on the host."""
        host: Array = self._memory(buffer).copy_to_host()
        return host.reshape(shape)

    def _run(self, steps: tuple[Step, ...]) -> None:
        from numba import cuda

        for step in steps:
            arguments = [self._memory(b).device_ctypes_pointer.value for b in step.buffers]
            _compiled(step.kernel)[step.work, step.kernel.threads](*arguments, *step.sizes)
        cuda.synchronize()

    def _memory(self, buffer: Buffer) -> Any:
        if buffer.place == "input":
            return self._inputs[buffer.name]
        if buffer.place == "variable":
            return self._variables[buffer.name]
        memory = self._arena if buffer.place == "arena" else self._constants
        return memory[buffer.offset : buffer.offset + buffer.bytes].view(np.dtype(buffer.dtype))


def ptx(kernel: Kernel, arch: str = "sm_80") -> str:
    """The PTX of a kernel; needs the toolkit's libraries but no device.

    Raises CompileError E511 for an unknown architecture, E513 where the toolkit is missing.
    """
    if not arch.removeprefix("sm_").isdigit():
        raise problem("E511", f"`{arch}` is not an architecture", "for example sm_80 or sm_90")
    number = int(arch.removeprefix("sm_"))
    if number < OLDEST:
        raise problem("E511", f"`{arch}` is too old", f"sm_{OLDEST} is the oldest architecture")
    try:
        from numba import cuda, types

        # Addresses and sizes alike.
        signature = (types.int64,) * (len(kernel.pointers) + len(kernel.sizes))
        text: str = cuda.compile(
            _function(kernel),
            signature,
            device=False,
            abi="numba",
            cc=divmod(number, 10),
            output="ptx",
            launch_bounds=(kernel.threads, resident(kernel.threads)),
        )[0]
    except Exception as reason:
        if type(reason).__module__.startswith(("numba.core", "numba.cuda.core")):
            raise
        raise problem(
            "E513",
            f"PTX cannot be made here: {str(reason).splitlines()[0]}",
            "`pip install 'convdsl[cuda]'` brings what it needs",
        ) from None
    return text
