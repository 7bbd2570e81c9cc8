"""Where sums go of a feature map in blocks of channels: bias and epilogue, then two lanes at once.

In registers rows are positions and columns are filters, so that what a warp stores at once is
blocks of neighbouring positions, without gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from convdsl.kernels.cuda.frame import NO_GAPS, Gaps, blocks, indent, kernel, over, used
from convdsl.kernels.cuda.tiles import Tile
from convdsl.ops.expressions import Expr, Symbol, bare, substitute
from convdsl.ops.families import Epilogue, flat, operand
from convdsl.plan.model import Call

AXES = (("image", "N"), ("block", "YB"), ("pixel", "YP"))
"""Index and size of a result's axes; the last one is the ``lane``."""
QUAD = 4
"""Sums that a thread adds up and finishes where there are parts."""


@dataclass(frozen=True)
class Blocks:
    """A result of blocks of so many ``lanes``, with the bias ``b`` and the epilogue's operands.

    Lanes beyond the ``last`` filter hold anything.
    """

    lanes: int
    bias: bool = False
    epilogue: Epilogue | None = None
    gaps: Gaps = NO_GAPS
    """What lies between images of the result and of the epilogue's operands."""

    @property
    def pointers(self) -> list[tuple[str, str]]:
        """The buffers that finishing reads."""
        found = [("b", "float32")] if self.bias else []
        return [*found, *(self.epilogue.operands if self.epilogue else ())]

    @property
    def operands(self) -> list[str]:
        """What they are called in a recipe."""
        return [f"in{k}" for k in range(2, 2 + len(self.pointers))]

    def finished(self, totals: Sequence[str]) -> tuple[list[str], list[str]]:
        """Statements that load operands, and the values to store in neighbouring lanes.

        They read ``image``, ``block``, ``pixel`` and ``lane``, and ``at``, the place in the result
        where nothing lies between images.
        """
        lines: list[str] = []
        names: list[list[str]] = []
        width = len(totals)
        if self.bias:
            names.append([f"b_{k}" for k in range(width)])
            for k, name in enumerate(names[-1]):
                filter = f"block * {self.lanes} + lane" + (f" + {k}" if k else "")
                lines.append(f"{name} = b[min({filter}, last)]")
        for k, present in enumerate(self.epilogue.present if self.epilogue else (), 1):
            assert self.epilogue is not None
            whole = self.epilogue.whole[k - 1]
            place = self.gaps.beyond(f"e{k}", "at", "image") if whole else self._place(present)
            if whole or present[-1]:
                names.append([f"e{k}_{q}" for q in range(width)])
                lines.append(f"{', '.join(names[-1])} = load{width}(e{k}, {place})")
            else:
                names.append([f"e{k}_0"] * width)
                lines.append(f"e{k}_0 = e{k}[{place}]")
        return lines, [self._value(total, [n[q] for n in names]) for q, total in enumerate(totals)]

    def _place(self, present: Sequence[bool]) -> str:
        axes = [*AXES, ("lane", str(self.lanes))]
        own = [axis for axis, here in zip(axes, present, strict=True) if here]
        indices, sizes = ([Symbol(axis[k], "int64") for axis in own] for k in range(2))
        return bare(flat(indices, sizes))

    def _value(self, total: str, names: list[str]) -> str:
        value: Expr = Symbol(total)
        given = [Symbol(name) for name in names]
        if self.bias:
            value = value + given.pop(0)
        if self.epilogue is None:
            return bare(value)
        known: dict[Symbol, Expr] = {operand(0): value}
        known |= {operand(k): symbol for k, symbol in enumerate(given, 1)}
        return f"float32({bare(substitute(self.epilogue.expression, known))})"


def stores(tile: Tile, result: Blocks, where: Sequence[str], partial: bool) -> list[str]:
    """Statements that finish and store a thread's tile.

    ``where`` are statements that find ``image`` and ``pixel``, the position in it, of ``row``. The
    group's results begin with block ``first_block`` and are ``columns`` lanes.
    """
    result = replace(result, gaps=result.gaps.from_result())
    lanes = result.lanes
    pairs = range(tile.width // 8)
    lines = [
        "first_row = row_start + warp_down + eighth",
        "first_column = column_start + warp_across + quarter * 2",
    ]
    for number in range(tile.height // 8):
        inner = [*where, f"base = image * apart + pixel * {lanes}"]
        for pair in pairs:
            # Sums are by fragments of 16×8, in each by rows g and g + 8.
            first = (number // 2 * len(pairs) + pair) * 4 + number % 2 * 2
            totals = [f"total[{first + k}]" for k in range(2)]
            loads, values = ([], totals) if partial else result.finished(totals)
            at = "split * size + at" if partial else "at"
            piece = [
                f"block = first_block + ({over('column', str(lanes))})",
                f"lane = column & {lanes - 1}",
                f"at = base + block * (YP * {lanes}) + lane",
                *loads,
                f"store2(y, {at}, {', '.join(values)})",
            ]
            inner += [f"column = first_column + {pair * 8}", "if column < columns:"]
            inner += indent(1, piece)
        lines += [f"row = first_row + {number * 8}", "if row < rows:", *indent(1, inner)]
    return lines


def combine(
    result: Blocks, splits: int, sizes: tuple[int, int, int], last: int, partials: str
) -> Call:
    """The call that adds partial sums and finishes them; ``sizes`` are those of `AXES`."""
    size = sizes[0] * sizes[1] * sizes[2] * result.lanes
    totals = [f"total{k}" for k in range(QUAD)]
    parts = [f"part{k}" for k in range(QUAD)]
    loads, values = result.finished(totals)
    body = [
        f"at = int64(cuda.grid(1)) * {QUAD}",
        "if at < size:",
        *indent(1, [f"{name} = float32(0.0)" for name in totals]),
        "    for split in range(splits):",
        f"        {', '.join(parts)} = load4(partials, split * size + at)",
        *indent(2, [f"{n} += {v}" for n, v in zip(totals, parts, strict=True)]),
        *indent(
            1,
            [
                f"lane = at & {result.lanes - 1}",
                f"position = {over('at', str(result.lanes))}",
                "plane = quotient(position, YP)",
                "pixel = position - plane * YP",
                "image = quotient(plane, YB)",
                "block = plane - image * YB",
                *loads,
                f"store4(y, {result.gaps.beyond('y', 'at', 'image')}, {', '.join(values)})",
            ],
        ),
    ]
    made = kernel(
        f"combine_blocks_of_{result.lanes}",
        [("partials", "float32"), *result.pointers, ("y", "float32")],
        used(("size", "splits", "N", "YB", "YP", "last", *result.gaps.sizes), body),
        body,
        f"y[N, YB, YP, {result.lanes}]: partial sums added up and finished.",
    )
    named = {"size": size, "splits": splits, "last": last, **result.gaps.sizes}
    named |= dict(zip(("N", "YB", "YP"), sizes, strict=True))
    given = tuple(named[name] for name in made.sizes)
    return Call(
        made, (partials, *result.operands, "out"), given, blocks(size // QUAD), size * splits
    )
