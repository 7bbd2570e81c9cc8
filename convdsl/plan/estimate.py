"""The memory a plan needs, without choosing kernels: for summaries and expectations."""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.graph import Graph
from convdsl.ops.families import Family
from convdsl.plan.model import Call, Kernel, Recipe
from convdsl.plan.planner import live_bytes


@dataclass(frozen=True)
class _AnyTarget:
    """Computes every family in one call, without temporaries."""

    name: str = "any"
    lanes: int = 1
    threads: int = 1

    def recipe(self, family: Family) -> Recipe:
        count = len(family.nest().inputs)
        operands = (*(f"in{k}" for k in range(count)), "out")
        return Recipe((Call(Kernel("any", (), (), ""), operands, (), 1, 1),))


def activation_bytes(graph: Graph, batch: int = 1) -> int:
    """The largest sum of activations alive at one time, in bytes, for a graph of primitive ops.

    Views share their input's memory and elementwise ops work in place where their input dies, as
    in every plan; inputs and parameters are not counted.
    """
    return live_bytes(graph, batch, _AnyTarget())
