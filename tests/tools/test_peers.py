"""`tools/peers.py`, with hardly any time for each competitor: all take part, and all agree."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "peers.py"
QUICK = ("--rounds", "2", "--seconds", "0")


@pytest.fixture
def peers(tmp_path):
    """Runs the tool; returns its JSON and its Markdown, which is also what it prints."""

    def run(*arguments):
        files = {"--json": tmp_path / "found.json", "--markdown": tmp_path / "found.md"}
        options = [str(part) for option in files.items() for part in option]
        done = subprocess.run(
            [sys.executable, TOOL, *arguments, *QUICK, *options], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        text = files["--markdown"].read_text(encoding="utf-8")
        assert text.strip() == done.stdout.strip()
        for peer in ("torch", "onnxruntime", "openvino"):
            assert (f"{peer} is not installed" in done.stderr) == (find_spec(peer) is None)
        return json.loads(files["--json"].read_text(encoding="utf-8")), text

    return run


def installed(*competitors):
    """Those whose package is there."""
    return {c for c in competitors if find_spec(c.split()[0])}


def assert_headed(found, text):
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    machine = found["machine"]
    assert machine["cores"] >= 1
    for part in (found["date"], machine["processor"], f"vectors of {machine['vector_lanes']}"):
        assert part in text


def test_inference_of_lenet(peers):
    found, text = peers("--networks", "lenet", "--batches", "1,3", "--threads", "1")
    assert_headed(found, text)
    assert found["threads"] == 1
    assert [row["batch"] for row in found["rows"]] == [1, 3]
    competitors = installed("torch", "torch channels_last", "onnxruntime", "openvino")
    for row in found["rows"]:
        assert set(row["seconds"]) == {"convdsl", *competitors}
        assert set(row["differences"]) == competitors
        assert row["agrees"]
        assert max(row["differences"].values()) < 1e-5
        best = min(s for name, s in row["seconds"].items() if name != "convdsl")
        assert row["ratio"] == pytest.approx(best / row["seconds"]["convdsl"])
        assert row["peak_fraction"] > 0
        assert set(row["resident_bytes"]) == {"convdsl", *installed("onnxruntime")}
        assert row["start_seconds"] > 0
    assert text.count("\n| lenet |") == 2


def test_a_training_step_of_lenet(peers):
    found, text = peers("--networks", "lenet", "--batches", "4", "--train")
    (row,) = found["rows"]
    assert set(row["seconds"]) == {"convdsl", "torch", "torch channels_last"}
    assert row["agrees"]
    assert set(row["differences"]) == {"torch", "torch channels_last"}
    assert "Training step" in text


def test_the_convolutions_of_a_network(peers):
    found, text = peers("--layers", "--networks", "resnet20")
    assert found["threads"] == 1
    layers = [row["layer"] for row in found["rows"]]
    assert len(layers) == len(set(layers)) == 6
    assert layers[0] == "3@32x32 -> 16@3x3"
    for row in found["rows"]:
        assert row["agrees"]
        assert row["how"]
        assert {"convdsl", "own steps", "torch", "torch channels_last"} == set(row["seconds"])
        assert row["wide"] == (row["layer"] == "64@8x8 -> 64@3x3")
    assert "Geometric means" in text
    assert "| 3x3 | 1 |" in text


@pytest.mark.parametrize("wrong", [["--batches", "0"], ["--batches", "x"], ["--train", "--layers"]])
def test_malformed_lines_are_refused(wrong):
    done = subprocess.run([sys.executable, TOOL, *wrong], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
