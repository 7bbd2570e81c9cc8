"""Training against torch: batch statistics, losses, shared values, several steps."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import relative_error

import convdsl
from convdsl.compiler import compile
from convdsl.ops.losses import CrossEntropy

BN = """
net T {
  input 3@9x8
  C1: conv 16@3x3 bias=off -> bn -> relu
  max 2x2 -> bn momentum=0.3 eps=0.001
  dense 4
}
"""


def test_batch_norm_trains_as_torchs_does():
    net = convdsl.load_source(BN)
    step = net.compile(train=True, batch=6, optimizer=convdsl.SGD(momentum=0.9))
    names = list(step.parameters)
    first, second = "C1.bn1", "bn1"
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, bias=False),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.BatchNorm2d(16, eps=0.001, momentum=0.3),
        torch.nn.Flatten(),
        torch.nn.Linear(144, 4),
    )
    theirs = dict(model.named_parameters())
    pairs = dict(zip(names, theirs, strict=True))
    with torch.no_grad():
        for ours, other in pairs.items():
            theirs[other].copy_(torch.from_numpy(np.array(step.parameters[ours])))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    random = np.random.default_rng(0)
    for _ in range(4):
        x = random.standard_normal((6, 3, 9, 8)).astype(np.float32)
        target = random.integers(0, 4, 6)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(target))
        loss.backward()
        optimizer.step()
        assert abs(step.step(x, target, lr=0.05) - loss.item()) < 1e-5
    for ours, other in pairs.items():
        assert relative_error(step.parameters[ours], theirs[other].detach().numpy()) < 1e-4
    for prefix, module in ((first, model[1]), (second, model[4])):
        mean, variance = step.buffers[f"{prefix}.mean"], step.buffers[f"{prefix}.variance"]
        assert relative_error(mean, module.running_mean.numpy()) < 1e-5
        assert relative_error(variance, module.running_var.numpy()) < 1e-5
    # The trained statistics are what inference uses.
    inference = net.compile(batch=6)
    inference.update({**step.parameters, **step.buffers})
    model.eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    assert relative_error(inference(x), expected) < 1e-4


def test_statistics_over_processes_are_marked_and_cost_one_process_nothing():
    graph = convdsl.load_source(BN).graph

    def steps(**given):
        return compile(graph, batch=6, ready=False, **given).plan.steps

    training = {"loss": "cross_entropy", "optimizer": convdsl.SGD()}
    # Mean and variance, and the two sums of the gradient, of either layer.
    assert sum(step.exchanged for step in steps(**training, processes=2)) == 8
    assert steps(**training, processes=1) == steps(**training)
    assert not any(step.exchanged for step in steps(**training))
    assert steps(processes=2) == steps()


def torch_loss(name, x, target):
    return {
        "cross_entropy": lambda: F.cross_entropy(x, target),
        "soft_cross_entropy": lambda: F.cross_entropy(x, target),
        "negative_log_likelihood": lambda: F.nll_loss(x, target),
        "mean_squared_error": lambda: F.mse_loss(x, target),
        "mean_absolute_error": lambda: F.l1_loss(x, target),
        "hinge": lambda: torch.clamp(1 - target * x, min=0).mean(),
        "binary_cross_entropy": lambda: F.binary_cross_entropy_with_logits(x, target),
    }[name]()


@pytest.mark.parametrize("large", [1.0, 300.0], ids=["plain", "large"])
@pytest.mark.parametrize(
    "name",
    [
        "cross_entropy",
        "soft_cross_entropy",
        "negative_log_likelihood",
        "mean_squared_error",
        "mean_absolute_error",
        "hinge",
        "binary_cross_entropy",
    ],
)
@pytest.mark.parametrize("shape", ["7", "3@4x5"])
def test_losses_are_torchs(name, shape, large):
    # `resize 1` leaves the values as they are.
    body = "dropout 0" if "@" not in shape else "resize 1"
    net = convdsl.load_source(f"net T {{ input {shape}\n{body} }}")
    step = net.compile(train=True, batch=3, loss=name)
    type = net.graph.inputs[0].type
    random = np.random.default_rng(1)
    x = (random.standard_normal((3, *type.shape)) * large).astype(np.float32)
    if name in ("cross_entropy", "negative_log_likelihood"):
        target = random.integers(0, type.channels, (3, *type.spatial))
    elif name == "soft_cross_entropy":
        target = random.uniform(size=x.shape).astype(np.float32)  # its sum is not 1, too
    elif name == "mean_squared_error":
        target = random.standard_normal(x.shape).astype(np.float32)
    else:
        target = random.choice([0.0 if "binary" in name else -1.0, 1.0], x.shape)
        target = target.astype(np.float32)
    loss, _ = step.value_and_grad(x, target)
    tensor = torch.from_numpy(x).requires_grad_()
    expected = torch_loss(name, tensor, torch.from_numpy(target))
    expected.backward()
    assert abs(loss - expected.item()) <= 1e-5 * max(1, abs(expected.item()))
    assert relative_error(step.input_grad, tensor.grad.numpy()) < 1e-5


@pytest.mark.parametrize("weights", [(), (0.2, 3.0, 1.0)], ids=["even", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_with_weights_and_smoothing(weights, smoothing):
    net = convdsl.load_source("net T { input 5\n dense 3 }")
    loss = CrossEntropy(weights, smoothing)
    step = net.compile(train=True, batch=4, loss=loss)
    random = np.random.default_rng(2)
    x, target = random.standard_normal((4, 5)).astype(np.float32), random.integers(0, 3, 4)
    found, gradients = step.value_and_grad(x, target)
    w, b = (torch.tensor(np.array(a), requires_grad=True) for a in step.parameters.values())
    weight = torch.tensor(weights) if weights else None
    expected = F.cross_entropy(
        F.linear(torch.from_numpy(x), w, b),
        torch.from_numpy(target),
        weight=weight,
        label_smoothing=smoothing,
    )
    expected.backward()
    assert abs(found - expected.item()) < 1e-5
    assert relative_error(gradients["dense1.weight"], w.grad.numpy()) < 1e-5


def test_a_parameter_that_does_nothing_has_a_gradient_of_zeros():
    net = convdsl.load_source("net T { input 4\n unused = dense 3\n dense 2 }")
    step = net.compile(train=True, batch=2)
    _, gradients = step.value_and_grad(np.ones((2, 4), np.float32), np.array([0, 1]))
    assert len(gradients) == 4
    flat = [np.abs(g).max() for g in gradients.values()]
    assert sorted(v > 0 for v in flat) == [False, False, True, True]


def test_a_value_used_twice_gathers_both_gradients():
    net = convdsl.load_source(
        "net T { input 3@4x4\n y = conv 3@1x1\n add(y, (y -> relu), y)\n dense 2 }"
    )
    step = net.compile(train=True, batch=2)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    _, gradients = step.value_and_grad(x, np.array([0, 1]))
    w = {n: torch.tensor(np.array(a), requires_grad=True) for n, a in step.parameters.items()}
    (cw, cb, dw, db) = w.values()
    y = F.conv2d(torch.from_numpy(x), cw, cb)
    total = y + torch.relu(y) + y
    F.cross_entropy(F.linear(total.flatten(1), dw, db), torch.tensor([0, 1])).backward()
    for name, tensor in w.items():
        assert relative_error(gradients[name], tensor.grad.numpy()) < 1e-5


OPTIMIZERS = [
    (convdsl.SGD(), torch.optim.SGD, {}),
    (
        convdsl.SGD(momentum=0.8, weight_decay=0.1, nesterov=True),
        torch.optim.SGD,
        {"momentum": 0.8, "weight_decay": 0.1, "nesterov": True},
    ),
    (convdsl.Adam(), torch.optim.Adam, {}),
    (convdsl.Adam(weight_decay=0.1), torch.optim.Adam, {"weight_decay": 0.1}),
    (
        convdsl.Adam(0.8, 0.99, 1e-6, weight_decay=0.1, decoupled=True),
        torch.optim.AdamW,
        {"betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1},
    ),
]


@pytest.mark.parametrize(("ours", "theirs", "options"), OPTIMIZERS, ids=lambda o: str(o)[:40])
def test_optimisers_are_torchs(ours, theirs, options):
    net = convdsl.load_source("net T { input 6\n dense 5 -> tanh -> dense 3 }")
    step = net.compile(train=True, batch=4, optimizer=ours)
    tensors = {n: torch.tensor(np.array(a), requires_grad=True) for n, a in step.parameters.items()}
    optimizer = theirs(tensors.values(), lr=0.05, **options)
    random = np.random.default_rng(3)
    w1, b1, w2, b2 = tensors.values()
    for _ in range(6):
        x = random.standard_normal((4, 6)).astype(np.float32)
        target = random.integers(0, 3, 4)
        optimizer.zero_grad()
        y = F.linear(torch.tanh(F.linear(torch.from_numpy(x), w1, b1)), w2, b2)
        F.cross_entropy(y, torch.from_numpy(target)).backward()
        optimizer.step()
        step.step(x, target, lr=0.05)
    for name, tensor in tensors.items():
        assert relative_error(step.parameters[name], tensor.detach().numpy()) < 1e-4, name


def test_recomputation_saves_memory_and_changes_no_bit():
    body = "conv 8@3x3 pad=half bias=off -> bn -> relu"
    lines = "\n".join([body] * 5)
    net = convdsl.load_source(f"net T {{ input 3@16x16\n {lines}\n avg global -> dense 4 }}")
    random = np.random.default_rng(0)
    x = random.standard_normal((4, 3, 16, 16)).astype(np.float32)
    target = random.integers(0, 4, 4)
    plain = net.compile(train=True, batch=4)
    thrifty = net.compile(train=True, batch=4, recompute=True)
    loss, gradients = plain.value_and_grad(x, target)
    again, others = thrifty.value_and_grad(x, target)
    assert loss == again
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, others[name])
    assert thrifty.plan.live_bytes < 0.8 * plain.plan.live_bytes


RMSPROP = {"momentum": 0.7, "eps": 1e-6, "weight_decay": 0.1}


def trained(optimizer, theirs, clip=0.0, spare=False, steps=6):
    """Our program and torch's tensors after some steps each, and the mean of torch's tensors."""
    net = convdsl.load_source("net T { input 6\n dense 5 -> tanh -> dense 3 }")
    step = net.compile(train=True, batch=4, optimizer=optimizer)
    tensors = {n: torch.tensor(np.array(a), requires_grad=True) for n, a in step.parameters.items()}
    w1, b1, w2, b2 = tensors.values()
    decay = theirs.keywords.get("weight_decay", 0.0)
    groups = [
        {"params": [w1, w2], "weight_decay": decay},
        {"params": [b1, b2], "weight_decay": 0.0 if spare else decay},
    ]
    other = theirs(groups, lr=0.05)
    random = np.random.default_rng(3)
    passed = []
    for _ in range(steps):
        x = random.standard_normal((4, 6)).astype(np.float32)
        target = random.integers(0, 3, 4)
        other.zero_grad()
        y = F.linear(torch.tanh(F.linear(torch.from_numpy(x), w1, b1)), w2, b2)
        F.cross_entropy(y, torch.from_numpy(target)).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(list(tensors.values()), clip)
        other.step()
        step.step(x, target, lr=0.05)
        passed.append({n: t.detach().numpy().copy() for n, t in tensors.items()})
    return step, passed


REFINED = {
    "rmsprop": (convdsl.RMSprop(), partial(torch.optim.RMSprop)),
    "rmsprop with everything": (
        convdsl.RMSprop(0.9, 0.7, 1e-6, 0.1),
        partial(torch.optim.RMSprop, alpha=0.9, **RMSPROP),
    ),
    "clipped": (convdsl.SGD(0.9), partial(torch.optim.SGD, momentum=0.9), 0.3),
    "spare": (
        convdsl.Adam(weight_decay=0.5, decoupled=True),
        partial(torch.optim.AdamW, weight_decay=0.5),
        0.0,
        True,
    ),
}


@pytest.mark.parametrize("case", REFINED)
def test_what_surrounds_an_optimiser_is_torchs(case):
    ours, theirs, *more = REFINED[case]
    clip, spare = [*more, 0.0, False][:2] if len(more) < 2 else more
    refined = convdsl.Refined(ours, clip=clip, spare_vectors=spare)
    step, passed = trained(refined, theirs, clip, spare)
    for name, expected in passed[-1].items():
        assert relative_error(step.parameters[name], expected) < 1e-4, name


def test_the_moving_average_is_a_mean_at_first():
    refined = convdsl.Refined(convdsl.SGD(), average=0.8)
    step, passed = trained(refined, partial(torch.optim.SGD), steps=8)
    for name in step.parameters:
        expected = np.zeros_like(passed[0][name])
        for t, values in enumerate(passed, 1):
            expected += (values[name] - expected) * max(0.2, 1 / t)
        assert relative_error(step.state[f"{name}.average"], expected) < 1e-5


def test_a_loss_that_is_not_finite_updates_nothing():
    net = convdsl.load_source("net T { input 3\n dense 2 }")
    step = net.compile(train=True, batch=2, optimizer=convdsl.SGD(0.9))
    target = np.array([0, 1])
    step.step(np.ones((2, 3), np.float32), target, lr=0.1)
    before = {n: np.array(a) for n, a in {**step.parameters, **step.state}.items()}
    loss = step.step(np.full((2, 3), np.nan, np.float32), target, lr=0.1)
    assert np.isnan(loss)
    assert step.steps_taken == 1
    for name, array in {**step.parameters, **step.state}.items():
        np.testing.assert_array_equal(array, before[name])


def test_state_that_is_resumed_continues_bit_by_bit():
    net = convdsl.load_source("net T { input 6\n dense 8 -> dropout 0.5 -> dense 3 }")
    random = np.random.default_rng(0)
    x, target = random.standard_normal((4, 6)).astype(np.float32), random.integers(0, 3, 4)
    first = net.compile(train=True, batch=4, optimizer=convdsl.Adam(), seed=5)
    for _ in range(3):
        first.step(x, target, lr=0.1)
    second = net.compile(train=True, batch=4, optimizer=convdsl.Adam(), seed=5)
    second.update(first.parameters)
    second.resume(first.state, first.steps_taken)
    for _ in range(2):
        assert first.step(x, target, lr=0.1) == second.step(x, target, lr=0.1)
    for name, array in first.parameters.items():
        np.testing.assert_array_equal(array, second.parameters[name])
    with pytest.raises(convdsl.CompileError, match="E505"):
        second.resume({"other": np.zeros(3)}, 1)
