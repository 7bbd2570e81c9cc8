"""Draws networks as Graphviz graphs: a box per layer, block instances as clusters."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from html import escape

import graphviz

from convdsl.graph import Graph, Scope, TensorType
from convdsl.views.rendering import render
from convdsl.views.summary import Layer, Summary, rows, summarise

PALETTE: Mapping[str, str] = {
    "convolution": "#77AADD",
    "pooling": "#EE8866",
    "dense": "#BBCC33",
    "activation": "#EEDD88",
    "normalisation": "#44BB99",
    "merge": "#FFAABB",
    "shape": "#99DDFF",
    "loss": "#AAAA00",
}
"""Fill colours by kind of op: Paul Tol's *light* scheme, made for black text on filled cells and
distinct to colour-blind people."""
OTHER = "#DDDDDD"

FONT = "Helvetica"
GRAPH = {"fontname": FONT, "fontsize": "12", "nodesep": "0.35", "ranksep": "0.35"}
NODE = {
    "fontname": FONT,
    "fontsize": "11",
    "shape": "box",
    "style": "rounded,filled",
    "color": "#444444",
    "penwidth": "0.8",
    "margin": "0.12,0.06",
    "height": "0.3",
}
EDGE = {
    "fontname": FONT,
    "fontsize": "9",
    "fontcolor": "#555555",
    "color": "#444444",
    "penwidth": "0.8",
    "arrowsize": "0.6",
}
CLUSTER = {
    "style": "rounded",
    "color": "#999999",
    "fontcolor": "#555555",
    "fontsize": "10",
    "penwidth": "0.8",
    "labeljust": "l",
}

CAPTION_WIDTH = 60
"""Captions are broken into lines of at most as many characters."""

Row = Sequence[Layer]


def drawing(*graphs: Graph) -> str:
    """The text of a Graphviz graph of one network, or of several side by side."""
    source = graphviz.Digraph(graph_attr=GRAPH, node_attr=NODE, edge_attr=EDGE)
    for index, graph in enumerate(graphs):
        network = _Network(summarise(graph), f"{index}/" if len(graphs) > 1 else "")
        with source.subgraph(name=f"cluster_{index}") as own:
            own.attr(
                label=network.caption(), penwidth="0", tooltip=graph.documentation or graph.name
            )
            network.add_to(own)
    return str(source.source)


def svg(graph: Graph) -> str:
    """A network as SVG. Raises CompileError E521 where there is no Graphviz."""
    return render(drawing(graph), "svg").decode()


class _Network:
    """Adds one network to a drawing; ``prefix`` keeps its names apart from those of others."""

    def __init__(self, summary: Summary, prefix: str) -> None:
        self.summary = summary
        self.prefix = prefix
        self.rows: list[Row] = [tuple(row) for row in rows(summary.layers)]
        self.box_of = {layer.name: row[0].name for row in self.rows for layer in row}
        self.types = dict(summary.inputs) | {layer.name: layer.output for layer in summary.layers}

    def caption(self) -> str:
        """The network's name, the first sentence that its program says of it, and its totals."""
        summary = self.summary
        lines = [f"<b>{escape(summary.network)}</b>"]
        sentence = re.split(r"(?<=\.)\s|\n\n", summary.documentation)[0]
        lines += [escape(line) for line in textwrap.wrap(sentence, CAPTION_WIDTH)]
        total = summary.total
        lines.append(_small(f"{total.parameters:,} parameters, {total.macs:,} MACs"))
        return f"<{'<br/>'.join(lines)}>"

    def add_to(self, source: graphviz.Digraph) -> None:
        for name, type in self.summary.inputs:
            self._add_end(source, name, name, type)
        self._add_rows(source, self.rows, ())
        for row in self.rows:
            for name in dict.fromkeys(row[0].inputs):
                # The path of first inputs is drawn straight, the others go round it.
                self._add_edge(source, name, row[0].name, "8" if name == row[0].inputs[0] else "1")
        for (name, type), layer in zip(self.summary.outputs, self.summary.sources, strict=True):
            shown = "output" if name == layer else name
            self._add_end(source, f"output {name}", shown, type)
            self._add_edge(source, layer, f"output {name}")

    def _add_end(self, source: graphviz.Digraph, id: str, name: str, type: TensorType) -> None:
        label = f"<<b>{escape(name)}</b> {type}>"
        source.node(self._id(id), label, fillcolor="white", style="rounded,filled,dashed")

    def _add_rows(
        self, source: graphviz.Digraph, members: Sequence[Row], path: tuple[Scope, ...]
    ) -> None:
        """The boxes of rows that lie in a block instance, those deeper down in its clusters."""
        depth = len(path)
        inner: dict[Scope, list[Row]] = {}
        for row in members:
            if len(row[0].path) > depth:
                inner.setdefault(row[0].path[depth], []).append(row)
            else:
                self._add_row(source, row)
        for scope, deeper in inner.items():
            below = (*path, scope)
            name = "/".join(part.name for part in below)
            with source.subgraph(name=f"cluster_{self._id(name)}") as cluster:
                cluster.attr(label=_scope_label(scope), tooltip=name, **CLUSTER)
                self._add_rows(cluster, deeper, below)

    def _add_row(self, source: graphviz.Digraph, row: Row) -> None:
        source.node(
            self._id(row[0].name),
            _row_label(row),
            tooltip=_tooltip(row),
            fillcolor=PALETTE.get(row[0].category, OTHER),
        )

    def _add_edge(self, source: graphviz.Digraph, tail: str, head: str, weight: str = "8") -> None:
        box = self.box_of.get(tail, tail)
        source.edge(self._id(box), self._id(head), label=f" {self.types[tail]}", weight=weight)

    def _id(self, name: str) -> str:
        # Graphviz reads what follows a colon as a port.
        return self.prefix + name.replace(":", ".")


def _row_label(row: Row) -> str:
    head, *rest = row
    lines = [f"<b>{escape(head.name)}</b>"] if _is_named(head) else []
    lines.append(escape(head.brief))
    if rest:
        lines.append(_small(", ".join(layer.brief for layer in rest)))
    return f"<{'<br/>'.join(lines)}>"


def _is_named(layer: Layer) -> bool:
    """Whether a person named the layer, rather than the compiler after its op."""
    return not layer.name.rpartition(".")[2].startswith(layer.op)


def _scope_label(scope: Scope) -> str:
    return scope.name if scope.block in scope.name else f"{scope.name}: {scope.block}"


def _tooltip(row: Row) -> str:
    """What the program says about a layer, then its numbers."""
    parameters = sum(layer.costs.parameters for layer in row)
    macs = sum(layer.costs.macs for layer in row)
    lines = [layer.documentation for layer in row if layer.documentation]
    lines.append(f"{row[0].name}: {' -> '.join(layer.brief for layer in row)}")
    lines.append(f"{parameters:,} parameters, {macs:,} MACs")
    return "\n".join(lines)


def _small(text: str) -> str:
    return f'<font point-size="9" color="#333333">{escape(text)}</font>'
