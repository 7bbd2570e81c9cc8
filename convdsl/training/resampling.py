"""Images under affine maps, by bilinear interpolation, in one compiled loop."""

from __future__ import annotations

import numpy as np

Array = np.ndarray

SIGNATURE = "void(float32[:, :, :, ::1], float32[:, :, :, ::1], float64[:, :, ::1], float32[::1])"


def resampled(x: Array, sources: Array, outside: Array) -> Array:
    """float32 N×C×height×width, every pixel from where ``sources``, N×2×3, says.

    A pixel at (y, x), measured from the middle of the image, comes from sources·(y, x, 1);
    ``outside`` of the image are these values, one per channel.
    """
    from convdsl.runtime import cache

    result = np.empty_like(x)
    cache.routine(resample, SIGNATURE)(
        np.ascontiguousarray(x), result, np.ascontiguousarray(sources, np.float64), outside
    )
    return result


def resample(x, result, sources, outside):  # type: ignore[no-untyped-def]
    """Plain Python, compiled by `resampled`; see there."""
    count, channels, height, width = x.shape
    middle_y, middle_x = (height - 1) * 0.5, (width - 1) * 0.5
    for n in range(count):
        s = sources[n]
        for i in range(height):
            for j in range(width):
                v, u = i - middle_y, j - middle_x
                y = s[0, 0] * v + s[0, 1] * u + s[0, 2] + middle_y
                z = s[1, 0] * v + s[1, 1] * u + s[1, 2] + middle_x
                # Beyond a pixel outside nothing is seen of the image, however far it is.
                y = min(max(y, -1.0), height * 1.0)
                z = min(max(z, -1.0), width * 1.0)
                top, left = int(y + 1.0) - 1, int(z + 1.0) - 1
                down, right = y - top, z - left
                for c in range(channels):
                    value = 0.0
                    for k in range(2):
                        for m in range(2):
                            inside = 0 <= top + k < height and 0 <= left + m < width
                            pixel = x[n, c, top + k, left + m] if inside else outside[c]
                            share = (down if k else 1.0 - down) * (right if m else 1.0 - right)
                            value += pixel * share
                    result[n, c, i, j] = value
