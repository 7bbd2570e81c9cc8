"""`bench`: what it finds and how it shows it; how fast anything is, no test says."""

import json

import pytest

from convdsl.runtime.benchmark import Ceiling, latencies
from convdsl.views.benchmark import duration, size

QUICK = ("--seconds", 0)


def found(ran):
    assert ran.status == 0, ran.err
    return json.loads(ran.out)


def test_json_has_every_field_and_they_agree(convdsl, tiny):
    line = ("bench", tiny, "--batch", "1,4", "--threads", 1, "--profile", "--check")
    report = found(convdsl(*line, "--format", "json", *QUICK))
    assert report["network"] == "Tiny"
    assert report["mode"] == "inference"
    assert report["threads"] == 1
    assert report["params"] == 151
    assert report["parameter_bytes"] == 4 * 151
    assert report["macs"] == 4 * 36 * 9 + 36 * 3
    assert report["machine"]["vector_lanes"] in (4, 8, 16)
    assert report["relative_error"] < 1e-5
    assert [r["batch"] for r in report["results"]] == [1, 4]
    for result in report["results"]:
        assert_agrees(result, report["macs"])


def assert_agrees(result, macs):
    assert result["repetitions"] >= 10
    assert 0 < result["p10_seconds"] <= result["median_seconds"] <= result["p90_seconds"]
    assert 0 < result["compile_seconds"] < result["first_result_seconds"]
    assert result["compile"] in ("cold", "warm")
    rate = result["batch"] / result["median_seconds"]
    assert result["images_per_second"] == pytest.approx(rate)
    assert result["flops_per_second"] == pytest.approx(2 * macs * rate)
    fraction = result["flops_per_second"] / result["peak_flops_per_second"]
    assert result["peak_fraction"] == pytest.approx(fraction)
    assert result["read_bytes_per_second"] > 0
    assert result["activation_bytes"] >= result["largest_live_bytes"] > 0
    assert result["resident_bytes"] > 2**20
    layers = result["layers"]
    assert layers[0]["layer"] == "C1"
    assert sum(layer["share"] for layer in layers) == pytest.approx(1)
    for layer in layers:
        assert layer["kernels"]
        rate = layer["flops"] / layer["seconds"]
        assert layer["flops_per_second"] == pytest.approx(rate)


def test_a_second_compilation_is_warm(convdsl, tiny):
    convdsl("bench", tiny, *QUICK)
    report = found(convdsl("bench", tiny, "--format", "json", *QUICK))
    assert report["results"][0]["compile"] == "warm"


def test_a_training_step_is_three_forward_passes(convdsl, tiny):
    line = ("bench", tiny, "--format", "json", *QUICK)
    forward = found(convdsl(*line))
    step = found(convdsl(*line, "--train", "--batch", 2, "--check", "--profile"))
    assert step["mode"] == "training"
    assert step["macs"] == 3 * forward["macs"]
    assert step["relative_error"] < 1e-4
    assert {"C1", "dense1"} <= {row["layer"] for row in step["results"][0]["layers"]}


def test_text_has_a_line_per_batch_and_per_layer(convdsl, tiny):
    ran = convdsl("bench", tiny, "--batch", "1,2", "--batch", 3, "--profile", "--check", *QUICK)
    assert ran.status == 0
    assert ran.out.startswith("Tiny, inference on ")
    assert "1,404 multiply-adds per input" in ran.out
    assert "151 parameters (604 B)" in ran.out
    for heading in ("median", "images/s", "of peak", "first result", "peak resident"):
        assert heading in ran.out
    starts = [line.split()[0] for line in ran.out.splitlines() if line[:5].strip().isdigit()]
    assert starts == ["1", "2", "3"] * 2
    assert ran.out.count("\nC1 ") == 3
    assert "largest error against float64" in ran.out


def test_markdown_is_tables(convdsl, tiny):
    ran = convdsl("bench", tiny, "--format", "markdown", "--profile", *QUICK)
    assert ran.status == 0
    assert ran.out.startswith("# Tiny, inference on ")
    assert ran.out.count("\n| ---") == 3
    assert "| C1 | " in ran.out


@pytest.mark.parametrize("batch", ["0", "-1", "x", "1,,2", "1.5", ""])
def test_a_batch_is_a_whole_number(convdsl, tiny, batch):
    ran = convdsl("bench", tiny, f"--batch={batch}")
    assert ran.status == 2
    assert "whole number" in ran.err


@pytest.mark.parametrize("option", ["--seconds=-1", "--seconds=nan", "--seconds=x", "--threads=0"])
def test_times_and_threads_are_numbers(convdsl, tiny, option):
    assert convdsl("bench", tiny, option).status == 2


def test_what_is_wrong_is_one_message(convdsl, tmp_path):
    maps = tmp_path / "maps.cnn"
    maps.write_text(
        "cnn 1\nnet Two {\n  input 1@8x8\n  conv 2@3x3 as a\n  output a\n  output in\n}"
    )
    lines = {
        "E509": ["bench", "lenett"],
        "E508": ["bench", tmp_path / "none.cnn"],
    }
    for code, line in lines.items():
        ran = convdsl(*line)
        assert ran.status == 1
        assert ran.err.startswith(f"error[{code}]: ")
        assert ran.err.count("error[") == 1


def test_a_network_that_cannot_be_trained_says_so(convdsl):
    ran = convdsl("bench", "googlenet", "--train", *QUICK)
    assert ran.status == 1
    assert ran.err.startswith("error[E502]: ")


def test_the_ceiling_is_measured():
    ceiling = Ceiling(2)
    try:
        ceiling.sample()
        assert ceiling.flops > 1e8
        assert ceiling.read_bytes > 1e7
    finally:
        ceiling.close()


def test_latencies_are_ten_at_least_and_sorted():
    calls, blocks = [], []
    times = latencies(lambda: calls.append(None), 0, lambda: blocks.append(None))
    assert len(times) >= 10
    assert (times[1:] >= times[:-1]).all()
    assert len(calls) == len(times) + len(blocks)


def test_quantities_are_shown_with_their_units():
    assert [duration(t) for t in (2.5, 0.0123, 4.56e-6)] == ["2.5 s", "12.3 ms", "4.56 µs"]
    assert [size(b) for b in (604, 1500, 2_000_000, 3 * 10**9)] == [
        "604 B",
        "1.5 kB",
        "2 MB",
        "3 GB",
    ]
