"""Reads idx files, the format of MNIST: arrays of up to four axes, plain or compressed with gzip.

The format: two zero bytes, the element type, the number of axes, the sizes as 32-bit numbers, then
the elements, all of it big-endian. (http://yann.lecun.com/exdb/mnist)
"""

from __future__ import annotations

import gzip
import math
import os
import re
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from convdsl import resources
from convdsl.diagnostics import CompileError, problem

Array = np.ndarray

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
NAME = re.compile(
    r"(?:.*[-_])?(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx\d-ubyte(?P<packed>\.gz)?"
)


def files(folder: Path) -> dict[tuple[str, str], Path]:
    """The idx files of a folder by part (train, test) and kind (images, labels).

    A plain file comes before a compressed one. Raises CompileError E560 where two data sets lie in
    the same folder.
    """
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir()):  # `a` before `a.gz`
        match = NAME.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        key = ("train" if match["part"] == "train" else "test", match["kind"])
        other = found.setdefault(key, path)
        if other != path and other.name != path.name.removesuffix(".gz"):
            raise problem(
                "E560",
                f"{folder} has two data sets: {other.name} and {path.name}",
                "give a folder with the files of one",
            )
    return found


def read(path: Path) -> Array:
    """The array of an idx file, mapped and not read; a compressed one is decompressed first.

    It is decompressed into a file without a name, which goes when the array does: a third of a
    second for the 47 MB of MNIST, and nothing to keep or to grow old. Raises CompileError E560
    where the file is damaged or cannot be read.
    """
    try:
        with path.open("rb") as file:
            if path.suffix != ".gz":
                return _mapped(file, path)
            with gzip.open(file) as packed, _nameless() as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
                plain.flush()
                return _mapped(plain, path)
    except (OSError, EOFError, zlib.error) as reason:
        told = getattr(reason, "strerror", None) or str(reason) or "damaged"
        raise problem("E560", f"{path} cannot be read: {told}") from None


def _nameless() -> IO[bytes]:
    """A file without a name beside the kernels, for temporary folders are often memory."""
    try:
        return tempfile.TemporaryFile(dir=resources.cache_directory())
    except OSError:
        return tempfile.TemporaryFile()


def _mapped(file: IO[bytes], path: Path) -> Array:
    file.seek(0)
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES or not head[3]:
        raise _damaged(path, "it does not begin as one")
    sizes_in_file = file.read(4 * head[3])
    if len(sizes_in_file) < 4 * head[3]:
        raise _damaged(path, "it ends within its head")
    shape = tuple(int(size) for size in np.frombuffer(sizes_in_file, ">u4"))
    dtype = np.dtype(TYPES[head[2]])
    offset = 4 + len(sizes_in_file)
    expected, found = math.prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - offset
    if expected != found:
        raise _damaged(path, f"its head announces {expected:,} bytes, {found:,} follow")
    if not expected:
        return np.empty(shape, dtype)
    readable: Any = file  # memmap asks for less than its annotations do
    return np.memmap(readable, dtype, "r", offset, shape)


def _damaged(path: Path, reason: str) -> CompileError:
    return problem("E560", f"{path} is not a whole idx file: {reason}")
