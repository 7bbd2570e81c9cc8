"""Parse and type .cnn files and verify every `expect`; one line per network says how it went."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from convdsl.cli.output import report
from convdsl.diagnostics import CompileError, Diagnostic
from convdsl.language import net_names
from convdsl.language.syntax import Block, File
from convdsl.network import Network, locate, read


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convdsl check`."""
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="PATH.cnn, PATH.cnn:NetName or a bundled name"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(args: argparse.Namespace) -> int:
    """Print the verdicts, or all diagnostics as JSON."""
    told: dict[Diagnostic, None] = {}
    for file in args.files:
        for verdict in _verdicts(file):
            new = [d for d in verdict.diagnostics if d not in told]
            told.update(dict.fromkeys(new))
            if args.format == "text":
                report(new)
                print(verdict, flush=True)
    if args.format == "json":
        print(json.dumps([d.as_json() for d in told], indent=1))
    return int(any(d.severity == "error" for d in told))


@dataclass(frozen=True)
class Verdict:
    """What was found about a network, or about a file without one."""

    place: str
    diagnostics: tuple[Diagnostic, ...]
    network: Network | None = None

    def __str__(self) -> str:
        errors = sum(d.severity == "error" for d in self.diagnostics)
        if self.network is None:
            return f"{self.place}: {_number(errors, 'error') if errors else 'no network'}"
        claims = len(self.network.expectations)
        failed = sum(d.code.startswith("E3") for d in self.diagnostics)
        if errors > failed:
            return f"{self.place}: {_number(errors, 'error')}"
        if errors:
            return f"{self.place}: {errors} of {_number(claims, 'expectation')} failed"
        held = f", {_number(claims, 'expectation')} hold" if claims else ", nothing expected"
        return f"{self.place}: ok, {self.network.params:,} parameters{held}"


def _verdicts(file: str) -> Iterator[Verdict]:
    """A verdict for every network that a file defines."""
    try:
        path, name = locate(file)
        tree = read(path)
        names = (name,) if name else net_names(tree) or (None,)
    except CompileError as error:
        yield Verdict(file, error.diagnostics)
        return
    for name in names:
        yield _verdict(path, tree, name)


def _verdict(path: Path, tree: File, name: str | None) -> Verdict:
    place = f"{path}:{name}" if name else str(path)
    try:
        network = Network(tree, name)
    except CompileError as error:
        # A file of blocks for others to import is no mistake.
        is_library = name is None and any(isinstance(item, Block) for item in tree.items)
        lacks_network = {d.code for d in error.diagnostics} == {"E107"}
        return Verdict(place, () if is_library and lacks_network else error.diagnostics)
    found = (*network.warnings, *network.verify(), *_recipe(network))
    return Verdict(place, found, network)


def _recipe(network: Network) -> tuple[Diagnostic, ...]:
    """What is wrong with how the network is to be trained, where it says that."""
    if not network.recipe:
        return ()
    from convdsl.runtime.inputs import InputSpec
    from convdsl.training.recipe import resolve

    try:
        resolve(network.recipe, (), InputSpec.of(network.graph.inputs[0]))
    except CompileError as error:
        return error.diagnostics
    return ()


def _number(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count != 1 else "")
