"""The CUDA target: which generator computes which family."""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.kernels.cuda import (
    convolution,
    depthwise,
    maps,
    nests,
    pooling,
    product,
    reductions,
    weight_gradient,
)
from convdsl.ops.families import (
    Convolution,
    Family,
    Map,
    Pooling,
    PoolingGradient,
    Product,
    Reduction,
)
from convdsl.plan.model import Recipe


@dataclass(frozen=True)
class CudaTarget:
    """Kernels for NVIDIA GPUs.

    Feature maps stay N×C×spatial (``lanes`` 1): a block's pixels lie side by side then, gathers
    are coalesced, channels need no padding, and nothing is reordered at a network's edges.
    ``precision`` is what the factors of convolutions and products are rounded to before they are
    multiplied; whatever is stored, and every sum, is float32.
    """

    precision: str = "fp32"
    name: str = "cuda"
    lanes: int = 1
    threads: int = 1

    def recipe(self, family: Family) -> Recipe:
        """The fastest way there is for the family; its loop nest where there is no other."""
        match family:
            case Product():
                return product.recipe(family, self.precision)
            case Convolution() if depthwise.fits(family):
                return depthwise.recipe(family)
            case Convolution() if family.direction == "weight":
                return weight_gradient.recipe(family, self.precision)
            case Convolution() if convolution.fits(family):
                return convolution.recipe(family, self.precision)
            case Map():
                return maps.recipe(family)
            case Reduction():
                return reductions.recipe(family)
            case Pooling() | PoolingGradient() if family.lanes == 1:
                return pooling.recipe(family)
        return nests.recipe(family)
