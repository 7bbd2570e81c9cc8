"""What is true of the ops whatever their numbers: symmetries, linearity, adjoints, NaN and ties.

Arrays hold small whole numbers wherever sums are compared, so that every sum is exact in any order
and equality means equality, in the interpreter and in compiled programs.

**Translation.** A convolution of stride 1 has the same weights at every place, so shifting its
input shifts its output: the equivariance that convolutional networks are built on. It holds where
the window saw no border, before or after the shift. It fails

- at zero-padded borders: what is shifted out is lost, and what comes in at the other side meets
  zeros where it had neighbours. (Where the input is zero along its borders nothing is lost, and
  with `pad=full` the whole output shifts.)
- for a stride above 1, unless the shift is a multiple of the stride: another part of the positions
  is looked at. A shift by s becomes one by s / stride.

**Max pooling** is equivariant in the same way; invariant only approximately. What holds exactly: a
maximum that moves within its window changes nothing; the pooling of an input shifted by s lies
between poolings of the input with windows smaller and larger by s; and the maximum over the whole
map does not see where it is.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convdsl
from convdsl.compiler import compile, lower
from convdsl.ops import registry
from convdsl.ops.activations import Activation
from convdsl.ops.losses import LOSSES, CrossEntropy, NegativeLogLikelihood, SoftCrossEntropy
from convdsl.ops.pooling import MaxWinner
from convdsl.runtime.interpreter import evaluate

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def by(sizes):
    return "x".join(map(str, sizes))


def network(body, shape):
    channels, *spatial = shape
    at = f"@{by(spatial)}" if spatial else ""
    return convdsl.load_source(f"net T {{\n  input {channels}{at}\n  {body}\n}}\n").graph


def interpreted(body, x, *weights):
    """The output for a batch of inputs and the weights in order."""
    graph = network(body, x.shape[1:])
    names = (v.name for v in graph.variables)
    return evaluate(graph, dict(zip(names, (x, *weights), strict=True)))["output"]


def compiled(body, x, *weights):
    """The same, compiled for the CPU."""
    program = compile(network(body, x.shape[1:]), batch=len(x))
    arrays = (w.astype(np.float32) for w in weights)
    program.update(dict(zip(program.parameters, arrays, strict=True)))
    return program(x.astype(np.float32))


RUNS = pytest.mark.parametrize("run", [interpreted, compiled])


def whole(shape, seed):
    """Small whole numbers."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float64)


# -- translation -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Convolution:
    """A convolution without bias: ``body`` in the language, its input, its weights."""

    window: tuple[int, ...]
    stride: int
    dilation: int
    pad: int
    filters: int
    groups: int
    x: np.ndarray
    weight: np.ndarray

    @property
    def body(self):
        return (
            f"conv {self.filters}@{by(self.window)} /{self.stride} dilation={self.dilation} "
            f"pad={self.pad} groups={self.groups} bias=off"
        )

    @property
    def reach(self):
        return [self.dilation * (k - 1) + 1 for k in self.window]

    def __call__(self, x):
        return interpreted(self.body, x, self.weight)


@st.composite
def convolutions(draw, strides=(1,), largest_pad=3):
    rank = draw(st.integers(1, 3))
    window = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    groups = draw(st.integers(1, 3))
    channels, filters = (groups * draw(st.integers(1, 2)) for _ in range(2))
    dilation = draw(st.integers(1, 2))
    sizes = [dilation * (k - 1) + 1 + draw(st.integers(0, 6)) for k in window]
    seed = draw(st.integers(0, 999))
    return Convolution(
        window,
        draw(st.sampled_from(strides)),
        dilation,
        draw(st.integers(0, largest_pad)),
        filters,
        groups,
        whole((2, channels, *sizes), seed),
        whole((filters, channels // groups, *window), seed + 1),
    )


def shifted(x, shift, fill=np.roll):
    return fill(x, shift, axis=tuple(range(2, x.ndim)))


def inner(sizes, reach, stride, pad, shift):
    """Per axis: which outputs of the shifted input saw neither a border nor what came around it.

    A window at o covers o·stride − pad onwards, as far as it reaches; it may begin where the old
    content now begins, and must end where it ends.
    """
    found = []
    for n, k, s in zip(sizes, reach, shift, strict=True):
        first, last = max(s, 0), n - 1 + min(s, 0)
        outputs = range((n + 2 * pad - k) // stride + 1)
        found.append(
            [o for o in outputs if first <= o * stride - pad and o * stride - pad + k - 1 <= last]
        )
    return found


def assert_shifts(conv, shift):
    """The output for the shifted input is the shifted output, away from the borders."""
    before, after = conv(conv.x), conv(shifted(conv.x, shift))
    now = inner(conv.x.shape[2:], conv.reach, conv.stride, conv.pad, shift)
    then = [[o - s // conv.stride for o in axis] for axis, s in zip(now, shift, strict=True)]
    everything = range(before.shape[0]), range(before.shape[1])
    np.testing.assert_array_equal(
        after[np.ix_(*everything, *now)], before[np.ix_(*everything, *then)]
    )
    return now


@EXAMPLES
@given(convolutions(), st.data())
def test_a_shifted_input_shifts_a_convolution(conv, data):
    shift = [data.draw(st.integers(-3, 3)) for _ in conv.window]
    assert_shifts(conv, shift)


@EXAMPLES
@given(convolutions(strides=(2, 3)), st.data())
def test_a_strided_convolution_shifts_by_multiples_of_the_stride(conv, data):
    shift = [conv.stride * data.draw(st.integers(-1, 1)) for _ in conv.window]
    assert_shifts(conv, shift)


def test_the_compared_part_is_not_empty():
    """Of 12 outputs, three see a border or what the shift by two brought in."""
    conv = Convolution((3,), 1, 1, 1, 1, 1, whole((1, 1, 12), 0), whole((1, 1, 3), 1))
    (outputs,) = assert_shifts(conv, [2])
    assert outputs == list(range(3, 11))


@EXAMPLES
@given(convolutions(largest_pad=0), st.data())
def test_with_full_padding_content_inside_shifts_as_a_whole(conv, data):
    """No exception at borders, for nothing leaves the input."""
    margin = 3
    widths = ((0, 0), (0, 0), *[(margin, margin)] * len(conv.window))
    x = np.pad(conv.x, widths)
    shift = [data.draw(st.integers(-margin, margin)) for _ in conv.window]
    body = conv.body.replace("pad=0", "pad=full")
    before = interpreted(body, x, conv.weight)
    after = interpreted(body, shifted(x, shift), conv.weight)
    np.testing.assert_array_equal(after, shifted(before, shift))


def test_zero_padded_borders_break_the_symmetry():
    """A window of ones at a border adds the padding's zeros, wherever the content has moved."""
    body, weight = "conv 1@3 pad=1 bias=off", np.ones((1, 1, 3))

    def sums(x):
        return interpreted(body, np.array([[x]], float), weight)[0, 0].tolist()

    # Ones everywhere, before and after a shift by one: what came in is a one as well. The border's
    # 2 stays at the border, and at position 1 there is a 3 where a shift would have the 2.
    assert sums([1, 1, 1, 1, 1, 1]) == [2, 3, 3, 3, 3, 2]
    # What is shifted out is lost, with everything it gave to the places that remain.
    assert sums([0, 0, 0, 0, 5, 1]) == [0, 0, 0, 5, 6, 6]
    assert sums([0, 0, 0, 0, 0, 5]) == [0, 0, 0, 0, 5, 5]
    # With zeros enough around it, content shifts as a whole: nothing leaves.
    assert sums([0, 4, 1, 0, 0, 0]) == [4, 5, 5, 1, 0, 0]
    assert sums([0, 0, 4, 1, 0, 0]) == [0, 4, 5, 5, 1, 0]


@pytest.mark.parametrize("place", range(8))
def test_a_stride_breaks_the_symmetry(place):
    """A window of one at every second position: half of the places are never seen."""
    seen = interpreted("conv 1@1 /2 bias=off", np.eye(1, 8, place)[None], np.ones((1, 1, 1)))
    expected = np.eye(1, 4, place // 2) if place % 2 == 0 else np.zeros((1, 4))
    np.testing.assert_array_equal(seen[0], expected)


@pytest.mark.parametrize(
    "conv",
    [
        Convolution((3, 3), 1, 1, 1, 16, 1, whole((2, 3, 9, 11), 5), whole((16, 3, 3, 3), 6)),
        Convolution((3, 2), 1, 2, 0, 4, 2, whole((2, 4, 9, 10), 7), whole((4, 2, 3, 2), 8)),
        Convolution((5,), 1, 1, 2, 3, 1, whole((2, 2, 16), 9), whole((3, 2, 5), 10)),
    ],
    ids=["direct", "groups and dilation", "1D"],
)
def test_a_shifted_input_shifts_a_compiled_convolution(conv, monkeypatch):
    def run(self, x):
        return compiled(self.body, x, self.weight)

    monkeypatch.setattr(Convolution, "__call__", run)
    assert all(assert_shifts(conv, [2, -1][: len(conv.window)]))


# -- max pooling -----------------------------------------------------------------------------


@st.composite
def pooled(draw):
    """A 1D input, a window that fits with room for shifts."""
    size = draw(st.integers(8, 16))
    return whole((2, 3, size), draw(st.integers(0, 999))), draw(st.integers(2, 4))


@EXAMPLES
@given(pooled(), st.integers(-3, 3))
def test_max_pooling_of_stride_one_shifts(case, shift):
    x, k = case
    before, after = interpreted(f"max {k} /1", x), interpreted(f"max {k} /1", shifted(x, [shift]))
    (now,) = inner(x.shape[2:], [k], 1, 0, [shift])
    np.testing.assert_array_equal(after[..., now], before[..., [o - shift for o in now]])


@EXAMPLES
@given(pooled(), st.integers(-2, 2))
def test_max_pooling_shifts_by_multiples_of_its_stride(case, steps):
    x, k = case
    shift = k * steps
    before, after = interpreted(f"max {k}", x), interpreted(f"max {k}", shifted(x, [shift]))
    (now,) = inner(x.shape[2:], [k], k, 0, [shift])
    np.testing.assert_array_equal(after[..., now], before[..., [o - steps for o in now]])


@pytest.mark.parametrize("place", range(12))
def test_a_maximum_that_moves_within_its_window_changes_nothing(place):
    """Approximate invariance: what is lost is where in the window; the window is still told."""
    y = interpreted("max 3", np.eye(1, 12, place)[None])
    np.testing.assert_array_equal(y[0], np.eye(1, 4, place // 3))


@EXAMPLES
@given(pooled(), st.integers(1, 3))
def test_a_shift_changes_max_pooling_no_more_than_its_window_would(case, shift):
    """Pooling x(p − s) over [o, o + k) is pooling x over [o − s, o − s + k).

    It lies between the maxima of x over what both have in common and over what either has.
    """
    x, k = case
    y = interpreted(f"max {k} /1", shifted(x, [shift]))
    for o in range(shift, y.shape[-1]):
        most = x[..., o - shift : o + k].max(axis=-1)
        assert (y[..., o] <= most).all()
        if shift < k:
            assert (y[..., o] >= x[..., o : o + k - shift].max(axis=-1)).all()


@EXAMPLES
@given(convolutions(), st.data())
def test_the_maximum_of_the_whole_map_is_invariant(conv, data):
    """And so is the mean, up to the order of its terms."""
    shift = [data.draw(st.integers(-5, 5)) for _ in conv.window]
    for body, tolerance in (("max global", 0), ("avg global", 1e-12)):
        before, after = interpreted(body, conv.x), interpreted(body, shifted(conv.x, shift))
        np.testing.assert_allclose(after, before, rtol=0, atol=tolerance)


# -- convolution as algebra ------------------------------------------------------------------


@EXAMPLES
@given(convolutions(strides=(1, 2)), st.integers(-3, 3), st.integers(-3, 3))
def test_convolution_is_linear_in_its_input_and_in_its_weights(conv, a, b):
    other = whole(conv.x.shape, 1001)
    np.testing.assert_array_equal(conv(a * conv.x + b * other), a * conv(conv.x) + b * conv(other))
    weight = whole(conv.weight.shape, 1002)
    total = interpreted(conv.body, conv.x, a * conv.weight + b * weight)
    parts = a * conv(conv.x) + b * interpreted(conv.body, conv.x, weight)
    np.testing.assert_array_equal(total, parts)


@EXAMPLES
@given(convolutions(strides=(1, 2)))
def test_groups_are_a_convolution_with_zeros_between_them(conv):
    each, own = conv.filters // conv.groups, conv.weight.shape[1]
    dense = np.zeros((conv.filters, conv.x.shape[1], *conv.window))
    for f in range(conv.filters):
        start = f // each * own
        dense[f, start : start + own] = conv.weight[f]
    body = conv.body.replace(f"groups={conv.groups}", "groups=1")
    np.testing.assert_array_equal(conv(conv.x), interpreted(body, conv.x, dense))


def masked(table, window, seed):
    """The weights of the connected pairs, and the full weights with zeros for the others."""
    channels, filters = len(table), len(table[0])
    dense = whole((filters, channels, *window), seed)
    pairs = [(f, c) for f in range(filters) for c in range(channels) if table[c][f]]
    mask = np.array(table).T.reshape(filters, channels, *(1,) * len(window))
    return np.array([dense[pair] for pair in pairs]), dense * mask


@st.composite
def tables(draw):
    """Rows for channels, columns for filters; every filter sees a channel."""
    channels, filters = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    columns = [
        draw(st.lists(st.booleans(), min_size=channels, max_size=channels).filter(any))
        for _ in range(filters)
    ]
    return list(zip(*columns, strict=True))


def written(table):
    return " ".join("".join("X" if seen else "." for seen in row) for row in table)


@EXAMPLES
@given(tables(), st.integers(0, 999))
def test_a_table_of_connections_is_a_mask(table, seed):
    x, (weight, dense) = whole((2, len(table), 5, 4), seed), masked(table, (3, 2), seed + 1)
    body = f"conv {len(table[0])}@3x2 bias=off"
    found = interpreted(f'{body} connect="{written(table)}"', x, weight)
    np.testing.assert_array_equal(found, interpreted(body, x, dense))


def test_a_compiled_table_of_connections_is_a_mask():
    table = [(True, False, True), (True, True, False)]
    x, (weight, dense) = whole((2, 2, 6, 5), 1), masked(table, (3, 3), 2)
    found = compiled(f'conv 3@3x3 bias=off connect="{written(table)}"', x, weight)
    np.testing.assert_array_equal(found, interpreted("conv 3@3x3 bias=off", x, dense))


def mathematical(x, w):
    """(x * w)(o) = Σ_i x(i) · w(o − i), summed over the channels; x without, w with filters."""
    sizes = [n + k - 1 for n, k in zip(x.shape[1:], w.shape[2:], strict=True)]
    y = np.zeros((w.shape[0], *sizes))
    for i in np.ndindex(*x.shape[1:]):
        for k in np.ndindex(*w.shape[2:]):
            o = tuple(a + b for a, b in zip(i, k, strict=True))
            y[(slice(None), *o)] += w[(..., *k)] @ x[(slice(None), *i)]
    return y


@settings(EXAMPLES, max_examples=30)
@given(convolutions(largest_pad=0))
def test_flip_makes_it_the_convolution_of_mathematics(conv):
    weight = whole((2, conv.x.shape[1], *conv.window), 3)
    body = f"conv 2@{by(conv.window)} flip=on bias=off pad=full"
    found = interpreted(body, conv.x[:1], weight)
    np.testing.assert_array_equal(found[0], mathematical(conv.x[0], weight))


@RUNS
def test_flip_is_numpys_convolution(run):
    x, w = whole((1, 1, 9), 1), whole((1, 1, 4), 2)
    for pad, mode in (("valid", "valid"), ("full", "full")):
        found = run(f"conv 1@4 flip=on bias=off pad={pad}", x, w)
        np.testing.assert_array_equal(found[0, 0], np.convolve(x[0, 0], w[0, 0], mode))


@EXAMPLES
@given(convolutions(strides=(1, 2, 3)))
def test_deconv_is_the_adjoint_of_conv(conv):
    """⟨conv x, y⟩ = ⟨x, deconv y⟩ for the same weights.

    Positions that no window of a strided convolution reaches are what `extra` gives back, and
    there deconv is zero.
    """
    _, channels, *sizes = conv.x.shape
    forward = conv(conv.x)
    y = whole(forward.shape, 77)
    extra = [(n + 2 * conv.pad - k) % conv.stride for n, k in zip(sizes, conv.reach, strict=True)]
    body = (
        f"deconv {channels}@{by(conv.window)} /{conv.stride} dilation={conv.dilation} "
        f"pad={conv.pad} groups={conv.groups} extra={by(extra)} bias=off"
    )
    back = interpreted(body, y, conv.weight)
    assert back.shape == conv.x.shape
    assert (forward * y).sum() == (conv.x * back).sum()


def test_compiled_deconv_is_the_adjoint_of_compiled_conv():
    x, y, w = whole((2, 3, 7, 6), 1), whole((2, 4, 3, 3), 2), whole((4, 3, 3, 2), 3)
    forward = compiled("conv 4@3x2 /2 bias=off", x, w)
    back = compiled("deconv 3@3x2 /2 bias=off", y, w)
    assert (forward * y).sum() == (x * back).sum()


# -- softmax ---------------------------------------------------------------------------------

LOGITS = [whole((3, 5), 1), whole((2, 4, 3, 2), 2), 1e4 * whole((3, 5), 3), np.full((3, 5), -1e4)]


@RUNS
@pytest.mark.parametrize("x", LOGITS, ids=["vector", "2D", "large", "equal"])
def test_softmax_sums_to_one_and_ignores_a_shift(run, x):
    y = run("softmax", x)
    assert np.isfinite(y).all()
    assert (y >= 0).all()
    # float32: a few roundings of numbers up to 1
    np.testing.assert_allclose(y.sum(axis=1), 1, atol=1e-6)
    # Whole numbers, so that the shifted logits are exact: every bit is the same.
    np.testing.assert_array_equal(run("softmax", x + 1000), y)


@RUNS
@pytest.mark.parametrize("x", LOGITS, ids=["vector", "2D", "large", "equal"])
def test_log_softmax_is_the_logarithm_and_stays_finite(run, x):
    y = run("log_softmax", x)
    assert np.isfinite(y).all()
    assert (y <= 0).all()
    np.testing.assert_allclose(np.exp(y), interpreted("softmax", x), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(run("log_softmax", x + 1000), y)


# -- round trips -----------------------------------------------------------------------------


@st.composite
def cuts(draw):
    """A number of channels and two places to cut it at."""
    channels = draw(st.integers(3, 9))
    first = draw(st.integers(1, channels - 2))
    return channels, first, draw(st.integers(first + 1, channels - 1))


@EXAMPLES
@given(cuts())
def test_slices_that_are_joined_again_are_the_whole(cut):
    channels, a, b = cut
    parts = (f"(in -> slice {i}..{j})" for i, j in itertools.pairwise((0, a, b, channels)))
    x = whole((2, channels, 3, 2), channels)
    np.testing.assert_array_equal(interpreted(f"concat({', '.join(parts)})", x), x)


@EXAMPLES
@given(cuts())
def test_joined_values_are_found_again(cut):
    channels, a, b = cut
    x = whole((2, channels, 3, 2), channels)
    body = f"concat((in -> relu), in, (in -> tanh)) -> slice {channels + a}..{channels + b}"
    np.testing.assert_array_equal(interpreted(body, x), x[:, a:b])


@pytest.mark.parametrize(
    "body",
    [
        "pad [(1, 2), (0, 3)] -> crop [(1, 2), (0, 3)]",
        "pad 1 mode=reflect -> crop 1",
        "pad 2 mode=replicate channels=(1, 2) -> crop 2 -> slice 1..7",
        "shuffle 2 -> shuffle 3",
        "transpose [2, 0, 1] -> transpose [1, 2, 0]",
        "flatten -> reshape 6@3x2",
        "resize 2 -> max 2x2",
        "resize 3x2 -> avg 3x2",
        "dropout 0.4 -> drop_path 0.3 -> spatial_dropout 0.2",
        "deconv 6@1x1 bias=off groups=6 -> conv 6@1x1 bias=off groups=6",
    ],
)
def test_round_trips(body):
    x = whole((2, 6, 3, 2), 4)
    weights = [np.ones((6, 1, 1, 1))] * body.count("groups")
    np.testing.assert_array_equal(interpreted(body, x, *weights), x)


# -- NaN and ties ----------------------------------------------------------------------------


@RUNS
@pytest.mark.parametrize("body", ["max 2x2", "max 3x3 /2 pad=1", "max 2x2 /1", "max global"])
def test_a_maximum_of_nan_is_nan(run, body):
    """In every window that holds one, wherever in it, and in no other."""
    for place in np.ndindex(4, 4):
        x = whole((1, 1, 4, 4), 1)
        x[(0, 0, *place)] = np.nan
        marked = np.zeros_like(x)
        marked[(0, 0, *place)] = 1
        y = run(body, x)
        # The windows that hold the place are those whose maximum of the mark is 1.
        np.testing.assert_array_equal(np.isnan(y), interpreted(body, marked) == 1)


ACTIVATIONS = [name for name, op in registry().items() if issubclass(op, Activation)]


@pytest.mark.parametrize("name", [*ACTIVATIONS, "prelu", "softmax", "log_softmax"])
def test_nan_goes_through_every_activation(name):
    x = np.array([[1, np.nan, -1, 0, 2, np.nan, 3]])
    weights = [np.full(7, 0.5)] if name == "prelu" else []
    y = interpreted(name, x, *weights)
    if "softmax" in name:
        assert np.isnan(y).all()
    else:
        np.testing.assert_array_equal(np.isnan(y), np.isnan(x))


@pytest.mark.parametrize("name", ["relu", "relu6", "leaky_relu", "hard_swish", "softplus"])
def test_nan_goes_through_compiled_activations(name):
    x = np.array([[1, np.nan, -1, 0, 2, np.nan, 3]])
    y = compiled(name, x)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))


def gradients_by_input(body, x, run):
    """The gradient of the cross-entropy of the flattened output, by the input."""
    graph = network(f"{body}\n  flatten", x.shape[1:])
    target = np.zeros(len(x), np.int64)
    if run is compiled:
        program = compile(graph, batch=len(x), loss="cross_entropy")
        program.value_and_grad(x.astype(np.float32), target)
        return program.input_grad
    lowered = lower(graph, "cross_entropy")
    names = [v.name for v in lowered.variables]
    return evaluate(lowered, dict(zip(names, (x, target), strict=True)))[f"gradient of {names[0]}"]


TIES = {
    "max 2x2": [(0, 0), (0, 2), (2, 0), (2, 2)],
    # Of the windows at the border, the first element that is no padding.
    "max 3x3 /2 pad=1": [(0, 0), (0, 1), (1, 0), (1, 1)],
    "max 2x3 /2": [(0, 0), (2, 0)],
    "max global": [(0, 0)],
    "adaptive_max 2x2": [(0, 0), (0, 2), (2, 0), (2, 2)],
}


@RUNS
@pytest.mark.parametrize("body", TIES)
def test_the_gradient_of_equals_goes_to_the_first(run, body):
    """Row-major, in every window; two channels, so that even one window has a gradient."""
    gradient = gradients_by_input(body, np.ones((1, 2, 4, 4)), run)
    places = {tuple(map(int, place)) for place in np.argwhere(gradient[0, 0])}
    assert places == set(TIES[body])


def test_padding_never_wins():
    """Not even against an input of −∞, which is what it holds itself."""
    op = network("max 3 /2 pad=1", (1, 6)).nodes[0].op
    x = np.full((1, 1, 6), -np.inf)
    assert MaxWinner(op).evaluate(x).tolist() == [[[1, 0, 0]]]
    x[..., 4:] = np.nan
    assert MaxWinner(op).evaluate(x).tolist() == [[[1, 0, 1]]]


@pytest.mark.parametrize("body", ["relu", "relu6", "leaky_relu 0.5", "hard_swish"])
def test_derivatives_at_kinks_are_those_stated(body):
    """`docs/numerics.md`: 0 for relu at 0 and relu6 at 0 and 6, the second branch for the rest."""
    x = np.array([[0.0, 6.0, 1.0]])
    gradient = gradients_by_input(body, x, interpreted)[0]
    upstream = gradients_by_input("dropout 0", interpreted(body, x), interpreted)[0]
    expected = {
        "relu": [0, 1, 1],
        "relu6": [0, 0, 1],
        "leaky_relu 0.5": [0.5, 1, 1],
        "hard_swish": [0.5, 1, 5 / 6],
    }[body]
    np.testing.assert_allclose(gradient, upstream * expected, atol=1e-12)


# -- losses ----------------------------------------------------------------------------------

LOSS_CASES = [
    *(cls() for cls in LOSSES.values()),
    CrossEntropy((0.5, 2.0, 1.0), 0.1),
    SoftCrossEntropy(label_smoothing=0.1),
    NegativeLogLikelihood((0.5, 2.0, 1.0), 0.1),
]


@pytest.mark.parametrize("shape", [(3,), (3, 4, 5)], ids=["vector", "2D"])
@pytest.mark.parametrize("loss", LOSS_CASES, ids=repr)
def test_gradients_of_losses_are_central_differences(loss, shape):
    """In float64, along random directions; no element is nearer to a kink than the step."""
    graph = lower(network("dropout 0", shape), loss)
    random = np.random.default_rng(6)
    x = random.standard_normal((4, *shape))
    if loss.target(graph.inputs[0].type).dtype == "int64":
        target = random.integers(0, 3, (4, *shape[1:]))
    else:
        target = random.choice([0.0, 1.0] if "binary" in loss.kind else [-1.0, 1.0], x.shape)
    names = [v.name for v in graph.variables]

    def found(x):
        return evaluate(graph, dict(zip(names, (x, target), strict=True)))

    gradient, step = found(x)[f"gradient of {names[0]}"], 1e-6
    for _ in range(4):
        direction = random.standard_normal(x.shape)
        up, down = (found(x + sign * step * direction)["loss"] for sign in (1, -1))
        expected = float(up - down) / (2 * step)
        assert (gradient * direction).sum() == pytest.approx(expected, rel=1e-6, abs=1e-8)
