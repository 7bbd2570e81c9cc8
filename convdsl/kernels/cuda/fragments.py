"""Slices multiplied on tensor cores: which lane of a warp holds which element of which factor.

Slices lie in shared memory as float32 and are rounded on their way into registers, so that
whatever is loaded and stored is the same in every precision. (PTX ISA, matrix fragments for
``mma.m16n8k8`` in tf32 and ``mma.m16n8k16`` in bf16 and fp16.)
"""

from __future__ import annotations

from convdsl.kernels.cuda.frame import EVERY, indent, over
from convdsl.kernels.cuda.tiles import Tile

STEPS = {"tf32": 8, "bf16": 16, "fp16": 16}
"""Rows of a slice that an instruction multiplies."""
INSTRUCTIONS = {
    "tf32": "mma_tf32_m16n8k8",
    "bf16": "mma_bf16_m16n8k16",
    "fp16": "mma_f16_m16n8k16",
}
PACK = {"bf16": "pack_bfloat2", "fp16": "pack_half2"}


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
    step = STEPS[tile.precision]
    first = "quarter" if tile.precision == "tf32" else "quarter * 2"
    lines = [
        f"left_at = use * {sizes[0]} + (k + {first}) * {a} + warp_down + eighth",
        f"right_at = use * {sizes[1]} + (k + {first}) * {b} + warp_across + eighth",
    ]
    for i in range(tile.height // 16):
        for number in range(4):
            # Registers are by rows, then by halves of the inner axis.
            at = i * 16 + number % 2 * 8 + number // 2 * (step // 2) * a
            lines.append(f"a{i}_{number} = {_rounded(tile, 'left', at, a)}")
    for j in range(tile.width // 8):
        for number in range(2):
            at = j * 8 + number * (step // 2) * b
            lines.append(f"b{j}_{number} = {_rounded(tile, 'right', at, b)}")
    for i in range(tile.height // 16):
        for j in range(tile.width // 8):
            sums = ", ".join(f"total[{(i * tile.width // 8 + j) * 4 + k}]" for k in range(4))
            given = ", ".join([f"a{i}_{k}" for k in range(4)] + [f"b{j}_{k}" for k in range(2)])
            lines.append(f"{sums} = {INSTRUCTIONS[tile.precision]}({given}, {sums})")
    return [f"for k in range(0, {tile.depth}, {step}):", *indent(1, lines)]


def _rounded(tile: Tile, memory: str, at: int, stride: int) -> str:
    """A register of a fragment: one element, or two neighbours along the inner axis."""
    here = f"{memory}[{memory}_at + {at}]"
    if tile.precision == "tf32":
        return f"to_tf32({here})"
    return f"{PACK[tile.precision]}({here}, {memory}[{memory}_at + {at + stride}])"


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
