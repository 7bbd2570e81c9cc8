"""Maps that are joined or cut lie within one another; nothing is copied that need not be."""

import numpy as np
import pytest
from helpers import random_arrays, relative_error

import convdsl
from convdsl.compiler import compile, laid_out, lower
from convdsl.kernels.cpu.target import CpuTarget
from convdsl.kernels.cuda.target import CudaTarget
from convdsl.plan import plan
from convdsl.plan.model import Images
from convdsl.runtime.interpreter import evaluate

CPU = CpuTarget(lanes=16, threads=2)


def planned(body, batch=2, loss=None, target=CPU, size="8x8"):
    graph = convdsl.load_source(f"net T {{ input 16@{size}\n {body}\n}}").graph
    return plan(laid_out(lower(graph, loss), target), batch, target)


def copied(made):
    """What is copied, with the reasons."""
    return {s.name: s.reason for s in made.steps if s.reason.startswith("copied")}


def results(made):
    """By name: where what a step computes last is."""
    return {s.name: s.buffers[-1] for s in made.steps}


GROWING = """
  a = conv 32@3x3 pad=1 -> relu
  b = a -> bn -> relu -> conv 16@1x1
  c = concat(a, b)
  d = c -> bn -> relu -> conv 16@3x3 pad=1
  e = concat(c, d)
  e -> conv 16@1x1"""


@pytest.mark.parametrize("batch", [1, 3])
def test_a_part_of_a_part_is_a_part(batch):
    made = planned(GROWING, batch)
    assert not copied(made)
    assert [f.name for f in made.free] == ["concat1", "concat2"]
    where = results(made)
    first, second, third = where["conv1"], where["conv2"], where["conv3"]
    image = 64 * 64
    assert second.offset - first.offset == 4 * 32 * 64
    assert third.offset - first.offset == 4 * 48 * 64
    assert {b.image for b in (first, second, third)} == {image if batch > 1 else 0}
    whole = next(f for f in made.free if f.name == "concat2").buffer
    assert (whole.offset, whole.elements, whole.image) == (first.offset, batch * image, 0)


def test_the_gradient_of_a_join_is_read_where_it_is():
    made = planned(GROWING + "\n -> avg global -> flatten", 2, "cross_entropy")
    assert not copied(made)
    assert not any(s.kernel.name.startswith("along") for s in made.steps)
    assert sum("read where it is" in f.reason for f in made.free) == 4


def test_what_two_joins_want_is_copied_for_one():
    body = "a = conv 16@1x1\n b = a -> conv 16@1x1\n c = concat(a, b)\n d = concat(b, a)\n"
    made = planned(body + "add(c, d) -> conv 16@1x1")
    assert copied(made) == {"concat2": "copied: it has its place elsewhere"}
    assert sum(s.name == "concat2" for s in made.steps) == 2


def test_inputs_and_outputs_have_places_of_their_own():
    body = "a = concat(in, conv 16@1x1)\n b = conv 16@1x1\n output first: b\n concat(a, b)"
    made = planned(body + " -> conv 16@1x1", 1, target=CpuTarget(lanes=1))
    assert sorted(copied(made).values()) == ["copied: image is given", "copied: it is an output"]


CUDA = pytest.mark.parametrize("target", [CudaTarget(), CudaTarget("bf16")], ids=["fp32", "bf16"])


@CUDA
@pytest.mark.parametrize("loss", [None, "cross_entropy"])
def test_the_gpu_joins_nothing_either(target, loss):
    for batch in (1, 2):
        made = planned(GROWING + "\n -> avg global -> flatten", batch, loss, target)
        assert not copied(made)
        assert not any(s.kernel.name.startswith(("join", "along")) for s in made.steps)
        assert len(made.free) == (6 if loss else 2)
        assert any(b.image for s in made.steps for b in s.buffers) == (batch > 1)


def test_parts_begin_at_whole_accesses_on_the_gpu():
    body = "a = conv 16@1x1\n b = a -> conv {}@1x1\n concat(b, a) -> slice 0..8 -> conv 4@1x1"
    for filters, size in ((16, "3x3"), (18, "4x3")):
        assert not copied(planned(body.format(filters), 2, None, CudaTarget(), size))
    found = copied(planned(body.format(18), 2, None, CudaTarget(), "3x3"))
    assert found == dict.fromkeys(["concat1", "slice1.along"], f"copied: {WHOLE}")


WHOLE = "parts begin at multiples of 4 elements"


def test_maps_of_two_types_are_joined_by_a_copy():
    body = "a = in -> tanh\n concat(conv 12@1x1, a) -> conv 16@1x1"
    made = planned(body, 2, None, CudaTarget("bf16"))
    assert list(copied(made).values()) == ["copied: concat1 is stored in another type"]
    step = next(s for s in made.steps if s.name == "concat1")
    assert [b.dtype for b in step.buffers] == ["float32", "bfloat16"]


def test_steps_never_read_what_they_write_elsewhere():
    """Of two overlapping slices one does not take the other's place."""
    body = (
        "a = conv 48@1x1\n b = a -> slice 0..32\n c = a -> slice 16..48\n add(b, c) -> conv 16@1x1"
    )
    made = planned(body, 1)
    step = next(s for s in made.steps if s.name == "add1")
    left, right, result = step.buffers
    assert right.offset - left.offset == 4 * 16 * 64
    end = left.offset + 4 * 48 * 64
    assert result.offset >= end or result.offset + result.bytes <= left.offset


def test_joining_needs_less_memory_while_training():
    body = "conv 64@1x1\n for i in 0..8 { grow }\n avg global -> flatten\n}\n"
    body += "block grow {\n new = in -> bn -> relu -> conv 16@3x3 pad=1\n concat(in, new)"
    joined = planned(body, 2, "cross_entropy", size="32x32")
    apart = planned(body, 2, "cross_entropy", NoParts(), size="32x32")
    assert joined.live_bytes < 0.8 * apart.live_bytes
    assert joined.arena_bytes < 0.8 * apart.arena_bytes
    assert len(joined.steps) < len(apart.steps)


class NoParts(CpuTarget):
    def __init__(self):
        super().__init__(lanes=16, threads=2)

    def takes_part(self, family, operand, batch):
        return False


def outputs_of(graph, arrays, batch):
    program = compile(graph, batch=batch)
    program.update({v.name: arrays[v.name] for v in graph.parameters})
    program.machine.poison()
    return program(arrays["image"].astype(np.float32))


def test_a_kernel_that_takes_images_for_neighbours_is_caught(monkeypatch):
    body = "a = conv 16@1x1\n b = conv 16@1x1\n concat(a, b) -> conv 16@1x1"
    graph = convdsl.load_source(f"net T {{ input 16@8x8\n {body}\n}}").graph
    arrays = random_arrays(graph, 2)
    expected = evaluate(graph, arrays)["output"]
    assert relative_error(outputs_of(graph, arrays, 2), expected) < 1e-5
    monkeypatch.setattr(Images, "blocks", lambda self, operand, size: 0)
    found = outputs_of(graph, arrays, 2)
    assert relative_error(found[0], expected[0]) < 1e-5
    assert not np.isfinite(found[1]).all()


def test_the_plan_tells_what_takes_no_step():
    from convdsl.views import listings

    text = listings.plan(planned(GROWING))
    (line,) = (line for line in text.splitlines() if line.split()[:1] == ["concat1"])
    assert "no step" in line
    assert "its inputs are computed in their places" in line
