"""Kernels for the emulator's own tests: right ones, in which the tests plant bugs."""

from __future__ import annotations

import textwrap

import numpy as np

from convdsl.plan.model import Kernel
from emulator import launch


def run(source, blocks, threads, *arguments, **options):
    """Run a kernel's source on arrays, of any shape, and then sizes."""
    source = textwrap.dedent(source).strip() + "\n"
    name, parameters = source.removeprefix("def ").split(":")[0].rstrip(")").split("(")
    arrays = [a for a in arguments if isinstance(a, np.ndarray)]
    sizes = arguments[len(arrays) :]
    names = [n.strip() for n in parameters.split(",")]
    pointers = tuple((n, a.dtype.name) for n, a in zip(names, arrays, strict=False))
    kernel = Kernel(name, pointers, tuple(names[len(arrays) :]), source)
    launch(kernel, blocks, threads, [a.reshape(-1) for a in arrays], sizes, **options)


REVERSE = """
def reverse(x, y, n):
    x = floats(x)
    y = floats(y)
    tile = shared_floats(64)
    thread = cuda.threadIdx.x
    start = cuda.blockIdx.x * 64
    tile[thread] = x[start + thread]
    cuda.syncthreads()
    y[start + thread] = tile[63 - thread]
"""
"""Reverses every 64 elements; 64 threads a block."""

SUMS = """
def sums(x, y, rows, columns):
    x = floats(x)
    y = floats(y)
    partial = shared_floats(4)
    thread = cuda.threadIdx.x
    row = cuda.blockIdx.x
    total = float32(0.0)
    for column in range(thread, columns, 128):
        total += x[row * columns + column]
    delta = 16
    while delta > 0:
        total += cuda.shfl_down_sync(0xFFFFFFFF, total, delta)
        delta //= 2
    if thread % 32 == 0:
        partial[thread // 32] = total
    cuda.syncthreads()
    if thread == 0:
        y[row] = partial[0] + partial[1] + partial[2] + partial[3]
"""
"""Sums rows; 128 threads a block, a block a row."""

PRODUCT = """
def product(a, b, c, n):
    a = floats(a)
    b = floats(b)
    c = floats(c)
    left = shared_floats(256)
    right = shared_floats(256)
    thread = cuda.threadIdx.x
    row = cuda.blockIdx.x // (n // 16) * 16 + thread // 4
    column = cuda.blockIdx.x % (n // 16) * 16 + thread % 4 * 4
    totals = local_floats(4)
    for k in range(4):
        totals[k] = float32(0.0)
    for start in range(0, n, 16):
        v0, v1, v2, v3 = load4(a, row * n + start + thread % 4 * 4)
        store4(left, thread * 4, v0, v1, v2, v3)
        v0, v1, v2, v3 = load4(b, (start + thread // 4) * n + column)
        store4(right, thread * 4, v0, v1, v2, v3)
        cuda.syncthreads()
        for inner in range(16):
            value = left[thread // 4 * 16 + inner]
            w0, w1, w2, w3 = load4(right, inner * 16 + thread % 4 * 4)
            totals[0] += value * w0
            totals[1] += value * w1
            totals[2] += value * w2
            totals[3] += value * w3
        cuda.syncthreads()
    store4(c, row * n + column, totals[0], totals[1], totals[2], totals[3])
"""
"""C = A·B of n×n matrices; 64 threads a block, a block a tile of 16×16."""

PIPELINE = """
def pipeline(x, y, n):
    x = floats(x)
    y = floats(y)
    stages = shared_floats(512)
    thread = cuda.threadIdx.x
    copy_async16(stages, thread * 4, x, thread * 4, thread * 4 < n)
    copy_async_commit()
    total = float32(0.0)
    for start in range(0, n, 128):
        other = (start // 128 + 1) % 2 * 128
        more = start + 128 + thread * 4 < n
        copy_async16(stages, other + thread * 4, x, start + 128 + thread * 4, more)
        copy_async_commit()
        copy_async_wait(1)
        cuda.syncthreads()
        for k in range(4):
            total += stages[start // 128 % 2 * 128 + k * 32 + 31 - thread]
        cuda.syncthreads()
    y[thread] = total
"""
"""Sums every 32nd element, with copies a stage ahead; one block of 32 threads."""
