"""What a step writes takes the place only of what it reads element by element.

Kernels write results in any order, on several threads, so that nothing else that they read may lie
there.
"""

import itertools

import pytest
from random_networks import JoiningWriter, Writer

import convdsl
from convdsl.compiler import laid_out, lower
from convdsl.kernels.cpu.target import CpuTarget
from convdsl.kernels.cuda.target import CudaTarget
from convdsl.plan import Buffer, plan
from convdsl.plan.model import ITEM_SIZE

TARGETS = [CpuTarget(16, 2), CpuTarget(8, 2, exact=True), CudaTarget(), CudaTarget("bf16")]
NETWORKS = ["lenet5", "vgg11", "resnet18", "mobilenetv2", "unet", "squeezenet"]


def check(graph, batch, loss):
    for target in TARGETS:
        steps = plan(laid_out(lower(graph, loss), target), batch, target).steps
        for step in steps:
            *read, written = step.buffers
            for (name, _), buffer in zip(step.kernel.pointers, read, strict=False):
                if shares_memory(buffer, written, batch):
                    told = f"{step.name}: {step.kernel.name} writes over its operand {name}"
                    assert places(buffer, batch) == places(written, batch), told
                    assert by_element(step.kernel, name), told


def shares_memory(a, b, batch):
    if a.place != b.place:
        return False
    if a.place != "arena":
        return a.place != "constant" and a.name == b.name
    pairs = itertools.product(places(a, batch), places(b, batch))
    return any(x < end and y < stop for (x, stop), (y, end) in pairs)


def places(buffer, batch):
    """The bytes of a buffer, image by image where these lie apart, as starts and ends."""
    images = batch if buffer.image else 1
    starts = [buffer.offset + n * buffer.image * ITEM_SIZE[buffer.dtype] for n in range(images)]
    return [(start, start + buffer.bytes // images) for start in starts]


def by_element(kernel, name):
    """Whether a kernel reads the operand only where it then writes."""
    return name.startswith("e") or kernel.name.startswith("map")


@pytest.mark.parametrize("loss", [None, "cross_entropy"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, loss):
    check(convdsl.load(name).graph, 2, loss)


@pytest.mark.parametrize("start", range(0, 120, 20))
@pytest.mark.parametrize("kind", [Writer, JoiningWriter])
def test_random_networks(kind, start):
    for seed in range(start, start + 20):
        writer = kind(seed)
        graph = convdsl.load_source(writer.text()).graph
        check(graph, writer.batch, "cross_entropy" if seed % 2 else None)


def test_maps_whose_images_lie_apart_do_not_meet():
    a = Buffer("a", "arena", 2 * 16, offset=0, image=48)
    b = Buffer("b", "arena", 2 * 32, offset=64, image=48)
    assert not shares_memory(a, b, 2)
    assert shares_memory(a, Buffer("c", "arena", 2 * 48), 2)


def test_a_residual_sum_takes_its_skips_place_and_not_its_inputs():
    """The check sees both: a planted bug is in what it must find."""
    source = "net T {{ input 6@9x9\n y: conv 16@1x1\n {}\n conv 16@3x3 pad=1\n add(y) -> relu }}"
    for between, taken in (("", False), ("relu", True)):
        graph = convdsl.load_source(source.format(between)).graph
        steps = plan(laid_out(lower(graph), TARGETS[0]), 2, TARGETS[0]).steps
        (last,) = [s for s in steps if s.kernel.pointers[-2][0] == "e1"]
        assert shares_memory(last.buffers[-1], last.buffers[-2], 2) == taken
