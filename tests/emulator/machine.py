"""Runs the plan of a CUDA program in the emulator: memory, launches, and what plans rely on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convdsl import compiler
from convdsl.graph import Graph
from convdsl.plan import Target, plan
from convdsl.plan.model import Buffer, Kernel, Plan, Step
from convdsl.runtime.machine import Machine
from convdsl.runtime.program import Program
from emulator.activity import Array
from emulator.errors import EmulationError
from emulator.launching import launch
from emulator.rewriting import rewritten


def compile_emulated(
    graph: Graph,
    batch: int = 1,
    loss: Any = None,
    optimizer: object | None = None,
    seed: int = 0,
    target: Target | None = None,
    precision: str = "fp32",
    scale: Any = None,
) -> Program:
    """What `convdsl.compiler.compile` gives for the cuda target, but on the CPU."""
    target = target or compiler._target("cuda", precision=precision)
    scale = compiler.scale_of(precision, optimizer) if scale is None else scale
    lowered = compiler.laid_out(compiler.lower(graph, loss, optimizer, scale=scale), target)
    planned = plan(lowered, batch, target)
    program = Program(lowered, planned, seed)
    program.attach(EmulatedMachine(planned, program.variables))
    return program


ELEMENTS = {"float16": "uint16", "bfloat16": "uint16"}
"""What NumPy calls the elements of buffers, where it has no name for them or other sums."""


class EmulatedMachine(Machine):
    """A plan with its memory, where everything is NaN that no kernel has written yet."""

    def __init__(self, plan: Plan, variables: Mapping[str, Array]) -> None:
        self.plan = plan
        self._variables = variables
        self._inputs: Mapping[str, Array] = {}
        self._arena = np.empty(plan.arena_bytes, np.uint8)
        self._constants = np.empty(plan.constant_bytes, np.uint8)
        for kernel in plan.kernels:
            _check_result(kernel)

    def prepare(self) -> None:
        """Compute what depends on parameters alone; after every change of parameters."""
        self._constants[:] = 0xFF
        for buffer, values in self.plan.tables:
            self.view(buffer, (len(values),))[:] = values
        self._run(self.plan.prepare)

    def run(self, inputs: Mapping[str, Array], first: int, last: int) -> None:
        """Run steps [first, last) on contiguous arrays of the right types."""
        self._inputs = inputs
        if first == 0:
            self._arena[:] = 0xFF
        self._run(self.plan.steps[first:last])

    def view(self, buffer: Buffer, shape: Sequence[int]) -> Array:
        """The memory of a buffer as an array; overwritten by the next run."""
        if buffer.place == "variable":
            return self._variables[buffer.name].reshape(shape)
        if buffer.place == "input":
            return self._inputs[buffer.name].reshape(shape)
        memory = self._arena if buffer.place == "arena" else self._constants
        data = memory[buffer.offset : buffer.offset + buffer.bytes]
        return data.view(ELEMENTS.get(buffer.dtype, buffer.dtype)).reshape(shape)

    def _run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            spans = [buffer.spanned(self.plan.batch) for buffer in step.buffers]
            arrays = [self.view(buffer, (-1,)) for buffer in spans]
            launch(step.kernel, step.work, step.kernel.threads, arrays, step.sizes)


def _check_result(kernel: Kernel) -> None:
    """Raise where a kernel writes through any pointer but its last: plans rely on that."""
    written = rewritten(kernel.source).written
    result = kernel.pointers[-1][0]
    if written is not None and written != {result}:
        raise EmulationError(
            f"kernel `{kernel.name}` writes {sorted(written)}, not `{result}` alone"
        )
