"""Measures a program: latency, throughput, memory, its error, and how far the processor goes.

Times are noisy where a machine does other things too, so what the processor can do at most is
measured between the calls of the program and not before or after them.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from convdsl.analysis import analyse
from convdsl.graph import Graph
from convdsl.runtime import inputs, interpreter, processor
from convdsl.runtime.cache import folder
from convdsl.runtime.program import Program

Array = np.ndarray

CHAINS = 12
"""Independent sums of multiply-adds: enough to hide their latency, few enough for the registers."""
PROBE_SECONDS = 0.002
"""How long a slice of the multiply-add measurement takes: so short that other processes spare some
of them."""
SLICES = 10
READ_BYTES = 256 * 2**20
"""What is read to measure the memory: more than the caches hold."""
BLOCK_SECONDS = 0.3
"""How long the program runs between two measurements of the processor."""
LEAST_CALLS = 10


# -- what the processor can do ---------------------------------------------------------------


class Ceiling:
    """The float32 multiply-adds and the memory reads that so many threads reach at most.

    Every `sample` measures both once; the rates are the medians of the samples.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads)
        # Ones, because pages of zeros that nobody wrote are all the same page.
        self._memory = np.array_split(np.ones(READ_BYTES // 8, np.int64), threads)
        self._flops: list[float] = []
        self._reads: list[float] = []
        self._rounds = 100_000
        self._rounds = max(1000, int(self._rounds * PROBE_SECONDS / self._fastest(0)))

    def sample(self) -> None:
        """Measure once more."""
        operations = 2 * processor.lanes() * CHAINS * self._rounds
        slices = self._pool.map(self._fastest, range(self.threads))
        self._flops.append(sum(operations / seconds for seconds in slices))
        start = time.perf_counter()
        list(self._pool.map(_reader(), self._memory))
        self._reads.append(READ_BYTES / (time.perf_counter() - start))

    @property
    def flops(self) -> float:
        """Floating-point operations per second, two for a multiply-add."""
        return float(np.median(self._flops))

    @property
    def read_bytes(self) -> float:
        """Bytes read from memory per second."""
        return float(np.median(self._reads))

    def close(self) -> None:
        """Let go of the threads and the memory."""
        self._pool.shutdown()
        self._memory = []

    def _fastest(self, thread: int) -> float:
        """The seconds of the fastest of some slices, on one thread."""
        spin, factors = _spinner(processor.lanes()), (np.float32(1), np.float32(1e-8))
        times = []
        for _ in range(SLICES):
            start = time.perf_counter()
            spin(self._rounds, *factors)
            times.append(time.perf_counter() - start)
        return min(times)


@cache
def _spinner(lanes: int) -> Any:
    """A compiled function (rounds, x, y): that many multiply-adds of vectors in every chain.

    Written in LLVM's terms, so that the width of the vectors is the processor's and no optimiser's
    guess.
    """
    from llvmlite import ir
    from numba import float32, int64, njit
    from numba.core import cgutils
    from numba.extending import intrinsic

    register = ir.VectorType(ir.FloatType(), lanes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rounds, *scalars = arguments
        factors = [_splat(builder, scalar, register) for scalar in scalars]
        # Fused where the processor can, else a product and a sum.
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(register, [register] * 3),
            f"llvm.fmuladd.v{lanes}f32",
        )
        zero = ir.Constant(register, [0.0] * lanes)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(CHAINS)]
        with cgutils.for_range(builder, rounds):
            for place in sums:
                total = builder.call(function, [*factors, builder.load(place)])
                builder.store(total, place)
        # Every lane is used, so that none can be left out.
        result = ir.Constant(ir.FloatType(), 0.0)
        for place in sums:
            for lane in range(lanes):
                index = ir.Constant(ir.IntType(32), lane)
                result = builder.fadd(result, builder.extract_element(builder.load(place), index))
        return result

    def chains(typing_context: Any, rounds: Any, x: Any, y: Any) -> Any:
        return float32(int64, float32, float32), generate

    multiply_adds = intrinsic(chains)
    return njit([float32(int64, float32, float32)], nogil=True)(
        lambda rounds, x, y: multiply_adds(rounds, x, y)
    )


def _splat(builder: Any, scalar: Any, register: Any) -> Any:
    from llvmlite import ir

    undefined = ir.Constant(register, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), register.count), [0] * register.count)
    return builder.shuffle_vector(first, undefined, mask)


@cache
def _reader() -> Any:
    """A compiled function that reads an array once; sums of integers may be taken in any order."""
    from numba import int64, njit

    def total(array: Any) -> Any:
        result = 0
        for index in range(array.size):
            result += array[index]
        return result

    return njit([int64(int64[::1])], nogil=True)(total)


def machine() -> dict[str, Any]:
    """The machine, as far as it decides speed."""
    return {
        "processor": processor.name(),
        "cores": os.cpu_count(),
        "vector_lanes": processor.lanes(),
    }


# -- times -----------------------------------------------------------------------------------


def latencies(call: Callable[[], object], seconds: float, between: Callable[[], None]) -> Array:
    """The sorted seconds of calls: for so long, and of 10 at least; ``between`` blocks of them."""
    times: list[float] = []
    while sum(times) < seconds or len(times) < LEAST_CALLS:
        between()
        call()  # finds its memory out of the caches, by what ran between
        times += _block(call, min(BLOCK_SECONDS, seconds))
    return np.sort(times)


def _block(call: Callable[[], object], seconds: float) -> Iterator[float]:
    end = time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        yield now - start
        if now >= end:
            return


# -- memory ----------------------------------------------------------------------------------


def forget_resident_peak() -> None:
    """Start the peak of resident memory anew, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def resident_peak() -> int:
    """The most bytes of memory that the process had, since the peak was forgotten."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


# -- a program -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """What to find out about programs, and for how long to run each."""

    threads: int
    train: bool = False
    seconds: float = 2.0
    profile: bool = False


def measure(
    graph: Graph, batch: int, compile: Callable[[int], Program], wanted: Wanted
) -> dict[str, Any]:
    """Everything about a network at one batch, as `convdsl bench --format json` names it.

    ``compile`` gives the program for a batch: one with an optimiser, where training is measured.
    """
    arrays = sample(graph, batch, wanted.train)
    gc.collect()
    forget_resident_peak()
    before = _cached_files()
    start = time.perf_counter()
    program = compile(batch)
    compiled = time.perf_counter()
    call = caller(program, arrays, wanted.train)
    call()
    first = time.perf_counter()
    call()
    found: dict[str, Any] = {
        "batch": batch,
        "compile": "cold" if _cached_files() - before else "warm",
        "compile_seconds": compiled - start,
        "first_result_seconds": first - start,
        "activation_bytes": program.plan.arena_bytes,
        "largest_live_bytes": program.plan.live_bytes,
        "packed_weight_bytes": program.plan.constant_bytes,
        "resident_bytes": resident_peak(),
    }
    found |= _speed(call, batch, macs(graph, batch, wanted.train), wanted)
    if wanted.profile:
        found["layers"] = layers(program, arrays, found["peak_flops_per_second"])
    return found


def _cached_files() -> set[str]:
    return {str(path) for path in folder().rglob("*") if path.is_file()}


def _speed(call: Callable[[], object], batch: int, macs: int, wanted: Wanted) -> dict[str, Any]:
    ceiling = Ceiling(wanted.threads)
    try:
        times = latencies(call, wanted.seconds, ceiling.sample)
    finally:
        ceiling.close()
    low, median, high = (float(t) for t in np.quantile(times, (0.1, 0.5, 0.9)))
    flops = 2 * macs / median
    return {
        "repetitions": len(times),
        "median_seconds": median,
        "p10_seconds": low,
        "p90_seconds": high,
        "images_per_second": batch / median,
        "flops_per_second": flops,
        "peak_flops_per_second": ceiling.flops,
        "peak_fraction": flops / ceiling.flops,
        "read_bytes_per_second": ceiling.read_bytes,
    }


def macs(graph: Graph, batch: int, train: bool) -> int:
    """The multiply-adds of convolutions and dense layers.

    A training step has those of three forward passes: gradients by weights and by inputs too.
    """
    return analyse(graph, batch).total.macs * (3 if train else 1)


def sample(graph: Graph, batch: int, train: bool) -> list[Array]:
    """Random inputs, and random classes as the target where a loss is computed."""
    arrays = inputs.random([inputs.InputSpec.of(v) for v in graph.inputs], batch, 0)
    if not train:
        return arrays
    classes, *positions = graph.outputs[0][1].type.shape
    return [*arrays, np.random.default_rng(0).integers(0, classes, (batch, *positions))]


def caller(program: Program, arrays: Sequence[Array], train: bool) -> Callable[[], object]:
    """What is timed: a call for inference, a step for training."""
    if not train:
        return lambda: program(*arrays)
    # At rate 0 the work is the same, and weights stay finite however often it is done.
    return lambda: program.step(*arrays, lr=0.0)


def layers(program: Program, arrays: Sequence[Array], peak: float) -> list[dict[str, Any]]:
    """The time of every layer, with its kernels, in order; what updates parameters is left out."""
    measured = zip(program.profile(*arrays), program.plan.steps, strict=False)
    found = []
    # A recipe of several kernels is one layer: each of its steps states the operations of all.
    for (name, flops), group in groupby(measured, lambda pair: (pair[1].name, pair[1].flops)):
        steps = list(group)
        seconds = sum(t for (_, _, t), _ in steps)
        found.append(
            {
                "layer": name,
                "kernels": list(dict.fromkeys(kernel for (_, kernel, _), _ in steps)),
                "reason": next((step.reason for _, step in steps if step.reason), ""),
                "seconds": seconds,
                "flops": flops,
                "flops_per_second": flops / seconds,
                "peak_fraction": flops / seconds / peak,
            }
        )
    total = sum(layer["seconds"] for layer in found)
    return [{**layer, "share": layer["seconds"] / total} for layer in found]


# -- error -----------------------------------------------------------------------------------


def error(graph: Graph, program: Program, train: bool) -> float:
    """The largest error of a program's results against the interpreter in float64.

    Relative to the largest element of the output; where training is measured, to that of all
    gradients. Slow: the interpreter takes a second for about 2·10⁹ multiply-adds.
    """
    arrays = sample(graph, program.batch, train)
    names = [v.name for v in graph.inputs] + ["target"] * train
    if train:
        _, gradients = program.value_and_grad(*arrays)
        results = {f"gradient of {name}": array for name, array in gradients.items()}
        graph = program.graph
    else:
        outputs = program(*arrays)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        results = {name: y for (name, _), y in zip(graph.outputs, outputs, strict=True)}
    given = {**program.variables, **dict(zip(names, arrays, strict=True))}
    exact = interpreter.evaluate(graph, {name: _double(array) for name, array in given.items()})
    scale = max(np.abs(exact[name]).max(initial=0) for name in results)
    return max(float(np.abs(y - exact[name]).max(initial=0)) for name, y in results.items()) / (
        float(scale) or 1.0
    )


def _double(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype == np.float32 else array
