"""Images under affine maps, by bilinear interpolation, in one compiled loop."""

from __future__ import annotations

from inspect import getsource
from typing import TYPE_CHECKING

import numpy as np

from convdsl.plan.model import Kernel

if TYPE_CHECKING:
    from convdsl.runtime.native import floats

Array = np.ndarray


def resampled(x: Array, sources: Array, outside: Array) -> Array:
    """float32 N×C×height×width, every pixel from where ``sources``, N×2×3, says.

    A pixel at (y, x), measured from the middle of the image, comes from sources·(y, x, 1);
    ``outside`` of the image are these values, one per channel.
    """
    from convdsl.runtime.cpu import call

    result = np.empty(x.shape, np.float32)
    arrays = [np.ascontiguousarray(a, np.float32) for a in (x, sources, outside)]
    call(KERNEL, [*arrays, result], x.shape[1:], len(x))
    return result


def resample(table, begin, end, part):  # type: ignore[no-untyped-def]
    """Plain Python, compiled by its text; see `resampled`."""
    x, sources, outside, result = (
        floats(table[0]),
        floats(table[1]),
        floats(table[2]),
        floats(table[3]),
    )
    channels, height, width = table[4], table[5], table[6]
    middle_y, middle_x = (height - 1) * 0.5, (width - 1) * 0.5
    for n in range(begin, end):
        s = 6 * n
        for i in range(height):
            for j in range(width):
                v, u = i - middle_y, j - middle_x
                y = sources[s] * v + sources[s + 1] * u + sources[s + 2] + middle_y
                z = sources[s + 3] * v + sources[s + 4] * u + sources[s + 5] + middle_x
                # Beyond a pixel outside nothing is seen of the image, however far it is.
                y = min(max(y, -1.0), height * 1.0)
                z = min(max(z, -1.0), width * 1.0)
                top, left = int(y + 1.0) - 1, int(z + 1.0) - 1
                down, right = y - top, z - left
                for c in range(channels):
                    plane = (n * channels + c) * height
                    value = 0.0
                    for k in range(2):
                        for m in range(2):
                            inside = 0 <= top + k < height and 0 <= left + m < width
                            pixel = outside[c]
                            if inside:
                                pixel = x[(plane + top + k) * width + left + m]
                            share = (down if k else 1.0 - down) * (right if m else 1.0 - right)
                            value += pixel * share
                    result[(plane + i) * width + j] = value


KERNEL = Kernel(
    "resample",
    (("x", "float32"), ("sources", "float32"), ("outside", "float32"), ("result", "float32")),
    ("channels", "height", "width"),
    getsource(resample),
)
