"""The `convdsl` command: arguments, a call of the API, an exit status.

Status 0 is fine; 1 is something a person can mend, told by diagnostics on stderr; 2 is a malformed
command line; 3 is a fault of convdsl itself. Only the chosen command's module is imported.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from convdsl.cli.output import report, stop_writing
from convdsl.diagnostics import CompileError, problem, refused
from convdsl.training.launchers import started

COMMANDS = {
    "check": "parse, type and verify every `expect` of .cnn files",
    "summary": "the paper's table: layers, shapes, parameters, costs",
    "draw": "draw networks as SVG, PNG, PDF or Graphviz text",
    "compile": "write a package that runs by itself, or print a stage of the compiler",
    "run": "run a network, or a compiled package, on images or arrays",
    "train": "train a network on data, with checkpoints that it can be resumed from",
    "evaluate": "loss and accuracy of a network with weights on data",
    "bench": "measure a network: latency, throughput, compile time, memory",
    "fmt": "format .cnn files",
    "diff": "what changed between two networks, in structure and in the numbers",
    "ops": "list the ops of the language, or explain one",
    "explain": "explain the code of a diagnostic",
}

SHARED = {"train"}
"""Commands that several processes do together."""

FINE, MENDABLE, MALFORMED, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status; nothing but the status escapes."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    # A network is many small objects and no garbage: looking for some takes half of the time.
    gc.set_threshold(200_000, 20, 20)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # signs that the terminal lacks are no error
            stream.reconfigure(errors="replace")
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except SystemExit as stop:  # argparse: 0 after --help, 2 for a malformed line
        return stop.code if isinstance(stop.code, int) else MALFORMED
    except BrokenPipeError:
        stop_writing()
        return FINE
    except KeyboardInterrupt:
        return INTERRUPTED
    except CompileError as error:
        return _mendable(error)
    except (OSError, MemoryError) as error:
        return _mendable(refused(error))
    except Exception as error:
        return _internal(error)


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="convdsl",
        usage="convdsl COMMAND ...",
        description="Describe a ConvNet as its paper does, prove its numbers, draw it, run it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_epilog(),
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument(
        "command", nargs="?", metavar="COMMAND", choices=COMMANDS, help="one of those below"
    )
    chosen = parser.parse_args(arguments[:1])
    if chosen.version:
        from convdsl import __version__

        print(f"convdsl {__version__}")
        return FINE
    if chosen.command is None:
        parser.print_help(sys.stderr)
        return MALFORMED
    return _run_command(chosen.command, arguments[1:])


def _run_command(name: str, arguments: list[str]) -> int:
    module = import_module(f"convdsl.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=f"convdsl {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(parser)
    given = parser.parse_args(arguments)
    if started() > 1 and name not in SHARED:
        raise problem(
            "E570",
            f"`{name}` is for one process, and {started()} were started",
            "`train` is what several processes do together",
        )
    status: int = module.run(given)
    return status


def _epilog() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {does}" for name, does in COMMANDS.items()]
    return "\n".join(
        [
            "commands:",
            *lines,
            "",
            "`convdsl COMMAND --help` tells more. A NETWORK is PATH.cnn, PATH.cnn:NetName or the",
            "name of a bundled network, such as lenet.",
        ]
    )


def _mendable(error: CompileError) -> int:
    _show_traceback()
    report(error.diagnostics)
    return MENDABLE


def _internal(error: Exception) -> int:
    shown = _show_traceback()
    lines = str(error).strip().splitlines()
    told = f": {lines[0]}" if lines else ""
    print(
        f"internal error, please report: {type(error).__name__}{told}",
        *([] if shown else ["  = help: CONVDSL_TRACEBACK=1 shows where it happened"]),
        sep="\n",
        file=sys.stderr,
    )
    return INTERNAL


def _show_traceback() -> bool:
    wanted = bool(os.environ.get("CONVDSL_TRACEBACK"))
    if wanted:
        traceback.print_exc()
    return wanted


__all__ = ["main"]
