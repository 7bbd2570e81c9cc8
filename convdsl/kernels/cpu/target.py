"""The CPU target: which generator computes which family."""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.kernels.cpu import convolution, nests, pointwise, product, weight_gradient
from convdsl.ops.families import Convolution, Family, Product
from convdsl.plan.model import Recipe


@dataclass(frozen=True)
class CpuTarget:
    """Kernels for the host's processor; ``lanes`` is its vector width in float32 elements."""

    lanes: int = 8
    name: str = "cpu"

    def recipe(self, family: Family) -> Recipe:
        """The fastest way there is for the family; its loop nest where there is no other."""
        match family:
            case Product():
                return product.recipe(family)
            case Convolution() if pointwise.fits(family, self.lanes):
                return pointwise.recipe(family, self.lanes)
            case Convolution() if convolution.fits(family, self.lanes):
                return convolution.recipe(family, self.lanes)
            case Convolution() if weight_gradient.fits(family, self.lanes):
                return weight_gradient.recipe(family, self.lanes)
        return nests.recipe(family)
