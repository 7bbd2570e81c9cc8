"""Exported packages: they run alone, read well, and come out the same every time."""

import subprocess
import sys

import numpy as np
import pytest

import convdsl
from convdsl import CompileError
from convdsl.runtime import package


@pytest.fixture(scope="module")
def program():
    return convdsl.load("lenet").compile(batch=2)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((2, 1, 32, 32)).astype(np.float32)


def test_a_package_computes_what_the_program_does(program, x, tmp_path):
    package.write(program, tmp_path / "out")
    np.testing.assert_array_equal(package.load(tmp_path / "out")(x), program(x))


def test_a_package_has_parts_of_maps_where_they_belong(tmp_path):
    text = "net T { input 16@6x5\n a = conv 16@1x1\n b = conv 32@1x1\n concat(a, b) -> conv 7@1x1 }"
    joined = convdsl.load_source(text).compile(batch=2)
    assert any(b.image for step in joined.plan.steps for b in step.buffers)
    x = np.random.default_rng(0).standard_normal((2, 16, 6, 5)).astype(np.float32)
    package.write(joined, tmp_path / "joined")
    np.testing.assert_array_equal(package.load(tmp_path / "joined")(x), joined(x))


def test_packages_of_equal_code_keep_their_own_weights(x, tmp_path):
    net = convdsl.load("lenet")
    one, two = net.compile(batch=2, seed=1), net.compile(batch=2, seed=2)
    package.write(one, tmp_path / "one")
    package.write(two, tmp_path / "two")
    np.testing.assert_array_equal(package.load(tmp_path / "one")(x), one(x))
    np.testing.assert_array_equal(package.load(tmp_path / "two")(x), two(x))


def test_a_package_needs_only_numpy_and_numba(program, x, tmp_path):
    package.write(program, tmp_path / "mylenet")
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys; sys.modules['convdsl'] = None; sys.modules['lark'] = None\n"
        "import numpy as np, mylenet\n"
        "np.save('y.npy', mylenet.load()(np.load('x.npy')))\n"
        "assert not any(m.startswith('convdsl.') for m in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), program(x))


def test_packages_are_reproducible_byte_for_byte(tmp_path):
    for name in ("a", "b"):
        package.write(convdsl.load("lenet").compile(batch=2), tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert "kernels.py" in files
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_training_package_has_gradients(tmp_path):
    net = convdsl.load_source("net T { input 2@6x6\n conv 3@3x3 -> relu -> dense 4 }")
    step = net.compile(train=True, batch=3)
    package.write(step, tmp_path / "train")
    x = np.random.default_rng(0).standard_normal((3, 2, 6, 6)).astype(np.float32)
    target = np.array([0, 1, 3])
    loss, gradients = step.value_and_grad(x, target)
    again, others = package.load(tmp_path / "train").value_and_grad(x, target)
    assert loss == again
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, others[name])


def test_other_folders_are_left_alone(program, tmp_path):
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(CompileError) as caught:
        package.write(program, tmp_path)
    assert caught.value.diagnostics[0].code == "E504"
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]
    with pytest.raises(CompileError) as caught:
        package.load(tmp_path)
    assert caught.value.diagnostics[0].code == "E507"


def test_damage_is_told(program, tmp_path):
    package.write(program, tmp_path / "out")
    weights = tmp_path / "out" / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CompileError, match="damaged"):
        package.load(tmp_path / "out")
