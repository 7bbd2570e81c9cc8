"""The typed graph: what a network is once its text has been understood."""

from convdsl.graph.builder import Builder
from convdsl.graph.expectation import Expectation
from convdsl.graph.graph import Graph, Initialiser, Node, Operation, Scope, Value, Variable
from convdsl.graph.recipe import Choice, Setting
from convdsl.graph.types import TensorType, extents

__all__ = [
    "Builder",
    "Choice",
    "Expectation",
    "Graph",
    "Initialiser",
    "Node",
    "Operation",
    "Scope",
    "Setting",
    "TensorType",
    "Value",
    "Variable",
    "extents",
]
