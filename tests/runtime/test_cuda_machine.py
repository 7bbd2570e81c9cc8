"""Programs on a GPU, with a stand-in for its driver: memory, graphs, transfers and refusals."""

import gc

import numpy as np
import pytest

import convdsl
from convdsl import CompileError
from convdsl.runtime import driver

TEXT = """net Tiny {
  input 2@8x8
  conv 4@3x3 pad=1 -> bn -> relu -> max 2 -> dropout 0.25 -> dense 3
}"""
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 2, 8, 8)).astype(np.float32)
TARGET = np.array([0, 2])


def programs(**options):
    net = convdsl.load_source(TEXT)
    return [net.compile(target, batch=2, **options) for target in ("cuda", "cpu")]


def test_results_are_the_cpus_and_a_call_is_one_replay(gpu):
    ours, expected = programs()
    np.testing.assert_allclose(ours(X), expected(X), rtol=1e-4, atol=1e-6)
    gpu.calls.clear()
    np.testing.assert_allclose(ours(2 * X), expected(2 * X), rtol=1e-4, atol=1e-6)
    assert gpu.calls.count("cuGraphLaunch") == 1
    assert "cuLaunchKernel" not in gpu.calls


def test_training_leaves_parameters_on_the_device_until_somebody_asks(gpu):
    options = {"train": True, "loss": "cross_entropy", "optimizer": convdsl.SGD(momentum=0.9)}
    ours, expected = programs(**options)
    losses = [[p.step(X, TARGET, lr=0.1) for _ in range(3)] for p in (ours, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    gpu.calls.clear()
    ours.step(X, TARGET, lr=0.1)
    expected.step(X, TARGET, lr=0.1)
    # The loss alone comes back.
    assert gpu.calls.count("cuMemcpyDtoHAsync") == 1
    for name, array in {**ours.parameters, **ours.buffers}.items():
        known = {**expected.parameters, **expected.buffers}[name]
        np.testing.assert_allclose(array, known, rtol=1e-3, atol=1e-5)
    gpu.calls.clear()
    assert dict(ours.parameters)
    assert not gpu.calls, "they have been fetched"


def test_a_change_of_one_parameter_keeps_what_training_made_of_the_others(gpu):
    ours, expected = programs(train=True, optimizer=convdsl.SGD())
    for program in (ours, expected):
        program.step(X, TARGET, lr=0.1)
        program.update({"dense1.bias": np.array([1, 2, 3], np.float32)})
    loss, gradients = ours.value_and_grad(X, TARGET)
    known, by_cpu = expected.value_and_grad(X, TARGET)
    assert loss == pytest.approx(known, rel=1e-4)
    np.testing.assert_allclose(
        gradients["dense1.weight"], by_cpu["dense1.weight"], rtol=1e-3, atol=1e-5
    )


def test_a_profile_names_every_step(gpu):
    ours, _ = programs()
    profile = ours.profile(X, repeats=1)
    assert [name for name, _, _ in profile] == [s.name for s in ours.plan.steps]


def test_too_little_memory_is_a_diagnostic_and_what_was_taken_is_given_back(gpu):
    gpu.room = 3_000
    with pytest.raises(CompileError, match="out of memory") as caught:
        convdsl.load_source(TEXT).compile("cuda", batch=2)
    assert [d.code for d in caught.value.diagnostics] == ["E514"]
    del caught
    gc.collect()
    assert gpu.room == 3_000


def test_more_elements_than_kernels_can_count_are_refused(gpu):
    net = convdsl.load_source("net T { input 64@1024x1024; relu }")
    with pytest.raises(CompileError, match=r"`relu1` works on 2,147,483,648 elements") as caught:
        net.compile("cuda", batch=32)
    assert [d.code for d in caught.value.diagnostics] == ["E511"]
    assert not gpu.calls


def test_what_the_drivers_assembler_says_is_told(gpu):
    gpu.refuses = b"ptxas error: a word that it does not know"
    with pytest.raises(CompileError, match="invalid ptx: ptxas error: a word") as caught:
        convdsl.load_source(TEXT).compile("cuda", batch=2)
    assert [d.code for d in caught.value.diagnostics] == ["E514"]


def test_the_line_that_the_assembler_names_is_quoted(gpu):
    gpu.refuses = b"ptxas application ptx input, line 1; error : not a known instruction"
    with pytest.raises(CompileError, match=r"instruction: `\.visible \.entry \w+\(`"):
        convdsl.load_source(TEXT).compile("cuda", batch=2)


def test_a_launch_that_fails_is_found_one_by_one(gpu):
    ours, _ = programs()
    (name,) = (port.name for port in ours.plan.variables if port.role == "input")
    walk = ours.machine.one_by_one({name: X})
    gpu.faulty = "max"
    step = next(s for s in walk if "max" in s.kernel.name)
    assert step in ours.plan.steps
    with pytest.raises(CompileError, match="illegal address"):
        next(walk)
    # Nothing can be done after it.
    with pytest.raises(CompileError, match="illegal address"):
        ours(X)


def test_steps_are_timed_one_by_one(gpu):
    ours, _ = programs()
    ours(X)
    assert all(ours.machine.step_seconds(n, 2, 1) > 0 for n in range(len(ours.plan.steps)))


def test_memory_that_is_spoilt_is_written_before_it_is_read(gpu):
    ours, _ = programs()
    before = ours(X)
    ours.machine.spoil()
    ours.machine.prepare()
    np.testing.assert_array_equal(ours(X), before)
    # Which could fail: what depends on parameters alone is lost.
    ours.machine.spoil()
    assert np.isnan(ours(X)).any()


def test_kernels_ask_for_no_newer_driver_than_they_need():
    header = ".version 9.0\n.target sm_{}\n.address_size 64\n"
    assert driver.understood(header.format(80)).startswith(".version 7.0\n.target sm_80\n")
    assert driver.understood(header.format(90)).startswith(".version 7.8\n")
    newest = header.format(999)
    assert driver.understood(newest) == newest


def test_memory_goes_with_the_program(gpu):
    room = gpu.room
    ours, _ = programs()
    ours(X)
    assert gpu.room < room
    del ours
    gc.collect()
    assert gpu.room == room
