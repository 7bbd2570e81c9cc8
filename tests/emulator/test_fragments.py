"""Every layout of fragments is held against a plain product of matrices of small integers.

The kernels here load fragments by the formulas of the PTX ISA, lane by lane and register by
register; integers up to 8 are exact in every precision, so a mistaken layout cannot hide.
"""

import numpy as np
import pytest

from emulator import EmulationError
from emulator.sources import run
from emulator.test_kernels import nothing, numbers

HEAD = """
def tiles(a, b, c, d, n):
    a = floats(a)
    b = floats(b)
    c = floats(c)
    d = floats(d)
    lane = cuda.threadIdx.x
    group = lane // 4
    member = lane % 4
    tile = cuda.blockIdx.x
"""
TAIL = """\
    at = tile * 128 + group * 8 + member * 2
    c0, c1, c2, c3 = c[at], c[at + 1], c[at + 64], c[at + 65]
    c0, c1, c2, c3 = mma(a0, a1, a2, a3, b0, b1, c0, c1, c2, c3)
    d[at] = c0
    d[at + 1] = c1
    d[at + 64] = c2
    d[at + 65] = c3
"""


def tiles(loading, instruction):
    """A kernel that multiplies a pair of tiles a warp, from the statements that load fragments."""
    return HEAD + loading.lstrip("\n") + TAIL.replace("mma(", f"{instruction}(")


TF32 = tiles(
    """
    first = tile * 128
    a0 = to_tf32(a[first + group * 8 + member])
    a1 = to_tf32(a[first + (group + 8) * 8 + member])
    a2 = to_tf32(a[first + group * 8 + member + 4])
    a3 = to_tf32(a[first + (group + 8) * 8 + member + 4])
    b0 = to_tf32(b[tile * 64 + member * 8 + group])
    b1 = to_tf32(b[tile * 64 + (member + 4) * 8 + group])
""",
    "mma_tf32_m16n8k8",
)

PAIRS = tiles(
    """
    i = tile * 256 + group * 16 + member * 2
    a0 = pack_half2(a[i], a[i + 1])
    a1 = pack_half2(a[i + 128], a[i + 129])
    a2 = pack_half2(a[i + 8], a[i + 9])
    a3 = pack_half2(a[i + 136], a[i + 137])
    j = tile * 128 + member * 2 * 8 + group
    b0 = pack_half2(b[j], b[j + 8])
    b1 = pack_half2(b[j + 64], b[j + 72])
""",
    "mma_f16_m16n8k16",
)
BFLOATS = PAIRS.replace("pack_half2", "pack_bfloat2").replace("mma_f16", "mma_bf16")

LDMATRIX = tiles(
    """
    left = shared_halves(384)
    right = shared_halves(256)
    for k in range(4):
        row = k * 4 + lane // 8
        column = lane % 8 * 2
        i = tile * 256 + row * 16 + column
        store_pair(left, row * 24 + column, pack_half2(a[i], a[i + 1]))
    for k in range(2):
        row = k * 8 + lane // 4
        column = lane % 4 * 2
        j = tile * 128 + row * 8 + column
        store_pair(right, row * 16 + column, pack_half2(b[j], b[j + 1]))
    cuda.syncwarp()
    a0, a1, a2, a3 = ldmatrix_x4(left, lane % 16 * 24 + lane // 16 * 8)
    b0, b1 = ldmatrix_x2_trans(right, lane % 16 * 16)
""",
    "mma_f16_m16n8k16",
)
TRANSPOSED = (
    LDMATRIX.replace("b0, b1 = ldmatrix_x2_trans(right, lane % 16 * 16)", """\
b0, b1, b2, b3 = ldmatrix_x4_trans(right, lane % 16 * 16)""")
)  # fmt: skip
"""Two more matrices are read than needed."""
SHARED_TF32 = tiles(
    """
    left = shared_floats(192)
    right = shared_floats(96)
    copy_async16(left, lane // 2 * 12 + lane % 2 * 4, a, tile * 128 + lane * 4, True)
    copy_async_commit()
    for k in range(2):
        right[lane % 8 * 12 + lane // 8 + k * 4] = b[tile * 64 + k * 32 + lane]
    copy_async_wait(0)
    cuda.syncthreads()
    a0, a1, a2, a3 = ldmatrix_x4(left, lane % 16 * 12 + lane // 16 * 4)
    b0, b1 = ldmatrix_x2(right, lane % 8 * 12 + lane // 8 % 2 * 4)
""",
    "mma_tf32_m16n8k8",
)

KERNELS = {
    "tf32": (TF32, 8),
    "float16": (PAIRS, 16),
    "bfloat16": (BFLOATS, 16),
    "float16 by ldmatrix": (LDMATRIX, 16),
    "float16 by ldmatrix of four, transposed": (TRANSPOSED, 16),
    "tf32 by ldmatrix of words": (SHARED_TF32, 8),
}


def product(source, depth, tiles=5):
    a, b = numbers(tiles, 16, depth), numbers(tiles, depth, 8, seed=1)
    c, d = numbers(tiles, 16, 8, seed=2), nothing(tiles, 16, 8)
    run(source, tiles, 32, a, b, c, d, tiles)
    return a @ b + c, d


@pytest.mark.parametrize("name", KERNELS)
def test_a_product_in_fragments_is_the_product(name):
    expected, found = product(*KERNELS[name])
    np.testing.assert_array_equal(found, expected)


SWAPPED = [("a0, a1, a2, a3, b", "a1, a0, a2, a3, b"), ("a0, a1, a2, a3, b", "a0, a2, a1, a3, b")]
SWAPPED += [
    ("b0, b1, c0", "b1, b0, c0"),
    ("= c1\n", "= c2\n"),
    ("d[at + 64] = c2", "d[at + 64] = c0"),
]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("right", "wrong"), SWAPPED)
def test_a_swapped_fragment_shows(name, right, wrong):
    source, depth = KERNELS[name]
    assert right in source
    expected, found = product(source.replace(right, wrong), depth)
    assert not np.array_equal(found, expected)


@pytest.mark.parametrize("name", ["float16 by ldmatrix", "tf32 by ldmatrix of words"])
def test_a_row_of_another_matrix_shows(name):
    source, depth = KERNELS[name]
    bug = source.replace("ldmatrix_x4(left, lane % 16", "ldmatrix_x4(left, (lane ^ 1) % 16")
    assert bug != source
    expected, found = product(bug, depth)
    assert not np.array_equal(found, expected)


def test_a_transpose_too_few_shows():
    source, depth = KERNELS["float16 by ldmatrix"]
    expected, found = product(source.replace("x2_trans", "x2"), depth)
    assert not np.array_equal(found, expected)


def test_ldmatrix_needs_a_barrier_after_other_threads_wrote():
    with pytest.raises(EmulationError, match=r"race on kernel `tiles`, shared `(left|right)`\["):
        product(LDMATRIX.replace("    cuda.syncwarp()\n", ""), 16)


def test_ldmatrix_needs_rows_at_multiples_of_16_bytes():
    bug = LDMATRIX.replace("lane % 16 * 24 + lane // 16 * 8", "lane % 16 * 20 + lane // 16 * 8")
    with pytest.raises(EmulationError, match="index 20 of shared `left` is not a multiple of 8"):
        product(bug, 16)


def test_matrices_are_products_of_whole_warps():
    bug = TF32.replace(
        "    c0, c1, c2, c3 = mma", "    if group < 7:\n        c0, c1, c2, c3 = mma"
    )
    with pytest.raises(
        EmulationError, match="thread 0 of block 0 is at mma_tf32_m16n8k8, thread 28"
    ):
        product(bug, 8)


def test_matrices_take_bits_and_not_numbers():
    with pytest.raises(EmulationError, match="takes registers of bits, not float32"):
        product(TF32.replace("a0 = to_tf32(a[first + group * 8 + member])", "a0 = a[first]"), 8)


# -- rounding --------------------------------------------------------------------------------


def rounded(function, x):
    """What a function of the kernels' library makes of float32, as registers."""
    from emulator.instructions import SCALARS

    with np.errstate(all="ignore"):
        return SCALARS[function](*np.asarray(x, np.float32))


def test_tf32_keeps_ten_bits_and_rounds_ties_away_from_zero():
    step = 2.0**-10
    x = [1.0, 1 + step, 1 + step / 2, -1 - step / 2, 1 + step * 0.49, 3e38, np.inf]
    expected = [1.0, 1 + step, 1 + step, -1 - step, 1.0, 3e38, np.inf]
    found = rounded("to_tf32", [x]).view(np.float32)
    np.testing.assert_allclose(found, expected, rtol=step / 2)
    np.testing.assert_array_equal(found[:5], np.float32(expected[:5]))
    assert np.isnan(rounded("to_tf32", [[np.nan]]).view(np.float32)).all()


def test_halves_are_numpys():
    x = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    x[:, :4] = [[1e-7, 65504, 1e6, -np.inf], [-3e-5, 65520, np.nan, 0]]
    found = rounded("pack_half2", x)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found.view(np.float16)[::2], x[0].astype(np.float16))
        np.testing.assert_array_equal(found.view(np.float16)[1::2], x[1].astype(np.float16))


def test_bfloats_are_torchs():
    import torch

    x = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    x[:, :4] = [[1 + 2.0**-8, 1 + 3 * 2.0**-8, 3.4e38, -np.inf], [1e-40, np.nan, 0, -1e-5]]
    found = torch.from_numpy(rounded("pack_bfloat2", x).view(np.int16).copy()).view(torch.bfloat16)
    for half, given in zip((found[::2], found[1::2]), x, strict=True):
        expected = torch.from_numpy(given).to(torch.bfloat16)
        np.testing.assert_array_equal(half.float().numpy(), expected.float().numpy())


def test_integers_of_32_bits_wrap():
    from emulator.instructions import SCALARS

    x = np.array([2**31 - 1, 2**31, -(2**31) - 1, 5, 2**32 + 7])
    np.testing.assert_array_equal(SCALARS["int32"](x), x.astype(np.int32))
    assert SCALARS["int32"](2**31) == -(2**31)
    np.testing.assert_array_equal(SCALARS["uint32"](x), x.astype(np.uint32))
