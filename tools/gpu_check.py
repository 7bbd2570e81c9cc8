#!/usr/bin/env python3
"""Checks the CUDA target on a machine with a GPU, then measures it beside torch on the same GPU.

    tools/gpu_check.py --out found                 # all sections; again: those that are missing
    tools/gpu_check.py --out found --only layers --afresh

Run it with any Python that has numba, numba-cuda, cuda-bindings and lark, and torch for the
measurements; it needs no installation of convdsl. Results are kept in `found/SECTION.json` as soon
as a section is done, and a table of all of them is printed in the end. No section starts after
`--seconds`, so that one that a time limit cuts off is run by the next call. The exit status is 1
where something is wrong or a section is missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
# The repository's own package, wherever else one is installed; what the tests share; peers.py.
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]

import peers  # noqa: E402 (found by the line above)
from helpers import positive_buffers, random_arrays, sample_network  # noqa: E402
from random_networks import Writer  # noqa: E402

import convdsl  # noqa: E402
from convdsl.compiler import laid_out, lower  # noqa: E402
from convdsl.graph import Graph  # noqa: E402
from convdsl.kernels.cuda.target import CudaTarget  # noqa: E402
from convdsl.ops import registry  # noqa: E402
from convdsl.passes import Optimizer  # noqa: E402
from convdsl.plan import Plan, plan  # noqa: E402
from convdsl.runtime import cuda_compilation  # noqa: E402
from convdsl.runtime.cuda import CudaMachine, open_device  # noqa: E402
from convdsl.runtime.interpreter import evaluate  # noqa: E402
from convdsl.runtime.program import Program  # noqa: E402
from convdsl.views.table import Column, markdown_table  # noqa: E402

Array = np.ndarray

SECONDS = 500.0
"""After which no section starts; the longest takes less than a minute and a half."""
RANDOM_NETWORKS = 60
EXACT_TO = 2e-3
"""Largest error of a result by norm, over its own: float32 through up to twelve layers."""
TRAINED_TO = 1e-3
"""Largest relative difference between losses of the first steps on two processors."""
NETWORKS = ("lenet", "alexnet_torchvision", "vgg16", "resnet18", "resnet50")
PRECISIONS = ("fp32", "tf32", "bf16")
AGREES_TO = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 1e-1}
"""Largest difference from torch in float32 over the largest result."""
BARS = {
    ("layers", "fp32"): 0.9,
    ("layers", "tf32"): 0.7,
    ("layers", "bf16"): 0.6,
    ("inference", "fp32", 32): 0.9,
    ("inference", "fp32", 1): 1.2,
}
"""What is aimed for: torch's time over ours, as a geometric mean."""
TRAINED = (("lenet", 64), ("alexnet_torchvision", 32), ("resnet50", 32))
"""Networks and batches whose steps are timed."""
TRAINED_IN = ("fp32", "tf32")
RATE = 1e-4
"""The learning rate of timed steps, on the same batch over and over."""
ROUNDS = 5
MEASURED = 0.02
"""Seconds that a round of a competitor takes at least."""


@dataclass
class Report:
    """What a section found: lines of a table, and what is wrong."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def expect(self, holds: bool, text: str) -> None:
        if not holds:
            self.wrong.append(text)


# -- programs --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """A graph to run, with everything that decides its plan."""

    graph: Graph
    batch: int
    loss: str | None = None
    precision: str = "fp32"
    optimizer: Optimizer | None = None

    @property
    def lowered(self) -> Graph:
        return lower(self.graph, self.loss, self.optimizer)

    def plan(self) -> Plan:
        target = CudaTarget(self.precision)
        return plan(laid_out(self.lowered, target), self.batch, target)

    def program(self) -> Program:
        """The program on the GPU."""
        made = Program(self.lowered, self.plan())
        made.attach(CudaMachine(made.plan, made.variables))
        return made


def compile_together(wanted: Iterable[Wanted]) -> int:
    """Compile the kernels of many programs on all cores; how many there are."""
    kernels = {k.key: k for each in wanted for k in each.plan().kernels}
    cuda_compilation.load(list(kernels.values()), open_device().arch)
    return len(kernels)


def outputs(program: Program, arrays: dict[str, Array]) -> dict[str, Array]:
    """All outputs for arrays by the names of variables."""

    def single(array: Array) -> Array:
        return np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else np.int64)

    for name, array in program.variables.items():
        if name in arrays:
            array[...] = single(arrays[name])
    machine = program.machine
    machine.prepare()
    ports = program.plan.variables
    given = {p.name: single(arrays[p.name]) for p in ports if p.role in ("input", "target")}
    machine.run(given, 0, program.plan.forward)
    return {p.name: machine.view(p.buffer, p.shape) for p in program.plan.outputs}


def compare(report: Report, wanted: Wanted, seed: int, name: str) -> None:
    """All outputs against the interpreter in float64, by norm."""
    lowered = wanted.lowered
    arrays = positive_buffers(lowered, random_arrays(lowered, wanted.batch, seed, np.float64))
    for variable in lowered.parameters:
        # Realistic scales, so that activations stay in range.
        fan = max(1, variable.type.size // variable.type.shape[0])
        arrays[variable.name] /= np.sqrt(fan)
    expected = evaluate(lowered, arrays)
    actual = outputs(wanted.program(), arrays)
    largest = max(np.linalg.norm(expected[n]) for n in actual)
    worst = 0.0
    for n, value in actual.items():
        # A gradient that is zero in exact arithmetic is rounding, whose size the largest tells.
        scale = max(np.linalg.norm(expected[n]), 0.1 * largest) or 1.0
        error = float(np.linalg.norm(value - expected[n]) / scale)
        worst = max(worst, error if np.isfinite(error) else np.inf)
    report.rows.append({"name": name, "error": worst})
    report.expect(worst < EXACT_TO, f"{name} is off by {worst:.1e}")


def attempt(report: Report, name: str, check: Callable[[], None]) -> None:
    """One of many checks, whose failure leaves the others to be made."""
    try:
        check()
    except Exception as reason:
        report.wrong.append(f"{name}: {type(reason).__name__}: {str(reason).splitlines()[0]}")


# -- sections: is it right? ------------------------------------------------------------------


def device(report: Report) -> None:
    """Which GPU and which versions."""
    found = {"arch": open_device().arch}
    for name in ("numba", "numba-cuda", "cuda-bindings", "torch"):
        try:
            found[name] = peers.version(name)
        except PackageNotFoundError:
            found[name] = "none"
    if torch := _torch():
        found["name"] = torch.cuda.get_device_name(0)
    report.rows.append(found)


def operations(report: Report) -> None:
    """Every sample of every op, forward and backward, against the interpreter."""
    samples = [s for op in registry().values() for s in op.samples]
    checks = []
    for sample in samples:
        graph = sample_network(sample).graph
        checks.append((sample.text, Wanted(graph, 3)))
        text = f"net T {{\n  input {sample.input}\n  {sample.text}\n  flatten\n}}\n"
        trained = convdsl.load_source(text).graph
        checks.append((f"{sample.text}, backward", Wanted(trained, 5, "cross_entropy")))
    compile_together(w for _, w in checks)
    for seed, (name, wanted) in enumerate(checks):
        attempt(report, name, lambda w=wanted, s=seed, n=name: compare(report, w, s, n))


def random(report: Report) -> None:
    """Random networks, forward and backward, against the interpreter."""
    checks = []
    for seed in range(RANDOM_NETWORKS):
        writer = Writer(seed)
        graph = convdsl.load_source(writer.text()).graph
        checks.append((f"random network {seed}", Wanted(graph, writer.batch, "cross_entropy")))
    compile_together(w for _, w in checks)
    for seed, (name, wanted) in enumerate(checks):
        attempt(report, name, lambda w=wanted, s=seed, n=name: compare(report, w, s, n))


def networks(report: Report) -> None:
    """Whole networks against the CPU target, and the losses of training steps."""
    for name in ("lenet", "resnet18"):
        net = convdsl.load(name)
        compile_together([Wanted(net.graph, 2)])
        (image,) = _images(net.graph, 2)
        found, expected = (net.compile(target, batch=2)(image) for target in ("cuda", "cpu"))
        error = float(np.abs(found - expected).max() / np.abs(expected).max())
        report.rows.append({"name": name, "error": error})
        report.expect(error < EXACT_TO, f"{name} is off by {error:.1e}")
    for name in ("lenet", "resnet20"):
        net = convdsl.load(name)
        (image,) = _images(net.graph, 8)
        target = np.arange(8)
        losses = []
        for where in ("cuda", "cpu"):
            options = {"train": True, "optimizer": convdsl.SGD(momentum=0.9)}
            step = net.compile(where, batch=8, **options)
            losses.append([step.step(image, target, lr=0.01) for _ in range(4)])
        error = float(np.max(np.abs(np.subtract(*losses)) / np.abs(losses[1])))
        report.rows.append({"name": f"{name}, four steps", "error": error})
        report.expect(error < TRAINED_TO, f"training {name} is off by {error:.1e}")


def arrays(report: Report) -> None:
    """Batches on their way while others are in use, and arrays of torch in and out."""
    graph = convdsl.load("resnet20").graph
    wanted = Wanted(graph, 16)
    compile_together([wanted])
    ours = wanted.program()
    (image,) = _images(graph, 16)
    batches = [(image * np.float32(1 + n),) for n in range(12)]
    expected = [ours(*batch) for batch in batches]

    def compare(name: str, found: Sequence[Array]) -> None:
        error = max(float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True))
        report.rows.append({"name": name, "error": error})
        report.expect(error == 0, f"{name} is off by {error:.1e}")

    compare("batches ahead", list(ours.map(batches)))
    compare("batches ahead, waited for", [ours(*batch) for batch in ours.prefetch(batches)])
    if not (torch := _torch()):
        return
    for form in ("contiguous_format", "channels_last"):
        found = []
        for (batch,) in batches:
            tensor = torch.from_numpy(batch).cuda().to(memory_format=getattr(torch, form))
            tensor = tensor * 2 / 2  # work that the tensor's own stream has not done yet
            y = torch.from_dlpack(ours.on_device(tensor))
            found.append((y * 2 / 2).cpu().numpy())
        compare(f"tensors of torch, {form}", found)


# -- sections: how fast is it? ---------------------------------------------------------------


def layers(report: Report) -> None:
    """The distinct convolutions of ResNet-50 at batch 32, in every precision."""
    torch = _needed()
    found = [layer for layer in peers.layers_of("resnet50") if layer.wide]
    graphs = [convdsl.load_source(layer.program).graph for layer in found]
    compile_together(Wanted(g, 32, None, p) for g in graphs for p in PRECISIONS)
    for layer, graph in zip(found, graphs, strict=True):
        (image,) = _images(graph, 32)
        for precision in PRECISIONS:
            ours = Wanted(graph, 32, None, precision).program()
            weight = ours.parameters["C1.weight"]
            ours(image)
            calls = _torch_calls(
                torch,
                precision,
                lambda x, w, layer=layer: torch.conv2d(
                    x, w, None, layer.stride, [p for p, _ in layer.pad], 1, layer.groups
                ),
                [image, weight],
            )
            row = _measured(str(layer), 32, precision, _seconds(ours), calls)
            row["how"] = peers.how(ours)
            report.rows.append(row)


def inference(report: Report) -> None:
    """Whole networks at batches 1 and 32."""
    torch = _needed()
    graphs = {name: convdsl.load(name).graph for name in NETWORKS}
    cases = [(n, b, p) for n in NETWORKS for p in PRECISIONS for b in (1, 32)]
    compile_together(Wanted(graphs[n], b, None, p) for n, b, p in cases)
    for name, batch, precision in cases:
        graph = graphs[name]
        (image,) = _images(graph, batch)
        ours = Wanted(graph, batch, None, precision).program()
        found = ours(image)
        arrays = {**ours.parameters, **ours.buffers}
        module = peers.torch_module(graph, arrays, training=False).requires_grad_(False).cuda()
        calls = _torch_calls(torch, precision, module, [image], module)
        row = _measured(name, batch, precision, _seconds(ours), calls)
        with torch.no_grad(), _exact(torch):
            expected = module.float()(torch.from_numpy(image).cuda()).cpu().numpy()
        row["difference"] = float(np.abs(found - expected).max() / np.abs(expected).max())
        report.rows.append(row)
        text = f"{name} at batch {batch} in {precision} is off by {row['difference']:.1e}"
        report.expect(row["difference"] < AGREES_TO[precision], text)


def training(report: Report) -> None:
    """Steps of training: forward, loss, backward and SGD with momentum."""
    torch = _needed()
    optimizer = convdsl.SGD(momentum=0.9)
    graphs = {name: convdsl.load(name).graph for name, _ in TRAINED}
    cases = [
        Wanted(graphs[name], batch, "cross_entropy", precision, optimizer)
        for name, batch in TRAINED
        for precision in TRAINED_IN
    ]
    compile_together(cases)
    for wanted in cases:
        graph, batch, precision = wanted.graph, wanted.batch, wanted.precision
        ours = wanted.program()
        (image,) = _images(graph, batch)
        target = np.arange(batch) % graph.outputs[0][1].type.channels
        arrays = {n: a.copy() for n, a in {**ours.parameters, **ours.buffers}.items()}
        loss = ours.step(image, target, lr=RATE)
        row = {"name": graph.name, "loss": loss}
        with _exact(torch), torch.no_grad():
            module = peers.torch_module(graph, arrays, training=True).cuda()
            given = [torch.from_numpy(a).cuda() for a in (image, target)]
            expected = float(torch.nn.functional.cross_entropy(module(given[0]), given[1]))
        if "random_key" not in ours.variables:  # what drops out is another choice than torch's
            row["difference"] = abs(loss - expected) / abs(expected)
            text = f"the loss of {graph.name} in {precision} is off by {row['difference']:.1e}"
            report.expect(row["difference"] < AGREES_TO[precision], text)
        calls = _torch_steps(torch, precision, graph, arrays, image, target)
        measured = _measured(graph.name, batch, precision, _seconds(ours, training=True), calls)
        report.rows.append(row | measured)


def _torch_steps(
    torch: Any, precision: str, graph: Graph, arrays: dict[str, Array], image: Array, target: Array
) -> dict[str, Callable[[], None]]:
    """Torch's captured steps, in both formats of memory."""
    _choose_precision(torch, precision)
    calls = {}
    for name, form in peers.FORMATS.items():
        order = getattr(torch, form)
        module = peers.torch_module(graph, arrays, training=True).cuda().to(memory_format=order)
        optimizer = torch.optim.SGD(module.parameters(), RATE, momentum=0.9, fused=True)

        def step(x: Any, y: Any, module: Any = module, optimizer: Any = optimizer) -> Any:
            with torch.enable_grad():
                optimizer.zero_grad(set_to_none=True)
                loss = torch.nn.functional.cross_entropy(module(x), y)
                loss.backward()
                optimizer.step()
            return loss.detach()

        x = torch.from_numpy(image.copy()).cuda().to(memory_format=order)
        given = [x, torch.from_numpy(target.copy()).cuda()]
        try:
            calls[name] = _captured(torch, step, given)
        except RuntimeError as reason:
            print(f"{graph.name}, {name}: not captured, {reason}", file=sys.stderr)
            calls[f"{name}, not captured"] = partial(step, *given)
    return calls


def _seconds(ours: Program, training: bool = False) -> Callable[[int], float]:
    """The seconds of a call of our program on the GPU, from so many."""
    machine = ours.machine
    assert isinstance(machine, CudaMachine)
    return partial(machine.seconds, training=training)


def _measured(
    name: str,
    batch: int,
    precision: str,
    ours: Callable[[int], float],
    calls: dict[str, Callable[[], None]],
) -> dict[str, Any]:
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
    return {
        "name": name,
        "batch": batch,
        "precision": precision,
        "seconds": medians,
        "ratio": best / medians["convdsl"],
    }


def _torch_calls(
    torch: Any, precision: str, function: Any, arrays: Sequence[Array], module: Any = None
) -> dict[str, Callable[[], None]]:
    """Torch's captured graphs of a function, in both formats of memory."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    _choose_precision(torch, precision)
    calls = {}
    for name, form in peers.FORMATS.items():
        order = getattr(torch, form)
        given = [torch.from_numpy(a.copy()).cuda().to(kind) for a in arrays]
        given = [g.to(memory_format=order) if g.ndim == 4 else g for g in given]
        if module is not None:
            import copy

            function = copy.deepcopy(module).to(kind).to(memory_format=order)
        calls[name] = _captured(torch, function, given)
    return calls


def _choose_precision(torch: Any, precision: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True


def _captured(torch: Any, function: Any, given: Sequence[Any]) -> Callable[[], None]:
    """A replay of the function's launches, as torch's documentation captures them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        with torch.cuda.stream(stream):
            for _ in range(3):
                function(*given)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            kept = function(*given)

    def replay(held: Any = (kept, given, function)) -> None:
        graph.replay()

    return replay


class _exact:
    """Torch without tf32, for what results are compared with."""

    def __init__(self, torch: Any) -> None:
        self.backends = (torch.backends.cuda.matmul, torch.backends.cudnn)

    def __enter__(self) -> None:
        self.before = [b.allow_tf32 for b in self.backends]
        for backend in self.backends:
            backend.allow_tf32 = False

    def __exit__(self, *reason: object) -> None:
        for backend, before in zip(self.backends, self.before, strict=True):
            backend.allow_tf32 = before


def _images(graph: Graph, batch: int) -> list[Array]:
    source = np.random.default_rng(0)
    return [
        source.standard_normal(v.type.with_batch(batch)).astype(np.float32) for v in graph.inputs
    ]


def _torch() -> Any:
    if not peers.installed("torch"):
        return None
    import torch

    return torch if torch.cuda.is_available() else None


def _needed() -> Any:
    torch = _torch()
    if torch is None:
        raise RuntimeError("there is no torch here that sees the GPU")
    return torch


# -- the run ---------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[Report], None]] = {
    "device": device,
    "operations": operations,
    "random": random,
    "networks": networks,
    "arrays": arrays,
    "layers": layers,
    "inference": inference,
    "training": training,
}


def run(name: str, folder: Path) -> dict[str, Any]:
    """One section, written as soon as it is done."""
    report = Report()
    start = time.perf_counter()
    try:
        SECTIONS[name](report)
    except Exception as reason:
        traceback.print_exc()
        report.wrong.append(f"{type(reason).__name__}: {reason}")
    found = {
        "section": name,
        "seconds": time.perf_counter() - start,
        "rows": report.rows,
        "wrong": report.wrong,
    }
    text = json.dumps(found, indent=1, default=str)
    partial = folder / f"{name}.json.part"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / f"{name}.json")
    print(f"{name}: {len(report.rows)} rows, {len(report.wrong)} wrong, {found['seconds']:.0f} s")
    sys.stdout.flush()
    return found


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """Everything that was found, for people."""
    lines = []
    for section in found:
        rows = section["rows"]
        lines += [f"## {section['section']} ({section['seconds']:.0f} s)", ""]
        if section["section"] == "device" and rows:
            lines += [", ".join(f"{k} {v}" for k, v in rows[0].items()), ""]
        elif rows and "error" in rows[0]:
            worst = max(rows, key=lambda row: row["error"])
            lines += [f"{len(rows)} checks, worst {worst['error']:.1e} ({worst['name']})", ""]
        elif rows:
            lines += [*_speeds(section["section"], rows), ""]
        lines += [f"- wrong: {text}" for text in section["wrong"]]
        lines += [""] * bool(section["wrong"])
    return "\n".join(lines)


def _speeds(section: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    columns = [Column("name"), *(Column(n, right=True) for n in ("batch", "precision"))]
    columns += [Column(n, right=True) for n in ("convdsl, µs", "torch, µs", "ratio")]
    cells = []
    for row in rows:
        times = row["seconds"]
        torch = min(t for name, t in times.items() if name != "convdsl")
        times = [f"{1e6 * t:.1f}" for t in (times["convdsl"], torch)]
        shown = (row["name"], str(row["batch"]), row["precision"], *times, f"{row['ratio']:.2f}")
        cells.append(shown)
    lines = [markdown_table(columns, cells), ""]
    for precision, batch in dict.fromkeys((r["precision"], r["batch"]) for r in rows):
        ratios = [r["ratio"] for r in rows if (r["precision"], r["batch"]) == (precision, batch)]
        bar = BARS.get((section, precision)) or BARS.get((section, precision, batch))
        wanted = f", aimed for: {bar}" if bar else ""
        mean = peers.geometric(ratios)
        lines.append(f"- {precision} at batch {batch}: geometric mean {mean:.2f}{wanted}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder of results")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, help="these sections alone")
    parser.add_argument("--afresh", action="store_true", help="run what has been run, too")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="when no section starts")
    args = parser.parse_args(arguments)
    try:
        open_device()
    except convdsl.CompileError as reason:
        print(reason, file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    found = []
    missing = []
    for name in args.only or SECTIONS:
        kept = args.out / f"{name}.json"
        if kept.exists() and not args.afresh:
            found.append(json.loads(kept.read_text(encoding="utf-8")))
        elif time.perf_counter() - start > args.seconds:
            missing.append(name)
        else:
            found.append(run(name, args.out))
    text = markdown(found)
    (args.out / "report.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    if missing:
        print(f"not run for want of time: {', '.join(missing)}; run it again", file=sys.stderr)
    return int(bool(missing) or any(section["wrong"] for section in found))


if __name__ == "__main__":
    sys.exit(main())
