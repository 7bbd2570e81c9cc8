"""Loss and accuracy of a network with weights on data: on its test part where it has one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from convdsl.cli import networks
from convdsl.cli.compile import add_target
from convdsl.cli.output import write_file
from convdsl.diagnostics import problem
from convdsl.runtime.inputs import InputSpec
from convdsl.training.data import Part, has_test_part, open_data
from convdsl.training.evaluation import class_count, evaluate
from convdsl.training.reports import confusion_matrix, worst_mistakes
from convdsl.views.drawing import converted, format_of


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convdsl evaluate`."""
    networks.add_network(parser)
    networks.add_overrides(parser)
    parser.add_argument("--data", metavar="D", type=Path, required=True)
    parser.add_argument("--weights", metavar="W", type=Path, required=True)
    parser.add_argument("--batch", metavar="N", type=networks.positive, default=64)
    parser.add_argument("--threads", metavar="N", type=networks.positive)
    add_target(parser)
    parser.add_argument(
        "--confusion", metavar="FILE", type=Path, help="draw which classes are taken for which"
    )
    parser.add_argument("--mistakes", metavar="FILE.png", type=Path, help="draw the worst mistakes")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the numbers and draw what was asked for."""
    network = networks.load(args)
    format = format_of(args.confusion, "confusion matrix") if args.confusion else ""
    if args.mistakes and args.mistakes.suffix.lower() != ".png":
        raise problem("E520", f"{args.mistakes}: mistakes are drawn as `.png`")
    classes = class_count(network)
    part: Part = "test" if has_test_part(args.data) else "train"
    data = open_data(args.data, InputSpec.of_graph(network.graph), classes, part)
    program = network.compile(
        args.target,
        args.batch,
        threads=args.threads,
        precision=args.precision,
        accuracy=args.accuracy,
    )
    program.load(args.weights)
    found = evaluate(program, data)
    if args.confusion:
        drawn = confusion_matrix(found, data, network.name)
        write_file(args.confusion, converted(drawn, format))
    if args.mistakes:
        write_file(args.mistakes, worst_mistakes(found, data, network.name))
    if args.format == "json":
        told = {"samples": found.samples, "loss": found.loss, "accuracy": found.accuracy}
        print(json.dumps(told))
    else:
        print(f"{found.samples:,} examples: loss {found.loss:.4f}, {found.accuracy:.2%} right")
    return 0
