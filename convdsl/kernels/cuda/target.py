"""The CUDA target: which generator computes which family."""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.kernels.cuda import nests
from convdsl.ops.families import Family
from convdsl.plan.model import Recipe


@dataclass(frozen=True)
class CudaTarget:
    """Kernels for NVIDIA GPUs."""

    name: str = "cuda"
    lanes: int = 1
    threads: int = 1

    def recipe(self, family: Family) -> Recipe:
        """The loop nest of the family."""
        return nests.recipe(family)
