"""Trades arithmetic for memory: cheap values are computed again for the backward pass."""

from __future__ import annotations

from dataclasses import replace

from convdsl.graph import Graph, Node, Value, Variable


def recompute(graph: Graph) -> Graph:
    """The training graph with elementwise values not kept from the forward to the backward pass.

    Such a value is computed a second time before its first reader behind the loss, provided that
    its inputs are kept, or computed again, anyway. Results are the same to the last bit.
    """
    place = {node: index for index, node in enumerate(graph.nodes)}
    loss = place[graph.producers[graph.outputs[0][1]]]
    late: dict[Value, list[Node]] = {
        value: [n for n in users if place[n] > loss] for value, users in graph.users.items()
    }
    chosen = [n for n in graph.nodes[:loss] if _pays(n, late, graph)]
    copies: dict[Value, Value] = {}
    before: dict[Node, list[Node]] = {}
    first_reader: dict[Value, Node] = {}
    # From the last to the first, so that a copy counts as a reader of its inputs.
    for node in reversed(chosen):
        value = node.output
        readers = [*late[value], *([first_reader[value]] if value in first_reader else [])]
        reader = min(readers, key=place.__getitem__)
        copy = replace(value, name=f"{value.name}.again")
        copies[value] = copy
        again = replace(node, outputs=(copy,), name=f"{node.name}.again")
        before.setdefault(reader, []).append(again)
        for needed in node.inputs:
            known = first_reader.get(needed, reader)
            first_reader[needed] = min(known, reader, key=place.__getitem__)
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += [_reading(again, copies) for again in reversed(before.get(node, []))]
        nodes.append(_reading(node, copies) if place[node] > loss else node)
    return graph.replace(nodes=tuple(nodes))


def _pays(node: Node, late: dict[Value, list[Node]], graph: Graph) -> bool:
    """Whether a node is cheap and read behind the loss, and its inputs are there anyway."""
    if node.op.pointwise(*(v.type for v in node.inputs)) is None:
        return False
    value = node.output
    kept = any(value is v for _, v in (*graph.outputs, *graph.assignments))
    # Values without a batch, such as a scale per channel, are small enough to be kept for this.
    there = all(isinstance(v, Variable) or not v.type.batched or late.get(v) for v in node.inputs)
    return bool(late.get(value)) and not kept and there and value.type.batched


def _reading(node: Node, copies: dict[Value, Value]) -> Node:
    return replace(node, inputs=tuple(copies.get(v, v) for v in node.inputs))
