#!/usr/bin/env python3
"""How cost grows with the work: over the batch, the depth of a network and the side of an image.

    tools/scaling.py --svg scaling.svg --markdown scaling.md

Run it with the environment's Python (`.venv/bin/python`) on a quiet machine. Every point is the
median of several rounds, in each of which all points of a curve take their turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
# The repository's own package, wherever else one is installed.
sys.path[:0] = [str(ROOT)]

from convdsl.network import Network, locate, read  # noqa: E402 (found by the line above)
from convdsl.views.drawing.svg import Canvas  # noqa: E402
from convdsl.views.drawing.theme import LIGHT  # noqa: E402
from convdsl.views.table import Column, markdown_table  # noqa: E402

BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
DEPTHS = (20, 32, 44, 56, 110)
SIDES = (64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
WIDTH, HEIGHT, GAP = 260.0, 130.0, 60.0
INK = "#4477AA"


@dataclass(frozen=True)
class Curve:
    """Programs by what grows, and by what their time is divided."""

    title: str
    unit: str
    scale: float
    """Units of the result to a second."""
    over: str
    points: Sequence[tuple[int, str, int | None, int, float]]
    """What grows, network, the side of its image, batch, and what the time is divided by."""


CURVES = (
    Curve(
        "ResNet-18, time per image",
        "ms",
        1e3,
        "batch",
        [(n, "resnet18", None, n, n) for n in BATCHES],
    ),
    Curve(
        "ResNet on CIFAR at batch 8, time per layer",
        "µs",
        1e6,
        "layers",
        [(n, f"resnet{n}", None, 8, n) for n in DEPTHS],
    ),
    Curve(
        "ResNet-18 at batch 1, time per pixel",
        "ns",
        1e9,
        "side of the image",
        [(n, "resnet18", n, 1, n * n) for n in SIDES],
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    measured = [(curve, measure(curve, args.rounds, args.seconds)) for curve in CURVES]
    text = "\n\n".join(table(curve, values) for curve, values in measured)
    if args.markdown:
        args.markdown.write_text(text + "\n", encoding="utf-8")
    if args.svg:
        args.svg.write_text(drawing(measured), encoding="utf-8")
    print(text)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--seconds", type=float, default=0.2, help="for each point in each round")
    made.add_argument("--markdown", type=Path, metavar="FILE")
    made.add_argument("--svg", type=Path, metavar="FILE")
    return made


def measure(curve: Curve, rounds: int, seconds: float) -> list[float]:
    """For every point the median time of a call, divided, in the curve's unit."""
    calls = []
    for n, name, side, batch, _ in curve.points:
        print(f"{curve.title}: {curve.over} {n}", file=sys.stderr, flush=True)
        calls.append(caller(name, side, batch))
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, own in zip(calls, times, strict=True):
            own += timed(call, seconds)
    return [
        statistics.median(own) * curve.scale / divisor
        for own, (*_, divisor) in zip(times, curve.points, strict=True)
    ]


def caller(name: str, side: int | None, batch: int) -> Callable[[], object]:
    path, chosen = locate(name)
    net = Network(read(path), chosen, input_sizes=[(3, side, side)] if side else ())
    program = net.compile(batch=batch)
    shape = net.graph.inputs[0].type.with_batch(batch)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return lambda: program(x)


def timed(call: Callable[[], object], seconds: float) -> list[float]:
    """The seconds of one call at least, after one that fills the caches."""
    call()
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def table(curve: Curve, values: Sequence[float]) -> str:
    columns = [Column(curve.over, right=True), Column(f"{curve.title}, {curve.unit}", right=True)]
    rows = [(str(n), f"{value:.3g}") for (n, *_), value in zip(curve.points, values, strict=True)]
    return markdown_table(columns, rows)


def drawing(measured: Sequence[tuple[Curve, Sequence[float]]]) -> str:
    """The curves one below the other, every one from zero."""
    canvas = Canvas()
    for place, (curve, values) in enumerate(measured):
        top = place * (HEIGHT + GAP)
        draw(canvas, curve, values, top)
    return canvas.document(LIGHT.ground, "Cost as work grows")


def draw(canvas: Canvas, curve: Curve, values: Sequence[float], top: float) -> None:
    largest, last = max(values), max(n for n, *_ in curve.points)
    bottom = top + HEIGHT
    places = [
        (WIDTH * n / last, bottom - HEIGHT * value / largest)
        for (n, *_), value in zip(curve.points, values, strict=True)
    ]
    canvas.path([(0, top), (0, bottom), (WIDTH, bottom)], LIGHT.ink)
    canvas.path(places, INK, 1.5)
    for x, y in places:
        canvas.circle(x, y, 2, INK, INK)
    canvas.text(0, top - 10, f"{curve.title}, {curve.unit}", 10, LIGHT.ink, bold=True)
    canvas.text(WIDTH / 2, bottom + 14, curve.over, 9, LIGHT.ink, anchor="middle")
    for n, x in ((0, 0.0), (last, WIDTH)):
        canvas.text(x, bottom + 14, str(n), 9, LIGHT.ink, anchor="middle")
    canvas.text(-6, bottom, "0", 9, LIGHT.ink, anchor="end")
    canvas.text(-6, top + 6, f"{largest:.3g}", 9, LIGHT.ink, anchor="end")


if __name__ == "__main__":
    sys.exit(main())
