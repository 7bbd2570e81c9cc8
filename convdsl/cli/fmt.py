"""Rewrite .cnn files in the canonical layout, comments and documentation kept.

`-` reads the standard input and writes to the standard output."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from convdsl.cli.output import report, write_file
from convdsl.diagnostics import CompileError, Source
from convdsl.language import format_text
from convdsl.network import text_of


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convdsl fmt`."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="a .cnn file, or - for stdin")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--check", action="store_true", help="change nothing; exit with 1 if a file would change"
    )
    how.add_argument("--diff", action="store_true", help="change nothing; print what would change")


def run(args: argparse.Namespace) -> int:
    """Format every file; a file with an error is told and left as it is."""
    status = 0
    for name in args.files:
        try:
            status |= _format(name, args)
        except CompileError as error:
            report(error.diagnostics)
            status = 1
    return status


def _format(name: str, args: argparse.Namespace) -> int:
    """1 where `--check` finds something to change, else 0."""
    stdin = name == "-"
    text = sys.stdin.read() if stdin else text_of(Path(name))
    formatted = format_text(Source("<stdin>" if stdin else name, text))
    if args.diff:
        print(_difference(name, text, formatted), end="")
    elif args.check:
        if formatted != text:
            print(f"{name} would be reformatted", file=sys.stderr)
        return int(formatted != text)
    elif stdin:
        print(formatted, end="")
    elif formatted != text:
        write_file(Path(name), formatted.encode())
    return 0


def _difference(name: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), name, f"{name} formatted"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
