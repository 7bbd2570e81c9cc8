"""Drawings of networks: what `convdsl draw` and notebooks show.

A `Diagram` says what there is to draw; a style makes Graphviz text or SVG of it; `rendering` makes
files of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convdsl.diagnostics import problem
from convdsl.graph import Graph
from convdsl.views.drawing import blocks, volumes
from convdsl.views.drawing.diagram import Diagram, diagram
from convdsl.views.drawing.excerpt import excerpt
from convdsl.views.drawing.graph import AMOUNTS, DIRECTIONS, graph
from convdsl.views.drawing.rendering import converted, laid_out, side_by_side
from convdsl.views.drawing.theme import THEMES
from convdsl.views.summary import Summary, summarise

PICTURES = ("svg", "png", "pdf")
STYLES = {"graph": (*PICTURES, "dot"), "volumes": PICTURES, "blocks": (*PICTURES, "md")}
"""What can be drawn, and the formats it can be written in."""


def format_of(path: Path, style: str = "graph") -> str:
    """The format that a file's extension asks for, of a style or of a plot.

    Raises CompileError E520 for any other.
    """
    formats = STYLES.get(style, PICTURES)
    extension = path.suffix.removeprefix(".").lower()
    if extension not in formats:
        known = ", ".join(f"`.{f}`" for f in formats)
        shown = f"`.{extension}`" if extension else "a file without an extension"
        raise problem("E520", f"{path}: {shown} is no format for a {style}", f"there is {known}")
    return extension


@dataclass(frozen=True)
class Options:
    """How networks are drawn."""

    style: str = "graph"
    depth: int | None = None
    """How many levels of block instances are opened; as many as stay legible where it is None."""
    block: str | None = None
    """A block instance to draw on its own, by the names on the way to it: ``conv2.basic1``."""
    show: str | None = None
    """What the graph style colours boxes by, instead of by kind of op."""
    direction: str = "down"
    theme: str = "light"


def draw(graphs: Sequence[Graph], format: str = "svg", options: Options | None = None) -> bytes:
    """One network, or several side by side, as ``svg``, ``pdf``, ``png`` or ``dot``.

    Raises CompileError E521 where no Graphviz is installed, E522 where it fails, E523 for a block
    instance that there is not.
    """
    options = options or Options()
    summaries = [_summary(network, options.block) for network in graphs]
    theme = THEMES[options.theme]
    if options.style == "volumes":
        shown = [diagram(summary, options.depth, volumes.LEGIBLE) for summary in summaries]
        return converted(volumes.volumes(shown, theme), format)
    if options.style == "blocks":
        if format == "md":
            return blocks.markdown(summaries).encode()
        return converted(blocks.blocks(summaries, theme), format)
    diagrams = [diagram(summary, options.depth) for summary in summaries]

    def text(*shown: Diagram) -> str:
        return graph(shown, options.show, options.direction, theme)

    if format == "dot":
        return text(*diagrams).encode()
    # Each is laid out for itself: in one graph, the ranks of one would pull those of the other.
    return converted(side_by_side([laid_out(text(d)) for d in diagrams], theme.ground), format)


def _summary(network: Graph, block: str | None) -> Summary:
    summary = summarise(network)
    return summary if block is None else excerpt(summary, block)


__all__ = ["AMOUNTS", "DIRECTIONS", "STYLES", "THEMES", "Options", "converted", "draw", "format_of"]
