"""The walk that passes share: every node in order, kept or replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from convdsl.graph import Builder, Graph, Node, Value

Rule = Callable[[Builder, Node], "tuple[Value, ...] | None"]


def rewrite(graph: Graph, rule: Rule) -> Graph:
    """Offer every node, its inputs already rewritten, to the rule.

    The rule returns the values that stand for the node's results, adding nodes to the builder as
    it needs, or None to keep the node.
    """
    b = Builder(graph)
    b.nodes.clear()
    b.assignments.clear()
    stands_for: dict[Value, Value] = {}
    for node in graph.nodes:
        moved = replace(node, inputs=tuple(stands_for.get(v, v) for v in node.inputs))
        b.release(node.name)
        b.prefix = f"{node.name}."
        values = rule(b, moved)
        if values is None:
            b.nodes.append(moved)
            b.unique(node.name)
        else:
            stands_for.update(zip(node.outputs, values, strict=True))
    outputs = tuple((name, stands_for.get(v, v)) for name, v in graph.outputs)
    old = ((variable, stands_for.get(v, v)) for variable, v in graph.assignments)
    assignments = (*old, *((variable, stands_for.get(v, v)) for variable, v in b.assignments))
    return graph.replace(
        variables=tuple(b.variables), nodes=tuple(b.nodes), outputs=outputs, assignments=assignments
    )
