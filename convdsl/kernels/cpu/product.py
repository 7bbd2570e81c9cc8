"""Matrix products on the CPU: rows of dot products, or rows of scaled sums."""

from __future__ import annotations

from convdsl.kernels.cpu.frame import kernel
from convdsl.ops.expressions import Expr, Load, Symbol, bare
from convdsl.ops.families import Product
from convdsl.plan.model import Call, Kernel, Recipe

BLOCK = 512
"""Columns that one work unit of a scaled sum covers: 2 KiB, well inside the first-level cache."""


def recipe(product: Product) -> Recipe:
    """The kernel for the way the factors are stored."""
    count = 2 + product.bias + (len(product.epilogue.present) if product.epilogue else 0)
    operands = (*(f"in{k}" for k in range(count)), "out")
    cost = product.rows * product.columns * product.inner
    if product.transpose_b:
        sizes = (product.rows, product.columns, product.inner)
        call = Call(_dots(product), operands, sizes, product.columns, cost)
        return Recipe((call,), reason="dot products along both rows, each row of B read once")
    made = _sums(product.transpose_a)
    blocks = -(-product.columns // BLOCK)
    sizes_with_blocks = (product.rows, product.columns, product.inner, blocks)
    work = product.rows * blocks
    reason = "every row of the result as a sum of rows of B"
    return Recipe((Call(made, operands, sizes_with_blocks, work, cost),), reason=reason)


def _dots(product: Product) -> Kernel:
    pointers = [("a", "float32"), ("b", "float32")]
    if product.bias:
        pointers.append(("bias", "float32"))
    if product.epilogue:
        pointers += product.epilogue.operands

    def stored(row: Expr, total: str) -> str:
        n, columns = Symbol("n", "int64"), Symbol("N", "int64")
        value: Expr = Symbol(total)
        if product.bias:
            value = value + Load("bias", n)
        if product.epilogue:
            value = product.epilogue.apply(value, [row, n], [Symbol("M", "int64"), columns])
        return f"y[{bare(row * columns + n)}] = {bare(value)}"

    m = Symbol("m", "int64")
    body = [
        "for n in range(begin, end):",
        "    row = n * K",
        "    m = 0",
        # Four rows of A at a time, so that a row of B is loaded once for all of them.
        "    while m + 4 <= M:",
        "        t0 = float32(0.0)",
        "        t1 = float32(0.0)",
        "        t2 = float32(0.0)",
        "        t3 = float32(0.0)",
        "        at = m * K",
        "        for k in range(K):",
        "            w = b[row + k]",
        "            t0 += a[at + k] * w",
        "            t1 += a[at + K + k] * w",
        "            t2 += a[at + 2 * K + k] * w",
        "            t3 += a[at + 3 * K + k] * w",
        *(f"        {stored(m + r, f't{r}')}" for r in range(4)),
        "        m += 4",
        "    while m < M:",
        "        total = float32(0.0)",
        "        at = m * K",
        "        for k in range(K):",
        "            total += a[at + k] * b[row + k]",
        f"        {stored(m, 'total')}",
        "        m += 1",
    ]
    return kernel(
        "product_dots" + ("_bias" if product.bias else ""),
        [*pointers, ("y", "float32")],
        ["M", "N", "K"],
        body,
        "y[M, N] = a[M, K] · b[N, K]ᵀ"
        + (" + bias[N]" if product.bias else "")
        + "; a unit per column.",
        ("contract", "reassoc"),
    )


def _sums(transpose_a: bool) -> Kernel:
    factor = "a[k * M + m]" if transpose_a else "a[m * K + k]"
    body = [
        "for unit in range(begin, end):",
        "    m = unit // blocks",
        f"    start = (unit % blocks) * {BLOCK}",
        f"    stop = min(start + {BLOCK}, N)",
        "    out = m * N",
        "    for n in range(start, stop):",
        "        y[out + n] = float32(0.0)",
        "    for k in range(K):",
        f"        factor = {factor}",
        "        row = k * N",
        "        for n in range(start, stop):",
        "            y[out + n] += factor * b[row + n]",
    ]
    stored = "a[K, M]ᵀ" if transpose_a else "a[M, K]"
    return kernel(
        "product_sums" + ("_transposed" if transpose_a else ""),
        [("a", "float32"), ("b", "float32"), ("y", "float32")],
        ["M", "N", "K", "blocks"],
        body,
        f"y[M, N] = {stored} · b[K, N]; a unit per row and {BLOCK} columns.",
        ("contract",),
    )
