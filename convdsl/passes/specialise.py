"""Makes every op what it is in inference or in training: dropout, batch statistics."""

from __future__ import annotations

from convdsl.graph import Graph
from convdsl.passes.rewrite import rewrite


def specialise(graph: Graph, training: bool, processes: int = 1) -> Graph:
    """The graph for one of the two modes; statistics of the batch are over so many processes."""
    return rewrite(graph, lambda b, node: node.op.specialise(b, node, training, processes))
