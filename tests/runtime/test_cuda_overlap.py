"""Batches on their way to the GPU while others are in use: nothing is read too soon or overwritten.

The emulated driver works late, at once, or by chance, so that every order that events allow comes
up; the tests at the end take events away and see results go wrong.
"""

import threading

import numpy as np
import pytest

import convdsl
from convdsl.runtime.driver import Device

TEXT = "net Tiny { input 2@8x8\n conv 4@3x3 pad=1 -> relu -> max 2 -> dense 3 }"
RANDOM = np.random.default_rng(0)
BATCHES = [RANDOM.standard_normal((2, 2, 8, 8)).astype(np.float32) for _ in range(7)]
TARGETS = [RANDOM.integers(0, 3, 2) for _ in BATCHES]
ORDERS = ["late", "at once", "copies at once", *range(4)]

in_every_order = pytest.mark.parametrize("gpu", ORDERS, indirect=True)


@pytest.fixture(scope="module")
def known():
    """What comes out of the batches, and the losses of training on them, on the CPU."""
    program = convdsl.load_source(TEXT).compile("cpu", batch=2)
    trained = trainer("cpu")
    losses = [trained.step(x, t, lr=0.1) for x, t in zip(BATCHES, TARGETS, strict=True)]
    return [program(x) for x in BATCHES], losses, {**trained.parameters}


def trainer(target):
    options = {"train": True, "optimizer": convdsl.SGD(momentum=0.9)}
    return convdsl.load_source(TEXT).compile(target, batch=2, **options)


def inference(target="cuda"):
    return convdsl.load_source(TEXT).compile(target, batch=2)


def mapped(program):
    return list(program.map((x,) for x in BATCHES))


def begun(program, batches):
    """The outputs of calls of which none is waited for before all are made."""
    found = []
    for batch in batches:
        program.on_device(*batch)
        found.append(program.machine.later(program.plan.outputs))
    return [arrived()[0] for arrived in found]


def losses_of(program):
    pairs = zip(BATCHES, TARGETS, strict=True)
    return [program.step(*batch, lr=0.1) for batch in program.prefetch(pairs)]


def differ(found, expected):
    return not np.allclose(found, expected, rtol=1e-4, atol=1e-6)


@in_every_order
def test_outputs_of_batches_are_those_of_calls(gpu, known):
    assert not differ(mapped(inference()), known[0])


@in_every_order
def test_nobody_has_to_wait_between_calls(gpu, known):
    assert not differ(begun(inference(), [(x,) for x in BATCHES]), known[0])
    program = inference()
    assert not differ(begun(program, program.prefetch((x,) for x in BATCHES)), known[0])


@in_every_order
def test_training_on_batches_ahead_is_training(gpu, known):
    program = trainer("cuda")
    assert not differ(losses_of(program), known[1])
    for name, array in program.parameters.items():
        np.testing.assert_allclose(array, known[2][name], rtol=1e-3, atol=1e-5)


def test_on_the_cpu_the_same_calls_do(known):
    assert not differ(mapped(inference("cpu")), known[0])
    assert losses_of(trainer("cpu")) == known[1]


def test_the_next_batch_is_on_its_way_while_one_is_in_use(gpu):
    program = trainer("cuda")
    ready = threading.Event()

    def source():
        for number, batch in enumerate(zip(BATCHES, TARGETS, strict=True)):
            if number == 1:
                ready.set()
            yield batch

    batches = program.prefetch(source())
    first = next(batches)
    assert ready.wait(60), "the second is asked for before the first is used"
    assert first[0].stream is not program.machine.device.stream
    program.step(*first, lr=0.1)
    batches.close()


def test_memory_for_batches_is_used_again(gpu):
    program = trainer("cuda")
    losses_of(program)
    made = gpu.calls.count("cuMemAlloc")
    losses_of(program)
    assert gpu.calls.count("cuMemAlloc") == made


def test_batches_that_do_not_fit_are_told(gpu):
    program = trainer("cuda")
    with pytest.raises(ValueError, match="got float32 of shape"):
        list(program.prefetch([(BATCHES[0][:1], TARGETS[0])]))


# -- the tests can fail ----------------------------------------------------------------------


def without(monkeypatch, name, applies=lambda device, *arguments: True):
    """Take a call away, where it applies."""
    honest = getattr(Device, name)

    def left_out(self, *arguments):
        return None if applies(self, *arguments) else honest(self, *arguments)

    monkeypatch.setattr(Device, name, left_out)


@pytest.mark.parametrize("gpu", ["late"], indirect=True)
def test_reading_a_batch_before_it_is_there_is_found(gpu, known, monkeypatch):
    without(monkeypatch, "follow", lambda device, event, stream=None: stream is None)
    assert differ(mapped(inference()), known[0])


@pytest.mark.parametrize("gpu", ["late"], indirect=True)
def test_fetching_an_output_before_it_is_there_is_found(gpu, known, monkeypatch):
    program = inference()
    down = program.machine._downloading
    without(monkeypatch, "follow", lambda device, event, stream=None: stream is down)
    assert differ(mapped(program), known[0])


@pytest.mark.parametrize("gpu", ["late"], indirect=True)
def test_overwriting_what_is_on_its_way_is_found(gpu, known, monkeypatch):
    program = inference()
    sent = program.machine._own.sent
    without(monkeypatch, "wait_for", lambda device, event: event is sent)
    assert differ(begun(program, [(x,) for x in BATCHES]), known[0])


@pytest.mark.parametrize("gpu", ["copies at once"], indirect=True)
def test_overwriting_a_batch_in_use_is_found(gpu, known, monkeypatch):
    program = inference()
    assert not differ(begun(program, program.prefetch((x,) for x in BATCHES)), known[0])
    uploading = program.machine._uploading
    without(monkeypatch, "follow", lambda device, event, stream=None: stream is uploading)
    assert differ(begun(program, program.prefetch((x,) for x in BATCHES)), known[0])
