"""DLPack: arrays handed from library to library as they lie (dmlc.github.io/dlpack, version 1.0).

A capsule holds the address of a structure that describes an array. Whoever takes the capsule calls
the structure's deleter when the array is needed no more. Capsules of version 1.0 tell their
version; those before it have another name and the same content without that.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64
from ctypes import c_void_p as c_address
from dataclasses import dataclass
from typing import Any

import numpy as np

CUDA, CUDA_MANAGED = 2, 13
"""Kinds of devices whose memory a GPU reads where it lies."""
VERSION = (1, 0)
LAYOUT_SINCE = 1
"""The version that the structure with a version has been the same from; another would be read
wrongly."""
OLD, OLD_USED = b"dltensor", b"used_dltensor"
NEW, NEW_USED = b"dltensor_versioned", b"used_dltensor_versioned"
KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", c_address),
        ("device_kind", c_int32),
        ("device_number", c_int32),
        ("axes", c_int32),
        ("kind", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, c_address)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", c_address), ("deleter", _Deleter))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", c_uint32),
        ("minor", c_uint32),
        ("context", c_address),
        ("deleter", _Deleter),
        ("flags", c_uint64),
        ("tensor", _Tensor),
    )


@dataclass(frozen=True, eq=False)
class Borrowed:
    """An array of somebody else's on the GPU, which stays there as long as this does."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements."""
    dtype: str
    lender: object

    @property
    def contiguous(self) -> bool:
        """Whether its elements lie side by side in the order of its axes."""
        expected = contiguous_strides(self.shape)
        pairs = zip(self.shape, self.strides, expected, strict=True)
        return all(size == 1 or stride == wanted for size, stride, wanted in pairs)


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """In elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


# -- capsules --------------------------------------------------------------------------------

# Prototypes of this module's own: the attributes of `ctypes.pythonapi` are everybody's.
_Destructor = ctypes.CFUNCTYPE(None, c_address)
_new = ctypes.PYFUNCTYPE(ctypes.py_object, c_address, c_char_p, _Destructor)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_content = ctypes.PYFUNCTYPE(c_address, ctypes.py_object, c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, c_char_p)(
    ("PyCapsule_SetName", ctypes.pythonapi)
)
# For a capsule that is about to vanish, of which no new reference may be made.
_still_valid = ctypes.PYFUNCTYPE(ctypes.c_int, c_address, c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_last_content = ctypes.PYFUNCTYPE(c_address, c_address, c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)

_lent: dict[int, tuple[object, ...]] = {}
"""What has to stay for structures that somebody has, by their addresses."""


def _return(address: int) -> None:
    """Nobody needs the array of that structure any more."""
    _lent.pop(address, None)


def _drop(capsule: int) -> None:
    """A capsule vanishes; where nobody took what is in it, nobody else will return it."""
    for name in (OLD, NEW):
        if _still_valid(capsule, name):
            _return(_last_content(capsule, name))


_returned, _dropped = _Deleter(_return), _Destructor(_drop)


def exported(
    address: int,
    shape: Sequence[int],
    dtype: str,
    number: int,
    owner: object,
    versioned: bool,
) -> Any:
    """A capsule of a contiguous array on the GPU of that number; the owner lives as long as it."""
    kind = np.dtype(dtype)
    code = next(code for code, name in KINDS.items() if dtype.startswith(name))
    axes = (c_int64 * len(shape))(*shape)
    strides = (c_int64 * len(shape))(*contiguous_strides(shape))
    tensor = _Tensor(
        address, CUDA, number, len(shape), code, 8 * kind.itemsize, 1, axes, strides, 0
    )
    whole: ctypes.Structure
    if versioned:
        whole, name = _Versioned(*VERSION, None, _returned, 0, tensor), NEW
    else:
        whole, name = _Managed(tensor, None, _returned), OLD
    place = ctypes.addressof(whole)
    _lent[place] = (whole, axes, strides, owner)
    return _new(place, name, _dropped)


def taken(capsule: object) -> Borrowed:
    """What a capsule holds, which belongs to the caller then. Raises ValueError for others."""
    if _is_valid(capsule, NEW):
        place = _content(capsule, NEW)
        managed: Any = _Versioned.from_address(place)
        if managed.major != LAYOUT_SINCE:
            raise ValueError(f"DLPack {managed.major}.{managed.minor} is not to be had here")
        _rename(capsule, NEW_USED)
    elif _is_valid(capsule, OLD):
        place = _content(capsule, OLD)
        managed = _Managed.from_address(place)
        _rename(capsule, OLD_USED)
    else:
        raise ValueError("not a DLPack capsule, or one that somebody took before")
    tensor = managed.tensor
    shape = tuple(tensor.shape[: tensor.axes])
    strides = tuple(tensor.strides[: tensor.axes]) if tensor.strides else contiguous_strides(shape)
    lanes = f"x{tensor.lanes}" if tensor.lanes != 1 else ""
    dtype = f"{KINDS.get(tensor.kind, 'unknown')}{tensor.bits}{lanes}"
    lender = _Lender()
    if managed.deleter:
        weakref.finalize(lender, managed.deleter, place)
    address = (tensor.data or 0) + tensor.byte_offset
    return Borrowed(address, shape, strides, dtype, lender)


class _Lender:
    """Stands for a structure that is returned when nobody has this object any more."""
