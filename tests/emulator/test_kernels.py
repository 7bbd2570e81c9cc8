"""Kernels that are right run in the emulator, and compute what they should."""

import numpy as np
import pytest

from emulator.sources import PIPELINE, PRODUCT, REVERSE, SUMS, run


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float32)


def nothing(*shape):
    return np.full(shape, np.nan, np.float32)


@pytest.mark.parametrize("together", [64, 128, 1 << 14])
def test_shared_memory_and_a_barrier(together):
    x, y = numbers(5, 64), nothing(5, 64)
    run(REVERSE, 5, 64, x, y, 320, together=together)
    np.testing.assert_array_equal(y, x[:, ::-1])


@pytest.mark.parametrize("columns", [1, 31, 128, 300])
def test_shuffles_and_loops_of_different_length(columns):
    x, y = numbers(7, columns), nothing(7)
    run(SUMS, 7, 128, x, y, 7, columns)
    np.testing.assert_array_equal(y, x.sum(1))


def test_a_product_in_tiles_by_vector_accesses():
    a, b, c = numbers(48, 48), numbers(48, 48, seed=1), nothing(48, 48)
    run(PRODUCT, 9, 64, a, b, c, 48)
    np.testing.assert_array_equal(c, a @ b)


@pytest.mark.parametrize("n", [4, 128, 388])
def test_asynchronous_copies_a_stage_ahead(n):
    x, y = numbers(n), nothing(32)
    run(PIPELINE, 1, 32, x, y, n)
    padded = np.pad(x, (0, -n % 128)).reshape(-1, 32)
    np.testing.assert_array_equal(y, padded.sum(0)[::-1])


def test_copies_of_four_bytes_and_zeros_outside():
    source = """
    def shifted(x, y, n):
        x = floats(x)
        y = floats(y)
        tile = shared_floats(32)
        thread = cuda.threadIdx.x
        copy_async4(tile, thread, x, thread - 3, thread >= 3)
        copy_async_commit()
        copy_async_wait(0)
        cuda.syncwarp()
        y[thread] = tile[31 - thread]
    """
    x, y = numbers(32), nothing(32)
    run(source, 1, 32, x, y, 32)
    np.testing.assert_array_equal(y, np.concatenate([np.zeros(3), x[:29]])[::-1])


def test_atomics_add_what_threads_of_all_blocks_give():
    source = """
    def histogram(x, y, n):
        x = ints(x)
        y = floats(y)
        position = cuda.grid(1)
        if position < n:
            atomic_add(y, x[position], float32(1.0))
    """
    x = np.random.default_rng(0).integers(0, 10, 1000)
    y = np.zeros(10, np.float32)
    run(source, 16, 64, x, y, 1000, together=128)
    np.testing.assert_array_equal(y, np.bincount(x, minlength=10))


def test_every_kind_of_shuffle():
    source = """
    def shuffles(x, y, n):
        x = floats(x)
        y = floats(y)
        t = cuda.threadIdx.x
        v = x[t]
        y[t] = cuda.shfl_xor_sync(0xFFFFFFFF, v, 1)
        y[64 + t] = cuda.shfl_sync(0xFFFFFFFF, v, 5)
        y[128 + t] = cuda.shfl_down_sync(0xFFFFFFFF, v, 3)
        y[192 + t] = cuda.shfl_up_sync(0xFFFFFFFF, v, 3)
        if t % 32 < 16:
            v = cuda.shfl_xor_sync(0xFFFF, v, 8)
        y[256 + t] = v
    """
    x, y = numbers(64), nothing(5, 64)
    run(source, 1, 64, x, y, 64)
    t = np.arange(64)
    lane, first = t % 32, t // 32 * 32
    np.testing.assert_array_equal(y[0], x[t ^ 1])
    np.testing.assert_array_equal(y[1], x[first + 5])
    np.testing.assert_array_equal(y[2], x[np.where(lane + 3 < 32, t + 3, t)])
    np.testing.assert_array_equal(y[3], x[np.where(lane - 3 >= 0, t - 3, t)])
    np.testing.assert_array_equal(y[4], x[np.where(lane < 16, t ^ 8, t)])


CONTROL = """
def control(x, y, n):
    x = ints(x)
    y = ints(y)
    i = cuda.grid(1)
    if i >= n:
        return
    total = 0
    for a in range(x[i]):
        if a == 3:
            continue
        if a % 7 == 6:
            if i % 2 == 0:
                break
            total += 100
        for b in range(a, 0, -2):
            if b == 4 and i % 3 == 0:
                break
            total += b
        total += a if a % 2 else -1
    while total > 50:
        total -= 7
        if total % 5 == 0:
            total -= 1
            continue
        if total == 33 or (i == 4 and total < 60):
            break
    if i == 5:
        y[i] = -1
        return
    last = 0
    for last in range(i):
        pass
    y[i] = total * 1000 + last + (i // x[i] if x[i] > 0 else 0)
"""


@pytest.mark.parametrize("together", [32, 1 << 14])
def test_control_flow_is_pythons_in_every_thread(together):
    x = np.random.default_rng(3).integers(-2, 25, 90)
    y = np.zeros(100, np.int64)
    run(CONTROL, 4, 32, x, y, 90, together=together)
    expected = [in_python(CONTROL, i, x.tolist()) for i in range(90)]
    np.testing.assert_array_equal(y, expected + [0] * 10)


def in_python(source, thread, x):
    """What one thread writes, by Python itself."""
    y = {}
    names = {
        "ints": lambda p: p,
        "cuda": type("cuda", (), {"grid": staticmethod(lambda axes: thread)}),
    }
    exec(source, names)
    names["control"](x, y, len(x))
    return y[thread]


def test_local_memory_takes_indices_that_differ_between_threads():
    source = """
    def turned(x, y, n):
        x = floats(x)
        y = floats(y)
        own = local_floats(5)
        t = cuda.threadIdx.x
        for k in range(5):
            own[(k + t) % 5] = x[t * 5 + k]
        if t % 3 == 0:
            own[2] = float32(-1.0)
        for k in range(5):
            y[t * 5 + k] = own[k] + own[t % 5]
    """
    x, y = numbers(40, 5), nothing(40, 5)
    run(source, 1, 40, x, y, 40)
    own = np.stack([np.roll(row, t) for t, row in enumerate(x)])
    own[::3, 2] = -1
    np.testing.assert_array_equal(y, own + own[np.arange(40), np.arange(40) % 5][:, None])


def test_pointers_move_by_bytes():
    source = """
    def copied(x, y, n):
        x = floats(x + cuda.blockIdx.x * n * 4)
        y = floats(y + cuda.blockIdx.x * n * 4)
        y[cuda.threadIdx.x] = x[cuda.threadIdx.x]
    """
    x, y = numbers(3, 32), nothing(3, 32)
    run(source, 3, 32, x, y, 32)
    np.testing.assert_array_equal(y, x)


def test_functions_of_the_library_in_plain_python_are_run_too():
    from convdsl.ops.expressions import uniform

    source = """
    def draw(key, y, n):
        key = ints(key)
        y = floats(y)
        i = cuda.grid(1)
        if i < n:
            y[i] = uniform(key[0], i)
    """
    y = nothing(100)
    run(source, 4, 32, np.array([3**20]), y, 100)
    np.testing.assert_array_equal(y, uniform(3**20, np.arange(100)))


def test_a_block_of_half_warps_has_no_more_threads_than_it_says():
    source = """
    def ordered(y, n):
        y = floats(y)
        last = shared_floats(48)
        t = cuda.threadIdx.x
        last[t] = float32(t)
        cuda.syncthreads()
        y[cuda.blockIdx.x * 48 + t] = last[47 - t]
    """
    y = nothing(3, 48)
    run(source, 3, 48, y, 144)
    np.testing.assert_array_equal(y, np.tile(np.arange(48)[::-1], (3, 1)))
