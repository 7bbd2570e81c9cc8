"""Puts feature maps into blocks of channels, where the ops compute on them faster."""

from __future__ import annotations

from dataclasses import replace

from convdsl.graph import Graph
from convdsl.ops.blocks import Blocking


def block(graph: Graph, lanes: int) -> Graph:
    """The graph of primitive ops with feature maps in blocks of up to ``lanes`` channels.

    An op that computes in blocks gets its operands so, any other plain; inputs, outputs and
    parameters stay as they are.
    """
    blocking = Blocking(graph, lanes)
    b = blocking.builder
    for node in graph.nodes:
        b.release(node.name)
        made = node.op.in_blocks(blocking, node)
        b.prefix = f"{node.name}."
        op, inputs = made or (node.op, [blocking.plain(v) for v in node.inputs])
        if made is None:
            moved = replace(node, inputs=tuple(inputs))
            b.nodes.append(moved)
            b.unique(node.name)
            for value in node.outputs:
                blocking.keep(value, value)
        else:
            value = b.add(op, *inputs, name=node.name, path=node.path, span=node.span)
            blocking.keep(node.output, value)
    outputs = tuple((name, blocking.plain(v)) for name, v in graph.outputs)
    assignments = tuple((variable, blocking.plain(v)) for variable, v in graph.assignments)
    return graph.replace(nodes=tuple(b.nodes), outputs=outputs, assignments=assignments).live()
