"""Draw one network, or several side by side."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from convdsl.cli import networks
from convdsl.cli.output import write_file


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convdsl draw`."""
    from convdsl.views.drawing import AMOUNTS, DIRECTIONS, STYLES, THEMES

    networks.add_network(parser, nargs="+")
    networks.add_overrides(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        required=True,
        help="the drawing: .svg, .png or .pdf; graphs also .dot, blocks also .md",
    )
    parser.add_argument(
        "--style",
        choices=STYLES,
        default="graph",
        help="layers and arrows, feature maps to scale, or the papers' table of configurations",
    )
    parser.add_argument(
        "--depth",
        metavar="N",
        type=level,
        help="open block instances N levels deep; 0 keeps all closed, without it as many are "
        "opened as stay legible",
    )
    parser.add_argument(
        "--block", metavar="INSTANCE", help="draw a block instance alone, as in conv2.basic1"
    )
    parser.add_argument("--show", choices=AMOUNTS, help="colour a graph's boxes by a number")
    parser.add_argument(
        "--direction", choices=DIRECTIONS, default="down", help="where a graph leads"
    )
    parser.add_argument("--theme", choices=THEMES, default="light", help="the ground it stands on")


def level(text: str) -> int:
    """A whole number from 0, for argparse."""
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Write the drawing."""
    from convdsl.views.drawing import Options, draw, format_of

    options = Options(args.style, args.depth, args.block, args.show, args.direction, args.theme)
    format = format_of(args.output, args.style)
    graphs = [networks.load(args, name).graph for name in args.network]
    write_file(args.output, draw(graphs, format, options))
    return 0
