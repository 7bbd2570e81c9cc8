"""Convolution of 16-bit feature maps: positions by filters, summed over windows and channels.

What a window meets is copied in whole blocks of channels. Weights are packed into the slices that
blocks read, once where they do not change. A gradient by the input consists of such convolutions.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

from convdsl.kernels.cuda import gemm
from convdsl.kernels.cuda.convolution import INSIDE, STEP, WASTE
from convdsl.kernels.cuda.frame import blocks, indent, kernel, over, result_gaps, used
from convdsl.kernels.cuda.narrow.operands import (
    FeatureMap,
    Groups,
    Temporaries,
    groups_of,
    in_blocks,
)
from convdsl.kernels.cuda.narrow.results import Blocks, combine, stores
from convdsl.kernels.cuda.narrow.slices import PIECE, copied
from convdsl.kernels.cuda.tiles import NARROW, NARROW_DEPTH, Tile, choose, tiles_for
from convdsl.kernels.parts import Part, has_parts, parts_of, turned
from convdsl.kernels.sizes import Sizes, sizes_of, triple
from convdsl.ops.families import Convolution
from convdsl.plan.model import CONTIGUOUS, RESULT, Call, Images, Kernel, Recipe

SIZES = (
    *gemm.SIZES,
    *("columns", "rows", "width", "size", "last", "N", "C", "XB", "P", "GX", "GY", "chunks"),
    "apart",
    *("YB", "YP", "D", "H", "W", "OD", "OH", "OW", "KD", "KH", "KW"),
    *("SD", "SH", "SW", "PD", "PH", "PW", "DD", "DH", "DW"),
    *("YD", "YH", "YW", "FD", "FH", "FW", "TD", "TH", "TW"),
)
PIECES = NARROW_DEPTH // PIECE
"""Pieces of a slice's rows."""


def fits(family: Convolution) -> bool:
    """Whether this generator computes the convolution: forward, or the gradient by the input."""
    if family.direction == "weight" or turned(family).y_lanes == 1:
        return False
    if family.epilogue and not family.epilogue.planar(trailing=1):
        return False
    return has_parts(family)


def recipe(
    family: Convolution, precision: str, dtypes: tuple[str, ...], images: Images = CONTIGUOUS
) -> Recipe:
    """Pack the weights, bring x into blocks where it is not, convolve; per part where several."""
    calls: list[Call] = []
    temporaries: Temporaries = []
    parts = parts_of(family)
    forward = turned(family)
    given = FeatureMap("in0", forward.channels, forward.x_lanes, images.gap(0))
    pixels = parts[0].geometry.input if parts else ()
    x = in_blocks(given, dtypes[0], family.batch, pixels, precision, calls, temporaries)
    reason = ""
    for number, part in enumerate(parts):
        mark = str(number) if len(parts) > 1 else ""
        reason = _Plan(family, part, mark, precision, x, images).add(calls, temporaries)
    return Recipe(tuple(calls), tuple(temporaries), reason)


@dataclass(frozen=True)
class _Plan:
    """How one part of a convolution is computed."""

    original: Convolution
    part: Part
    mark: str
    precision: str
    x: FeatureMap
    images: Images

    @property
    def family(self) -> Convolution:
        return replace(turned(self.original), geometry=self.part.geometry)

    @property
    def sizes(self) -> Sizes:
        return sizes_of(self.part.geometry)

    @property
    def groups(self) -> Groups:
        return groups_of(self.family, self.x.lanes, self.family.y_lanes)

    @property
    def blocks(self) -> int:
        """Of channels, in a group."""
        return -(-self.groups.channels // self.x.lanes)

    @property
    def flat(self) -> bool:
        """Whether slices run over windows and channels alike, for these fill no whole slices."""
        return self.x.lanes < PIECE or -(-self.blocks // PIECES) * PIECES > WASTE * self.blocks

    @property
    def slices(self) -> int:
        if self.flat:
            return -(-self.blocks * self.sizes.taps * self.x.lanes // NARROW_DEPTH)
        return -(-self.blocks // PIECES) * self.sizes.taps

    @property
    def width(self) -> int:
        """Filters of a group in packed weights: whole pieces of results."""
        return -(-self.groups.filters // PIECE) * PIECE

    @property
    def spread(self) -> bool:
        """Whether the part's results lie between those of others."""
        return self.original.direction == "input" and max(self.original.geometry.stride) > 1

    def add(self, calls: list[Call], temporaries: Temporaries) -> str:
        """Add the calls and temporaries; returns how the part is computed, for people."""
        family, s, groups = self.family, self.sizes, self.groups
        packed = f"packed{self.mark}"
        size = max(1, groups.count * self.slices * NARROW_DEPTH * self.width)
        temporaries.append((packed, size, NARROW[self.precision]))
        if self.slices:
            calls.append(self._pack(packed))
        pixels = family.batch * s.outputs
        work = choose(
            pixels,
            [groups.filters],
            self.slices * NARROW_DEPTH,
            groups.count,
            tiles_for(self.precision),
            splittable=not self.spread,
        )
        lanes = family.y_lanes
        epilogue = family.epilogue.flattened(trailing=1) if family.epilogue else None
        gaps = result_gaps(self.images, epilogue, 3 if family.bias else 2)
        result = Blocks(lanes, family.bias, epilogue, gaps)
        partial = work.splits > 1
        full = triple(self.original.geometry.input, 1) if self.spread else (s.OD, s.OH, s.OW)
        y_blocks = -(-family.filters // lanes)
        size = family.batch * y_blocks * math.prod(full) * lanes
        target = f"partials{self.mark}" if partial else "out"
        named = {
            "row_tiles": -(-pixels // work.tile.rows),
            "column_tiles": -(-groups.filters // work.tile.columns),
            "splits": work.splits,
            "slices": self.slices,
            "columns": -(-groups.filters // lanes) * lanes,
            "rows": pixels,
            "width": self.width,
            "size": size,
            "last": family.filters - 1,
            "N": family.batch,
            "C": groups.channels,
            "XB": self.x.blocks_apart(s.inputs),
            "P": s.outputs,
            "GX": self.blocks,
            "GY": groups.filters // lanes,
            "chunks": -(-self.blocks // PIECES),
            "YB": y_blocks,
            "YP": math.prod(full),
            "apart": size // family.batch + (not partial) * self.images.gap(RESULT),
            **asdict(s),
            **gaps.from_result().sizes,
        }
        # A part that sees no element of the window is zero: no slices, but sizes that divide.
        named |= {name: max(1, named[name]) for name in ("KH", "KW")}
        if self.spread:
            first, step = triple(self.part.first, 0), triple(self.part.step, 1)
            for letter, values in (("Y", full), ("F", first), ("T", step)):
                named |= {letter + axis: v for axis, v in zip("DHW", values, strict=True)}
        made = self._kernel(work.tile, result, partial)
        operands = [] if partial else result.operands
        given = tuple(named[name] for name in made.sizes)
        cost = size * groups.own_channels * s.taps
        reads = (self.x.operand, packed, *operands)
        calls.append(Call(made, (*reads, target), given, work.blocks, cost))
        if partial:
            temporaries.append((target, size * work.splits))
            axes = (family.batch, y_blocks, s.outputs)
            calls.append(combine(result, work.splits, axes, family.filters - 1, target))
        how = "implicit GEMM" + (" over channels and windows at once" if self.flat else "")
        joined = f", {groups.joined} groups as one" if groups.joined > 1 else ""
        return f"{how}{joined}, {work.reason}"

    def _kernel(self, tile: Tile, result: Blocks, partial: bool) -> Kernel:
        s = self.sizes
        weights = copied(
            "b",
            tile,
            tile.columns,
            ["b_column = column_start + b_own", "b_count = 8 if b_column < width else 0"],
            [],
            "packed",
            (
                [],
                f"(((group * slices + slice) * {PIECES} + b_number) * width + b_column) * {PIECE}",
                "b_count",
            ),
        )
        pixels = self._flat(tile) if self.flat else self._by_taps(tile)
        where = ["image = quotient(row, P)", "pixel = row - image * P"]
        if self.spread:
            where += [
                "line = quotient(pixel, OW)",
                "plane = quotient(line, OH)",
                "z = plane * TD + FD",
                "y_ = (line - plane * OH) * TH + FH",
                "pixel = (z * YH + y_) * YW + (pixel - line * OW) * TW + FW",
            ]
        ending = ["first_block = group * GY", *stores(tile, result, where, partial)]
        lines = gemm.body(tile, pixels, weights, ending, columns_first=True)
        pointers = [("x", NARROW[self.precision]), ("packed", NARROW[self.precision])]
        if not partial:
            pointers += result.pointers
        words = ["convolve_blocks", "flat" if self.flat else "", str(tile).replace("×", "x")]
        words += [tile.precision, "spread" if self.spread else "", "partial" if partial else ""]
        return kernel(
            "_".join(word for word in words if word),
            [*pointers, ("y", "float32")],
            used((*SIZES, *result.gaps.from_result().sizes), lines),
            lines,
            f"y[N, YB, YP, {result.lanes}] of x[N, XB, D, H, W, {self.x.lanes}]; "
            f"a block per {tile} of positions × filters, for windows of {s.taps}.",
            tile.threads,
        )

    def _count(self, block: str, inside: str) -> str:
        """How many channels of a block there are."""
        whole = self.groups.channels % self.x.lanes == 0
        lanes = self.x.lanes
        count = str(lanes) if whole else f"min(C - {block} * {lanes}, {lanes})"
        return f"{count} if {inside} else 0"

    def _by_taps(self, tile: Tile) -> gemm.Loader:
        """Slices of channels under one element of the window."""
        walk = [
            "tap = quotient(first, chunks)",
            "chunk = first - tap * chunks",
            "line = quotient(tap, KW)",
            "kx = tap - line * KW",
            "kz = quotient(line, KH)",
            "ky = line - kz * KH",
        ]
        return copied(
            "a",
            tile,
            tile.rows,
            [*walk, *CORNER],
            [
                "z = top_z + kz * DD",
                "y_ = top_y + ky * DH",
                "x_ = top_x + kx * DW",
                f"inside = a_here & {INSIDE}",
                "a_at = a_start + (z * H + y_) * W + x_",
            ],
            "x",
            (
                [
                    f"block = chunk * {PIECES} + a_number",
                    f"real = {self._count('block', 'inside & (block < GX)')}",
                ],
                f"(a_at + block * (D * H * W)) * {PIECE}",
                "real",
            ),
            advance=STEP,
        )

    def _flat(self, tile: Tile) -> gemm.Loader:
        """Slices over channels and windows; the window's sizes are constants, for they divide."""
        s, lanes = self.sizes, self.x.lanes
        find = [
            f"element = slice * {NARROW_DEPTH // lanes} + a_number",
            f"tap = {over('element', str(self.blocks))}",
            f"block = element - tap * {self.blocks}",
            f"line = {over('tap', str(max(1, s.KW)))}",
            f"plane = {over('line', str(max(1, s.KH)))}",
            "z = top_z + plane * DD",
            f"y_ = top_y + (line - plane * {s.KH}) * DH",
            f"x_ = top_x + (tap - line * {s.KW}) * DW",
            f"inside = a_here & (tap < {s.taps}) & {INSIDE}",
            f"real = {self._count('block', 'inside')}",
            "a_at = a_start + ((block * D + z) * H + y_) * W + x_",
        ]
        piece = (find, f"a_at * {lanes}", "real")
        return copied("a", tile, tile.rows, CORNER, [], "x", piece, lanes=lanes)

    def _pack(self, packed: str) -> Call:
        """The call that packs weights F×C×window as group × pieces of channels × filters × 8."""
        g = self.original.geometry
        s, groups = self.sizes, self.groups
        window = triple(g.window, 1)
        taps = math.prod(window)
        mirrored = self.original.direction == "input"
        # Element m of the part's window is number taken + step·m of the whole, from the other end.
        starts, steps = [0, 0, 0], [1, 1, 1]
        if mirrored:
            taken, step = triple(self.part.taken, 0), triple(self.part.step, 1)
            own = (s.KD, s.KH, s.KW)
            starts = [r + d * (m - 1) for r, d, m in zip(taken, step, own, strict=True)]
            steps = [-d for d in step]
        per_group = self.original.channels // self.original.groups
        padded = self.blocks if self.flat else -(-self.blocks // PIECES) * PIECES
        size = groups.count * self.slices * NARROW_DEPTH * self.width
        named = {
            "size": size,
            "rows": self.slices * PIECES,
            "width": self.width,
            "filters": groups.filters,
            "C": groups.channels,
            "own_filters": groups.own_filters,
            "own_channels": groups.own_channels,
            "joined": groups.joined,
            "blocks": padded,
            "taps": s.taps,
            "KH": s.KH,
            "KW": s.KW,
            "WH": window[1],
            "WW": window[2],
            "per_group": self.original.filters // self.original.groups * per_group * taps,
            "per_filter": taps if mirrored else per_group * taps,
            "per_channel": per_group * taps if mirrored else taps,
        }
        for letter, values in (("S", starts), ("T", steps)):
            named |= {letter + axis: v for axis, v in zip("DHW", values, strict=True)}
        made = _pack_kernel(self.x.lanes, NARROW[self.precision])
        given = tuple(named[name] for name in made.sizes)
        return Call(made, ("in1", packed), given, blocks(size), size)


CORNER = (
    "a_row = row_start + a_own",
    "a_here = a_row < rows",
    "a_image = quotient(a_row, P)",
    "a_pixel = a_row - a_image * P",
    "a_line = quotient(a_pixel, OW)",
    "a_plane = quotient(a_line, OH)",
    "top_z = a_plane * SD - PD",
    "top_y = (a_line - a_plane * OH) * SH - PH",
    "top_x = (a_pixel - a_line * OW) * SW - PW",
    "a_start = (a_image * XB + group * GX) * (D * H * W)",
)
"""Where a thread's position is, and the corner of its window."""


def _pack_kernel(lanes: int, dtype: str) -> Kernel:
    body = [
        "at = int64(cuda.grid(1))",
        "if at < size:",
        *indent(
            1,
            [
                f"rest = {over('at', str(PIECE))}",
                "line = quotient(rest, width)",
                "filter = rest - line * width",
                "group = quotient(line, rows)",
                # Elements of the inner axis are channels, in their blocks, then windows.
                f"inner = (line - group * rows) * {PIECE} + (at & {PIECE - 1})",
                f"element = {over('inner', str(lanes))}",
                "tap = quotient(element, blocks)",
                f"channel = (element - tap * blocks) * {lanes} + (inner & {lanes - 1})",
                "tap_line = quotient(tap, KW)",
                "kx = tap - tap_line * KW",
                "kz = quotient(tap_line, KH)",
                "ky = tap_line - kz * KH",
                "z = SD + kz * TD",
                "y = SH + ky * TH",
                "x = SW + kx * TW",
                "part = quotient(filter, own_filters)",
                "value = float32(0.0)",
                "same = part == quotient(channel, own_channels)",
                "if same & (filter < filters) & (channel < C) & (tap < taps):",
                "    start = (group * joined + part) * per_group",
                "    start += (filter - part * own_filters) * per_filter",
                "    start += (channel - part * own_channels) * per_channel",
                "    value = w[start + (z * WH + y) * WW + x]",
                "packed[at] = value",
            ],
        ),
    ]
    sizes = (
        *("size", "rows", "width", "filters", "C", "own_filters", "own_channels", "joined"),
        *("blocks", "taps", "KH", "KW", "WH", "WW", "per_group", "per_filter", "per_channel"),
        *("SD", "SH", "SW", "TD", "TH", "TW"),
    )
    return kernel(
        "pack_pieces",
        [("w", "float32"), ("packed", dtype)],
        used(sizes, body),
        body,
        f"packed[group, pieces, filter, {PIECE}] from w[F, C, window]; a thread per element.",
    )
