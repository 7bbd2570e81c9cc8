"""The gradient by a convolution's weights on the GPU: a product summed over images and pixels.

Filters by channels under one element of the window, or by channels and windows at once where
channels are few. Sums are long and results small, so the sums are split over many blocks and the
parts added up in order, which makes results the same in every run.
"""

from __future__ import annotations

from dataclasses import replace

from convdsl.kernels.cuda import gemm
from convdsl.kernels.cuda.convolution import INSIDE, WASTE
from convdsl.kernels.cuda.frame import kernel, over, used
from convdsl.kernels.cuda.results import QUAD, Result, combine, stores
from convdsl.kernels.cuda.tiles import TILES, Tile, choose, tiles_for
from convdsl.kernels.sizes import Sizes, sizes_of
from convdsl.ops.families import Convolution
from convdsl.plan.model import CONTIGUOUS, Call, Images, Kernel, Recipe

SIZES = (
    *gemm.SIZES,
    *("columns", "rows", "size", "C", "CG", "FG", "P", "each", "taps", "total_pixels"),
    *("D", "H", "W", "OH", "OW", "KH", "KW"),
    *("SD", "SH", "SW", "PD", "PH", "PW", "DD", "DH", "DW"),
)


def recipe(family: Convolution, precision: str = "fp32", images: Images = CONTIGUOUS) -> Recipe:
    """One product, and a sum of its parts where it is split."""
    s = sizes_of(family.geometry)
    channels, filters = family.channels // family.groups, family.filters // family.groups
    pixels = family.batch * s.outputs
    flat = channels < min(t.columns for t in TILES) / WASTE and s.taps > 1
    widths = [channels * s.taps] if flat else [channels] * s.taps
    tiles = tiles_for(precision, gathering=True)
    work = choose(filters, widths, pixels, family.groups, tiles)
    tile = work.tile
    each = -(-widths[0] // tile.columns)
    made = _kernel(tile, s, flat, work.splits > 1)
    size = family.filters * channels * s.taps
    named = {
        "row_tiles": -(-filters // tile.rows),
        "column_tiles": each * len(widths),
        "splits": work.splits,
        "slices": -(-pixels // tile.depth),
        "columns": widths[0],
        "rows": filters,
        "size": size,
        "C": channels,
        "CG": family.channels + images.gap(0) // s.inputs,
        "FG": family.filters + images.gap(1) // s.outputs,
        "P": s.outputs,
        "each": each,
        "taps": s.taps,
        "total_pixels": pixels,
        **{name: getattr(s, name) for name in s.__dataclass_fields__},
    }
    target = "partials" if work.splits > 1 else "out"
    cost = size * pixels
    values = tuple(named[name] for name in made.sizes)
    calls = [Call(made, ("in0", "in1", target), values, work.blocks, cost)]
    temporaries: tuple[tuple[str, int], ...] = ()
    if work.splits > 1:
        temporaries = ((target, size * work.splits),)
        result = Result(1 if size % QUAD else QUAD)
        calls.append(combine(result, work.splits, (1, 1, size), target))
    how = "over channels and windows at once, " if flat else ""
    return Recipe(tuple(calls), temporaries, f"implicit GEMM, {how}{work.reason}")


def _kernel(tile: Tile, s: Sizes, flat: bool, partial: bool) -> Kernel:
    errors = gemm.turned(
        "a",
        tile,
        tile.rows,
        [],
        [
            # Both factors lie along pixels: a thread finds its own of the slice once.
            *pixel_of(tile, "inner"),
            "from_dy = (image * FG + group * rows + row_start) * P + pixel",
            "from_x = (image * CG + group * C) * (D * H * W)",
        ],
        "dy",
        "from_dy + own * P",
        "here & (row_start + own < rows)",
    )
    images = _flat(tile, s) if flat else _by_taps(tile)
    columns = ["base{0} = column{0}"] if flat else ["base{0} = column{0} * taps + tap"]
    ending = [
        "stride = C * taps",
        "channel_start = group * rows",
        *stores(tile, Result(1), columns, partial),
    ]
    lines = gemm.body(tile, errors, images, ending)
    name = f"weight_gradient_{'flat_' if flat else ''}{tile.rows}x{tile.columns}"
    name += f"_{tile.precision}" if tile.on_tensor_cores else ""
    return kernel(
        name + ("_partial" if partial else ""),
        [("x", "float32"), ("dy", "float32"), ("y", "float32")],
        used(SIZES, lines),
        lines,
        f"y[F, C, window] of x · dy over images and pixels; a block per {tile} of filters × "
        + ("channels and window." if flat else "channels."),
        tile.threads,
    )


def pixel_of(tile: Tile, own: str) -> list[str]:
    """Statements: which pixel the thread's row of a slice is, and where its window begins."""
    return [
        f"number = slice * {tile.depth} + {own}",
        "image = quotient(number, P)",
        "pixel = number - image * P",
        "line = quotient(pixel, OW)",
        "plane = quotient(line, OH)",
        "z = plane * SD - PD",
        "y_ = (line - plane * OH) * SH - PH",
        "x_ = (pixel - line * OW) * SW - PW",
        "here = number < total_pixels",
    ]


def tap_of(tile: Tile) -> list[str]:
    """Statements: which element of the window a tile of columns is of, and how far it lies."""
    return [
        "tap = quotient(column_tile, each)",
        f"column_start = (column_tile - tap * each) * {tile.columns}",
        "tap_line = quotient(tap, KW)",
        "tap_plane = quotient(tap_line, KH)",
        "by_z = tap_plane * DD",
        "by_y = (tap_line - tap_plane * KH) * DH",
        "by_x = (tap - tap_line * KW) * DW",
    ]


def _by_taps(tile: Tile) -> gemm.Loader:
    """Slices of one element of the window; a tile's columns are channels."""
    return gemm.turned(
        "b",
        tile,
        tile.columns,
        tap_of(tile),
        [
            "z += by_z",
            "y_ += by_y",
            "x_ += by_x",
            f"inside = here & {INSIDE}",
            "from_x += ((column_start * D + z) * H + y_) * W + x_",
        ],
        "x",
        "from_x + own * (D * H * W)",
        "inside & (column_start + own < C)",
    )


def _flat(tile: Tile, s: Sizes) -> gemm.Loader:
    """Slices over channels and windows; the window's sizes are constants, for they divide."""
    loader = gemm.turned("b", tile, tile.columns, [], [], "x", "b_at", "inside")
    find = [
        "    column = column_start + own",
        f"    channel = quotient(column, {s.taps})",
        f"    tap_of = column - channel * {s.taps}",
        f"    tap_line = {over('tap_of', str(s.KW))}",
        f"    tap_plane = {over('tap_line', str(s.KH))}",
        "    z_at = z + tap_plane * DD",
        f"    y_at = y_ + (tap_line - tap_plane * {s.KH}) * DH",
        f"    x_at = x_ + (tap_of - tap_line * {s.KW}) * DW",
        "    inside = here & (column < columns) & (0 <= z_at) & (z_at < D)",
        "    inside = inside & (0 <= y_at) & (y_at < H) & (0 <= x_at) & (x_at < W)",
        "    b_at = from_x + ((channel * D + z_at) * H + y_at) * W + x_at",
    ]
    lines = list(loader.issue)
    return replace(loader, issue=[*lines[:-1], *find, lines[-1]])
