"""Says why a convolution is one: what the same map would take as a dense layer.

The seed's two savings: *sparse connectivity* leaves a unit only the inputs under its window, and
*parameter sharing* lets all units of a feature map have the same weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from convdsl.graph import Node


@dataclass(frozen=True)
class Connectivity:
    """The weights of a layer under three regimes; biases, one per unit or map, are left aside."""

    dense: int
    """Every output connected to every input."""
    sparse: int
    """Every output connected to the inputs under its window, with weights of its own."""
    shared: int
    """What the layer has: the same window everywhere."""

    @property
    def saved_by_sparsity(self) -> float:
        """How many times fewer weights the sparse layer has than the dense one."""
        return self.dense / self.sparse

    @property
    def saved_by_sharing(self) -> float:
        """How many times fewer weights the layer has than the sparse one."""
        return self.sparse / self.shared


def connectivity(node: Node) -> Connectivity | None:
    """The numbers for a node with weights under a window; None for every other node."""
    types = [value.type for value in node.data]
    window, macs = node.op.sees(*types), node.op.macs(*types)
    if window is None or window.whole or not macs:
        return None
    # Weights as opposed to biases are those with more than one axis.
    shared = sum(v.type.size for v in node.weights if len(v.type.shape) > 1)
    dense = types[0].size * math.prod(node.output.type.shape)
    return Connectivity(dense, macs, shared)
