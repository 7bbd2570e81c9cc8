"""Removes what is computed twice and what nothing reads."""

from __future__ import annotations

from convdsl.graph import Builder, Graph, Node, Operation, Value
from convdsl.passes.rewrite import rewrite


def simplify(graph: Graph) -> Graph:
    """The graph without repeated and unread nodes."""
    # Ops compare by their attributes, values by identity.
    first: dict[tuple[Operation, tuple[Value, ...]], tuple[Value, ...]] = {}

    def rule(b: Builder, node: Node) -> tuple[Value, ...] | None:
        same = first.setdefault((node.op, node.inputs), node.outputs)
        return None if same is node.outputs else same

    return rewrite(graph, rule).live()
