"""The matrix product at the heart of convolutions and products: slices, sums and their order.

A block walks its share of the inner axis slice by slice. Slices of both factors travel into shared
memory behind the threads' backs (cp.async) while the one before is multiplied, each laid out so
that a thread reads its rows and its columns four at a time. (Slices of 16 bits: see `narrow`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convdsl.kernels.cuda import fragments
from convdsl.kernels.cuda.frame import indent, over
from convdsl.kernels.cuda.tiles import PADS, Tile

SIZES = ("row_tiles", "column_tiles", "splits", "slices")
"""The sizes that `body` reads besides those of the loaders and of the result."""
UNROLLED = 4
"""Rows of a slice whose products stand side by side, so that loads overlap with sums."""
PAD = 4
"""Floats between the rows of a slice that is written across them, against bank conflicts."""
MEMORY = {"bf16": "shared_bfloats", "fp16": "shared_halves"}
"""What declares the memory of slices whose elements have 16 bits."""


@dataclass(frozen=True)
class Loader:
    """How one factor's slices get into shared memory.

    ``setup`` runs once, ``issue`` for every slice, whose number is ``slice``, with ``{slot}`` for
    the place of its buffer; ``advance`` follows. ``finish``, for the same slice, runs after the
    products of another one: it stores what ``issue`` loaded into registers. ``stride`` is the
    distance between a slice's rows. ``across`` is for fragments of 16 bits; see `narrow.slices`.
    """

    setup: Sequence[str]
    issue: Sequence[str]
    stride: int
    advance: Sequence[str] = ()
    finish: Sequence[str] = ()
    across: bool = False


def body(
    tile: Tile, a: Loader, b: Loader, stores: Sequence[str], columns_first: bool = False
) -> list[str]:
    """The statements of a block: the rows of A by its share of slices by the columns of B.

    Neighbouring blocks have the same columns, or the same rows if ``columns_first``.
    """
    assert tile.rows % 4 == 0
    memory = MEMORY.get(tile.precision, "shared_floats")
    finish = [
        *(line.replace("{slot}", f"fill * {a.stride * tile.depth}") for line in a.finish),
        *(line.replace("{slot}", f"fill * {b.stride * tile.depth}") for line in b.finish),
    ]
    # What comes by way of registers is not waited for.
    copying = not (a.finish and b.finish)
    turn = f"fill = fill + 1 if fill < {tile.stages - 1} else 0"
    sizes = (a.stride * tile.depth, b.stride * tile.depth)
    return [
        f"left = {memory}({sizes[0] * tile.stages})",
        f"right = {memory}({sizes[1] * tile.stages})",
        f"total = local_floats({tile.sums})",
        *([] if tile.on_tensor_cores else [f"u = local_floats({tile.height})"]),
        *([] if tile.on_tensor_cores else [f"v = local_floats({tile.width})"]),
        "thread = int64(cuda.threadIdx.x)",
        *place(tile, columns_first),
        *_zeros(tile),
        *a.setup,
        *b.setup,
        "fill = 0",
        "use = 0",
        f"for step in range(count + {tile.stages - 1}):",
        f"    if step >= {tile.stages - 1}:",
        *([f"        copy_async_wait({tile.stages - 2})"] if copying else []),
        "        cuda.syncthreads()",
        "    if step < count:",
        "        slice = first + step",
        *indent(2, [line.replace("{slot}", f"fill * {sizes[0]}") for line in a.issue]),
        *indent(2, [line.replace("{slot}", f"fill * {sizes[1]}") for line in b.issue]),
        *indent(2, [*a.advance, *b.advance]),
        *([] if finish else [f"        {turn}"]),
        *(["    copy_async_commit()"] if copying else []),
        f"    if step >= {tile.stages - 1}:",
        *indent(2, _multiplied(tile, a, b, sizes)),
        f"        use = use + 1 if use < {tile.stages - 1} else 0",
        *(["    if step < count:", *indent(2, [*finish, turn])] if finish else []),
        *stores,
    ]


def _zeros(tile: Tile) -> list[str]:
    """Statements that begin all sums."""
    if tile.on_tensor_cores:
        # With a loop here NVVM would keep the sums in memory, for no other loop runs over them.
        return [f"total[{k}] = float32(0.0)" for k in range(tile.sums)]
    return [f"for k in range({tile.sums}):", "    total[k] = float32(0.0)"]


def place(tile: Tile, columns_first: bool = False) -> list[str]:
    """Statements that find a block's tile and share of slices, and a thread's place in the tile."""
    lanes = tile.columns // tile.width
    own = [f"across = (thread & {lanes - 1}) * 4", f"down = ({over('thread', str(lanes))}) * 4"]
    # Blocks that run at the same time should read the same part of the larger factor.
    first, second = ("column", "row") if columns_first else ("row", "column")
    return [
        *(fragments.place(tile) if tile.on_tensor_cores else own),
        "block = int64(cuda.blockIdx.x)",
        f"rest = quotient(block, {first}_tiles)",
        f"{first}_tile = block - rest * {first}_tiles",
        f"batch = quotient(rest, {second}_tiles)",
        f"{second}_tile = rest - batch * {second}_tiles",
        f"row_start = row_tile * {tile.rows}",
        f"column_start = column_tile * {tile.columns}",
        "group = quotient(batch, splits)",
        "split = batch - group * splits",
        "first = quotient(split * slices, splits)",
        "count = quotient((split + 1) * slices, splits) - first",
    ]


def _multiplied(tile: Tile, a: Loader, b: Loader, sizes: tuple[int, int]) -> list[str]:
    """Statements that add the products of a slice."""
    if tile.narrow:
        return fragments.multiplied_narrow(tile, a.across, b.across, sizes)
    if tile.on_tensor_cores:
        return fragments.multiplied(tile, a.stride, b.stride, sizes)
    loop = f"for k in range(0, {tile.depth}, {UNROLLED}):"
    return [loop, *indent(1, _sums(tile, a.stride, b.stride, sizes))]


def _sums(tile: Tile, a: int, b: int, sizes: tuple[int, int]) -> list[str]:
    """Statements that add the products of a few rows of a slice."""
    lines = []
    apart = (tile.rows * 4 // tile.height, tile.columns * 4 // tile.width)
    for row in range(UNROLLED):
        for part in range(tile.height // 4):
            names = ", ".join(f"u[{part * 4 + k}]" for k in range(4))
            at = f"use * {sizes[0]} + k * {a} + down + {row * a + part * apart[0]}"
            lines.append(f"{names} = load4(left, {at})")
        for part in range(tile.width // 4):
            names = ", ".join(f"v[{part * 4 + k}]" for k in range(4))
            at = f"use * {sizes[1]} + k * {b} + across + {row * b + part * apart[1]}"
            lines.append(f"{names} = load4(right, {at})")
        lines += [
            f"for i in range({tile.height}):",
            f"    for j in range({tile.width}):",
            f"        total[i * {tile.width} + j] += u[i] * v[j]",
        ]
    return lines


def copies(extent: int, threads: int, depth: int) -> tuple[int, int, int]:
    """How threads copy a slice of ``depth`` rows of ``extent`` pieces, neighbours along the rows.

    Returns the copies of a thread, the rows between them, and how many threads take part.
    """
    at_once = max(1, threads // extent)
    if at_once >= depth:
        return 1, depth, extent * depth
    return depth // at_once, at_once, threads


def along(
    side: str,
    tile: Tile,
    extent: int,
    width: int,
    setup: Sequence[str],
    before: Sequence[str],
    source: str,
    at: str,
    inside: str,
    advance: Sequence[str] = (),
) -> Loader:
    """A factor that lies along the rows of its slices: ``width`` neighbours in a copy.

    Threads own columns of the slice: ``setup`` may read ``{side}_own``, the first of them, and
    ``at`` and ``inside`` also ``row``, the row of the slice.
    """
    pieces = extent // width
    stride = extent + PADS.get(tile.precision, 0)
    number, apart, taking = copies(pieces, tile.threads, tile.depth)
    own, own_row = f"{side}_own", f"{side}_row"
    memory = "left" if side == "a" else "right"
    lines = [
        f"for copy in range({number}):",
        f"    row = {own_row} + copy * {apart}",
        f"    copy_async{4 * width}({memory}, {{slot}} + row * {stride} + {own}, "
        f"{source}, {at}, {inside})",
    ]
    if taking < tile.threads:
        lines = [f"if thread < {taking}:", *indent(1, lines)]
    return Loader(
        [
            f"{own} = (thread & {pieces - 1})" + (f" * {width}" if width > 1 else ""),
            f"{own_row} = {over('thread', str(pieces))}",
            *setup,
        ],
        [*before, *lines],
        stride,
        advance,
    )


def turned(
    side: str,
    tile: Tile,
    extent: int,
    setup: Sequence[str],
    before: Sequence[str],
    source: str,
    at: str,
    inside: str,
    advance: Sequence[str] = (),
) -> Loader:
    """A factor that lies along the inner axis: neighbouring threads read it, and turn it round.

    A thread owns row ``inner`` of every slice; ``at`` and ``inside`` read ``own``, the column.
    """
    apart = tile.threads // tile.depth
    assert extent % apart == 0
    memory = "left" if side == "a" else "right"
    stride = extent + PADS.get(tile.precision, PAD)
    lines = [
        f"for copy in range({extent // apart}):",
        f"    own = ({over('thread', str(tile.depth))}) + copy * {apart}",
        f"    copy_async4({memory}, {{slot}} + inner * {stride} + own, {source}, {at}, {inside})",
    ]
    return Loader(
        [f"inner = thread & {tile.depth - 1}", *setup], [*before, *lines], stride, advance
    )
