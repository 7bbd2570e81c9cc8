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
from convdsl.kernels.cuda.narrow import depthwise as narrow_depthwise
from convdsl.kernels.cuda.narrow import weight_gradient as narrow_weight_gradient
from convdsl.kernels.cuda.narrow.slices import PIECE
from convdsl.kernels.cuda.results import QUAD
from convdsl.kernels.cuda.tiles import NARROW
from convdsl.kernels.winograd import Form
from convdsl.ops.families import (
    Along,
    Convolution,
    Epilogue,
    Family,
    Map,
    Pooling,
    PoolingGradient,
    Product,
    Reblock,
    Reduction,
)
from convdsl.plan.model import CONTIGUOUS, RESULT, Images, Placed, Recipe, Stored


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
    def grain(self) -> int:
        """Elements of an access of 16 bytes."""
        return PIECE if self.precision in NARROW else QUAD

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
        types = family if isinstance(family, Stored) else None
        given = types.family if types else family
        inner, images = (
            (given.family, given.images) if isinstance(given, Placed) else (given, CONTIGUOUS)
        )
        if self.precision not in NARROW:
            return self._plain(inner, images)
        if types:
            recipe = self._narrow(inner, images, types.dtypes, types.constant)
            return stored(recipe, types.dtypes)
        nest = inner.nest()
        return self._narrow(inner, images, (*(dtype for _, dtype in nest.inputs), nest.result))

    def takes_part(self, family: Family, operand: int, batch: int) -> bool:
        """Whether it computes the family with that operand as a part of a larger feature map.

        A part of a single image is an array as any other.
        """
        if batch == 1:
            return True
        match family:
            case Map():
                return operand == RESULT or family.present[operand][0]
            case Reduction():
                return operand != RESULT and family.present[operand][0]
            case Convolution():
                first = 3 if family.bias else 2
                return _is_map(family.epilogue, operand, first, 1 + (family.direction == "weight"))
            case PoolingGradient():
                maps = 2 if family.mode == "maximum" else 1
                return _is_map(family.epilogue, operand, maps, maps)
            case Along():
                return family.outer % batch == 0 and operand in (0, RESULT)
        return isinstance(family, Pooling | Reblock)

    def _narrow(
        self,
        family: Family,
        images: Images,
        dtypes: tuple[str, ...],
        constant: tuple[bool, ...] = (),
    ) -> Recipe:
        """On operands of such types, which generators that do not care take for float32."""
        match family:
            case Product() if product.fits_rounded(family) and constant[1:2] == (True,):
                return product.rounded(family, self.precision)
            case Convolution() if narrow_depthwise.fits(family):
                return narrow_depthwise.recipe(family, images)
            case Convolution() if narrow_convolution.fits(family):
                return narrow_convolution.recipe(family, self.precision, dtypes, images)
            case Convolution() if narrow_weight_gradient.fits(family):
                return narrow_weight_gradient.recipe(family, self.precision, dtypes, images)
            case Convolution():
                return nests.recipe(family, images)
        return self._plain(family, images)

    def _winograd(self, family: Convolution) -> Form | None:
        exact = self.exact or self.precision != "fp32"
        return None if exact else winograd.form_of(family)

    def _plain(self, family: Family, images: Images) -> Recipe:
        match family:
            case Product():
                return product.recipe(family, self.precision)
            case Convolution() if depthwise.fits(family):
                return depthwise.recipe(family, images)
            case Convolution() if family.direction == "weight":
                return weight_gradient.recipe(family, self.precision, images)
            case Convolution() if form := self._winograd(family):
                return winograd.recipe(family, form, images)
            case Convolution() if convolution.fits(family):
                return convolution.recipe(family, self.precision, images)
            case Map():
                return maps.recipe(family, images)
            case Reduction():
                return reductions.recipe(family, images)
            case Pooling() | PoolingGradient():
                return pooling.recipe(family, images)
        return nests.recipe(family, images)


def _is_map(epilogue: Epilogue | None, operand: int, first: int, maps: int) -> bool:
    """Whether an operand is a feature map: the result, one of the first ``maps``, or one as large
    as the result that an epilogue reads; its operands begin with number ``first``."""
    full = epilogue.full(first) if epilogue else ()
    return operand == RESULT or operand < maps or operand in full
