"""`tools/gpu_check.py` without a GPU: with a stand-in for the driver, and torch on the CPU.

What cannot be tried here is torch's own capture of graphs, which one function of the tool does.
"""

import importlib
import importlib.util
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from emulated_driver import EmulatedDriver

import convdsl
from convdsl.kernels.cuda import maps
from convdsl.runtime import cuda_compilation, driver

TOOL = Path(__file__).resolve().parents[2] / "tools" / "gpu_check.py"
PARTS = ("checks", "diagnosis", "fast", "kernels", "report", "right", "running", "torches")
SMALL = "net T { input 1@4x4\n conv 4@3x3 -> relu -> flatten -> dense 10 }"


@pytest.fixture
def parts(monkeypatch):
    """The modules of the tool, fresh ones, and the tool itself."""
    monkeypatch.setattr(sys, "path", [str(TOOL.parent), *sys.path])
    names = ["gpu_checks", *(f"gpu_checks.{name}" for name in PARTS), "peers"]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec = importlib.util.spec_from_file_location("gpu_check", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    found = {name: sys.modules[f"gpu_checks.{name}"] for name in PARTS}
    yield type("Parts", (), {**found, "tool": tool, "peers": sys.modules["peers"]})
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def gpu(parts, monkeypatch):
    """An emulated GPU, on which the tool has little to do."""
    found = EmulatedDriver(room=1 << 34)
    monkeypatch.setattr(driver, "binding", lambda: found)
    monkeypatch.setattr(cuda_compilation, "load", found.load)
    ops = parts.right.registry()
    few = {name: ops[name] for name in ("relu", "max", "bn")}
    monkeypatch.setattr(parts.right, "registry", lambda: few)
    monkeypatch.setattr(parts.right, "MULTIPLYING", ())
    layer = parts.peers.Layer((64, 4, 4), 64, (3, 3), (1, 1), ((1, 1), (1, 1)), 1)
    monkeypatch.setattr(parts.peers, "layers_of", lambda name: [layer])
    small = convdsl.load_source(SMALL)
    monkeypatch.setattr(parts.fast, "network", lambda name: small.graph)
    values = {
        parts.right: {"RANDOM_NETWORKS": 3, "ROUNDED_NETWORKS": 1, "COPIED": 1 << 12},
        parts.fast: {
            **{"NETWORKS": ("lenet",), "TRAINED": (("lenet", 2),), "FOLLOWED": ("lenet",)},
            **{"MEASURED": 0.0, "ROUNDS": 1, "LAUNCHES": 1},
        },
    }
    for module, changed in values.items():
        for name, value in changed.items():
            monkeypatch.setattr(module, name, value)
    return found


@pytest.fixture
def torch_on_the_cpu(parts, monkeypatch):
    """Torch whose GPU is the CPU, and whose captured graphs are plain calls."""
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: self)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "none")
    monkeypatch.setattr(parts.torches, "found", lambda: torch)

    def called(torch, function, given):
        with torch.no_grad():
            function(*given)
        return lambda: None

    monkeypatch.setattr(parts.torches, "captured", called)


@pytest.fixture
def run(parts, tmp_path):
    """Calls the tool; returns its exit status and what is known of every check."""

    def call(*sections, more=(), together=False):
        given = ["--out", str(tmp_path), "--only", *sections, *more]
        status = parts.tool.main([*given, *["--together"] * together])
        rows = parts.running.read([tmp_path / "results.jsonl"])
        found = {row["check"]: row for row in rows if row["check"] != "kernels"}
        return status, found

    return call


def test_without_a_gpu_one_sentence_says_so(parts, tmp_path, capsys):
    assert parts.tool.main(["--out", str(tmp_path / "found")]) == 1
    assert "E512" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


def test_results_are_kept_and_checks_not_run_again(parts, gpu, run, tmp_path, monkeypatch, capsys):
    status, found = run("operations", "random", "precisions")
    assert status == 0, capsys.readouterr().out
    # Each sample forward and backward; three networks, and one in each other precision.
    samples = sum(len(op.samples) for op in parts.right.registry().values())
    assert len(found) == 2 * samples + 3 + 3
    assert 0 < max(row["error"] for row in found.values()) < 0.1
    assert "worst error" in (tmp_path / "report.md").read_text(encoding="utf-8")
    monkeypatch.setattr(parts.running, "attempt", lambda check: pytest.fail("it ran already"))
    assert run("operations", "random", "precisions") == (0, found)
    capsys.readouterr()
    assert parts.tool.main(["--report", str(tmp_path / "results.jsonl")]) == 0
    assert "## random: 3 checks, 0 wrong" in capsys.readouterr().out


def test_what_there_is_of_a_gpu_is_told(gpu, run, torch_on_the_cpu):
    status, found = run("device", together=True)
    assert status == 0
    assert found["versions"]["arch"] == "sm_80"
    assert found["copying"]["within, GB/s"] > 0
    # Of the emulated driver's architecture, by the toolkit that is installed for tests.
    assert found["compiling"]["compiles"].startswith("yes")


def test_when_time_is_up_the_next_call_goes_on(gpu, run, tmp_path, capsys):
    status, found = run("random", more=["--seconds", "-1"])
    assert (status, found) == (1, {})
    assert "not finished: random" in capsys.readouterr().err
    assert run("random")[0] == 0


def test_what_was_found_may_be_found_afresh(parts, gpu, run, monkeypatch):
    before = run("random")[1]
    monkeypatch.setattr(parts.running, "attempt", lambda check: {"error": 0.5})
    after = run("random", more=["--afresh"])[1]
    assert before.keys() == after.keys()
    assert {row["error"] for row in after.values()} == {0.5}


def test_a_wrong_kernel_is_found_with_its_first_wrong_element(gpu, run, monkeypatch, tmp_path):
    honest = maps.recipe

    def wrong(family):
        made = honest(family)
        (call,) = made.calls
        source = call.kernel.source.replace("store4(y, at, ", "store4(y, at, float32(1.0) + ")
        return replace(made, calls=(replace(call, kernel=replace(call.kernel, source=source)),))

    # The GPU's kernels alone are wrong, as those of a wrong compiler are.
    execute = gpu._execute

    def wrongly(kernel, *rest):
        source = kernel.source.replace("store4(y, at, ", "store4(y, at, float32(1.0) + ")
        execute(replace(kernel, source=source), *rest)

    monkeypatch.setattr(gpu, "_execute", wrongly)
    status, found = run("operations")
    assert status == 1
    bad = [row for row in found.values() if "wrong" in row]
    assert bad
    assert all("is off by" in row["wrong"] and "expected" in row for row in bad)
    launches = [row["launch"] for row in bad if "launch" in row]
    assert 0 < len(launches) <= 4
    for launch in launches:
        assert "by_4" in launch["kernel"]
        assert launch["first"] == [0]
        assert launch["found"] == pytest.approx(launch["expected"] + 1, abs=1e-4)
        assert launch["sizes"]
    assert "launch: {" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_results_that_change_from_run_to_run_are_told(parts, gpu, monkeypatch):
    honest = parts.right.outputs
    count = iter(range(10))

    def changing(program, arrays):
        found = honest(program, arrays)
        return {n: a * np.float32(1 + 1e-6 * next(count)) for n, a in found.items()}

    monkeypatch.setattr(parts.right, "outputs", changing)
    check = next(parts.right.operations())
    assert "other bits of" in check.run()["wrong"]


def test_a_lost_gpu_leaves_the_other_checks_and_its_launch_is_named(gpu, run, tmp_path):
    gpu.faulty = "pool"
    status, found = run("operations")
    assert status == 1
    bad = {name: row for name, row in found.items() if "wrong" in row}
    assert set(bad) == {name for name in found if name.startswith("max")}
    assert len(found) > len(bad)
    first = next(iter(bad.values()))
    assert "illegal address" in first["wrong"]
    assert "pool" in first["launch"]["kernel"]
    assert "illegal address" in first["launch"]["error"]
    # What is the same of many checks is said once.
    assert (tmp_path / "report.md").read_text(encoding="utf-8").count("Traceback") == 1


def test_a_process_that_dies_or_hangs_is_a_check_that_is_wrong(parts, gpu, run, monkeypatch):
    def attempt(check):
        if check.name == "random network 0 in fp32":
            time.sleep(60)
        if check.name == "random network 1 in fp32":
            sys.exit("gone")
        return {"error": 0.0}

    monkeypatch.setattr(parts.running, "attempt", attempt)
    monkeypatch.setattr(parts.running, "PATIENCE", 3.0)
    status, found = run("random")
    assert status == 1
    assert found["random network 0 in fp32"]["wrong"] == "its process was silent for 3 s"
    assert found["random network 1 in fp32"]["wrong"] == "its process ended with 1"
    # Launched one by one, they do nothing wrong.
    assert found["random network 0 in fp32"]["launch"]["step"].startswith("none")
    assert "wrong" not in found["random network 2 in fp32"]


def test_a_section_whose_processes_all_die_is_given_up(parts, gpu, run, monkeypatch):
    monkeypatch.setattr(parts.running, "provide", lambda *given: sys.exit("gone"))
    status, found = run("random")
    assert status == 1
    assert found == {"the section": found["the section"]}
    assert "ended with 1" in found["the section"]["wrong"]


def test_arrays_of_torch_go_in_and_out(parts, gpu, run, torch_on_the_cpu, monkeypatch):
    monkeypatch.setattr(torch, "from_dlpack", lambda y: torch.from_numpy(np.asarray(y)))
    small = convdsl.load_source("net T { input 3@6x6\n conv 4@3x3 -> relu -> dense 3 }")
    monkeypatch.setattr(parts.right, "network", lambda name: small.graph)
    status, found = run("arrays", together=True)
    assert status == 0
    assert [row["error"] for row in found.values()] == [0, 0, 0, 0]


def test_speeds_are_measured_beside_torch(gpu, run, torch_on_the_cpu, tmp_path, capsys):
    sections = ("layers", "inference", "training")
    status, found = run(*sections, together=True)
    assert status == 0, capsys.readouterr().out
    assert len(found) == 3 + 6 + 3
    for row in found.values():
        assert set(row["times"]) == {"convdsl", "torch", "torch channels_last"}
        assert row["ratio"] > 0
        assert row["difference"] < 0.1
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "geometric mean" in report
    assert "aimed for: 0.6" in report


def test_where_time_goes_is_told_step_by_step(gpu, run, tmp_path):
    status, found = run("steps")
    assert status == 0
    assert len(found) == 6
    trained = found["lenet, training in bf16"]
    assert trained["total"] > 0
    assert trained["steps"][0]["µs"] >= trained["steps"][-1]["µs"] > 0
    assert "| step " in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_step_that_torch_does_not_capture_is_measured_as_it_is(
    parts, gpu, run, torch_on_the_cpu, monkeypatch
):
    def refused(torch, function, given):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(parts.torches, "captured", refused)
    monkeypatch.setattr(parts.fast, "PRECISIONS", ("fp32",))
    status, found = run("training", together=True)
    assert status == 0
    assert all("torch, not captured" in row["times"] for row in found.values())


def test_kernels_made_elsewhere_are_not_made_again(parts, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONVDSL_CACHE_DIR", str(tmp_path / "cache"))
    parts.kernels.cuda_compilation.files.folder.cache_clear()
    try:
        graph = convdsl.load_source("net T { input 4@4x4\n relu -> flatten -> dense 3 }").graph
        wanted = parts.checks.Wanted(graph, 2)
        check = parts.checks.Check("one", dict, (wanted,))
        monkeypatch.setattr(parts.tool, "SECTIONS", {"one": lambda: [check]})
        made = []

        def load(kernels, arch):
            made.extend(kernels)
            return {kernel.key: f".target {arch}" for kernel in kernels}

        monkeypatch.setattr(cuda_compilation, "load", load)
        path = tmp_path / "kernels.zip"
        for _ in range(2):  # the second time there is nothing to do
            assert parts.tool.main(["--pack", str(path), "--arch", "sm_80"]) == 0
        kernels = wanted.plan().kernels
        assert [k.key for k in made] == [k.key for k in kernels]
        packed = parts.kernels.unpacked(path)
        said = []
        # On a newer GPU those of the older one serve.
        parts.kernels.provide(kernels, "sm_90", packed, said.append)
        assert len(made) == len(kernels)
        assert said == []
        assert {cuda_compilation.ptx(kernel, "sm_90") for kernel in kernels} == {".target sm_80"}
        parts.kernels.provide(kernels, "sm_86", {}, said.append)
        assert len(made) == 2 * len(kernels)
        assert said == [f"{len(kernels)} of {len(kernels)} made here"]
    finally:
        parts.kernels.cuda_compilation.files.folder.cache_clear()


def test_lines_that_were_cut_off_are_left_out(parts, tmp_path):
    path = tmp_path / "results.jsonl"
    row = {"section": "random", "check": "one", "seconds": 1.0}
    path.write_text(json.dumps(row) + '\n{"section": "ran', encoding="utf-8")
    assert parts.running.read([path]) == [row]
