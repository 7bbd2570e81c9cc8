"""Loss scaling: a bad step changes nothing but the scale, good ones let it grow."""

import numpy as np
import pytest
from emulator import compile_emulated
from helpers import relative_error

import convdsl
from convdsl.compiler import lower, scale_of
from convdsl.passes import LossScale, Refined
from convdsl.runtime.interpreter import evaluate
from convdsl.runtime.parameters import initial

TEXT = "net T { input 2@6x6\n conv 3@3x3 -> bn -> relu -> dense 4 }"
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((5, 2, 6, 6)).astype(np.float32)
TARGET = np.array([0, 1, 2, 3, 0])
ADAM = convdsl.Adam()


class Interpreted:
    """A training in the interpreter, whose states are the arrays by name."""

    def __init__(self, scale, optimizer=ADAM):
        graph = convdsl.load_source(TEXT).graph
        self.graph = lower(graph, "cross_entropy", optimizer, scale=scale)
        kept = [v for v in self.graph.variables if v.role not in ("input", "target")]
        self.arrays = {name: np.array(a) for name, a in initial(kept, 0).items()}

    def step(self, factor=1.0):
        """One step; the gradients are so many times as large as the loss's own."""
        given = {self.graph.inputs[0].name: X * np.float32(factor), "target": TARGET}
        with np.errstate(all="ignore"):
            found = evaluate(self.graph, {**self.arrays, **given})
        self.arrays |= {name[:-1]: a for name, a in found.items() if name.endswith("'")}

    def trained(self):
        others = ("loss_scale", "good_steps", "mean", "variance")
        return {n: a.copy() for n, a in self.arrays.items() if n.split(".")[-1] not in others}


def moved(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


def test_a_bad_step_is_left_out_and_halves_the_scale_until_steps_are_good():
    training = Interpreted(LossScale(initial=2.0**127))
    training.arrays["bn1.scale"] *= np.float32(100)  # large activations, large gradients
    before, statistics = training.trained(), training.arrays["bn1.mean"].copy()
    scales = []
    while not moved(before, training.trained()):
        scales.append(float(training.arrays["loss_scale"]))
        training.step()
        assert len(scales) < 60
    assert len(scales) > 1, "the first step was good"
    assert scales == [2.0 ** (127 - n) for n in range(len(scales))]
    assert training.arrays["good_steps"] == 1
    # Adam counts the good step alone; running statistics move on in every step.
    assert training.arrays["steps"] == 1
    assert not np.array_equal(statistics, training.arrays["bn1.mean"])
    assert all(np.isfinite(a).all() for a in training.arrays.values())


def test_good_steps_let_the_scale_grow():
    training = Interpreted(LossScale(initial=8.0, patience=3))
    found = []
    for _ in range(7):
        training.step()
        found.append((float(training.arrays["loss_scale"]), int(training.arrays["good_steps"])))
    assert found == [(8, 1), (8, 2), (16, 0), (16, 1), (16, 2), (32, 0), (32, 1)]


def test_a_bad_step_begins_the_count_again_and_the_scale_stays_above_one():
    training = Interpreted(LossScale(initial=1.0, patience=3))
    training.step()
    training.step()
    before = training.trained()
    training.step(np.inf)
    assert not moved(before, training.trained())
    assert training.arrays["good_steps"] == 0
    assert training.arrays["loss_scale"] == 1


@pytest.mark.parametrize("optimizer", [ADAM, Refined(convdsl.SGD(momentum=0.9), clip=0.1)])
def test_a_scale_changes_nothing_else(optimizer):
    scaled = Interpreted(LossScale(initial=4096.0), optimizer)
    plain = Interpreted(1.0, optimizer)
    for _ in range(3):
        scaled.step()
        plain.step()
    for name, array in plain.trained().items():
        assert relative_error(scaled.arrays[name], array) < 1e-5, name


def test_half_precision_has_it_where_parameters_are_updated():
    assert scale_of("fp16", ADAM) == LossScale()
    assert isinstance(scale_of("fp16"), float)
    assert scale_of("bf16", ADAM) == 1.0


def half(seed=0):
    """A program whose first gradients are beyond half precision at the first scale."""
    graph = convdsl.load_source("net T { input 8\n dense 16 -> tanh -> dense 4 }").graph
    options = {"optimizer": convdsl.SGD(momentum=0.9), "precision": "fp16"}
    return compile_emulated(graph, 16, "mean_squared_error", seed=seed, **options)


def test_half_precision_overflows_skips_and_recovers_and_a_checkpoint_goes_on():
    random = np.random.default_rng(1)
    x = random.standard_normal((16, 8)).astype(np.float32)
    target = (random.standard_normal((16, 4)) * 300).astype(np.float32)
    program = half()
    start = {name: array.copy() for name, array in program.parameters.items()}
    while not moved(start, program.parameters):
        scale = float(program.state["loss_scale"])
        assert np.isfinite(program.step(x, target, lr=1e-3))
        assert scale > 1
    assert program.state["loss_scale"] == scale < LossScale().initial
    other = half(seed=7)
    other.update({**program.parameters, **program.buffers})
    other.resume({n: a.copy() for n, a in program.state.items()}, program.steps_taken)
    losses = [[p.step(x, target, lr=1e-3) for _ in range(3)] for p in (program, other)]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    assert other.state["good_steps"] == 4
