"""How slices of 16-bit factors lie in shared memory, and what brings them there.

A piece is 8 neighbouring elements, 16 bytes, a row of a matrix that `ldmatrix` reads. Where they
are neighbours along the inner axis, a slice is depth/8 × extent pieces; where they are neighbours
along rows or columns (``across``), it is extent/8 × depth pieces. Either way neighbouring threads
write neighbouring pieces, and eight of them fill all banks.
"""

from __future__ import annotations

from collections.abc import Sequence

from convdsl.kernels.cuda.frame import indent, over
from convdsl.kernels.cuda.gemm import Loader, copies
from convdsl.kernels.cuda.tiles import Tile

PIECE = 8
"""Elements of an access of 16 bytes."""


def copied(
    side: str,
    tile: Tile,
    extent: int,
    setup: Sequence[str],
    before: Sequence[str],
    source: str,
    piece: tuple[Sequence[str], str, str],
    across: bool = False,
    lanes: int = PIECE,
    advance: Sequence[str] = (),
) -> Loader:
    """Slices of a factor that is stored in 16 bits, copied behind the threads' backs.

    A thread owns number ``{side}_own`` of the axis that its piece is not along. ``piece`` are
    statements that read ``{side}_number``, the piece's number along the other axis, and what they
    find: the place of its elements in the source, and how many of them there are. With 4 ``lanes``
    a copy is half a piece, and numbers count halves.
    """
    pieces, owned = _pieces(tile, extent, across)
    number, apart, taking = copies(owned, tile.threads, pieces * PIECE // lanes)
    own, first, here = f"{side}_own", f"{side}_first", f"{side}_number"
    statements, at, count = piece
    target = f"({here} * {owned} + {own}) * {PIECE}"
    if lanes < PIECE:
        target = f"(({here} >> 1) * {owned} + {own}) * {PIECE} + ({here} & 1) * {lanes}"
    memory = _memory(side)
    lines = [
        f"for copy in range({number}):",
        f"    {here} = {first} + copy * {apart}",
        *indent(1, statements),
        f"    copy_lanes{lanes}({memory}, {{slot}} + {target}, {source}, {at}, {count})",
    ]
    if taking < tile.threads:
        lines = [f"if thread < {taking}:", *indent(1, lines)]
    return Loader(
        [
            f"{own} = thread & {owned - 1}",
            f"{first} = {over('thread', str(owned))}",
            *setup,
        ],
        [*before, *lines],
        extent,
        advance,
        across=across,
    )


def rounded(
    side: str,
    tile: Tile,
    extent: int,
    sizes: tuple[str, str],
    source: str,
    across: bool,
    width: int,
    pack: str,
) -> Loader:
    """Slices of a matrix in float32, or in what reads as that: loaded, rounded, then stored.

    ``sizes`` are the matrix's along the tile and along the inner axis; the elements of a piece are
    neighbours in memory. They are loaded ``width`` at a time.
    """
    pieces, owned = _pieces(tile, extent, across)
    number, apart, taking = copies(owned, tile.threads, pieces)
    assert taking == tile.threads
    own, first = f"{side}_own", f"{side}_first"
    start = "row_start" if side == "a" else "column_start"
    whole, inner = sizes
    # Along its axis the piece begins at ``begin``; ``other`` is its place along the other axis.
    begin, limit, other, end = (
        (f"slice * {tile.depth} + number * {PIECE}", inner, f"{start} + {own}", whole)
        if not across
        else (f"{start} + number * {PIECE}", whole, f"slice * {tile.depth} + {own}", inner)
    )
    issue, finish = [], []
    for copy in range(number):
        names = [f"{side}_given{copy}_{k}" for k in range(PIECE)]
        issue += [
            f"number = {first} + {copy * apart}",
            f"begin = {begin}",
            f"other = {other}",
            f"at = other * {limit} + begin",
            *_loaded(names, source, width, limit, f"other < {end}"),
        ]
        packed = ", ".join(f"{pack}({low}, {high})" for low, high in _pairs(names))
        target = f"{{slot}} + (({first} + {copy * apart}) * {owned} + {own}) * {PIECE}"
        finish.append(f"store_pairs({_memory(side)}, {target}, {packed})")
    setup = [f"{own} = thread & {owned - 1}", f"{first} = {over('thread', str(owned))}"]
    return Loader(setup, issue, extent, finish=finish, across=across)


def _pieces(tile: Tile, extent: int, across: bool) -> tuple[int, int]:
    """Pieces of a slice along their own axis, and the extent of the other one."""
    if across:
        return extent // PIECE, tile.depth
    return tile.depth // PIECE, extent


def _memory(side: str) -> str:
    return "left" if side == "a" else "right"


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(names[::2], names[1::2], strict=True))


def _loaded(names: Sequence[str], source: str, width: int, limit: str, there: str) -> list[str]:
    """Statements that load a piece from ``at`` on, with zeros for what is not there."""
    lines = []
    for k in range(0, PIECE, width):
        found = names[k : k + width]
        load = f"load{width}({source}, at + {k})" if width > 1 else f"{source}[at + {k}]"
        lines += [
            f"if (begin + {k} < {limit}) & ({there}):",
            f"    {', '.join(found)} = {load}",
            "else:",
            *(f"    {name} = float32(0.0)" for name in found),
        ]
    return lines
