"""Counts parameters, buffers, operations and activation memory, per node and in total."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from convdsl import passes
from convdsl.analysis.receptive_field import Field, Fields, receptive_fields
from convdsl.graph import Graph, Node, Value, Variable
from convdsl.plan.estimate import activation_bytes as planned_bytes
from convdsl.plan.model import ITEM_SIZE


@dataclass(frozen=True)
class Costs:
    """What a node, or a whole network, costs for a batch.

    ``parameters`` are learned values and ``buffers`` kept statistics, both in elements; ``macs``
    are the multiply-adds of convolutions and dense layers, ``flops`` every floating-point
    operation; ``activation_bytes`` is the size of the results.
    """

    parameters: int
    buffers: int
    macs: int
    flops: int
    activation_bytes: int


def node_costs(node: Node, batch: int = 1) -> Costs:
    """What one node costs; raises NotImplementedError where its op has no counting rule."""
    types = [value.type for value in node.data]
    return Costs(
        elements(v for v in node.weights if v.role == "parameter"),
        elements(v for v in node.weights if v.role == "buffer"),
        batch * node.op.macs(*types),
        batch * node.op.flops(*types),
        0 if node.op.alias else sum(bytes_of(v, batch) for v in node.outputs),
    )


def elements(variables: Iterable[Variable]) -> int:
    """The number of elements of distinct variables."""
    return sum(v.type.size for v in dict.fromkeys(variables))


def bytes_of(value: Value, batch: int = 1) -> int:
    """The memory of a value."""
    return value.type.size * ITEM_SIZE[value.type.dtype] * (batch if value.type.batched else 1)


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything that can be counted on a graph; each number is computed when it is asked for."""

    graph: Graph
    batch: int = 1

    @cached_property
    def costs(self) -> Mapping[Node, Costs]:
        """The costs of every node. A variable that several nodes share is counted at each."""
        return {node: node_costs(node, self.batch) for node in self.graph.nodes}

    @cached_property
    def total(self) -> Costs:
        """The costs of the network; shared variables are counted once."""
        each = self.costs.values()
        return Costs(
            elements(self.graph.parameters),
            elements(self.graph.buffers),
            sum(c.macs for c in each),
            sum(c.flops for c in each),
            sum(c.activation_bytes for c in each),
        )

    @cached_property
    def peak_activation_bytes(self) -> int:
        """The most memory that activations need at once, under the planner's schedule."""
        graph = passes.expand(passes.specialise(self.graph, training=False))
        return planned_bytes(passes.fuse(passes.simplify(graph)), self.batch)

    @cached_property
    def fields(self) -> Mapping[Value, Fields]:
        """The receptive field of every value, for each network input that it depends on."""
        return receptive_fields(self.graph)

    def field(self, value: Value) -> Field | None:
        """The receptive field of a value on the first input that it depends on."""
        return next(iter(self.fields[value].values()), None)

    @cached_property
    def receptive_field(self) -> tuple[int, ...]:
        """Per axis of the first input, the largest receptive field of an output."""
        if not self.graph.inputs:
            return ()
        first = self.graph.inputs[0]
        found = [self.fields[value].get(first) for _, value in self.graph.outputs]
        sizes = [field.size for field in found if field is not None]
        return tuple(max(axis) for axis in zip(*sizes, strict=True))


def analyse(graph: Graph, batch: int = 1) -> Analysis:
    """The analysis of a graph for a batch of that many."""
    return Analysis(graph, batch)
