"""Matrix products on the CPU: register tiles of rows × columns, however the factors are stored.

Where B is stored by columns (a dense layer's weights), vectors run along the sums and are added up
in the end; otherwise they run along the columns. What follows a sum, a bias and an epilogue, is
computed along the columns in any case. Big factors are read once from memory.
(Goto and van de Geijn 2008)
"""

from __future__ import annotations

from convdsl.kernels.cpu import lanewise
from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.nests import INDENT
from convdsl.ops.expressions import Expr, Symbol, substitute
from convdsl.ops.families import Product, operand
from convdsl.plan.model import Call, Kernel, Recipe

VECTORS = 4
"""Vectors of columns in a tile."""
PANELS = 4
"""Tiles of columns of a unit of work: a page's worth of a row of B."""
DEPTH = 256
"""Rows of B that a unit sweeps at a time: their part of it stays in the second-level cache."""


def recipe(product: Product, lanes: int, registers: int, threads: int) -> Recipe:
    """The kernel for the way the factors are stored."""
    count = 2 + product.bias + (len(product.epilogue.present) if product.epilogue else 0)
    operands = (*(f"in{k}" for k in range(count)), "out")
    cost = product.rows * product.columns * product.inner // lanes
    if product.transpose_b:
        assert not product.transpose_a
        # In registers are the sums, a vector of every row of B and one of A.
        side = 4 if registers > 4 * 4 + 4 else 3
        rows = min(product.rows, side)
        columns = side if product.columns >= side and rows > 1 else min(product.columns, 2)
        sizes: tuple[int, ...] = (product.rows, product.columns, product.inner)
        units = -(-product.columns // _unit(columns, lanes))
        held = (*operands[:-1], "totals", "out")
        call = Call(_dots(product, rows, columns, lanes), held, sizes, units, cost)
        reason = f"{rows} × {columns} dot products at a time, each row of B read once"
        return Recipe((call,), (("totals", rows * lanes * threads),), reason)
    assert not product.bias
    assert product.epilogue is None
    rows = min(product.rows, (registers - 1 - VECTORS) // VECTORS)
    groups = -(-product.rows // rows) if product.transpose_a else 1
    wide = lanes * VECTORS * PANELS
    chunks = -(-product.columns // wide)
    sizes = (product.rows, product.columns, product.inner, groups, chunks)
    call = Call(_sums(product.transpose_a, rows, lanes), operands, sizes, groups * chunks, cost)
    reason = f"{rows} rows × {lanes * VECTORS} columns in registers"
    return Recipe((call,), reason=reason)


def _indent(depth: int, lines: list[str]) -> list[str]:
    return [INDENT * depth + line for line in lines]


def _unit(columns: int, lanes: int) -> int:
    """Columns of a unit: as many tiles of them as a vector holds."""
    return lanes // columns * columns


def _dots(product: Product, rows: int, columns: int, lanes: int) -> Kernel:
    pointers = [("a", "float32"), ("b", "float32")]
    if product.bias:
        pointers.append(("bias", "float32"))
    if product.epilogue:
        pointers += product.epilogue.operands
    wide = _unit(columns, lanes)
    body = [
        f"own = part * {rows * lanes}",
        "for unit in range(begin, end):",
        f"    first = unit * {wide}",
        f"    few = min({wide}, N - first)",
        "    m = 0",
    ]
    if rows > 1:
        body += [
            f"    while m + {rows} <= M:",
            *_indent(2, _dot_rows(product, rows, columns, lanes)),
        ]
    body += ["    while m < M:", *_indent(2, _dot_rows(product, 1, columns, lanes))]
    return kernel(
        f"product_dots_{rows}x{columns}" + ("_bias" if product.bias else ""),
        [*pointers, ("totals", "float32"), ("y", "float32")],
        ["M", "N", "K"],
        body,
        "y[M, N] = a[M, K] · b[N, K]ᵀ"
        + (" + bias[N]" if product.bias else "")
        + f"; a unit per {wide} columns.",
        ("contract",),
        lanes,
    )


def _dot_rows(product: Product, rows: int, columns: int, lanes: int) -> list[str]:
    """Statements that compute the unit's columns of rows m, …, and go on to the next rows."""
    return [
        f"for n in range(first, first + few, {columns}):",
        *_indent(1, _dot_tile(rows, columns, lanes)),
        f"for r in range({rows}):",
        *_indent(1, _finished(product, lanes)),
        f"m += {rows}",
    ]


def _finished(product: Product, lanes: int) -> list[str]:
    """Statements that send the totals of row m + r through bias and epilogue, and store them."""
    total: Expr = Symbol("total")
    lines = ["row = m + r", f"total = load(totals, own + r * {lanes})"]
    if product.bias:
        lines.append("shift = load_first(bias, first, few)")
        total = total + Symbol("shift")
    if product.epilogue:
        values = {operand(0): total}
        for k, (by_row, by_column) in enumerate(product.epilogue.present, 1):
            start = "row * N + first" if by_row else "first"
            load = f"load_first(e{k}, {start}, few)"
            if not by_column:
                load = f"splat(e{k}, {'row' if by_row else '0'})"
            lines.append(f"v{k} = {load}")
            values[operand(k)] = Symbol(f"v{k}")
        total = substitute(product.epilogue.expression, values)
    return [*lines, f"store_first(y, row * N + first, wide({lanewise.text(total)}), few)"]


def _dot_tile(rows: int, columns: int, lanes: int) -> list[str]:
    """Statements that compute the totals of rows m, … by columns n, …."""
    tile = [(r, c) for r in range(rows) for c in range(columns)]
    lines = [f"s{r}_{c} = zero()" for r, c in tile]
    # A last tile with fewer columns computes its last one again.
    lines += [f"b{c} = min(n + {c}, N - 1) * K" for c in range(columns)]
    lines += [f"a{r} = (m + {r}) * K" for r in range(rows)]
    for partly in (False, True):
        read = "load_first({0}, {1} + k, K - k)" if partly else "load({0}, {1} + k)"
        step = [f"w{c} = " + read.format("b", f"b{c}") for c in range(columns)]
        for r in range(rows):
            step.append("x = " + read.format("a", f"a{r}"))
            step += [f"s{r}_{c} = fma(x, w{c}, s{r}_{c})" for c in range(columns)]
        if partly:
            lines += ["if k < K:", *_indent(1, step)]
        else:
            lines += ["k = 0", f"while k + {lanes} <= K:", *_indent(1, [*step, f"k += {lanes}"])]
    lines.append("at = own + n - first")
    for r in range(rows):
        if columns == 4:
            sums = ", ".join(f"s{r}_{c}" for c in range(columns))
            lines.append(f"store_totals(totals, at + {r * lanes}, {sums})")
        else:
            lines += [f"totals[at + {r * lanes + c}] = total_of(s{r}_{c})" for c in range(columns)]
    return lines


def _sums(transpose_a: bool, rows: int, lanes: int) -> Kernel:
    wide = lanes * VECTORS
    body = [
        "for unit in range(begin, end):",
        f"    first = unit % chunks * {wide * PANELS}",
        f"    last = min(first + {wide * PANELS}, N)",
        "    group = unit // chunks",
        f"    top = group * {rows} if groups > 1 else 0",
        f"    bottom = min(top + {rows}, M) if groups > 1 else M",
        f"    for start in range(0, K, {DEPTH}):",
        f"        stop = min(start + {DEPTH}, K)",
        f"        for m in range(top, bottom, {rows}):",
        # A last tile with fewer rows computes its last one again and again.
        *(f"            m{r} = min(m + {r}, M - 1)" for r in range(rows)),
        "            n = first",
        f"            while n + {wide} <= last:",
        *_indent(4, _sum_tile(transpose_a, rows, VECTORS, lanes, partly=False)),
        f"                n += {wide}",
        "            while n < last:",
        f"                few = min(last - n, {lanes})",
        *_indent(4, _sum_tile(transpose_a, rows, 1, lanes, partly=True)),
        f"                n += {lanes}",
    ]
    stored = "a[K, M]ᵀ" if transpose_a else "a[M, K]"
    return kernel(
        f"product_sums_{rows}x{wide}" + ("_transposed" if transpose_a else ""),
        [("a", "float32"), ("b", "float32"), ("y", "float32")],
        ["M", "N", "K", "groups", "chunks"],
        body,
        f"y[M, N] = {stored} · b[K, N]; a unit per {wide * PANELS} columns and group of rows.",
        ("contract",),
        lanes,
    )


def _sum_tile(transpose_a: bool, rows: int, vectors: int, lanes: int, *, partly: bool) -> list[str]:
    """Statements that add the products of rows start to stop of B to a tile of the result."""
    tile = [(r, v) for r in range(rows) for v in range(vectors)]

    def read(buffer: str, at: str) -> str:
        return f"load_first({buffer}, {at}, few)" if partly else f"load({buffer}, {at})"

    lines = []
    for r, v in tile:
        held = read("y", f"m{r} * N + n + {v * lanes}")
        lines.append(f"s{r}_{v} = {held} if start else zero()")
    lines.append("for k in range(start, stop):")
    lines += [f"    b{v} = {read('b', f'k * N + n + {v * lanes}')}" for v in range(vectors)]
    for r in range(rows):
        lines.append(f"    x = splat(a, {f'k * M + m{r}' if transpose_a else f'm{r} * K + k'})")
        lines += [f"    s{r}_{v} = fma(x, b{v}, s{r}_{v})" for v in range(vectors)]
    for r, v in tile:
        at = f"m{r} * N + n + {v * lanes}"
        lines.append(
            f"store_first(y, {at}, s{r}_{v}, few)" if partly else f"store(y, {at}, s{r}_{v})"
        )
    return lines
