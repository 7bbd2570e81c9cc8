"""`run` and `compile`, through the compiler, on a tiny network and on the bundled one."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from convdsl import load
from convdsl.runtime.package import write


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    values = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(values).save(path)
    return path


def expected(path, array):
    """What the embedding API gives for the same network and seed."""
    return load(path).compile(batch=len(array))(array.astype(np.float32))


def test_the_main_job_classifies_the_digits(convdsl):
    ran = convdsl("run", "lenet")
    assert ran.status == 0
    assert "C1 " in ran.out
    assert "61,706" in ran.out
    assert "the 40 bundled handwritten digits" in ran.out
    assert "trained on 9,000 digits" in ran.out
    assert re.search(r"(39|40) of 40 right: accuracy", ran.out)


def test_a_seed_is_preferred_to_bundled_weights(convdsl):
    ran = convdsl("run", "lenet", "--seed", 0)
    assert ran.status == 0
    assert "seeded with 0, untrained" in ran.out


def test_an_image_is_classified(convdsl, tiny, image):
    ran = convdsl("run", tiny, "--input", image, "--top", 2)
    assert ran.status == 0
    *_, head, _, first, second = ran.out.splitlines()
    assert head.split() == ["class", "probability"]
    chances = [float(line.split()[1].rstrip("%")) for line in (first, second)]
    assert chances[0] >= chances[1] > 0


def test_arrays_go_in_and_logits_come_out(convdsl, tiny, tmp_path):
    x = np.random.default_rng(0).standard_normal((5, 1, 8, 8))
    np.save(tmp_path / "x.npy", x)
    line = ["run", tiny, "--input", tmp_path / "x.npy", "--batch", 2]
    assert convdsl(*line, "--output", tmp_path / "y.npy").status == 0
    y = np.load(tmp_path / "y.npy")
    assert y.shape == (5, 3)
    assert y == pytest.approx(expected(tiny, x), rel=1e-5, abs=1e-6)
    assert convdsl(*line, "--output", tmp_path / "y.npz").status == 0
    (only,) = np.load(tmp_path / "y.npz").values()
    assert (only == y).all()


def test_without_an_input_that_fits_numbers_are_random_and_seeded(convdsl, tiny):
    ran = convdsl("run", tiny)
    assert "random numbers (normal, seed 0)" in ran.out
    assert convdsl("run", tiny).out == ran.out
    assert convdsl("run", tiny, "--seed", 1).out != ran.out


def test_weights_are_read(convdsl, tiny, tmp_path):
    program = load(tiny).compile(seed=7)
    program.save(tmp_path / "w.safetensors")
    ran = convdsl("run", tiny, "--weights", tmp_path / "w.safetensors")
    assert f"from {tmp_path / 'w.safetensors'}" in ran.out
    # The same weights on the same random input, which has a seed of its own.
    np.save(tmp_path / "x.npy", np.ones((1, 8, 8)))
    line = ["run", tiny, "--input", tmp_path / "x.npy"]
    read = convdsl(*line, "--weights", tmp_path / "w.safetensors").out.splitlines()
    assert read[4:] == convdsl(*line, "--seed", 7).out.splitlines()[4:]


def test_backward_shows_every_gradient(convdsl, tiny):
    ran = convdsl("run", tiny, "--backward")
    assert ran.status == 0
    for name in ("C1.weight", "C1.bias", "image", "loss "):
        assert name in ran.out


def test_profile_has_a_row_per_step(convdsl, tiny):
    out = convdsl("run", tiny, "--profile").out
    profile = out[out.index("kernel") :]
    assert "C1" in profile
    assert "median times" in profile


def test_a_package_runs_alone(convdsl, tiny, tmp_path, image):
    package = tmp_path / "package"
    assert convdsl("compile", tiny, "-o", package).status == 0
    by_network = convdsl("run", tiny, "--input", image).out
    for _ in range(2):
        ran = convdsl("run", package, "--input", image)
        assert ran.status == 0
        assert ran.out.splitlines()[4:] == by_network.splitlines()[4:]
    for option in (["--batch", 3], ["--backward"], ["--profile"], ["--set", "classes=2"]):
        ran = convdsl("run", package, *option)
        assert (ran.status, "E533" in ran.err) == (1, True)


def test_every_stage_can_be_printed(convdsl, tiny):
    signs = {"ast": "File", "graph": "graph Tiny", "plan": "plan Tiny", "python": "def "}
    for stage, sign in signs.items():
        ran = convdsl("compile", tiny, "--emit", stage)
        assert ran.status == 0
        assert sign in ran.out


def test_what_is_wrong_is_one_message(convdsl, tiny, tmp_path, image):
    (tmp_path / "w.safetensors").write_bytes(b"\x08garbage")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").touch()
    np.save(tmp_path / "nan.npy", np.full((1, 8, 8), np.nan))
    Image.new("L", (9, 9)).save(tmp_path / "large.png")
    lines = {
        "E503": ["run", tiny, "--input", image, "--weights", tmp_path / "w.safetensors"],
        "E504": ["compile", tiny, "-o", full],
        "E508": ["run", full],
        "E511": ["run", tiny, "--precision", "fp16"],
        "E530": ["run", tiny, "--input", tmp_path],
        "E531": ["run", tiny, "--input", tmp_path / "large.png"],
        "E532": ["run", tiny, "--input", tmp_path / "nan.npy"],
        "E534": ["run", tiny, "--output", tmp_path / "y.txt"],
    }
    for code, line in lines.items():
        ran = convdsl(*line)
        assert ran.status == 1, line
        assert ran.err.startswith(f"error[{code}]: "), ran.err
        assert ran.err.count("error[") == 1


def test_a_network_of_maps_shows_their_spread(convdsl, tmp_path):
    path = tmp_path / "maps.cnn"
    path.write_text("cnn 1\nnet Maps {\n  input 1@8x8\n  C1: conv 2@3x3\n}\n")
    ran = convdsl("run", path)
    assert ran.status == 0
    assert "1x2x6x6" in ran.out
    assert "C1.weight" in convdsl("run", path, "--backward").out


def test_a_package_is_the_same_by_any_name(convdsl, tiny, tmp_path):
    """Run, moved and imported: Numba's cache moves along. Others with its kernels are others."""
    first, second = tmp_path / "first", tmp_path / "second"
    for seed, package in ((1, first), (2, second)):
        write(load(tiny).compile(seed=seed), package)
    x = np.ones((1, 1, 8, 8), np.float32)
    np.save(tmp_path / "x.npy", x)
    line = ["--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy"]
    results = []
    for package in (first, second):
        assert convdsl("run", package, *line).status == 0
        results.append(np.load(tmp_path / "y.npy"))
    assert (results[0] != results[1]).any()
    moved = first.rename(tmp_path / "moved")
    code = (
        "import numpy as np, moved; y = moved.load()(np.ones((1, 1, 8, 8), np.float32));"
        "np.save('z.npy', y)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert (np.load(tmp_path / "z.npy") == results[0]).all()
    assert moved.is_dir()


# -- sheets ----------------------------------------------------------------------------------


def test_activations_and_filters_are_drawn(convdsl, tiny, image, tmp_path):
    activations, filters = tmp_path / "a.png", tmp_path / "f.png"
    line = ["run", tiny, "--input", image, "--activations", activations, "--filters", filters]
    assert convdsl(*line).status == 0
    assert Image.open(activations).format == Image.open(filters).format == "PNG"
    assert Image.open(activations).height > Image.open(filters).height


def test_sheets_are_png_and_of_networks(convdsl, tiny, tmp_path):
    ran = convdsl("run", tiny, "--filters", tmp_path / "f.svg")
    assert (ran.status, ran.err.count("E520")) == (1, 1)
    write(load(tiny).compile(), tmp_path / "out")
    ran = convdsl("run", tmp_path / "out", "--activations", tmp_path / "a.png")
    assert (ran.status, ran.err.count("E533")) == (1, 1)
