"""Feature maps of 16 bits, in blocks of eight channels: every op, random networks, every tile.

Against the interpreter in float64. What is off is what rounding does, to factors and to feature
maps between kernels: half a unit in the last of 8 bits in bf16, of 11 in fp16. So networks are
held to what rounding their parameters and inputs does to the interpreter's results.
"""

from functools import partial

import numpy as np
import pytest
from emulated import run
from helpers import realistic_arrays
from joined_maps import PIECES, network
from kernels_by_samples import CHAINS, SAMPLES, by_norm, check_forward, check_gradients
from random_networks import JoiningWriter, Writer

import convdsl
from convdsl import compiler
from convdsl.compiler import lower
from convdsl.kernels.cuda import product, tiles
from convdsl.kernels.cuda.narrow import convolution, weight_gradient
from convdsl.kernels.cuda.target import CudaTarget
from convdsl.ops.families.windows import COUNTS
from convdsl.passes import SGD
from convdsl.plan import plan
from convdsl.runtime.interpreter import evaluate

ROUNDING = {"bf16": 2.0**-9, "fp16": 2.0**-12}
"""The mean error of a rounding, about."""


@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.text)
def test_an_op_is_the_interpreters(sample, precision):
    # Two factors and a result, by norm; a gradient has some five roundings behind it.
    emulated = partial(run, precision=precision)
    check_forward(emulated, sample, 3 * ROUNDING[precision], by_norm)
    check_gradients(emulated, sample, 8 * ROUNDING[precision], by_norm)


# Rounded to 16 bits, another element may be the maximum.
SMOOTH = [chain for chain in CHAINS if "max" not in chain.text]


@pytest.mark.parametrize("chain", SMOOTH[::2], ids=lambda s: s.text)
def test_an_activations_gradient_is_taken_along(chain):
    # Two ops, and the slope of an activation, which is a difference.
    check_gradients(partial(run, precision="bf16"), chain, 20 * ROUNDING["bf16"], by_norm)


# -- networks --------------------------------------------------------------------------------


def check_network(graph, batch, precision, seed, text):
    """All outputs and gradients, as far as rounding lets them be known."""
    lowered = lower(graph, "cross_entropy")
    arrays = realistic_arrays(lowered, batch, seed)
    expected = evaluate(lowered, arrays)
    others = [disturbed(lowered, arrays, precision, k) for k in range(3)]
    actual = run(graph, arrays, batch, "cross_entropy", precision)
    if precision == "fp16" and not all(np.isfinite(value).all() for value in actual.values()):
        # Gradients are larger by a factor meanwhile; training would find one that fits.
        stored = [v for v in others[0] if v.type.batched and len(v.type.shape) > 1]
        largest = max(np.abs(others[0][v]).max() for v in stored)
        assert largest * 1024 > np.finfo(np.float16).max, text
        return
    largest = max(np.linalg.norm(expected[name]) for name in actual)
    outputs = dict(lowered.outputs)
    for name, value in actual.items():
        scale = max(np.linalg.norm(expected[name]), 0.1 * largest)
        known_to = max(np.linalg.norm(o[outputs[name]] - expected[name]) for o in others)
        error = np.linalg.norm(value - expected[name])
        assert error < FACTOR * (known_to + ROUNDING[precision] * scale), f"{name}: {text}"


FACTOR = 4
"""How much more the roundings themselves may do than errors drawn at random in their place."""


def disturbed(graph, arrays, precision, seed):
    """All values where what goes into an op and comes out has errors as rounding makes them.

    Where they cancel, as before a normalisation, they are larger than what is left.
    """
    random = np.random.default_rng(seed)

    def rounded(a):
        error = 2 * ROUNDING[precision] * random.uniform(-1, 1, a.shape)
        return a * (1 + error) if a.dtype.kind == "f" else a

    values = {v: rounded(arrays[v.name]) for v in graph.variables}
    batch = len(arrays[graph.inputs[0].name])
    for node in graph.nodes:
        results = node.op.evaluate_for(batch, *(values[v] for v in node.inputs))
        results = results if isinstance(results, tuple) else (results,)
        values.update(zip(node.outputs, map(rounded, results), strict=True))
    return values


def compare(seed, precision):
    writer = Writer(seed)
    text = writer.text()
    graph = convdsl.load_source(text).graph
    check_network(graph, writer.batch, precision, seed, f"seed {seed}\n{text}")


@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize("start", range(0, 30, 10))
def test_random_networks(start, precision):
    for seed in range(start, start + 10):
        compare(seed, precision)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize("start", range(30, 330, 50))
def test_more_random_networks(start, precision):
    for seed in range(start, start + 50):
        compare(seed, precision)


def same_without_parts(seed, precision, monkeypatch):
    """A network that joins and cuts gives the same bits where all of that is copied."""
    writer = JoiningWriter(seed)
    graph = convdsl.load_source(writer.text()).graph
    arrays = realistic_arrays(lower(graph, "cross_entropy"), writer.batch, seed)
    found = run(graph, arrays, writer.batch, "cross_entropy", precision)
    with monkeypatch.context() as patched:
        patched.setattr(CudaTarget, "takes_part", lambda self, family, operand, batch: False)
        expected = run(graph, arrays, writer.batch, "cross_entropy", precision)
    for name, value in expected.items():
        assert np.isfinite(value).all()
        assert np.array_equal(found[name], value), f"{name}: seed {seed}\n{writer.text()}"


@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize("start", range(0, 20, 10))
def test_random_networks_that_join_and_cut(start, precision, monkeypatch):
    for seed in range(start, start + 10):
        same_without_parts(seed, precision, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize("start", range(20, 180, 40))
def test_more_random_networks_that_join_and_cut(start, precision, monkeypatch):
    for seed in range(start, start + 40):
        same_without_parts(seed, precision, monkeypatch)


# Channels that fill no block, groups that do not, and sizes that are no multiple of any tile.
EVERYTHING = """
  conv 13@3x3 pad=1 -> tanh -> conv 36@3x3 /2
  v = conv 40@2x3 groups=4 dilation=2 pad=1
  add(v, (v -> conv 40@1)) -> conv 40@3x3 groups=40 pad=1 -> deconv 6@3x3 /2 -> dense 18
"""


def choose(among, parts, monkeypatch):
    """Every product is computed with one of these tiles, its sums in so many parts if possible."""
    honest = tiles.choose

    def chosen(rows, columns, inner, batch=1, tiles=(), splittable=True):
        work = honest(rows, columns, inner, batch, among, splittable=False)
        splits = min(parts, max(1, -(-inner // work.tile.depth))) if splittable else 1
        return type(work)(work.tile, splits, work.blocks * splits)

    for module in (convolution, product, weight_gradient):
        monkeypatch.setattr(module, "choose", chosen)


@pytest.mark.parametrize("parts", [1, 3], ids=lambda n: f"{n}_parts")
@pytest.mark.parametrize("tile", tiles.tiles_for("fp16"), ids=str)
def test_every_tile_at_the_edges(tile, parts, monkeypatch):
    choose((tile,), parts, monkeypatch)
    for shape in ("3@9x11", "8@8x8"):
        text = f"net T {{ input {shape}\n {EVERYTHING} }}"
        check_network(convdsl.load_source(text).graph, 10, "fp16", 0, text)


@pytest.mark.parametrize("parts", [1, 3], ids=lambda n: f"{n}_parts")
@pytest.mark.parametrize("size", ["12x12", "9x11"])
@pytest.mark.parametrize("piece", PIECES)
def test_joined_maps_are_computed_and_read_in_their_places(piece, size, parts, monkeypatch):
    choose(tiles.tiles_for("bf16"), parts, monkeypatch)
    text = network(piece, size)
    graph = convdsl.load_source(text).graph
    target = CudaTarget("bf16")
    planned = plan(compiler.laid_out(lower(graph, "cross_entropy"), target), 3, target)
    copied = {s.reason for s in planned.steps if s.reason.startswith("copied")}
    assert copied <= {"copied: it has its place elsewhere"}
    assert planned.free
    check_network(graph, 3, "bf16", 0, text)


# -- depthwise -------------------------------------------------------------------------------

DEPTHWISE = [
    # rows that runs of four do not fill, epilogues, blocks that channels do not fill
    "conv C@3x3 pad=1 groups=C -> relu -> conv C@3x3 /2 pad=1 groups=C bias=off -> bn -> relu",
    # elements of a gradient that no window meets, windows of two lanes a thread, dilation
    "conv C@5x5 pad=2 groups=C -> tanh -> conv C@1x1 /2 groups=C -> conv C@3x2 /(1, 2) dilation=2"
    " pad=2 groups=C",
    # an epilogue that reads a map, and one that takes the slope of an activation along
    "a = conv C@1x1 -> tanh\n b = a -> conv C@3x3 pad=1 groups=C\n add(a, b) -> sigmoid"
    " -> conv C@2x3 /3 pad=1 groups=C",
]


@pytest.mark.parametrize("shape", ["8@9x11", "16@8x12", "13@7x7", "3@9x9"])
@pytest.mark.parametrize("body", DEPTHWISE)
def test_depthwise_convolutions_and_their_gradients(body, shape):
    channels = shape.split("@")[0]
    text = f"net T {{ input {shape}\n {body.replace('C', channels)} -> dense 5 }}"
    for precision in ROUNDING:
        found = planned(text, precision, loss="cross_entropy")
        assert any("depthwise" in step.kernel.name for step in found.steps)
        # An image that is given is no map in blocks where its channels are few.
        joined = any("groups as one" in step.reason for step in found.steps)
        assert joined <= (channels == "3")
        check_network(convdsl.load_source(text).graph, 5, precision, 0, text)


def test_a_series_and_a_volume_of_channels_of_their_own():
    for shape, window in (("12@19", "5"), ("9@4x5x6", "3x2x3"), ("9@3x4x5", "3x3x3")):
        groups = shape.split("@")[0]
        body = f"conv {groups}@{window} /2 pad=1 groups={groups} -> tanh"
        text = f"net T {{ input {shape}\n {body} -> dense 5 }}"
        check_network(convdsl.load_source(text).graph, 3, "fp16", 0, text)


# -- what is stored how ----------------------------------------------------------------------


def planned(text, precision="bf16", batch=2, loss=None):
    target = CudaTarget(precision)
    graph = lower(convdsl.load_source(text).graph, loss)
    return plan(compiler.laid_out(graph, target), batch, target)


def dtypes(found):
    """The element types of what every step writes, by the step's name."""
    return {step.name: step.buffers[-1].dtype for step in found.steps}


def test_feature_maps_are_stored_in_16_bits_and_sums_and_outputs_are_not():
    text = "net T { input 8@8x8; conv 16@3x3 -> bn -> relu -> conv 8@1 -> avg global -> dense 3 }"
    found = planned(text, loss="cross_entropy")
    types = dtypes(found)
    assert types["conv1"] == types["relu1"] == types["conv2"] == "bfloat16"
    assert types["bn1.reduce"] == types["bn1.reduce_2"] == types["dense1"] == "float32"
    assert {p.buffer.dtype for p in found.outputs} == {"float32"}
    assert planned(text, "fp32").arena_bytes > 1.5 * planned(text).arena_bytes


def test_a_feature_map_that_is_an_output_stays_float32():
    (port,) = planned("net T { input 8@8x8; conv 16@8x8 -> relu -> flatten }").outputs
    assert port.buffer.dtype == "float32"


def test_places_of_maxima_that_16_bits_cannot_count_stay_float32():
    for side, expected in ((16, "bfloat16"), (17, "float32")):
        assert (side**2 <= COUNTS) == (expected == "bfloat16")
        text = f"net T {{ input 8@{side}x{side}; conv 8@1 -> max global -> dense 2 }}"
        winners = [t for n, t in dtypes(planned(text, loss="cross_entropy")).items() if "win" in n]
        assert winners == [expected]


def test_weights_are_rounded_once_for_inference():
    found = planned("net T { input 8@8x8; conv 16@3x3 -> conv 8@1 }")
    assert [step.buffers[-1].dtype for step in found.prepare] == ["bfloat16"] * 2


@pytest.mark.parametrize(("channels", "name"), [(16, "_by_8"), (12, "_by_4"), (7, "")])
def test_weights_of_a_few_rows_are_rounded_once_where_they_do_not_change(channels, name):
    text = f"net T {{ input {channels}@3x1; tanh -> dense 5 -> tanh -> dense 3 }}"
    found = planned(text)
    assert f"product_walked_2{name}" in {kernel.name for kernel in found.kernels}
    rounded = [step.buffers[-1].dtype for step in found.prepare]
    assert rounded == (["bfloat16"] if name else [])
    for precision, batch in (("bf16", 1), ("fp16", 8)):
        check_network(convdsl.load_source(text).graph, batch, precision, 0, text)


def test_weights_that_change_are_read_as_they_are():
    graph = convdsl.load_source("net T { input 16@3x1; dense 8 -> tanh -> dense 3 }").graph
    target = CudaTarget("bf16")
    found = plan(lower(graph, "cross_entropy", SGD()), 2, target)
    assert "rounded" not in {kernel.name for kernel in found.kernels}
