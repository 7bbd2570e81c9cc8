"""List the ops of the language, or explain one: maths, attributes, examples."""

from __future__ import annotations

import argparse

from convdsl.diagnostics import did_you_mean, problem
from convdsl.ops import lookup, registry
from convdsl.views.pages import op_list, op_page


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convdsl ops`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="an op")


def run(args: argparse.Namespace) -> int:
    """Print the list or the page."""
    if args.name is None:
        print(op_list())
        return 0
    op = lookup(args.name)
    if op is None:
        known = did_you_mean(args.name, registry()) or ("`convdsl ops` lists the ops",)
        raise problem("E540", f"there is no op called `{args.name}`", *known)
    print(op_page(op))
    return 0
