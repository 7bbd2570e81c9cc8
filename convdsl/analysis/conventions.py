"""Names the convention that explains why a claimed number is not this network's.

Papers and libraries build or count the same network in different ways. Each function below states
one of them as a change of the ops or as another way to count; a claim that comes true under the
change is explained by it. Conventions speak of attributes and never of an op by name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from convdsl.analysis.costs import Analysis, elements
from convdsl.analysis.precision import agrees, amount
from convdsl.graph import Expectation, Graph, Node, TensorType, Value
from convdsl.graph.types import Shape
from convdsl.ops import Op, Problem
from convdsl.ops.attributes import attributes

Ops = Mapping[Node, Op]
"""Ops that take the place of the nodes' own."""

MOST_SUBSETS = 1 << 12
"""Above this, only the whole set of candidates is tried."""


@dataclass(frozen=True)
class Variant:
    """The same nodes built in another way."""

    reason: str
    ops: Ops


# -- counts ----------------------------------------------------------------------------------


def for_count(
    analysis: Analysis, expectation: Expectation, nodes: Sequence[Node]
) -> tuple[str, ...]:
    """What explains a claim about the nodes of a statement, or about the network if none."""
    quantity, claim = expectation.quantity, expectation.expected
    if quantity == "memory" or isinstance(claim, tuple):
        return ()
    for sentence, number in _explanations(analysis, quantity, nodes, expectation.relation == "="):
        if number is not None and agrees(expectation, claim, number):
            return (sentence.format(amount(number)),)
    return ()


def _explanations(
    analysis: Analysis, quantity: str, nodes: Sequence[Node], exhaustive: bool
) -> Iterator[tuple[str, int | None]]:
    """Sentences with a gap for the number that comes about under what they say."""
    scope = tuple(nodes) or analysis.graph.nodes
    for reason, number in _other_counts(analysis, quantity, scope):
        yield f"{reason}: {{}}", number
    if not nodes:
        for reason, graph in _fewer_outputs(analysis.graph):
            yield f"{reason} has {{}}", _count(graph.nodes, quantity, {})
    for variant in _variants(scope, exhaustive):
        yield f"{variant.reason} gives {{}}", _count(scope, quantity, variant.ops)


def _other_counts(
    analysis: Analysis, quantity: str, nodes: Sequence[Node]
) -> Iterator[tuple[str, int]]:
    """Other ways to count the same nodes."""
    variables = [v for node in nodes for v in node.weights]
    learned = [v for v in variables if v.role == "parameter"]
    costs = [analysis.costs[node] for node in nodes]
    macs, flops = sum(c.macs for c in costs), sum(c.flops for c in costs)
    if quantity == "params":
        buffers = elements(variables) - elements(learned)
        yield (
            f"that number counts the {amount(buffers)} running statistics of normalisation, "
            "which are buffers and not parameters",
            elements(variables),
        )
        yield (
            "that number leaves out the biases and the other parameters with one axis",
            elements(v for v in learned if len(v.type.shape) > 1),
        )
    if quantity == "macs":
        yield "that number counts multiplications and additions apart", 2 * macs
        yield "that number counts every floating-point operation: use `flops`", flops
        mapped = [n for n in nodes if n.outputs[0].type.spatial]
        yield (
            "that number counts the layers with feature maps alone, without those on vectors",
            sum(analysis.costs[node].macs for node in mapped),
        )
    if quantity == "flops":
        yield "that number counts multiply-adds: use `macs`", macs
        yield "that number counts two operations for each multiply-add and no others", 2 * macs


def _fewer_outputs(graph: Graph) -> Iterator[tuple[str, Graph]]:
    """The network without some of its outputs, such as auxiliary classifiers."""
    if not 1 < len(graph.outputs) <= 6:
        return
    for kept in range(len(graph.outputs) - 1, 0, -1):
        for outputs in itertools.combinations(graph.outputs, kept):
            dropped = [name for name, value in graph.outputs if (name, value) not in outputs]
            names = _listed([f"`{name}`" for name in dropped])
            yield f"without its outputs {names} the network", graph.replace(outputs=outputs).live()


def _variants(nodes: Sequence[Node], exhaustive: bool) -> Iterator[Variant]:
    """The same nodes under every known convention, the likeliest first."""
    yield from _biases(nodes)
    yield from _groups(nodes, exhaustive)
    yield from _rounding(nodes)
    yield from _strides(nodes)


def _biases(nodes: Sequence[Node]) -> Iterator[Variant]:
    for present, word in ((True, "off"), (False, "on")):
        alike = _changed(nodes, "bias", [present], not present)
        for category in (None, *sorted({n.op.category for n in alike})):
            chosen = {n: op for n, op in alike.items() if category in (None, n.op.category)}
            if chosen:
                yield Variant(f"`bias={word}` {_on(chosen, nodes)}", chosen)


def _groups(nodes: Sequence[Node], exhaustive: bool) -> Iterator[Variant]:
    grouped = _changed(nodes, "groups", range(2, 1 << 31), 1)
    if grouped:
        yield Variant(f"`groups=1` {_on(grouped, nodes)}", grouped)
    split = _changed(nodes, "groups", [1], 2)
    split = {node: op for node, op in split.items() if _fits(node, op)}
    paper = "the AlexNet paper splits layers over two GPUs:"
    for chosen in _subsets(split, exhaustive):
        yield Variant(f"{paper} `groups=2` {_on(chosen, nodes)}", chosen)


def _rounding(nodes: Sequence[Node]) -> Iterator[Variant]:
    for present, word in ((False, "on"), (True, "off")):
        chosen = _changed(nodes, "ceil", [present], not present)
        if chosen:
            caffe = "Caffe rounds the sizes of pooling up:"
            yield Variant(f"{caffe} `ceil={word}` {_on(chosen, nodes)}", chosen)


def _strides(nodes: Sequence[Node]) -> Iterator[Variant]:
    """Strides of windows moved to the 1x1 layer before, as ResNet's paper has them, and back."""
    producers = {value: node for node in nodes for value in node.outputs}
    first: dict[Node, Op] = {}
    later: dict[Node, Op] = {}
    for node in nodes:
        before = _windowed_before(node, producers)
        if before is None or set(node.op.window) == {1} or set(before.op.window) != {1}:
            continue
        swapped = {
            before: replace(before.op, stride=node.op.stride),
            node: replace(node.op, stride=before.op.stride),
        }
        if set(before.op.stride) == {1} != set(node.op.stride):
            first.update(swapped)
        elif set(node.op.stride) == {1} != set(before.op.stride):
            later.update(swapped)
    if first:
        yield Variant("the stride on the 1x1 layers, as in ResNet's paper,", first)
    if later:
        yield Variant("the stride on the 3x3 layers, as in most implementations,", later)


def _windowed_before(node: Node, producers: Mapping[Value, Node]) -> Node | None:
    """The layer with weights and a stride that feeds this one through elementwise ops."""
    if not _has(node, "window", "stride", "filters") or len(node.data) != 1:
        return None
    before = producers.get(node.data[0])
    while before is not None and len(before.data) == 1:
        if _has(before, "window", "stride", "filters"):
            return before
        if before.op.sees(before.data[0].type) is not None:
            return None
        before = producers.get(before.data[0])
    return None


# -- shapes ----------------------------------------------------------------------------------


def for_shape(nodes: Sequence[Node], expected: Shape) -> tuple[str, ...]:
    """The change of one attribute in a statement that gives the expected shape, if there is one."""
    if not nodes:
        return ()
    for variant in (*_rounding(nodes), *_paddings(nodes)):
        types = _types(nodes, variant.ops)
        if types is not None and types[nodes[-1].outputs[0]].shape == expected:
            return (f"{variant.reason} gives {TensorType(expected)}",)
    return ()


def _paddings(nodes: Sequence[Node]) -> Iterator[Variant]:
    """Every symmetric padding up to the window, then one more element after."""
    for node in nodes:
        if not _has(node, "pad", "window"):
            continue
        for after in (0, 1):
            for amounts in _pad_amounts(node.op.window):
                pads = tuple((p, p + after) for p in amounts)
                if pads != node.op.pad:
                    shown = attributes(type(node.op))["pad"].kind.show(pads)
                    yield Variant(f"`pad={shown}`", {node: replace(node.op, pad=pads)})


def _pad_amounts(window: Shape) -> Iterator[Shape]:
    for side in range(max(window)):
        yield (side,) * len(window)
    halves = tuple(size // 2 for size in window)
    if len(set(halves)) > 1:
        yield halves


# -- rebuilding ------------------------------------------------------------------------------


def _types(nodes: Sequence[Node], ops: Ops) -> dict[Value, TensorType] | None:
    """The types of all values with these ops instead; None where something no longer fits."""
    types: dict[Value, TensorType] = {}
    for node in nodes:
        inputs = [types.get(value, value.type) for value in node.data]
        op = ops.get(node, node.op)
        try:
            results = op.result(*inputs)
        except Problem:
            return None
        results = results if isinstance(results, tuple) else (results,)
        types.update(zip(node.outputs, results, strict=True))
    return types


def _count(nodes: Sequence[Node], quantity: str, ops: Ops) -> int | None:
    """Parameters, multiply-adds or operations with these ops instead."""
    types = _types(nodes, ops)
    if types is None:
        return None
    total, seen = 0, set[Value]()
    for node in nodes:
        op = ops.get(node, node.op)
        inputs = [types.get(value, value.type) for value in node.data]
        if quantity == "macs":
            total += op.macs(*inputs)
        elif quantity == "flops":
            total += op.flops(*inputs)
        elif not node.weights or node.weights[0] not in seen:
            seen.update(node.weights)
            owned = [w for w in op.weights(*inputs) if w.role == "parameter"]
            total += sum(math.prod(w.shape) for w in owned)
    return total


def _changed(
    nodes: Iterable[Node], attribute: str, present: Container[Any], value: Any
) -> dict[Node, Op]:
    """The ops with another value of an attribute, where it has one of these now."""
    return {
        node: replace(node.op, **{attribute: value})
        for node in nodes
        if _has(node, attribute) and getattr(node.op, attribute) in present
    }


def _has(node: Node, *names: str) -> bool:
    known = attributes(type(node.op))
    return all(name in known for name in names)


def _fits(node: Node, op: Op) -> bool:
    return _types((node,), {node: op}) is not None


def _subsets(ops: Ops, exhaustive: bool) -> Iterator[dict[Node, Op]]:
    """All of them first, then the smaller sets while they are few, later layers before earlier."""
    items = tuple(ops.items())
    if items:
        yield dict(items)
    if exhaustive and 1 << len(items) <= MOST_SUBSETS:
        for size in range(1, len(items)):
            for chosen in itertools.combinations(reversed(items), size):
                yield dict(reversed(chosen))


def _on(chosen: Ops, nodes: Sequence[Node]) -> str:
    """Which layers are meant."""
    if len(nodes) == 1:
        return "here"
    names = [f"`{node.name}`" for node in chosen]
    if len(names) > 5:
        return f"on {len(names)} layers from {names[0]} to {names[-1]}"
    return f"on {_listed(names)}"


def _listed(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
