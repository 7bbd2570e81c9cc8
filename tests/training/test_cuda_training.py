"""Training on a GPU, with a stand-in for its driver: the CPU's losses and the same files."""

import json
import sys

import numpy as np
import pytest
from emulated_driver import EmulatedDriver
from safetensors.numpy import load_file

import convdsl
from convdsl import CompileError
from convdsl.cli import main
from convdsl.runtime import cuda_compilation, driver
from convdsl.runtime.inputs import InputSpec
from convdsl.training import checkpoints
from convdsl.training.data import from_arrays
from convdsl.training.recipe import resolve
from convdsl.training.trainer import Diverged, Trainer, Watcher

PROGRAM = """cnn 1
net Tiny {
  input 1@6x6
  conv 2@3x3 -> bn -> relu
  max 2 -> dropout 0.2 -> dense 3
  train {
    epochs=2, batch=4, lr=0.1, val=0.25, seed=1
    average=0.5, augment=[pixel_mean]
  }
}
"""


@pytest.fixture
def line(tmp_path):
    """The command without its target and folder."""
    program, data = tmp_path / "tiny.cnn", tmp_path / "data.npz"
    program.write_text(PROGRAM)
    y = np.arange(24) % 3
    x = np.random.default_rng(0).standard_normal((24, 1, 6, 6)) * 0.3
    x[np.arange(24), 0, 2 * y] += 1
    np.savez(data, x=x, y=y)
    return ["train", str(program), "--data", str(data), "--threads", "1"]


@pytest.fixture
def gpu(monkeypatch):
    found = EmulatedDriver(working=1)
    monkeypatch.setattr(driver, "binding", lambda: found)
    monkeypatch.setattr(cuda_compilation, "load", found.load)
    return found


def history(folder):
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_trains_as_the_cpu_does_and_keeps_the_same_files(line, gpu, tmp_path, capsys):
    ours, expected = tmp_path / "gpu", tmp_path / "cpu"
    assert main([*line, "--out", str(ours), "--target", "cuda"]) == 0
    assert gpu.calls.count("cuGraphLaunch") > 8
    assert main([*line, "--out", str(expected)]) == 0
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in expected.iterdir())
    for found, known in zip(history(ours), history(expected), strict=True):
        for name in ("loss", "val_loss"):
            assert found[name] == pytest.approx(known[name], rel=1e-3)
    weights, known = (load_file(f / "last.safetensors") for f in (ours, expected))
    assert weights.keys() == known.keys()
    assert "input.mean" in weights
    for name, array in known.items():
        np.testing.assert_allclose(weights[name], array, rtol=1e-3, atol=1e-4)
    capsys.readouterr()
    evaluated = ["evaluate", *line[1:], "--weights", str(ours / "last.safetensors")]
    losses = []
    for target in ("cuda", "cpu"):
        assert main([*evaluated, "--target", target, "--batch", "4", "--format", "json"]) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_without_a_gpu_it_says_so(line, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert main([*line, "--out", str(tmp_path / "out"), "--target", "cuda"]) == 1
    told = capsys.readouterr().err
    assert "error[E512]" in told
    assert not list((tmp_path / "out").iterdir())


def test_on_the_cpu_there_is_one_precision(line, tmp_path, capsys):
    assert main([*line, "--out", str(tmp_path / "out"), "--precision", "bf16"]) == 1
    assert "error[E511]" in capsys.readouterr().err


# -- from Python ------------------------------------------------------------------------------

PLAIN = """cnn 1
net Tiny {
  input 1@6x6
  conv 4@3x3 -> relu -> dense 3
  train { epochs=2, batch=8, lr=0.05, seed=3, optimizer=sgd, momentum=0.9 }
}
"""
COUNT = 20


def trainer(folder=None, scale=1.0, **more):
    net = convdsl.load_source(PLAIN)
    spec = InputSpec.of(net.graph.inputs[0])
    y = np.arange(COUNT) % 3
    x = np.random.default_rng(0).standard_normal((COUNT, 1, 6, 6)).astype(np.float32)
    x[:, 0, 0, 0] += y
    x *= np.float32(scale)
    data = from_arrays(x, y, spec, 3)
    parts = np.arange(16), np.arange(16, COUNT)
    return Trainer(net, resolve(net.recipe, (), spec), data, *parts, folder, threads=1, **more)


class Stop(Watcher):
    def __init__(self, at):
        self.at = at

    def step(self, trainer, loss):
        if trainer.progress.steps == self.at:
            raise KeyboardInterrupt


def test_a_scale_goes_on_with_its_checkpoint(gpu, tmp_path):
    options = {"target": "cuda", "precision": "fp16"}
    whole = trainer(tmp_path / "whole", **options)
    (tmp_path / "whole").mkdir()
    whole.fit()
    (tmp_path / "parted").mkdir()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "parted", watchers=[Stop(3)], **options).fit()
    kept = checkpoints.read(tmp_path / "parted")
    assert 1 < kept.state["loss_scale"] <= 65_536
    assert kept.state["good_steps"] > 0
    assert kept.progress.recipe["precision"] == "fp16"
    again = trainer(tmp_path / "parted", **options)
    again.fit()
    for name, array in whole.program.state.items():
        np.testing.assert_array_equal(again.program.state[name], array, err_msg=name)
    for name, array in whole.weights().items():
        np.testing.assert_array_equal(again.weights()[name], array, err_msg=name)
    with pytest.raises(CompileError, match="another `precision`"):
        trainer(tmp_path / "parted")


def test_a_loss_that_is_not_finite_is_explained(gpu):
    with pytest.raises(Diverged, match="not finite"):
        trainer(scale=1e30, target="cuda").fit()
