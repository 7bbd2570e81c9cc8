"""Bank conflicts are counted as the programming guide describes them."""

import pytest

from emulator import Banks
from emulator.sources import run
from emulator.test_kernels import nothing, numbers


def ways(statements):
    """How many times as long the last statement's access takes as without conflicts."""
    lines = ["x = floats(x)", "y = floats(y)", "tile = shared_floats(2048)"]
    lines += ["thread = cuda.threadIdx.x", *statements]
    source = "def access(x, y, n):\n" + "".join(f"    {line}\n" for line in lines)
    banks = Banks()
    run(source, 2, 64, numbers(2048), nothing(128), 64, banks=banks)
    return next(t.ways for (line, _), t in banks.tallies.items() if line == len(lines) + 1)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("tile[thread] = float32(1.0)", 1),
        ("y[cuda.grid(1)] = tile[7]", 1),  # one word for all
        ("tile[thread * 2] = float32(1.0)", 2),
        ("tile[thread * 32] = float32(1.0)", 32),
        ("tile[thread * 33 % 2048] = float32(1.0)", 1),
        ("store4(tile, thread * 4, x[0], x[1], x[2], x[3])", 1),
        ("store4(tile, thread * 8, x[0], x[1], x[2], x[3])", 2),
        ("store4(tile, thread * 32, x[0], x[1], x[2], x[3])", 8),
        ("a, b = load2(tile, thread * 2)", 1),
        ("a, b = load2(tile, thread * 32)", 16),
        ("copy_async16(tile, thread * 4, x, thread * 4, True)", 1),
        ("a, b, c, d = ldmatrix_x4(tile, thread * 4)", 1),
        ("a, b, c, d = ldmatrix_x4(tile, thread % 32 * 32)", 8),
        ("a, b = ldmatrix_x2(tile, thread % 8 * 36)", 1),
    ],
)
def test_wavefronts_of_an_access(statement, expected):
    assert ways([statement]) == expected


def test_threads_that_take_no_part_want_no_words():
    assert ways(["if thread % 32 < 4:", "    tile[thread * 32] = float32(1.0)"]) == 4
