"""Replaces composite ops by the primitive ones they are made of."""

from __future__ import annotations

from convdsl.graph import Builder, Graph, Node, Value
from convdsl.passes.rewrite import rewrite


def expand(graph: Graph, *, keep_differentiable: bool = False) -> Graph:
    """The graph in primitive ops alone; what an op expands to is expanded in turn.

    With ``keep_differentiable`` the composite ops that state their gradient stay.
    """

    def remains(node: Node) -> bool:
        return not node.op.composite or (keep_differentiable and node.op.differentiable)

    def rule(b: Builder, node: Node) -> tuple[Value, ...] | None:
        values: tuple[Value, ...] | None = None if remains(node) else node.op.expand(b, node)
        return values

    while not all(remains(node) for node in graph.nodes):
        graph = rewrite(graph, rule)
    return graph
