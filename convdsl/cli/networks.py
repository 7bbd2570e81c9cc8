"""The NETWORK argument that most commands take, with `--set` and `--input-size`."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convdsl.network import Network


def add_network(parser: argparse.ArgumentParser, **more: Any) -> None:
    """The argument itself."""
    parser.add_argument(
        "network", metavar="NETWORK", help="PATH.cnn, PATH.cnn:NetName or a bundled name", **more
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """What changes a network without changing its file."""
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=assignment,
        help="override a parameter of the network, as in --set classes=10",
    )
    parser.add_argument(
        "--input-size",
        metavar="[NAME=]TYPE",
        action="append",
        default=[],
        type=input_size,
        help="override an input's type, as in --input-size 3@192x256",
    )


def load(args: argparse.Namespace, network: str | None = None) -> Network:
    """The network that the arguments ask for. Raises CompileError."""
    from convdsl.network import Network, locate, read

    path, name = locate(network or args.network)
    return Network(read(path), name, dict(args.set), _input_sizes(args.input_size))


def _input_sizes(given: list[tuple[str, tuple[int, ...]]]) -> Any:
    """By position where no input is named, else by name."""
    if all(not name for name, _ in given):
        return [sizes for _, sizes in given]
    return dict(given)


def assignment(text: str) -> tuple[str, str]:
    """``name=value``, the value as it is written in the language."""
    name, _, value = (part.strip() for part in text.partition("="))
    if not name.isidentifier() or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def input_size(text: str) -> tuple[str, tuple[int, ...]]:
    """``3@192x256``, or ``name=3@192x256`` where there are several inputs."""
    match = re.fullmatch(r"(?:(\w+)=)?(\d{1,10})(?:@(\d{1,10}(?:x\d{1,10})*))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a type such as 3@192x256")
    name, channels, spatial = match.groups(default="")
    return name, (int(channels), *(int(size) for size in spatial.split("x") if size))


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text) if re.fullmatch(r"\d{1,9}", text) else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number
