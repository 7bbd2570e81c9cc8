"""Finds what first went wrong where a loss is not finite."""

from __future__ import annotations

import numpy as np

from convdsl.graph import Value
from convdsl.runtime.program import Program

Array = np.ndarray


def cause(program: Program, x: Array) -> str:
    """What is not finite first on the way from the input to the loss, as a phrase; or nothing.

    ``program`` holds the weights that the step began with: a step without a finite loss changes
    none. The network is evaluated node by node in NumPy.
    """
    if not np.isfinite(x).all():
        return "the input has values that are not"
    for name, array in {**program.parameters, **program.buffers}.items():
        if not np.isfinite(array).all():
            return f"`{name}` has values that are not"
    graph = program.graph
    values: dict[Value, Array] = {
        v: x if v.role == "input" else program.variables.get(v.name, np.zeros(len(x), np.int64))
        for v in graph.variables
    }
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            results = node.op.evaluate_for(len(x), *(values[v] for v in node.inputs))
            results = results if isinstance(results, tuple) else (results,)
            values.update(zip(node.outputs, results, strict=True))
            if not all(np.isfinite(r).all() for r in results):
                return f"`{node.name}` gives values that are not"
    return ""
