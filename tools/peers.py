#!/usr/bin/env python3
"""Compares convdsl with torch, onnxruntime and openvino: whole networks, or single convolutions.

    tools/peers.py                                  # inference, six networks, batches 1 and 8
    tools/peers.py --networks resnet50 --batches 1 --compile
    tools/peers.py --train                          # forward, loss, backward, SGD with momentum
    tools/peers.py --layers                         # every convolution of ResNet-50 and VGG-16

Run it with the environment's Python (`.venv/bin/python`). A peer that is not installed is said and
left out. All competitors have the same weights and the same number of threads, and their results
are compared before anything is timed. Then they take turns for several rounds, so that whatever
else the machine does falls on all of them; what the processor can do at most is measured in every
round, too.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
# The repository's own package, wherever else one is installed; the tests' translation to ONNX.
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import convdsl  # noqa: E402 (found by the line above)
from convdsl.runtime import benchmark  # noqa: E402
from convdsl.views.benchmark import duration, size  # noqa: E402
from convdsl.views.table import Column, markdown_table  # noqa: E402

NETWORKS = ("lenet", "alexnet_torchvision", "vgg16", "resnet18", "resnet34", "resnet50")
LAYERS_OF = ("resnet50", "vgg16")
BATCHES = (1, 8)
TRAINING_BATCHES = {"lenet": 64, "alexnet_torchvision": 16, "vgg16": 8}
TRAINING_BATCH = 16
OURS = "convdsl"
TOLERANCE = 1e-3
"""The largest relative difference between results that count as the same."""
PAUSE = 0.05
"""Seconds between two competitors: the threads of OpenMP, which are torch's, wait for more work
with a core each for some 10 ms after the last."""
RATE = 0.01
"""Of the training steps that are compared; the others are at rate 0, which is the same work and
keeps the weights finite however many there are."""
QUIET = 0.5
"""The load average of the machine up to which times are taken at face value."""

Array = np.ndarray
Call = Callable[[], object]


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--child"]:  # a measurement that needs a process of its own
        print(json.dumps(CHILDREN[given[1]](*given[2:])))
        return 0
    args = parser().parse_args(given)
    load = os.getloadavg()[0]
    if load > QUIET:
        say(f"the machine is busy (load average {load:.1f}): times will be noisy")
    args.threads = args.threads or cores()
    # Before torch or Numba start any thread.
    os.environ.setdefault("NUMBA_NUM_THREADS", str(args.threads))
    found = {**report(args), "load_average": load}
    text = markdown(found)
    if args.markdown:
        args.markdown.write_text(text + "\n", encoding="utf-8")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\n" + text)
    return 0 if all(row["agrees"] for row in found["rows"]) else 1


def cores() -> int:
    """How many this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--networks", type=names, help="names with commas between them")
    made.add_argument("--batches", type=numbers, help="numbers with commas between them")
    made.add_argument("--threads", type=int, help="for everybody; all cores if not given")
    what = made.add_mutually_exclusive_group()
    what.add_argument("--train", action="store_true", help="the training step")
    what.add_argument("--layers", action="store_true", help="single convolutions, on one thread")
    made.add_argument(
        "--compile", action="store_true", help="torch.compile too, and compiling from cold"
    )
    made.add_argument("--rounds", type=int, default=7)
    made.add_argument(
        "--seconds", type=float, default=0.5, help="for each competitor in each round"
    )
    made.add_argument("--markdown", type=Path, metavar="FILE")
    made.add_argument("--json", type=Path, metavar="FILE")
    return made


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def numbers(text: str) -> list[int]:
    found = [int(number) for number in text.split(",")]
    if min(found) < 1:
        raise argparse.ArgumentTypeError("batches are at least 1")
    return found


def report(args: argparse.Namespace) -> dict[str, Any]:
    """Everything measured, with the machine and the date."""
    peers = [name for name in ("torch", "onnxruntime", "openvino") if installed(name)]
    if args.layers:
        args.threads = 1
        kind, rows = "layers", layer_rows(args)
    else:
        kind = "training" if args.train else "inference"
        rows = network_rows(args)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "kind": kind,
        "machine": benchmark.machine(),
        "threads": args.threads,
        "rounds": args.rounds,
        "versions": {name: version(name) for name in (OURS, "numba", *peers)},
        "rows": rows,
    }


def installed(name: str) -> bool:
    if importlib.util.find_spec(name):
        return True
    say(f"{name} is not installed and left out")
    return False


def version(name: str) -> str:
    from importlib import metadata

    return metadata.version(name)


def say(text: str) -> None:
    """Progress, apart from the results."""
    print(text, file=sys.stderr, flush=True)


# -- taking turns ----------------------------------------------------------------------------


@dataclass
class Competition:
    """Calls by competitor, and the seconds that they took."""

    calls: Mapping[str, Call]
    threads: int
    times: dict[str, list[float]] = field(default_factory=dict)
    peak: float = 0.0
    """Floating-point operations per second that the processor reached at most."""

    def run(self, rounds: int, seconds: float) -> None:
        """Rounds in which everybody runs in turn."""
        ceiling = benchmark.Ceiling(self.threads)
        try:
            for _ in range(rounds):
                ceiling.sample()
                for name, call in self.calls.items():
                    time.sleep(PAUSE)
                    self.times.setdefault(name, []).extend(block(call, seconds))
            self.peak = ceiling.flops
        finally:
            ceiling.close()

    def medians(self) -> dict[str, float]:
        return {name: float(np.median(times)) for name, times in self.times.items()}


def block(call: Call, seconds: float) -> list[float]:
    """The seconds of one call at least, after one that wakes threads and fills caches."""
    call()
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def difference(found: Array, expected: Array) -> float:
    """The largest difference over the largest expected value."""
    scale = float(np.abs(expected).max())
    return float(np.abs(np.asarray(found) - expected).max()) / (scale or 1.0)


# -- networks --------------------------------------------------------------------------------


def network_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for name in args.networks or NETWORKS:
        usual = (TRAINING_BATCHES.get(name, TRAINING_BATCH),) if args.train else BATCHES
        for batch in args.batches or usual:
            row = (training_row if args.train else inference_row)(name, batch, args)
            say(f"{name}, batch {batch}: " + ", ".join(told(row)))
            rows.append(row)
    return rows


def told(row: Mapping[str, Any]) -> Iterable[str]:
    for name, seconds in row["seconds"].items():
        yield f"{name} {duration(seconds)}"
    yield f"ratio {ratio_text(row['ratio'])}"
    for name, error in row["differences"].items():
        if error > TOLERANCE:
            yield f"{name} DIFFERS by {error:.1g}"


def arrays_of(graph: Any, program: Any, batch: int) -> dict[str, Array]:
    """What all share: a random image, seeded weights, statistics unlike a fresh network's."""
    random = np.random.default_rng(0)
    found = {name: np.array(array) for name, array in program.parameters.items()}
    for name, array in program.buffers.items():
        if name.endswith("variance"):
            found[name] = random.uniform(0.5, 1.5, array.shape).astype(np.float32)
        else:
            found[name] = random.standard_normal(array.shape, np.float32) / 10
    (image,) = graph.inputs
    found[image.name] = random.standard_normal((batch, *image.type.shape), np.float32)
    return found


def inference_row(name: str, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    graph = convdsl.load(name).graph
    program = convdsl.load(name).compile(batch=batch, threads=args.threads)
    arrays = arrays_of(graph, program, batch)
    image = arrays[graph.inputs[0].name]
    program.update(
        {n: a for n, a in arrays.items() if n in {*program.parameters, *program.buffers}}
    )
    calls: dict[str, Call] = {OURS: lambda: program(image)}
    calls |= torch_inference(graph, arrays, image, args)
    with tempfile.TemporaryDirectory() as folder:
        model = onnx_model(graph, arrays, Path(folder))
        if model:
            calls |= onnxruntime_inference(model, image, args.threads)
            calls |= openvino_inference(model, image, args.threads)
        expected = np.asarray(calls[OURS]())
        differences = {n: difference(np.asarray(c()), expected) for n, c in calls.items()}
        alone = processes(name, batch, args.threads, model)
    if args.compile:
        alone |= cold(name, batch, args.threads)
    row = compete(calls, benchmark.macs(graph, batch, train=False), args)
    return {"network": name, "batch": batch, **row, **agreement(differences), **alone}


def training_row(name: str, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    graph = convdsl.load(name).graph
    momentum = convdsl.SGD(momentum=0.9)
    step = convdsl.load(name).compile(
        batch=batch, train=True, optimizer=momentum, threads=args.threads
    )
    arrays = arrays_of(graph, step, batch)
    image, target = benchmark.sample(graph, batch, train=True)
    step.update({n: a for n, a in arrays.items() if n in {*step.parameters, *step.buffers}})
    steps: dict[str, Callable[[float], float]] = {
        OURS: lambda rate: step.step(image, target, lr=rate)
    }
    steps |= torch_training(graph, arrays, image, target, args)
    # With dropout the masks differ, so that nothing can be compared but the time.
    random = any(node.op.kind == "dropout" for node in graph.nodes)
    # The second loss, because it depends on all gradients of the first step.
    losses = {n: [np.float64(s(RATE)) for _ in range(2)][1] for n, s in steps.items()}
    calls = {n: partial(s, 0.0) for n, s in steps.items()}
    found = {n: difference(loss, losses[OURS]) for n, loss in losses.items()}
    row = compete(calls, benchmark.macs(graph, batch, train=True), args)
    return {"network": name, "batch": batch, **row, **agreement({} if random else found)}


def compete(calls: Mapping[str, Call], macs: int, args: argparse.Namespace) -> dict[str, Any]:
    competition = Competition(calls, args.threads)
    competition.run(args.rounds, args.seconds)
    seconds = competition.medians()
    return {
        "seconds": seconds,
        "ratio": ratio(seconds),
        "peak_fraction": 2 * macs / seconds[OURS] / competition.peak,
        "peak_flops_per_second": competition.peak,
    }


def agreement(differences: Mapping[str, float]) -> dict[str, Any]:
    others = {name: d for name, d in differences.items() if name != OURS}
    return {"differences": others, "agrees": all(d <= TOLERANCE for d in others.values())}


def ratio(seconds: Mapping[str, float]) -> float | None:
    """The best peer's time over ours."""
    peers = [s for name, s in seconds.items() if name != OURS]
    return min(peers) / seconds[OURS] if peers else None


# -- torch -----------------------------------------------------------------------------------


def torch_module(graph: Any, arrays: Mapping[str, Array], training: bool) -> Any:
    """A graph as a module whose forward function is plain calls of torch, as a person writes it."""
    import torch
    from torch import fx

    root, trace = torch.nn.Module(), fx.Graph()
    values = {graph.inputs[0]: trace.placeholder("x")}
    users = [value for node in graph.nodes for value in node.data]
    for node in graph.nodes:
        weights = []
        for weight in node.weights:
            name = weight.name.replace(".", "_")
            tensor = torch.from_numpy(arrays[weight.name].copy())
            if weight.role == "parameter":
                root.register_parameter(name, torch.nn.Parameter(tensor))
            else:
                root.register_buffer(name, tensor)
            weights.append(trace.get_attr(name))
        alone = users.count(node.data[0]) == 1 and node.data[0] not in graph.inputs
        given = [values[value] for value in node.data]
        types = [value.type for value in node.data]
        values[node.output] = torch_call(trace, node.op, given, types, weights, alone, training)
    trace.output(values[graph.outputs[0][1]])
    return fx.GraphModule(root, trace).train(training)


def torch_call(
    trace: Any,
    op: Any,
    given: Sequence[Any],
    types: Sequence[Any],
    weights: Sequence[Any],
    alone: bool,
    training: bool,
) -> Any:
    """One op; ``alone`` where nothing else needs its input, which may then be overwritten."""
    import torch
    import torch.nn.functional as F

    def call(function: Any, *values: Any, **keywords: Any) -> Any:
        return trace.call_function(function, values, keywords)

    x = given[0]
    rank = types[0].rank
    pad = tuple(before for before, _ in getattr(op, "pad", ()))
    if any(before != after for before, after in getattr(op, "pad", ())):
        x = call(F.pad, x, [p for pair in reversed(op.pad) for p in pair])
        pad = (0,) * rank
    flat = call(torch.flatten, x, 1) if rank else x
    match op.kind:
        case "conv" if op.connect is None and not op.flip:
            convolution = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
            bias = weights[1] if op.bias else None
            return call(convolution, x, weights[0], bias, op.stride, pad, op.dilation, op.groups)
        case "max":
            pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
            return call(pool, x, op.window, op.stride, pad, op.dilation, op.ceil)
        case "avg" if op.window == types[0].spatial and not any(pad):
            adaptive = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
            return call(adaptive[rank - 1], x, (1,) * rank)
        case "avg":
            pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
            return call(pool, x, op.window, op.stride, pad, op.ceil, op.count_pad)
        case "adaptive_avg":
            adaptive = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
            return call(adaptive[rank - 1], x, op.window)
        case "dense":
            return call(F.linear, flat, *weights)
        case "flatten":
            return flat
        case "bn":
            *affine, mean, variance = weights
            scale, shift = affine or (None, None)
            return call(
                F.batch_norm, x, mean, variance, scale, shift, training, op.momentum, op.eps
            )
        case "relu":
            return call(F.relu, x, inplace=alone)
        case "relu6":
            return call(F.relu6, x, inplace=alone)
        case "sigmoid" | "tanh":
            return call(getattr(torch, op.kind), x)
        case "dropout":
            return call(F.dropout, x, op.rate, True) if training else x
        case "lrn" if op.over == "channels":
            return call(F.local_response_norm, x, op.size, op.alpha, op.beta, op.k)
        case "concat":
            return call(torch.cat, list(given), 1)
        case "add" | "mul" if len({t.rank for t in types}) == 1:
            total = given[0]
            for other in given[1:]:
                total = call(getattr(torch, op.kind), total, other)
            return total
    raise SystemExit(f"`{op.kind}` is not translated to torch here")


FORMATS = {"torch": "contiguous_format", "torch channels_last": "channels_last"}


def torch_inference(
    graph: Any, arrays: Mapping[str, Array], image: Array, args: argparse.Namespace
) -> dict[str, Call]:
    if not importlib.util.find_spec("torch"):
        return {}
    import torch

    torch.set_num_threads(args.threads)
    module = torch_module(graph, arrays, training=False).requires_grad_(False)
    calls = {}
    for name, form in FORMATS.items():
        order = getattr(torch, form)
        x = torch.from_numpy(image).to(memory_format=order)
        calls[name] = no_gradients(copy.deepcopy(module).to(memory_format=order), x)
    if args.compile:
        compiled = no_gradients(frozen(module), torch.from_numpy(image))
        try:
            compiled()
        except Exception as reason:  # it needs a C++ compiler, and says so in its own ways
            say(f"torch.compile is left out: {str(reason).splitlines()[0]}")
        else:
            calls["torch.compile"] = compiled
    return calls


def no_gradients(module: Any, x: Any) -> Call:
    import torch

    def call() -> Any:
        with torch.no_grad():
            return module(x)

    return call


def frozen(module: Any) -> Any:
    """The module compiled for weights that do not change."""
    import torch
    import torch._inductor.config

    torch._inductor.config.freezing = True
    torch._dynamo.reset()
    return torch.compile(module)


def torch_training(
    graph: Any,
    arrays: Mapping[str, Array],
    image: Array,
    target: Array,
    args: argparse.Namespace,
) -> dict[str, Callable[[float], float]]:
    if not importlib.util.find_spec("torch"):
        return {}
    import torch

    torch.set_num_threads(args.threads)
    calls = {}
    for name, form in FORMATS.items():
        order = getattr(torch, form)
        module = torch_module(graph, arrays, training=True).to(memory_format=order)
        x = torch.from_numpy(image).to(memory_format=order)
        calls[name] = torch_step(module, x, torch.from_numpy(target))
    return calls


def torch_step(module: Any, x: Any, target: Any) -> Callable[[float], float]:
    import torch

    # Fused, which is the fastest that torch has.
    optimizer = torch.optim.SGD(module.parameters(), RATE, momentum=0.9, fused=True)

    def step(rate: float) -> float:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(x), target)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


# -- onnxruntime and openvino ----------------------------------------------------------------


def onnx_model(graph: Any, arrays: Mapping[str, Array], folder: Path) -> Path | None:
    """The network as a file in ONNX, as the tests translate it."""
    if not any(map(importlib.util.find_spec, ("onnxruntime", "openvino"))):
        return None
    if not importlib.util.find_spec("onnx"):
        say("onnx is not installed, so that onnxruntime and openvino are left out")
        return None
    from onnx_models import network_model

    model, _ = network_model(graph, arrays)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


SPINNING = {
    "session.force_spinning_stop": "1",
    "session.intra_op.allow_spinning": "0",
}
"""Left to itself, onnxruntime's threads keep a core each busy for more than 0.1 s after every run,
at the cost of whoever runs next. With the first of these they wait busily within a run alone, with
the second not even there. Which is faster depends on the network and on what else the machine
does, so the faster one competes."""


def onnxruntime_session(model: Path, threads: int, spinning: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    options.add_session_config_entry(spinning, SPINNING[spinning])
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def onnxruntime_inference(model: Path, image: Array, threads: int) -> dict[str, Call]:
    if not importlib.util.find_spec("onnxruntime"):
        return {}

    def call(spinning: str) -> Call:
        session = onnxruntime_session(model, threads, spinning)
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: image})[0]

    calls = [call(spinning) for spinning in SPINNING]
    times = [min(t for _ in range(3) for t in block(call, PAUSE)) for call in calls]
    return {"onnxruntime": calls[int(np.argmin(times))]}


def openvino_inference(model: Path, image: Array, threads: int) -> dict[str, Call]:
    if not importlib.util.find_spec("openvino"):
        return {}
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(str(model), "CPU", settings)
    request = compiled.create_infer_request()
    return {"openvino": lambda: request.infer({0: image}, share_inputs=True, share_outputs=True)[0]}


# -- processes of their own ------------------------------------------------------------------


def processes(name: str, batch: int, threads: int, model: Path | None) -> dict[str, Any]:
    """Peak memory, and from the start of a process to its first result, with a warm cache."""
    ours = child("ours", name, batch, threads)
    found = {"resident_bytes": {OURS: ours["resident_bytes"]}, "start_seconds": ours["start"]}
    if model and importlib.util.find_spec("onnxruntime"):
        theirs = child("onnxruntime", model, batch, threads)
        found["resident_bytes"]["onnxruntime"] = theirs["resident_bytes"]
    return found


def cold(name: str, batch: int, threads: int) -> dict[str, Any]:
    """Seconds to the first result of a network that was never compiled before, by competitor."""
    found = {}
    who = {OURS: ("ours", "CONVDSL_CACHE_DIR")}
    if importlib.util.find_spec("torch"):
        who["torch.compile"] = ("torch_compile", "TORCHINDUCTOR_CACHE_DIR")
    for label, (task, variable) in who.items():
        with tempfile.TemporaryDirectory() as empty:
            try:
                found[label] = child(task, name, batch, threads, **{variable: empty})["compile"]
            except subprocess.CalledProcessError:
                say(f"{label} cannot be compiled from cold here")
    return {"cold_seconds": found}


def child(task: str, *arguments: object, **environment: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", task, *map(str, arguments)]
    start = time.time()
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "start": found["first"] - start}


def ours_alone(name: str, batch: str, threads: str) -> dict[str, Any]:
    network = convdsl.load(name)
    (image,) = network.graph.inputs
    x = np.zeros((int(batch), *image.type.shape), np.float32)
    start = time.time()
    program = network.compile(batch=int(batch), threads=int(threads))
    program(x)
    return alone(start, lambda: program(x))


def onnxruntime_alone(model: str, batch: str, threads: str) -> dict[str, Any]:
    start = time.time()
    session = onnxruntime_session(Path(model), int(threads), next(iter(SPINNING)))
    (image,) = session.get_inputs()
    x = {image.name: np.zeros(image.shape, np.float32)}
    session.run(None, x)
    return alone(start, lambda: session.run(None, x))


def torch_compile_alone(name: str, batch: str, threads: str) -> dict[str, Any]:
    import torch

    torch.set_num_threads(int(threads))
    network = convdsl.load(name)
    program_arrays = {
        v.name: np.ones(v.type.shape, np.float32) / 100
        for v in network.graph.variables
        if v.role != "input"
    }
    module = torch_module(network.graph, program_arrays, training=False).requires_grad_(False)
    x = torch.zeros(int(batch), *network.graph.inputs[0].type.shape)
    call = no_gradients(frozen(module), x)
    start = time.time()
    call()
    return alone(start, call)


def alone(start: float, call: Call) -> dict[str, Any]:
    """When the first result was there, and the peak of memory after some more."""
    first = time.time()
    for _ in range(3):
        call()
    return {
        "compile": first - start,
        "first": first,
        "resident_bytes": benchmark.resident_peak(),
    }


CHILDREN = {
    "ours": ours_alone,
    "onnxruntime": onnxruntime_alone,
    "torch_compile": torch_compile_alone,
}


# -- single convolutions ---------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A convolution as it stands in a network."""

    input: tuple[int, ...]
    filters: int
    window: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[tuple[int, int], ...]
    groups: int

    def __str__(self) -> str:
        channels, *spatial = self.input
        by = "x".join(map(str, spatial))
        stride = f" /{self.stride[0]}" if self.stride[0] > 1 else ""
        groups = f" groups={self.groups}" if self.groups > 1 else ""
        return (
            f"{channels}@{by} -> {self.filters}@{'x'.join(map(str, self.window))}{stride}{groups}"
        )

    @property
    def program(self) -> str:
        channels, *spatial = self.input
        window, by = ("x".join(map(str, sizes)) for sizes in (self.window, spatial))
        return (
            f"cnn 1\nnet Layer {{\n  input {channels}@{by}\n"
            f"  C1: conv {self.filters}@{window} /{self.stride[0]} pad={self.pad[0][0]} "
            f"groups={self.groups} bias=off\n}}\n"
        )

    @property
    def wide(self) -> bool:
        """Whether it counts in the means: the first layers of networks are of another kind."""
        return min(self.input[0], self.filters) >= 64


def layers_of(name: str) -> list[Layer]:
    """The distinct convolutions of a network, in order; those of square windows and no dilation."""
    found = []
    for node in convdsl.load(name).graph.nodes:
        op = node.op
        if node.op.kind == "conv" and len({*op.stride, *op.dilation}) <= 2:
            shape = node.data[0].type.shape
            found.append(Layer(shape, op.filters, op.window, op.stride, op.pad, op.groups))
    return list(dict.fromkeys(found))


def layer_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    by_layer: dict[Layer, list[str]] = {}
    for name in args.networks or LAYERS_OF:
        for layer in layers_of(name):
            by_layer.setdefault(layer, []).append(name)
    rows = []
    for layer, networks in by_layer.items():
        row = {"layer": str(layer), "networks": networks, **layer_row(layer, args)}
        say(f"{layer}: " + ", ".join(told(row)))
        rows.append(row)
    return rows


def layer_row(layer: Layer, args: argparse.Namespace) -> dict[str, Any]:
    network = convdsl.load_source(layer.program)
    program = network.compile(batch=1, threads=1)
    arrays = arrays_of(network.graph, program, 1)
    image, weight = arrays[network.graph.inputs[0].name], arrays["C1.weight"]
    calls: dict[str, Call] = {OURS: lambda: program(image)}
    calls |= torch_convolution(layer, image, weight)
    expected = np.asarray(calls[OURS]())
    differences = {n: difference(np.asarray(c()), expected) for n, c in calls.items()}
    own: list[float] = []
    # The edges of a network of one layer are most of it: its own steps are timed apart from what
    # lays out the image and the result. A whole program has no edges between its layers.
    calls["own steps"] = lambda: own.append(own_seconds(program, image))
    macs = benchmark.macs(network.graph, 1, train=False)
    competition = Competition(calls, 1)
    competition.run(args.rounds, args.seconds)
    seconds = {**competition.medians(), "own steps": float(np.median(own))}
    peers = [s for name, s in seconds.items() if name.startswith("torch")]
    best = min(peers, default=None)
    return {
        "window": "x".join(map(str, layer.window)),
        "wide": layer.wide,
        "how": how(program),
        "seconds": seconds,
        "ratio": best and best / seconds["own steps"],
        "ratio_with_edges": best and best / seconds[OURS],
        "peak_fraction": 2 * macs / seconds["own steps"] / competition.peak,
        "peak_flops_per_second": competition.peak,
        **agreement(differences),
    }


def torch_convolution(layer: Layer, image: Array, weight: Array) -> dict[str, Call]:
    if not importlib.util.find_spec("torch"):
        return {}
    import torch

    torch.set_num_threads(1)
    pad = [before for before, _ in layer.pad]
    calls = {}
    for name, form in FORMATS.items():
        order = getattr(torch, form)
        x, w = (torch.from_numpy(a).to(memory_format=order) for a in (image, weight))

        def module(x: Any, w: Any = w) -> Any:
            return torch.conv2d(x, w, None, layer.stride, pad, 1, layer.groups)

        calls[name] = no_gradients(module, x)
    return calls


def own_seconds(program: Any, image: Array) -> float:
    """What the convolution's own steps take: those with arithmetic."""
    times = program.profile(image, repeats=1)
    return sum(t for (_, _, t), own in zip(times, own_steps(program), strict=True) if own)


def own_steps(program: Any) -> list[bool]:
    steps = program.plan.steps
    most = max(step.flops for step in steps)
    # Every step of the recipe of a layer states the operations of the layer.
    return [step.flops == most for step in steps]


def how(program: Any) -> str:
    """The planner's reason, else the kernels."""
    own = [s for s, o in zip(program.plan.steps, own_steps(program), strict=True) if o]
    reasons = dict.fromkeys(step.reason for step in own if step.reason)
    return "; ".join(reasons) or " + ".join(dict.fromkeys(step.kernel.name for step in own))


def means(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, int, float, float, float]]:
    """For 3x3 and 1x1 windows: how many wide layers, and geometric means over them."""
    found = []
    for window in ("3x3", "1x1"):
        chosen = [r for r in rows if r["wide"] and r["window"] == window and r["ratio"]]
        if chosen:
            keys = ("ratio", "ratio_with_edges", "peak_fraction")
            found.append((window, len(chosen), *(geometric([r[k] for r in chosen]) for k in keys)))
    return found


def geometric(numbers: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, numbers)) / len(numbers))


# -- showing ---------------------------------------------------------------------------------


def markdown(found: Mapping[str, Any]) -> str:
    """The report, headed by machine and date."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in found["versions"].items())
    title = {
        "inference": "Inference",
        "training": "Training step (forward, cross entropy, backward, SGD with momentum)",
        "layers": "Single convolutions, batch 1",
    }[found["kind"]]
    threads = found["threads"]
    head = [
        f"# {title}",
        f"{found['date']}; {machine['processor']}, {machine['cores']} cores, vectors of "
        f"{machine['vector_lanes']} float32; {threads} thread{'s' * (threads > 1)}; {versions}; "
        f"medians over {found['rounds']} interleaved rounds; ratio: best peer's time over ours.",
    ]
    if found["load_average"] > QUIET:
        head.append(f"The load average before was {found['load_average']:.1f}: times are noisy.")
    shown = layer_table if found["kind"] == "layers" else network_table
    return "\n\n".join([*head, *shown(found["rows"])])


def network_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    competitors = list(dict.fromkeys(name for row in rows for name in row["seconds"]))
    headings = ["network", "batch", *competitors, "ratio", "of peak", "worst difference"]
    cells = [
        [
            row["network"],
            str(row["batch"]),
            *(shown_seconds(row["seconds"].get(name)) for name in competitors),
            ratio_text(row["ratio"]),
            f"{row['peak_fraction']:.0%}",
            f"{max(row['differences'].values()):.1g}" if row["differences"] else "–",
        ]
        for row in rows
    ]
    if any("resident_bytes" in row for row in rows):
        headings += ["memory", "onnxruntime's", "start to first result"]
        for row, line in zip(rows, cells, strict=True):
            memory = row["resident_bytes"]
            line += [size(memory[OURS])]
            line += [size(memory["onnxruntime"]) if "onnxruntime" in memory else "–"]
            line += [duration(row["start_seconds"])]
    if any("cold_seconds" in row for row in rows):
        headings += ["cold compile", "torch.compile's"]
        for row, line in zip(rows, cells, strict=True):
            line += [shown_seconds(row["cold_seconds"].get(n)) for n in (OURS, "torch.compile")]
    columns = [Column(heading, right=heading != "network") for heading in headings]
    return [markdown_table(columns, [tuple(line) for line in cells])]


def layer_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    headings = (
        "layer",
        "how",
        "own steps",
        "with edges",
        "torch",
        "torch channels_last",
        "ratio",
        "with edges",
        "of peak",
    )
    cells = [
        (
            row["layer"],
            row["how"],
            *(
                shown_seconds(row["seconds"].get(name))
                for name in ("own steps", OURS, "torch", "torch channels_last")
            ),
            ratio_text(row["ratio"]),
            ratio_text(row["ratio_with_edges"]),
            f"{row['peak_fraction']:.0%}",
        )
        for row in rows
    ]
    columns = [Column(h, right=h not in ("layer", "how")) for h in headings]
    parts = [markdown_table(columns, cells)]
    summary = [
        (window, str(count), f"{own:.2f}", f"{whole:.2f}", f"{peak:.0%}")
        for window, count, own, whole, peak in means(rows)
    ]
    if summary:
        headings = ("window", "layers", "ratio", "with edges", "of peak")
        parts += [
            "Geometric means over the layers with at least 64 channels in and out:",
            markdown_table([Column(h, right=True) for h in headings], summary),
        ]
    return parts


def shown_seconds(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)


def ratio_text(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"


if __name__ == "__main__":
    sys.exit(main())
