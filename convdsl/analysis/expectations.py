"""Holds a program's `expect` clauses against its graph and explains what differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from convdsl.analysis import arithmetic, conventions
from convdsl.analysis.costs import Analysis, bytes_of, elements
from convdsl.analysis.precision import agrees, amount
from convdsl.diagnostics import Diagnostic, Note
from convdsl.graph import Expectation, Graph, Node, TensorType, Value, extents
from convdsl.graph.types import Shape

CODES = {
    "shape": "E301",
    "params": "E302",
    "macs": "E303",
    "flops": "E304",
    "rf": "E305",
    "memory": "E306",
}
UNITS = {
    "params": "parameters",
    "macs": "multiply-adds",
    "flops": "floating-point operations",
    "memory": "bytes of activations",
}


def verify(graph: Graph, expectations: Iterable[Expectation]) -> tuple[Diagnostic, ...]:
    """A diagnostic for every expectation that does not hold."""
    analysis = Analysis(graph)
    by_name = {node.name: node for node in graph.nodes}
    found: list[Diagnostic] = []
    for expectation in expectations:
        nodes = tuple(by_name[name] for name in expectation.nodes if name in by_name)
        diagnostic = Claim(analysis, expectation, nodes).verdict()
        if diagnostic is None:
            continue
        if diagnostic.code == CODES["shape"] and CODES["shape"] in {d.code for d in found}:
            # Most likely a consequence of the first wrong shape, and not to be mended here.
            diagnostic = replace(diagnostic, help=())
        found.append(diagnostic)
    return tuple(found)


@dataclass(frozen=True)
class Claim:
    """An expectation with what it is about."""

    analysis: Analysis
    expectation: Expectation
    nodes: tuple[Node, ...]

    @property
    def about_network(self) -> bool:
        return self.expectation.value is None and not self.nodes

    @property
    def subject(self) -> str:
        if self.about_network:
            return "this network"
        label = self.nodes[0].statement if self.nodes else ""
        return f"`{label}`" if label else "this statement"

    @property
    def value(self) -> Value | None:
        """The value whose shape and receptive field are claimed, where there is a single one."""
        if self.expectation.value is not None:
            return self.expectation.value
        outputs = self.analysis.graph.outputs
        return outputs[0][1] if len(outputs) == 1 else None

    def verdict(self) -> Diagnostic | None:
        match self.expectation.quantity:
            case "shape":
                return self._shape()
            case "rf":
                return self._receptive_field()
        return self._count()

    # -- shapes ------------------------------------------------------------------------------
    def _shape(self) -> Diagnostic | None:
        expected = self.expectation.expected
        assert isinstance(expected, tuple)
        if self.value is None:
            count = len(self.analysis.graph.outputs)
            return self._diagnostic(f"expected one output, this network has {count}")
        actual = self.value.type
        if actual.shape == expected:
            return None
        wanted = TensorType(expected)
        return self._diagnostic(
            f"expected {wanted}, {self.subject} gives {actual}",
            arithmetic.sizes(self.nodes),
            conventions.for_shape(self.nodes, expected),
        )

    # -- receptive fields --------------------------------------------------------------------
    def _receptive_field(self) -> Diagnostic | None:
        actual = self._seen()
        expected = self.expectation.expected
        wanted = expected if isinstance(expected, tuple) else (expected,) * len(actual)
        if len(wanted) == len(actual) and all(
            agrees(self.expectation, claim, size)
            for claim, size in zip(wanted, actual, strict=True)
        ):
            return None
        shown = f"a receptive field of {_field(actual)}" if actual else "no receptive field"
        written = extents(expected) if isinstance(expected, tuple) else self.expectation.written
        return self._diagnostic(
            f"expected a receptive field of {written}, {self.subject} has {shown}",
            arithmetic.field(self.analysis, self.value) if self.value else "",
        )

    def _seen(self) -> Shape:
        if self.about_network:
            return self.analysis.receptive_field
        field = self.analysis.field(self.value) if self.value else None
        return field.size if field else ()

    # -- counts ------------------------------------------------------------------------------
    def _count(self) -> Diagnostic | None:
        expectation = self.expectation
        assert isinstance(expectation.expected, int | float)
        actual = self._counted()
        if agrees(expectation, expectation.expected, actual):
            return None
        about = "about " if expectation.relation == "~" else ""
        unit = UNITS[expectation.quantity]
        wanted = expectation.written if about else amount(expectation.expected)
        nodes = self.nodes or self.analysis.graph.nodes
        return self._diagnostic(
            f"expected {about}{wanted} {unit}, {self.subject} has {amount(actual)}",
            arithmetic.count(self.analysis, expectation.quantity, nodes),
            conventions.for_count(self.analysis, expectation, self.nodes),
        )

    def _counted(self) -> int:
        quantity, analysis = self.expectation.quantity, self.analysis
        if quantity == "memory":
            if self.about_network:
                return analysis.peak_activation_bytes
            return bytes_of(self.value) if self.value else 0
        if self.about_network:
            total = analysis.total
            return {"params": total.parameters, "macs": total.macs, "flops": total.flops}[quantity]
        if quantity == "params":
            return elements(v for n in self.nodes for v in n.weights if v.role == "parameter")
        costs = [analysis.costs[node] for node in self.nodes]
        return sum(c.macs if quantity == "macs" else c.flops for c in costs)

    def _diagnostic(self, message: str, note: str = "", help: Sequence[str] = ()) -> Diagnostic:
        return Diagnostic(
            CODES[self.expectation.quantity],
            message,
            self.expectation.span,
            notes=(Note(note),) if note else (),
            help=tuple(help),
        )


def _field(sizes: Shape) -> str:
    """A receptive field as a program claims it: one number where the axes agree."""
    return str(sizes[0]) if len(set(sizes)) == 1 else extents(sizes)
