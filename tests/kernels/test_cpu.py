"""Compiled CPU kernels against the interpreter, with poisoned memory and guard zones."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import (
    positive_buffers,
    random_arrays,
    realistic_arrays,
    relative_error,
    sample_network,
)
from kernels_by_samples import CHAINS, SAMPLES, check_forward, check_gradients
from random_networks import LargeWriter

import convdsl
from convdsl.compiler import compile, lower
from convdsl.ops import registry
from convdsl.runtime import processor
from convdsl.runtime.cpu import CpuMachine
from convdsl.runtime.interpreter import evaluate


def run(graph, arrays, batch, loss=None, accuracy="fast"):
    """All outputs of the compiled program, its arena poisoned with NaN before."""
    program = compile(graph, batch=batch, loss=loss, accuracy=accuracy)
    for name, array in program.variables.items():
        if name in arrays:
            array[...] = arrays[name]
    machine = program.machine
    assert isinstance(machine, CpuMachine)
    machine.poison()
    machine.prepare()
    inputs = {
        p.name: arrays[p.name] for p in program.plan.variables if p.role in ("input", "target")
    }
    machine.run(inputs, 0, program.plan.forward)
    results = {p.name: machine.view(p.buffer, p.shape).copy() for p in program.plan.outputs}
    assert machine.guards_intact()
    return results


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.text)
def test_the_kernel_is_the_interpreter(sample):
    check_forward(run, sample, 1e-5)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.text)
def test_compiled_gradients_are_the_interpreters(sample):
    check_gradients(run, sample, 2e-5)


CONVOLUTIONS = [
    # channels, filters, size, window, stride, pad, dilation
    (3, 16, (9, 7), "3x3", "", "pad=half", ""),
    (1, 17, (12, 12), "5x5", "", "", ""),
    (4, 33, (13, 6), "1x1", "/2", "", ""),
    (5, 8, (11, 30), "3x5", "/2x3", "pad=[(2, 0), (1, 4)]", ""),
    (2, 20, (10, 10), "3x3", "", "pad=2", "dilation=2"),
    (2, 24, (2, 3), "3x3", "", "pad=full", ""),
    (3, 20, (1, 40), "1x7", "", "pad=[0, 3]", ""),
    (4, 9, (16, 29), "3x1", "/3x1", "", ""),
    # no column of the window meets the input
    (4, 8, (3, 3), "1x2", "", "pad=[0, 4]", "dilation=1x8"),
]

POINTWISE = [(3, 5, "7x9"), (16, 33, "14x14"), (5, 1, "20x30"), (8, 17, "300"), (6, 8, "4x5x6")]


@pytest.mark.parametrize("case", POINTWISE, ids=str)
@pytest.mark.parametrize("tail", ["", "-> relu", "-> bn -> tanh"])
def test_pointwise_convolutions_of_all_sizes(case, tail):
    channels, filters, size = case
    graph = convdsl.load_source(
        f"net T {{ input {channels}@{size}\n conv {filters}@1 {tail} }}"
    ).graph
    arrays = positive_buffers(graph, random_arrays(graph, 2))
    expected = evaluate(graph, arrays)["output"]
    assert relative_error(run(graph, arrays, 2)["output"], expected) < 1e-5


WINOGRAD = [
    # channels, filters, window, size, pad
    (16, 16, "3x3", "16x20", "pad=1"),
    (40, 24, "3x3", "33x9", "pad=1"),
    (20, 70, "3x3", "14x15", ""),
    (32, 16, "3x3", "8x30", "pad=[(2, 1), (0, 2)]"),
    (24, 40, "5x5", "13x16", "pad=2"),
    (16, 16, "5x5", "12x12", "pad=[(1, 0), (2, 4)]"),
    # fewer lanes in the result's blocks than in the input's
    (16, 6, "5x5", "32x31", "pad=2"),
    (32, 7, "3x3", "16x16", "pad=1"),
    # so small that reading the weights of larger tiles would take longer: F(2x2, 3x3)
    (128, 96, "3x3", "7x7", "pad=1"),
]


@pytest.mark.parametrize("case", WINOGRAD, ids=str)
@pytest.mark.parametrize("tail", ["", "-> bn -> leaky_relu 0.1", "-> gelu"])
def test_winograds_convolution_is_the_direct_one(case, tail):
    channels, filters, window, size, pad = case
    text = f"net T {{ input {channels}@{size}\n conv {filters}@{window} {pad} {tail} }}"
    graph = convdsl.load_source(text).graph
    arrays = positive_buffers(graph, random_arrays(graph, 2))
    expected = evaluate(graph, arrays)["output"]
    program = compile(graph, batch=2)
    assert any("Winograd" in step.reason for step in program.plan.steps)
    # Its transforms round some ten times as much as a sum does.
    assert relative_error(run(graph, arrays, 2)["output"], expected) < 5e-5
    exact = compile(graph, batch=2, accuracy="exact")
    assert not any("Winograd" in step.reason for step in exact.plan.steps)


ROWS = [
    # channels, filters, window, size, pad
    (16, 6, "5x5", "10x10", "pad=4"),
    (20, 40, "2x3", "4x3", "pad=1"),
    (7, 16, "5x4", "6x5", "pad=[(4, 1), (0, 3)]"),
    (18, 9, "3x3", "9x5", "pad=2 dilation=2"),
    (16, 5, "3x3", "7x6", "/2x1 pad=[1, 2]"),
    (8, 8, "3x3x3", "3x4x5", "pad=1"),
    (9, 12, "5", "7", "pad=2"),
    # two results in a vector, where that is twice as wide as blocks of filters
    (1, 6, "5x5", "32x32", ""),
    (3, 7, "3x5", "9x28", "pad=[(1, 1), (0, 2)]"),
    (16, 8, "5x5", "6x6", "/1x2 pad=2"),
    (20, 5, "2x7", "5x16", "dilation=1x2 pad=6"),
    (3, 8, "3x3x3", "4x5x8", "pad=1"),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
@pytest.mark.parametrize("tail", ["", "bias=off -> bn -> leaky_relu 0.1"])
def test_convolutions_of_short_rows_and_their_gradients(case, tail):
    channels, filters, window, size, rest = case
    text = f"net T {{ input {channels}@{size}\n conv {filters}@{window} {rest} {tail}\n flatten }}"
    graph = convdsl.load_source(text).graph
    lowered = lower(graph, "cross_entropy")
    arrays = positive_buffers(lowered, random_arrays(lowered, 3))
    expected = evaluate(lowered, arrays)
    names = {s.kernel.name for s in compile(graph, batch=3, loss="cross_entropy").plan.steps}
    # Longer rows need the registers of AVX-512.
    fits = processor.lanes() >= 16 or size not in ("32x32", "5x16")
    assert any("convolution_row" in name for name in names) or not fits
    for name, value in run(graph, arrays, 3, "cross_entropy").items():
        assert relative_error(value, expected[name]) < 1e-5, name


@pytest.mark.parametrize(
    "tail", ["add(y) -> relu", "mul(c) -> add(y)", "mul(m) -> sigmoid", "mul(m) -> mul(c)"]
)
@pytest.mark.parametrize("size", ["8x8", "7x7"])
def test_what_rows_of_results_are_combined_with(tail, size):
    """A feature map, a number per channel, one per pixel: in pairs and alone."""
    text = f"net T {{ input x: 3@{size}\n input c: 8@1x1\n input m: 1@{size}\n"
    text += f" y = x -> conv 8@1x1\n x -> conv 8@5x5 pad=2 -> {tail} -> flatten }}"
    graph = convdsl.load_source(text).graph
    lowered = lower(graph, "cross_entropy")
    arrays = random_arrays(lowered, 3)
    expected = evaluate(lowered, arrays)
    names = {s.kernel.name for s in compile(graph, batch=3, loss="cross_entropy").plan.steps}
    assert any("convolution_row" in name for name in names)
    for name, value in run(graph, arrays, 3, "cross_entropy").items():
        assert relative_error(value, expected[name]) < 1e-5, name


@pytest.mark.parametrize("window", ["3x3", "5x5"])
@pytest.mark.parametrize("tail", ["relu", "bn -> relu"])
def test_winograds_gradients(tail, window):
    text = f"net T {{ input 3@12x12\n conv 16@1x1 -> conv 32@{window} pad=half bias=off\n"
    text += f" {tail}\n flatten }}"
    graph = convdsl.load_source(text).graph
    lowered = lower(graph, "cross_entropy")
    arrays = positive_buffers(graph, random_arrays(lowered, 4, seed=5))
    expected = evaluate(lowered, arrays)
    for name, value in run(graph, arrays, 4, "cross_entropy").items():
        assert relative_error(value, expected[name]) < 1e-4, name


STRIDED = [
    # window, stride, pad, size: every remainder, some without a tap, more than the window's reach
    ("3x3", "2", "1", "9x8"),
    ("1x1", "2", "0", "7x8"),
    ("3x2", "3x1", "1", "11x6"),
    ("5x5", "4", "2", "13x15"),
    ("3x3", "2", "[(0, 1), (2, 0)]", "8x8"),
    ("2x2", "5", "0", "12x12"),
]


@pytest.mark.parametrize("case", STRIDED, ids=str)
def test_gradients_of_strided_convolutions(case):
    window, stride, pad, size = case
    text = f"net T {{ input 3@{size}\n conv 12@1x1 bias=off -> conv 20@{window} /{stride} "
    graph = convdsl.load_source(text + f"pad={pad} bias=off -> relu\n flatten }}").graph
    lowered = lower(graph, "cross_entropy")
    arrays = random_arrays(lowered, 4, seed=5)
    expected = evaluate(lowered, arrays)
    for name, value in run(graph, arrays, 4, "cross_entropy").items():
        assert relative_error(value, expected[name]) < 1e-5, name


GROUPED = [
    # channels, filters, groups: whole blocks, blocks of groups, zeros computed along, none of these
    (64, 32, 2, "9x9"),
    (32, 32, 8, "7x8"),
    (12, 20, 4, "6x7"),
    (24, 24, 24, "9x9"),
    (40, 40, 40, "8x19"),
    (22, 44, 22, "5x6"),
]


@pytest.mark.parametrize("case", GROUPED, ids=str)
def test_grouped_convolutions(case):
    channels, filters, groups, size = case
    text = f"net T {{ input 3@{size}\n conv {channels}@1x1 bias=off\n"
    text += f" conv {filters}@3x3 pad=1 groups={groups} -> relu }}"
    graph = convdsl.load_source(text).graph
    arrays = random_arrays(graph, 2)
    expected = evaluate(graph, arrays)["output"]
    assert relative_error(run(graph, arrays, 2)["output"], expected) < 1e-5


@pytest.mark.parametrize("text", ["3x3 pad=1", "3x3 /2 pad=1", "5x2 /3x1", "3x3 pad=2 dilation=2"])
def test_depthwise_convolutions_and_their_gradients(text):
    source = "net T { input 3@13x12\n conv 20@1x1 bias=off\n"
    source += f" conv 20@{text} groups=20 -> relu6 -> flatten }}"
    graph = convdsl.load_source(source).graph
    lowered = lower(graph, "cross_entropy")
    arrays = random_arrays(lowered, 3, seed=2)
    expected = evaluate(lowered, arrays)
    reasons = {s.reason for s in compile(graph, batch=3, loss="cross_entropy").plan.steps}
    assert any("depthwise" in reason for reason in reasons)
    for name, value in run(graph, arrays, 3, "cross_entropy").items():
        assert relative_error(value, expected[name]) < 1e-5, name


def test_a_residual_sum_is_taken_over_in_place():
    graph = convdsl.load_source(
        "net T { input 6@9x9\n y = conv 16@1x1\n conv 16@3x3 pad=1\n add(y) -> relu }"
    ).graph
    arrays = random_arrays(graph, 2)
    expected = evaluate(graph, arrays)["output"]
    assert relative_error(run(graph, arrays, 2)["output"], expected) < 1e-5


def test_what_a_window_still_reads_is_not_written_over():
    """y is the skip and the input of the convolution: its neighbours are read after the sum."""
    graph = convdsl.load_source(
        "net T { input 6@40x40\n y: conv 16@1x1\n conv 16@5x5 pad=2\n add(y) -> relu }"
    ).graph
    arrays = random_arrays(graph, 2)
    expected = evaluate(graph, arrays)["output"]
    for accuracy in ("fast", "exact"):
        found = run(graph, arrays, 2, accuracy=accuracy)["output"]
        assert relative_error(found, expected) < 1e-5, accuracy


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_direct_convolutions_at_every_border(case):
    channels, filters, size, window, stride, pad, dilation = case
    text = f"conv {filters}@{window} {stride} {pad} {dilation}"
    source = f"net T {{\n input {channels}@{size[0]}x{size[1]}\n {text}\n}}"
    graph = convdsl.load_source(source).graph
    arrays = random_arrays(graph, 2)
    expected = evaluate(graph, arrays)["output"]
    program = compile(graph, batch=2)
    assert any("direct" in step.reason for step in program.plan.steps)
    assert relative_error(run(graph, arrays, 2)["output"], expected) < 1e-5


@pytest.mark.parametrize("chain", CHAINS, ids=lambda s: s.text)
def test_an_activations_gradient_is_taken_along(chain):
    graph = sample_network(replace(chain, text=f"{chain.text} -> flatten")).graph
    maps = [n.name for n in lower(graph, "cross_entropy").nodes if "1.gradient.map" in n.name]
    assert not maps
    check_gradients(run, chain, 1e-5)


def test_long_sums_of_few_channels_are_summed_in_parts():
    source = "net T { input 3@29x31\n conv 5@3x3 -> sigmoid -> flatten }"
    graph = convdsl.load_source(source).graph
    lowered = lower(graph, "cross_entropy")
    arrays = random_arrays(lowered, 7, seed=2)
    expected = evaluate(lowered, arrays)["gradient of conv1.bias"]
    program = compile(graph, batch=7, loss="cross_entropy")
    assert any("in_parts" in step.kernel.name for step in program.plan.steps)
    found = run(graph, arrays, 7, "cross_entropy")["gradient of conv1.bias"]
    assert relative_error(found, expected) < 1e-6


def test_a_window_that_is_the_whole_input_is_a_product():
    source = (
        "net T { input 3@6x5\n conv 8@2x2 -> relu\n conv 12@5x4 -> tanh\n conv 3@1x1 -> flatten }"
    )
    graph = convdsl.load_source(source).graph
    lowered = lower(graph, "cross_entropy")
    arrays = random_arrays(lowered, 3, seed=2)
    expected = evaluate(lowered, arrays)
    steps = compile(graph, batch=3, loss="cross_entropy").plan.steps
    assert any(s.name == "conv2" and "product" in s.kernel.name for s in steps)
    assert not any("conv2.gradient.conv" in s.name for s in steps)
    for name, value in run(graph, arrays, 3, "cross_entropy").items():
        assert value.shape == expected[name].shape
        assert relative_error(value, expected[name]) < 1e-5, name


@pytest.mark.parametrize("loss", [None, pytest.param("cross_entropy", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("lanes", "registers"), [(4, 30), (8, 16)], ids=["NEON", "AVX"])
def test_other_processors_kernels_compute_the_same(lanes, registers, loss, monkeypatch):
    monkeypatch.setattr(processor, "lanes", lambda: lanes)
    monkeypatch.setattr(processor, "registers", lambda: registers)
    source = "net T { input 9@8x13\n conv 20@1x1 -> relu\n conv 11@3x3/2 pad=1\n dense 6 }"
    graph = convdsl.load_source(source).graph
    lowered = lower(graph, loss)
    arrays = random_arrays(lowered, 7, seed=3)
    expected = evaluate(lowered, arrays)
    side = 4 if registers > 20 else 3
    names = {step.kernel.name for step in compile(graph, batch=7, loss=loss).plan.steps}
    assert f"product_dots_{side}x{side}_bias" in names
    for name, value in run(graph, arrays, 7, loss).items():
        assert relative_error(value, expected[name]) < 1e-5, name


def compare_large(seed):
    """A large random network for inference and with its gradients, by norm."""
    writer = LargeWriter(seed)
    text = writer.text()
    graph = convdsl.load_source(text).graph
    for loss in (None, "cross_entropy"):
        lowered = lower(graph, loss)
        arrays = realistic_arrays(lowered, writer.batch, seed)
        expected = evaluate(lowered, arrays)
        single = {
            name: np.ascontiguousarray(a, np.float32) if a.dtype.kind == "f" else a
            for name, a in arrays.items()
        }
        found = run(graph, single, writer.batch, loss)
        # A gradient that is zero in exact arithmetic, as of a bias before `bn`, is rounding.
        least = 1e-2 * max(np.linalg.norm(expected[name]) for name in found)
        for name, value in found.items():
            error = np.linalg.norm(value - expected[name])
            scale = max(np.linalg.norm(expected[name]), least)
            assert error / scale < 2e-2, f"seed {seed}: {name}\n{text}"


@pytest.mark.parametrize("seed", range(4))
def test_large_random_networks(seed):
    compare_large(seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100, 400, 20))
def test_more_large_random_networks(start):
    for seed in range(start, start + 20):
        compare_large(seed)


def test_a_kernel_that_leaves_an_element_unwritten_is_caught(monkeypatch):
    """A planted bug: the nests' kernels stop one element early."""
    from convdsl.kernels.cpu import nests

    honest = nests._body

    def one_short(nest):
        lines, work = honest(nest)
        return [line.replace("range(begin, end)", "range(begin, end - 1)") for line in lines], work

    monkeypatch.setattr(nests, "_body", one_short)
    graph = sample_network(registry()["avg"].samples[0]).graph
    arrays = random_arrays(graph, 1)
    assert not np.isfinite(run(graph, arrays, 1)["output"]).all()


def test_a_kernel_that_writes_beyond_its_buffer_is_caught(monkeypatch):
    from convdsl.kernels.cpu import nests

    honest = nests._body

    def one_far(nest):
        lines, work = honest(nest)
        return [*lines, "y[end] = float32(1.0)"], work

    monkeypatch.setattr(nests, "_body", one_far)
    graph = sample_network(registry()["avg"].samples[0]).graph
    with pytest.raises(AssertionError):
        run(graph, random_arrays(graph, 1), 1)
