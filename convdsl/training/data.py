"""Opens data for training: folders of images by class, idx files, NumPy arrays; reads on demand.

Images, and idx files of bytes, go through the preprocessing that the network's `input` declares,
exactly as `convdsl run` does it (`runtime/inputs.py`); other arrays are taken as they are. Nothing
is held decoded as a whole: image files are opened when they are asked for, idx and `.npy` files are
mapped. An `.npz` archive is the exception, for what it holds is packed; it stays in memory in the
element type that it was written with.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from convdsl.diagnostics import CompileError, problem
from convdsl.runtime import inputs
from convdsl.runtime.inputs import AS_DECLARED, InputSpec, View
from convdsl.training import idx

if TYPE_CHECKING:
    from PIL.Image import Image

Array = np.ndarray
Part = Literal["train", "test"]

TOO_MANY = 0.05
"""The share of unreadable images above which data is not trained on."""
ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND\xaeB`\x82"}
"""What JPEG and PNG files begin and end with: one cut off in between is found without decoding."""
TAIL = 64
"""Bytes at the end of an image file within which its end mark stands."""


@dataclass
class Data:
    """Labelled examples, read when asked for. Reading is safe from several threads.

    ``labels``: int64, one class number per example. ``classes``: the names of the classes.
    ``skipped``: what could not be read, with the reason; it may grow while images are decoded.
    """

    spec: InputSpec
    labels: Array
    classes: tuple[str, ...]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Sequence[int] | Array, views: Sequence[View] | None = None) -> Array:
        """The examples of these indices as float32 N×C×spatial.

        ``views``, one per example, vary how images are resized and cut; arrays have none. Raises
        CompileError E563 where an example is lost, E532 where it is not finite.
        """
        raise NotImplementedError

    def seen(self, indices: Sequence[int] | Array) -> Array:
        """The examples of these indices as a person sees them, from 0 to 1, in the same shape."""
        return inputs.visible(self.read(indices), self.spec)


# -- opening ---------------------------------------------------------------------------------


def open_data(
    path: str | Path, input: InputSpec, classes: int | None = None, part: Part = "train"
) -> Data:
    """The data at a path, for a network's ``input`` and its number of outputs.

    ``path`` is a folder with one sub-folder of images per class, a folder of idx files, an `.npz`
    file with arrays `x` and `y`, or a folder with `x.npy` and `y.npy`. The test part, where there
    is one, are sub-folders called `train` and `test`, the idx files called `t10k` or `test`, or
    arrays `x_test` and `y_test`.

    Raises CompileError: E560 where it cannot be read, E561 where it does not fit the network, E562
    where too many images are unreadable.
    """
    path = Path(path)
    try:
        data = _opened(path, input, classes, part)
    except OSError as reason:
        raise problem("E560", f"{reason.filename or path}: {reason.strerror}") from None
    if not len(data):
        raise problem("E560", f"{path} has no examples")
    return data


def has_test_part(path: str | Path) -> bool:
    """Whether data has examples set apart for testing."""
    path = Path(path)
    if path.suffix == ".npz":
        with _archive(path) as archive:
            return "x_test" in archive
    if not path.is_dir():
        return False
    return (
        ("test", "images") in idx.files(path) or (path / "x_test.npy").is_file() or _has_parts(path)
    )


def _opened(path: Path, spec: InputSpec, classes: int | None, part: Part) -> Data:
    if not path.exists():
        raise problem("E560", f"there is no file or folder {path}")
    if path.is_file():
        if path.suffix != ".npz":
            raise problem("E560", f"{path} is not data that can be read", _KINDS)
        return _from_archive(path, spec, classes, part)
    if idx_files := idx.files(path):
        return _from_idx(path, idx_files, spec, classes, part)
    if (path / f"{_array_name('x', part)}.npy").is_file():
        return _from_arrays(path, spec, classes, part)
    if _has_parts(path):
        path = path / part
    return _from_folder(path, spec, classes)


_KINDS = (
    "data is a folder with a sub-folder of images per class, a folder of idx files, "
    "an `.npz` file with arrays `x` and `y`, or a folder with `x.npy` and `y.npy`"
)


def split(data: Data, fraction: float, seed: int) -> tuple[Array, Array]:
    """Indices to train on and indices to validate on, of every class in the same proportion.

    A function of labels, fraction and seed alone. At least one example of every class is left to
    train on.
    """
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(data), bool)
    for label in np.unique(data.labels):
        of_class = generator.permutation(np.flatnonzero(data.labels == label))
        held_out[of_class[: min(round(fraction * len(of_class)), len(of_class) - 1)]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


# -- labels ----------------------------------------------------------------------------------


def _class_names(spec: InputSpec, count: int) -> tuple[str, ...]:
    return spec.labels if len(spec.labels) == count else tuple(str(i) for i in range(count))


def _checked_labels(
    labels: Array, examples: int, classes: int | None, spec: InputSpec, name: str
) -> tuple[Array, tuple[str, ...]]:
    """Labels as int64, with the names of the classes."""
    if labels.dtype.kind not in "iub" or labels.ndim != 1:
        raise problem(
            "E561",
            f"{name} holds {labels.dtype} of shape {_shape(labels.shape)}, "
            "labels are whole numbers of shape [N]",
        )
    if len(labels) != examples:
        raise problem("E561", f"{name} has {len(labels)} labels for {examples} examples")
    labels = labels.astype(np.int64)
    least, most = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    count = most + 1 if classes is None else classes
    if least < 0 or most >= count:
        help = f"`--set classes={most + 1}` where the network has such a parameter"
        raise problem(
            "E561",
            f"{name} has labels from {least} to {most}, the network's classes are 0 to {count - 1}",
            *(() if least < 0 else (help,)),
        )
    return labels, _class_names(spec, count)


def _shape(sizes: Sequence[object]) -> str:
    return f"[{', '.join(str(s) for s in sizes)}]"


# -- arrays ----------------------------------------------------------------------------------


@dataclass
class Arrays(Data):
    """Examples in an array N×C×spatial of numbers, taken as they are."""

    x: Array = field(default_factory=lambda: np.empty(0))

    def read(self, indices: Sequence[int] | Array, views: Sequence[View] | None = None) -> Array:
        chosen = np.asarray(indices)
        x = np.ascontiguousarray(self.x[chosen], np.float32)
        finite = np.isfinite(x.reshape(len(x), -1)).all(axis=1)
        if not finite.all():
            raise problem("E532", f"example {chosen[~finite][0]} holds NaN or infinity")
        return x

    def seen(self, indices: Sequence[int] | Array) -> Array:
        """Each from its least value to its largest, because nothing says what they mean."""
        x = self.read(indices)
        over = tuple(range(1, x.ndim))
        low, high = x.min(axis=over, keepdims=True), x.max(axis=over, keepdims=True)
        return np.asarray((x - low) / np.where(high > low, high - low, 1))


def from_arrays(
    x: Array, y: Array, spec: InputSpec, classes: int | None = None, name: str = "the data"
) -> Data:
    """Data in arrays `x`, N×C×spatial, and `y`, N class numbers. Raises CompileError E561."""
    if x.dtype.kind not in "fiub":
        raise problem("E561", f"`x` of {name} holds {x.dtype}, {spec} takes numbers")
    if x.shape[1:] != spec.shape:
        raise problem(
            "E561",
            f"`x` of {name} has shape {_shape(x.shape)}, {spec} takes {_shape(('N', *spec.shape))}",
        )
    labels, names = _checked_labels(y, len(x), classes, spec, f"`y` of {name}")
    return Arrays(spec, labels, names, x=x)


def _array_name(name: str, part: Part) -> str:
    return name if part == "train" else f"{name}_test"


def _archive(path: Path) -> np.lib.npyio.NpzFile:
    try:
        loaded = np.load(path, allow_pickle=False)
    except Exception as reason:  # whatever is wrong with the file
        raise problem("E560", f"{path} cannot be read as an archive: {reason}") from None
    assert isinstance(loaded, np.lib.npyio.NpzFile)
    return loaded


def _from_archive(path: Path, spec: InputSpec, classes: int | None, part: Part) -> Data:
    with _archive(path) as archive:
        found: dict[str, Array] = {}
        for name in (_array_name("x", part), _array_name("y", part)):
            if name not in archive:
                known = ", ".join(archive.files) or "none"
                raise problem("E560", f"{path} has no array `{name}`; its arrays are {known}")
            try:
                found[name] = archive[name]
            except Exception as reason:
                raise problem("E560", f"`{name}` of {path} cannot be read: {reason}") from None
    x, y = found.values()
    return from_arrays(x, y, spec, classes, str(path))


def _from_arrays(path: Path, spec: InputSpec, classes: int | None, part: Part) -> Data:
    mapped = []
    for name in (_array_name("x", part), _array_name("y", part)):
        file = path / f"{name}.npy"
        try:
            mapped.append(np.load(file, mmap_mode="r", allow_pickle=False))
        except FileNotFoundError:
            raise problem("E560", f"there is no file {file}") from None
        except Exception as reason:
            raise problem("E560", f"{file} cannot be read as an array: {reason}") from None
    x, y = mapped
    return from_arrays(x, y, spec, classes, str(path))


# -- idx -------------------------------------------------------------------------------------


@dataclass
class Pixels(Data):
    """Examples in an array N×spatial of bytes, black 0 and white 255, preprocessed when read."""

    stored: Array = field(default_factory=lambda: np.empty(0, np.uint8))

    def read(self, indices: Sequence[int] | Array, views: Sequence[View] | None = None) -> Array:
        stored = np.asarray(self.stored[np.asarray(indices)])
        if views is not None or "resize" in self.spec.preprocessing:
            return self._one_by_one(stored, views or [AS_DECLARED] * len(stored))
        grey = stored[:, None]
        colours = np.broadcast_to(grey, (len(grey), self.spec.shape[0], *grey.shape[2:]))
        return inputs.from_pixels(colours, self.spec)

    def _one_by_one(self, stored: Array, views: Sequence[View]) -> Array:
        from PIL import Image

        pixels = [
            inputs.pixels(Image.fromarray(image), self.spec, view=view)
            for image, view in zip(stored, views, strict=True)
        ]
        return inputs.from_pixels(np.stack(pixels), self.spec)


def _from_idx(
    path: Path,
    files: Mapping[tuple[str, str], Path],
    spec: InputSpec,
    classes: int | None,
    part: Part,
) -> Data:
    for kind in ("images", "labels"):
        if (part, kind) not in files:
            raise problem(
                "E560",
                f"{path} has no {kind} of the {part} part",
                f"its idx files are {', '.join(p.name for p in files.values())}",
            )
    images, labels = idx.read(files[part, "images"]), idx.read(files[part, "labels"])
    name = str(files[part, "images"])
    checked, names = _checked_labels(labels, len(images), classes, spec, str(files[part, "labels"]))
    if images.dtype != np.uint8:
        missing = (None,) * (len(spec.shape) + 1 - images.ndim)
        x = images[(slice(None), *missing)]
        return from_arrays(x, checked, spec, classes, name)
    if images.ndim != len(spec.shape):
        raise problem(
            "E561",
            f"{name} has shape {_shape(images.shape)}, {spec} takes N and its "
            f"{len(spec.shape) - 1} spatial sizes",
        )
    data = Pixels(spec, checked, names, stored=images)
    if len(data):
        try:
            data.read([0])
        except CompileError as error:
            (found,) = error.diagnostics
            told = found.message.replace("the image is", f"every image of {name} is")
            raise problem("E561", told, *found.help) from None
    return data


# -- folders ---------------------------------------------------------------------------------


@dataclass
class Folder(Data):
    """Image files, each decoded when it is read.

    A file that turns out to be damaged then is noted in ``skipped``, and the next whole image of
    its class stands in for it; one that is gone stops the reading, because it can come back.
    """

    paths: tuple[Path, ...] = ()
    _noting: threading.Lock = field(default_factory=threading.Lock)

    def read(self, indices: Sequence[int] | Array, views: Sequence[View] | None = None) -> Array:
        views = views or [AS_DECLARED] * len(indices)
        pixels = [self._pixels(int(i), v) for i, v in zip(indices, views, strict=True)]
        shapes = {p.shape for p in pixels}
        if len(shapes) == 1:
            return inputs.from_pixels(np.stack(pixels), self.spec, str(self.paths[indices[0]]))
        # Sizes differ where nothing is resized, which then fits or is told image by image.
        each = [
            inputs.from_pixels(p[None], self.spec, str(self.paths[i]))
            for p, i in zip(pixels, indices, strict=True)
        ]
        return np.concatenate(each)

    def _pixels(self, index: int, view: View) -> Array:
        for candidate in self._with_stand_ins(index):
            path = self.paths[candidate]
            image = self._image(path)
            if image is not None:
                return inputs.pixels(image, self.spec, str(path), view)
        name = self.classes[self.labels[index]]
        raise problem("E562", f"no image of the class `{name}` can be read")

    def _with_stand_ins(self, index: int) -> Iterator[int]:
        """The example, then the others of its class in order, beginning with the next one."""
        yield index
        of_class = np.flatnonzero(self.labels == self.labels[index])
        place = int(np.searchsorted(of_class, index))
        yield from (int(i) for i in np.roll(of_class, -place)[1:])

    def _image(self, path: Path) -> Image | None:
        """The image, or None where its file is damaged."""
        if any(name == str(path) for name, _ in self.skipped):
            return None
        try:
            return inputs.read_image(path)
        except CompileError as error:
            _raise_if_lost(path)
            reason = error.diagnostics[0].message
        with self._noting:
            if all(name != str(path) for name, _ in self.skipped):
                self.skipped.append((str(path), reason))
                _check_share(self.skipped, len(self.paths))
        return None


def _raise_if_lost(path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as reason:
        raise problem(
            "E563",
            f"{path} was there when training began: {reason.strerror}",
            "with the file back in its place, `--resume` goes on from the last checkpoint",
        ) from None


def _check_share(skipped: Sequence[tuple[str, str]], examples: int) -> None:
    if len(skipped) > TOO_MANY * examples:
        first = "; ".join(reason for _, reason in skipped[:3])
        raise problem(
            "E562", f"{len(skipped)} of {examples} images cannot be read, among them: {first}"
        )


def _sub_folders(path: Path) -> dict[str, Path]:
    return {p.name: p for p in sorted(path.iterdir()) if p.is_dir() and p.name[0] != "."}


def _has_parts(path: Path) -> bool:
    """Whether the folders are not classes but parts, each with folders of classes."""
    folders = _sub_folders(path)
    return set(folders) == {"train", "test"} and all(map(_sub_folders, folders.values()))


def _from_folder(path: Path, spec: InputSpec, classes: int | None) -> Data:
    folders = _sub_folders(path)
    if not folders:
        raise problem("E560", f"{path} has no sub-folders with images, one per class", _KINDS)
    names = _classes_of(path, folders, spec, classes)
    paths: list[Path] = []
    labels: list[int] = []
    skipped: list[tuple[str, str]] = []
    files = {label: _image_files(folders[n]) for label, n in enumerate(names) if n in folders}
    for label, of_class in files.items():
        if not of_class:
            raise problem("E560", f"{folders[names[label]]} has no images")
        for file in of_class:
            reason = _unreadable(file)
            if reason:
                skipped.append((str(file), reason))
            else:
                paths.append(file)
                labels.append(label)
    _check_share(skipped, len(paths) + len(skipped))
    data = Folder(spec, np.array(labels, np.int64), names, skipped, tuple(paths))
    data.read([0])  # where nothing is resized, most data that does not fit is found here
    return data


def _classes_of(
    path: Path, folders: Mapping[str, Path], spec: InputSpec, classes: int | None
) -> tuple[str, ...]:
    """The names of the classes in the order of the network's outputs.

    They are the `labels` of its input where these name all folders, else the folders by name.
    """
    declared = spec.labels
    if set(folders) <= set(declared) and classes in (None, len(declared)):
        return declared
    if classes not in (None, len(folders)):
        raise problem(
            "E561",
            f"{path} has {len(folders)} folders of images, the network has {classes} outputs",
            f"`--set classes={len(folders)}` where the network has such a parameter",
        )
    return tuple(folders)


def _image_files(folder: Path) -> list[Path]:
    from PIL import Image

    suffixes = Image.registered_extensions()
    found = (p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.name[0] != ".")
    return sorted(p for p in found if p.is_file())


def _unreadable(path: Path) -> str | None:
    """Why a file is no whole image, judged by its head and its end; None where it seems to be."""
    from PIL import Image

    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(-min(TAIL, os.fstat(file.fileno()).st_size), os.SEEK_END)
            tail = file.read()
            file.seek(0)
            Image.open(file).close()
    except Exception as reason:  # Pillow raises whatever its many readers do
        told = getattr(reason, "strerror", None) or str(reason) or "damaged"
        return f"{path} cannot be read as an image: {told}"
    ends = (end for start, end in ENDS.items() if head.startswith(start))
    if any(end not in tail for end in ends):
        return f"{path} cannot be read as an image: it ends too early"
    return None
