"""Graphs built by hand, one op a line, for tests that need no language."""

from __future__ import annotations

from typing import Any

from convdsl.graph import Builder, Graph, Scope, TensorType, Value
from convdsl.ops import lookup
from convdsl.ops.attributes import Arguments, Bank, Extents, Word, bind
from convdsl.ops.expressions import Expr
from convdsl.ops.families import operand
from convdsl.ops.primitive import Elementwise


class Net:
    """Builds a chain; ``at`` is the current value."""

    def __init__(self, *shape: int, name: str = "image", **attributes: Any) -> None:
        self.builder = Builder()
        self.at: Value = self.builder.variable(
            name, TensorType(shape), "input", attributes=tuple(attributes.items())
        )

    def input(self, name: str, *shape: int) -> Value:
        return self.builder.variable(name, TensorType(shape), "input")

    def conv(
        self, filters: int, *window: int, name: str = "", stride: Any = None, **more: Any
    ) -> Value:
        bank = Bank(filters, Extents(window) if len(window) > 1 else window[0])
        return self.apply("conv", bank, name=name, stride=stride, **more)

    def apply(
        self,
        kind: str,
        *positional: Any,
        name: str = "",
        stride: Any = None,
        statement: str = "",
        path: tuple[Scope, ...] = (),
        documentation: str = "",
        **keywords: Any,
    ) -> Value:
        """Apply an op of the language to the current value; tuples stand for windows."""
        op_class = lookup(kind)
        assert op_class is not None, kind
        shown = tuple(Extents(p) if isinstance(p, tuple) else p for p in positional)
        words = {k: Word(v) if isinstance(v, str) else v for k, v in keywords.items()}
        op = bind(op_class, Arguments(shown, words, stride), [self.at.type])
        name = self.builder.unique(name or kind)
        owned = [
            self.builder.variable(
                f"{name}.{w.name}", TensorType(w.shape, batched=False), w.role, w.initialiser
            )
            for w in op.weights(self.at.type)
        ]
        self.builder.release(name)
        node = self.builder.apply(
            op,
            (self.at, *owned),
            name=name,
            path=path,
            documentation=documentation,
            statement=statement or name,
        )
        self.at = node.output
        return self.at

    def combine(self, *values: Value, expression: Expr | None = None, name: str = "add") -> Value:
        """An elementwise combination, by default the sum."""
        if expression is None:
            expression = operand(0)
            for index in range(1, len(values)):
                expression = expression + operand(index)
        types = tuple(v.type for v in values)
        largest = max(types, key=lambda t: t.size)
        self.at = self.builder.add(Elementwise(expression, types, largest), *values, name=name)
        return self.at

    def graph(self, name: str = "Net", *outputs: tuple[str, Value], **more: Any) -> Graph:
        return self.builder.finish(name, outputs or [("logits", self.at)], **more)


def lenet() -> Graph:
    """The seed's LeNet, as in its code."""
    net = Net(1, 28, 28, pad=2)
    net.conv(6, 5, 5, name="C1", pad=2)
    net.apply("sigmoid", statement="C1")
    net.apply("avg", (2, 2), name="S2")
    net.conv(16, 5, 5, name="C3")
    net.apply("sigmoid", statement="C3")
    net.apply("avg", (2, 2), name="S4")
    for name, units in (("F5", 120), ("F6", 84)):
        net.apply("dense", units, name=name)
        net.apply("sigmoid", statement=name)
    net.apply("dense", 10, name="F7")
    return net.graph("LeNet", documentation="The LeNet of the seed's code.")


def alexnet() -> Graph:
    """The seed's table of AlexNet."""
    net = Net(3, 227, 227)
    for name, filters, window, stride, pad in (
        ("C1", 96, 11, 4, 0),
        ("C3", 256, 5, 1, 2),
        ("C5", 384, 3, 1, 1),
        ("C6", 384, 3, 1, 1),
        ("C7", 256, 3, 1, 1),
    ):
        net.conv(filters, window, window, name=name, stride=stride, pad=pad)
        net.apply("relu", statement=name)
        if name in ("C1", "C3", "C7"):
            net.apply("max", (3, 3), stride=2, name=f"P{int(name[1]) + 1}")
    for name, units in (("F9", 4096), ("F10", 4096), ("F11", 1000)):
        net.apply("dense", units, name=name)
    return net.graph("AlexNet")
