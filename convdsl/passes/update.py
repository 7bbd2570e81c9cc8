"""Optimiser steps as nodes: what every parameter becomes."""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.graph import Builder, Graph, Initialiser, TensorType, Value
from convdsl.ops.expressions import Expr, Number, power, sqrt
from convdsl.ops.families import operand
from convdsl.ops.primitive import compute

SCALAR = TensorType((), batched=False)


class Optimizer:
    """A rule for what a parameter becomes, given its gradient and the learning rate."""

    def update(self, b: Builder, parameter: Value, gradient: Value, rate: Value) -> None:
        """Assign the parameter, and the rule's own state, what they become after a step."""
        raise NotImplementedError


def _state(b: Builder, parameter: Value, name: str) -> Value:
    return b.variable(f"{parameter.name}.{name}", parameter.type, "state", Initialiser("zeros"))


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum and weight decay, as PyTorch defines it.

    g ← g + weight_decay·p;  v ← momentum·v + g;  p ← p − rate·v, or with ``nesterov``
    p ← p − rate·(g + momentum·v). (Sutskever et al. 2013, without the rescaling by the rate)
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def update(self, b: Builder, parameter: Value, gradient: Value, rate: Value) -> None:
        p, g, lr = operand(0), operand(1), operand(2)
        decayed = g + p * self.weight_decay
        given = [parameter, gradient, rate]
        if not self.momentum:
            b.assign(parameter, compute(b, p - lr * decayed, given, parameter.type))
            return
        velocity = _state(b, parameter, "velocity")
        moved = operand(2) * self.momentum + decayed
        v = compute(b, moved, [parameter, gradient, velocity], parameter.type)
        b.assign(velocity, v)
        step: Expr = operand(3)
        if self.nesterov:
            step = decayed + step * self.momentum
        b.assign(parameter, compute(b, p - lr * step, [*given, v], parameter.type))


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam: steps by the mean of the gradients over the root of the mean of their squares.

    m ← β₁·m + (1 − β₁)·g;  v ← β₂·v + (1 − β₂)·g²;
    p ← p − rate·(m/(1 − β₁ᵗ)) / (√(v/(1 − β₂ᵗ)) + eps). Weight decay is added to the gradient, or
    with ``decoupled`` taken from the parameter itself, which is AdamW.
    (Kingma and Ba 2015; Loshchilov and Hutter 2019)
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False

    def update(self, b: Builder, parameter: Value, gradient: Value, rate: Value) -> None:
        type = parameter.type
        g: Expr = operand(0)
        if self.weight_decay and not self.decoupled:
            g = g + operand(2) * self.weight_decay
        mean, square = _state(b, parameter, "mean"), _state(b, parameter, "square")
        m = operand(1) * self.beta1 + g * (1 - self.beta1)
        v = operand(1) * self.beta2 + g * g * (1 - self.beta2)
        new_mean = compute(b, m, [gradient, mean, parameter], type)
        new_square = compute(b, v, [gradient, square, parameter], type)
        b.assign(mean, new_mean)
        b.assign(square, new_square)
        time = _count(b)
        p, lr, t = operand(0), operand(3), operand(4)
        unbiased = operand(1) / (1.0 - power(Number(self.beta1), t))
        spread = sqrt(operand(2) / (1.0 - power(Number(self.beta2), t))) + self.eps
        kept: Expr = p
        if self.weight_decay and self.decoupled:
            kept = p * (1.0 - lr * self.weight_decay)
        given = [parameter, new_mean, new_square, rate, time]
        b.assign(parameter, compute(b, kept - lr * unbiased / spread, given, type))


def _count(b: Builder) -> Value:
    """The number of this step, from 1; kept as a state called ``steps``."""
    for variable, value in b.assignments:
        if variable.name == "steps":
            return value
    steps = b.variable("steps", SCALAR, "state", Initialiser("zeros"))
    following = compute(b, operand(0) + 1.0, [steps], SCALAR)
    b.assign(steps, following)
    return following


def add_updates(graph: Graph, optimizer: Optimizer) -> Graph:
    """The graph with an assignment for every parameter, from its ``gradient of NAME`` output.

    The learning rate is a state variable called ``learning_rate``, set before a step.
    """
    b = Builder(graph)
    rate = b.variable("learning_rate", SCALAR, "state", Initialiser("constant", 0.01))
    gradients = dict(graph.outputs)
    for parameter in graph.parameters:
        b.prefix = f"{parameter.name}.update."
        optimizer.update(b, parameter, gradients[f"gradient of {parameter.name}"], rate)
    return graph.replace(
        variables=tuple(b.variables), nodes=tuple(b.nodes), assignments=tuple(b.assignments)
    )
