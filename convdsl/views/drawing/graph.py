"""The graph style: a network as Graphviz text, a box per layer and a cluster per open block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import graphviz

from convdsl.graph import Scope, TensorType
from convdsl.views.drawing.boxes import Box
from convdsl.views.drawing.captions import counted, first_sentence, row_text, shown, tooltip
from convdsl.views.drawing.diagram import Diagram, Edge
from convdsl.views.drawing.text import width, wrapped
from convdsl.views.drawing.theme import LIGHT, Theme

FONT = "Helvetica"
LARGE, MEDIUM, SMALL = 14, 11, 9
CAPTION_WIDTH = 320
"""Captions are broken into lines of at most that width, in points."""
MOST_LINES = 8
"""A closed block lists at most as many of its layers."""
FEW = 12
"""Drawings of at most that many boxes have room to name their identities."""
NODE = {
    "fontname": FONT,
    "fontsize": str(MEDIUM),
    "shape": "box",
    "style": "rounded,filled",
    "penwidth": "0.8",
    "margin": "0.12,0.06",
    "height": "0.3",
}
EDGE = {"fontname": FONT, "fontsize": str(SMALL), "penwidth": "0.9", "arrowsize": "0.6"}
DIRECTIONS = {"down": "TB", "right": "LR"}


@dataclass(frozen=True)
class Amount:
    """A number by which boxes are coloured."""

    title: str
    of: Callable[[Box], float]
    shown: Callable[[float], str]


def _seen(box: Box) -> float:
    field = box.layers[-1].field
    return max(field.size, default=0) if field else 0


AMOUNTS: Mapping[str, Amount] = {
    "params": Amount("parameters", lambda box: box.parameters, counted),
    "macs": Amount("multiply-adds", lambda box: box.macs, counted),
    "rf": Amount("receptive field", _seen, lambda n: f"{n:.0f}"),
    "memory": Amount(
        "bytes of activations",
        lambda box: sum(layer.costs.activation_bytes for layer in box.layers),
        lambda n: f"{counted(n)}B" if n >= 1000 else f"{n:.0f} B",
    ),
}
"""What ``--show`` knows."""


def graph(
    diagrams: Sequence[Diagram],
    show: str | None = None,
    direction: str = "down",
    theme: Theme = LIGHT,
) -> str:
    """The text of a Graphviz graph of one network, or of several side by side.

    ``show`` colours boxes by one of `AMOUNTS` instead of by the kind of op.
    """
    names = " and ".join(diagram.summary.network for diagram in diagrams)
    source = graphviz.Digraph(
        name=names,
        graph_attr={
            "bgcolor": theme.ground,
            "fontname": FONT,
            "fontcolor": theme.ink,
            "rankdir": DIRECTIONS[direction],
            "nodesep": "0.3",
            "ranksep": "0.3",
            "pad": "0.15",
        },
        node_attr=NODE | {"fontcolor": theme.on_fill, "color": theme.ink},
        edge_attr=EDGE | {"fontcolor": theme.faint, "color": theme.ink},
    )
    amount = AMOUNTS[show] if show else None
    for index, diagram in enumerate(diagrams):
        prefix = f"{index}/" if len(diagrams) > 1 else ""
        network = _Network(diagram, prefix, amount, direction, theme)
        with source.subgraph(name=f"cluster_{index}") as own:
            summary = diagram.summary
            about = summary.documentation or summary.network
            own.attr(label=network.caption(), penwidth="0", tooltip=about)
            network.add_to(own)
    return str(source.source)


class _Network:
    """Adds one network to a drawing; ``prefix`` keeps its names apart from those of others."""

    def __init__(
        self, diagram: Diagram, prefix: str, amount: Amount | None, direction: str, theme: Theme
    ) -> None:
        self.diagram = diagram
        self.prefix = prefix
        self.amount = amount
        self.theme = theme
        self.leaves, self.arrives = ("e", "ne") if direction == "down" else ("n", "nw")
        self.largest = max((amount.of(b) for b in diagram.boxes), default=0) if amount else 0

    # -- the caption -------------------------------------------------------------------------
    def caption(self) -> str:
        """The network's name, the first sentence that its program says of it, its totals."""
        summary = self.diagram.summary
        lines = [_font(f"<b>{escape(summary.network)}</b>", LARGE)]
        sentence = wrapped(first_sentence(summary.documentation), MEDIUM, CAPTION_WIDTH)
        lines += [_font(escape(line), MEDIUM) for line in sentence]
        total = summary.total
        lines.append(_font(f"{total.parameters:,} parameters, {total.macs:,} MACs", SMALL + 1))
        if self.amount:
            return self._with_scale(lines, self.amount)
        return f"<{'<br/>'.join(lines)}>"

    def _with_scale(self, lines: Sequence[str], amount: Amount) -> str:
        """The caption over a strip of the colours that stand for amounts."""
        colours = self.theme.heat
        words = [f"{amount.title}: 0", *(" " for _ in colours[2:]), amount.shown(self.largest)]
        cells = "".join(
            f'<td bgcolor="{colour}">{_font(escape(word), SMALL, self.theme.on_fill)}</td>'
            for colour, word in zip(colours, words, strict=True)
        )
        span = f'<td colspan="{len(colours)}">'
        rows = "".join(f"<tr>{span}{line}</td></tr>" for line in lines)
        return f'<<table border="0" cellspacing="0">{rows}<tr>{cells}</tr></table>>'

    # -- nodes -------------------------------------------------------------------------------
    def add_to(self, source: graphviz.Digraph) -> None:
        summary = self.diagram.summary
        for name, type in summary.inputs:
            self._add_end(source, name, name, type)
        self._add_boxes(source, self.diagram.boxes, self.diagram.edges, ())
        for (name, type), layer in zip(summary.outputs, summary.sources, strict=True):
            box = self.diagram.box_of[layer]
            self._add_end(source, f"output {name}", "output" if name == layer else name, type)
            source.edge(self._id(box), self._id(f"output {name}"), weight="20")

    def _add_end(self, source: graphviz.Digraph, id: str, name: str, type: TensorType) -> None:
        lines = [_Line(name, bold=True), _Line(shown(type), SMALL)]
        source.node(
            self._id(id),
            f"<{'<br/>'.join(line.html() for line in lines)}>",
            fillcolor=self.theme.ground,
            fontcolor=self.theme.ink,
            style="rounded,filled,dashed",
            width=_inches(max(line.width for line in lines)),
        )

    def _add_boxes(
        self,
        source: graphviz.Digraph,
        boxes: Sequence[Box],
        edges: Sequence[Edge],
        path: tuple[Scope, ...],
    ) -> None:
        """What lies in an open block instance: boxes, and those deeper down in its clusters.

        Edges stand where both of their ends do, so that the cluster has room for their labels.
        """
        inner: dict[Scope | None, tuple[list[Box], list[Edge]]] = {None: ([], [])}
        for box in boxes:
            inner.setdefault(_below(box.path, path), ([], []))[0].append(box)
        for edge in edges:
            ends = {_below(self._path(end), path) for end in (edge.tail, edge.head)}
            inner[ends.pop() if len(ends) == 1 else None][1].append(edge)
        here, between = inner.pop(None)
        for box in here:
            self._add_box(source, box)
        for scope, (deeper, among) in inner.items():
            assert scope is not None
            below = (*path, scope)
            name = "/".join(part.name for part in below)
            with source.subgraph(name=f"cluster_{self._id(name)}") as cluster:
                cluster.attr(tooltip=name, **self._cluster(scope, len(path)))
                self._add_boxes(cluster, deeper, among, below)
        for edge in between:
            self._add_edge(source, edge)

    def _path(self, name: str) -> tuple[Scope, ...]:
        """The open block instances around a box; an input of the network lies in none."""
        return self.diagram.by_name[name].path if name in self.diagram.by_name else ()

    def _cluster(self, scope: Scope, depth: int) -> dict[str, str]:
        return {
            "label": _scope_label(scope),
            "style": "rounded,filled",
            "fillcolor": self.theme.panel if depth % 2 == 0 else self.theme.ground,
            "color": self.theme.faint,
            "fontcolor": self.theme.faint,
            "fontsize": str(SMALL + 1),
            "penwidth": "0.6",
            "labeljust": "l",
        }

    def _add_box(self, source: graphviz.Digraph, box: Box) -> None:
        lines = _lines(box, self.diagram.shortcuts)
        if self.amount:
            lines.append(_Line(self.amount.shown(self.amount.of(box)), SMALL))
        more = {"style": "filled", "shape": "box"} if box.scope or box.copies > 1 else {}
        if box.symbol:
            more = {"margin": "0.08,0.01", "height": "0.24"}
        source.node(
            self._id(box.name),
            f"<{'<br/>'.join(line.html() for line in lines)}>",
            tooltip=tooltip(box),
            fillcolor=self._fill(box),
            # What Graphviz takes for Helvetica may be narrower.
            width=_inches(max(self._room(box), *(line.width for line in lines))),
            **({"peripheries": "2"} if box.copies > 1 else {}),
            **more,
        )

    def _room(self, box: Box) -> float:
        """The width that labels on the arrows from a box need within a cluster around it.

        Graphviz puts them to the right of the arrow, and does not make clusters wider for them.
        """
        if not box.path or self.leaves != "e" or box.name not in self.diagram.users:
            return 0
        return 2 * width(shown(box.output), SMALL) * (box.output not in self._before(box))

    def _before(self, box: Box) -> tuple[TensorType, ...]:
        return self.diagram.types_into[box.name][:1]

    def _fill(self, box: Box) -> str:
        if self.amount:
            return self.theme.amount(self.amount.of(box), self.largest)
        return self.theme.fill(box.category)

    # -- edges -------------------------------------------------------------------------------
    def _add_edge(self, source: graphviz.Digraph, edge: Edge) -> None:
        more = {"weight": "20"}
        if label := self._label(edge):
            more["label"] = f" {label} "
        if edge.kind != "flow":
            more["weight"] = "1"
        if edge.kind == "projection":
            more |= {"style": "dotted", "penwidth": "1.6"}
        elif edge.kind == "skip" and self._goes_round(edge):
            more |= {"tailport": self.leaves, "headport": self.arrives}
        source.edge(self._id(edge.tail), self._id(edge.head), **more)

    def _label(self, edge: Edge) -> str:
        """The shape, where the edge is the nearest to carry a new one."""
        tail = self.diagram.by_name.get(edge.tail)
        nearest = edge.head == self.diagram.nearest(edge.tail)
        if tail and nearest and edge.type not in self._before(tail):
            return shown(edge.type)
        few = len(self.diagram.boxes) <= FEW
        skips = edge.kind == "skip" and self._goes_round(edge)
        return "identity" if few and skips and self.diagram.by_name[edge.head].symbol else ""

    def _goes_round(self, edge: Edge) -> bool:
        """Whether a skip leads past the side of what lies between its ends."""
        return len(self.diagram.users[edge.tail]) > 1 and len(self.diagram.sources[edge.head]) > 1

    def _id(self, name: str) -> str:
        # Graphviz reads what follows a colon as a port.
        return self.prefix + name.replace(":", ".")


# -- labels ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """A line of a label."""

    text: str
    size: int = MEDIUM
    bold: bool = False

    @property
    def width(self) -> float:
        return width(self.text, self.size, self.bold)

    def html(self) -> str:
        text = f"<b>{escape(self.text)}</b>" if self.bold else escape(self.text)
        return text if self.size == MEDIUM else _font(text, self.size)


def _lines(box: Box, shortcuts: frozenset[str]) -> list[_Line]:
    """What stands in a box; ``shortcuts`` are layers to be marked as such."""
    if box.is_row:
        return _row_lines(box)
    title = box.scope.block if box.scope else "repeated"
    lines = []
    if box.scope and box.copies == 1 and title not in box.scope.name:
        lines.append(_Line(box.scope.name, bold=True))
    lines.append(_Line(f"{title} × {box.copies}" if box.copies > 1 else title, bold=not lines))
    inside = [
        f"shortcut: {row_text(row)}" if row[0].name in shortcuts else row_text(row)
        for row in box.rows
    ]
    if len(inside) > MOST_LINES:
        inside = [*inside[: MOST_LINES - 1], f"and {len(inside) - MOST_LINES + 1} more"]
    return lines + [_Line(text, SMALL) for text in inside]


def _row_lines(box: Box) -> list[_Line]:
    (row,) = box.rows
    head, *joined = row
    if head.caption.symbol:
        return [_Line(row_text(row), bold=True)]
    rest = ", ".join(layer.caption.name for layer in joined)
    lines = [_Line(box.label, bold=True)] if box.label else []
    lines += [_Line(str(head.caption))]
    return [*lines, _Line(rest, SMALL)] if rest else lines


def _below(path: tuple[Scope, ...], above: tuple[Scope, ...]) -> Scope | None:
    """The next block instance on a path, where it leads further down."""
    return path[len(above)] if len(path) > len(above) else None


def _scope_label(scope: Scope) -> str:
    return scope.name if scope.block in scope.name else f"{scope.name}: {scope.block}"


def _font(text: str, size: int, colour: str | None = None) -> str:
    coloured = f' color="{colour}"' if colour else ""
    return f'<font point-size="{size}"{coloured}>{text}</font>'


def _inches(points: float) -> str:
    """The width of a node around a text of that width."""
    return f"{points / 72 + 0.22:.3f}"
