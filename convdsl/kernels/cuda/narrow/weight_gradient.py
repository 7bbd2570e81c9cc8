"""The gradient by the weights from 16-bit feature maps: a product summed over images and positions.

Blocks of x and dy are pieces of slices whose inner axis is positions, and are turned round on their
way into registers. The result is float32, and sums are split as in `cuda.weight_gradient`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from convdsl.kernels.cuda import gemm
from convdsl.kernels.cuda.convolution import INSIDE, WASTE
from convdsl.kernels.cuda.frame import indent, kernel, over, used
from convdsl.kernels.cuda.narrow.operands import (
    FeatureMap,
    Groups,
    Temporaries,
    groups_of,
    in_blocks,
)
from convdsl.kernels.cuda.narrow.slices import PIECE, copied
from convdsl.kernels.cuda.results import QUAD, Result, combine
from convdsl.kernels.cuda.tiles import NARROW, Tile, choose, tiles_for
from convdsl.kernels.cuda.weight_gradient import pixel_of, tap_of
from convdsl.kernels.sizes import Sizes, sizes_of
from convdsl.ops.families import Convolution
from convdsl.plan.model import CONTIGUOUS, Call, Images, Kernel, Recipe

SIZES = (
    *gemm.SIZES,
    *("columns", "rows", "size", "C", "XB", "YB", "GX", "GY", "P", "each", "taps", "total_pixels"),
    *("own_filters", "own_channels", "D", "H", "W", "OH", "OW", "KH", "KW"),
    *("SD", "SH", "SW", "PD", "PH", "PW", "DD", "DH", "DW"),
)


def fits(family: Convolution) -> bool:
    """Whether this generator computes the convolution."""
    return family.direction == "weight" and family.y_lanes > 1


def recipe(
    family: Convolution, precision: str, dtypes: tuple[str, ...], images: Images = CONTIGUOUS
) -> Recipe:
    """One product, and a sum of its parts where it is split."""
    calls: list[Call] = []
    temporaries: Temporaries = []
    g = family.geometry
    maps = [
        in_blocks(given, dtype, family.batch, pixels, precision, calls, temporaries)
        for given, dtype, pixels in (
            (FeatureMap("in0", family.channels, family.x_lanes, images.gap(0)), dtypes[0], g.input),
            (FeatureMap("in1", family.filters, family.y_lanes, images.gap(1)), dtypes[1], g.output),
        )
    ]
    reason = _Plan(family, precision, *maps).add(calls, temporaries)
    return Recipe(tuple(calls), tuple(temporaries), reason)


@dataclass(frozen=True)
class _Plan:
    """How a gradient by the weights is computed."""

    family: Convolution
    precision: str
    x: FeatureMap
    dy: FeatureMap

    @property
    def sizes(self) -> Sizes:
        return sizes_of(self.family.geometry)

    @property
    def groups(self) -> Groups:
        return groups_of(self.family, self.x.lanes, self.dy.lanes)

    @property
    def blocks(self) -> int:
        """Of channels, in a group."""
        return -(-self.groups.channels // self.x.lanes)

    @property
    def flat(self) -> bool:
        """Whether columns are channels and windows at once, for channels fill no whole tiles."""
        channels = self.blocks * self.x.lanes
        least = min(tile.columns for tile in tiles_for(self.precision))
        wasted = self.sizes.taps > 1 and -(-channels // least) * least > WASTE * channels
        return wasted or self.x.lanes < PIECE

    @property
    def widths(self) -> list[int]:
        """Columns of the pieces that tiles do not straddle, with the lanes that are empty."""
        channels = self.blocks * self.x.lanes
        return [channels * self.sizes.taps] if self.flat else [channels] * self.sizes.taps

    def add(self, calls: list[Call], temporaries: Temporaries) -> str:
        """Add the calls and temporaries; returns how it is computed, for people."""
        family, s, groups, widths = self.family, self.sizes, self.groups, self.widths
        positions = family.batch * s.outputs
        tiles = tiles_for(self.precision)
        work = choose(groups.filters, widths, positions, groups.count, tiles)
        each = -(-widths[0] // work.tile.columns)
        size = family.filters * groups.own_channels * s.taps
        partial = work.splits > 1
        made = self._kernel(work.tile, partial)
        named = {
            "row_tiles": -(-groups.filters // work.tile.rows),
            "column_tiles": each * len(widths),
            "splits": work.splits,
            "slices": -(-positions // work.tile.depth),
            "columns": widths[0],
            "rows": groups.filters,
            "size": size,
            "C": groups.channels,
            "XB": self.x.blocks_apart(s.inputs),
            "YB": self.dy.blocks_apart(s.outputs),
            "GX": self.blocks,
            "GY": -(-groups.filters // self.dy.lanes),
            "P": s.outputs,
            "each": each,
            "taps": s.taps,
            "total_pixels": positions,
            "own_filters": groups.own_filters,
            "own_channels": groups.own_channels,
            **asdict(s),
        }
        target = "partials" if partial else "out"
        given = tuple(named[name] for name in made.sizes)
        operands = (self.x.operand, self.dy.operand, target)
        calls.append(Call(made, operands, given, work.blocks, size * positions))
        if partial:
            temporaries.append((target, size * work.splits))
            result = Result(1 if size % QUAD else QUAD)
            calls.append(combine(result, work.splits, (1, 1, size), target))
        how = "implicit GEMM" + (", over channels and windows at once" if self.flat else "")
        joined = f", {groups.joined} groups as one" if groups.joined > 1 else ""
        return f"{how}{joined}, {work.reason}"

    def _kernel(self, tile: Tile, partial: bool) -> Kernel:
        lanes = self.dy.lanes
        errors = copied(
            "a",
            tile,
            tile.rows,
            [],
            # Both factors lie along positions: a thread finds its own of the slice once.
            pixel_of(tile, "a_own"),
            "dy",
            (
                [
                    f"block = ({over('row_start', str(lanes))}) + a_number",
                    f"real = {lanes} if here & (block < GY) else 0",
                ],
                f"((image * YB + group * GY + block) * P + pixel) * {lanes}",
                "real",
            ),
            across=True,
            lanes=lanes,
        )
        images = self._flat(tile) if self.flat else self._by_taps(tile)
        lines = gemm.body(tile, errors, images, self._stores(tile, partial))
        element = NARROW[self.precision]
        words = ["weight_gradient_of_blocks", "flat" if self.flat else ""]
        words += [f"{tile.rows}x{tile.columns}_{tile.precision}", "partial" if partial else ""]
        return kernel(
            "_".join(word for word in words if word),
            [("x", element), ("dy", element), ("y", "float32")],
            used(SIZES, lines),
            lines,
            f"y[F, C, window] of x · dy over images and positions; a block per {tile} of filters × "
            + ("channels and window." if self.flat else "channels."),
            tile.threads,
        )

    def _by_taps(self, tile: Tile) -> gemm.Loader:
        """Slices of one element of the window; a tile's columns are channels."""
        return copied(
            "b",
            tile,
            tile.columns,
            tap_of(tile),
            [
                "z += by_z",
                "y_ += by_y",
                "x_ += by_x",
                f"inside = here & {INSIDE}",
                "b_at = (image * XB + group * GX) * (D * H * W) + (z * H + y_) * W + x_",
            ],
            "x",
            (
                [
                    "block = (column_start >> 3) + b_number",
                    "real = 8 if inside & (block < GX) else 0",
                ],
                f"(b_at + block * (D * H * W)) * {PIECE}",
                "real",
            ),
            across=True,
        )

    def _flat(self, tile: Tile) -> gemm.Loader:
        """Slices over channels and windows; sizes are constants, for they divide."""
        s, lanes = self.sizes, self.x.lanes
        find = [
            f"element = ({over('column_start', str(lanes))}) + b_number",
            f"tap = {over('element', str(self.blocks))}",
            f"block = element - tap * {self.blocks}",
            f"tap_line = {over('tap', str(s.KW))}",
            f"tap_plane = {over('tap_line', str(s.KH))}",
            "z_at = z + tap_plane * DD",
            f"y_at = y_ + (tap_line - tap_plane * {s.KH}) * DH",
            f"x_at = x_ + (tap - tap_line * {s.KW}) * DW",
            "inside = here & (tap < taps) & (0 <= z_at) & (z_at < D)",
            "inside = inside & (0 <= y_at) & (y_at < H) & (0 <= x_at) & (x_at < W)",
            f"real = {lanes} if inside else 0",
            "b_at = (image * XB + group * GX + block) * D + z_at",
            "b_at = (b_at * H + y_at) * W + x_at",
        ]
        piece = (find, f"b_at * {lanes}", "real")
        return copied("b", tile, tile.columns, [], [], "x", piece, across=True, lanes=lanes)

    def _stores(self, tile: Tile, partial: bool) -> list[str]:
        """Statements that store a thread's sums, two rows and two columns of every fragment."""
        lanes, lines = self.x.lanes, []
        pairs = tile.width // 8
        columns = [f"{pair}_{k}" for pair in range(pairs) for k in range(2)]
        for number, mark in enumerate(columns):
            first = "column_start + warp_across + quarter * 2"
            lines.append(f"column = {first} + {number // 2 * 8 + number % 2}")
            if self.flat:
                lines += [
                    f"element = {over('column', str(lanes))}",
                    f"tap{mark} = {over('element', str(self.blocks))}",
                    f"channel{mark} = (element - tap{mark} * {self.blocks}) * {lanes}",
                    f"channel{mark} += column & {lanes - 1}",
                    f"here{mark} = (channel{mark} < C) & (tap{mark} < taps)",
                ]
            else:
                lines += [f"channel{mark} = column", f"here{mark} = column < C"]
        joined = self.groups.joined > 1
        for number in range(tile.height // 8):
            inner = ["base = (group * rows + row) * own_channels"]
            if joined:
                inner.append("skipped = quotient(row, own_filters) * own_channels")
            for place, mark in enumerate(columns):
                total = (number // 2 * pairs + place // 2) * 4 + number % 2 * 2 + place % 2
                tap = f"tap{mark}" if self.flat else "tap"
                at = f"(base + own) * taps + {tap}" + (" + split * size" if partial else "")
                there = f"here{mark}" + (" & (0 <= own) & (own < own_channels)" if joined else "")
                inner += [
                    f"own = channel{mark}" + (" - skipped" if joined else ""),
                    f"if {there}:",
                    f"    y[{at}] = total[{total}]",
                ]
            lines.append(f"row = row_start + warp_down + eighth + {number * 8}")
            lines += ["if row < rows:", *indent(1, inner)]
        return lines
