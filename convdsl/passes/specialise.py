"""Makes every op what it is in inference or in training: dropout, batch statistics."""

from __future__ import annotations

from convdsl.graph import Graph
from convdsl.passes.rewrite import rewrite


def specialise(graph: Graph, training: bool) -> Graph:
    """The graph for one of the two modes."""
    return rewrite(graph, lambda b, node: node.op.specialise(b, node, training))
