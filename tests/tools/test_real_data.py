"""`tools/real_data.py` on made-up files: parts share nothing, and classes are what they say."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "real_data.py"


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("real_data", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def installed(tool, tmp_path, monkeypatch):
    """A folder in place of an installed package's."""
    monkeypatch.setattr(tool, "folder_of", lambda package: tmp_path)
    folder = tmp_path / "datasets" / "data" / "GunPoint"
    folder.mkdir(parents=True)
    return folder


def test_series(tool, installed, tmp_path):
    for part, lines in (("TRAIN", "1,3:0,0:b\n5,7:4,4:a\n"), ("TEST", "4,8:2,4:b\n")):
        text = f"# told\n@classLabel true a b\n@data\n{lines}"
        installed.joinpath(f"GunPoint_{part}.ts").write_text(text, encoding="utf-8")
    assert tool.main(["GunPoint", "-o", str(tmp_path / "out.npz")]) == 0
    found = np.load(tmp_path / "out.npz")
    assert found["x"].shape == (2, 2, 2)
    assert found["x"].dtype == np.float32
    np.testing.assert_array_equal(found["y"], [1, 0])
    np.testing.assert_array_equal(found["y_test"], [1])
    np.testing.assert_allclose(found["x"].mean((0, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(found["x"].std((0, 2)), 1, rtol=1e-6)
    # Scaled by what the training part has: mean 4 and 2, deviations √5 and 2.
    np.testing.assert_allclose(found["x_test"][0, 0], [0, 4 / 5**0.5], rtol=1e-6)
    np.testing.assert_allclose(found["x_test"][0, 1], [0, 1], rtol=1e-6)


def test_pieces_of_a_volume(tool):
    classes = np.random.default_rng(0).integers(0, 3, (30, 120, 30))
    grey, white = 0.8 * (classes == 1), 0.8 * (classes == 2)
    # An image of the classes themselves, so that a piece tells what is in its middle.
    found = tool.pieces(classes + 1.0, grey, white, {"train": 30, "test": 20})
    assert found["x"].shape == (90, 1, 16, 16, 16)
    np.testing.assert_array_equal(np.bincount(found["y"]), [30] * 3)
    np.testing.assert_array_equal(np.bincount(found["y_test"]), [20] * 3)
    np.testing.assert_allclose(found["x"].mean((1, 2, 3, 4)), 0, atol=1e-5)
    np.testing.assert_allclose(found["x"].std((1, 2, 3, 4)), 1, rtol=1e-5)
    for ending in ("", "_test"):
        middle = found["x" + ending][:, 0, 8, 8, 8]
        np.testing.assert_array_equal(
            np.sign(middle) * (abs(middle) > 0.5), found["y" + ending] - 1
        )


def test_no_voxel_is_in_both_parts(tool):
    parts = tool.slab_parts(233)
    half = tool.SIDE // 2
    seen = {
        part: {v for m in np.flatnonzero(parts == part) for v in range(m - half, m + half)}
        for part in ("train", "test")
    }
    assert min(map(len, seen.values())) > 60
    assert not seen["train"] & seen["test"]


def test_a_package_that_is_not_there(tool):
    with pytest.raises(SystemExit, match="no_such_package is not installed; `pip install"):
        tool.folder_of("no_such_package")
