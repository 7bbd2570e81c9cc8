"""Buffers that live together never overlap, and the arena is little larger than it must be."""

from hypothesis import given
from hypothesis import strategies as st

import convdsl
from convdsl.compiler import lower
from convdsl.plan import plan
from convdsl.plan.estimate import activation_bytes
from convdsl.plan.memory import ALIGNMENT, Lifetime, largest_live_set, place

lifetimes = st.builds(
    lambda bytes, first, length: Lifetime(bytes, first, first + length),
    st.integers(1, 10_000),
    st.integers(0, 20),
    st.integers(0, 10),
)


@given(st.lists(lifetimes, max_size=30))
def test_live_buffers_do_not_overlap(lives):
    offsets, size = place(lives)
    assert size >= largest_live_set(lives)
    for i, (a, x) in enumerate(zip(lives, offsets, strict=True)):
        assert x % ALIGNMENT == 0
        assert 0 <= x <= size - a.padded
        for b, y in zip(lives[:i], offsets, strict=False):
            if a.first <= b.last and b.first <= a.last:
                assert x + a.padded <= y or y + b.padded <= x


def test_the_largest_live_set_is_counted_by_hand():
    assert largest_live_set([]) == 0
    assert largest_live_set([Lifetime(64, 0, 1), Lifetime(128, 1, 2), Lifetime(64, 3, 3)]) == 192


def test_networks_reuse_memory():
    graph = convdsl.load("alexnet").graph
    total = sum(v.type.size * 4 for node in graph.nodes for v in node.outputs)
    peak = activation_bytes(graph=lower(graph))
    # conv1's map (which relu works on in place) and what the pool makes of it
    assert peak == (96 * 55 * 55 + 96 * 27 * 27) * 4
    assert peak < total / 2


def test_arenas_are_within_the_bar():
    from convdsl.kernels.cpu.target import CpuTarget

    for name in ("lenet", "alexnet"):
        for loss in (None, "cross_entropy"):
            made = plan(lower(convdsl.load(name).graph, loss), 2, CpuTarget())
            assert made.arena_bytes <= 1.15 * made.live_bytes
