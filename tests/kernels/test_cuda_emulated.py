"""CUDA kernels in the emulator against the interpreter: every op, random networks, training.

The emulator reports races, accesses out of bounds and the like by itself: see `emulator`.
"""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from emulated import run
from emulator import EmulationError, compile_emulated, launch, machine
from helpers import (
    positive_buffers,
    random_arrays,
    realistic_arrays,
    relative_error,
    sample_network,
)
from joined_maps import PIECES, network
from kernels_by_samples import CHAINS, SAMPLES, check_forward, check_gradients
from random_networks import JoiningWriter, Writer

import convdsl
from convdsl.compiler import lower
from convdsl.kernels.cuda import convolution, product, target, tiles, weight_gradient, winograd
from convdsl.ops import registry
from convdsl.plan import plan
from convdsl.plan.model import CONTIGUOUS, Images
from convdsl.runtime.interpreter import evaluate


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.text)
def test_the_kernel_is_the_interpreter(sample):
    check_forward(run, sample, 1e-5)


@pytest.mark.parametrize("sample", [*SAMPLES, *CHAINS], ids=lambda s: s.text)
def test_gradients_are_the_interpreters(sample):
    check_gradients(run, sample, 2e-5)


# -- random networks -------------------------------------------------------------------------


def compare(seed, writing=Writer):
    """Forward and backward with a loss; every third one for inference, too."""
    writer = writing(seed)
    text = writer.text()
    graph = convdsl.load_source(text).graph
    for loss in ("cross_entropy", None) if seed % 3 == 0 else ("cross_entropy",):
        check_network(graph, writer.batch, loss, seed, f"seed {seed}\n{text}")


def check_network(graph, batch, loss, seed, text):
    """All outputs against the interpreter in float64, by norm."""
    lowered = lower(graph, loss)
    arrays = realistic_arrays(lowered, batch, seed)
    expected = evaluate(lowered, arrays)
    actual = run(graph, arrays, batch, loss)
    assert set(actual) == {name for name in expected if not name.endswith("'")}
    largest = max(np.linalg.norm(expected[name]) for name in actual)
    for name, value in actual.items():
        error = np.linalg.norm(value - expected[name])
        # float32 through up to twelve layers, compared by norm; a gradient that is zero in exact
        # arithmetic, as a bias's before batch norm, is rounding of what cancels, whose size the
        # largest one tells.
        scale = max(np.linalg.norm(expected[name]), 0.1 * largest)
        assert error / scale < 2e-3, f"{name}: {text}"


@pytest.mark.parametrize("start", range(0, 100, 20))
def test_random_networks(start):
    for seed in range(start, start + 20):
        compare(seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100, 1000, 50))
def test_more_random_networks(start):
    for seed in range(start, start + 50):
        compare(seed)


# -- tiles -----------------------------------------------------------------------------------

# Sizes that are no multiple of any tile, so that every tile sticks out over the edges.
EVERYTHING = """
  conv 13@3x3 pad=1 -> relu -> conv 36@3x3 /2
  v = conv 36@2x3 groups=3 dilation=2 pad=1
  add(v, (v -> conv 36@1)) -> deconv 6@3x3 /2 -> dense 18
"""
SHAPES = ["3@9x11", "8@8x8"]


@pytest.fixture(params=[1, 3], ids=lambda s: f"{s}_parts")
def splits(request):
    return request.param


@pytest.fixture(params=tiles.TILES, ids=str)
def only_tile(request, splits, monkeypatch):
    """Every product is computed with one tile, and its sums in so many parts where possible."""
    honest = tiles.choose

    def chosen(rows, columns, inner, batch=1, tiles=(), splittable=True):
        tile = request.param
        work = honest(rows, columns, inner, batch, (tile,), splittable=False)
        parts = min(splits, max(1, -(-inner // tile.depth))) if splittable else 1
        return type(work)(tile, parts, work.blocks * parts)

    for module in (convolution, product, weight_gradient):
        monkeypatch.setattr(module, "choose", chosen)
    return request.param


@pytest.mark.parametrize("shape", SHAPES)
def test_every_tile_at_the_edges(shape, only_tile):
    text = f"net T {{ input {shape}\n {EVERYTHING} }}"
    check_network(convdsl.load_source(text).graph, 10, "cross_entropy", 0, text)


# -- parts of larger maps --------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", ["12x12", "9x11"])
@pytest.mark.parametrize("piece", PIECES)
def test_joined_maps_are_computed_and_read_in_their_places(piece, size, batch):
    text = network(piece, size)
    graph = convdsl.load_source(text).graph
    planned = plan(lower(graph, "cross_entropy"), batch, target.CudaTarget())
    copied = {s.reason for s in planned.steps if s.reason.startswith("copied")}
    assert copied <= {"copied: it has its place elsewhere"}
    assert planned.free
    check_network(graph, batch, "cross_entropy", 0, text)
    check_network(graph, batch, None, 0, text)


@pytest.mark.parametrize("piece", PIECES)
def test_sums_in_parts_go_to_their_places(piece, monkeypatch):
    monkeypatch.setattr(convolution, "choose", in_parts(convolution.choose))
    text = network(piece, "12x12")
    check_network(convdsl.load_source(text).graph, 2, "cross_entropy", 0, text)


def in_parts(choose):
    """The choice, with sums in two parts wherever they can be."""

    def chosen(rows, columns, inner, batch=1, tiles=(), splittable=True):
        work = choose(rows, columns, inner, batch, tiles, splittable=False)
        splits = 2 if splittable and inner > work.tile.depth else 1
        return replace(work, splits=splits, blocks=work.blocks * splits)

    return chosen


@pytest.mark.parametrize("form", winograd.FORMS, ids=str)
def test_transformed_tiles_come_from_parts_and_go_to_parts(form, monkeypatch):
    monkeypatch.setattr(winograd, "_cycles", lambda family, f: 0.0 if f == form else math.inf)
    for piece in ("inception", "sums", "dense"):
        text = network(piece, "9x12")
        check_network(convdsl.load_source(text).graph, 2, "cross_entropy", 0, text)


@pytest.mark.parametrize("start", range(0, 30, 10))
def test_random_networks_that_join_and_cut(start):
    for seed in range(start, start + 10):
        compare(seed, JoiningWriter)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(30, 330, 25))
def test_more_random_networks_that_join_and_cut(start):
    for seed in range(start, start + 25):
        compare(seed, JoiningWriter)


def test_a_kernel_that_takes_images_for_neighbours_is_caught(monkeypatch):
    text = network("dense", "9x11")
    graph = convdsl.load_source(text).graph
    arrays = realistic_arrays(graph, 2, 0)
    expected = evaluate(graph, arrays)["output"]
    assert relative_error(run(graph, arrays, 2)["output"], expected) < 1e-4
    monkeypatch.setattr(Images, "gap", lambda self, operand: 0)
    assert not np.isfinite(run(graph, arrays, 2)["output"]).all()


# -- Winograd --------------------------------------------------------------------------------

TRANSFORMED = [
    # channels, filters, window, size, pad: tiles that stick out, whole accesses and single ones
    (8, 12, "3x3", "12x12", "pad=1"),
    (5, 7, "3x3", "9x11", ""),
    (5, 9, "3x3", "8x10", "pad=[(2, 1), (0, 2)]"),
    (6, 8, "5x5", "10x8", "pad=2"),
]

FORMS = [(c, f) for c in TRANSFORMED for f in winograd.FORMS if c[2] == f"{f.window}x{f.window}"]


@pytest.mark.parametrize(("case", "form"), FORMS, ids=str)
@pytest.mark.parametrize("tail", ["-> leaky_relu 0.1", "bias=off -> bn -> tanh"])
@pytest.mark.parametrize("slabs", [False, True], ids=["at_once", "slabs"])
def test_winograds_convolution_is_the_interpreters(case, form, tail, slabs, monkeypatch):
    channels, filters, window, size, pad = case
    if slabs:
        monkeypatch.setattr(winograd, "SLAB", 1)
        monkeypatch.setattr(winograd, "WIDE", 8)
    monkeypatch.setattr(winograd, "_cycles", lambda family, f: 0.0 if f == form else math.inf)
    text = f"net T {{ input 3@{size}\n conv {channels}@1 -> tanh -> conv {filters}@{window} {pad} "
    graph = convdsl.load_source(text + f"{tail} -> flatten }}").graph
    lowered = lower(graph, "cross_entropy")
    planned = plan(lowered, 3, target.CudaTarget())
    done = [s.name for s in planned.steps if s.kernel.name.startswith("winograd_results")]
    assert len(set(done)) == 2, "forward, and the gradient by the input"
    assert (len(done) > 2) == slabs
    arrays = positive_buffers(lowered, random_arrays(lowered, 3))
    expected = evaluate(lowered, arrays)
    # Its transforms round some ten times as much as a sum does.
    for name, value in run(graph, arrays, 3, "cross_entropy").items():
        assert relative_error(value, expected[name]) < 1e-4, name


@pytest.mark.parametrize(
    ("text", "batch", "chosen"),
    [
        ("input 256@14x14; conv 256@3x3 pad=1", 32, "F(4×4, 3×3)"),
        ("input 64@56x56; conv 64@3x3 pad=1", 32, "F(4×4, 3×3)"),
        ("input 64@28x28; conv 64@5x5 pad=2", 32, "F(2×2, 5×5)"),
        ("input 512@7x7; conv 512@3x3 pad=1", 1, ""),  # weights would be four times as many
        ("input 3@224x224; conv 64@3x3 pad=1", 32, ""),  # little to add up for what is moved
        ("input 64@56x56; conv 64@3x3/2 pad=1", 32, ""),
    ],
)
def test_winograd_is_chosen_where_it_pays(text, batch, chosen):
    graph = lower(convdsl.load_source(f"net T {{ {text} }}").graph)
    reasons = {s.reason for s in plan(graph, batch, target.CudaTarget()).steps}
    assert any("Winograd" in reason for reason in reasons) == bool(chosen), reasons
    assert any(chosen in reason for reason in reasons)
    for device in (target.CudaTarget("fp32", exact=True), target.CudaTarget("tf32")):
        assert not any("Winograd" in s.reason for s in plan(graph, batch, device).steps)


def test_transformed_tiles_take_bounded_memory():
    """Of a large map, beyond the map and its result."""
    graph = lower(convdsl.load_source("net T { input 64@96x96; tanh -> conv 64@3x3 pad=1 }").graph)
    direct = plan(graph, 16, target.CudaTarget(exact=True)).arena_bytes
    made = plan(graph, 16, target.CudaTarget())
    assert made.arena_bytes <= direct + winograd.SLAB
    slabs = [s for s in made.steps if s.kernel.name.startswith("winograd_inputs")]
    assert len(slabs) > 1
    assert len({s.sizes for s in slabs}) == len(slabs), "each has tiles of its own"
    assert len({s.buffers[-1] for s in slabs}) == 1


# -- training --------------------------------------------------------------------------------

TINY = "net Tiny { input 1@8x8; conv 2@3x3 pad=1 -> sigmoid -> max 2 -> dropout 0.25 -> dense 3 }"


def test_training_is_the_cpu_targets():
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 1, 8, 8)).astype(np.float32)
    classes = np.array([0, 2])
    graph = convdsl.load_source(TINY).graph
    found = compile_emulated(graph, 2, "cross_entropy", convdsl.SGD(momentum=0.9))
    expected = convdsl.load_source(TINY).compile(
        batch=2, train=True, optimizer=convdsl.SGD(momentum=0.9)
    )
    for _ in range(3):
        assert found.step(x, classes, lr=0.1) == pytest.approx(
            expected.step(x, classes, lr=0.1), rel=1e-5
        )
    loss, gradients = found.value_and_grad(x, classes)
    reference, references = expected.value_and_grad(x, classes)
    assert loss == pytest.approx(reference, rel=1e-5)
    for name, value in gradients.items():
        assert relative_error(value, references[name]) < 1e-5
        assert relative_error(found.parameters[name], expected.parameters[name]) < 1e-5
    assert relative_error(found.input_grad, expected.input_grad) < 1e-5


def test_parameters_are_taken_over_at_the_next_call():
    net = convdsl.load_source(TINY)
    program = compile_emulated(net.graph, 2)
    x = np.random.default_rng(1).standard_normal((2, 1, 8, 8)).astype(np.float32)
    before = program(x)
    program.update({name: array * 2 for name, array in program.parameters.items()})
    reference = net.compile(batch=2)
    reference.update(program.parameters)
    assert relative_error(program(x), reference(x)) < 1e-5
    assert relative_error(before, program(x)) > 1e-2


# -- what orders threads ---------------------------------------------------------------------

ORDER = """net T {
  input 3@9x11
  conv 13@3x3 pad=1 -> bn -> relu -> conv 36@3x3 /2
  v = conv 36@2x3 groups=3 dilation=2 pad=1
  add(v, (v -> conv 36@1))
  conv 36@3x3 groups=36 pad=1 -> layer_norm -> max 2 -> deconv 6@3x3 /2 -> softmax -> dense 18
}"""
FLAWS = [
    # what kernels say, and what does less
    (r"cuda\.sync(threads|warp)\(\)", "pass"),
    (r"copy_async_commit\(\)", "pass"),
    (r"copy_async_wait\(\d\)", "pass"),
    (r"copy_async_wait\(0\)", "copy_async_wait(1)"),
    (r"_sync\(0xFFFFFFFF,", "_sync(0xFFFF,"),
]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
def test_no_kernel_does_without_any_of_its_barriers_waits_and_masks(precision, monkeypatch):
    """Each is taken out of a training step's kernels, and is missed: they are needed, all of them,
    and the emulator sees it."""
    flawed = 0
    for kernel, grid, before, after in launches(ORDER, precision, monkeypatch):
        for source in flaws(kernel.source):
            flawed += 1
            arrays = [array.copy() for array in before]
            try:
                launch(replace(kernel, source=source), *grid[:2], arrays, grid[2])
            except EmulationError:
                continue
            same = [np.array_equal(*p, equal_nan=True) for p in zip(arrays, after, strict=True)]
            assert not all(same), f"nobody misses a line of this kernel:\n{source}"
    assert flawed > 50


def launches(text, precision, monkeypatch):
    """The first launch of every kernel of a training step: arrays before and after."""
    found = {}

    def noted(kernel, blocks, threads, arrays, sizes):
        before = [array.copy() for array in arrays]
        launch(kernel, blocks, threads, arrays, sizes)
        after = [array.copy() for array in arrays]
        found.setdefault(kernel.key, (kernel, (blocks, threads, sizes), before, after))

    monkeypatch.setattr(machine, "launch", noted)
    random = np.random.default_rng(0)
    graph = convdsl.load_source(text).graph
    step = compile_emulated(
        graph,
        10,
        "cross_entropy",
        convdsl.SGD(momentum=0.9),
        target=target.CudaTarget(precision),
    )
    step.step(
        random.standard_normal((10, 3, 9, 11), np.float32), random.integers(0, 18, 10), lr=0.1
    )
    return list(found.values())


def flaws(source):
    """The source with one thing less, for every such thing."""
    for right, wrong in FLAWS:
        for match in re.finditer(right, source):
            yield source[: match.start()] + wrong + source[match.end() :]


# -- the machine itself ----------------------------------------------------------------------


def test_a_kernel_that_leaves_an_element_unwritten_is_caught(monkeypatch):
    """A planted bug: pooling stops one element early."""
    plant(monkeypatch, "if position < points:", "if position < points - 1:")
    graph = sample_network(registry()["avg"].samples[0]).graph
    assert np.isnan(run(graph, random_arrays(graph, 1), 1)["output"].flat[-1])


def test_a_kernel_that_writes_beyond_its_buffer_is_caught(monkeypatch):
    plant(monkeypatch, "y[position] =", "y[position + 1] =")
    graph = sample_network(registry()["avg"].samples[0]).graph
    with pytest.raises(EmulationError, match=r"out of bounds of buffer `y`"):
        run(graph, random_arrays(graph, 1), 1)


def test_a_kernel_that_writes_an_input_is_caught(monkeypatch):
    plant(monkeypatch, "y[position] =", "x[position] =")
    graph = sample_network(registry()["avg"].samples[0]).graph
    with pytest.raises(EmulationError, match=r"writes \['x'\], not `y` alone"):
        run(graph, random_arrays(graph, 1), 1)


def plant(monkeypatch, right, wrong):
    """Replace a piece of the source of all loop nests."""
    honest = target.nests.recipe

    def buggy(family, images=CONTIGUOUS):
        made = honest(family, images)
        calls = []
        for call in made.calls:
            assert right in call.kernel.source
            source = call.kernel.source.replace(right, wrong)
            calls.append(replace(call, kernel=replace(call.kernel, source=source)))
        return replace(made, calls=tuple(calls))

    monkeypatch.setattr(target.nests, "recipe", buggy)
