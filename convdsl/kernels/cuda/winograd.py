"""Winograd's convolution on the GPU, where fewer multiplications are worth what moving tiles costs.

Tiles of the input are transformed into memory, multiplied with the transformed weights as one
product per element of a tile (which is a pointwise convolution of as many groups), and transformed
back. Neighbouring threads have neighbouring tiles. Where all tiles at once would take much memory,
a slab of them goes through all three steps after the other. It rounds some ten times as much as the
direct sum.
"""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.kernels.cuda import convolution
from convdsl.kernels.cuda.convolution import Planned
from convdsl.kernels.cuda.frame import blocks, indent, kernel, over, result_gaps, used
from convdsl.kernels.cuda.results import QUAD, Result, planar
from convdsl.kernels.cuda.tiles import BANDWIDTH, LAUNCH
from convdsl.kernels.parts import as_forward, parts_of
from convdsl.kernels.sizes import sizes_of
from convdsl.kernels.winograd import (
    FORMS,
    Form,
    transformed_back,
    transformed_inputs,
    transformed_weights,
)
from convdsl.ops.families import Convolution, Geometry
from convdsl.plan.model import CONTIGUOUS, RESULT, Call, Images, Kernel, Recipe

SLAB = 1 << 26
"""Bytes of transformed tiles and products at one time. By the model, the launches that slabs add
cost VGG-16 at batch 8 a tenth of these layers' time; in twice the memory it would be a fortieth."""
WIDE = 128
"""Slabs are multiples of so many tiles: the most columns of a product that a block computes."""
SIZES = (
    *("first", "tiles", "held", "size", "TX", "TY"),
    *("N", "C", "F", "P", "H", "W", "OH", "OW", "PH", "PW", "CG", "apart"),
)


def form_of(family: Convolution) -> Form | None:
    """The fastest form for the family; None where it has none, or its direct sum is faster."""
    g = family.geometry
    if family.direction == "weight" or len(g.window) != 2 or family.groups > 1:
        return None
    if len(set(g.window)) > 1 or set(g.stride) | set(g.dilation) != {1}:
        return None
    if not convolution.fits(family):
        return None
    found = {form: _cycles(family, form) for form in FORMS if form.window == g.window[0]}
    best = min(found, key=found.__getitem__, default=None)
    return best if best and found[best] < _direct_cycles(family) else None


def _direct_cycles(family: Convolution) -> float:
    """How long the direct sum takes, by arithmetic or by memory."""
    forward = as_forward(family)
    (part,) = parts_of(family)
    s = sizes_of(forward.geometry)
    maps = forward.batch * (forward.channels * s.H * s.W + forward.filters * s.outputs)
    moved = 4.0 * (maps + s.taps * forward.channels * forward.filters)
    return max(Planned(family, part, "", "fp32").work.cycles, moved / BANDWIDTH)


def _cycles(family: Convolution, form: Form) -> float:
    """How long the three steps take: the first and the last by memory, the products by either."""
    forward = as_forward(family)
    s = sizes_of(forward.geometry)
    slabs = _slabs(forward, form)
    tiles = slabs.count * slabs.held
    inputs, results = (4.0 * form.points * n * tiles for n in (forward.channels, forward.filters))
    maps = 4.0 * forward.batch * (forward.channels * s.H * s.W + forward.filters * s.outputs)
    moved = (maps + inputs + results) / BANDWIDTH
    weights = 4.0 * form.points * forward.channels * forward.filters * slabs.count
    products = slabs.count * slabs.products.work.cycles
    between = max(products, (inputs + results + weights) / BANDWIDTH)
    return moved + between + (3 * slabs.count - 1) * LAUNCH


@dataclass(frozen=True)
class _Slabs:
    """How many slabs there are, of how many tiles, and the products of each as a convolution."""

    count: int
    held: int
    products: Planned


def _slabs(forward: Convolution, form: Form) -> _Slabs:
    """As few slabs as are small enough; one is held in whole accesses."""
    s = sizes_of(forward.geometry)
    points = form.points
    tiles = forward.batch * -(-s.OH // form.side) * -(-s.OW // form.side)
    held, count = -(-tiles // QUAD) * QUAD, 1
    most = SLAB // (4 * points * (forward.channels + forward.filters))
    if held > most:
        count = -(-tiles // max(WIDE, most // WIDE * WIDE))
        held = -(-tiles // (count * WIDE)) * WIDE
        count = -(-tiles // held)
    pointwise = Convolution(
        "forward",
        1,
        points * forward.channels,
        points * forward.filters,
        points,
        Geometry((held,), (held,), (1,), (1,), (0,), (1,)),
    )
    (part,) = parts_of(pointwise)
    operands = ("transformed", "packed", "products")
    return _Slabs(count, held, Planned(pointwise, part, "", "fp32", operands=operands))


def recipe(family: Convolution, form: Form, images: Images = CONTIGUOUS) -> Recipe:
    """Transform the weights (once, where they do not change) and x, multiply, transform back."""
    forward = as_forward(family)
    s = sizes_of(forward.geometry)
    slabs = _slabs(forward, form)
    held = slabs.held
    channels, filters, points = forward.channels, forward.filters, form.points
    across, down = -(-s.OW // form.side), -(-s.OH // form.side)
    width = -(-filters // QUAD) * QUAD
    named = {
        "tiles": forward.batch * across * down,
        "held": held,
        "TX": across,
        "TY": down,
        "N": forward.batch,
        "C": channels,
        "F": filters,
        "P": s.outputs,
        "width": width,
        **{name: getattr(s, name) for name in ("H", "W", "OH", "OW", "PH", "PW")},
        "CG": channels + images.gap(0) // s.inputs,
        "apart": filters * s.outputs + images.gap(RESULT),
    }
    wide = form.side == QUAD and s.OW % QUAD == 0
    bias = "b" if forward.bias else ""
    gaps = result_gaps(images, forward.epilogue, 3 if bias else 2).from_result()
    named |= gaps.sizes
    result = Result(QUAD if wide else 1, bias, "channel", planar(forward.epilogue), gaps)

    def call(made: Kernel, operands: tuple[str, ...], size: int, first: int = 0) -> Call:
        given = tuple((named | {"size": size, "first": first})[name] for name in made.sizes)
        return Call(made, operands, given, blocks(size), size * points)

    weights = _weights_kernel(form, mirrored=family.direction == "input")
    read = tuple(f"in{k}" for k in range(2, 2 + len(result.pointers)))
    inputs, results = _inputs_kernel(form), _results_kernel(form, result)
    calls = [call(weights, ("in1", "packed"), channels * width)]
    temporaries: list[tuple[str, int]] = [
        ("packed", points * channels * width),
        ("transformed", points * channels * held),
        ("products", points * filters * held),
    ]
    for first in range(0, slabs.count * held, held):
        calls.append(call(inputs, ("in0", "transformed"), channels * held, first))
        reason = slabs.products.add(calls, temporaries)
        calls.append(call(results, ("products", *read, "out"), filters * held, first))
    name = f"Winograd F({form.side}×{form.side}, {form.window}×{form.window})"
    if slabs.count > 1:
        name += f" in {slabs.count} slabs of {held} tiles"
    return Recipe(tuple(calls), tuple(temporaries), f"{name}, {points} products: {reason}")


def _weights_kernel(form: Form, mirrored: bool) -> Kernel:
    """U = G·g·Gᵀ for every channel and filter, filters side by side."""
    window, reach, points = form.window, form.reach, form.points
    count = window * window
    pair = "channel * F + filter" if mirrored else "filter * C + channel"
    lines = [f"start = ({pair}) * {count}"]
    lines += [f"g{k} = w[start + {count - 1 - k if mirrored else k}]" for k in range(count)]
    for column in range(window):
        weights = [f"g{r * window + column}" for r in range(window)]
        lines += transformed_weights(form, weights, f"h{column}_")
    for row in range(reach):
        lines += transformed_weights(form, [f"h{c}_{row}" for c in range(window)], f"u{row}_")
    places = [(row, column) for row in range(reach) for column in range(reach)]
    body = [
        "at = int64(cuda.grid(1))",
        "if at < size:",
        "    channel = quotient(at, width)",
        "    filter = at - channel * width",
        "    if filter < F:",
        *indent(2, lines),
        "    else:",
        *(f"        u{row}_{column} = float32(0.0)" for row, column in places),
        *(f"    packed[at + {k} * size] = u{r}_{c}" for k, (r, c) in enumerate(places)),
    ]
    return kernel(
        f"winograd_weights_{form.side}x{form.side}_{window}x{window}"
        + ("_mirrored" if mirrored else ""),
        [("w", "float32"), ("packed", "float32")],
        used((*SIZES, "width"), body),
        body,
        f"packed[{points}, C, width] from w, transformed; a thread per channel and filter.",
    )


def _inputs_kernel(form: Form) -> Kernel:
    """V = Bᵀ·d·B for every channel and tile, tiles side by side."""
    side, reach = form.side, form.reach
    lines = []
    for column in range(reach):
        for row in range(reach):
            name = f"d{row}_{column}"
            lines += [
                f"{name} = float32(0.0)",
                f"if here & (0 <= y0 + {row}) & (y0 + {row} < H)"
                f" & (0 <= x0 + {column}) & (x0 + {column} < W):",
                f"    {name} = x[start + {row} * W + {column}]",
            ]
        lines += transformed_inputs([f"d{row}_{column}" for row in range(reach)])
        lines += [f"t{row}_{column} = r{row}" for row in range(reach)]
    for row in range(reach):
        lines += transformed_inputs([f"t{row}_{column}" for column in range(reach)])
        lines += [f"v[at + {row * reach + column} * size] = r{column}" for column in range(reach)]
    body = [
        "at = int64(cuda.grid(1))",
        "if at < size:",
        "    channel = quotient(at, held)",
        "    tile = at - channel * held + first",
        "    here = tile < tiles",
        *indent(1, _place(side)),
        "    y0 -= PH",
        "    x0 -= PW",
        "    start = ((image * CG + channel) * H + y0) * W + x0",
        *indent(1, lines),
    ]
    return kernel(
        f"winograd_inputs_{reach}x{reach}_by_{side}",
        [("x", "float32"), ("v", "float32")],
        used(SIZES, body),
        body,
        f"v[{form.points}, C, held] from x, transformed; a thread per channel and tile.",
    )


def _results_kernel(form: Form, result: Result) -> Kernel:
    """y = Aᵀ·m·A for every filter and tile."""
    side, reach = form.side, form.reach
    lines = []
    for column in range(reach):
        names = [f"m{row}_{column}" for row in range(reach)]
        lines += [
            f"{name} = m[at + {row * reach + column} * size]" for row, name in enumerate(names)
        ]
        lines += transformed_back(names, side)
        lines += [f"t{row}_{column} = r{row}" for row in range(side)]
    for row in range(side):
        lines += transformed_back([f"t{row}_{column}" for column in range(reach)], side)
        inner = []
        for column in range(0, side, result.width):
            totals = [f"r{column + k}" for k in range(result.width)]
            loads, values = result.finished(totals, "", "to")
            store = [f"pixel = (y0 + {row}) * OW + x0 + {column}", "to = plane + pixel", *loads]
            stored = ", ".join(values)
            store.append(f"store4(y, to, {stored})" if result.width > 1 else f"y[to] = {stored}")
            inner += [f"if x0 + {column} < OW:", *indent(1, store)]
        lines += [f"if y0 + {row} < OH:", *indent(1, inner)]
    body = [
        "at = int64(cuda.grid(1))",
        "if at < size:",
        "    channel = quotient(at, held)",
        "    tile = at - channel * held + first",
        "    if tile < tiles:",
        *indent(2, _place(side)),
        "        plane = image * apart + channel * P",
        *indent(2, lines),
    ]
    return kernel(
        f"winograd_results_{side}x{side}_{form.window}x{form.window}"
        + ("_by_4" if result.width > 1 else ""),
        [("m", "float32"), *result.pointers, ("y", "float32")],
        used((*SIZES, *result.gaps.sizes), body),
        body,
        f"y[N, F, OH, OW] from m[{form.points}, F, held]; a thread per filter and tile.",
    )


def _place(side: int) -> list[str]:
    """Statements that find a tile's image and first result."""
    return [
        f"line = {over('tile', 'TX')}",
        f"image = {over('line', 'TY')}",
        f"y0 = (line - image * TY) * {side}",
        f"x0 = (tile - line * TX) * {side}",
    ]
