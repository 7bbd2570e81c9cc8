"""The frame of a CPU kernel: how its buffers and sizes arrive.

Every kernel is ``kernel(args, begin, end, part)``: ``args`` points at the addresses of its buffers
and then its sizes, [begin, end) is the share of its work that this call does, and ``part`` numbers
the calls that run at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence

from convdsl.kernels.nests import INDENT
from convdsl.plan.model import Kernel

VECTOR_FUNCTIONS = (
    *("load", "load_first", "gather", "gather_first", "splat", "zero", "wide", "fma"),
    *("store", "store_first", "total_of", "store_totals"),
    *("repeat", "repeat_first", "pair", "former", "latter"),
)
POINTER = {"float32": "floats", "int64": "ints"}


def vectors_line(lanes: int, mark: str = "") -> str:
    """The line that defines the functions on vectors of so many lanes."""
    return f"{', '.join(name + mark for name in VECTOR_FUNCTIONS)} = vectors({lanes})"


def kernel(
    name: str,
    pointers: Sequence[tuple[str, str]],
    sizes: Sequence[str],
    body: Sequence[str],
    doc: str,
    options: tuple[str, ...] = (),
    lanes: int = 0,
    function: Sequence[str] = (),
) -> Kernel:
    """A kernel from the statements of its body, which read ``begin`` and ``end``.

    With ``lanes`` the body may use the functions on vectors of that many float32; the lines of a
    ``function`` of its own stand before it.
    """
    lines = [vectors_line(lanes), "", ""] if lanes else []
    lines += [*function, "", ""] if function else []
    lines += [f"def {name}(args, begin, end, part):", f'{INDENT}"""{doc}"""']
    for position, (pointer, dtype) in enumerate(pointers):
        lines.append(f"{INDENT}{pointer} = {POINTER[dtype]}(args[{position}])")
    for position, size in enumerate(sizes, len(pointers)):
        lines.append(f"{INDENT}{size} = args[{position}]")
    lines += [INDENT + line for line in body]
    return Kernel(name, tuple(pointers), tuple(sizes), "\n".join(lines) + "\n", options)
