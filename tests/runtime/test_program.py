"""The embedding API as its users call it."""

import gc

import numpy as np
import pytest
from helpers import relative_error, torch_forward

import convdsl
from convdsl import CompileError


@pytest.fixture(scope="module")
def program():
    return convdsl.load("lenet").compile(batch=2)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((2, 1, 32, 32)).astype(np.float32)


def test_the_contracts_example_runs(tmp_path):
    net = convdsl.load("lenet", classes=10)
    assert net.params == 61_706
    assert "61,706" in str(net.summary())
    assert "<svg" in net._repr_svg_()
    prog = net.compile(target="cpu", batch=8, train=False, threads=None)
    x = np.ones((8, 1, 32, 32), np.float32)
    assert prog(x).shape == (8, 10)
    prog.update({name: array * 2 for name, array in prog.parameters.items()})
    prog.save(tmp_path / "w.safetensors")
    prog.load(tmp_path / "w.safetensors")
    step = net.compile(train=True, batch=8, loss="cross_entropy")
    loss, grads = step.value_and_grad(x, np.arange(8))
    assert loss > 0
    assert list(grads) == list(step.parameters)
    assert step.input_grad.shape == x.shape
    again = convdsl.load_source(net.to_text())
    assert [(n.name, n.op) for n in again.graph] == [(n.name, n.op) for n in net.graph]
    assert [v.name for v in again.graph.variables] == [v.name for v in net.graph.variables]


def test_results_belong_to_the_caller(program, x):
    first = program(x)
    kept = first.copy()
    first[:] = 0
    second = program(x)
    np.testing.assert_array_equal(second, kept)
    program(x * 2)
    np.testing.assert_array_equal(second, kept)


def test_inputs_are_left_alone(program, x):
    given = x.copy()
    program(given)
    np.testing.assert_array_equal(given, x)


def test_views_and_orders_of_memory_are_taken(program, x):
    expected = program(x)
    wide = np.zeros((2, 1, 32, 64), np.float32)
    wide[..., ::2] = x
    np.testing.assert_array_equal(program(wide[..., ::2]), expected)
    np.testing.assert_array_equal(program(np.asfortranarray(x)), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 1, 32, 32), np.float32),
        np.zeros((2, 32, 32), np.float32),
        np.zeros((2, 1, 32, 31), np.float32),
        np.zeros((2, 1, 32, 32), np.float64),
        np.zeros((2, 1, 32, 32), np.int64),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_wrong_arrays_are_named(program, wrong):
    with pytest.raises(ValueError, match=r"float32 of shape \(2, 1, 32, 32\)") as caught:
        program(wrong)
    assert str(wrong.shape) in str(caught.value)


def test_a_wrong_number_of_arrays_is_named(program, x):
    with pytest.raises(ValueError, match="expected 1"):
        program(x, x)


def test_parameters_are_read_only_and_in_definition_order(program):
    names = list(program.parameters)
    assert names[:2] == ["conv1.weight", "conv1.bias"] or names[0].endswith(".weight")
    weights, biases = names[::2], names[1::2]
    assert [n.removesuffix(".weight") for n in weights] == [n.removesuffix(".bias") for n in biases]
    with pytest.raises(ValueError, match="read-only"):
        program.parameters[names[0]][:] = 0
    with pytest.raises(TypeError):
        program.parameters["more"] = 1


def test_updates_take_effect_at_the_next_call(x):
    program = convdsl.load("lenet").compile(batch=2)
    before = program(x)
    names = list(program.parameters)
    program.update({names[-1]: program.parameters[names[-1]] + 1})
    np.testing.assert_allclose(program(x), before + 1, rtol=1e-5)
    # The first weights are packed once; an update packs them again.
    program.update({names[0]: program.parameters[names[0]] * 0})
    assert np.abs(program(x) - before - 1).max() > 1e-4


def test_wrong_updates_change_nothing(program):
    names = list(program.parameters)
    before = {n: a.copy() for n, a in program.parameters.items()}
    good = np.zeros_like(before[names[0]])
    with pytest.raises(CompileError, match="nonsense"):
        program.update({names[0]: good, "nonsense": good})
    with pytest.raises(CompileError, match="shape"):
        program.update({names[0]: good, names[1]: good})
    for name in names:
        np.testing.assert_array_equal(program.parameters[name], before[name])


def test_files_keep_everything(tmp_path, x):
    net = convdsl.load("lenet")
    one, two = net.compile(batch=2, seed=1), net.compile(batch=2, seed=2)
    assert np.abs(one(x) - two(x)).max() > 0
    one.save(tmp_path / "one.safetensors")
    two.load(tmp_path / "one.safetensors")
    np.testing.assert_array_equal(one(x), two(x))


def test_damaged_and_foreign_files_are_refused(tmp_path, program):
    from safetensors.numpy import save_file

    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\x93\x00garbage" * 9)
    for path in (garbage, tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(CompileError) as caught:
            program.load(path)
        assert caught.value.diagnostics[0].code == "E503"
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": np.zeros(3, np.float32)}, foreign)
    with pytest.raises(CompileError, match="no parameter `w`"):
        program.load(foreign)
    partial = tmp_path / "partial.safetensors"
    names = list(program.parameters)
    save_file({names[0]: np.array(program.parameters[names[0]])}, partial)
    with pytest.raises(CompileError, match="lacks"):
        program.load(partial)


def test_runs_repeat_bit_for_bit(x):
    net = convdsl.load("lenet")
    a, b = net.compile(batch=2), net.compile(batch=2)
    np.testing.assert_array_equal(a(x), b(x))
    # Threads divide results among themselves, never the terms of one sum.
    one = net.compile(batch=2, threads=1)
    np.testing.assert_array_equal(one(x), a(x))


def test_gradients_of_a_step_and_its_update():
    torch = pytest.importorskip("torch")
    net = convdsl.load("lenet")
    optimizer = convdsl.SGD(momentum=0.9, weight_decay=0.01)
    step = net.compile(train=True, batch=4, optimizer=optimizer)
    random = np.random.default_rng(1)
    x = random.standard_normal((4, 1, 32, 32)).astype(np.float32)
    target = random.integers(0, 10, 4)
    parameters = {
        n: torch.from_numpy(a.copy()).requires_grad_() for n, a in step.parameters.items()
    }
    theirs = torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        theirs.zero_grad()
        logits = torch_forward(net.graph, torch.from_numpy(x), parameters)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(target))
        loss.backward()
        theirs.step()
        assert abs(step.step(x, target, lr=0.1) - loss.item()) < 1e-5
    for name, tensor in parameters.items():
        assert relative_error(step.parameters[name], tensor.detach().numpy()) < 1e-5


def test_dropout_masks_are_a_function_of_seed_and_step():
    text = "net T { input 64\n dropout 0.5\n dense 8 }"
    net = convdsl.load_source(text)
    x, target = np.ones((4, 64), np.float32), np.zeros(4, np.int64)
    a = net.compile(train=True, batch=4, seed=3, optimizer=convdsl.SGD())
    b = net.compile(train=True, batch=4, seed=3, optimizer=convdsl.SGD())
    first, second = a.step(x, target, lr=0.0), a.step(x, target, lr=0.0)
    assert first != second
    assert [b.step(x, target, lr=0.0) for _ in range(2)] == [first, second]
    a.value_and_grad(x, target)
    kept = a.input_grad != 0
    assert 0.3 < kept.mean() < 0.7
    inference = net.compile(batch=4, seed=3)
    weight = inference.parameters["dense1.weight"]
    expected = weight.sum(axis=1) + inference.parameters["dense1.bias"]
    assert relative_error(inference(x)[0], expected) < 1e-5


def test_programs_can_be_dropped():
    net = convdsl.load("lenet")
    for _ in range(3):
        program = net.compile(batch=1)
        program(np.zeros((1, 1, 32, 32), np.float32))
        del program
        gc.collect()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"target": "tpu"}, "E506"),
        ({"batch": 0}, "E511"),
        ({"precision": "fp7"}, "E511"),
        ({"train": True, "loss": "anger"}, "E501"),
        ({"train": True, "optimizer": "sgd"}, "E511"),
    ],
)
def test_impossible_compilations_are_refused(options, code):
    with pytest.raises(CompileError) as caught:
        convdsl.load("lenet").compile(**options)
    assert caught.value.diagnostics[0].code == code
