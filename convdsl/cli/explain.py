"""Explain the code of a diagnostic; without one, list them all."""

from __future__ import annotations

import argparse

from convdsl.diagnostics import did_you_mean, problem
from convdsl.explanations import explanations


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convdsl explain`."""
    parser.add_argument("code", nargs="?", metavar="CODE", help="such as E202")


def run(args: argparse.Namespace) -> int:
    """Print the explanation, or the titles of all."""
    known = explanations()
    if args.code is None:
        for explanation in known.values():
            print(f"{explanation.code}  {explanation.title}")
        return 0
    code = args.code.strip("[]").upper()
    if code not in known:
        help = did_you_mean(code, known) or ("`convdsl explain` lists the codes",)
        raise problem("E541", f"there is no diagnostic code `{args.code}`", *help)
    print(known[code])
    return 0
