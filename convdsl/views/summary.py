"""The paper's table of a network as a value: layers, shapes, parameters, costs, totals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from convdsl.analysis import Analysis, Connectivity, Costs, Field, connectivity
from convdsl.analysis.arithmetic import weights
from convdsl.graph import Graph, Node, Scope, TensorType, Value, extents
from convdsl.graph.types import Shape
from convdsl.ops import Caption, Window
from convdsl.views.table import Column, markdown_table, text_table


@dataclass(frozen=True)
class Layer:
    """One node of the network with its numbers."""

    name: str
    op: str
    category: str
    """The kind of op, for drawings: convolution, pooling, dense, …"""
    notation: str
    """The op as the paper, and the language, write it."""
    path: tuple[Scope, ...]
    """The block instances it lies in, outermost first."""
    inputs: tuple[str, ...]
    """The layers or network inputs that it reads."""
    output: TensorType
    costs: Costs
    arithmetic: str
    """How its parameters come about: ``5·5·1·6 + 6``."""
    field: Field | None
    """Its receptive field on the first input that it depends on."""
    joins_row: bool
    """Whether it reads as part of the layer before: an activation, or the like."""
    why: Connectivity | None
    documentation: str
    caption: Caption
    """What figures say of it."""
    window: Window | None
    """What one element of the output sees of the input; None where it is that element alone."""

    @property
    def brief(self) -> str:
        """The notation, long strings such as connection tables left out."""
        return re.sub(r'"[^"]{16,}"', '"..."', self.notation)

    def as_json(self, why: bool = False) -> dict[str, object]:
        """An entry of ``layers`` in ``summary --format json``."""
        entry: dict[str, object] = {
            "name": self.name,
            "op": self.op,
            "notation": self.notation,
            "path": [scope.name for scope in self.path],
            "inputs": list(self.inputs),
            "output": list(self.output.shape),
            "params": self.costs.parameters,
            "buffers": self.costs.buffers,
            "macs": self.costs.macs,
            "flops": self.costs.flops,
            "activation_bytes": self.costs.activation_bytes,
            "receptive_field": list(self.field.size) if self.field else [],
            "stride": _numbers(self.field.stride) if self.field else [],
            "start": list(self.field.start) if self.field else [],
            "receptive_field_exact": self.field.exact if self.field else True,
        }
        if why and self.why is not None:
            entry["why"] = {
                "dense_weights": self.why.dense,
                "sparse_weights": self.why.sparse,
                "shared_weights": self.why.shared,
                "saved_by_sparsity": round(self.why.saved_by_sparsity, 3),
                "saved_by_sharing": round(self.why.saved_by_sharing, 3),
            }
        return entry


@dataclass(frozen=True)
class Summary:
    """The numbers of a network, per layer and in total; its text is the table."""

    network: str
    documentation: str
    batch: int
    inputs: tuple[tuple[str, TensorType], ...]
    outputs: tuple[tuple[str, TensorType], ...]
    sources: tuple[str, ...]
    """For every output, the layer or the input that it is."""
    layers: tuple[Layer, ...]
    total: Costs
    peak_activation_bytes: int
    receptive_field: Shape

    def as_json(self, why: bool = False) -> dict[str, object]:
        """The form that ``summary --format json`` prints; shapes leave out the batch."""
        return {
            "network": self.network,
            "documentation": self.documentation,
            "batch": self.batch,
            "input": [[name, list(type.shape)] for name, type in self.inputs],
            "output": [[name, list(type.shape)] for name, type in self.outputs],
            "params": self.total.parameters,
            "trainable_params": self.total.parameters,
            "buffers": self.total.buffers,
            "macs": self.total.macs,
            "flops": self.total.flops,
            "activation_bytes": self.total.activation_bytes,
            "peak_activation_bytes": self.peak_activation_bytes,
            "receptive_field": list(self.receptive_field),
            "layers": [layer.as_json(why) for layer in self.layers],
        }

    def text(self, why: bool = False) -> str:
        """The table with aligned columns, for a terminal."""
        parts = [self._title(), text_table(COLUMNS, list(self._rows())), self._footer()]
        if why:
            parts += [WHY, text_table(WHY_COLUMNS, self._why_rows())]
        return "\n\n".join(part for part in parts if part)

    def markdown(self, why: bool = False) -> str:
        """The table in Markdown, as the seed writes it."""
        parts = [f"## {self.network}", self.documentation]
        parts += [markdown_table(COLUMNS, list(self._rows(arithmetic=True))), self._footer()]
        if why:
            parts += ["### Why convolutions", WHY, markdown_table(WHY_COLUMNS, self._why_rows())]
        return "\n\n".join(part for part in parts if part)

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def _title(self) -> str:
        """The name, and the first paragraph of what the program says of the network."""
        about = self.documentation.split("\n\n")[0]
        return f"{self.network}: {about}" if about else self.network

    def _rows(self, arithmetic: bool = False) -> Iterator[tuple[str, ...] | None]:
        for name, type in self.inputs:
            yield (name, "input", str(type), "", "", "")
        before = self.inputs[-1][0] if self.inputs else ""
        heads: dict[str, str] = {}
        for row in rows(self.layers):
            # What the row before computes needs no mention; what else is read is called by its row.
            others = () if row[0].inputs == (before,) else row[0].inputs
            yield _row(row, [heads.get(name, name) for name in others], arithmetic)
            before = row[-1].name
            heads.update({layer.name: row[0].name for layer in row})
        yield None
        field = extents(self.receptive_field)
        yield ("total", "", "", _count(self.total.parameters), _count(self.total.macs), field)

    def _footer(self) -> str:
        total = self.total
        of = f" for a batch of {self.batch}" if self.batch > 1 else ""
        counted = f"{total.parameters:,} parameters"
        if total.buffers:
            counted += f" and {total.buffers:,} buffer elements"
        return (
            f"{counted}; {total.macs:,} multiply-adds and {total.flops:,} floating-point "
            f"operations{of};\nactivations {_bytes(total.activation_bytes)}, "
            f"at most {_bytes(self.peak_activation_bytes)} at once."
        )

    def _why_rows(self) -> list[tuple[str, ...] | None]:
        return [
            (
                layer.name,
                f"{layer.why.dense:,}",
                f"{layer.why.sparse:,}",
                f"{layer.why.shared:,}",
                _times(layer.why.saved_by_sparsity),
                _times(layer.why.saved_by_sharing),
            )
            for layer in self.layers
            if layer.why is not None
        ]


COLUMNS = (
    Column("layer"),
    Column("op"),
    Column("output"),
    Column("parameters", right=True),
    Column("MACs", right=True),
    Column("receptive field", right=True),
)
WHY_COLUMNS = (
    Column("layer"),
    Column("dense", right=True),
    Column("sparse", right=True),
    Column("shared", right=True),
    Column("sparse connectivity saves", right=True),
    Column("parameter sharing saves", right=True),
)
WHY = (
    "Why convolutions: the weights the same map would need as a dense layer, with every output\n"
    "connected to the inputs under its window alone, and with one window shared by all positions."
)


def summarise(graph: Graph, batch: int = 1) -> Summary:
    """The summary of a network; costs are for a batch of that many."""
    analysis = Analysis(graph, batch)
    return Summary(
        graph.name,
        graph.documentation,
        batch,
        tuple((v.name, v.type) for v in graph.inputs),
        tuple((name, value.type) for name, value in graph.outputs),
        tuple(_source(graph, value) for _, value in graph.outputs),
        tuple(_layer(analysis, node) for node in graph.nodes),
        analysis.total,
        analysis.peak_activation_bytes,
        analysis.receptive_field,
    )


def _layer(analysis: Analysis, node: Node) -> Layer:
    types = [value.type for value in node.data]
    return Layer(
        node.name,
        node.op.kind,
        node.op.category,
        node.op.notation(),
        node.path,
        tuple(_source(analysis.graph, value) for value in node.data),
        node.outputs[0].type,
        analysis.costs[node],
        weights(node.weights),
        analysis.field(node.outputs[0]),
        _joins_row(analysis.graph, node),
        connectivity(node),
        node.documentation,
        node.op.caption(*types),
        node.op.sees(*types),
    )


def _source(graph: Graph, value: Value) -> str:
    """The name of the layer that computes a value, or of the input that it is."""
    producer = graph.producers.get(value)
    return producer.name if producer else value.name


def _joins_row(graph: Graph, node: Node) -> bool:
    """Whether a node is shown with the layer before: it works element by element on that alone.

    With weights of its own (a normalisation) it must belong to the same statement.
    """
    if len(node.data) != 1 or node.op.sees(node.data[0].type) is not None:
        return False
    (x,) = node.data
    before = graph.producers.get(x)
    if before is None or before.path != node.path or len(graph.users[x]) != 1:
        return False
    if x.type != node.outputs[0].type:
        return False
    return not node.weights or before.statement == node.statement


def rows(layers: Sequence[Layer]) -> list[list[Layer]]:
    """The layers grouped into rows of the table: each with what joins it."""
    grouped: list[list[Layer]] = []
    for layer in layers:
        if layer.joins_row and grouped and grouped[-1][-1].name in layer.inputs:
            grouped[-1].append(layer)
        else:
            grouped.append([layer])
    return grouped


def _row(row: Sequence[Layer], sources: Sequence[str], arithmetic: bool) -> tuple[str, ...]:
    notation = " -> ".join(layer.brief for layer in row)
    if sources:
        notation += f"  <- {', '.join(sources)}"
    parameters = sum(layer.costs.parameters for layer in row)
    shown = _count(parameters)
    if arithmetic and parameters:
        terms = " + ".join(layer.arithmetic for layer in row if layer.arithmetic)
        shown = f"{terms} = {shown}"
    return (
        row[0].name,
        notation,
        str(row[-1].output),
        shown,
        _count(sum(layer.costs.macs for layer in row)),
        _seen(row[-1].field),
    )


def _numbers(numbers: Sequence[int | Fraction]) -> list[int | float]:
    """Numbers as JSON has them."""
    return [n if isinstance(n, int) else float(n) for n in numbers]


def _seen(field: Field | None) -> str:
    if field is None:
        return ""
    return ("" if field.exact else "at most ") + extents(field.size)


def _count(number: int) -> str:
    return f"{number:,}" if number else "0"


def _times(ratio: float) -> str:
    """A saving, to three digits or to the unit."""
    return f"{ratio:,.0f}×" if ratio >= 100 else f"{ratio:.3g}×"


def _bytes(number: int) -> str:
    """A size with a decimal unit and three digits."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} bytes"
