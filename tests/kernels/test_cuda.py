"""The CUDA target without a device: under Numba's simulator, and compiled to PTX."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import convdsl
from convdsl import CompileError
from convdsl.compiler import lower
from convdsl.kernels.cuda.target import CudaTarget
from convdsl.passes import SGD
from convdsl.plan import plan
from convdsl.runtime.cuda import ptx

TINY = "net Tiny { input 1@8x8; conv 2@3x3 pad=1 -> sigmoid -> max 2 -> dropout 0.25 -> dense 3 }"


def test_a_training_step_under_the_simulator_is_the_cpus(tmp_path):
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 1, 8, 8)).astype(np.float32)
    target = np.array([0, 2])
    np.savez(tmp_path / "given.npz", x=x, target=target)
    code = f"""
        import numpy as np, convdsl
        given = np.load("given.npz")
        net = convdsl.load_source({TINY!r})
        step = net.compile("cuda", batch=2, train=True, optimizer=convdsl.SGD(momentum=0.9))
        losses = [step.step(given["x"], given["target"], lr=0.1) for _ in range(3)]
        step.value_and_grad(given["x"], given["target"])
        y = net.compile("cuda", batch=2)(given["x"])
        np.savez("found.npz", losses=losses, y=y, dx=step.input_grad, **step.parameters)
    """
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    found = np.load(tmp_path / "found.npz")
    net = convdsl.load_source(TINY)
    step = net.compile(batch=2, train=True, optimizer=convdsl.SGD(momentum=0.9))
    losses = [step.step(x, target, lr=0.1) for _ in range(3)]
    step.value_and_grad(x, target)
    np.testing.assert_allclose(found["losses"], losses, rtol=1e-5)
    np.testing.assert_allclose(found["y"], net.compile(batch=2)(x), rtol=1e-5)
    np.testing.assert_allclose(found["dx"], step.input_grad, rtol=1e-4, atol=1e-7)
    for name, array in step.parameters.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_every_kernel_of_lenets_training_compiles_to_ptx(arch):
    graph = lower(convdsl.load("lenet").graph, "cross_entropy", SGD(momentum=0.9))
    kernels = plan(graph, 2, CudaTarget()).kernels
    assert len(kernels) > 10
    # One architecture checks all kernels, the other that the choice is obeyed.
    for kernel in kernels if arch == "sm_80" else kernels[:2]:
        text = ptx(kernel, arch)
        assert f".target {arch}" in text
        assert ".entry" in text
        assert ".f64" not in text, f"{kernel.name} computes in double precision"


def test_an_impossible_architecture_is_told():
    graph = lower(convdsl.load("lenet").graph)
    kernel = plan(graph, 1, CudaTarget()).kernels[0]
    for arch in ("hopper", "sm_1"):
        with pytest.raises(CompileError):
            ptx(kernel, arch)


def test_without_a_device_one_sentence_says_so():
    from numba import cuda

    if cuda.is_available():
        pytest.fail("this test is for machines without a GPU; run tools/gpu_check instead")
    with pytest.raises(CompileError) as caught:
        convdsl.load("lenet").compile("cuda")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E512"
    assert "\n" not in diagnostic.message
