"""Measure a network: latency, throughput, compile time, memory.

It runs on random numbers with seeded weights. What the processor can do at most is measured in the
same run, between the calls of the network: float32 multiply-adds, and reads from memory."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from convdsl.cli import networks
from convdsl.cli.compile import add_accuracy
from convdsl.cli.output import report
from convdsl.network import Network

SLOW_CHECK = 10**9
"""Multiply-adds from which the float64 interpreter takes so long that the wait is announced."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convdsl bench`."""
    networks.add_network(parser)
    networks.add_overrides(parser)
    parser.add_argument(
        "--batch",
        metavar="N[,N...]",
        type=batches,
        action="extend",
        help="inputs at a time, 1 if not given; a line for each",
    )
    parser.add_argument("--threads", metavar="N", type=networks.positive)
    add_accuracy(parser)
    parser.add_argument(
        "--train",
        action="store_true",
        help="a training step: forward, cross entropy, backward, SGD with momentum",
    )
    parser.add_argument("--profile", action="store_true", help="the time of every layer, too")
    parser.add_argument(
        "--check",
        action="store_true",
        help="the error against a float64 interpreter at batch 1; slow for large networks",
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=seconds,
        default=2.0,
        help="how long each batch runs (2), and 10 times at least",
    )
    parser.add_argument("--format", choices=("text", "markdown", "json"), default="text")


def batches(text: str) -> list[int]:
    """Whole numbers of at least 1 with commas between them, for argparse."""
    return [networks.positive(part.strip()) for part in text.split(",")]


def seconds(text: str) -> float:
    """A time of at least 0 and at most an hour, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 3600")
    return number


def run(args: argparse.Namespace) -> int:
    """Measure every batch and print what was found."""
    network = networks.load(args)
    report(network.warnings)
    found = _measured(network, args)
    from convdsl.views import benchmark as views

    match args.format:
        case "json":
            print(json.dumps(found, indent=1))
        case "markdown":
            print(views.markdown(found))
        case _:
            print(views.text(found))
    return 0


def _measured(network: Network, args: argparse.Namespace) -> dict[str, Any]:
    from convdsl.passes import SGD
    from convdsl.runtime import benchmark
    from convdsl.runtime.cpu import thread_count

    threads = thread_count(args.threads)
    optimizer = SGD(momentum=0.9) if args.train else None

    def compile(batch: int) -> Any:
        return network.compile(
            batch=batch,
            train=args.train,
            threads=threads,
            optimizer=optimizer,
            accuracy=args.accuracy,
        )

    wanted = benchmark.Wanted(threads, args.train, args.seconds, args.profile)
    graph = network.graph
    found: dict[str, Any] = {
        "network": network.name,
        "mode": "training" if args.train else "inference",
        "threads": threads,
        "machine": benchmark.machine(),
        "params": network.params,
        "parameter_bytes": 4 * network.params,
        "macs": benchmark.macs(graph, 1, args.train),
        "results": [
            benchmark.measure(graph, batch, compile, wanted)
            for batch in dict.fromkeys(args.batch or [1])
        ],
    }
    if args.check:
        if found["macs"] > SLOW_CHECK:
            print("checking against the float64 interpreter, which takes a while", file=sys.stderr)
        start = time.perf_counter()
        found["relative_error"] = benchmark.error(graph, compile(1), args.train)
        found["check_seconds"] = time.perf_counter() - start
    return found
