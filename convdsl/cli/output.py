"""Writes what commands have to say: diagnostics on stderr, files, colour where it is wanted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from convdsl.diagnostics import Diagnostic, problem, render


def report(diagnostics: Iterable[Diagnostic]) -> None:
    """Print diagnostics on stderr, an empty line after each."""
    colour = wants_colour(sys.stderr)
    for diagnostic in diagnostics:
        print(render(diagnostic, colour=colour), end="\n\n", file=sys.stderr)


def wants_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal on which colour was not refused (see no-color.org)."""
    refused = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not refused


def write_file(path: Path, content: bytes) -> None:
    """Write a file. Raises CompileError E504 where that fails."""
    try:
        path.write_bytes(content)
    except OSError as reason:
        raise problem("E504", f"{path} cannot be written: {reason.strerror}") from None


def stop_writing() -> None:
    """Let go of a standard output that nobody reads any more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
