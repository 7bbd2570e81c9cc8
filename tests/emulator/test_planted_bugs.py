"""Bugs planted in kernels that are right: each is caught, and named with line and thread."""

import numpy as np
import pytest

from emulator import EmulationError
from emulator.sources import PIPELINE, PRODUCT, REVERSE, SUMS, run
from emulator.test_kernels import nothing, numbers


def planted(source, right, wrong, count=1):
    """The source with a bug instead of what is right."""
    assert source.count(right) >= count, right
    return source.replace(right, wrong, count)


def reverse(source, blocks=3, threads=64):
    x, y = numbers(blocks, 64), nothing(blocks, 64)
    run(source, blocks, threads, x, y, blocks * 64)
    return x, y


def sums(source, columns=300):
    x, y = numbers(3, columns), nothing(3)
    run(source, 3, 128, x, y, 3, columns)
    return x, y


def product(source, n=32):
    a, b, c = numbers(n, n), numbers(n, n, seed=1), nothing(n, n)
    run(source, (n // 16) ** 2, 64, a, b, c, n)
    return a @ b, c


def pipeline(source, n=384):
    x, y = numbers(n), nothing(32)
    run(source, 1, 32, x, y, n)
    return x.reshape(-1, 32).sum(0)[::-1], y


# -- races -----------------------------------------------------------------------------------


def test_a_missing_barrier_after_writing():
    bug = planted(REVERSE, "    cuda.syncthreads()\n", "")
    with pytest.raises(
        EmulationError, match=r"race on kernel `reverse`, shared `tile`\["
    ) as caught:
        reverse(bug)
    assert "thread 63 of block 0 writes it in line 7, thread 0 of block 0 reads it" in str(
        caught.value
    )


def test_a_missing_barrier_before_the_next_tile():
    first, second, rest = PRODUCT.split("        cuda.syncthreads()\n")
    for bug in (first + "        cuda.syncthreads()\n" + second + rest, first + second + rest):
        with pytest.raises(
            EmulationError, match=r"race on kernel `product`, shared `(left|right)`"
        ):
            product(bug)


def test_a_warp_that_reads_what_another_one_wrote():
    """Within a warp, threads wait for one another in `syncwarp`; other warps do not."""
    bug = planted(REVERSE, "cuda.syncthreads()", "cuda.syncwarp()")
    with pytest.raises(EmulationError, match="warp 1 of block 0 writes it in line 7, warp 0"):
        reverse(bug)
    right = planted(bug, "tile[63 - thread]", "tile[thread ^ 31]")
    x, y = reverse(right)
    np.testing.assert_array_equal(y, x.reshape(3, 2, 32)[:, :, ::-1].reshape(3, 64))


def test_a_warp_does_not_run_in_step():
    bug = planted(REVERSE, "    cuda.syncthreads()\n", "")
    with pytest.raises(EmulationError, match="race"):
        reverse(planted(bug, "tile[63 - thread]", "tile[thread ^ 1]"))


def test_a_shuffle_does_not_order_memory():
    bug = planted(
        planted(REVERSE, "cuda.syncthreads()", "cuda.shfl_xor_sync(0xFFFFFFFF, thread, 1)"),
        "tile[63 - thread]",
        "tile[thread ^ 1]",
    )
    with pytest.raises(EmulationError, match="race"):
        reverse(bug)


def test_threads_that_write_the_same_element():
    bug = planted(SUMS, "if thread % 32 == 0:", "if thread % 32 < 2:")
    with pytest.raises(EmulationError, match=r"race on kernel `sums`, shared `partial`\[0\]"):
        sums(bug)
    bug = planted(SUMS, "if thread == 0:", "if thread < 2:")
    with pytest.raises(EmulationError, match=r"race on kernel `sums`, buffer `y`\[0\]"):
        sums(bug)


@pytest.mark.parametrize("together", [64, 1 << 14])
def test_blocks_that_write_the_same_element(together):
    bug = planted(REVERSE, "y[start + thread]", "y[thread]")
    x, y = numbers(3, 64), nothing(3, 64)
    with pytest.raises(EmulationError, match=r"race on kernel `reverse`, buffer `y`\[\d+\]"):
        run(bug, 3, 64, x, y, 192, together=together)


@pytest.mark.parametrize("together", [64, 1 << 14])
def test_a_block_that_reads_what_another_one_wrote(together):
    source = """
    def next_one(x, y, n):
        x = floats(x)
        y = floats(y)
        position = cuda.grid(1)
        y[position] = x[position]
        cuda.syncthreads()
        if position + 1 < n:
            y[position] = y[position + 1]
    """
    x, y = numbers(128), nothing(128)
    with pytest.raises(EmulationError, match=r"race on kernel `next_one`, buffer `y`\[\d+\]"):
        run(source, 2, 64, x, y, 128, together=together)


@pytest.mark.parametrize("together", [32, 1 << 14])
def test_an_input_that_is_overwritten_before_others_have_read_it(together):
    """The result takes over the memory of an input, which only its own element may be read from."""
    source = """
    def maximum(x, y, n):
        x = floats(x)
        y = floats(y)
        i = cuda.grid(1)
        if i < n:
            y[i] = max(x[i], x[INDEX])
    """
    x = numbers(100)
    run(source.replace("INDEX", "i"), 4, 32, x, x, 100, together=together)
    with pytest.raises(EmulationError, match=r"race on kernel `maximum`, buffer `x`\[\d+\] = `y`"):
        run(source.replace("INDEX", "n - 1 - i"), 4, 32, x, x, 100, together=together)


def test_an_atomic_and_a_plain_access():
    source = """
    def count(y, n):
        y = floats(y)
        tally = shared_floats(1)
        if cuda.threadIdx.x == 0:
            tally[0] = float32(0.0)
        cuda.syncthreads()
        atomic_add(tally, 0, float32(1.0))
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            y[cuda.blockIdx.x] = tally[0]
    """
    y = nothing(2)
    run(source, 2, 64, y, 2)
    np.testing.assert_array_equal(y, [64, 64])
    first, second, third = source.split("        cuda.syncthreads()\n")
    for bug in (first + second + "        cuda.syncthreads()\n" + third,
                first + "        cuda.syncthreads()\n" + second + third):  # fmt: skip
        with pytest.raises(EmulationError, match=r"race on kernel `count`, shared `tally`\[0\]"):
            run(bug, 2, 64, y, 2)


# -- bounds and alignment --------------------------------------------------------------------


def test_a_read_out_of_bounds():
    bug = planted(REVERSE, "x[start + thread]", "x[start + thread + 1]")
    with pytest.raises(EmulationError) as caught:
        reverse(bug)
    assert str(caught.value) == (
        "kernel `reverse`, line 7: index 192 is out of bounds of buffer `x`, "
        "which has 192 elements, in thread 63 of block 2"
    )


def test_a_write_out_of_bounds():
    bug = planted(REVERSE, "y[start + thread]", "y[start - thread]")
    with pytest.raises(
        EmulationError, match=r"index -1 is out of bounds of buffer `y`.*thread 1 of"
    ):
        reverse(bug)


def test_one_too_many_in_shared_memory():
    bug = planted(REVERSE, "tile[63 - thread]", "tile[64 - thread]")
    with pytest.raises(
        EmulationError, match=r"index 64 is out of bounds of shared `tile`.*thread 0"
    ):
        reverse(bug)


def test_one_too_many_in_local_memory():
    bug = planted(PRODUCT, "for k in range(4)", "for k in range(5)")
    with pytest.raises(EmulationError, match="index 4 is out of bounds of local `totals`"):
        product(bug)


def test_a_vector_access_that_reaches_out_of_bounds():
    source = """
    def copied(x, y, n):
        x = floats(x)
        y = floats(y)
        i = cuda.threadIdx.x * 4
        if i < n:
            a, b, c, d = load4(x, i)
            store4(y, i, a, b, c, d)
    """
    run(source, 1, 32, numbers(28), nothing(28), 28)
    with pytest.raises(EmulationError, match=r"index 28 is out of bounds of buffer `x`.*thread 7"):
        run(source, 1, 32, numbers(30), nothing(30), 30)


def test_misaligned_vector_accesses():
    bug = planted(PRODUCT, "start + thread % 4 * 4)", "start + thread % 4)")
    with pytest.raises(EmulationError, match="index 1 of buffer `a` is not a multiple of 4"):
        product(bug)
    bug = planted(PRODUCT, "store4(left, thread * 4,", "store4(left, thread,")
    with pytest.raises(EmulationError, match="index 1 of shared `left` is not a multiple of 4"):
        product(bug)
    bug = planted(PIPELINE, "copy_async16(stages, thread * 4,", "copy_async16(stages, thread * 2,")
    with pytest.raises(EmulationError, match="index 2 of shared `stages` is not a multiple of 4"):
        pipeline(bug)


def test_a_copy_out_of_bounds():
    bug = planted(PIPELINE, "more = start + 128 + thread * 4 < n", "more = start < n")
    with pytest.raises(EmulationError, match="index 384 is out of bounds of buffer `x`"):
        pipeline(bug)


def test_a_float_as_an_index():
    bug = planted(REVERSE, "x[start + thread]", "x[float32(start + thread)]")
    with pytest.raises(EmulationError, match="a float as an index of buffer `x`"):
        reverse(bug)


def test_a_quotient_that_does_not_fit():
    source = """
    def halved(x, y, n):
        x = ints(x)
        y = ints(y)
        y[cuda.threadIdx.x] = quotient(x[cuda.threadIdx.x], 2)
    """
    x, y = np.arange(32), np.zeros(32, np.int64)
    run(source, 1, 32, x, y, 32)
    np.testing.assert_array_equal(y, x // 2)
    x[7] = 2**31
    with pytest.raises(EmulationError, match="does not fit into 32 bits, in thread 7"):
        run(source, 1, 32, x, y, 32)


# -- barriers and warps ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "bug",
    [
        "if thread < 32:\n        cuda.syncthreads()",
        "if thread != 13:\n        cuda.syncthreads()",
        "for k in range(thread // 32):\n        cuda.syncthreads()",
    ],
)
def test_a_barrier_that_not_all_threads_reach(bug):
    with pytest.raises(EmulationError, match=r"is at a barrier of the block.* is not") as caught:
        reverse(planted(REVERSE, "cuda.syncthreads()", bug))
    assert "of block 0" in str(caught.value)


def test_a_barrier_that_whole_blocks_pass_by_is_none_of_those():
    right = planted(
        REVERSE, "    cuda.syncthreads()", "    if cuda.blockIdx.x == 5:\n        return\n"
        "    if cuda.blockIdx.x % 2 == 0:\n        cuda.syncthreads()\n    cuda.syncthreads()",
    )  # fmt: skip
    x, y = reverse(right, blocks=6)
    np.testing.assert_array_equal(y[:5], x[:5, ::-1])
    assert np.isnan(y[5]).all()


def test_threads_that_have_returned_are_not_waited_for():
    right = planted(REVERSE, "    tile[", "    if thread >= 60:\n        return\n    tile[")
    x, y = reverse(planted(right, "63 - thread", "59 - thread"))
    np.testing.assert_array_equal(y[:, :60], x[:, 59::-1])


def test_wrong_masks_of_shuffles():
    bug = planted(SUMS, "0xFFFFFFFF", "0xFFFF")
    with pytest.raises(EmulationError, match="thread 16 of block 0 is at a shuffle whose mask"):
        sums(bug)
    bug = planted(
        SUMS, "    delta = 16\n", "    delta = 16\n    if thread % 32 > 2:\n        return\n"
    )
    bug = planted(bug, "    while", "    if thread % 32:\n        delta = 0\n    while")
    with pytest.raises(EmulationError, match="the mask of a shuffle names thread 1 of block 0"):
        sums(bug)


def test_a_shuffle_from_a_thread_that_takes_no_part_gives_nothing():
    source = """
    def upper(x, y, n):
        x = floats(x)
        y = floats(y)
        v = x[cuda.threadIdx.x]
        if cuda.threadIdx.x < 16:
            v = cuda.shfl_down_sync(0xFFFF, v, 8)
        y[cuda.threadIdx.x] = v
    """
    x, y = numbers(32), nothing(32)
    run(source, 1, 32, x, y, 32)
    assert np.isnan(y[8:16]).all()
    np.testing.assert_array_equal(y[:8], x[8:16])


def test_a_reduction_that_stops_early():
    expected, found = (lambda x, y: (x.sum(1), y))(*sums(planted(SUMS, "delta > 0", "delta > 1")))
    assert not np.array_equal(found, expected)


# -- what nobody wrote -----------------------------------------------------------------------


def test_shared_memory_that_nobody_wrote_reaches_the_output():
    _, y = reverse(
        planted(REVERSE, "    tile[thread] =", "    if thread < 60:\n        tile[thread] =")
    )
    assert np.isnan(y[:, :4]).all()
    assert not np.isnan(y[:, 4:]).any()


def test_a_sum_that_starts_from_nothing_reaches_the_output():
    bug = planted(PRODUCT, "range(4):\n        totals", "range(3):\n        totals")
    _, c = product(bug)
    assert np.isnan(c[:, 3::4]).all()


def test_a_variable_that_some_threads_did_not_assign_reaches_the_output():
    bug = planted(REVERSE, "    y[", "    if thread > 3:\n        v = tile[63 - thread]\n    y[")
    _, y = reverse(
        planted(bug, "= tile[63 - thread]\n", "= v\n", 2).replace("v = v", "v = tile[0]")
    )
    assert np.isnan(y[:, :4]).all()


def test_a_copy_that_is_not_waited_for_reaches_the_output():
    expected, y = pipeline(PIPELINE)
    np.testing.assert_array_equal(y, expected)
    for right, wrong in [
        ("copy_async_wait(1)", "pass"),
        ("copy_async_wait(1)", "copy_async_wait(2)"),
        ("        copy_async_commit()\n", ""),
    ]:
        _, y = pipeline(planted(PIPELINE, right, wrong))
        assert np.isnan(y).all(), wrong


def test_a_copy_that_only_its_own_thread_may_read():
    bug = planted(PIPELINE, "        cuda.syncthreads()\n", "")
    with pytest.raises(EmulationError, match=r"race on kernel `pipeline`, shared `stages`\["):
        pipeline(bug)


def test_a_copy_into_what_others_still_read():
    first, second, rest = PIPELINE.split("        cuda.syncthreads()\n")
    with pytest.raises(EmulationError, match=r"race on kernel `pipeline`, shared `stages`\["):
        pipeline(first + "        cuda.syncthreads()\n" + second + rest)


# -- what kernels must not be written with ---------------------------------------------------


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("cuda.threadIdx.x", "cuda.threadIdx.y", "line 5: there must not be `cuda.threadIdx.y`"),
        ("= x[", "= median(x)[", "there must not be a function `median`"),
        ("tile = shared_floats(64)", "tile = shared_floats(n)", "size is not a constant"),
        (
            "tile = shared_floats(64)",
            "tile = shared_floats(64); other = shared_floats(64)",
            "line 4: there must not be more than one declaration of memory on a line",
        ),
        ("cuda.syncthreads()", "assert thread", "there must not be a statement Assert"),
    ],
)
def test_what_the_emulator_does_not_know_is_refused(right, wrong, message):
    with pytest.raises(EmulationError, match=message):
        reverse(planted(REVERSE, right, wrong))
