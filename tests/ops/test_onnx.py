"""Every op × sample against ONNX: the specification's own reference evaluator, and onnxruntime.

The models stand in `onnx_models`. Where an evaluator is wrong or lacks something, `lacking` says
what, and the other one speaks alone.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import positive_buffers, random_arrays, relative_error, sample_network
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from onnx_models import (
    LOSS_TRANSLATIONS,
    TRANSLATIONS,
    WITHOUT,
    loss_model,
    network_model,
    operators,
)

import convdsl
from convdsl import CompileError
from convdsl.graph import TensorType
from convdsl.ops import registry
from convdsl.ops.losses import LOSSES, CrossEntropy, NegativeLogLikelihood
from convdsl.runtime.interpreter import evaluate

SAMPLES = [
    (op, sample) for op in registry().values() for sample in op.samples if op.kind in TRANSLATIONS
]


def reference(model, inputs):
    return ReferenceEvaluator(model).run(None, inputs)[0]


def runtime(model, inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)[0]


EVALUATORS = {"reference": reference, "onnxruntime": runtime}


def lacking(evaluator, op):
    """What an evaluator cannot do right about an op, or None."""
    match evaluator, op.kind:
        case "reference", "deconv" if op.groups > 1:
            return "lays out the groups of ConvTranspose as if each had one filter"
        case "onnxruntime", "lrn" if op.size % 2 == 0 and op.over == "channels":
            return "takes odd numbers of neighbours alone"
    return None


def batch_for(op, type):
    """Two; but onnx's reference of LRN counts images where it should count channels."""
    return type.channels if op.kind == "lrn" else 2


def assert_onnx_agrees(graph, seed=0, tolerance=1e-5):
    op, type = graph.nodes[-1].op, graph.inputs[0].type
    arrays = positive_buffers(graph, random_arrays(graph, batch_for(op, type), seed))
    model, inputs = network_model(graph, arrays)
    onnx.checker.check_model(model)
    expected = evaluate(graph, arrays)["output"]
    asked = [name for name in EVALUATORS if lacking(name, op) is None]
    assert asked
    for name in asked:
        # float32 sums in another order
        error = relative_error(EVALUATORS[name](model, inputs), expected)
        assert error < tolerance, f"{name}: {error}"


def test_every_op_is_mapped_or_has_a_reason():
    assert set(registry()) == set(TRANSLATIONS) ^ set(WITHOUT)
    assert all(len(reason.split()) > 4 for reason in WITHOUT.values())


@pytest.mark.parametrize(
    ("op", "sample"), SAMPLES, ids=[f"{s.text} on {s.input}" for _, s in SAMPLES]
)
def test_the_result_is_onnxs(op, sample):
    assert_onnx_agrees(sample_network(sample).graph)


@pytest.mark.parametrize("name", WITHOUT)
def test_what_onnx_lacks_is_the_identity_in_inference(name):
    """So that a network with it can still be compared, the node left out."""
    for sample in registry()[name].samples:
        graph = sample_network(sample).graph
        arrays = random_arrays(graph, 2)
        (x,) = arrays.values()
        np.testing.assert_array_equal(evaluate(graph, arrays)["output"], x)


# -- windows at random -----------------------------------------------------------------------


def by(sizes):
    return "x".join(map(str, sizes))


@st.composite
def windows(draw, kind):
    """A use of an op with a window, any rank, most of the attributes drawn: its text and input."""
    rank = draw(st.integers(1, 3))

    def each(low, high):
        return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    sizes, window, stride = each(1, {1: 12, 2: 9, 3: 5}[rank]), each(1, 4), each(1, 4)
    dilation = each(1, 3) if kind != "avg" else [1] * rank
    pads = [tuple(draw(st.integers(0, min(k, 2))) for _ in range(2)) for k in window]
    if kind in ("max", "avg"):
        pads = [tuple(min(p, k - 1) for p in pair) for pair, k in zip(pads, window, strict=True)]
    written = f"pad=[{', '.join(f'({a}, {b})' for a, b in pads)}]"
    if kind == "avg":
        flags = draw(st.sampled_from(["", "ceil=on", "count_pad=on", "ceil=on count_pad=on"]))
        text = f"avg {by(window)} /{by(stride)} {written} {flags}"
    elif kind == "max":
        ceil = draw(st.sampled_from(["on", "off"]))
        text = f"max {by(window)} /{by(stride)} {written} dilation={by(dilation)} ceil={ceil}"
    elif kind == "resize":
        mode = draw(st.sampled_from(["nearest", "bilinear"]))
        text = f"resize to={by(each(1, 17))} mode={mode}"
    else:
        groups = draw(st.sampled_from([1, 2]))
        text = f"{kind} 4@{by(window)} /{by(stride)} {written} dilation={by(dilation)}"
        text += f" groups={groups}"
        if kind == "deconv":
            extra = by([draw(st.integers(0, s - 1)) for s in stride])
            text += f" extra={extra}"
    return text, f"2@{by(sizes)}"


@pytest.mark.parametrize("kind", ["conv", "deconv", "max", "avg", "resize"])
def test_windows_of_every_kind_are_onnxruntimes(kind):
    """Ceil, padding counted or not and on one side, dilation, stride, groups, in 1D to 3D.

    The reference evaluator is left out, for it is wrong about groups of ConvTranspose (as above),
    MaxPool at stride 1 with padding on one side (it drops results), AveragePool with ceil at
    strides above 2 (half of what rounding up adds goes to the front), and linear Resize where
    rounding puts a position just below a centre (it takes the element before).
    """
    compared = []

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(windows(kind))
    def compare(case):
        text, shape = case
        try:
            graph = convdsl.load_source(f"net T {{\n  input {shape}\n  {text}\n}}\n").graph
        except CompileError as refused:
            # A window that does not fit, or sees nothing but padding.
            if refused.diagnostics[0].code not in ("E201", "E202"):
                raise
            return
        arrays = random_arrays(graph, 2)
        model, inputs = network_model(graph, arrays)
        expected = evaluate(graph, arrays)["output"]
        assert relative_error(runtime(model, inputs), expected) < 1e-5, text
        compared.append(text)

    compare()
    assert len(compared) > 20


@pytest.mark.parametrize("size", range(1, 8))
def test_neighbours_of_even_numbers_lean_as_in_pytorch(size):
    """ONNX sums from c − (n − 1)//2 to c + n//2; PyTorch, like us, from c − n//2 to c + (n − 1)//2.

    The same for odd n; for even n, ONNX's is ours with the channels in reverse order.
    """
    text = f"net T {{\n  input 6@3x3\n  lrn {size} alpha=0.7\n}}\n"
    assert_onnx_agrees(convdsl.load_source(text).graph)


# -- losses ----------------------------------------------------------------------------------

LOSS_CASES = [
    *(cls() for cls in LOSSES.values()),
    CrossEntropy((0.5, 2.0, 1.0)),
    NegativeLogLikelihood((0.5, 2.0, 1.0)),
]


def test_every_loss_is_mapped():
    """ONNX has no label smoothing; torch is what that is compared with."""
    assert set(LOSSES) == set(LOSS_TRANSLATIONS)


@pytest.mark.parametrize("shape", [(3,), (3, 4, 5)], ids=["vector", "2D"])
@pytest.mark.parametrize("loss", LOSS_CASES, ids=lambda loss: repr(loss))
def test_losses_are_onnxs(loss, shape):
    random = np.random.default_rng(4)
    x = random.standard_normal((5, *shape)).astype(np.float32)
    if loss.target(TensorType(shape)).dtype == "int64":
        target = random.integers(0, 3, (5, *shape[1:]))
    else:
        low = 0 if loss.kind == "binary_cross_entropy" else -1
        target = random.choice(np.array([low, 1], np.float32), x.shape)
    model, inputs = loss_model(loss, x, target)
    onnx.checker.check_model(model)
    expected = loss.evaluate(x, target)
    for run in EVALUATORS.values():
        assert relative_error(run(model, inputs), expected) < 1e-5


def test_the_operators_of_a_node_are_told():
    (shuffle,) = sample_network(registry()["shuffle"].samples[0]).graph.nodes
    assert operators(shuffle) == ("Reshape", "Transpose")
