"""Reverse-mode differentiation: the gradient of a loss as further nodes of the same graph."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import reduce

from convdsl.diagnostics import problem
from convdsl.graph import Builder, Graph, TensorType, Value
from convdsl.ops.base import Problem
from convdsl.ops.expressions import Expr, Number
from convdsl.ops.families import operand
from convdsl.ops.losses import LOSSES, Loss
from convdsl.ops.primitive import compute
from convdsl.passes.scaling import LossScale


def add_loss(graph: Graph, loss: str | Loss) -> Graph:
    """The graph with a loss of its only output as its only output.

    The target is a new variable with the role ``target``. Raises CompileError E501 for an unknown
    loss, E502 where the network's outputs do not fit it.
    """
    if isinstance(loss, str) and loss not in LOSSES:
        known = ", ".join(LOSSES)
        raise problem("E501", f"there is no loss called `{loss}`", f"the losses are {known}")
    if len(graph.outputs) != 1:
        raise problem("E502", f"a loss takes one output, `{graph.name}` has {len(graph.outputs)}")
    b = Builder(graph)
    op = LOSSES[loss]() if isinstance(loss, str) else loss
    ((name, prediction),) = graph.outputs
    try:
        kind = op.target(prediction.type)
    except Problem as reason:
        raise problem(reason.code, reason.message, *reason.help) from None
    target = b.variable("target", kind, "target")
    value = b.add(op, prediction, target, name="loss")
    return graph.replace(
        variables=tuple(b.variables),
        nodes=tuple(b.nodes),
        outputs=(("loss", value), (name, prediction)),
    )


def add_gradients(graph: Graph, by: Sequence[Value], scale: float | LossScale = 1.0) -> Graph:
    """The graph with the gradients of its first output, a scalar, as further outputs.

    They are called ``gradient of NAME`` in the order of ``by``. A value that the scalar does not
    depend on has a gradient of zeros. With a ``scale`` they are computed that many times as large,
    which keeps small ones representable in half precision, and divided by it in the end; one that
    is found while training is a new state.
    """
    (_, loss), *_ = graph.outputs
    b = Builder(graph)
    if isinstance(scale, LossScale):
        factor: Value = scale.variable(b)
    else:
        factor = _filled(b, scale, loss.type)
    parts: dict[Value, list[Value]] = {loss: [factor]}
    wanted = set(by)
    for node in graph.nodes:
        if any(v in wanted for v in node.inputs):
            wanted.update(node.outputs)
    for node in reversed(graph.nodes):
        b.prefix = f"{node.name}.gradient."
        upstream = [_total(b, parts.get(v)) for v in node.outputs]
        needs = [v in wanted for v in node.inputs]
        if not any(needs) or all(dy is None for dy in upstream):
            continue
        for value, part in zip(
            node.inputs, node.op.gradient(b, node, upstream, needs), strict=True
        ):
            if part is not None and value in wanted:
                parts.setdefault(value, []).append(part)
    gradients = []
    for value in by:
        b.prefix = f"{value.name}.gradient."
        total = _total(b, parts.get(value))
        if total is not None and scale != 1.0:
            total = _unscaled(b, total, scale, factor)
        gradients.append((f"gradient of {value.name}", total or _filled(b, 0.0, value.type)))
    return graph.replace(
        variables=tuple(b.variables),
        nodes=tuple(b.nodes),
        outputs=(*graph.outputs, *gradients),
    )


def _unscaled(b: Builder, total: Value, scale: float | LossScale, factor: Value) -> Value:
    if isinstance(scale, LossScale):
        return compute(b, operand(0) / operand(1), [total, factor], total.type)
    return compute(b, operand(0) * (1.0 / scale), [total], total.type)


def _filled(b: Builder, value: float, type: TensorType) -> Value:
    return compute(b, Number(value), [], type)


def _total(b: Builder, parts: list[Value] | None) -> Value | None:
    """The sum of the gradients that arrive from every use of a value."""
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    terms: list[Expr] = [operand(k) for k in range(len(parts))]
    return compute(b, reduce(operator.add, terms), parts, parts[0].type)
