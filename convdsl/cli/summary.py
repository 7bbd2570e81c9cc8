"""The paper's table of a network: layer, op, output, parameters, MACs, receptive field, totals."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from convdsl.cli import networks
from convdsl.cli.output import report, write_file


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convdsl summary`."""
    networks.add_network(parser)
    networks.add_overrides(parser)
    parser.add_argument("--format", choices=("text", "json", "markdown"), default="text")
    parser.add_argument(
        "--batch", metavar="N", type=networks.positive, default=1, help="count costs for N inputs"
    )
    parser.add_argument(
        "--why",
        action="store_true",
        help="why convolutions: what sparse connectivity and parameter sharing save",
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        type=Path,
        help="also draw it: parameters, multiply-adds, activations as .svg, .png or .pdf",
    )


def run(args: argparse.Namespace) -> int:
    """Print the summary."""
    network = networks.load(args)
    report(network.warnings)
    summary = network.summary(args.batch)
    if args.plot is not None:
        from convdsl.views.drawing import converted, format_of
        from convdsl.views.drawing.plots import plot

        write_file(args.plot, converted(plot(summary), format_of(args.plot, "plot")))
    match args.format:
        case "json":
            print(json.dumps(summary.as_json(args.why), indent=1))
        case "markdown":
            print(summary.markdown(args.why))
        case _:
            print(summary.text(args.why))
    return 0
