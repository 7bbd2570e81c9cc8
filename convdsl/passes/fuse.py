"""Joins elementwise ops with what computes their input, so that values are touched once."""

from __future__ import annotations

from convdsl.graph import Graph, Node, Value
from convdsl.ops.expressions import Expr
from convdsl.ops.fused import fused


def fuse(graph: Graph) -> Graph:
    """The graph with chains of elementwise ops as one op each, after a heavy op where one leads.

    A value that something else reads, or that is an output, stays as it is.
    """
    kept_apart = {value for _, value in (*graph.outputs, *graph.assignments)}
    single = {v for v, users in graph.users.items() if len(users) == 1} - kept_apart
    nodes: list[Node | None] = []
    place: dict[Value, int] = {}
    for node in graph.nodes:
        expression = node.op.pointwise(*(v.type for v in node.inputs))
        joined = _join(node, expression, nodes, place, single) if expression is not None else None
        for value in node.outputs:
            place[value] = len(nodes)
        nodes.append(joined or node)
    return graph.replace(nodes=tuple(node for node in nodes if node is not None))


def _join(
    node: Node,
    expression: Expr,
    nodes: list[Node | None],
    place: dict[Value, int],
    single: set[Value],
) -> Node | None:
    """The node joined with producers of its inputs, latest first; they leave ``nodes``."""
    joined: Node | None = None
    while True:
        current = joined or node
        candidates = sorted(
            {place[v] for v in current.inputs if v in single and v in place}, reverse=True
        )
        for position in candidates:
            producer = nodes[position]
            assert producer is not None
            made = fused(producer, current)
            if made is not None:
                nodes[position] = None
                joined = made
                break
        else:
            return joined
