"""Optimiser steps as nodes: what every parameter becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from convdsl.graph import Builder, Graph, Initialiser, Value, Variable
from convdsl.ops.expressions import Expr, Number, maximum, minimum, power, sqrt
from convdsl.ops.families import operand
from convdsl.ops.primitive import compute
from convdsl.passes.scaling import SCALAR, square_norm

AVERAGE = ".average"
"""What is behind the name of a parameter in that of its moving average."""


class Optimizer:
    """A rule for what a parameter becomes, given its gradient and the learning rate."""

    def update(self, b: Builder, parameter: Value, gradient: Value, rate: Value) -> None:
        """Assign the parameter, and the rule's own state, what they become after a step."""
        raise NotImplementedError

    def undecayed(self) -> Optimizer:
        """The rule without weight decay."""
        return self


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

    def undecayed(self) -> Optimizer:
        return replace(self, weight_decay=0.0)

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

    def undecayed(self) -> Optimizer:
        return replace(self, weight_decay=0.0)

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


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop: steps by the gradient over the root of the mean of its squares, as in PyTorch.

    g ← g + weight_decay·p;  s ← smoothing·s + (1 − smoothing)·g²;  g ← g / (√s + eps);
    v ← momentum·v + g;  p ← p − rate·v. (Tieleman and Hinton 2012, lecture 6.5)
    """

    smoothing: float = 0.99
    momentum: float = 0.0
    eps: float = 1e-8
    weight_decay: float = 0.0

    def undecayed(self) -> Optimizer:
        return replace(self, weight_decay=0.0)

    def update(self, b: Builder, parameter: Value, gradient: Value, rate: Value) -> None:
        type = parameter.type
        p, g, lr, old = (operand(k) for k in range(4))
        decayed = g + p * self.weight_decay
        given = [parameter, gradient, rate]
        square = _state(b, parameter, "square")
        s = old * self.smoothing + decayed * decayed * (1 - self.smoothing)
        new_square = compute(b, s, [*given, square], type)
        b.assign(square, new_square)
        given.append(new_square)
        step = decayed / (sqrt(operand(3)) + self.eps)
        if self.momentum:
            velocity = _state(b, parameter, "velocity")
            v = compute(b, operand(4) * self.momentum + step, [*given, velocity], type)
            b.assign(velocity, v)
            given.append(v)
            step = operand(4)
        b.assign(parameter, compute(b, p - lr * step, given, type))


@dataclass(frozen=True)
class Refined(Optimizer):
    """An optimiser with what surrounds it, each part left out where it is not asked for.

    ``clip``: gradients are scaled down until the norm of all of them together is at most this.
    (Pascanu, Mikolov and Bengio 2013, algorithm 1)
    ``spare_vectors``: weight decay leaves biases, and the scales and shifts of normalisation alone:
    the parameters with a single axis.
    ``average``: a moving average of parameters and running statistics is kept, as states called
    ``NAME.average``: a ← a + (p − a)·max(1 − average, 1/t) for step t, the plain mean until
    enough steps are gone. (Polyak and Juditsky 1992)
    """

    optimizer: Optimizer = field(default_factory=SGD)
    clip: float = 0.0
    spare_vectors: bool = False
    average: float = 0.0

    def update(self, b: Builder, parameter: Value, gradient: Value, rate: Value) -> None:
        rule = self.optimizer
        if self.spare_vectors and len(parameter.type.shape) <= 1:
            rule = rule.undecayed()
        rule.update(b, parameter, gradient, rate)

    def clipped(self, b: Builder, gradients: Sequence[Value]) -> list[Value]:
        """The gradients as they are taken."""
        if not self.clip:
            return list(gradients)
        g = operand(0)
        norm = square_norm(b, gradients)
        # The tiny number is PyTorch's: gradients of zeros have no norm to divide by.
        share = minimum(Number(self.clip) / (sqrt(g) + 1e-6), 1.0)
        scale = compute(b, share, [norm], SCALAR)
        return [compute(b, g * operand(1), [value, scale], value.type) for value in gradients]

    def averages(self, b: Builder, variables: Sequence[Variable]) -> None:
        """Assign the moving averages of variables, where they are kept."""
        if not self.average:
            return
        time = _count(b)
        becomes = dict(b.assignments)
        share = maximum(Number(1 - self.average), 1.0 / operand(2))
        for variable in variables:
            mean = b.variable(variable.name + AVERAGE, variable.type, "state", Initialiser("zeros"))
            moved = operand(0) + (operand(1) - operand(0)) * share
            given = [mean, becomes.get(variable, variable), time]
            b.assign(mean, compute(b, moved, given, variable.type))


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
    rule = optimizer if isinstance(optimizer, Refined) else Refined(optimizer=optimizer)
    b = Builder(graph)
    rate = b.variable("learning_rate", SCALAR, "state", Initialiser("constant", 0.01))
    outputs = dict(graph.outputs)
    b.prefix = "clipping."
    gradients = rule.clipped(b, [outputs[f"gradient of {p.name}"] for p in graph.parameters])
    for parameter, gradient in zip(graph.parameters, gradients, strict=True):
        b.prefix = f"{parameter.name}.update."
        rule.update(b, parameter, gradient, rate)
    b.prefix = "average."
    rule.averages(b, (*graph.parameters, *graph.buffers))
    return graph.replace(
        variables=tuple(b.variables), nodes=tuple(b.nodes), assignments=tuple(b.assignments)
    )
