"""Where a block's sums go: bias and epilogue, then the result or, where sums are split, partials.

A thread holds ``total``: its tile row-major. Rows and columns that are there are found out first,
for tiles stick out over the edges of a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from convdsl.kernels.cuda import fragments
from convdsl.kernels.cuda.frame import NO_GAPS, Gaps, blocks, indent, kernel, over, used
from convdsl.kernels.cuda.tiles import Tile
from convdsl.ops.expressions import Expr, Symbol, bare, substitute
from convdsl.ops.families import Epilogue, flat, operand
from convdsl.plan.model import Call

QUAD = 4
"""Floats of the widest access."""


@dataclass(frozen=True)
class Result:
    """A result by image, channel and pixel, of sizes N, F and P; a matrix has one image.

    ``bias_along`` is the axis that a bias varies along. ``width`` neighbouring pixels are stored at
    a time; the kernel's names for its operands are those of the families.
    """

    width: int
    bias: str = ""
    bias_along: str = "channel"
    epilogue: Epilogue | None = None
    gaps: Gaps = NO_GAPS
    """What lies between images of the result and of the epilogue's operands."""

    @property
    def pointers(self) -> list[tuple[str, str]]:
        """The buffers that finishing reads."""
        found = [(self.bias, "float32")] if self.bias else []
        return [*found, *(self.epilogue.operands if self.epilogue else ())]

    def finished(self, totals: Sequence[str], mark: str, at: str) -> tuple[list[str], list[str]]:
        """Statements that load operands, and the values to store, of neighbouring pixels.

        They read ``image``, ``channel`` and ``pixel``, each followed by ``mark``. The first of them
        is ``at`` where nothing lies between images.
        """
        lines: list[str] = []
        names: list[list[str]] = []
        axes = [f"image{mark}", "channel", f"pixel{mark}"]
        if self.bias:
            along = self.bias_along == "pixel"
            place = f"{self.bias_along}{mark if along else ''}"
            names.append(self._load(self.bias, self.bias, place, along, lines))
        for k, present in enumerate(self.epilogue.present if self.epilogue else (), 1):
            assert self.epilogue is not None
            whole = self.epilogue.whole[k - 1]
            place = self.gaps.beyond(f"e{k}", at, axes[0]) if whole else _index(present, axes)
            names.append(self._load(f"e{k}", f"x{k}", place, whole or present[-1], lines))
        values = []
        for position, total in enumerate(totals):
            value: Expr = Symbol(total)
            given = [Symbol(name[position]) for name in names]
            if self.bias:
                value = value + given.pop(0)
            if self.epilogue:
                known: dict[Symbol, Expr] = {operand(0): value}
                known |= {operand(k): symbol for k, symbol in enumerate(given, 1)}
                value = substitute(self.epilogue.expression, known)
            values.append(f"float32({bare(value)})" if self.epilogue else bare(value))
        return lines, values

    def _load(
        self, buffer: str, name: str, place: str, varies: bool, lines: list[str]
    ) -> list[str]:
        """Add the statement that loads an operand; its names for the pixels."""
        if not varies or self.width == 1:
            lines.append(f"{name}_here = {buffer}[{place}]")
            return [f"{name}_here"] * self.width
        found = [f"{name}_{k}" for k in range(self.width)]
        lines.append(f"{', '.join(found)} = load4({buffer}, {place})")
        return found


def _index(present: Sequence[bool], names: Sequence[str]) -> str:
    axes = [Symbol(name, "int64") for name in names]
    sizes = [Symbol(name, "int64") for name in ("N", "F", "P")]
    own = [a for a, here in enumerate(present) if here]
    return bare(flat([axes[a] for a in own], [sizes[a] for a in own]))


def planar(epilogue: Epilogue | None) -> Epilogue | None:
    """The epilogue of a feature map with its spatial axes as one."""
    return epilogue.flattened() if epilogue else None


def stores(
    tile: Tile, result: Result, columns: Sequence[str], partial: bool, rows: str = "rows"
) -> list[str]:
    """Statements that finish and store a thread's tile.

    ``columns`` are statements that find ``image``, ``pixel`` and ``base`` of ``column``, marked
    with {0}, so that the element of a ``channel`` lies at base + channel · stride in the result or
    in the partials; ``first`` is the block's first channel, and ``rows`` how many channels the
    group has.
    """
    result = replace(result, gaps=result.gaps.from_result())
    lines = list(fragments.exchanged(tile)) if tile.on_tensor_cores else []
    offsets = tile.column_offsets
    pieces = range(0, len(offsets), result.width)

    def found(q: int) -> list[str]:
        return [
            f"column{q} = column_start + across + {offsets[q]}",
            *(line.format(q) for line in columns),
        ]

    def stored(row: int, q: int) -> list[str]:
        totals = [f"total[{row * len(offsets) + q + k}]" for k in range(result.width)]
        loads, values = ([], totals) if partial else result.finished(totals, str(q), "at")
        place = "at + split * size" if partial else "at"
        store = f"store4(y, {place}, {', '.join(values)})"
        if result.width == 1:
            store = f"y[{place}] = {values[0]}"
        return [f"at = base{q} + channel * stride", *loads, store]

    numbered = list(enumerate(tile.row_offsets))
    if result.width == 1 and tile.on_tensor_cores:
        # One column after the other: the addresses of all 32 at once would not fit into registers.
        lines += [f"row{row} = row_start + down + {offset}" for row, offset in numbered]
        for q in pieces:
            inner = []
            for row, _ in numbered:
                own = [f"channel = channel_start + row{row}", *stored(row, q)]
                inner += [f"if row{row} < {rows}:", *indent(1, own)]
            lines += [*found(q), f"if column{q} < columns:", *indent(1, inner)]
        return lines
    for q in pieces:
        lines += found(q)
    for row, offset in numbered:
        inner = [f"channel = channel_start + row{row}"]
        for q in pieces:
            inner += [f"if column{q} < columns:", *indent(1, stored(row, q))]
        lines.append(f"row{row} = row_start + down + {offset}")
        lines += [f"if row{row} < {rows}:", *indent(1, inner)]
    return lines


def combine(
    result: Result,
    splits: int,
    sizes: tuple[int, int, int],
    partials: str,
    operands: Sequence[str] = (),
) -> Call:
    """The call that adds partial sums and finishes them: a thread per piece of a result."""
    images, channels, pixels = sizes
    size = images * channels * pixels
    names = [f"total{k}" for k in range(result.width)]
    body = [
        "at = int64(cuda.grid(1))" + (f" * {result.width}" if result.width > 1 else ""),
        "if at < size:",
        *indent(1, [f"{name} = float32(0.0)" for name in names]),
        "    for split in range(splits):",
    ]
    if result.width == 1:
        body.append("        total0 += partials[split * size + at]")
    else:
        parts = [f"part{k}" for k in range(QUAD)]
        body.append(f"        {', '.join(parts)} = load4(partials, split * size + at)")
        body += indent(2, [f"{n} += {v}" for n, v in zip(names, parts, strict=True)])
    loads, values = result.finished(names, "", "at")
    if result.pointers or result.gaps:
        body += indent(
            1,
            [
                f"plane = {over('at', 'P')}",
                "pixel = at - plane * P",
                f"image = {over('plane', 'F')}",
                "channel = plane - image * F",
            ],
        )
    body += indent(1, loads)
    place = result.gaps.beyond("y", "at", "image")
    if result.width == 1:
        body.append(f"    y[{place}] = {values[0]}")
    else:
        body.append(f"    store4(y, {place}, {', '.join(values)})")
    made = kernel(
        "combine" + ("_by_4" if result.width > 1 else ""),
        [("partials", "float32"), *result.pointers, ("y", "float32")],
        used(("size", "splits", "N", "F", "P", *result.gaps.sizes), body),
        body,
        "y[N, F, P]: partial sums added up and finished.",
    )
    named = {"size": size, "splits": splits, "N": images, "F": channels, "P": pixels}
    named |= result.gaps.sizes
    grid = blocks(-(-size // result.width))
    given = tuple(named[name] for name in made.sizes)
    return Call(made, (partials, *operands, "out"), given, grid, size * splits)
