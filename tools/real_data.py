#!/usr/bin/env python3
"""Writes real data from published packages as `.npz` for `convdsl train`: series, and a volume.

    pip install --no-deps aeon nilearn nibabel
    tools/real_data.py GunPoint -o gun_point.npz          # 50 + 150 series of 150 values
    tools/real_data.py BasicMotions -o basic_motions.npz  # 40 + 40 series of six channels
    tools/real_data.py tissue -o tissue.npz               # 6,000 + 3,000 pieces of a brain

Run it with the environment's Python (`.venv/bin/python`), with those packages in it. Of the first
two only the data files are read, which needs nothing else that these packages depend on.

The volume is the MNI152 template, T1-weighted, with its maps of grey and white matter. A piece is
16×16×16 voxels of 1 mm, taken to mean 0 and deviation 1; its class is the tissue to which the voxel
in the middle belongs by more than one half. Slabs from the back of the head to the front are in
turn for training and for testing, with a gap as wide as a piece between them, so that no voxel is
in both. The two sides of this template are mirror images, and slabs go through both.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Array = np.ndarray
Parts = dict[str, Array]

SERIES = ("GunPoint", "BasicMotions")
TEMPLATE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
SIDE = 16
SLAB = 24
"""Voxels from a slab's first middle of a piece to its last."""
COUNTS = {"train": 2000, "test": 1000}
"""Pieces of each class."""


def main(arguments: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("name", choices=(*SERIES, "tissue"))
    made.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.npz")
    args = made.parse_args(arguments)
    parts = tissue() if args.name == "tissue" else series(args.name)
    np.savez_compressed(args.output, **parts)
    shapes = (f"{name} {'×'.join(map(str, a.shape))}" for name, a in parts.items())
    print(f"{args.output}: {', '.join(shapes)}")
    return 0


def folder_of(package: str) -> Path:
    """Where a package's files are; it is not imported."""
    found = importlib.util.find_spec(package)
    if not found or not found.submodule_search_locations:
        raise SystemExit(f"{package} is not installed; `pip install --no-deps {package}` does")
    return Path(next(iter(found.submodule_search_locations)))


# -- series ----------------------------------------------------------------------------------


def series(name: str) -> Parts:
    """A set that aeon brings, in its own two parts; channels to mean 0 and deviation 1."""
    folder = folder_of("aeon") / "datasets" / "data" / name
    texts = [folder.joinpath(f"{name}_{p}.ts").read_text("utf-8") for p in ("TRAIN", "TEST")]
    (x, told), (x_test, told_test) = map(parsed, texts)
    classes = sorted(set(told))
    mean, deviation = x.mean((0, 2), keepdims=True), x.std((0, 2), keepdims=True)
    return {
        "x": ((x - mean) / deviation).astype(np.float32),
        "y": np.array([classes.index(c) for c in told]),
        "x_test": ((x_test - mean) / deviation).astype(np.float32),
        "y_test": np.array([classes.index(c) for c in told_test]),
    }


def parsed(text: str) -> tuple[Array, list[str]]:
    """Series N×C×length and their classes, from the format `.ts`.

    After `@data` every line is a series: its channels and its class with colons between them.
    """
    _, _, data = text.partition("@data")
    lines = [line.split(":") for line in data.split()]
    x = [[np.fromstring(channel, sep=",") for channel in channels] for *channels, _ in lines]
    return np.array(x), [told for *_, told in lines]


# -- a volume --------------------------------------------------------------------------------


def tissue() -> Parts:
    """Pieces of the template, and the tissue in their middle."""
    if not importlib.util.find_spec("nibabel"):
        raise SystemExit("nibabel is not installed; `pip install --no-deps nibabel` does")
    import nibabel

    folder = folder_of("nilearn") / "datasets" / "data"
    image, grey, white = (
        np.asarray(nibabel.load(folder / TEMPLATE.format(kind)).dataobj, np.float32)
        for kind in ("t1", "gm", "wm")
    )
    return pieces(image, grey / grey.max(), white / white.max(), COUNTS)


def pieces(image: Array, grey: Array, white: Array, counts: dict[str, int]) -> Parts:
    """`counts` pieces of each class for every part, at places drawn without repetition.

    ``grey`` and ``white`` say how much of every voxel of ``image`` is of that tissue. Other tissue
    is where the image is not black and neither is more than one half.
    """
    classes = np.where(white > 0.5, 2, np.where(grey > 0.5, 1, 0))
    half = SIDE // 2
    inside = np.zeros(image.shape, bool)
    inside[(slice(half, -half),) * 3] = True
    known = inside & (image > 0)
    slabs = slab_parts(image.shape[1])
    generator = np.random.default_rng(0)
    found: Parts = {}
    for part, count in counts.items():
        places = []
        for label in range(3):
            here = np.argwhere(known & (classes == label) & (slabs == part)[None, :, None])
            places.append(generator.permutation(here)[:count])
        middles = np.concatenate(places)
        ending = "" if part == "train" else "_test"
        found["x" + ending] = np.stack([piece(image, middle) for middle in middles])[:, None]
        found["y" + ending] = classes[tuple(middles.T)]
    return found


def slab_parts(size: int) -> Array:
    """The part that the middles in each plane belong to; empty in the gaps."""
    place = np.arange(size) % (2 * (SLAB + SIDE))
    return np.where(
        place < SLAB,
        "train",
        np.where((place >= SLAB + SIDE) & (place < 2 * SLAB + SIDE), "test", ""),
    )


def piece(image: Array, middle: Array) -> Array:
    """float32 16×16×16, mean 0 and deviation 1; the middle is the first voxel after the centre."""
    low = middle - SIDE // 2
    cut = image[tuple(slice(start, start + SIDE) for start in low)]
    return (cut - cut.mean()) / (cut.std() + 1e-6)


if __name__ == "__main__":
    sys.exit(main())
