"""Values, nodes and graphs: immutable, in static single assignment, in topological order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

from convdsl.diagnostics import Span
from convdsl.graph.types import Shape, TensorType


class Operation(Protocol):
    """What a graph needs to know of an op; the ops themselves say the rest."""

    @property
    def kind(self) -> str:
        """The op's name in the language."""

    @property
    def arity(self) -> int | None:
        """How many inputs are data, before the weights; None when all are."""

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The types of the results for the types of all inputs, weights included."""

    def notation(self) -> str:
        """The op with its attributes as it is written in the language."""


@dataclass(frozen=True)
class Initialiser:
    """How a variable gets its first values.

    ``scheme``: ``zeros``, ``ones``, ``constant``, ``uniform`` (on [-bound, bound]), ``signs`` (±1),
    ``orthogonal`` (rows, or columns where there are fewer of them, of length 1) or ``normal``
    (mean 0); ``amount`` is the constant, the bound or the standard deviation.
    """

    scheme: Literal["zeros", "ones", "constant", "uniform", "normal", "signs", "orthogonal"]
    amount: float = 0.0


Role = Literal["input", "parameter", "buffer", "target", "state"]


@dataclass(frozen=True, eq=False)
class Value:
    """The result of a node, or a variable; compared by identity."""

    type: TensorType
    name: str

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(frozen=True, eq=False, repr=False)
class Variable(Value):
    """A value that no node computes.

    Roles: ``input`` (given at each call), ``parameter`` (learned), ``buffer`` (kept statistics,
    not learned), ``target`` (what a loss compares with), ``state`` (kept by an optimiser, or the
    seed and step of random ops).
    """

    role: Role = "input"
    initialiser: Initialiser | None = None
    span: Span | None = None
    attributes: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Scope:
    """One level of a node's path: an instance of a block."""

    name: str
    block: str


@dataclass(frozen=True, eq=False)
class Node:
    """An application of an op. Inputs are the data first, then the op's weights."""

    op: Any
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    name: str
    path: tuple[Scope, ...] = ()
    span: Span | None = None
    documentation: str = ""
    statement: str = ""
    """The label of the statement it came from, or the name of the statement's first node."""

    @property
    def output(self) -> Value:
        """The only result; for nodes that have one."""
        (value,) = self.outputs
        return value

    @property
    def data(self) -> tuple[Value, ...]:
        """The inputs that are not the op's own weights."""
        return self.inputs if self.op.arity is None else self.inputs[: self.op.arity]

    @property
    def weights(self) -> tuple[Variable, ...]:
        """The parameters and buffers that the op owns."""
        owned = self.inputs[len(self.data) :]
        assert all(isinstance(v, Variable) for v in owned)
        return owned  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"<{self.name}: {self.op.kind}>"


@dataclass(frozen=True, eq=False)
class Graph:
    """A network: its variables in definition order, its nodes in topological order, its outputs."""

    name: str
    variables: tuple[Variable, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[tuple[str, Value], ...]
    documentation: str = ""
    span: Span | None = None
    assignments: tuple[tuple[Variable, Value], ...] = ()
    """What variables become after a step: optimiser updates and running statistics."""
    labels: tuple[str, ...] = field(default=())
    """Class labels for what the network classifies, where the source gives them."""

    def role(self, *roles: Role) -> tuple[Variable, ...]:
        """The variables with one of these roles, in definition order."""
        return tuple(v for v in self.variables if v.role in roles)

    @property
    def inputs(self) -> tuple[Variable, ...]:
        return self.role("input")

    @property
    def parameters(self) -> tuple[Variable, ...]:
        return self.role("parameter")

    @property
    def buffers(self) -> tuple[Variable, ...]:
        return self.role("buffer")

    @cached_property
    def producers(self) -> dict[Value, Node]:
        """Which node computes a value; variables have none."""
        return {value: node for node in self.nodes for value in node.outputs}

    @cached_property
    def users(self) -> dict[Value, tuple[Node, ...]]:
        """Which nodes read a value."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                found.setdefault(value, []).append(node)
        return {value: tuple(nodes) for value, nodes in found.items()}

    def replace(self, **changes: Any) -> Graph:
        """This graph with some fields changed."""
        return replace(self, **changes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def live(self) -> Graph:
        """This graph without the nodes that no output depends on."""
        needed = {value for _, value in (*self.outputs, *self.assignments)}
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if any(value in needed for value in node.outputs):
                kept.append(node)
                needed.update(node.inputs)
        return self.replace(nodes=tuple(reversed(kept)))


def verify(graph: Graph) -> None:
    """Raise AssertionError where a graph breaks its own rules; run between passes in tests."""
    known: set[Value] = set(graph.variables)
    names: set[str] = set()
    for node in graph.nodes:
        for value in node.inputs:
            assert value in known, f"{node.name} reads {value.name} before it is computed"
        inferred = node.op.infer(*(v.type for v in node.inputs))
        actual = tuple(v.type for v in node.outputs)
        assert inferred == actual, f"{node.name} has type {actual}, its op says {inferred}"
        assert node.name not in names, f"two nodes are called {node.name}"
        names.add(node.name)
        known.update(node.outputs)
    for name, value in graph.outputs:
        assert value in known, f"output {name} is not computed"


__all__ = [
    "Graph",
    "Initialiser",
    "Node",
    "Operation",
    "Role",
    "Scope",
    "Shape",
    "Value",
    "Variable",
    "verify",
]
