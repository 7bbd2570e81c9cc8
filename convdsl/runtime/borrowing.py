"""Takes arrays of other libraries on the GPU as they lie, in order with what wrote them.

This file stands in every package for a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .dlpack import CUDA, CUDA_MANAGED, VERSION, Borrowed, contiguous_strides, taken
from .driver import NUMBER, Device


def borrowed(array: Any, device: Device) -> Borrowed | None:
    """An array of the GPU as it lies, when its producer's work on it is ordered before ours.

    None for one of the host. Raises ValueError where it is on another GPU, or its producer does not
    hand it over. Called with the device entered.
    """
    if hasattr(array, "__dlpack_device__"):
        kind, number = array.__dlpack_device__()
        if kind not in (CUDA, CUDA_MANAGED):
            return None
        if kind == CUDA and number != NUMBER:
            raise ValueError(f"the program runs on GPU {NUMBER}, the array is on {number}")
        return _taken(array, device)
    return _described(array, device)


def _taken(array: Any, device: Device) -> Borrowed:
    """By DLPack, which lets the producer order the streams."""
    stream = int(device.stream)
    try:
        try:
            capsule = array.__dlpack__(stream=stream, max_version=VERSION)
        except TypeError:  # older than that argument
            capsule = array.__dlpack__(stream=stream)
    except BufferError as reason:
        raise ValueError(f"the array on the GPU cannot be taken: {reason}") from reason
    return taken(capsule)


def _described(array: Any, device: Device) -> Borrowed | None:
    """By its ``__cuda_array_interface__``, where it has one."""
    found = getattr(array, "__cuda_array_interface__", None)
    if found is None:
        return None
    if (stream := found.get("stream")) is not None:
        device.order(device.named_stream(stream), device.stream)
    else:  # it may be written on any stream
        device.wait_for_others()
    shape, dtype = tuple(found["shape"]), np.dtype(found["typestr"])
    strides = contiguous_strides(shape)
    if found.get("strides") is not None:
        strides = tuple(stride // dtype.itemsize for stride in found["strides"])
    return Borrowed(found["data"][0], shape, strides, dtype.name, array)
