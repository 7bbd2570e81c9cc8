"""Training on a GPU, with a stand-in for its driver: the CPU's losses and the same files."""

import json
import sys

import numpy as np
import pytest
from emulated_driver import EmulatedDriver
from safetensors.numpy import load_file

from convdsl.cli import main
from convdsl.runtime import cuda_compilation, driver

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
    found = EmulatedDriver()
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
