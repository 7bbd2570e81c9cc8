"""What a plan needs, without choosing kernels or running: memory, and an order of time."""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.graph import Graph
from convdsl.ops.families import Family
from convdsl.plan.model import Call, Kernel, Recipe, Step
from convdsl.plan.planner import live_bytes


@dataclass(frozen=True)
class _AnyTarget:
    """Computes every family in one call, without temporaries."""

    name: str = "any"
    lanes: int = 1
    threads: int = 1
    grain: int = 1
    storage: str = "float32"

    def recipe(self, family: Family) -> Recipe:
        count = len(family.nest().inputs)
        operands = (*(f"in{k}" for k in range(count)), "out")
        return Recipe((Call(Kernel("any", (), (), ""), operands, (), 1, 1),))

    def takes_part(self, family: Family, operand: int, batch: int) -> bool:
        return False


def activation_bytes(graph: Graph, batch: int = 1) -> int:
    """The largest sum of activations alive at one time, in bytes, for a graph of primitive ops.

    Views share their input's memory and elementwise ops work in place where their input dies, as
    in every plan; inputs and parameters are not counted.
    """
    return live_bytes(graph, batch, _AnyTarget())


CLOCK = 3e9
"""Hertz of the processor that times are expected of; it ends a vector's multiply-add a cycle."""
BANDWIDTH = 20e9
"""Bytes per second that it moves."""
LAUNCH = 2e-6
"""Seconds that starting a step takes."""


def expected_seconds(step: Step, threads: int) -> float:
    """How long a step should take on a common processor, by its arithmetic or by its memory.

    An order of magnitude to compare steps by; `convdsl bench --profile` measures.
    """
    computed = step.cost / CLOCK / max(1, min(threads, step.work))
    return LAUNCH + max(computed, sum(b.bytes for b in step.buffers) / BANDWIDTH)
