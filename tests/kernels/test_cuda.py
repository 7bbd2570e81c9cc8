"""The CUDA target without a device: what is planned, and compiled to PTX."""

import pytest

import convdsl
from convdsl import CompileError
from convdsl.compiler import lower
from convdsl.kernels.cuda.target import CudaTarget
from convdsl.passes import SGD
from convdsl.plan import plan
from convdsl.runtime.cuda_compilation import ptx


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
    for arch in ("hopper", "sm_1", "sm_75"):
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
    # A driver that is there and does not work is told from one that is not.
    assert any("what was found out: " in help for help in diagnostic.help)


def test_random_numbers_compile_without_a_device():
    net = convdsl.load_source("net T { input 4@4x4; conv 4@3x3 -> dropout 0.5 -> dense 3 }")
    kernels = plan(lower(net.graph, "cross_entropy"), 2, CudaTarget()).kernels
    drawing = [kernel for kernel in kernels if "uniform(" in kernel.source]
    assert drawing
    for kernel in drawing:
        text = ptx(kernel)
        # The multipliers of the mixing function, one of them 0x7FEB352D.
        assert "2146121005" in text
        assert ".f64" not in text
        assert ".extern" not in text
