"""Training on a GPU that is emulated: the same as on the CPU, and in fp16 with a scaled loss."""

import numpy as np
import pytest
from emulated_driver import EmulatedDriver

import convdsl
from convdsl import CompileError
from convdsl.runtime import cuda_compilation, driver
from convdsl.runtime.inputs import InputSpec
from convdsl.training import checkpoints
from convdsl.training.data import from_arrays
from convdsl.training.recipe import resolve
from convdsl.training.trainer import Diverged, Trainer, Watcher

PROGRAM = """cnn 1
net Tiny {
  input 1@6x6
  conv 4@3x3 -> relu -> dense 3
  train { epochs=2, batch=8, lr=0.05, seed=3, optimizer=sgd, momentum=0.9 }
}
"""
COUNT = 20


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    found = EmulatedDriver(working=1)
    monkeypatch.setattr(driver, "binding", lambda: found)
    monkeypatch.setattr(cuda_compilation, "load", found.load)
    return found


def trainer(folder=None, scale=1.0, **more):
    net = convdsl.load_source(PROGRAM)
    spec = InputSpec.of(net.graph.inputs[0])
    y = np.arange(COUNT) % 3
    x = np.random.default_rng(0).standard_normal((COUNT, 1, 6, 6)).astype(np.float32)
    x[:, 0, 0, 0] += y
    x *= np.float32(scale)
    data = from_arrays(x, y, spec, 3)
    parts = np.arange(16), np.arange(16, COUNT)
    return Trainer(net, resolve(net.recipe, (), spec), data, *parts, folder, threads=1, **more)


def test_it_trains_and_evaluates_as_the_cpu_does():
    ours, expected = trainer(target="cuda"), trainer()
    for each in (ours, expected):
        each.fit()
    for found, known in zip(ours.progress.history, expected.progress.history, strict=True):
        for name in ("loss", "val_loss", "val_accuracy"):
            assert found[name] == pytest.approx(known[name], rel=1e-4), name
    for name, array in ours.weights().items():
        np.testing.assert_allclose(array, expected.weights()[name], rtol=1e-3, atol=1e-5)


class Stop(Watcher):
    def __init__(self, at):
        self.at = at

    def step(self, trainer, loss):
        if trainer.progress.steps == self.at:
            raise KeyboardInterrupt


def test_a_scale_goes_on_with_its_checkpoint(tmp_path):
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


def test_a_loss_that_is_not_finite_is_explained():
    with pytest.raises(Diverged, match="not finite"):
        trainer(scale=1e30, target="cuda").fit()
