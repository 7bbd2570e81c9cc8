"""Accesses to shared memory: free of bank conflicts, but for those that are named here."""

import numpy as np
import pytest
from emulator import Banks, compile_emulated, launch, machine

import convdsl
from convdsl.kernels.cuda import convolution, product, tiles, weight_gradient
from convdsl.kernels.cuda.narrow import convolution as narrow_convolution
from convdsl.kernels.cuda.narrow import weight_gradient as narrow_weight_gradient

TEXT = """net T {
  input 3@10x10
  conv 16@3x3 pad=1 -> bn -> tanh -> conv 36@3x3/2 -> conv 64@1 -> avg 2 -> dense 32 -> dense 5
}"""
KNOWN = {
    # Slices of float32 that are turned round: rows have to lie at multiples of 16 bytes for reads
    # by fours, or at odd ones of 32 bytes for fragments, so that writes meet.
    "fp32": {"copy_async4": 2},
    "tf32": {"copy_async4": 4},
    # Images of up to four channels come in half pieces, every other 8 bytes.
    "bf16": {"copy_lanes4": 2},
}
TILES = [(p, tile) for p in KNOWN for tile in tiles.tiles_for(p, gathering=True)]
SMALL = [(p, tile) for p, tile in TILES if tile.narrow or (tile.rows, tile.columns) == (32, 64)]


@pytest.mark.parametrize(("precision", "tile"), SMALL, ids=str)
def test_accesses_meet_in_banks_only_as_stated(precision, tile, monkeypatch):
    check(precision, tile, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tile"), [t for t in TILES if t not in SMALL], ids=str)
def test_accesses_of_other_tiles_meet_as_stated(precision, tile, monkeypatch):
    check(precision, tile, monkeypatch)


def check(precision, tile, monkeypatch):
    honest = tiles.choose

    def chosen(rows, columns, inner, batch=1, tiles=(), splittable=True):
        return honest(rows, columns, inner, batch, (tile,), splittable)

    narrow = (narrow_convolution, narrow_weight_gradient)
    for module in (convolution, product, weight_gradient, *narrow):
        monkeypatch.setattr(module, "choose", chosen)
    known = KNOWN[precision]
    if precision == "tf32" and tile.rows == 16:
        # A row of four pieces fills half the banks.
        known = known | {"copy_async16": 2}
    found = conflicts(precision, monkeypatch)
    assert {instruction: max(ways) for instruction, ways in found.items()} == known


def conflicts(precision, monkeypatch):
    """How many times as long accesses take that meet, by instruction, in a step's kernels."""
    found = {}
    seen = set()

    def noted(kernel, blocks, threads, arrays, sizes):
        banks = Banks()
        launch(kernel, blocks, threads, arrays, sizes, banks=banks)
        lines = kernel.source.splitlines()
        seen.update(kernel.key for _ in banks.tallies)
        for (line, _), ways in banks.conflicts.items():
            found.setdefault(lines[line - 1].strip().split("(")[0], []).append(ways)

    monkeypatch.setattr(machine, "launch", noted)
    step = compile_emulated(
        convdsl.load_source(TEXT).graph, 9, "cross_entropy", precision=precision
    )
    random = np.random.default_rng(0)
    x = random.standard_normal((9, 3, 10, 10)).astype(np.float32)
    step.value_and_grad(x, random.integers(0, 5, 9))
    assert len(seen) > 10
    return found
