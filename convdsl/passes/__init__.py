"""Graph to graph: each pass a plain function in its own file, their order in the compiler."""

from convdsl.passes.block import block
from convdsl.passes.expand import expand
from convdsl.passes.fuse import fuse
from convdsl.passes.gradient import add_gradients, add_loss
from convdsl.passes.recompute import recompute
from convdsl.passes.scaling import LossScale, guard_updates
from convdsl.passes.simplify import simplify
from convdsl.passes.specialise import specialise
from convdsl.passes.update import AVERAGE, SGD, Adam, Optimizer, Refined, RMSprop, add_updates

__all__ = [
    "AVERAGE",
    "SGD",
    "Adam",
    "LossScale",
    "Optimizer",
    "RMSprop",
    "Refined",
    "add_gradients",
    "add_loss",
    "add_updates",
    "block",
    "expand",
    "fuse",
    "guard_updates",
    "recompute",
    "simplify",
    "specialise",
]
