"""Reads what a network is run on: images through the preprocessing its `input` declares, arrays as
they are, the bundled digits, or random numbers.

The steps of preprocessing, in this order; each is left out where the program does not declare it:

- grey for one channel, colours for three, as stored for four (`order=bgr` turns colours round)
- `resize`: the shorter side to that many pixels, or to height x width
- `crop`: that many pixels, or height x width, from the middle
- `invert=on`: dark for light
- `pad`: that many black pixels on every side
- `range`: black and white become these two numbers; 0 and 1 if it is not given
- `mean`, `std`: per channel, subtracted and divided by
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convdsl import resources
from convdsl.diagnostics import CompileError, problem
from convdsl.graph import Graph, TensorType, Variable
from convdsl.graph.types import Shape, extents

if TYPE_CHECKING:
    from PIL.Image import Image

Array = np.ndarray
ARRAYS = (".npy", ".npz")
GREY, COLOUR, WITH_ALPHA = 1, 3, 4
MODES = {GREY: "L", COLOUR: "RGB", WITH_ALPHA: "RGBA"}
MOST_PIXELS = 100_000_000


@dataclass(frozen=True)
class InputSpec:
    """What a network takes: an array of that shape (without the batch), and how images become it.

    ``preprocessing`` has the attributes of the program's `input`, ``labels`` the names of the
    classes where it declares some.
    """

    name: str
    shape: Shape
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()

    @staticmethod
    def of(variable: Variable) -> InputSpec:
        """The input of a graph."""
        return InputSpec(variable.name, variable.type.shape, dict(variable.attributes))

    @staticmethod
    def of_graph(graph: Graph) -> InputSpec:
        """The first input of a graph, with the names of the classes that the graph tells apart."""
        return replace(InputSpec.of(graph.inputs[0]), labels=graph.labels)

    def __str__(self) -> str:
        return f"`{self.name}` ({TensorType(self.shape)})"


# -- reading ---------------------------------------------------------------------------------


def read(path: Path, inputs: Sequence[InputSpec]) -> list[Array]:
    """One float32 array N×shape per input, from an image, an `.npy` or an `.npz` file.

    Raises CompileError: E530 where the file cannot be read, E531 where it does not fit the network,
    E532 where it holds NaN or infinity.
    """
    if path.is_dir():
        raise problem("E530", f"{path} is a directory, not an image or an array")
    if not path.exists():
        raise problem("E530", f"there is no file {path}")
    if path.suffix.lower() in ARRAYS:
        given = _arrays(path, inputs)
        return [_checked(array, spec, path) for array, spec in zip(given, inputs, strict=True)]
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise problem(
            "E531",
            f"{path} is one image, the network has {len(inputs)} inputs",
            f"give an `.npz` file with the arrays {names}",
        )
    return [from_image(read_image(path), inputs[0], str(path))[None]]


def _arrays(path: Path, inputs: Sequence[InputSpec]) -> list[Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
        named = {name: loaded[name] for name in loaded.files} if hasattr(loaded, "files") else None
    except Exception as reason:
        if "pickle" in str(reason):
            reason = ValueError("it holds Python objects, which are not safe to read")
        raise _unreadable(path, "as an array", reason) from None
    if named is None:
        if len(inputs) == 1:
            return [loaded]
        raise problem("E531", f"{path} has one array, the network has {len(inputs)} inputs")
    if len(inputs) == len(named) == 1:
        return list(named.values())
    for spec in inputs:
        if spec.name not in named:
            known = ", ".join(named) or "none"
            raise problem("E531", f"{path} has no array `{spec.name}`; its arrays are {known}")
    return [named[spec.name] for spec in inputs]


def _checked(array: Array, spec: InputSpec, path: Path) -> Array:
    """The array with a batch in front, as float32."""
    if array.dtype.kind not in "fiub":
        raise problem("E531", f"{path} holds {array.dtype}, {spec} takes numbers")
    if array.shape == spec.shape:
        array = array[None]
    if array.shape[1:] != spec.shape or not len(array):
        raise problem(
            "E531",
            f"{path} has shape {_shape(array.shape)}, {spec} takes {_shape(('N', *spec.shape))} "
            f"or {_shape(spec.shape)}",
        )
    array = np.ascontiguousarray(array, np.float32)
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        place = tuple(int(i) for i in wrong[0])
        raise problem("E532", f"{path} holds {array[place]} at {_shape(place)}")
    return array


def read_image(path: Path) -> Image:
    """An image file, turned upright. Raises CompileError E530 where it is not one."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise problem("E530", f"{path} has more than {MOST_PIXELS:,} pixels")
            image.load()
            return ImageOps.exif_transpose(image)
    except CompileError:
        raise
    except UnidentifiedImageError:
        raise problem(
            "E530",
            f"{path} is not an image that can be read",
            "arrays are given as `.npy` or `.npz` files",
        ) from None
    except Exception as reason:
        raise _unreadable(path, "as an image", reason) from None


def _unreadable(path: Path, what: str, reason: Exception) -> CompileError:
    told = getattr(reason, "strerror", None) or str(reason).strip().split("\n")[0]
    return problem("E530", f"{path} cannot be read {what}: {told or 'damaged'}")


def _shape(sizes: Sequence[object]) -> str:
    return f"[{', '.join(str(s) for s in sizes)}]"


# -- preprocessing ---------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """How an image is looked at otherwise than its `input` declares, which training varies.

    ``resize``: the shorter side, in pixels, in place of the declared `resize`. ``at``: where `crop`
    cuts, as fractions of the room below and beside it, (0.5, 0.5) being the middle.
    """

    resize: int | None = None
    at: tuple[float, float] = (0.5, 0.5)


AS_DECLARED = View()


def from_image(image: Image, spec: InputSpec, name: str = "the image") -> Array:
    """An image as a float32 array of the input's shape.

    Raises CompileError E531 where the input takes no images, or none of this size.
    """
    (made,) = from_pixels(pixels(image, spec, name)[None], spec, name)
    return np.asarray(made)


def pixels(
    image: Image, spec: InputSpec, name: str = "the image", view: View = AS_DECLARED
) -> Array:
    """An image as uint8, channels × height × width: in the input's mode, resized, cut where told.

    Raises CompileError E531 where the input takes no images, or none of this size.
    """
    if len(spec.shape) != 3 or spec.shape[0] not in MODES:
        raise problem("E531", f"{name} is an image, {spec} is none", "give an `.npy` file")
    image = _in_mode(image, spec.shape[0])
    resize = view.resize or spec.preprocessing.get("resize")
    if resize:
        image = _resized(image, resize)
    values = np.asarray(image).reshape(image.height, image.width, -1).transpose(2, 0, 1)
    return values if view is AS_DECLARED else cropped(values, spec, name, view)


def cropped(pixels: Array, spec: InputSpec, name: str, view: View = AS_DECLARED) -> Array:
    """What the declared `crop` cuts out of … × height × width, at the place of the view."""
    if "crop" not in spec.preprocessing:
        return pixels
    (high, wide), (height, width) = _sizes(spec.preprocessing["crop"]), pixels.shape[-2:]
    if high > height or wide > width:
        raise problem(
            "E531", f"{name} is {height}x{width}, smaller than the {high}x{wide} cut out of it"
        )
    top, left = int((height - high + 1) * view.at[0]), int((width - wide + 1) * view.at[1])
    if view.at == (0.5, 0.5):
        top, left = (height - high) // 2, (width - wide) // 2
    return pixels[..., top : top + high, left : left + wide]


def from_pixels(pixels: Array, spec: InputSpec, name: str = "the image") -> Array:
    """Pixels as uint8 N×C×spatial as a float32 array N×shape: what comes after `resize`.

    Raises CompileError E531 where they do not make the input's size.
    """
    given = spec.preprocessing
    before = pixels.shape[2:]
    if "crop" in given:
        pixels = cropped(pixels, spec, name)
    pads = np.broadcast_to(np.array(_numbers(given.get("pad", 0)), int), len(before))
    after = tuple(int(s + 2 * pad) for s, pad in zip(pixels.shape[2:], pads, strict=True))
    if (pixels.shape[1], *after) != spec.shape:
        raise _wrong_size(name, before, after, spec)
    if given.get("invert"):
        pixels = 255 - pixels
    if given.get("order") == "bgr":
        pixels = pixels[:, ::-1]
    black, contrast = (_along_channels(level, spec) for level in levels(spec))
    result = np.empty((len(pixels), *spec.shape), np.float32)
    inside = (slice(None), slice(None), *(slice(pad, -pad or None) for pad in pads))
    if pads.any():
        result[...] = black
    np.divide(pixels, 255 / contrast, out=result[inside], dtype=np.float32, casting="same_kind")
    result[inside] += black
    return result


def visible(x: Array, spec: InputSpec) -> Array:
    """Images N×shape as the network takes them, as a person sees them: black 0, white 1.

    The way back from `from_pixels`, but for what was cut off or padded.
    """
    given = spec.preprocessing
    black, contrast = (_along_channels(level, spec) for level in levels(spec))
    seen = np.clip((x - black) / contrast, 0, 1)
    if given.get("order") == "bgr":
        seen = seen[:, ::-1]
    return np.asarray(1 - seen if given.get("invert") else seen)


def levels(spec: InputSpec) -> tuple[Array, Array]:
    """What black is in the network's numbers, and how much more white is; float32, per channel."""
    given = spec.preprocessing
    low, high = _numbers(given.get("range", (0, 1)))
    mean, std = (
        np.broadcast_to(_numbers(given.get(name, default)), spec.shape[:1])
        for name, default in (("mean", 0.0), ("std", 1.0))
    )
    return ((low - mean) / std).astype(np.float32), ((high - low) / std).astype(np.float32)


def _along_channels(values: Array, spec: InputSpec) -> Array:
    return values.reshape(-1, *(1,) * (len(spec.shape) - 1))


def _in_mode(image: Image, channels: int) -> Image:
    """The image with that many channels; what is transparent becomes white."""
    from PIL import Image

    if image.mode.startswith("I;16"):  # Pillow would cut these off at 255
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if channels != WITH_ALPHA and (
        image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    ):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(MODES[channels])


def _resized(image: Image, value: Any) -> Image:
    from PIL import Image

    sizes = _numbers(value)
    if len(sizes) == 2:
        high, wide = (int(s) for s in sizes)
    else:
        factor = sizes[0] / min(image.size)
        wide, high = (max(1, round(side * factor)) for side in image.size)
    return image.resize((wide, high), Image.Resampling.BILINEAR)


def _wrong_size(name: str, given: Shape, made: Shape, spec: InputSpec) -> CompileError:
    wanted = extents(spec.shape[1:])
    after = "" if given == made else f", {extents(made)} after preprocessing"
    declared = "resize" in spec.preprocessing or len(spec.shape) != 3
    return problem(
        "E531",
        f"{name} is {extents(given)}{after}, {spec} takes {wanted}",
        "the program's `resize`, `crop` and `pad` do not make the size of its input"
        if declared
        else f"`input {TensorType(spec.shape)} resize={wanted}` would resize images",
    )


def _numbers(value: Any) -> tuple[float, ...]:
    """The numbers of an attribute that has one or several."""
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _sizes(value: Any) -> tuple[int, int]:
    """Height and width."""
    sizes = _numbers(value)
    return int(sizes[0]), int(sizes[-1])


# -- without a file --------------------------------------------------------------------------


def digits(spec: InputSpec) -> tuple[Array, Array] | None:
    """The bundled digits as N×shape with their labels; None where the input does not fit them."""
    if len(spec.shape) != 3 or spec.shape[0] != GREY:
        return None
    from PIL import Image

    images, labels = resources.digits()
    try:
        return np.stack([from_image(Image.fromarray(i), spec) for i in images]), labels
    except CompileError:
        return None


def random(inputs: Sequence[InputSpec], count: int, seed: int) -> list[Array]:
    """Standard normal numbers for every input."""
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((count, *s.shape), np.float32) for s in inputs]


def in_batches(
    run: Callable[..., Array | tuple[Array, ...]], arrays: Sequence[Array], batch: int
) -> tuple[Array, ...]:
    """The outputs for any number of images, from a program for batches of that many."""
    count = len(arrays[0])
    parts = [_as_tuple(run(*chunk)) for chunk in chunks(arrays, batch)]
    return tuple(np.concatenate(output)[:count] for output in zip(*parts, strict=True))


def chunks(arrays: Sequence[Array], batch: int) -> Iterator[list[Array]]:
    """Arrays cut into batches; the last is filled up by repeating its last image."""
    for start in range(0, len(arrays[0]), batch):
        cut = [array[start : start + batch] for array in arrays]
        lacking = batch - len(cut[0])
        yield [np.concatenate([a, np.repeat(a[-1:], lacking, 0)]) if lacking else a for a in cut]


def _as_tuple(result: Array | tuple[Array, ...]) -> tuple[Array, ...]:
    return result if isinstance(result, tuple) else (result,)
