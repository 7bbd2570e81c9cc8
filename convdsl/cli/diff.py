"""What changed between two networks, in structure and in the numbers."""

from __future__ import annotations

import argparse
import json

from convdsl.cli import networks


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convdsl diff`."""
    parser.add_argument("before", metavar="A", help="a network, as everywhere")
    parser.add_argument("after", metavar="B", help="the network to hold against it")
    networks.add_overrides(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(args: argparse.Namespace) -> int:
    """Print the difference."""
    from convdsl.views.difference import difference

    before, after = (networks.load(args, name).summary() for name in (args.before, args.after))
    found = difference(before, after)
    print(json.dumps(found.as_json(), indent=1) if args.format == "json" else found)
    return 0
