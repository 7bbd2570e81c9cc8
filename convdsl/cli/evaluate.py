"""Loss and accuracy of a network with weights on data: on its test part where it has one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from convdsl.cli import networks
from convdsl.cli.compile import add_target
from convdsl.diagnostics import problem
from convdsl.runtime.inputs import InputSpec
from convdsl.training.data import Part, has_test_part, open_data
from convdsl.training.evaluation import evaluate


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convdsl evaluate`."""
    networks.add_network(parser)
    networks.add_overrides(parser)
    parser.add_argument("--data", metavar="D", type=Path, required=True)
    parser.add_argument("--weights", metavar="W", type=Path, required=True)
    parser.add_argument("--batch", metavar="N", type=networks.positive, default=64)
    parser.add_argument("--threads", metavar="N", type=networks.positive)
    add_target(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the numbers."""
    network = networks.load(args)
    graph = network.graph
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise problem("E572", f"`{network.name}` has several inputs or outputs")
    part: Part = "test" if has_test_part(args.data) else "train"
    classes = graph.outputs[0][1].type.channels
    data = open_data(args.data, InputSpec.of(graph.inputs[0]), classes, part)
    program = network.compile(
        args.target,
        args.batch,
        threads=args.threads,
        precision=args.precision,
        accuracy=args.accuracy,
    )
    program.load(args.weights)
    found = evaluate(program, data)
    if args.format == "json":
        told = {"samples": found.samples, "loss": found.loss, "accuracy": found.accuracy}
        print(json.dumps(told))
    else:
        print(f"{found.samples:,} examples: loss {found.loss:.4f}, {found.accuracy:.2%} right")
    return 0
