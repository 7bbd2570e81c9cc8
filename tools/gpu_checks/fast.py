"""How fast is it? Layers, networks and steps of training beside torch, and where time goes."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import peers

import convdsl
from convdsl.plan.model import Step
from convdsl.runtime.cuda import CudaMachine
from convdsl.runtime.program import Program
from gpu_checks import torches
from gpu_checks.checks import Array, Check, Row, Wanted, first_wrong, images, network

NETWORKS = ("resnet50", "vgg16", "resnet18", "alexnet_torchvision", "lenet")
PRECISIONS = ("fp32", "tf32", "bf16")
AGREES_TO = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 1e-1, "fp16": 2e-2}
"""Largest difference from torch in float32 over the largest result."""
TRAINED = (("resnet50", 32), ("alexnet_torchvision", 32), ("lenet", 64))
"""Networks and batches whose steps are timed."""
FOLLOWED = ("resnet50", "mobilenet_v1")
"""Networks whose steps are timed one by one."""
LAUNCHES = 20
"""Of a step, one after the other, to see how long one takes."""
LONGEST = 25
"""Steps of a network that are told."""
RATE = 1e-4
"""The learning rate of timed steps, on the same batch over and over."""
ROUNDS = 5
MEASURED = 0.02
"""Seconds that a round of a competitor takes at least."""


def layers() -> Iterator[Check]:
    """The distinct convolutions of ResNet-50 at batch 32, in every precision."""
    for layer in peers.layers_of("resnet50"):
        if layer.wide:
            graph = convdsl.load_source(layer.program).graph
            for precision in PRECISIONS:
                wanted = Wanted(graph, 32, None, precision)
                yield Check(f"{layer}, {precision}", partial(_layer, layer, wanted), (wanted,))


def _layer(layer: Any, wanted: Wanted) -> Row:
    torch = torches.needed()
    (image,) = images(wanted.graph, wanted.batch)
    ours = wanted.program()
    weight = ours.parameters["C1.weight"]
    found = ours(image)

    def convolution(x: Any, w: Any) -> Any:
        pad = [before for before, _ in layer.pad]
        return torch.conv2d(x, w, None, layer.stride, pad, 1, layer.groups)

    with torch.no_grad(), torches.exact(torch):
        given = (torch.from_numpy(a).cuda() for a in (image, weight.copy()))
        row = _difference(found, convolution(*given).cpu().numpy(), wanted.precision)
    calls = torches.calls_of(torch, wanted.precision, convolution, [image, weight])
    measured = _measured(str(layer), wanted, _seconds(ours), calls)
    return {**row, **measured, "how": peers.how(ours)}


def inference() -> Iterator[Check]:
    """Whole networks at batches 32 and 1."""
    for name in NETWORKS:
        for batch in (32, 1):
            for precision in PRECISIONS:
                wanted = Wanted(network(name), batch, None, precision)
                title = f"{name} at batch {batch} in {precision}"
                yield Check(title, partial(_inference, name, wanted), (wanted,))


def _inference(name: str, wanted: Wanted) -> Row:
    torch = torches.needed()
    graph = wanted.graph
    (image,) = images(graph, wanted.batch)
    ours = wanted.program()
    found = ours(image)
    arrays = {**ours.parameters, **ours.buffers}
    module = peers.torch_module(graph, arrays, training=False).requires_grad_(False).cuda()
    with torch.no_grad(), torches.exact(torch):
        expected = module(torch.from_numpy(image).cuda()).cpu().numpy()
    row = _difference(found, expected, wanted.precision)
    calls = torches.calls_of(torch, wanted.precision, module, [image], module)
    return row | _measured(name, wanted, _seconds(ours), calls)


def training() -> Iterator[Check]:
    """Steps of training: forward, loss, backward and SGD with momentum."""
    for name, batch in TRAINED:
        for precision in PRECISIONS:
            optimizer = convdsl.SGD(momentum=0.9)
            wanted = Wanted(network(name), batch, "cross_entropy", precision, optimizer)
            title = f"{name} at batch {batch} in {precision}"
            yield Check(title, partial(_training, name, wanted), (wanted,))


def _training(name: str, wanted: Wanted) -> Row:
    torch = torches.needed()
    graph = wanted.graph
    (image,) = images(graph, wanted.batch)
    target = np.arange(wanted.batch) % graph.outputs[0][1].type.channels
    ours = wanted.program()
    arrays = {n: a.copy() for n, a in {**ours.parameters, **ours.buffers}.items()}
    loss = ours.step(image, target, lr=RATE)
    row: Row = {"loss": loss}
    with torches.exact(torch), torch.no_grad():
        module = peers.torch_module(graph, arrays, training=True).cuda()
        given = [torch.from_numpy(a).cuda() for a in (image, target)]
        expected = float(torch.nn.functional.cross_entropy(module(given[0]), given[1]))
    if "random_key" not in ours.variables:  # what drops out is another choice than torch's
        row |= _difference(np.array([loss]), np.array([expected]), wanted.precision)
    data = (image, target)
    calls = torches.steps_of(torch, wanted.precision, graph, arrays, data, RATE)
    return row | _measured(name, wanted, _seconds(ours, training=True), calls)


def steps() -> Iterator[Check]:
    """Where the time of networks goes: every step on its own, the longest told."""
    for name in FOLLOWED:
        for precision in PRECISIONS:
            optimizer = convdsl.SGD(momentum=0.9)
            graph = network(name)
            for wanted in (
                Wanted(graph, 32, None, precision),
                Wanted(graph, 32, "cross_entropy", precision, optimizer),
            ):
                what = "training" if wanted.loss else "inference"
                title = f"{name}, {what} in {precision}"
                yield Check(title, partial(_steps, wanted), (wanted,))


def _steps(wanted: Wanted) -> Row:
    ours = wanted.program()
    machine = ours.machine
    assert isinstance(machine, CudaMachine)
    machine.prepare()
    found = [(machine.step_seconds(n, LAUNCHES), step) for n, step in enumerate(ours.plan.steps)]
    found.sort(key=lambda pair: -pair[0])
    total = sum(seconds for seconds, _ in found)
    return {"total": total, "steps": [_step(*pair) for pair in found[:LONGEST]]}


def _step(seconds: float, step: Step) -> Row:
    bytes = sum(buffer.bytes for buffer in step.buffers)
    return {
        "step": step.name,
        "kernel": f"{step.kernel.name}_{step.kernel.key}",
        "µs": 1e6 * seconds,
        "GB/s": bytes / seconds / 1e9,
        "GFLOP/s": step.flops / seconds / 1e9,
        "blocks": step.work,
    }


# -- measuring -------------------------------------------------------------------------------


def _difference(found: Array, expected: Array, precision: str) -> Row:
    scale = float(np.abs(expected).max()) or 1.0
    row: Row = {"difference": float(np.abs(found - expected).max()) / scale}
    if not row["difference"] < AGREES_TO[precision]:
        row |= first_wrong(found, expected, AGREES_TO[precision])
        row["wrong"] = f"it is off from torch's by {row['difference']:.1e}"
    return row


def _seconds(ours: Program, training: bool = False) -> Callable[[int], float]:
    """The seconds of a call of our program on the GPU, from so many."""
    machine = ours.machine
    assert isinstance(machine, CudaMachine)
    return partial(machine.seconds, training=training)


def _measured(
    name: str,
    wanted: Wanted,
    ours: Callable[[int], float],
    calls: dict[str, Callable[[], None]],
) -> Row:
    """Medians of interleaved rounds, each of many replays of a captured graph."""
    import torch

    def block(call: Callable[[int], float]) -> Callable[[], float]:
        call(3)
        count = max(3, int(MEASURED / max(call(3), 1e-6)))
        return lambda: call(count)

    def replayed(replay: Callable[[], None]) -> Callable[[int], float]:
        def seconds(count: int) -> float:
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(count):
                replay()
            torch.cuda.synchronize()
            return (time.perf_counter() - start) / count

        return seconds

    competitors = {"convdsl": block(ours)}
    competitors |= {n: block(replayed(call)) for n, call in calls.items()}
    times: dict[str, list[float]] = {n: [] for n in competitors}
    for _ in range(ROUNDS):
        for n, run in competitors.items():
            times[n].append(run())
    medians = {n: statistics.median(t) for n, t in times.items()}
    best = min(t for n, t in medians.items() if n != "convdsl")
    gc.collect()
    return {
        "name": name,
        "batch": wanted.batch,
        "precision": wanted.precision,
        "times": medians,
        "ratio": best / medians["convdsl"],
    }
