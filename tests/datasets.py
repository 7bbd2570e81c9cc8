"""Small data sets that tests of training write: idx files, folders of PNG images, arrays."""

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image

CODES = {"uint8": 0x08, "int16": 0x0B, "float32": 0x0D}


def idx_bytes(array: np.ndarray) -> bytes:
    head = struct.pack(">HBB", 0, CODES[array.dtype.name], array.ndim)
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return head + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def idx_files(folder: Path, images, labels, part="train", packed=False) -> Path:
    folder.mkdir(exist_ok=True)
    for kind, array in (("images", images), ("labels", labels.astype(np.uint8))):
        content = idx_bytes(array)
        name = f"{part}-{kind}-idx{array.ndim}-ubyte"
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def digits(count: int, size: int = 28, classes: int = 10):
    """Random bytes as images, and labels that are not in order."""
    random = np.random.default_rng(count)
    images = random.integers(0, 256, (count, size, size), np.uint8)
    return images, random.permutation(np.arange(count) % classes)


def image_folder(folder: Path, per_class: int, classes=("cat", "dog"), size=(6, 8)) -> Path:
    """Image number i of all is of one colour, (10·i, 100, 200)."""
    number = 0
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            colour = (10 * number % 256, 100, 200)
            Image.new("RGB", size[::-1], colour).save(folder / name / f"{i:03}.png")
            number += 1
    return folder
