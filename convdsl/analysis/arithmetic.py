"""Shows how a number comes about: weight by weight, output by output, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from convdsl.analysis.costs import Analysis
from convdsl.analysis.precision import amount
from convdsl.graph import Node, Value, Variable

MOST_TERMS = 8
"""A sum over more layers than this shows its largest terms."""


def weights(variables: Iterable[Variable]) -> str:
    """Parameters as the seed writes them, window first: ``5·5·1·6 + 6``."""
    return " + ".join(
        "·".join(str(size) for size in reversed(v.type.shape)) or "1"
        for v in variables
        if v.role == "parameter"
    )


def count(analysis: Analysis, quantity: str, nodes: Sequence[Node]) -> str:
    """How a count over these nodes comes about; empty where there is nothing to add."""
    if quantity == "memory":
        return ""
    costs = {node: analysis.costs[node] for node in nodes}
    numbers = {
        node: {"params": c.parameters, "macs": c.macs, "flops": c.flops}[quantity]
        for node, c in costs.items()
    }
    terms = [(node, number) for node, number in numbers.items() if number]
    if len(terms) != 1:
        return _sum_over_layers(terms)
    ((node, number),) = terms
    return _term(node, quantity, number)


def _term(node: Node, quantity: str, number: int) -> str:
    if quantity == "params":
        return f"{weights(node.weights)} = {amount(number)}"
    outputs = node.outputs[0].type.size
    if not outputs or number % outputs:
        return ""
    return f"{amount(outputs)} outputs × {amount(number // outputs)} each = {amount(number)}"


def _sum_over_layers(terms: Sequence[tuple[Node, int]]) -> str:
    if not terms:
        return ""
    if len(terms) <= MOST_TERMS:
        return "the sum of " + ", ".join(f"{node.name} {amount(n)}" for node, n in terms)
    largest = sorted(terms, key=lambda term: -term[1])[:3]
    shown = ", ".join(f"{node.name} {amount(n)}" for node, n in largest)
    return f"the sum over {len(terms)} layers; the largest are {shown}"


def sizes(nodes: Sequence[Node]) -> str:
    """The formula of the window in a statement, or what the statement starts from."""
    windows = [(node, formulas) for node in nodes if (formulas := window_formulas(node))]
    if len(windows) == 1:
        ((node, formulas),) = windows
        return f"{' and '.join(formulas)} for `{node.op.notation()}` on {node.data[0].type}"
    if nodes and nodes[0].data:
        return f"it is applied to {nodes[0].data[0].type}"
    return ""


def window_formulas(node: Node) -> tuple[str, ...]:
    """floor((I + P − K) / S) + 1 with the numbers of a node, once for axes that are alike."""
    op, x = node.op, node.data[0].type if node.data else None
    window, pad = op.sees(*(v.type for v in node.data)), getattr(op, "pad", None)
    if x is None or window is None or window.whole or pad is None:
        return ()
    rounding = "ceil" if getattr(op, "ceil", False) else "floor"
    output = node.outputs[0].type.spatial
    axes = zip(x.spatial, pad, window.size, window.stride, output, strict=True)
    formulas = [f"{rounding}(({i} + {sum(p)} − {k}) / {s}) + 1 = {o}" for i, p, k, s, o in axes]
    return tuple(dict.fromkeys(formulas))


def field(analysis: Analysis, value: Value) -> str:
    """The windows on the way to a value, each with what it adds along the first axis."""
    producers, fields = analysis.graph.producers, analysis.fields
    terms: list[str] = []
    node = producers.get(value)
    while node is not None and node.data:
        after, before = analysis.field(node.outputs[0]), analysis.field(node.data[0])
        if after is None or before is None or not after.size or len(node.data) != 1:
            return ""
        grown = after.size[0] - before.size[0]
        if grown:
            terms.append(f"{grown} by {node.name}")
        node = producers.get(node.data[0])
    if not terms or len(terms) > MOST_TERMS or not fields:
        return ""
    return "1 + " + " + ".join(reversed(terms))
