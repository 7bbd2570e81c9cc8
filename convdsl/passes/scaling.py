"""Loss scaling: gradients are computed larger than they are, by a factor that training finds.

Half precision has no numbers below 6e-8, which small gradients are, and none above 65,504. The loss
is multiplied by a power of two before it is differentiated, and gradients are divided by it, which
is exact. (Micikevicius et al. 2018, section 3.2)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from convdsl.graph import Builder, Graph, Initialiser, TensorType, Value, Variable
from convdsl.ops.expressions import Expr, Number, equal, less_equal, maximum, select
from convdsl.ops.families import operand
from convdsl.ops.primitive import compute

SCALAR = TensorType((), batched=False)
LARGEST = 3.4028234663852886e38
"""The largest float32; what is not finite is not below it."""


@dataclass(frozen=True)
class LossScale:
    """A factor that doubles after ``patience`` good steps, and is halved by a bad one.

    A step is bad where the gradients have no finite norm; it changes no parameter and nothing that
    an optimiser keeps. Factor and count are states, `loss_scale` and `good_steps`, so that a
    training that goes on from a checkpoint goes on with them.
    """

    initial: float = 65_536.0
    patience: int = 2_000

    def variable(self, b: Builder) -> Variable:
        """The factor, as a new state."""
        return b.variable("loss_scale", SCALAR, "state", Initialiser("constant", self.initial))


def square_norm(b: Builder, gradients: Sequence[Value]) -> Value:
    """The sum of the squares of all gradients, which is finite where they are."""
    g = operand(0)
    squares = [compute(b, g * g, [value], value.type, SCALAR) for value in gradients]
    terms: list[Expr] = [operand(k) for k in range(len(squares))]
    return compute(b, reduce(add, terms), squares, SCALAR)


def guard_updates(graph: Graph, scaling: LossScale) -> Graph:
    """The graph whose parameters and states stay as they are in a bad step, when the scale halves.

    Running statistics do not depend on gradients, and move on.
    """
    b = Builder(graph)
    b.prefix = "loss_scale.update."
    outputs = dict(graph.outputs)
    norm = square_norm(b, [outputs[f"gradient of {p.name}"] for p in graph.parameters])
    b.assignments = [(v, _kept(b, v, value, norm)) for v, value in graph.assignments]
    scale = next(v for v in graph.variables if v.name == "loss_scale")
    good = b.variable("good_steps", SCALAR, "state", Initialiser("zeros"))
    following = operand(1) + 1.0
    full = equal(following, float(scaling.patience))
    finite = less_equal(operand(2), LARGEST)
    halved = maximum(operand(0) * 0.5, 1.0)
    given = [scale, good, norm]
    grown = select(full, operand(0) * 2.0, operand(0))
    b.assign(scale, compute(b, select(finite, grown, halved), given, SCALAR))
    counted = select(full, Number(0.0), following)
    b.assign(good, compute(b, select(finite, counted, Number(0.0)), given, SCALAR))
    return graph.replace(
        variables=tuple(b.variables), nodes=tuple(b.nodes), assignments=tuple(b.assignments)
    )


def _kept(b: Builder, variable: Variable, value: Value, norm: Value) -> Value:
    """What a variable becomes: the value, or in a bad step what it is."""
    if variable.role == "buffer":
        return value
    chosen = select(less_equal(operand(2), LARGEST), operand(0), operand(1))
    return compute(b, chosen, [value, variable, norm], variable.type)
