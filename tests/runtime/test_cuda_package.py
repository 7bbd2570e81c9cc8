"""Packages for a GPU: written without one, run by themselves, here on an emulated driver.

Kernels go to PTX as they would for a device; the emulator then runs their source.
"""

import subprocess
import sys

import cuda.bindings
import numpy as np
import pytest
from emulated_driver import EmulatedDriver
from lent_arrays import Described, Tensor, on_the_gpu

import convdsl
from convdsl import CompileError
from convdsl.cli import main
from convdsl.compiler import compile
from convdsl.runtime import package

TEXT = "net Tiny {\n  input 2@6x6\n  conv 3@3x3 -> relu -> dense 4\n}\n"
X = np.random.default_rng(0).standard_normal((3, 2, 6, 6)).astype(np.float32)
TARGET = np.array([0, 1, 3])


class ByEntry(dict):
    """Kernels by their names in a package, found by names of entry points, which contain them."""

    def __missing__(self, entry):
        found = [name for name in self if f"{len(name)}{name}" in entry]
        assert found, entry
        return self[max(found, key=len)]


@pytest.fixture
def gpu(monkeypatch):
    """The bindings' own module is the emulated driver."""
    import numba.cuda  # noqa: F401 (which looks at the real one)

    found = EmulatedDriver()
    found.kernels = ByEntry()
    monkeypatch.setattr(cuda.bindings, "driver", found)
    return found


def built(**options):
    return compile(convdsl.load_source(TEXT).graph, "cuda", 3, ready=False, **options)


def loaded(gpu, program, folder):
    gpu.kernels |= {
        name: next(k for k in program.plan.kernels if k.key == key)
        for key, name in package._function_names(program.plan.kernels).items()
    }
    return package.load(folder)


def test_a_package_computes_what_the_cpu_does(gpu, tmp_path):
    program = built()
    package.write(program, tmp_path / "out")
    ours = loaded(gpu, program, tmp_path / "out")
    expected = convdsl.load_source(TEXT).compile(batch=3)
    np.testing.assert_allclose(ours(X), expected(X), rtol=1e-4, atol=1e-6)
    assert gpu.calls.count("cuGraphLaunch") == 1
    bias = {"dense1.bias": np.arange(4, dtype=np.float32)}
    for each in (ours, expected):
        each.update(bias)
    np.testing.assert_allclose(ours(2 * X), expected(2 * X), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="got float64"):
        ours(X.astype(np.float64))
    # A second load compiles nothing: what is in the folder is taken.
    kept = sorted((tmp_path / "out" / "ptx").glob("*_sm_80_*.ptx"))
    assert len(kept) == len(program.plan.kernels)
    for path in kept:
        path.write_text(path.read_text() + "// as it was kept\n")
    again = loaded(gpu, program, tmp_path / "out")
    again.update(bias)
    np.testing.assert_array_equal(again(X), ours(X))
    assert all("as it was kept" in path.read_text() for path in kept)


def test_a_package_takes_arrays_of_the_gpu(gpu, tmp_path):
    program = built()
    package.write(program, tmp_path / "out")
    ours = loaded(gpu, program, tmp_path / "out")
    gpu.cuCtxPushCurrent(1)
    memory = on_the_gpu(gpu, 2 * X)
    for given in (Described(memory), Tensor(gpu, memory, 2 * X), Tensor(gpu, memory, 2 * X, False)):
        expected = ours(2 * X)
        ours(X)
        gpu.calls.clear()
        np.testing.assert_array_equal(ours(given), expected)
        assert not any(call.startswith("cuMemcpyHtoD") for call in gpu.calls)
    with pytest.raises(ValueError, match="of shape"):
        ours(Described(memory[:2]))
    with pytest.raises(ValueError, match="contiguous"):
        ours(Described(memory, strides=(4, 12, 288, 48)))
    ours.update({"input.mean": np.zeros((2, 6, 6))})
    with pytest.raises(TypeError, match="on the host"):
        ours(Described(memory))


def test_a_training_package_has_gradients(gpu, tmp_path):
    program = built(loss="cross_entropy")
    package.write(program, tmp_path / "train")
    loss, gradients = loaded(gpu, program, tmp_path / "train").value_and_grad(X, TARGET)
    expected = convdsl.load_source(TEXT).compile(train=True, batch=3)
    known, by_cpu = expected.value_and_grad(X, TARGET)
    assert loss == pytest.approx(known, rel=1e-5)
    for name, gradient in by_cpu.items():
        np.testing.assert_allclose(gradients[name], gradient, rtol=1e-3, atol=1e-5)


def test_packages_are_written_without_a_gpu_and_byte_for_byte_the_same(tmp_path, capsys):
    program = tmp_path / "tiny.cnn"
    program.write_text(TEXT)
    for name in ("a", "b"):
        options = ["--target", "cuda", "--batch", "3", "-o", str(tmp_path / name)]
        assert main(["compile", str(program), *options]) == 0
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    code = ["__init__.py", "borrowing.py", "dlpack.py", "driver.py", "kernels.py", "native.py"]
    code.append("packaged.py")
    assert files == [*code, "plan.json", "program.py", "weights.npz"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert "def " in (tmp_path / "a" / "kernels.py").read_text()


def test_a_package_needs_no_convdsl_and_says_that_there_is_no_gpu(tmp_path, capsys):
    package.write(built(), tmp_path / "mine")
    code = (
        "import sys; sys.modules['convdsl'] = None; sys.modules['lark'] = None\n"
        "import mine\n"
        "try: mine.load()\n"
        "except RuntimeError as reason: print(reason.code, reason)\n"
        "from mine.packaged import modules\n"
        "from pathlib import Path\n"
        "assert modules(Path('mine'), ('kernels', 'native'))\n"
        "assert not any(m.startswith('convdsl.') for m in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("E512 there is no CUDA driver or no GPU")
    with pytest.raises(CompileError) as caught:
        package.load(tmp_path / "mine")
    assert [d.code for d in caught.value.diagnostics] == ["E512"]
    assert main(["run", str(tmp_path / "mine")]) == 1
    assert "E512" in capsys.readouterr().err
