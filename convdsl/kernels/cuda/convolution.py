"""Convolution on the GPU as a matrix product: filters by pixels, summed over channels and windows.

Weights are packed so that neighbouring filters lie side by side. Pixels' inputs are gathered while
they travel into shared memory, and what lies outside arrives as zeros: nothing is padded or
unfolded in memory. A gradient by the input consists of such convolutions of dy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from convdsl.kernels.cuda import gemm
from convdsl.kernels.cuda.frame import PLAIN, blocks, indent, kernel, over, result_gaps, used
from convdsl.kernels.cuda.results import QUAD, Result, combine, planar, stores
from convdsl.kernels.cuda.tiles import DEPTH, Tile, Work, choose, tiles_for
from convdsl.kernels.parts import Part, has_parts, parts_of, turned
from convdsl.kernels.sizes import Sizes, sizes_of, triple
from convdsl.ops.families import Convolution
from convdsl.plan.model import CONTIGUOUS, RESULT, Call, Images, Kernel, Recipe

WASTE = 1.2
"""How many times the channels a slice may hold, before windows' elements share slices."""


def fits(family: Convolution) -> bool:
    """Whether this generator computes the convolution: forward, or the gradient by the input."""
    if family.direction == "weight" or (family.epilogue and not family.epilogue.planar()):
        return False
    return has_parts(family)


def recipe(family: Convolution, precision: str = "fp32", images: Images = CONTIGUOUS) -> Recipe:
    """Pack the weights (once, where they do not change), then convolve; per part where several."""
    calls: list[Call] = []
    temporaries: list[tuple[str, int]] = []
    parts = parts_of(family)
    reason = ""
    for number, part in enumerate(parts):
        mark = str(number) if len(parts) > 1 else ""
        reason = Planned(family, part, mark, precision, images).add(calls, temporaries)
    return Recipe(tuple(calls), tuple(temporaries), reason)


@dataclass(frozen=True)
class Planned:
    """How one part of a convolution is computed."""

    original: Convolution
    part: Part
    mark: str
    precision: str
    images: Images = CONTIGUOUS
    operands: tuple[str, str, str] = ("in0", "", "out")
    """What x, the packed weights and the result are called; weights without a name are packed."""

    @property
    def family(self) -> Convolution:
        return replace(turned(self.original), geometry=self.part.geometry)

    @property
    def sizes(self) -> Sizes:
        return sizes_of(self.part.geometry)

    @property
    def channels(self) -> int:
        """Of a group."""
        return self.family.channels // self.family.groups

    @property
    def filters(self) -> int:
        """Of a group."""
        return self.family.filters // self.family.groups

    @property
    def spread(self) -> bool:
        """Whether the part's results lie between those of others."""
        return self.original.direction == "input" and max(self.original.geometry.stride) > 1

    @property
    def pointwise(self) -> bool:
        """Whether pixels need neither a window nor their place, and lie in fours."""
        s = self.sizes
        plain = s.taps == 1 and s.SD == s.SH == s.SW == 1 and s.PD == s.PH == s.PW == 0
        same = (s.D, s.H, s.W) == (s.OD, s.OH, s.OW)
        return plain and same and s.outputs % QUAD == 0

    def flat(self, depth: int) -> bool:
        """Whether slices run over channels and windows alike, for there are few channels."""
        return -(-self.channels // depth) * depth > WASTE * self.channels and self.sizes.taps > 1

    @property
    def slices(self) -> int:
        if self.flat(DEPTH):
            return -(-self.channels * self.sizes.taps // DEPTH)
        return -(-self.channels // DEPTH) * self.sizes.taps

    @property
    def work(self) -> Work:
        """The fastest tile and split."""
        return choose(
            self.filters,
            [self.family.batch * self.sizes.outputs],
            self.slices * DEPTH,
            self.family.groups,
            # Addresses of spread results take as many registers as those of windows.
            tiles_for(self.precision, gathering=self.spread or not self.pointwise),
            splittable=not self.spread and self.operands[2] == "out",
        )

    def add(self, calls: list[Call], temporaries: list[tuple[str, int]]) -> str:
        """Add the calls and temporaries; returns how the part is computed, for people."""
        family, s, slices = self.family, self.sizes, self.slices
        depth = DEPTH
        flat = self.flat(depth)
        pixels = family.batch * s.outputs
        work = self.work
        x, packed, y = self.operands
        if not packed:
            packed = f"packed{self.mark}"
            self._pack(calls, temporaries, flat, packed)
        operands = [f"in{k}" for k in range(2, 2 + family.bias + _extra(family))]
        width = 1 if s.outputs % QUAD or self.spread else QUAD
        gaps = result_gaps(self.images, family.epilogue, 3 if family.bias else 2)
        bias = "b" if family.bias else ""
        result = Result(width, bias, "channel", planar(family.epilogue), gaps)
        partial = work.splits > 1
        full = triple(self.original.geometry.input, 1) if self.spread else (s.OD, s.OH, s.OW)
        size = family.batch * family.filters * s.outputs
        target = f"partials{self.mark}" if partial else y
        tiles = (-(-self.filters // work.tile.rows), -(-pixels // work.tile.columns))
        made = self._kernel(work.tile, result, flat, partial)
        named = {
            "row_tiles": tiles[0],
            "column_tiles": tiles[1],
            "splits": work.splits,
            "slices": slices,
            "columns": pixels,
            "rows": self.filters,
            "width": self._width,
            "size": size,
            "N": family.batch,
            "C": self.channels,
            "CG": family.channels + self.images.gap(0) // s.inputs,
            "F": family.filters,
            "apart": family.filters * math.prod(full) + (not partial) * self.images.gap(RESULT),
            "P": s.outputs,
            "chunks": -(-self.channels // depth),
            "inner": self.channels * s.taps,
            **{name: getattr(s, name) for name in s.__dataclass_fields__},
            **gaps.from_result().sizes,
        }
        # A part that sees no element of the window is zero: no slices, but sizes that divide.
        named |= {name: max(1, named[name]) for name in ("KH", "KW")}
        if self.spread:
            first, step = triple(self.part.first, 0), triple(self.part.step, 1)
            named |= dict(zip(("YD", "YH", "YW"), full, strict=True))
            named |= dict(zip(("FD", "FH", "FW"), first, strict=True))
            named |= dict(zip(("TD", "TH", "TW"), step, strict=True))
        used = () if partial else operands
        calls.append(
            Call(
                made,
                (x, packed, *used, target),
                tuple(named[name] for name in made.sizes),
                work.blocks,
                size * self.channels * s.taps,
            )
        )
        if partial:
            temporaries.append((target, size * work.splits))
            dims = (family.batch, family.filters, s.outputs)
            calls.append(combine(result, work.splits, dims, target, operands))
        return self._reason(work, flat)

    def _reason(self, work: Work, flat: bool) -> str:
        how = "implicit GEMM"
        if self.pointwise:
            how = "GEMM"
        elif flat:
            how += " over channels and windows at once"
        return f"{how}, {work.reason}"

    @property
    def _width(self) -> int:
        """Filters of a group in packed weights: whole accesses."""
        return -(-self.filters // QUAD) * QUAD

    def _pack(
        self, calls: list[Call], temporaries: list[tuple[str, int]], flat: bool, packed: str
    ) -> None:
        """Add the call that packs the weights."""
        s = self.sizes
        rows = self.channels * s.taps
        temporaries.append((packed, max(1, self.family.groups * rows * self._width)))
        if rows:
            to = (rows, self._width, s)
            calls.append(pack(self.original, self.part, to, flat, packed))

    def _kernel(self, tile: Tile, result: Result, flat: bool, partial: bool) -> Kernel:
        s = self.sizes
        weights = gemm.along(
            "a",
            tile,
            tile.rows,
            QUAD,
            ["a_here = row_start + a_own < width"],
            [],
            "packed",
            "(group * inner + a_first + row) * width + row_start + a_own",
            "a_here & (a_left > row)",
        )
        start = (
            [f"a_first = slice * {tile.depth}", "a_left = inner - a_first"]
            if flat
            else [f"a_first = tap * C + chunk * {tile.depth}", f"a_left = C - chunk * {tile.depth}"]
        )
        weights = replace(weights, issue=[*start, *weights.issue])
        if self.pointwise:
            pixels = _pointwise(tile)
        else:
            pixels = _flat(tile, s) if flat else _by_taps(tile)
        columns = [
            "image{0} = " + over("column{0}", "P"),
            "pixel{0} = column{0} - image{0} * P",
            "base{0} = image{0} * apart + pixel{0}",
        ]
        stride = "stride = P"
        if self.spread:
            stride = "stride = YD * YH * YW"
            columns = [
                *columns[:2],
                "line{0} = " + over("pixel{0}", "OW"),
                "plane{0} = " + over("line{0}", "OH"),
                "z{0} = plane{0} * TD + FD",
                "y{0} = (line{0} - plane{0} * OH) * TH + FH",
                "x{0} = (pixel{0} - line{0} * OW) * TW + FW",
                "base{0} = image{0} * apart + (z{0} * YH + y{0}) * YW + x{0}",
            ]
        ending = [stride, "channel_start = group * rows", *stores(tile, result, columns, partial)]
        # The loop over slices begins where the block's share does.
        walk = [] if flat else _walk(pointwise=self.pointwise)
        pixels = replace(pixels, setup=[*walk, *pixels.setup])
        lines = gemm.body(tile, weights, pixels, ending)
        name = "_".join(
            word
            for word in (
                "convolve",
                "pointwise" if self.pointwise else "flat" if flat else "",
                f"{tile.rows}x{tile.columns}",
                tile.precision if tile.on_tensor_cores else "",
                "spread" if self.spread else "",
                "partial" if partial else "",
            )
            if word
        )
        pointers = [("x", "float32"), ("packed", "float32")]
        if not partial:
            pointers += result.pointers
        return kernel(
            name,
            [*pointers, ("y", "float32")],
            used((*SIZES, *result.gaps.from_result().sizes), lines),
            lines,
            f"y[N, F, P] of x[N, CG, D, H, W]; a block per {tile} of filters × pixels.",
            tile.threads,
        )


def _extra(family: Convolution) -> int:
    return len(family.epilogue.present) if family.epilogue else 0


SIZES = (
    *gemm.SIZES,
    *("columns", "rows", "width", "size", "N", "C", "CG", "F", "P", "apart", "chunks", "inner"),
    *("D", "H", "W", "OD", "OH", "OW", "KD", "KH", "KW"),
    *("SD", "SH", "SW", "PD", "PH", "PW", "DD", "DH", "DW"),
    *("YD", "YH", "YW", "FD", "FH", "FW", "TD", "TH", "TW"),
)


def _walk(pointwise: bool) -> list[str]:
    """Statements that find the window's element and the channels of a block's first slice."""
    if pointwise:
        return ["tap = 0", "chunk = first"]
    return [
        "tap = quotient(first, chunks)",
        "chunk = first - tap * chunks",
        "line = quotient(tap, KW)",
        "kx = tap - line * KW",
        "kz = quotient(line, KH)",
        "ky = line - kz * KH",
    ]


STEP = (
    "chunk += 1",
    "if chunk == chunks:",
    "    chunk = 0",
    "    tap += 1",
    "    kx += 1",
    "    if kx == KW:",
    "        kx = 0",
    "        ky += 1",
    "        if ky == KH:",
    "            ky = 0",
    "            kz += 1",
)
"""To the next slice: the next channels, then the next element of the window."""
CORNER = (
    "b_column = column_start + b_own",
    "b_here = b_column < columns",
    "b_image = quotient(b_column, P)",
    "b_pixel = b_column - b_image * P",
    "b_line = quotient(b_pixel, OW)",
    "b_plane = quotient(b_line, OH)",
    "top_z = b_plane * SD - PD",
    "top_y = (b_line - b_plane * OH) * SH - PH",
    "top_x = (b_pixel - b_line * OW) * SW - PW",
    "b_start = (b_image * CG + group * C) * (D * H * W)",
)
"""Where a thread's pixel is, and the corner of its window."""
INSIDE = "(0 <= z) & (z < D) & (0 <= y_) & (y_ < H) & (0 <= x_) & (x_ < W)"


def _by_taps(tile: Tile) -> gemm.Loader:
    """Slices of channels under one element of the window."""
    return gemm.along(
        "b",
        tile,
        tile.columns,
        1,
        CORNER,
        [
            "z = top_z + kz * DD",
            "y_ = top_y + ky * DH",
            "x_ = top_x + kx * DW",
            f"inside = b_here & {INSIDE}",
            f"channel = chunk * {tile.depth} + b_row",
            "b_at = b_start + ((channel * D + z) * H + y_) * W + x_",
        ],
        "x",
        "b_at + (row - b_row) * (D * H * W)",
        "inside & (channel + row - b_row < C)",
        STEP,
    )


def _pointwise(tile: Tile) -> gemm.Loader:
    """Slices of channels, four pixels at a time."""
    return gemm.along(
        "b",
        tile,
        tile.columns,
        QUAD,
        [
            "b_column = column_start + b_own",
            "b_here = b_column < columns",
            "b_image = quotient(b_column, P)",
            "b_start = (b_image * CG + group * C) * P + b_column - b_image * P",
        ],
        [f"channel = chunk * {tile.depth}"],
        "x",
        "b_start + (channel + row) * P",
        "b_here & (channel + row < C)",
        ("chunk += 1",),
    )


def _flat(tile: Tile, s: Sizes) -> gemm.Loader:
    """Slices over channels and windows; the window's sizes are constants, for they divide."""
    loader = gemm.along(
        "b", tile, tile.columns, 1, CORNER, [], "x", "b_at", "inside & (row < left_over)"
    )
    find = [
        f"row_of = slice * {tile.depth} + row",
        f"channel = quotient(row_of, {s.taps})",
        f"tap_of = row_of - channel * {s.taps}",
        f"line = quotient(tap_of, {s.KW})",
        f"plane = quotient(line, {s.KH})",
        "z = top_z + plane * DD",
        f"y_ = top_y + (line - plane * {s.KH}) * DH",
        f"x_ = top_x + (tap_of - line * {s.KW}) * DW",
        f"inside = b_here & {INSIDE}",
        "b_at = b_start + ((channel * D + z) * H + y_) * W + x_",
    ]
    lines = list(loader.issue)
    place = next(k for k, line in enumerate(lines) if "row = " in line)
    depth = len(lines[place]) - len(lines[place].lstrip())
    lines[place + 1 : place + 1] = [" " * depth + line for line in find]
    return replace(loader, issue=[f"left_over = inner - slice * {tile.depth}", *lines])


# -- weights ---------------------------------------------------------------------------------


def pack(
    original: Convolution,
    part: Part,
    to: tuple[int, int, Sizes],
    flat: bool,
    packed: str,
) -> Call:
    """The call that packs weights F×C×window as group × rows × filters.

    Rows are elements of the window, and channels within each; the other way round where ``flat``.
    For a gradient by the input filters and channels change places, and the window is turned round.
    """
    rows, width, s = to
    g = original.geometry
    window = triple(g.window, 1)
    taps = math.prod(window)
    per_group = original.channels // original.groups
    mirrored = original.direction == "input"
    channels = (original.filters if mirrored else original.channels) // original.groups
    filters = (original.channels if mirrored else original.filters) // original.groups
    # Element m of the part's window is number taken + step·m of the whole, from the other end.
    taken, step = triple(part.taken, 0), triple(part.step, 1)
    if mirrored:
        part_window = (s.KD, s.KH, s.KW)
        starts = [r + d * (m - 1) for r, d, m in zip(taken, step, part_window, strict=True)]
        steps = [-d for d in step]
    else:
        starts, steps = [0, 0, 0], [1, 1, 1]
    named = {
        "size": original.groups * rows * width,
        "rows": rows,
        "width": width,
        "filters": filters,
        "C": channels,
        "KT": s.taps,
        "KH": s.KH,
        "KW": s.KW,
        "WH": window[1],
        "WW": window[2],
        "per_group": original.filters // original.groups * per_group * taps,
        "per_filter": taps if mirrored else per_group * taps,
        "per_channel": per_group * taps if mirrored else taps,
        **dict(zip(("SD", "SH", "SW"), starts, strict=True)),
        **dict(zip(("TD", "TH", "TW"), steps, strict=True)),
    }
    made = _PACK_FLAT if flat else _PACK
    size = named["size"]
    values = tuple(named[name] for name in made.sizes)
    return Call(made, ("in1", packed), values, blocks(size), size)


def _pack_kernel(flat: bool) -> Kernel:
    split = (
        ["channel = quotient(row, KT)", "tap = row - channel * KT"]
        if flat
        else ["tap = quotient(row, C)", "channel = row - tap * C"]
    )
    body = [
        "at = int64(cuda.grid(1))",
        "if at < size:",
        *indent(
            1,
            [
                "line = quotient(at, width)",
                "filter = at - line * width",
                "group = quotient(line, rows)",
                "row = line - group * rows",
                *split,
                "tap_line = quotient(tap, KW)",
                "kx = tap - tap_line * KW",
                "kz = quotient(tap_line, KH)",
                "ky = tap_line - kz * KH",
                "z = SD + kz * TD",
                "y = SH + ky * TH",
                "x = SW + kx * TW",
                "value = float32(0.0)",
                "if filter < filters:",
                "    start = group * per_group + filter * per_filter + channel * per_channel",
                "    value = w[start + (z * WH + y) * WW + x]",
                "packed[at] = value",
            ],
        ),
    ]
    return kernel(
        "pack_flat" if flat else "pack",
        [("w", "float32"), ("packed", "float32")],
        [
            *("size", "rows", "width", "filters", "C"),
            *(["KT"] if flat else []),
            *("KH", "KW", "WH", "WW", "per_group", "per_filter", "per_channel"),
            *("SD", "SH", "SW", "TD", "TH", "TW"),
        ],
        body,
        "packed[groups, rows, filters] from w[F, C, window]; a thread per element.",
        PLAIN,
    )


_PACK = _pack_kernel(flat=False)
_PACK_FLAT = _pack_kernel(flat=True)
