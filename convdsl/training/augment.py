"""Augmentations: training images varied at random, each as its paper describes it.

Every augmentation is a function of its parameters, the seed, the epoch and the number of the image
alone, so that a training run that is resumed, or shared between processes, sees the same images.
They work on batches of float32 N×C×spatial as the network takes them; those that vary how an image
file is resized and cut do so before, by `View`. What a pixel is worth after preprocessing is told
by `Frame`, so that black is black whatever the network's `input` declares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import numpy as np

from convdsl.diagnostics import did_you_mean, problem
from convdsl.runtime import inputs
from convdsl.runtime.inputs import InputSpec, View
from convdsl.training import resampling
from convdsl.training.data import Data

Array = np.ndarray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
SAMPLE = 1000
"""Images from which the principal components of colours are computed."""


# -- what augmentations are given ------------------------------------------------------------


@dataclass(frozen=True)
class Draws:
    """Random numbers for a batch: functions of seed, epoch, purpose and the image's number alone.

    They are a counter put through SplitMix64 (Steele, Lea and Flood 2014), because a generator per
    image would take longer than the augmentation.
    """

    seed: int
    epoch: int
    purpose: int
    indices: Array

    def uniform(self, count: int) -> Array:
        """float64 N×count in [0, 1)."""
        key = np.zeros((len(self.indices), 1), np.uint64)
        given = (self.seed, self.epoch, self.purpose, np.asarray(self.indices)[:, None])
        for part in given:
            key = _mixed(key ^ np.asarray(part, np.int64).astype(np.uint64))
        bits = _mixed(key + np.arange(count, dtype=np.uint64) * GOLDEN)
        return np.asarray((bits >> np.uint64(11)) * 2.0**-53)

    def normal(self, count: int) -> Array:
        """float64 N×count, normal with mean 0 and deviation 1. (Box and Muller 1958)"""
        u = self.uniform(2 * count)
        radius = np.sqrt(-2 * np.log1p(-u[:, :count]))
        return np.asarray(radius * np.cos(2 * math.pi * u[:, count:]))

    def generator(self) -> np.random.Generator:
        """Of the batch as a whole: a function of its first image, too."""
        first = int(self.indices[0]) if len(self.indices) else 0
        return np.random.default_rng([self.seed, self.epoch, self.purpose, first])


def _mixed(state: Array) -> Array:
    z = state + GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class Frame:
    """What pixels are worth to the network: float32 per channel.

    ``black`` is black, ``contrast`` how much more white is.
    """

    black: Array
    contrast: Array

    @staticmethod
    def of(spec: InputSpec) -> Frame:
        """The frame of an input."""
        return Frame(*inputs.levels(spec))


# -- the contract ----------------------------------------------------------------------------


def _amount(default: float, low: float, high: float, unit: str) -> Any:
    """A parameter between ``low`` and ``high``, both allowed; a whole number where these are."""
    return field(default=default, metadata={"low": low, "high": high, "unit": unit})


@dataclass(frozen=True)
class Augmentation:
    """One way to vary images; a value with the parameters as fields."""

    name: ClassVar[str]

    def unfit(self, spec: InputSpec) -> str:
        """Why inputs of this kind cannot be varied so; empty where they can."""
        return ""

    def fit(self, data: Data, indices: Array) -> Augmentation:
        """The augmentation with what it learns from the examples that are trained on."""
        return self

    @property
    def learned(self) -> Mapping[str, Array]:
        """What `fit` found, for checkpoints."""
        return {}

    def views(self, views: list[View], draws: Draws) -> list[View]:
        """How each image of the batch is resized and cut, given how it was to be so far."""
        return views

    def apply(self, x: Array, draws: Draws, frame: Frame) -> Array:
        """The batch varied; ``x`` may be written to."""
        return x

    def mix(self, x: Array, shares: Array, draws: Draws) -> tuple[Array, Array]:
        """Images mixed with each other, and N×classes, how much of every class they are."""
        return x, shares

    @property
    def mixes(self) -> bool:
        """Whether targets become shares of classes: float32 N×classes in place of int64 N."""
        return type(self).mix is not Augmentation.mix

    @property
    def moves(self) -> bool:
        """Whether it varies how images are resized and cut."""
        return type(self).views is not Augmentation.views

    def __str__(self) -> str:
        given = (f"{f.name}={getattr(self, f.name)}" for f in fields(self) if f.metadata)
        return f"{self.name}({', '.join(given)})"


# -- where the network looks -----------------------------------------------------------------


@dataclass(frozen=True)
class Crop(Augmentation):
    """A random place: padded with black and cut back to size, or out of a larger image.

    ``pad``: pixels of black on every side before cutting (He et al. 2016, section 4.2: 4). With 0,
    the `crop` that `input` declares is cut from a random place instead of the middle (Krizhevsky,
    Sutskever and Hinton 2012, section 4.1).
    """

    name: ClassVar[str] = "crop"
    pad: int = _amount(0, 0, 512, "pixels")

    def unfit(self, spec: InputSpec) -> str:
        if not spec.shape[1:]:
            return "takes inputs with spatial axes"
        if not self.pad and "crop" not in spec.preprocessing:
            return "needs `pad=`, for the network's `input` declares no `crop`"
        return ""

    @property
    def moves(self) -> bool:
        return not self.pad

    def views(self, views: list[View], draws: Draws) -> list[View]:
        if self.pad:
            return views
        return [
            replace(view, at=(float(down), float(right)))
            for view, (down, right) in zip(views, draws.uniform(2), strict=True)
        ]

    def apply(self, x: Array, draws: Draws, frame: Frame) -> Array:
        if not self.pad:
            return x
        count, axes = len(x), tuple(range(2, x.ndim))
        padded = np.empty((*x.shape[:2], *(s + 2 * self.pad for s in x.shape[2:])), np.float32)
        padded[...] = frame.black.reshape(-1, *(1,) * len(axes))
        inside = tuple(slice(self.pad, self.pad + s) for s in x.shape[2:])
        padded[(slice(None), slice(None), *inside)] = x
        windows = np.lib.stride_tricks.sliding_window_view(padded, x.shape[2:], axes)
        places = (draws.uniform(len(axes)) * (2 * self.pad + 1)).astype(int)
        chosen = (np.arange(count)[:, None], np.arange(x.shape[1]))
        return np.ascontiguousarray(windows[(*chosen, *places.T[..., None])])


@dataclass(frozen=True)
class ScaleJitter(Augmentation):
    """The shorter side resized to a random number of pixels, and the crop at a random place.

    ``low``, ``high``: the least and the most pixels, both drawn. (Simonyan and Zisserman 2015,
    section 3.1: 256 to 512 for a crop of 224)
    """

    name: ClassVar[str] = "scale_jitter"
    low: int = _amount(256, 1, 8192, "pixels")
    high: int = _amount(512, 1, 8192, "pixels")

    def unfit(self, spec: InputSpec) -> str:
        if self.low > self.high:
            return f"has `low={self.low}` above `high={self.high}`"
        if "crop" not in spec.preprocessing:
            return "takes images, of which the network's `input` declares a `crop`"
        crop = spec.preprocessing["crop"]
        most = max(crop) if isinstance(crop, Sequence) else crop
        return f"has `low={self.low}`, less than the crop of {most}" if self.low < most else ""

    def views(self, views: list[View], draws: Draws) -> list[View]:
        drawn = draws.uniform(3)
        sizes = self.low + (drawn[:, 0] * (self.high - self.low + 1)).astype(int)
        return [
            View(int(size), (float(down), float(right)))
            for size, (down, right) in zip(sizes, drawn[:, 1:], strict=True)
        ]


@dataclass(frozen=True)
class Flip(Augmentation):
    """Left and right exchanged: the last axis turned round.

    ``p``: how probably. (Krizhevsky, Sutskever and Hinton 2012, section 4.1)
    """

    name: ClassVar[str] = "flip"
    p: float = _amount(0.5, 0.0, 1.0, "probability")

    def unfit(self, spec: InputSpec) -> str:
        return "" if spec.shape[1:] else "takes inputs with spatial axes"

    def apply(self, x: Array, draws: Draws, frame: Frame) -> Array:
        flipped = draws.uniform(1)[:, 0] < self.p
        x[flipped] = x[flipped][..., ::-1]
        return x


@dataclass(frozen=True)
class Affine(Augmentation):
    """Images moved, scaled, squeezed and sheared, by bilinear interpolation; outside is black.

    Horizontal and vertical translation, scaling, squeezing (compression one way and elongation the
    other) and horizontal shearing are the distortions that LeNet-5 was trained with (LeCun et al.
    1998, section III.A). The paper gives no amounts; these are drawn evenly between plus and minus:
    ``translate`` in pixels; ``scale`` and ``squeeze`` as parts of the size, 0.1 being from 1/1.1 to
    1.1 times as large; ``shear`` in pixels sideways per pixel of height.
    """

    name: ClassVar[str] = "affine"
    translate: float = _amount(2.0, 0.0, 512.0, "pixels")
    scale: float = _amount(0.15, 0.0, 4.0, "part of the size")
    squeeze: float = _amount(0.15, 0.0, 4.0, "part of the size")
    shear: float = _amount(0.25, 0.0, 4.0, "pixels per pixel")

    def unfit(self, spec: InputSpec) -> str:
        return "" if len(spec.shape) == 3 else "takes images"

    def apply(self, x: Array, draws: Draws, frame: Frame) -> Array:
        return resampling.resampled(x, self._sources(draws), frame.black)

    def _sources(self, draws: Draws) -> Array:
        """N×2×3: where every pixel comes from, measured from the middle of the image.

        (y, x) ← matrix · (y, x, 1), the inverse of stretching by scale and squeeze, shearing and
        moving, in this order.
        """
        drawn = 2 * draws.uniform(5) - 1
        scale = (1 + self.scale) ** drawn[:, 0]
        squeeze = (1 + self.squeeze) ** drawn[:, 1]
        shear = self.shear * drawn[:, 2]
        down, right = self.translate * drawn[:, 3], self.translate * drawn[:, 4]
        taller, wider = scale * squeeze, scale / squeeze
        sources = np.zeros((len(drawn), 2, 3))
        sources[:, 0, 0], sources[:, 0, 2] = 1 / taller, -down / taller
        sources[:, 1, 1], sources[:, 1, 0] = 1 / wider, -shear / wider
        sources[:, 1, 2] = (shear * down - right) / wider
        return sources


# -- what it sees there ----------------------------------------------------------------------


@dataclass(frozen=True)
class Colour(Augmentation):
    """Colours shifted along their principal components over the training images.

    To every pixel of an image is added Σ αₖ·λₖ·pₖ, pₖ and λₖ being the eigenvectors and eigenvalues
    of the covariance of the pixels' colours, and αₖ normal with deviation ``sigma``. (Krizhevsky,
    Sutskever and Hinton 2012, section 4.1: 0.1.) Colours are measured from black 0 to white 1, for
    λₖ are variances, and so the amount depends on the scale. They come from up to 1,000 images.
    """

    name: ClassVar[str] = "colour"
    sigma: float = _amount(0.1, 0.0, 4.0, "deviation of the factors")
    components: Array | None = field(default=None, repr=False, compare=False)
    """C×C: the columns are pₖ·λₖ."""

    def unfit(self, spec: InputSpec) -> str:
        return "" if spec.shape[0] > 1 and spec.shape[1:] else "takes inputs of several channels"

    def fit(self, data: Data, indices: Array) -> Augmentation:
        frame = Frame.of(data.spec)
        count, total, products = 0, np.zeros(1), np.zeros((1, 1))
        for chosen in _in_pieces(indices[:: max(1, len(indices) // SAMPLE)][:SAMPLE]):
            x = np.moveaxis(data.read(chosen), 1, -1).reshape(-1, len(frame.black))
            colours = (x - frame.black).astype(np.float64) / frame.contrast
            count += len(colours)
            total = total + colours.sum(axis=0)
            products = products + colours.T @ colours
        covariance = products / count - np.outer(total, total) / count**2
        variances, vectors = np.linalg.eigh(covariance)
        return replace(self, components=vectors * np.maximum(variances, 0))

    @property
    def learned(self) -> Mapping[str, Array]:
        return {} if self.components is None else {"components": self.components}

    def apply(self, x: Array, draws: Draws, frame: Frame) -> Array:
        assert self.components is not None, "fit comes first"
        alpha = self.sigma * draws.normal(x.shape[1])
        shift = (alpha @ self.components.T * frame.contrast).astype(np.float32)
        x += shift.reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
        return x


@dataclass(frozen=True)
class PixelMean(Augmentation):
    """The mean of the training images taken from every image, pixel by pixel.

    It belongs to what the network takes, so weights files keep it and programs with such weights
    take it off what they are given. (Krizhevsky,
    Sutskever and Hinton 2012, section 2)
    """

    name: ClassVar[str] = "pixel_mean"
    mean: Array | None = field(default=None, repr=False, compare=False)
    """float32, of the input's shape."""

    def fit(self, data: Data, indices: Array) -> Augmentation:
        total = np.zeros(data.spec.shape)
        for chosen in _in_pieces(indices):
            total += data.read(chosen).sum(axis=0, dtype=np.float64)
        return replace(self, mean=(total / len(indices)).astype(np.float32))

    @property
    def learned(self) -> Mapping[str, Array]:
        return {} if self.mean is None else {"mean": self.mean}

    def apply(self, x: Array, draws: Draws, frame: Frame) -> Array:
        assert self.mean is not None, "fit comes first"
        x -= self.mean
        return x


@dataclass(frozen=True)
class Cutout(Augmentation):
    """A square of zeros with its middle at a random pixel, so that it may reach over the edge.

    ``size``: its side in pixels. (DeVries and Taylor 2017: 16 for CIFAR-10)
    """

    name: ClassVar[str] = "cutout"
    size: int = _amount(16, 1, 512, "pixels")

    def unfit(self, spec: InputSpec) -> str:
        return "" if spec.shape[1:] else "takes inputs with spatial axes"

    def apply(self, x: Array, draws: Draws, frame: Frame) -> Array:
        middles = (draws.uniform(x.ndim - 2) * x.shape[2:]).astype(int)
        for image, middle in zip(x, (middles - self.size // 2).tolist(), strict=True):
            image[(slice(None), *(slice(max(m, 0), max(m + self.size, 0)) for m in middle))] = 0
        return x


@dataclass(frozen=True)
class Mixup(Augmentation):
    """Every image mixed with another one of its batch, and their targets alike.

    x ← λ·x + (1 − λ)·x′ with λ from Beta(``alpha``, ``alpha``), drawn for every image. Targets
    become shares of classes, which the loss `soft_cross_entropy` takes. (Zhang et al. 2018: 0.1 to
    0.4 for ImageNet, 1 for CIFAR-10.) The partner is a function of the batch as a whole.
    """

    name: ClassVar[str] = "mixup"
    alpha: float = _amount(0.2, 0.01, 100.0, "of Beta(alpha, alpha)")

    def mix(self, x: Array, shares: Array, draws: Draws) -> tuple[Array, Array]:
        generator = draws.generator()
        partner = generator.permutation(len(x))
        kept = generator.beta(self.alpha, self.alpha, (len(x), 1)).astype(np.float32)
        along = kept.reshape(-1, *(1,) * (x.ndim - 1))
        mixed = along * x + (1 - along) * x[partner]
        return mixed, kept * shares + (1 - kept) * shares[partner]


def _in_pieces(indices: Array, size: int = 256) -> list[Array]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


# -- from a recipe ---------------------------------------------------------------------------

AUGMENTATIONS: Mapping[str, type[Augmentation]] = {
    kind.name: kind for kind in (Crop, ScaleJitter, Flip, Affine, Colour, PixelMean, Cutout, Mixup)
}
"""All augmentations by the name that recipes know them by."""


def make(name: str, given: Mapping[str, Any], spec: InputSpec) -> Augmentation:
    """The augmentation that a recipe names. Raises CompileError E564 for what is wrong with it."""
    if name not in AUGMENTATIONS:
        raise problem(
            "E564",
            f"there is no augmentation called `{name}`",
            *(did_you_mean(name, AUGMENTATIONS) or (f"there are {', '.join(AUGMENTATIONS)}",)),
        )
    kind = AUGMENTATIONS[name]
    known = {f.name: f for f in fields(kind) if f.metadata}
    values = {}
    for key, value in given.items():
        if key not in known:
            has = ", ".join(f"`{k}`" for k in known) or "none"
            help = did_you_mean(key, known) or (f"its parameters are {has}",)
            raise problem("E564", f"`{name}` has no parameter `{key}`", *help)
        values[key] = _checked(name, key, value, known[key].metadata)
    made = kind(**values)
    if reason := made.unfit(spec):
        raise problem("E564", f"`{name}` {reason}; {spec} is given")
    return made


def _checked(name: str, key: str, value: Any, limits: Mapping[str, Any]) -> Any:
    low, high, unit = (limits[k] for k in ("low", "high", "unit"))
    whole = isinstance(low, int)
    numbers = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, numbers) or not low <= value <= high:
        wanted = f"{'a whole number' if whole else 'a number'} from {low:g} to {high:g} ({unit})"
        raise problem("E564", f"`{key}` of `{name}` is {wanted}, not {value!r}")
    return value if whole else float(value)


def fit(
    augmentations: Sequence[Augmentation], data: Data, indices: Array
) -> tuple[Augmentation, ...]:
    """Augmentations with what they learn from the examples that are trained on."""
    return tuple(a.fit(data, np.asarray(indices)) for a in augmentations)


def learned(augmentations: Sequence[Augmentation]) -> dict[str, Array]:
    """What augmentations have learned, by `NAME.FIELD`, for a checkpoint."""
    return {f"{a.name}.{key}": array for a in augmentations for key, array in a.learned.items()}


def input_mean(augmentations: Sequence[Augmentation]) -> Array | None:
    """What augmentations take off every image, which belongs to the weights; None for nothing."""
    means = [a.mean for a in augmentations if isinstance(a, PixelMean) and a.mean is not None]
    return np.asarray(np.sum(means, axis=0, dtype=np.float32)) if means else None


def restored(
    augmentations: Sequence[Augmentation], arrays: Mapping[str, Array]
) -> tuple[Augmentation, ...]:
    """Augmentations with what a checkpoint kept of them."""
    known = [
        {f.name: arrays[f"{a.name}.{f.name}"] for f in fields(a) if f"{a.name}.{f.name}" in arrays}
        for a in augmentations
    ]
    return tuple(replace(a, **values) for a, values in zip(augmentations, known, strict=True))
