"""The frame of a CUDA kernel: how its buffers and sizes arrive, and its block's place in the grid.

Every kernel takes the addresses of its buffers and then its sizes, all as int64. Grids and blocks
have one dimension: a plan's unit of work is a block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from convdsl.kernels.nests import INDENT
from convdsl.ops.families import Axis, Epilogue
from convdsl.plan.model import RESULT, Call, Images, Kernel, Recipe

POINTER = {"float32": "floats", "int64": "ints", "float16": "halves", "bfloat16": "bfloats"}
PLAIN = 256
"""Threads of a block where nothing speaks for another number."""
WARP = 32
COUNTABLE = 1 << 31
"""Elements of a buffer below which positions in it can be divided in 32 bits."""
EVERY = "0xFFFFFFFF"
"""The mask of all threads of a warp."""


def kernel(
    name: str,
    pointers: Sequence[tuple[str, str]],
    sizes: Sequence[str],
    body: Sequence[str],
    doc: str,
    threads: int = PLAIN,
) -> Kernel:
    """A kernel from the statements of its body, which every thread of every block executes."""
    arguments = ", ".join([*(name for name, _ in pointers), *sizes])
    lines = [f"def {name}({arguments}):", f'{INDENT}"""{doc}"""']
    lines += [_typed(*pointer) for pointer in pointers]
    lines += [INDENT + line for line in body]
    source = "\n".join(lines) + "\n"
    return Kernel(name, tuple(pointers), tuple(sizes), source, threads=threads)


def _typed(name: str, dtype: str) -> str:
    """The statement that makes a buffer of an address."""
    return f"{INDENT}{name} = {POINTER[dtype]}({name})"


def stored(recipe: Recipe, dtypes: Sequence[str]) -> Recipe:
    """The recipe on operands of other element types, whose last is the result's.

    Nothing else changes: kernels see float32, whatever their buffers hold.
    """
    types = {f"in{k}": dtype for k, dtype in enumerate(dtypes[:-1])} | {"out": dtypes[-1]}
    return replace(recipe, calls=tuple(_stored(call, types) for call in recipe.calls))


def _stored(call: Call, types: Mapping[str, str]) -> Call:
    source = call.kernel.source
    pointers = []
    for (name, dtype), operand in zip(call.kernel.pointers, call.operands, strict=True):
        wanted = types.get(operand, dtype)
        source = source.replace(_typed(name, dtype) + "\n", _typed(name, wanted) + "\n", 1)
        pointers.append((name, wanted))
    return replace(call, kernel=replace(call.kernel, source=source, pointers=tuple(pointers)))


@dataclass(frozen=True)
class Gaps:
    """What lies between the images of a kernel's buffers that are parts of larger feature maps."""

    elements: Mapping[str, int]
    """By buffer; 0 where it is no part."""

    def __bool__(self) -> bool:
        return any(self.elements.values())

    def beyond(self, buffer: str, place: str, image: str) -> str:
        """Where what would be at a place is, in an image of that number."""
        return f"{place} + {image} * gap_{buffer}" if self.elements.get(buffer) else place

    def from_result(self) -> Gaps:
        """Likewise, beyond what lies between images of the result ``y``."""
        own = self.elements.get("y", 0)
        return Gaps({name: gap - own for name, gap in self.elements.items() if name != "y"})

    @property
    def sizes(self) -> dict[str, int]:
        """What `beyond` reads."""
        return {f"gap_{buffer}": gap for buffer, gap in self.elements.items() if gap}


NO_GAPS = Gaps({})


def result_gaps(images: Images, epilogue: Epilogue | None, first: int) -> Gaps:
    """Those of the result ``y`` and of its epilogue's operands, of which the first is ``first``."""
    count = len(epilogue.present) if epilogue else 0
    operands = {f"e{k}": images.gap(first + k - 1) for k in range(1, count + 1)}
    return Gaps(operands | {"y": images.gap(RESULT)})


def indent(depth: int, lines: Iterable[str]) -> list[str]:
    return [INDENT * depth + line for line in lines]


def used(sizes: Iterable[str], body: Sequence[str]) -> list[str]:
    """Those of the sizes that the statements read."""
    words = set(re.findall(r"\w+", "\n".join(body)))
    return [name for name in sizes if name in words]


def blocks(units: int, threads: int = PLAIN) -> int:
    """How many blocks have a thread for each unit."""
    return -(-units // threads)


def resident(threads: int) -> int:
    """How many blocks of so many threads a multiprocessor holds at least.

    Their registers have to suffice for that: about 128 a thread for blocks of 256, 168 for less.
    """
    return -(-384 // threads)


def over(number: str, by: str) -> str:
    """A quotient, by a shift or in 32 bits."""
    if by.isdigit():
        value = int(by)
        if value & (value - 1) == 0:
            return f"{number} >> {value.bit_length() - 1}" if value > 1 else number
    return f"quotient({number}, {by})"


def decode(axes: Sequence[Axis], position: str, mark: str = "") -> list[str]:
    """Statements that recover the axes' indices from a row-major position below 2³¹.

    ``mark`` tells the statements' own variables from those of another position.
    """
    lines = []
    rest = position
    for k in range(len(axes) - 1, 0, -1):
        index, size = axes[k].index, axes[k].size
        lines.append(f"rest{k}{mark} = {over(rest, size)}")
        lines.append(f"{index} = {rest} - rest{k}{mark} * {size}")
        rest = f"rest{k}{mark}"
    if axes:
        lines.append(f"{axes[0].index} = {rest}")
    return lines
