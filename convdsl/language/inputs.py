"""The `input` statement: the type of what a network takes, and how raw data becomes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from convdsl.diagnostics import did_you_mean
from convdsl.graph import TensorType
from convdsl.language import values
from convdsl.language.values import Refused, Unbound, is_number, kind
from convdsl.ops.attributes import LARGEST, Bank, Extents
from convdsl.ops.attributes import Span as Range

MOST_AXES = 3


def input_type(value: Any) -> TensorType:
    """The type that `3@224x224`, `1@16000` or `784` stands for."""
    match value:
        case Bank(channels, window):
            spatial = window.sizes if isinstance(window, Extents) else (window,)
            shape: tuple[Any, ...] = (channels, *spatial)
        case int():
            shape = (value,)
        case _:
            raise Refused(
                "E201",
                f"an input has a type, not {kind(value)}",
                "for example `3@224x224`, `1@16000`, `3@16x112x112` or `784`",
            )
    return checked_type(shape)


def checked_type(shape: tuple[Any, ...]) -> TensorType:
    """The type of that shape, unless it is none of an input."""
    for size in shape:
        if type(size) is not int:
            raise Refused("E201", f"a shape is made of whole numbers, not {kind(size)}")
        if size < 1:
            raise Refused("E201", f"a shape has sizes of at least 1, not {size}")
    if not 1 <= len(shape) <= MOST_AXES + 1:
        raise Refused(
            "E201", f"an input has at most {MOST_AXES} spatial axes, not {len(shape) - 1}"
        )
    checked = TensorType(shape)
    if checked.size > LARGEST:
        help = "a tensor has at most 2^31"
        raise Refused("E401", f"an input of {checked.size:,} elements is too large", help)
    return checked


def default_name(type: TensorType) -> str:
    """What an input is called that has no name."""
    return "image" if type.rank == 2 else "x"


# -- preprocessing ---------------------------------------------------------------------------


def _range(value: Any, type: TensorType) -> tuple[float, float]:
    if not isinstance(value, Range):
        raise ValueError(f"takes a range such as `0..1`, not {kind(value)}")
    if value.low == value.high:
        raise ValueError("needs two different ends")
    return float(value.low), float(value.high)


def _per_channel(value: Any, type: TensorType) -> tuple[float, ...]:
    items = value if isinstance(value, list) else [value]
    if not all(map(is_number, items)):
        raise ValueError("takes a number, or a list with one for each channel")
    if len(items) not in (1, type.channels):
        raise ValueError(f"has {len(items)} numbers for {type.channels} channels")
    return tuple(float(v) for v in items)


def _deviation(value: Any, type: TensorType) -> tuple[float, ...]:
    found = _per_channel(value, type)
    if any(v <= 0 for v in found):
        raise ValueError("must be above 0")
    return found


def _order(value: Any, type: TensorType) -> str:
    if not isinstance(value, Unbound | str) or values.text(value) not in ("rgb", "bgr"):
        raise ValueError(f"takes `rgb` or `bgr`, not {kind(value)}")
    if type.channels != 3:
        raise ValueError(f"is about three channels, this input has {type.channels}")
    return values.text(value)


def _pixels(value: Any, type: TensorType) -> int | tuple[int, ...]:
    sizes = value.sizes if isinstance(value, Extents) else (value,)
    if any(isinstance(s, bool) or not isinstance(s, int) or not 0 < s <= LARGEST for s in sizes):
        raise ValueError(f"takes a number of pixels or a size, not `{values.show(value)}`")
    if len(sizes) not in (1, type.rank):
        raise ValueError(f"has {len(sizes)} sizes for {type.rank} axes")
    return sizes[0] if len(sizes) == 1 else tuple(sizes)


def _flag(value: Any, type: TensorType) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"takes `on` or `off`, not {kind(value)}")
    return value


def _labels(value: Any, type: TensorType) -> tuple[str, ...]:
    items = value.split() if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        raise ValueError("takes a list of class names, or one string with spaces between them")
    if not all(isinstance(v, str | int | Unbound) for v in items):
        raise ValueError("takes names for the classes")
    return tuple(str(v) if isinstance(v, int) else values.text(v) for v in items)


ATTRIBUTES: Mapping[str, Callable[[Any, TensorType], Any]] = {
    "range": _range,
    "mean": _per_channel,
    "std": _deviation,
    "order": _order,
    "resize": _pixels,
    "crop": _pixels,
    "pad": _pixels,
    "invert": _flag,
    "labels": _labels,
}


def preprocessing(name: str, value: Any, type: TensorType) -> Any:
    """The checked value of an attribute of `input`, in plain Python; raises Refused."""
    if name not in ATTRIBUTES:
        known = ", ".join(f"`{a}`" for a in ATTRIBUTES)
        help = did_you_mean(name, ATTRIBUTES) or (f"its attributes are {known}",)
        raise Refused("E103", f"`input` has no attribute `{name}`", *help)
    try:
        return ATTRIBUTES[name](value, type)
    except ValueError as reason:
        raise Refused("E201", f"`{name}` of `input` {reason}") from None
