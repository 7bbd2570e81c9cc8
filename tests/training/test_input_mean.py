"""The mean that `pixel_mean` takes off belongs to the weights: whoever loads them takes it off."""

import json

import numpy as np
import pytest
from datasets import image_folder
from safetensors.numpy import load_file, save_file

import convdsl
from convdsl import inspection
from convdsl.cli import main
from convdsl.diagnostics import CompileError
from convdsl.ops.losses import CrossEntropy
from convdsl.runtime import package
from convdsl.runtime.inputs import InputSpec
from convdsl.training.data import open_data

PROGRAM = """cnn 1
net Shades {
  input 3@6x8
  C1: conv 4@3x3 -> relu
  dense 2
  train { epochs=2, batch=4, lr=0.01, val=0.25, augment=[flip, pixel_mean] }
}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A program, its data, and a folder with what it was trained to."""
    folder = tmp_path_factory.mktemp("trained")
    program, out = folder / "shades.cnn", folder / "out"
    program.write_text(PROGRAM)
    data = image_folder(folder / "data", 12)
    line = ["train", str(program), "--data", str(data), "--out", str(out), "--threads", "1"]
    assert main(line) == 0
    return program, data, out


def examples(program, data):
    spec = InputSpec.of(convdsl.load(program).graph.inputs[0])
    opened = open_data(data, spec, 2)
    return opened.read(range(len(opened))), opened.labels


def expected_logits(trained):
    """What the mean and a program that knows of none come to."""
    program, data, out = trained
    x, labels = examples(program, data)
    weights = load_file(out / "best.safetensors")
    mean = weights.pop("input.mean")
    assert mean.shape == (3, 6, 8)
    assert mean.max() > 0.1
    bare = convdsl.load(program).compile(batch=len(x))
    bare.update(weights)
    return bare(x - mean), bare(x), labels


def test_python_evaluate_and_run_give_the_same_numbers(trained, tmp_path, capsys):
    program, data, out = trained
    best = out / "best.safetensors"
    expected, without, labels = expected_logits(trained)
    assert np.abs(expected - without).max() > 1e-3
    x, _ = examples(program, data)
    loaded = convdsl.load(program).compile(batch=len(x))
    loaded.load(best)
    np.testing.assert_array_equal(loaded(x), expected)

    np.save(tmp_path / "x.npy", x)
    line = ["run", str(program), "--weights", str(best), "--input", str(tmp_path / "x.npy")]
    assert main([*line, "--batch", str(len(x)), "--output", str(tmp_path / "y.npy")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)

    capsys.readouterr()
    line = ["evaluate", str(program), "--data", str(data), "--weights", str(best)]
    assert main([*line, "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["loss"] == pytest.approx(float(CrossEntropy().evaluate(expected, labels)), rel=1e-5)
    assert told["accuracy"] == (expected.argmax(axis=1) == labels).mean()


def test_gradients_and_activations_take_it_off_too(trained):
    program, data, out = trained
    x, labels = examples(program, data)
    weights = load_file(out / "best.safetensors")
    mean = weights.pop("input.mean")
    net = convdsl.load(program)
    bare, full = (net.compile(batch=len(x), train=True) for _ in range(2))
    bare.update(weights)
    full.load(out / "best.safetensors")
    loss, gradients = full.value_and_grad(x, labels)
    expected_loss, expected = bare.value_and_grad(x - mean, labels)
    assert loss == expected_loss
    for name, array in expected.items():
        np.testing.assert_array_equal(gradients[name], array)
    one = net.compile()
    one.load(out / "best.safetensors")
    without = net.compile()
    without.update(weights)
    sheets = [inspection.activation_sheet(p, net.graph, [x]) for p in (one, without)]
    assert sheets[0] != sheets[1]


def test_compiled_packages_know_it(trained, tmp_path, capsys):
    program, data, out = trained
    expected, *_ = expected_logits(trained)
    x, _ = examples(program, data)
    made = convdsl.load(program).compile(batch=len(x))
    package.write(made, tmp_path / "seeded")
    made.load(out / "best.safetensors")
    package.write(made, tmp_path / "trained")
    np.testing.assert_array_equal(package.load(tmp_path / "trained")(x), expected)
    np.save(tmp_path / "x.npy", x)
    line = ["run", str(tmp_path / "seeded"), "--weights", str(out / "best.safetensors")]
    line += ["--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy")]
    assert main(line) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)


def test_it_is_saved_loaded_and_left_behind(trained, tmp_path):
    program, _, out = trained
    net = convdsl.load(program)
    made = net.compile()
    made.save(tmp_path / "plain.safetensors")
    made.load(out / "best.safetensors")
    made.save(tmp_path / "again.safetensors")
    ours, again = (load_file(p) for p in (out / "best.safetensors", tmp_path / "again.safetensors"))
    assert ours.keys() == again.keys()
    np.testing.assert_array_equal(again["input.mean"], ours["input.mean"])
    made.load(tmp_path / "plain.safetensors")
    assert made.input_mean is None


def test_one_of_another_shape_is_refused(trained, tmp_path):
    program, _, out = trained
    weights = load_file(out / "best.safetensors")
    weights["input.mean"] = np.zeros((3, 1, 1), np.float32)
    save_file(weights, tmp_path / "w.safetensors")
    made = convdsl.load(program).compile()
    with pytest.raises(CompileError, match=r"E505.*`input.mean` has shape \[3, 6, 8\]"):
        made.load(tmp_path / "w.safetensors")
    assert made.input_mean is None


def test_no_parameter_can_have_its_name():
    with pytest.raises(CompileError, match="E002"):
        convdsl.load_source("net A {\n  input 4\n  input: dense 2\n}\n")
