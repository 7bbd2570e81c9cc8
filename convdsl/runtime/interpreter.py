"""The reference: a graph evaluated op by op in plain NumPy, in the precision of its inputs.

Slow and obvious; what passes and kernels are held against.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from convdsl.graph import Graph, Value


def evaluate(graph: Graph, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs by name, and what assigned variables become under ``NAME'``.

    ``arrays`` holds every variable by name, inputs with the batch in front.
    """
    batch = next((arrays[v.name].shape[0] for v in graph.inputs), 1)
    values: dict[Value, np.ndarray] = {v: arrays[v.name] for v in graph.variables}
    for node in graph.nodes:
        results = node.op.evaluate_for(batch, *(values[v] for v in node.inputs))
        if not isinstance(results, tuple):
            results = (results,)
        values.update(zip(node.outputs, results, strict=True))
    found = {name: values[value] for name, value in graph.outputs}
    found.update({f"{variable.name}'": values[v] for variable, v in graph.assignments})
    return found
