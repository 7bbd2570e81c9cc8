"""Slices multiplied on tensor cores: which lane of a warp holds which element of which factor.

Slices for tf32 lie in shared memory as float32 and are rounded on their way into registers. Those
for bf16 and fp16 have been rounded before, and come into registers by matrices of 8×8 (ldmatrix).
(PTX ISA, matrix fragments for ``mma.m16n8k8`` in tf32 and ``mma.m16n8k16`` in bf16 and fp16.)
"""

from __future__ import annotations

from convdsl.kernels.cuda.frame import EVERY, indent, over
from convdsl.kernels.cuda.tiles import Tile

INSTRUCTIONS = {
    "tf32": "mma_tf32_m16n8k8",
    "bf16": "mma_bf16_m16n8k16",
    "fp16": "mma_f16_m16n8k16",
}


def place(tile: Tile) -> list[str]:
    """Statements that find where a lane's elements are: in the slices, and in the end.

    A lane is number ``quarter`` of the four of its ``eighth``.
    """
    across = tile.columns // tile.width
    return [
        "lane = thread & 31",
        "eighth = lane >> 2",
        "quarter = lane & 3",
        "warp = thread >> 5",
        f"warp_down = ({over('warp', str(across))}) * {tile.height}",
        f"warp_across = (warp & {across - 1}) * {tile.width}",
        "down = warp_down + eighth + (quarter & 1) * 8",
        "across = warp_across + (quarter >> 1) * 4",
    ]


def multiplied(tile: Tile, a: int, b: int, sizes: tuple[int, int]) -> list[str]:
    """Statements that add the products of a slice, whose rows are ``a`` and ``b`` floats apart."""
    lines = [
        f"left_at = use * {sizes[0]} + (k + quarter) * {a} + warp_down + eighth",
        f"right_at = use * {sizes[1]} + (k + quarter) * {b} + warp_across + eighth",
    ]
    for i in range(tile.height // 16):
        for number in range(4):
            # Registers are by rows, then by halves of the inner axis.
            at = i * 16 + number % 2 * 8 + number // 2 * 4 * a
            lines.append(f"a{i}_{number} = to_tf32(left[left_at + {at}])")
    for j in range(tile.width // 8):
        for number in range(2):
            lines.append(f"b{j}_{number} = to_tf32(right[right_at + {j * 8 + number * 4 * b}])")
    return [f"for k in range(0, {tile.depth}, 8):", *indent(1, [*lines, *_products(tile)])]


def multiplied_narrow(
    tile: Tile, a_across: bool, b_across: bool, sizes: tuple[int, int]
) -> list[str]:
    """Statements that add the products of a slice of 16 bits, laid out as `narrow.slices` says.

    A thread gives the address of one row of four matrices: of A those are by rows, then by halves
    of the inner axis, of B the other way round.
    """
    low, high = "(lane >> 3 & 1)", "(lane >> 4)"
    left = _matrices("warp_down", low, high, tile.rows, tile.depth, a_across)
    right = _matrices("warp_across", high, low, tile.columns, tile.depth, b_across)
    lines = [f"left_at = use * {sizes[0]} + {left}", f"right_at = use * {sizes[1]} + {right}"]
    for side, count, memory, across in (
        ("a", tile.height // 16, "left", a_across),
        ("b", tile.width // 16, "right", b_across),
    ):
        apart = 2 * tile.depth * 8 if across else 16 * 8
        instruction = "ldmatrix_x4" + ("_trans" if across else "")
        for i in range(count):
            names = (
                [f"a{i}_{number}" for number in range(4)]
                if side == "a"
                else [f"b{2 * i + number // 2}_{number % 2}" for number in range(4)]
            )
            place = f"{memory}_at + {i * apart}"
            lines.append(f"{', '.join(names)} = {instruction}({memory}, {place})")
    return [f"for k in range(0, {tile.depth}, 16):", *indent(1, [*lines, *_products(tile)])]


def _matrices(warp: str, outer: str, inner: str, extent: int, depth: int, across: bool) -> str:
    """Where a thread's row of four matrices begins, whose numbers ``outer`` and ``inner`` tell."""
    if across:
        rows = f"k + (lane & 7) + {inner} * 8"
        return f"(({warp} >> 3) + {outer}) * {depth * 8} + ({rows}) * 8"
    return f"((k >> 3) + {inner}) * {extent * 8} + ({warp} + (lane & 7) + {outer} * 8) * 8"


def _products(tile: Tile) -> list[str]:
    """Statements that add the products of all fragments."""
    lines = []
    for i in range(tile.height // 16):
        for j in range(tile.width // 8):
            sums = ", ".join(f"total[{(i * tile.width // 8 + j) * 4 + k}]" for k in range(4))
            given = ", ".join([f"a{i}_{k}" for k in range(4)] + [f"b{j}_{k}" for k in range(2)])
            lines.append(f"{sums} = {INSTRUCTIONS[tile.precision]}({given}, {sums})")
    return lines


def exchanged(tile: Tile) -> list[str]:
    """Statements after which a lane has four neighbours of one row, not two of two rows.

    Neighbouring lanes have neighbouring pairs: the even one takes the upper row, the odd one the
    lower row of both.
    """
    upper = [k for k in range(tile.sums) if k % 4 < 2]
    numbered = list(enumerate(upper))
    return [
        "odd = quarter & 1 == 1",
        # One branch for all of them, which compiles much faster than one for each.
        "if odd:",
        *(f"    given{n} = total[{k}]" for n, k in numbered),
        "else:",
        *(f"    given{n} = total[{k + 2}]" for n, k in numbered),
        *(f"taken{n} = cuda.shfl_xor_sync({EVERY}, given{n}, 1)" for n, _ in numbered),
        "if odd:",
        *(f"    total[{k}] = taken{n}" for n, k in numbered),
        "else:",
        *(f"    total[{k + 2}] = taken{n}" for n, k in numbered),
    ]
