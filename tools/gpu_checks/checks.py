"""A check, the programs that it runs, and what makes them: graphs, plans and random arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from helpers import positive_buffers, random_arrays

import convdsl
from convdsl.compiler import laid_out, lower, scale_of
from convdsl.graph import Graph
from convdsl.kernels.cuda.target import CudaTarget
from convdsl.passes import Optimizer
from convdsl.plan import Plan, plan
from convdsl.runtime.cuda import CudaMachine
from convdsl.runtime.program import Program

Array = np.ndarray
Row = dict[str, Any]
"""What a check found, for the report; ``wrong`` says what should not be so."""


@dataclass(frozen=True)
class Wanted:
    """A graph to run, with everything that decides its plan."""

    graph: Graph
    batch: int
    loss: str | None = None
    precision: str = "fp32"
    optimizer: Optimizer | None = None
    seed: int = 0
    """Of the random arrays that it is compared on."""

    @property
    def lowered(self) -> Graph:
        scale = scale_of(self.precision, self.optimizer)
        return lower(self.graph, self.loss, self.optimizer, scale=scale)

    @property
    def target(self) -> CudaTarget:
        return CudaTarget(self.precision)

    def plan(self) -> Plan:
        return plan(laid_out(self.lowered, self.target), self.batch, self.target)

    def program(self) -> Program:
        """The program on the GPU."""
        made = Program(laid_out(self.lowered, self.target), self.plan())
        made.attach(CudaMachine(made.plan, made.variables))
        return made

    def arrays(self) -> dict[str, Array]:
        """Random arrays for all variables, in float64, at scales that keep activations in range."""
        lowered = self.lowered
        arrays = random_arrays(lowered, self.batch, self.seed, np.float64)
        arrays = positive_buffers(lowered, arrays)
        for variable in lowered.parameters:
            fan = max(1, variable.type.size // variable.type.shape[0])
            arrays[variable.name] /= np.sqrt(fan)
        return arrays


@dataclass(frozen=True)
class Check:
    """Something to find out. ``run`` raises where it fails; ``programs`` are those that it runs."""

    name: str
    run: Callable[[], Row]
    programs: Sequence[Wanted] = field(default=())
    small: bool = False
    """Whether the programs can be followed step by step in the emulator."""


def single(array: Array) -> Array:
    """As programs take it: float32, or int64."""
    return np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else np.int64)


def given(program: Program, arrays: dict[str, Array]) -> dict[str, Array]:
    """Write the arrays of variables into the program; returns those of its inputs."""
    for name, array in program.variables.items():
        if name in arrays:
            array[...] = single(arrays[name])
    ports = program.plan.variables
    return {p.name: single(arrays[p.name]) for p in ports if p.role in ("input", "target")}


def outputs(program: Program, arrays: dict[str, Array]) -> dict[str, Array]:
    """All outputs for arrays by the names of variables; memory holds NaN before."""
    machine = program.machine
    assert isinstance(machine, CudaMachine)
    inputs = given(program, arrays)
    machine.spoil()
    machine.prepare()
    machine.run(inputs, 0, program.plan.forward)
    return {p.name: machine.view(p.buffer, p.shape) for p in program.plan.outputs}


def images(graph: Graph, batch: int) -> list[Array]:
    """A random batch for every input."""
    source = np.random.default_rng(0)
    return [
        source.standard_normal(v.type.with_batch(batch)).astype(np.float32) for v in graph.inputs
    ]


def network(name: str) -> Graph:
    """The graph of a bundled network."""
    return convdsl.load(name).graph


def first_wrong(found: Array, expected: Array, allowed: float) -> Row:
    """Where an array is off by more than that part of its largest value, first; and how often."""
    limit = allowed * float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    off = np.abs(found.astype(np.float64) - expected)
    bad = ~(off <= limit)
    if not bad.any():
        bad = off == off.max()
    place = tuple(int(n) for n in np.argwhere(bad)[0])
    return {
        "wrong elements": int(bad.sum()),
        "of": list(found.shape),
        "first": list(place),
        "found": float(found[place]),
        "expected": float(expected[place]),
    }
