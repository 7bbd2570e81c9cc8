"""The CPU target: which generator computes which family."""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.kernels.cpu import (
    along,
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
    Along,
    Convolution,
    Family,
    Map,
    Pooling,
    PoolingGradient,
    Product,
    Reblock,
    Reduction,
)
from convdsl.plan.model import CONTIGUOUS, RESULT, Images, Placed, Recipe


@dataclass(frozen=True)
class CpuTarget:
    """Kernels for the host's processor.

    ``lanes`` is its vector width in float32 elements, ``registers`` how many such vectors it holds.
    ``exact`` leaves out algorithms that round more than a sum does.
    """

    lanes: int = 8
    threads: int = 1
    exact: bool = False
    registers: int = 16
    name: str = "cpu"
    grain: int = 1
    storage: str = "float32"

    def recipe(self, family: Family) -> Recipe:
        """The fastest way there is for the family; its loop nest where there is no other."""
        if isinstance(family, Placed):
            made = self._generated(family.family, family.images)
            assert made is not None, family
            return made
        return self._generated(family, CONTIGUOUS) or nests.recipe(family)

    def _generated(self, family: Family, images: Images) -> Recipe | None:
        """What the generator for the family makes of it, with parts of such images."""
        vectors = self.lanes, self.registers
        match family:
            case Product():
                return product.recipe(family, *vectors, self.threads)
            case Convolution() if depthwise.fits(family):
                return depthwise.recipe(family, images)
            case Convolution() if form := self._winograd(family):
                return winograd.recipe(family, images, form, self.registers, self.threads)
            case Convolution() if direct.fits(family):
                return direct.recipe(family, images, *vectors, self.threads, self.exact)
            case Convolution() if weight_gradient.fits(family):
                return weight_gradient.recipe(family, images, *vectors, self.threads)
            case Pooling() | PoolingGradient() if pooling.fits(family):
                return pooling.recipe(family, images)
            case Reblock():
                return reblock.recipe(family, images)
            case Along():
                return along.recipe(family, images, self.lanes)
            case Map() | Reduction():
                return maps.recipe(family, images, self.lanes)
        return None

    def takes_part(self, family: Family, operand: int, batch: int) -> bool:
        """Whether it computes the family with that operand as a part of a larger feature map.

        A part of a single image is an array as any other.
        """
        if batch == 1:
            return True
        match family:
            case Map() | Reduction():
                return maps.takes_part(family, operand, self.lanes)
            case Convolution():
                return self._is_map(family, operand) and self._has_generator(family)
            case Pooling():
                return pooling.fits(family)
            case Along():
                runs = family.outer % batch == 0 and operand in (0, RESULT)
                return runs and along.width(family, self.lanes) > 0
        return isinstance(family, Reblock)

    def _is_map(self, family: Convolution, operand: int) -> bool:
        """Whether an operand is a feature map that the kernels find by the distance of images.

        Operands of the epilogue that are as large as the result lie as that does.
        """
        if operand == RESULT:
            return family.epilogue is None or not any(family.epilogue.whole)
        return operand == 0 or (operand == 1 and family.direction == "weight")

    def _has_generator(self, family: Convolution) -> bool:
        any_direction = depthwise.fits(family) or direct.fits(family)
        return any_direction or weight_gradient.fits(family) or bool(self._winograd(family))

    def _winograd(self, family: Convolution) -> Form | None:
        if self.exact:
            return None
        return winograd.form_of(family, self.lanes, self.registers, self.threads)
