"""Write a Python package of a network that runs without convdsl, or print a stage.

A package for the CPU needs numpy and numba, one for a GPU numpy and numba-cuda."""

from __future__ import annotations

import argparse
from pathlib import Path

from convdsl.cli import networks
from convdsl.compiler import STAGES, compile, emit


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convdsl compile`."""
    networks.add_network(parser)
    networks.add_overrides(parser)
    result = parser.add_mutually_exclusive_group(required=True)
    result.add_argument("-o", "--output", metavar="DIR", type=Path, help="the package to write")
    result.add_argument("--emit", choices=STAGES, help="print that stage instead")
    add_target(parser)
    parser.add_argument("--train", action="store_true", help="with a loss and its gradients")
    parser.add_argument("--arch", metavar="sm_NN", default="sm_80", help="the GPU to compile for")
    parser.add_argument(
        "--batch", metavar="N", type=networks.positive, default=1, help="inputs at a time"
    )


def add_target(parser: argparse.ArgumentParser) -> None:
    """What to compile for."""
    parser.add_argument("--target", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16", "fp16"), default="fp32")
    add_accuracy(parser)


def add_accuracy(parser: argparse.ArgumentParser) -> None:
    """How closely convolutions follow their sums."""
    text = "exact: every convolution by its sum, without Winograd's algorithm"
    parser.add_argument("--accuracy", choices=("fast", "exact"), default="fast", help=text)


def run(args: argparse.Namespace) -> int:
    """Print the stage or write the package."""
    network = networks.load(args)
    if args.emit:
        options = (args.target, args.batch, args.train, args.precision, args.arch, args.accuracy)
        print(emit(network, args.emit, *options))
        return 0
    program = compile(
        network.graph,
        args.target,
        args.batch,
        "cross_entropy" if args.train else None,
        precision=args.precision,
        accuracy=args.accuracy,
        ready=False,
    )
    from convdsl.runtime import package

    files = package.write(program, args.output)
    print(f"{network.name}: {len(files)} files in {args.output}")
    return 0
