"""Is it right? Every op, random networks and whole ones, and arrays of torch, on the GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError
from typing import Any

import numpy as np
import peers
from helpers import sample_network
from random_networks import Writer

import convdsl
from convdsl.kernels.cuda import maps
from convdsl.ops import registry
from convdsl.ops.expressions import Number
from convdsl.ops.families import Map, operand
from convdsl.runtime import cuda_compilation
from convdsl.runtime.cuda import open_device
from convdsl.runtime.interpreter import evaluate
from gpu_checks import torches
from gpu_checks.checks import Array, Check, Row, Wanted, first_wrong, images, network, outputs

RANDOM_NETWORKS = 60
ROUNDED_NETWORKS = 6
"""Random networks in each of the other precisions."""
EXACT_TO = {"fp32": 5e-4, "tf32": 5e-3, "bf16": 4e-2, "fp16": 5e-3}
"""Largest error of a result by norm, over its own: rounding through up to twelve layers."""
TRAINED_TO = 1e-3
"""Largest relative difference between losses of the first steps on two processors."""
MULTIPLYING = ("conv", "deconv", "dense")
"""Ops whose kernels the precision decides."""
PACKAGES = ("numpy", "numba", "numba-cuda", "cuda-bindings", "torch")
COPIED = 1 << 28
"""Bytes that are copied to see how fast memory is."""


def device() -> Iterator[Check]:
    """Which GPU and which versions, how fast its memory is, and whether kernels can be made."""
    yield Check("versions", _versions)
    small = convdsl.load_source("net T { input 4@8x8\n conv 8@3x3 -> relu -> dense 5 }").graph
    yield _compared("a small network", Wanted(small, 2))
    yield Check("copying", _copying)
    yield Check("compiling", _compiling)


def _versions() -> Row:
    found = {"arch": open_device().arch}
    for name in PACKAGES:
        try:
            found[name] = peers.version(name)
        except PackageNotFoundError:
            found[name] = "none"
    if torch := torches.found():
        found["name"] = torch.cuda.get_device_name(0)
    return found


def _copying() -> Row:
    """Gigabytes a second: within the GPU's memory, read and written, and from pinned memory."""
    with open_device() as device:
        first, second = device.allocate(COPIED), device.allocate(COPIED)
        host = device.staging(COPIED >> 3)
        return {
            "within, GB/s": 2 * COPIED / _time(device, lambda: device.move(first, second, COPIED)),
            "to the GPU, GB/s": (COPIED >> 3) / _time(device, lambda: device.send(first, host)),
        }


def _time(device: Any, call: Callable[[], None], repeats: int = 10) -> float:
    """Nanoseconds of a call."""
    for count in (2, repeats):
        device.wait()
        start = time.perf_counter()
        for _ in range(count):
            call()
        device.wait()
    return 1e9 * (time.perf_counter() - start) / repeats


def _compiling() -> Row:
    """Whether this machine compiles kernels: one that nobody has compiled before."""
    number = Number(float(time.time_ns() % 10**9))
    family = Map(operand(0) + number, (4,), ((True,),), ("float32",))
    (call,) = maps.recipe(family).calls
    start = time.perf_counter()
    try:
        cuda_compilation.ptx(call.kernel, open_device().arch)
    except Exception as reason:
        # Not wrong: kernels may come from a file.
        return {"compiles": f"no, {type(reason).__name__}: {reason}"}
    return {"compiles": f"yes, in {time.perf_counter() - start:.1f} s"}


def _compared(name: str, wanted: Wanted) -> Check:
    return Check(name, partial(compare, wanted), (wanted,), small=True)


def compare(wanted: Wanted) -> Row:
    """All outputs against the interpreter in float64, by norm; twice, for the same bits."""
    arrays = wanted.arrays()
    expected = evaluate(wanted.lowered, arrays)
    program = wanted.program()
    found, again = (outputs(program, arrays) for _ in range(2))
    largest = max(np.linalg.norm(expected[n]) for n in found)
    errors = {}
    for n, value in found.items():
        # A gradient that is zero in exact arithmetic is rounding, whose size the largest tells.
        scale = max(np.linalg.norm(expected[n]), 0.1 * largest) or 1.0
        error = float(np.linalg.norm(value - expected[n]) / scale)
        errors[n] = error if np.isfinite(error) else np.inf
    worst = max(errors, key=errors.__getitem__)
    row: Row = {"error": errors[worst]}
    allowed = EXACT_TO[wanted.precision]
    if not errors[worst] < allowed:
        row |= first_wrong(found[worst], expected[worst], allowed)
        row |= {"wrong": f"`{worst}` is off by {errors[worst]:.1e}", "off": errors}
    changed = [n for n in found if not np.array_equal(found[n], again[n], equal_nan=True)]
    if changed:
        row.setdefault("wrong", f"another run gives other bits of {', '.join(changed)}")
        row["another run changes"] = changed
    return row


def operations() -> Iterator[Check]:
    """Every sample of every op, forward and backward, against the interpreter."""
    for op in registry().values():
        for sample in op.samples:
            yield from _sample(sample, "fp32")


def precisions() -> Iterator[Check]:
    """What multiplies on tensor cores, and random networks, in every other precision."""
    for precision in ("bf16", "tf32", "fp16"):
        for name, op in registry().items():
            for sample in op.samples if name in MULTIPLYING else ():
                yield from _sample(sample, precision)
        yield from _random(ROUNDED_NETWORKS, precision)


def random() -> Iterator[Check]:
    """Random networks, forward and backward, against the interpreter."""
    return _random(RANDOM_NETWORKS, "fp32")


def _sample(sample: Any, precision: str) -> Iterator[Check]:
    name = f"{sample.text} of {sample.input} in {precision}"
    # Without seeds of their own two samples would be compared on much the same arrays.
    seed = sum(name.encode())
    plain = Wanted(sample_network(sample).graph, 3, None, precision, seed=seed)
    yield _compared(name, plain)
    text = f"net T {{\n  input {sample.input}\n  {sample.text}\n  flatten\n}}\n"
    graph = convdsl.load_source(text).graph
    trained = Wanted(graph, 5, "cross_entropy", precision, seed=seed)
    yield _compared(f"{name}, backward", trained)


def _random(count: int, precision: str) -> Iterator[Check]:
    for seed in range(count):
        writer = Writer(seed)
        graph = convdsl.load_source(writer.text()).graph
        wanted = Wanted(graph, writer.batch, "cross_entropy", precision, seed=seed)
        yield _compared(f"random network {seed} in {precision}", wanted)


def networks() -> Iterator[Check]:
    """Whole networks against the CPU target, and the losses of training steps."""
    for name in ("lenet", "resnet18", "squeezenet"):
        wanted = Wanted(network(name), 2)
        yield Check(name, partial(_as_on_the_cpu, name), (wanted,))
    for name in ("lenet", "resnet20"):
        wanted = Wanted(network(name), 8, "cross_entropy", "fp32", convdsl.SGD(momentum=0.9))
        yield Check(f"{name}, four steps", partial(_trained_as_on_the_cpu, name), (wanted,))


def _as_on_the_cpu(name: str) -> Row:
    net = convdsl.load(name)
    (image,) = images(net.graph, 2)
    found, expected = (net.compile(target, batch=2)(image) for target in ("cuda", "cpu"))
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    if error < EXACT_TO["fp32"]:
        return {"error": error}
    first = first_wrong(found, expected, EXACT_TO["fp32"])
    return {"error": error, "wrong": f"it is off by {error:.1e}", **first}


def _trained_as_on_the_cpu(name: str) -> Row:
    net = convdsl.load(name)
    (image,) = images(net.graph, 8)
    target = np.arange(8)
    losses = []
    for where in ("cuda", "cpu"):
        options = {"train": True, "optimizer": convdsl.SGD(momentum=0.9)}
        step = net.compile(where, batch=8, **options)
        losses.append([step.step(image, target, lr=0.01) for _ in range(4)])
    error = float(np.max(np.abs(np.subtract(*losses)) / np.abs(losses[1])))
    row: Row = {"error": error, "losses": losses}
    return row if error < TRAINED_TO else {**row, "wrong": f"it is off by {error:.1e}"}


def arrays() -> Iterator[Check]:
    """Batches on their way while others are in use, and arrays of torch in and out."""
    wanted = Wanted(network("resnet20"), 16)
    ways: dict[str, Callable[[Any, list[tuple[Array]]], list[Array]]] = {
        "batches ahead": lambda ours, batches: list(ours.map(batches)),
        "batches ahead, waited for": lambda ours, batches: [
            ours(*batch) for batch in ours.prefetch(batches)
        ],
        "tensors of torch, contiguous_format": partial(_by_torch, "contiguous_format"),
        "tensors of torch, channels_last": partial(_by_torch, "channels_last"),
    }
    for name, way in ways.items():
        if "torch" not in name or torches.installed():
            yield Check(name, partial(_same, wanted, way), (wanted,))


def _same(wanted: Wanted, way: Callable[[Any, list[tuple[Array]]], Sequence[Array]]) -> Row:
    """Whether a way to hand over batches gives what plain calls do, to the bit."""
    ours = wanted.program()
    (image,) = images(wanted.graph, wanted.batch)
    batches = [(image * np.float32(1 + n),) for n in range(12)]
    expected = [ours(*batch) for batch in batches]
    found = way(ours, batches)
    errors = [float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True)]
    row: Row = {"error": max(errors)}
    return row if row["error"] == 0 else {**row, "wrong": "other results", "errors": errors}


def _by_torch(form: str, ours: Any, batches: list[tuple[Array]]) -> list[Array]:
    torch = torches.needed()
    found = []
    for (batch,) in batches:
        tensor = torch.from_numpy(batch).cuda().to(memory_format=getattr(torch, form))
        tensor = tensor * 2 / 2  # work that the tensor's own stream has not done yet
        y = torch.from_dlpack(ours.on_device(tensor))
        found.append((y * 2 / 2).cpu().numpy())
    return found
