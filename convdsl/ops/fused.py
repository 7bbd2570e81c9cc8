"""Ops that passes build by joining others: elementwise chains, and heavy ops with an epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from convdsl.graph import Node, TensorType, Value
from convdsl.graph.types import Shape
from convdsl.ops.base import Op
from convdsl.ops.expressions import Expr, Symbol, evaluate, operations, substitute, symbols
from convdsl.ops.families import Epilogue, Family, align, operand
from convdsl.ops.primitive import Elementwise

if TYPE_CHECKING:
    import numpy as np

    from convdsl.ops.blocks import Blocking

LONGEST = 8
"""Operands of a joined op; more would not fit the registers."""


@dataclass(frozen=True)
class WithEpilogue(Op):
    """A heavy op whose results go through an expression before they are stored.

    In the expression x0 is the op's result and x1, x2, … the inputs after the op's own.
    """

    kind: ClassVar[str] = "fused"
    arity: ClassVar[int | None] = None
    base: Op
    own: tuple[TensorType, ...]
    expression: Expr
    others: tuple[TensorType, ...]

    @property
    def category(self) -> str:  # type: ignore[override]
        return self.base.category

    def result(self, *x: TensorType) -> TensorType | tuple[TensorType, ...]:
        return self.base.infer(*x[: len(self.own)])

    def flops(self, *x: TensorType) -> int:
        (y,) = self.base.infer(*self.own)
        data = self.own if self.base.arity is None else self.own[: self.base.arity]
        return self.base.flops(*data) + operations(self.expression) * y.size

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        count = len(self.own)
        present = tuple(align(t.shape, t.batched, outputs[0]) for t in self.others)
        whole = tuple(tuple(shape) == tuple(outputs[0]) for shape in inputs[count:])
        inner = self.base.family(inputs[:count], outputs)
        return replace(inner, epilogue=Epilogue(self.expression, present, whole))  # type: ignore[type-var]

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        count = len(self.own)
        y = self.base.evaluate(*inputs[:count])
        assert isinstance(y, np.ndarray)
        values = {"x0": y}
        for k, (x, type) in enumerate(zip(inputs[count:], self.others, strict=True), 1):
            full = x if type.batched else x[None]
            values[f"x{k}"] = full.reshape(*full.shape, *(1,) * (y.ndim - full.ndim))
        return np.asarray(evaluate(self.expression, values), y.dtype)

    def in_blocks(self, blocking: Blocking, node: Node) -> tuple[Op, list[Value]] | None:
        count = len(self.own)
        inner = replace(node, op=self.base, inputs=node.inputs[:count])
        made = self.base.in_blocks(blocking, inner)
        if made is None:
            return None
        base, inputs = made
        others = [blocking.operand(v, node.output.type) for v in node.inputs[count:]]
        op = WithEpilogue(
            base,
            tuple(v.type for v in inputs),
            self.expression,
            tuple(v.type for v in others),
        )
        return op, [*inputs, *others]

    def notation(self) -> str:
        from convdsl.ops.expressions import bare

        return f"{self.base.notation()} then {bare(self.expression)}"


def fused(producer: Node, consumer: Node) -> Node | None:
    """One node for both, where their ops can be joined; else None.

    The consumer is elementwise or has been joined already; the producer's only reader is it.
    """
    value = producer.output
    if value.type != consumer.output.type or value.type.dtype != "float32":
        return None
    expression = consumer.op.pointwise(*(v.type for v in consumer.inputs))
    if expression is None or _places(expression):
        return None
    inner = producer.op.pointwise(*(v.type for v in producer.inputs))
    if inner is not None and not _places(inner):
        return _chain(producer, inner, consumer, expression)
    if isinstance(producer.op, WithEpilogue):
        return _longer(producer, producer.op, consumer, expression)
    if producer.op.takes_epilogue:
        first = WithEpilogue(producer.op, tuple(v.type for v in producer.inputs), operand(0), ())
        return _longer(producer, first, consumer, expression)
    return None


def _places(expression: Expr) -> bool:
    """Whether an expression depends on where it is taken."""
    return any(not s.name.startswith("x") for s in symbols(expression))


def _renamed(
    expression: Expr, inputs: Sequence[Value], into: list[Value], known: dict[Value, Expr]
) -> Expr:
    """The expression over ``into``, which grows by the inputs it lacks."""
    values: dict[Symbol, Expr] = {}
    for k, value in enumerate(inputs):
        if value not in known:
            known[value] = operand(len(into), value.type.dtype)  # type: ignore[arg-type]
            into.append(value)
        values[operand(k, value.type.dtype)] = known[value]  # type: ignore[arg-type]
    return substitute(expression, values)


def _chain(producer: Node, inner: Expr, consumer: Node, outer: Expr) -> Node | None:
    into: list[Value] = []
    known: dict[Value, Expr] = {}
    known[producer.output] = _renamed(inner, producer.inputs, into, known)
    whole = _renamed(outer, consumer.inputs, into, known)
    if len(into) > LONGEST:
        return None
    op = Elementwise(whole, tuple(v.type for v in into), consumer.output.type)
    return replace(consumer, op=op, inputs=tuple(into))


def _longer(producer: Node, op: WithEpilogue, consumer: Node, outer: Expr) -> Node | None:
    count = len(op.own)
    into = [producer.output, *producer.inputs[count:]]
    known: dict[Value, Expr] = {v: operand(k) for k, v in enumerate(into)}
    known[producer.output] = op.expression
    whole = _renamed(outer, consumer.inputs, into, known)
    if len(into) > LONGEST or any(v.type.dtype != "float32" for v in into):
        return None
    others = into[1:]
    made = replace(op, expression=whole, others=tuple(v.type for v in others))
    return replace(
        consumer, op=made, inputs=(*producer.inputs[:count], *others), name=producer.name
    )
