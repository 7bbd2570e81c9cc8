"""Attributes of ops: how values written in the language become checked fields, and back.

The language hands over an `Arguments`; `bind` makes the op or raises a `Problem` that names the
attribute at fault.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from convdsl.diagnostics import did_you_mean
from convdsl.graph import TensorType, extents
from convdsl.ops.base import Op, Problem

REQUIRED: Any = object()
"""The default of an attribute that has none."""
LARGEST = 1 << 31
"""Sizes above this are refused: no buffer of the result could be addressed."""


@dataclass(frozen=True)
class Word:
    """A bare word in the place of a value: ``half``, ``global``, ``off``."""

    name: str


@dataclass(frozen=True)
class Extents:
    """Sizes along the axes, as in ``3x5``."""

    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Bank:
    """Filters with their window, as in ``64@7x7``; the window is a number or `Extents`."""

    filters: Any
    window: Any


@dataclass(frozen=True)
class Span:
    """A range of numbers, as in ``0..4``."""

    low: float
    high: float


@dataclass(frozen=True)
class Arguments:
    """The evaluated arguments of an application, in the order written.

    ``positional`` holds plain values, `Extents`, `Word` and `Bank`; ``stride`` is what follows a
    slash; ``defaults`` stand in for attributes that are not given.
    """

    positional: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    stride: Any = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What an attribute's value may depend on: the inputs' types and the attributes before it."""

    inputs: tuple[TensorType, ...]
    fields: Mapping[str, Any]

    @property
    def rank(self) -> int:
        return self.inputs[0].rank if self.inputs else 0

    @property
    def spatial(self) -> tuple[int, ...]:
        return self.inputs[0].spatial if self.inputs else ()


def describe(value: Any) -> str:
    """A value as a person wrote it, for messages."""
    match value:
        case Word(name):
            return f"`{name}`"
        case Extents(sizes):
            return f"`{extents(sizes)}`"
        case Bank(filters, window):
            return f"`{filters}@{window.sizes if isinstance(window, Extents) else window}`"
        case Span(low, high):
            return f"`{low:g}..{high:g}`"
        case bool():
            return "`on`" if value else "`off`"
        case str():
            return f'"{value}"' if len(value) < 30 else "a string"
        case list() | tuple():
            return f"[{', '.join(describe(v).strip('`') for v in value)}]"
        case int() | float():
            return f"`{value}`"
        case None:
            return "nothing"
    return f"a {type(value).__name__.lower()}"


# -- kinds -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """What values an attribute takes; ``words`` says it in a sentence."""

    words: str = "a value"

    def resolve(self, value: Any, context: Context) -> Any:
        """The checked field value; raises ValueError with the reason when it does not fit."""
        raise NotImplementedError

    def show(self, value: Any) -> str:
        """The value as it is written in the language."""
        return str(value)


@dataclass(frozen=True)
class Count(Kind):
    """A whole number of at least ``least``."""

    words: str = "a whole number"
    least: int = 1

    def resolve(self, value: Any, context: Context) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"takes a whole number, not {describe(value)}")
        if value < self.least:
            raise ValueError(f"must be at least {self.least}, not {value}")
        if value > LARGEST:
            raise ValueError(f"must be at most {LARGEST}, not {value}")
        return value


@dataclass(frozen=True)
class Real(Kind):
    """A number in [``low``, ``high``]; the ends belong to it unless ``open_high``."""

    words: str = "a number"
    low: float = -math.inf
    high: float = math.inf
    open_high: bool = False
    open_low: bool = False

    def resolve(self, value: Any, context: Context) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"takes a number, not {describe(value)}")
        too_high = value >= self.high if self.open_high else value > self.high
        too_low = value <= self.low if self.open_low else value < self.low
        if math.isnan(value) or too_high or too_low:
            raise ValueError(f"must be {self._interval()}, not {value:g}")
        return float(value)

    def _interval(self) -> str:
        if math.isinf(self.high):
            return f"{'above' if self.open_low else 'at least'} {self.low:g}"
        if math.isinf(self.low):
            return f"{'below' if self.open_high else 'at most'} {self.high:g}"
        opening, closing = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"in {opening}{self.low:g}, {self.high:g}{closing}"

    def show(self, value: Any) -> str:
        return f"{value:g}"


@dataclass(frozen=True)
class Flag(Kind):
    """``on`` or ``off``."""

    words: str = "`on` or `off`"

    def resolve(self, value: Any, context: Context) -> bool:
        known = {"on": True, "off": False, "true": True, "false": False}
        if isinstance(value, Word):
            value = known.get(value.name, value)
        if not isinstance(value, bool):
            raise ValueError(f"takes `on` or `off`, not {describe(value)}")
        return value

    def show(self, value: Any) -> str:
        return "on" if value else "off"


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few words."""

    words: str = "a word"
    options: tuple[str, ...] = ()

    def resolve(self, value: Any, context: Context) -> str:
        name = value.name if isinstance(value, Word) else value
        if name not in self.options:
            known = ", ".join(f"`{o}`" for o in self.options)
            raise ValueError(f"takes one of {known}, not {describe(value)}")
        assert isinstance(name, str)
        return name


@dataclass(frozen=True)
class PerAxis(Kind):
    """A whole number for every spatial axis, or one for each (``3``, ``3x5`` or ``[3, 5]``)."""

    words: str = "a size, or one for each axis"
    least: int = 1
    word: str | None = None

    def resolve(self, value: Any, context: Context) -> tuple[int, ...]:
        rank = context.rank
        if self.word is not None and value == Word(self.word):
            return context.spatial
        sizes = self._sizes(value, rank)
        if len(sizes) != rank:
            raise ValueError(
                f"has {len(sizes)} sizes ({extents(sizes)}), but its input "
                f"{context.inputs[0]} has {_axes(rank)}"
            )
        for size in sizes:
            if size < self.least:
                raise ValueError(f"must be at least {self.least}, not {size}")
            if size > LARGEST:
                raise ValueError(f"must be at most {LARGEST}, not {size}")
        return sizes

    def _sizes(self, value: Any, rank: int) -> tuple[int, ...]:
        match value:
            case bool():
                pass
            case int():
                return (value,) * rank
            case Extents(sizes):
                return sizes
            case list() | tuple() if all(type(v) is int for v in value):
                return tuple(value)
        words = f"{self.words}, or `{self.word}`" if self.word else self.words
        raise ValueError(f"takes {words}, not {describe(value)}")

    def show(self, value: Any) -> str:
        return extents(value) if len(set(value)) > 1 else str(value[0]) if value else "0"


@dataclass(frozen=True)
class Window(PerAxis):
    """The window of a convolution or a pooling; always written out (``3x3``)."""

    def show(self, value: Any) -> str:
        return extents(value)


@dataclass(frozen=True)
class Stride(PerAxis):
    """The step of a window; the word ``window`` makes it the window itself."""

    def resolve(self, value: Any, context: Context) -> tuple[int, ...]:
        if value == Word("window"):
            return tuple(context.fields["window"])
        return super().resolve(value, context)


def _axes(rank: int) -> str:
    return {0: "no spatial axes", 1: "1 spatial axis"}.get(rank, f"{rank} spatial axes")


Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Padding(Kind):
    """Elements added before and after every axis.

    ``valid`` none; ``half`` the effective window // 2 on each side; ``same`` what makes the result
    ceil(input / stride), the odd element after; ``same_lower`` the odd element before; ``full`` the
    effective window − 1 on each side; or whole numbers: one, one per axis, or (before, after) pairs
    per axis.
    """

    words: str = "`valid`, `half`, `same`, `same_lower`, `full` or numbers"

    OPTIONS = ("valid", "half", "same", "same_lower", "full")

    def resolve(self, value: Any, context: Context) -> Pads:
        rank = context.rank
        window = context.fields["window"]
        dilation = context.fields.get("dilation", (1,) * rank)
        stride = context.fields["stride"]
        effective = [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)]
        if isinstance(value, Word):
            if value.name not in self.OPTIONS:
                hint = did_you_mean(value.name, self.OPTIONS)
                raise ValueError(
                    f"takes {self.words}, not `{value.name}`" + (f"; {hint[0]}" if hint else "")
                )
            return tuple(
                _word_padding(value.name, size, k, s)
                for size, k, s in zip(context.spatial, effective, stride, strict=True)
            )
        return self._numbers(value, rank)

    def _numbers(self, value: Any, rank: int) -> Pads:
        pads: Pads
        match value:
            case bool():
                raise ValueError(f"takes {self.words}, not {describe(value)}")
            case int():
                pads = ((value, value),) * rank
            case Extents(sizes):
                pads = tuple((s, s) for s in sizes)
            case list() | tuple() if all(type(v) is int for v in value):
                pads = tuple((v, v) for v in value)
            case list() | tuple() if all(_is_pair(v) for v in value):
                pads = tuple((v[0], v[1]) for v in value)
            case _:
                raise ValueError(f"takes {self.words}, not {describe(value)}")
        if len(pads) != rank:
            raise ValueError(f"has {len(pads)} entries, but its input has {_axes(rank)}")
        if any(p < 0 or p > LARGEST for pair in pads for p in pair):
            raise ValueError("must not be negative or beyond 2^31")
        return pads

    def show(self, value: Any) -> str:
        if all(before == after for before, after in value):
            sides = tuple(before for before, _ in value)
            return str(sides[0]) if len(set(sides)) == 1 else extents(sides)
        return "[" + ", ".join(f"({before}, {after})" for before, after in value) + "]"


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list | tuple) and len(value) == 2 and all(type(v) is int for v in value)
    )


def _word_padding(word: str, size: int, effective: int, stride: int) -> tuple[int, int]:
    if word == "half":
        return effective // 2, effective // 2
    if word == "full":
        return effective - 1, effective - 1
    if word == "valid":
        return 0, 0
    total = max((-(-size // stride) - 1) * stride + effective - size, 0)
    smaller, larger = total // 2, total - total // 2
    return (smaller, larger) if word == "same" else (larger, smaller)


@dataclass(frozen=True)
class Margin(Padding):
    """Padding in numbers alone, for ops without a window."""

    words: str = "a whole number, one per axis, or (before, after) pairs"

    def resolve(self, value: Any, context: Context) -> Pads:
        return self._numbers(value, context.rank)


@dataclass(frozen=True)
class Sides(Kind):
    """What is added before and after: a whole number for each, or (before, after)."""

    words: str = "a whole number or `(before, after)`"

    def resolve(self, value: Any, context: Context) -> tuple[int, int]:
        pair = (value, value) if type(value) is int else value
        if not _is_pair(pair):
            raise ValueError(f"takes {self.words}, not {describe(value)}")
        before, after = pair
        if not (0 <= before <= LARGEST and 0 <= after <= LARGEST):
            raise ValueError("must not be negative or beyond 2^31")
        return before, after

    def show(self, value: Any) -> str:
        before, after = value
        return str(before) if before == after else f"({before}, {after})"


@dataclass(frozen=True)
class Interval(Kind):
    """A range of whole numbers, ``first..last``, the last left out."""

    words: str = "a range such as `0..16`"

    def resolve(self, value: Any, context: Context) -> tuple[int, int]:
        match value:
            case Span(low, high) if low == int(low) and high == int(high):
                if not 0 <= low < high:
                    raise ValueError(f"must not be empty or negative, not {describe(value)}")
                return int(low), int(high)
        raise ValueError(f"takes {self.words}, not {describe(value)}")

    def show(self, value: Any) -> str:
        return f"{value[0]}..{value[1]}"


@dataclass(frozen=True)
class Numbers(Kind):
    """A list of whole numbers."""

    words: str = "a list of whole numbers"

    def resolve(self, value: Any, context: Context) -> tuple[int, ...]:
        if isinstance(value, list | tuple) and all(type(v) is int for v in value):
            return tuple(value)
        raise ValueError(f"takes {self.words}, not {describe(value)}")

    def show(self, value: Any) -> str:
        return f"[{', '.join(map(str, value))}]"


@dataclass(frozen=True)
class Sizes(Kind):
    """Spatial sizes of any rank, free of the input's."""

    words: str = "sizes such as `5x5`"

    def resolve(self, value: Any, context: Context) -> tuple[int, ...]:
        match value:
            case None:
                return ()
            case bool():
                pass
            case int() if 0 < value <= LARGEST:
                return (value,)
            case Extents(sizes) if all(0 < s <= LARGEST for s in sizes):
                return sizes
        raise ValueError(f"takes {self.words}, not {describe(value)}")

    def show(self, value: Any) -> str:
        return extents(value)


@dataclass(frozen=True)
class Connections(Kind):
    """Which input channels each filter sees.

    A table with a row per input channel and a column per filter, ``X`` where they are connected and
    ``.`` where not; or a predicate of (source, destination).
    """

    words: str = "a table of `X` and `.`, or a predicate"

    def resolve(self, value: Any, context: Context) -> tuple[tuple[bool, ...], ...] | None:
        if value is None:
            return None
        channels, filters = context.inputs[0].channels, context.fields["filters"]
        if callable(value):
            return tuple(tuple(bool(value(c, f)) for f in range(filters)) for c in range(channels))
        if not isinstance(value, str):
            raise ValueError(f"takes {self.words}, not {describe(value)}")
        rows = value.split()
        if len(rows) != channels or any(len(row) != filters for row in rows):
            widths = sorted({len(row) for row in rows})
            raise ValueError(
                f"needs {channels} rows (input channels) of {filters} (filters), has {len(rows)} "
                f"of {' and '.join(map(str, widths)) or 'none'}"
            )
        if set("".join(rows)) - set("X."):
            raise ValueError("takes `X` for connected and `.` for not")
        return tuple(tuple(mark == "X" for mark in row) for row in rows)

    def show(self, value: Any) -> str:
        rows = ["".join("X" if c else "." for c in row) for row in value or ()]
        return '"' + " ".join(rows) + '"'


# -- declaration -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Attribute:
    """How the language sets a field.

    ``notation`` is the place where the papers write it: ``filters`` and ``window`` before and after
    the ``@``, ``stride`` after a slash, ``value`` as a plain value; None for ``name=value`` alone.
    ``default`` is written as in the language and resolved like any value.
    """

    kind: Kind
    doc: str
    notation: str | None = None
    default: Any = REQUIRED


def attribute(kind: Kind, doc: str, *, notation: str | None = None, default: Any = REQUIRED) -> Any:
    """A dataclass field that the language can set."""
    return field(metadata={"attribute": Attribute(kind, doc, notation, default)}, kw_only=True)


def attributes(op: type[Op]) -> dict[str, Attribute]:
    """The attributes an op takes, by name."""
    return {f.name: f.metadata["attribute"] for f in op.attribute_fields()}


def bind(op: type[Op], arguments: Arguments, inputs: Sequence[TensorType]) -> Op:
    """The op with these arguments, for inputs of these types.

    Raises Problem: E203 for a vector where an op needs spatial axes, E103 for an unknown
    attribute, E104 for a missing one, E105 for one given twice, E201 for a value that does not fit.
    """
    if op.spatial and inputs and inputs[0].rank == 0:
        raise Problem(
            "E203",
            f"`{op.kind}` needs an input with spatial axes, not the vector {inputs[0]}",
            f"`reshape` makes a feature map of a vector: `reshape {inputs[0].channels}@1x1`",
        )
    declared = attributes(op)
    given = _place(op, declared, arguments)
    resolved: dict[str, Any] = {}
    for name, declaration in declared.items():
        value = given.get(name, arguments.defaults.get(name, declaration.default))
        if value is REQUIRED:
            raise Problem("E104", f"`{op.kind}` needs {declaration.doc}", *_usage(op))
        try:
            resolved[name] = declaration.kind.resolve(value, Context(tuple(inputs), resolved))
        except ValueError as reason:
            label = f"`{name}` of `{op.kind}`"
            raise Problem("E201", f"{label} {reason}", attribute=name) from None
    return op(**resolved)


def _place(op: type[Op], declared: dict[str, Attribute], arguments: Arguments) -> dict[str, Any]:
    """The given values by attribute name."""
    at = {a.notation: name for name, a in declared.items() if a.notation}
    given: dict[str, Any] = {}

    def put(name: str | None, value: Any, what: str) -> None:
        if name is None:
            raise Problem("E106", f"`{op.kind}` takes no {what}", *_usage(op))
        if name in given:
            raise Problem("E105", f"`{name}` of `{op.kind}` is given twice", attribute=name)
        given[name] = value

    plain = [at[n] for n in ("value", "filters", "window") if n in at]
    for value in arguments.positional:
        if isinstance(value, Bank):
            put(at.get("filters"), value.filters, "bank of filters (`c@window`)")
            put(at.get("window"), value.window, "window")
        elif isinstance(value, Extents) and "window" in at:
            put(at["window"], value, "window")
        else:
            free = next((n for n in plain if n not in given), None)
            put(free, value, f"value {describe(value)}" if not plain else "further value")
    if arguments.stride is not None:
        put(at.get("stride"), arguments.stride, "stride")
    for name, value in arguments.keywords.items():
        if name not in declared:
            raise Problem(
                "E103",
                f"`{op.kind}` has no attribute `{name}`",
                *(did_you_mean(name, declared) or _known(op, declared)),
                attribute=name,
            )
        put(name, value, name)
    return given


def _known(op: type[Op], declared: dict[str, Attribute]) -> tuple[str, ...]:
    if not declared:
        return (f"`{op.kind}` takes no attributes",)
    return (f"its attributes are {', '.join(f'`{name}`' for name in declared)}",)


def _usage(op: type[Op]) -> tuple[str, ...]:
    return (f"for example `{op.samples[0].text}`",) if op.samples else ()


@lru_cache(4096)
def notation(op: Op) -> str:
    """The op as it is written in the language, without attributes at their default."""
    by_notation: dict[str, str] = {}
    words: list[str] = []
    for f in fields(op):  # type: ignore[arg-type]
        declaration: Attribute | None = f.metadata.get("attribute")
        if declaration is None:
            continue
        value = getattr(op, f.name)
        shown = declaration.kind.show(value)
        if declaration.notation in ("filters", "window", "value"):
            by_notation[declaration.notation] = shown
        elif declaration.notation == "stride":
            if not op_default(op, f.name):
                by_notation["stride"] = "/" + shown
        elif not op_default(op, f.name):
            words.append(f"{f.name}={shown}")
    head = [op.kind]
    if by_notation.get("filters") and by_notation.get("window"):
        head.append(f"{by_notation['filters']}@{by_notation['window']}")
    else:
        head += [by_notation[n] for n in ("value", "filters", "window") if by_notation.get(n)]
    if "stride" in by_notation:
        head.append(by_notation["stride"])
    return " ".join(head + words)


def op_default(op: Op, name: str) -> bool:
    """Whether a field has the value it would have if the program had not mentioned it."""
    declaration = attributes(type(op))[name]
    if declaration.default is REQUIRED:
        return False
    rank = len(getattr(op, "window", ()))
    stand_in = TensorType((1, *((1,) * rank)))
    before = {f.name: getattr(op, f.name) for f in op.attribute_fields()}
    try:
        resolved = declaration.kind.resolve(declaration.default, Context((stand_in,), before))
    except (ValueError, KeyError):
        return False
    return bool(resolved == getattr(op, name))
