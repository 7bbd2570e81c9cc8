"""The CPU target: which generator computes which family."""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.kernels.cpu import (
    depthwise,
    direct,
    maps,
    nests,
    pooling,
    product,
    reblock,
    weight_gradient,
    winograd,
)
from convdsl.kernels.winograd import Form
from convdsl.ops.families import (
    Convolution,
    Family,
    Map,
    Pooling,
    PoolingGradient,
    Product,
    Reblock,
    Reduction,
)
from convdsl.plan.model import Recipe


@dataclass(frozen=True)
class CpuTarget:
    """Kernels for the host's processor.

    ``lanes`` is its vector width in float32 elements. ``exact`` leaves out algorithms that round
    more than a sum does.
    """

    lanes: int = 8
    threads: int = 1
    exact: bool = False
    name: str = "cpu"
    storage: str = "float32"

    def recipe(self, family: Family) -> Recipe:
        """The fastest way there is for the family; its loop nest where there is no other."""
        match family:
            case Product():
                return product.recipe(family, self.lanes)
            case Convolution() if depthwise.fits(family):
                return depthwise.recipe(family)
            case Convolution() if form := self._winograd(family):
                return winograd.recipe(family, form, self.threads)
            case Convolution() if direct.fits(family):
                return direct.recipe(family, self.threads, self.exact)
            case Convolution() if weight_gradient.fits(family):
                return weight_gradient.recipe(family, self.threads)
            case Pooling() | PoolingGradient() if pooling.fits(family):
                return pooling.recipe(family)
            case Reblock():
                return reblock.recipe(family)
            case Map() | Reduction():
                return maps.recipe(family, self.lanes) or nests.recipe(family)
        return nests.recipe(family)

    def _winograd(self, family: Convolution) -> Form | None:
        return None if self.exact else winograd.form_of(family, self.threads)
