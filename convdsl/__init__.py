"""convdsl: describe a ConvNet as its paper does, prove its numbers, draw it, compile it, run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convdsl.diagnostics import CompileError, Diagnostic
from convdsl.network import Network, load, load_source

if TYPE_CHECKING:
    from convdsl.passes.update import SGD, Adam, Refined, RMSprop

__version__ = "0.1.0"
__all__ = [
    "SGD",
    "Adam",
    "CompileError",
    "Diagnostic",
    "Network",
    "RMSprop",
    "Refined",
    "load",
    "load_source",
]


def __getattr__(name: str) -> object:
    # Optimisers bring the rule book along, which `--help` and `import convdsl` do without.
    if name in ("SGD", "Adam", "RMSprop", "Refined"):
        from convdsl.passes import update

        return getattr(update, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
