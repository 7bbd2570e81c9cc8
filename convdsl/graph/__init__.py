"""The typed graph: what a network is once its text has been understood."""

from convdsl.graph.builder import Builder
from convdsl.graph.expectation import Expectation
from convdsl.graph.graph import Graph, Initialiser, Node, Operation, Scope, Value, Variable
from convdsl.graph.types import TensorType, extents

__all__ = [
    "Builder",
    "Expectation",
    "Graph",
    "Initialiser",
    "Node",
    "Operation",
    "Scope",
    "TensorType",
    "Value",
    "Variable",
    "extents",
]
