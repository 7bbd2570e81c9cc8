"""convdsl: describe a ConvNet as its paper does, prove its numbers, draw it, compile it, run it."""

from convdsl.diagnostics import CompileError, Diagnostic
from convdsl.network import Network, load, load_source
from convdsl.passes.update import Adam
from convdsl.passes.update import Sgd as SGD

__version__ = "0.1.0"
__all__ = ["SGD", "Adam", "CompileError", "Diagnostic", "Network", "load", "load_source"]
