"""Optimiser steps as nodes: what every parameter becomes."""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.graph import Builder, Graph, Initialiser, TensorType, Value
from convdsl.ops.families import operand
from convdsl.ops.primitive import compute

SCALAR = TensorType((), batched=False)


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum and weight decay, as PyTorch defines it.

    v ← momentum·v + g + weight_decay·p;  p ← p − rate·v. (Sutskever et al. 2013, without the
    rescaling by the rate.)
    """

    momentum: float = 0.0
    weight_decay: float = 0.0

    def update(self, b: Builder, parameter: Value, gradient: Value, rate: Value) -> list[Value]:
        """The new value of the parameter, then of its state."""
        p, g, lr = operand(0), operand(1), operand(2)
        step = g + p * self.weight_decay
        if not self.momentum:
            return [compute(b, p - lr * step, [parameter, gradient, rate], parameter.type)]
        velocity = b.variable(
            f"{parameter.name}.velocity", parameter.type, "state", Initialiser("zeros")
        )
        v = compute(
            b,
            operand(2) * self.momentum + step,
            [parameter, gradient, velocity],
            parameter.type,
        )
        return [compute(b, p - lr * g, [parameter, v, rate], parameter.type), velocity, v]


def add_updates(graph: Graph, optimiser: Sgd) -> Graph:
    """The graph with an assignment for every parameter, from its ``gradient of NAME`` output.

    The learning rate is a state variable called ``learning_rate``, set before a step.
    """
    b = Builder(graph)
    rate = b.variable("learning_rate", SCALAR, "state", Initialiser("constant", 0.01))
    gradients = dict(graph.outputs)
    assignments = list(graph.assignments)
    for parameter in graph.parameters:
        b.prefix = f"{parameter.name}.update."
        gradient = gradients[f"gradient of {parameter.name}"]
        value, *state = optimiser.update(b, parameter, gradient, rate)
        assignments.append((parameter, value))
        for variable, becomes in zip(state[::2], state[1::2], strict=True):
            assignments.append((variable, becomes))  # type: ignore[arg-type]
    return graph.replace(
        variables=tuple(b.variables), nodes=tuple(b.nodes), assignments=tuple(assignments)
    )
