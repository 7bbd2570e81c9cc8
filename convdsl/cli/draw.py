"""Draw one network, or several side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from convdsl.cli import networks
from convdsl.cli.output import write_file


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convdsl draw`."""
    networks.add_network(parser, nargs="+")
    networks.add_overrides(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        required=True,
        help="the drawing: .svg, .png, .pdf or .dot",
    )
    parser.add_argument("--style", choices=("graph",), default="graph", help="the kind of drawing")


def run(args: argparse.Namespace) -> int:
    """Write the drawing."""
    from convdsl.views.rendering import format_of, render

    format = format_of(args.output)
    graphs = [networks.load(args, name).graph for name in args.network]
    from convdsl.views.graphviz import drawing

    write_file(args.output, render(drawing(*graphs), format))
    return 0
