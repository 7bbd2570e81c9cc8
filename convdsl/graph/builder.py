"""Builds graphs node by node, inferring the type of every value as it goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from convdsl.diagnostics import Span
from convdsl.graph.graph import Graph, Initialiser, Node, Role, Scope, Value, Variable
from convdsl.graph.types import TensorType


class Builder:
    """Collects variables and nodes; ``finish`` makes the graph.

    Names of nodes are unique: a name that is taken gets the next free number after an underscore.
    Nodes without a name are called by their op, behind ``prefix``.
    """

    prefix: str = ""

    def __init__(self, graph: Graph | None = None) -> None:
        self.variables: list[Variable] = list(graph.variables) if graph else []
        self.nodes: list[Node] = list(graph.nodes) if graph else []
        self.assignments: list[tuple[Variable, Value]] = list(graph.assignments) if graph else []
        self._names: set[str] = {n.name for n in self.nodes} | {v.name for v in self.variables}
        self._next: dict[str, int] = {}

    def variable(
        self,
        name: str,
        type: TensorType,
        role: Role,
        initialiser: Initialiser | None = None,
        span: Span | None = None,
        attributes: tuple[tuple[str, Any], ...] = (),
    ) -> Variable:
        """A new variable."""
        made = Variable(type, self.unique(name), role, initialiser, span, attributes)
        self.variables.append(made)
        return made

    def add(
        self,
        op: Any,
        *inputs: Value,
        name: str = "",
        path: tuple[Scope, ...] = (),
        span: Span | None = None,
        documentation: str = "",
    ) -> Value:
        """Apply an op that has one result and return it.

        Raises whatever the op raises when the inputs do not fit it.
        """
        (value,) = self.apply(
            op, inputs, name=name, path=path, span=span, documentation=documentation
        ).outputs
        return value

    def apply(
        self,
        op: Any,
        inputs: Sequence[Value],
        *,
        name: str = "",
        path: tuple[Scope, ...] = (),
        span: Span | None = None,
        documentation: str = "",
        statement: str = "",
    ) -> Node:
        """Apply an op and return the node, with as many results as the op has."""
        types = op.infer(*(v.type for v in inputs))
        name = self.unique(name or self.prefix + op.kind)
        outputs = tuple(
            Value(t, name if index == 0 else f"{name}:{index}") for index, t in enumerate(types)
        )
        node = Node(op, tuple(inputs), outputs, name, path, span, documentation, statement)
        self.nodes.append(node)
        return node

    def unique(self, name: str) -> str:
        """``name``, or with the next free number when it is taken; the result is then taken."""
        candidate, count = name, self._next.get(name, 1)
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._next[name] = count
        self._names.add(candidate)
        return candidate

    def assign(self, variable: Value, value: Value) -> None:
        """Let a variable become a value when a step ends."""
        assert isinstance(variable, Variable)
        self.assignments.append((variable, value))

    def release(self, name: str) -> None:
        """Make a name free again, for a node that is about to be replaced."""
        self._names.discard(name)
        self._next.pop(name, None)

    def finish(
        self, name: str, outputs: Iterable[tuple[str, Value]], documentation: str = "", **more: Any
    ) -> Graph:
        """The graph of what was collected."""
        return Graph(
            name, tuple(self.variables), tuple(self.nodes), tuple(outputs), documentation, **more
        )
