"""`tools/gpu_check.py` without a GPU: with a stand-in for the driver, and torch on the CPU.

What cannot be tried here is torch's own capture of graphs, which one function of the tool does.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from emulated_driver import EmulatedDriver

from convdsl.kernels.cuda import maps
from convdsl.runtime import cuda_compilation, driver

TOOL = Path(__file__).resolve().parents[2] / "tools" / "gpu_check.py"


@pytest.fixture
def tool(monkeypatch):
    """The tool, with little to do, on a GPU that is emulated."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("gpu_check", TOOL)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_check", module)
    spec.loader.exec_module(module)
    gpu = EmulatedDriver(room=1 << 34)
    monkeypatch.setattr(driver, "binding", lambda: gpu)
    monkeypatch.setattr(cuda_compilation, "load", gpu.load)
    ops = module.registry()
    monkeypatch.setattr(module, "registry", lambda: {n: ops[n] for n in ("relu", "max", "bn")})
    layer = module.peers.Layer((64, 4, 4), 64, (3, 3), (1, 1), ((1, 1), (1, 1)), 1)
    monkeypatch.setattr(module.peers, "layers_of", lambda name: [layer])
    for name, value in (("RANDOM_NETWORKS", 3), ("NETWORKS", ("lenet",)), ("MEASURED", 0.0)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "TRAINED", (("lenet", 1),))
    monkeypatch.setattr(module, "ROUNDS", 1)
    return module


@pytest.fixture
def torch_on_the_cpu(tool, monkeypatch):
    """Torch whose GPU is the CPU, and whose captured graphs are plain calls."""
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: self)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(tool, "_needed", lambda: torch)

    def called(torch, function, given):
        with torch.no_grad():
            function(*given)
        return lambda: None

    monkeypatch.setattr(tool, "_captured", called)


def test_without_a_gpu_one_sentence_says_so(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("gpu_check_alone", TOOL)
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    try:
        sys.modules["gpu_check_alone"] = module
        spec.loader.exec_module(module)
        assert module.main(["--out", str(tmp_path / "found")]) == 1
    finally:
        sys.path[:] = before
        del sys.modules["gpu_check_alone"]
    assert "E512" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


def test_sections_are_kept_and_not_run_again(tool, tmp_path, capsys):
    wanted = ["--out", str(tmp_path), "--only", "device", "operations", "random"]
    assert tool.main(wanted) == 0
    found = json.loads((tmp_path / "operations.json").read_text(encoding="utf-8"))
    # Each sample forward and backward.
    assert len(found["rows"]) == 2 * sum(len(op.samples) for op in tool.registry().values())
    assert 0 < max(row["error"] for row in found["rows"]) < tool.EXACT_TO
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "arch sm_80" in report
    assert "3 checks, worst" in report
    capsys.readouterr()
    tool.SECTIONS["random"] = lambda report: pytest.fail("it is there already")
    assert tool.main(wanted) == 0


def test_arrays_of_torch_go_in_and_out(tool, torch_on_the_cpu, monkeypatch, tmp_path):
    monkeypatch.setattr(tool, "_torch", lambda: torch)
    monkeypatch.setattr(torch, "from_dlpack", lambda y: torch.from_numpy(np.asarray(y)))
    small = tool.convdsl.load_source("net T { input 3@6x6\n conv 4@3x3 -> relu -> dense 3 }")
    monkeypatch.setattr(tool.convdsl, "load", lambda name: small)
    assert tool.main(["--out", str(tmp_path), "--only", "arrays"]) == 0
    found = json.loads((tmp_path / "arrays.json").read_text(encoding="utf-8"))["rows"]
    assert [row["error"] for row in found] == [0, 0, 0, 0]


def test_when_time_is_up_the_next_call_goes_on(tool, tmp_path, capsys):
    wanted = ["--out", str(tmp_path), "--only", "device", "random"]
    assert tool.main([*wanted, "--seconds", "-1"]) == 1
    assert "device, random" in capsys.readouterr().err
    assert tool.main(wanted) == 0


def test_a_wrong_kernel_is_told(tool, tmp_path, monkeypatch, capsys):
    honest = maps.recipe

    def wrong(family):
        from dataclasses import replace

        made = honest(family)
        (call,) = made.calls
        source = call.kernel.source.replace("store4(y, at, ", "store4(y, at, float32(1.0) + ")
        kernel = replace(call.kernel, source=source)
        return replace(made, calls=(replace(call, kernel=kernel),))

    monkeypatch.setattr(maps, "recipe", wrong)
    assert tool.main(["--out", str(tmp_path), "--only", "operations"]) == 1
    assert "wrong: " in capsys.readouterr().out


def test_what_fails_leaves_the_other_checks(tool, tmp_path):
    report = tool.Report()
    tool.attempt(report, "first", lambda: 1 / 0)
    assert report.wrong == ["first: ZeroDivisionError: division by zero"]


def test_speeds_are_measured_beside_torch(tool, torch_on_the_cpu, tmp_path):
    sections = ("layers", "inference", "training")
    assert tool.main(["--out", str(tmp_path), "--only", *sections]) == 0
    for section, count in zip(sections, (3, 6, 2), strict=True):
        found = json.loads((tmp_path / f"{section}.json").read_text(encoding="utf-8"))
        assert len(found["rows"]) == count
        for row in found["rows"]:
            assert set(row["seconds"]) == {"convdsl", "torch", "torch channels_last"}
            assert row["ratio"] > 0
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "geometric mean" in report
    assert "aimed for: 0.6" in report
    trained = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))["rows"]
    assert {row["precision"] for row in trained} == {"fp32", "tf32"}
    assert all(row["loss"] > 1 and row["difference"] < 0.02 for row in trained)


def test_a_step_that_torch_does_not_capture_is_measured_as_it_is(tool, torch_on_the_cpu, tmp_path):
    def refused(torch, function, given):
        raise RuntimeError("operation not permitted when stream is capturing")

    tool._captured, tool.TRAINED_IN = refused, ("fp32",)
    assert tool.main(["--out", str(tmp_path), "--only", "training"]) == 0
    rows = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))["rows"]
    assert all("torch, not captured" in row["seconds"] for row in rows)
