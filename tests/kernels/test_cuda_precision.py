"""Convolutions and products on tensor cores: in the emulator, and assembled for a GPU.

Factors are rounded to the precision, sums are float32. So integers are exact, and other results
are off by what rounding two factors of a product does: 2⁻¹¹ each in tf32 and fp16, 2⁻⁸ in bf16.
(Feature maps of 16 bits: see `test_cuda_narrow`.)
"""

from dataclasses import replace

import numpy as np
import pytest
from emulator import EmulatedMachine, compile_emulated, launch
from helpers import relative_error

import convdsl
from convdsl.compiler import LOSS_SCALE, emit, laid_out, lower
from convdsl.kernels.cuda import convolution, product, tiles, weight_gradient
from convdsl.kernels.cuda.narrow import convolution as narrow_convolution
from convdsl.kernels.cuda.narrow import weight_gradient as narrow_weight_gradient
from convdsl.kernels.cuda.target import CudaTarget
from convdsl.ops.families import Convolution, Geometry, Product
from convdsl.plan import plan
from convdsl.plan.model import Stored
from convdsl.runtime.assembler import assemble
from convdsl.runtime.cuda_compilation import ptx
from convdsl.runtime.program import Program

PRECISIONS = ("tf32", "bf16", "fp16")
ROUNDING = {"tf32": 2**-11, "bf16": 2**-8, "fp16": 2**-11}
INSTRUCTION = {
    "tf32": "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
    "bf16": "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "fp16": "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
}
ALL_TILES = [(p, tile) for p in PRECISIONS for tile in tiles.tiles_for(p)]
# Without kinks, on whose other side a rounded value would have another gradient.
TEXT = """net Small {
  input 3@12x12
  conv 20@3x3 pad=1 -> bn -> tanh -> avg 2
  conv 24@3x3/2 pad=1 groups=2 -> tanh
  conv 36@1x1 -> tanh -> dense 20 -> tanh -> dense 5
}"""


def integers(*shape, seed=0):
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


@pytest.fixture
def only(monkeypatch):
    """Makes a tile the only one to choose."""
    honest = tiles.choose

    def use(tile):
        def chosen(rows, columns, inner, batch=1, tiles=(), splittable=True):
            return honest(rows, columns, inner, batch, (tile,), splittable)

        narrow = (narrow_convolution, narrow_weight_gradient)
        for module in (convolution, product, weight_gradient, *narrow):
            monkeypatch.setattr(module, "choose", chosen)

    return use


@pytest.mark.parametrize(("precision", "tile"), ALL_TILES, ids=str)
def test_a_product_of_integers_is_exact(precision, tile, only):
    only(tile)
    rows, columns, inner = 21, 36, 40
    a, b = integers(rows, inner), integers(inner, columns, seed=1)
    for by_columns_a, by_columns_b in ((False, False), (False, True), (True, False)):
        family = Product(rows, columns, inner, by_columns_a, by_columns_b)
        recipe = CudaTarget(precision).recipe(family)
        (call,) = recipe.calls
        assert precision in call.kernel.name
        given = [np.ravel(a.T if by_columns_a else a), np.ravel(b.T if by_columns_b else b)]
        found = np.full(rows * columns, np.nan, np.float32)
        launch(call.kernel, call.work, call.kernel.threads, [*given, found], call.sizes)
        np.testing.assert_array_equal(found.reshape(rows, columns), a @ b)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_network_is_off_by_the_rounding_of_factors(precision):
    graph = convdsl.load_source(TEXT).graph
    random = np.random.default_rng(0)
    # With nine rows and more, products are computed in tiles.
    x = random.standard_normal((9, 3, 12, 12)).astype(np.float32)
    target = random.integers(0, 5, 9)
    found = compile_emulated(graph, 9, "cross_entropy", precision=precision)
    known = compile_emulated(graph, 9, "cross_entropy")
    assert any(precision in kernel.name for kernel in found.plan.kernels)
    loss, gradients = found.value_and_grad(x, target)
    expected, exact = known.value_and_grad(x, target)
    # Some ten roundings one after the other, of factors whose products partly cancel.
    allowed = 30 * ROUNDING[precision]
    assert 0 < abs(loss - expected) < allowed * expected
    largest = max(np.abs(g).max() for g in exact.values())
    for name, gradient in gradients.items():
        assert np.abs(gradient - exact[name]).max() < allowed * largest, name
    assert relative_error(found.input_grad, known.input_grad) < allowed


def test_gradients_too_small_for_half_precision_are_scaled_while_they_are_computed():
    graph = convdsl.load_source(
        "net T { input 16@6x6; conv 16@3x3 -> tanh -> dense 16 -> dense 4 }"
    ).graph
    random = np.random.default_rng(0)
    x = random.standard_normal((9, 16, 6, 6)).astype(np.float32)
    target = np.arange(9) % 4
    found = {}
    for name, precision, scale in (
        ("exact", "fp32", 1.0),
        ("scaled", "fp16", LOSS_SCALE["fp16"]),
        ("plain", "fp16", 1.0),
    ):
        device = CudaTarget(precision)
        lowered = laid_out(lower(graph, "cross_entropy", scale=scale), device)
        planned = plan(lowered, 9, device)
        program = Program(lowered, planned)
        program.attach(EmulatedMachine(planned, program.variables))
        # Weights that half precision represents, whose product it does not.
        for weight in ("dense1.weight", "dense2.weight"):
            program.update({weight: program.parameters[weight] * np.float32(2e-3)})
        _, gradients = program.value_and_grad(x, target)
        found[name] = gradients["conv1.weight"]
    assert 0 < np.abs(found["exact"]).max() < 1e-4
    assert relative_error(found["scaled"], found["exact"]) < 0.02
    # Which could fail: without the scale most of it is lost.
    assert relative_error(found["plain"], found["exact"]) > 0.1


def layer(direction, precision):
    """A convolution in the layout and on the types that it has in that precision."""
    geometry = Geometry((14, 14), (14, 14), (3, 3), (1, 1), (1, 1), (1, 1))
    family = Convolution(direction, 32, 256, 256, 1, geometry)
    if precision not in tiles.NARROW:
        return family
    element = tiles.NARROW[precision]
    types = (
        (element, element, "float32") if direction == "weight" else (element, "float32", element)
    )
    return Stored(replace(family, x_lanes=8, y_lanes=8), types)


# Results that lie apart are stored one by one, from an address each.
SPREAD = Convolution(
    "input", 32, 256, 256, 1, Geometry((14, 14), (7, 7), (3, 3), (2, 2), (1, 1), (1, 1))
)


def assembled(family, precision, arch):
    for call in CudaTarget(precision).recipe(family).calls:
        if f"_{precision}" not in call.kernel.name:
            continue
        text = ptx(call.kernel, arch)
        usage = assemble(text, arch)
        assert usage.spills == usage.stack == 0, (call.kernel.name, usage)
        assert INSTRUCTION[precision] in text
        assert ("cp.async" in text) or isinstance(family, Product)
        assert ("ldmatrix" in text) == (precision in tiles.NARROW)
        return
    raise AssertionError(f"no kernel in {precision}")


@pytest.mark.parametrize(
    ("precision", "family", "arch"),
    [
        ("tf32", layer("forward", "tf32"), "sm_80"),
        ("tf32", SPREAD, "sm_90"),
        ("bf16", layer("weight", "bf16"), "sm_80"),
        ("bf16", layer("forward", "bf16"), "sm_80"),
        ("fp16", Product(64, 512, 256), "sm_80"),
    ],
    ids=str,
)
def test_kernels_multiply_on_tensor_cores_and_keep_to_registers(precision, family, arch):
    assembled(family, precision, arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize(("precision", "tile"), ALL_TILES, ids=str)
def test_every_tile_keeps_to_registers(precision, tile, arch, only):
    only(tile)
    families = [Product(64, 512, 256, transpose_b=True)]
    if tile in tiles.tiles_for(precision, gathering=True):
        families += [layer(d, precision) for d in ("forward", "input", "weight")]
        families += [SPREAD] * (precision not in tiles.NARROW)
    for family in families:
        assembled(family, precision, arch)


def test_the_plan_says_the_precision():
    text = emit(convdsl.load("vgg16"), "plan", "cuda", batch=8, precision="bf16")
    assert "a warp in bf16" in text
    assert " bfloat16 " in text


def test_the_cpu_has_one_precision():
    with pytest.raises(convdsl.CompileError) as caught:
        convdsl.load("lenet").compile(precision="bf16")
    assert [d.code for d in caught.value.diagnostics] == ["E511"]
