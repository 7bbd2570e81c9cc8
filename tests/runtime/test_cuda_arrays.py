"""Arrays of other libraries on the GPU, in and out, with a stand-in for the driver."""

import gc
import math
import weakref

import numpy as np
import pytest
import torch
from lent_arrays import Described, Tensor, on_the_gpu

import convdsl
from convdsl.runtime import dlpack

TEXT = "net Tiny { input 2@8x8\n conv 4@3x3 pad=1 -> relu -> max 2 -> dense 3 }"
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 2, 8, 8)).astype(np.float32)


@pytest.fixture
def ours(gpu):
    return convdsl.load_source(TEXT).compile("cuda", batch=2)


@pytest.fixture(scope="module")
def expected():
    return convdsl.load_source(TEXT).compile("cpu", batch=2)


@pytest.fixture
def current(gpu):
    """The calls of other libraries, which have the device as the thread's already."""
    gpu.cuCtxPushCurrent(1)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


# -- in --------------------------------------------------------------------------------------


@pytest.mark.parametrize("versioned", [False, True])
def test_an_array_by_dlpack_is_read_where_it_lies(gpu, current, ours, expected, versioned):
    ours(X)
    given = Tensor(gpu, on_the_gpu(gpu, X), 3 * X, versioned)
    gpu.calls.clear()
    close(ours(given), expected(3 * X))
    assert given.given == [ours.machine.device.stream]
    assert not [c for c in gpu.calls if c.startswith(("cuMemcpyHtoD", "cuMemcpyDtoD"))]
    assert gpu.calls.count("cuGraphExecKernelNodeSetParams") == 1
    # The same address: nothing is changed. The host's again: its own address comes back.
    gpu.calls.clear()
    close(ours(given), expected(3 * X))
    assert "cuGraphExecKernelNodeSetParams" not in gpu.calls
    close(ours(X), expected(X))


def test_an_array_goes_back_when_the_call_is_over(gpu, current, ours):
    memory = on_the_gpu(gpu, X)
    gone = weakref.ref(memory)
    ours(Tensor(gpu, memory, X))
    del memory
    gc.collect()
    assert gone() is None


def test_an_array_by_its_interface_is_read_where_it_lies(gpu, current, ours, expected):
    gpu.calls.clear()
    close(ours(Described(on_the_gpu(gpu, X))), expected(X))
    assert "cuCtxSynchronize" in gpu.calls, "nobody knows which stream writes it"
    gpu.calls.clear()
    written = Tensor(gpu, on_the_gpu(gpu, X), 2 * X)
    close(ours(Described(written.memory, stream=written.stream)), expected(2 * X))
    assert "cuCtxSynchronize" not in gpu.calls
    assert not [c for c in gpu.calls if c.startswith(("cuMemcpyHtoD", "cuMemcpyDtoD"))]


def test_what_kernels_cannot_read_is_copied_once(gpu, current, ours, expected):
    askew = on_the_gpu(gpu, X, shift=4)
    assert askew.ctypes.data % 16
    gpu.calls.clear()
    close(ours(Described(askew)), expected(X))
    assert gpu.calls.count("cuMemcpyDtoDAsync") == 1

    backwards = on_the_gpu(gpu, X)[:, ::-1, :, ::-1]
    last = np.ascontiguousarray(X.transpose(0, 2, 3, 1))
    channels_last = on_the_gpu(gpu, last).transpose(0, 3, 1, 2)
    for memory, content in ((backwards, X), (channels_last, 5 * X)):
        gpu.calls.clear()
        close(ours(Tensor(gpu, memory, content)), expected(np.ascontiguousarray(content)))
        assert gpu.calls.count("cuLaunchKernel") == 1, "the copy, beside the graph"
        described = Described(memory, strides=memory.strides)
        described.__cuda_array_interface__["data"] = (memory.ctypes.data, True)
        close(ours(described), expected(np.ascontiguousarray(content)))


def test_arrays_have_to_fit(gpu, current, ours, expected):
    with pytest.raises(ValueError, match=r"float32 of shape \(2, 2, 8, 8\), got float32 of shape"):
        ours(Described(on_the_gpu(gpu, X[:1])))
    with pytest.raises(ValueError, match="got float64"):
        ours(Tensor(gpu, on_the_gpu(gpu, X.astype(np.float64)), X))
    with pytest.raises(ValueError, match="array is on 1"):
        ours(Tensor(gpu, on_the_gpu(gpu, X), X, number=1))
    with pytest.raises(TypeError, match="GPU"):
        expected.on_device(X)

    class Leaf(Tensor):
        def __dlpack__(self, **arguments):
            raise BufferError("it requires a gradient")

    with pytest.raises(ValueError, match="requires a gradient"):
        ours(Leaf(gpu, on_the_gpu(gpu, X), X))


def test_arrays_of_the_host_may_speak_dlpack_as_well(ours, expected):
    close(ours(torch.from_numpy(X)), expected(X))


def test_targets_on_the_gpu(gpu, current):
    net = convdsl.load_source(TEXT)
    target = np.array([0, 2])
    steps = [net.compile(where, batch=2, train=True) for where in ("cuda", "cpu")]
    given = Tensor(gpu, on_the_gpu(gpu, target), target)
    loss, gradients = steps[0].value_and_grad(X, given)
    known, by_cpu = steps[1].value_and_grad(X, target)
    assert loss == pytest.approx(known, rel=1e-5)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, by_cpu[name], rtol=1e-3, atol=1e-5)


# -- out -------------------------------------------------------------------------------------


def received(gpu, capsule):
    """What a consumer of a capsule finds, as an array of the emulated GPU's memory."""
    found = dlpack.taken(capsule)
    assert found.dtype == "float32"
    size = 4 * math.prod(found.shape)
    return found, gpu.at(found.address)[:size].view(np.float32).reshape(found.shape)


@pytest.mark.parametrize("versioned", [False, True])
def test_outputs_are_handed_over_by_dlpack(gpu, current, ours, expected, versioned):
    ours(X)
    gpu.calls.clear()
    y = ours.on_device(Tensor(gpu, on_the_gpu(gpu, X), X))
    assert not [c for c in gpu.calls if c.startswith("cuMemcpy")]
    assert y.__dlpack_device__() == (dlpack.CUDA, 0)
    consumer = gpu.cuStreamCreate(1)[1]
    capsule = y.__dlpack__(stream=consumer, max_version=(1, 3) if versioned else None)
    _, memory = received(gpu, capsule)
    seen = []
    gpu._put(consumer, lambda: seen.append(memory.copy()))
    # The program's next call waits for what the consumer was about to do.
    ours(2 * X)
    close(seen[0], expected(X))


def test_outputs_have_an_interface(gpu, ours, expected):
    y = ours.on_device(X)
    described = y.__cuda_array_interface__
    assert described["shape"] == (2, 3)
    found = gpu.at(described["data"][0])[: 4 * 6].view(described["typestr"]).reshape(2, 3)
    close(found, expected(X))


def test_an_output_keeps_the_programs_memory(gpu, current):
    program = convdsl.load_source(TEXT).compile("cuda", batch=2)
    y = program.on_device(X)
    machine = weakref.ref(program.machine)
    capsule = y.__dlpack__(max_version=(1, 0))
    del program, y
    gc.collect()
    assert machine() is not None
    found, _ = received(gpu, capsule)
    del capsule
    gc.collect()
    assert machine() is not None, "the consumer has it"
    del found
    gc.collect()
    assert machine() is None


def test_a_capsule_that_nobody_takes_is_returned(ours):
    before = len(dlpack._lent)
    capsule = ours.on_device(X).__dlpack__()
    assert len(dlpack._lent) == before + 1
    del capsule
    assert len(dlpack._lent) == before


def test_capsules_are_taken_once(ours):
    capsule = ours.on_device(X).__dlpack__(max_version=(1, 0))
    dlpack.taken(capsule)
    with pytest.raises(ValueError, match="somebody took before"):
        dlpack.taken(capsule)
    with pytest.raises(BufferError, match="without a copy"):
        ours.on_device(X).__dlpack__(copy=True)


def test_outputs_can_be_inputs(gpu):
    text = "net Same { input 2@8x8\n conv 2@3x3 pad=1 -> relu }"
    ours, expected = (convdsl.load_source(text).compile(t, batch=2) for t in ("cuda", "cpu"))
    y = ours.on_device(ours.on_device(X))
    close(ours(y), expected(expected(expected(X))))


@pytest.mark.parametrize("versioned", [False, True])
def test_capsules_are_as_others_read_them(monkeypatch, versioned):
    memory = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    monkeypatch.setattr(dlpack, "CUDA", 1)  # which says that it is the host's

    class Shared:
        def __dlpack_device__(self):
            return (1, 0)

        def __dlpack__(self, max_version=None, **more):
            newer = versioned and max_version is not None
            return dlpack.exported(memory.ctypes.data, (2, 3, 4), "float32", 0, memory, newer)

    np.testing.assert_array_equal(np.from_dlpack(Shared()), memory)
    np.testing.assert_array_equal(torch.from_dlpack(Shared()).numpy(), memory)
    gc.collect()
    assert not [kept for kept in dlpack._lent.values() if kept[-1] is memory]


def test_a_mean_is_taken_off_arrays_of_the_host_alone(gpu, ours, expected):
    mean = np.full((2, 8, 8), 0.5, np.float32)
    ours.update({"input.mean": mean})
    np.testing.assert_allclose(ours(X), expected(X - mean), rtol=1e-4, atol=1e-6)
    # From what was sent ahead it is taken off once.
    (y,) = ours.map([(X,)])
    np.testing.assert_allclose(y, expected(X - mean), rtol=1e-4, atol=1e-6)
    with pytest.raises(TypeError, match="done on the host"):
        ours.on_device(Described(on_the_gpu(gpu, X)))
