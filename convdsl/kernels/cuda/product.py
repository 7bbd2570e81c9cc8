"""Matrix products on the GPU, however the factors are stored.

With few rows (a dense layer's single image) the weights are read once and nothing else matters:
threads of a warp walk along the sums and add up in the end. In bf16 and fp16 weights that do not
change are rounded once, which halves what is read. Otherwise a block computes a tile.
"""

from __future__ import annotations

from dataclasses import replace

from convdsl.kernels.cuda import gemm, maps
from convdsl.kernels.cuda.frame import EVERY, WARP, indent, kernel, stored, used
from convdsl.kernels.cuda.narrow import slices
from convdsl.kernels.cuda.results import QUAD, Result, combine, stores
from convdsl.kernels.cuda.tiles import NARROW, Tile, choose, tiles_for
from convdsl.ops.families import Epilogue, Product
from convdsl.plan.model import Call, Kernel, Recipe
from convdsl.plan.parts import copy

FEW = 8
"""Rows up to which weights are read by warps that walk along the sums."""
WALKERS = 128
"""Threads that walk along a column's sums together."""
PACK = {"bf16": "pack_bfloat2", "fp16": "pack_half2"}
"""What rounds two float32 into a register."""
SIZES = (*gemm.SIZES, "rows", "columns", "inner_size", "size", "N", "F", "P")


def recipe(product: Product, precision: str = "fp32") -> Recipe:
    """The kernel for the product's shape and the way its factors are stored."""
    return _walked(product) if _few(product) else _tiled(product, precision)


def fits_rounded(product: Product) -> bool:
    """Whether weights that are rounded once would be read once, by whole accesses."""
    return _few(product) and product.inner % QUAD == 0


def rounded(product: Product, precision: str) -> Recipe:
    """Weights rounded to 16 bits, which is done once where they do not change, then read."""
    wanted, size = NARROW[precision], product.columns * product.inner
    walked = _walked(product, wanted)
    (call,) = walked.calls
    first, _, *others = call.operands
    (rounding,) = stored(maps.recipe(copy(1, size)), ("float32", wanted)).calls
    calls = (
        replace(rounding, operands=("in1", "rounded")),
        replace(call, operands=(first, "rounded", *others)),
    )
    return Recipe(calls, (("rounded", size, wanted),), f"rounded to {precision}, {walked.reason}")


def _few(product: Product) -> bool:
    return product.rows <= FEW and product.transpose_b and not product.transpose_a


def _result(product: Product, width: int) -> Result:
    epilogue = product.epilogue
    if epilogue:
        # A matrix is one image whose channels are rows and whose pixels are columns.
        present = tuple((False, *p) for p in epilogue.present)
        epilogue = Epilogue(epilogue.expression, present, epilogue.whole)
    return Result(width, "bias" if product.bias else "", "pixel", epilogue)


def _named(product: Product) -> dict[str, int]:
    return {
        "rows": product.rows,
        "columns": product.columns,
        "inner_size": product.inner,
        "size": product.rows * product.columns,
        "N": 1,
        "F": product.rows,
        "P": product.columns,
    }


def _operands(product: Product) -> list[str]:
    count = product.bias + (len(product.epilogue.present) if product.epilogue else 0)
    return [f"in{k}" for k in range(2, 2 + count)]


def _tiled(product: Product, precision: str) -> Recipe:
    tiles = tiles_for(precision)
    work = choose(product.rows, [product.columns], product.inner, tiles=tiles)
    tile = work.tile
    partial = work.splits > 1
    result = _result(product, 1 if product.columns % QUAD else QUAD)
    made = _kernel(product, tile, result, partial)
    named = _named(product) | {
        "row_tiles": -(-product.rows // tile.rows),
        "column_tiles": -(-product.columns // tile.columns),
        "splits": work.splits,
        "slices": -(-product.inner // tile.depth),
    }
    target = "partials" if partial else "out"
    used_here = [] if partial else _operands(product)
    values = tuple(named[name] for name in made.sizes)
    cost = product.rows * product.columns * product.inner
    calls = [Call(made, ("in0", "in1", *used_here, target), values, work.blocks, cost)]
    temporaries: tuple[tuple[str, int], ...] = ()
    if partial:
        temporaries = ((target, named["size"] * work.splits),)
        dims = (1, product.rows, product.columns)
        calls.append(combine(result, work.splits, dims, target, _operands(product)))
    return Recipe(tuple(calls), temporaries, f"GEMM, {work.reason}")


def _kernel(product: Product, tile: Tile, result: Result, partial: bool) -> Kernel:
    def factor(side: str, extent: int, across: bool, size: str, start: str) -> gemm.Loader:
        """A factor by its extent in a slice and whether it lies across the inner axis."""
        source, count = side, product.rows if side == "a" else product.columns
        if tile.narrow:
            along = count if across else product.inner
            width = next(n for n in (QUAD, 2, 1) if along % n == 0)
            sizes, pack = (size, "inner_size"), PACK[tile.precision]
            return slices.rounded(side, tile, extent, sizes, source, across, width, pack)
        if not across:
            return gemm.turned(
                side,
                tile,
                extent,
                [],
                [f"number = slice * {tile.depth} + inner"],
                source,
                f"({start} + own) * inner_size + number",
                f"({start} + own < {size}) & (number < inner_size)",
            )
        width = 1 if count % QUAD else QUAD
        return gemm.along(
            side,
            tile,
            extent,
            width,
            [f"{side}_here = {start} + {side}_own < {size}"],
            [f"number = slice * {tile.depth}"],
            source,
            f"(number + row) * {size} + {start} + {side}_own",
            f"{side}_here & (number + row < inner_size)",
        )

    a = factor("a", tile.rows, product.transpose_a, "rows", "row_start")
    b = factor("b", tile.columns, not product.transpose_b, "columns", "column_start")
    columns = ["image{0} = 0", "pixel{0} = column{0}", "base{0} = column{0}"]
    ending = ["stride = columns", "channel_start = 0", *stores(tile, result, columns, partial)]
    lines = gemm.body(tile, a, b, ending)
    stored = ("t" if product.transpose_a else "n") + ("t" if product.transpose_b else "n")
    return kernel(
        f"product_{stored}_{tile.rows}x{tile.columns}"
        + (f"_{tile.precision}" if tile.on_tensor_cores else "")
        + ("_partial" if partial else ""),
        [
            ("a", "float32"),
            ("b", "float32"),
            *([] if partial else result.pointers),
            ("y", "float32"),
        ],
        used(SIZES, lines),
        lines,
        f"y[rows, columns] = a · b; a block per {tile}.",
        tile.threads,
    )


def _walked(product: Product, weights: str = "float32") -> Recipe:
    """A block per column; ``weights`` is the element type of b."""
    width = 1 if product.inner % QUAD else QUAD
    # Sixteen bytes of weights at a time, by one access of float32 or two of 16 bits.
    fours = 2 if weights != "float32" and product.inner % (2 * QUAD) == 0 else 1
    rows = range(product.rows)
    result = _result(product, 1)
    step = _taken("b", "b", "at + k", width, fours)
    for row in rows:
        step += _taken(f"a{row}_", "a", f"{row} * inner_size + k", width, fours)
        step += [f"total{row} += a{row}_{k} * b{k}" for k in range(width * fours)]
    width *= fours
    body = [
        f"shared = shared_floats({len(rows) * WALKERS // WARP})",
        "thread = int64(cuda.threadIdx.x)",
        "column = int64(cuda.blockIdx.x)",
        *(f"total{row} = float32(0.0)" for row in rows),
        "at = column * inner_size",
        f"for k in range(thread * {width}, inner_size, {WALKERS * width}):",
        *indent(1, step),
        "for step in range(5):",
        *(f"    total{row} += cuda.shfl_xor_sync({EVERY}, total{row}, 16 >> step)" for row in rows),
        "if thread & 31 == 0:",
        *(f"    shared[(thread >> 5) * {len(rows)} + {row}] = total{row}" for row in rows),
        "cuda.syncthreads()",
        f"if thread < {len(rows)}:",
        "    channel = thread",
        "    total = float32(0.0)",
        f"    for warp in range({WALKERS // WARP}):",
        f"        total += shared[warp * {len(rows)} + channel]",
        "    image = 0",
        "    pixel = column",
        "    at = channel * columns + column",
    ]
    loads, values = result.finished(["total"], "", "at")
    body += indent(1, [*loads, f"y[at] = {values[0]}"])
    made = kernel(
        f"product_walked_{len(rows)}" + (f"_by_{width}" if width > 1 else ""),
        [("a", "float32"), ("b", weights), *result.pointers, ("y", "float32")],
        used(SIZES, body),
        body,
        "y[rows, columns] = a · bᵀ; a block per column.",
        WALKERS,
    )
    named = _named(product)
    values_of = tuple(named[name] for name in made.sizes)
    cost = product.rows * product.columns * product.inner
    operands = ("in0", "in1", *_operands(product), "out")
    call = Call(made, operands, values_of, product.columns, cost)
    return Recipe((call,), reason=f"weights read once, {WALKERS} threads along a column's sums")


def _taken(name: str, source: str, place: str, width: int, times: int) -> list[str]:
    """Statements that load neighbours into variables of that name and their number."""
    if width == 1:
        return [f"{name}0 = {source}[{place}]"]
    lines = []
    for first in range(0, width * times, width):
        names = ", ".join(f"{name}{first + k}" for k in range(width))
        lines.append(f"{names} = load{width}({source}, {place}{f' + {first}' if first else ''})")
    return lines
