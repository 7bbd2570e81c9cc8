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
    winograd,
)
from convdsl.kernels.cuda.frame import stored
from convdsl.kernels.cuda.narrow import convolution as narrow_convolution
from convdsl.kernels.cuda.narrow import weight_gradient as narrow_weight_gradient
from convdsl.kernels.cuda.narrow.slices import PIECE
from convdsl.kernels.cuda.tiles import NARROW
from convdsl.kernels.winograd import Form
from convdsl.ops.families import (
    Convolution,
    Family,
    Map,
    Pooling,
    PoolingGradient,
    Product,
    Reduction,
)
from convdsl.plan.model import Recipe, Stored


@dataclass(frozen=True)
class CudaTarget:
    """Kernels for NVIDIA GPUs.

    ``precision`` is what the factors of convolutions and products are rounded to before they are
    multiplied; every sum is float32. In fp32 and tf32, feature maps stay N×C×spatial (``lanes`` 1):
    a block's pixels lie side by side then, gathers are coalesced, channels need no padding, and
    nothing is reordered at a network's edges. In bf16 and fp16 they are stored in 16 bits, eight
    channels side by side.
    """

    precision: str = "fp32"
    exact: bool = False
    """Whether to leave out algorithms that round more than a sum does."""
    name: str = "cuda"
    threads: int = 1

    @property
    def storage(self) -> str:
        """The element type of feature maps between kernels."""
        return NARROW.get(self.precision, "float32")

    @property
    def lanes(self) -> int:
        """Channels side by side: an access of 16 bytes, where elements have 16 bits."""
        return PIECE if self.precision in NARROW else 1

    def recipe(self, family: Family) -> Recipe:
        """The fastest way there is for the family; its loop nest where there is no other."""
        if self.precision not in NARROW:
            return self._plain(family)
        if isinstance(family, Stored):
            recipe = self._narrow(family.family, family.dtypes, family.constant)
            return stored(recipe, family.dtypes)
        nest = family.nest()
        return self._narrow(family, (*(dtype for _, dtype in nest.inputs), nest.result))

    def takes_part(self, family: Family, operand: int, batch: int) -> bool:
        """Never: kernels want feature maps to begin at multiples of 16 bytes."""
        return False

    def _narrow(
        self, family: Family, dtypes: tuple[str, ...], constant: tuple[bool, ...] = ()
    ) -> Recipe:
        """On operands of such types, which generators that do not care take for float32."""
        match family:
            case Product() if product.fits_rounded(family) and constant[1:2] == (True,):
                return product.rounded(family, self.precision)
            case Convolution() if narrow_convolution.fits(family):
                return narrow_convolution.recipe(family, self.precision, dtypes)
            case Convolution() if narrow_weight_gradient.fits(family):
                return narrow_weight_gradient.recipe(family, self.precision, dtypes)
            case Convolution():
                return nests.recipe(family)
        return self._plain(family)

    def _winograd(self, family: Convolution) -> Form | None:
        exact = self.exact or self.precision != "fp32"
        return None if exact else winograd.form_of(family)

    def _plain(self, family: Family) -> Recipe:
        match family:
            case Product():
                return product.recipe(family, self.precision)
            case Convolution() if depthwise.fits(family):
                return depthwise.recipe(family)
            case Convolution() if family.direction == "weight":
                return weight_gradient.recipe(family, self.precision)
            case Convolution() if form := self._winograd(family):
                return winograd.recipe(family, form)
            case Convolution() if convolution.fits(family):
                return convolution.recipe(family, self.precision)
            case Map():
                return maps.recipe(family)
            case Reduction():
                return reductions.recipe(family)
            case Pooling() | PoolingGradient():
                return pooling.recipe(family)
        return nests.recipe(family)
