"""`tools/against_torch.py` on a few images: here and in torch it is the same training."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "against_torch.py"
QUICK = ("--rounds", "1", "--seconds", "0", "--threads", "1")
NETWORK = """\
cnn 1
net Small(classes=4) {
  input 1@12x12
  conv 8@3x3 bias=off -> bn -> sigmoid
  max 2x2
  dense classes
  train { epochs=2, batch=8, lr=0.05, weight_decay=0.01, val=0, OPTIONS }
}
"""


@pytest.fixture
def compared(tmp_path):
    """Trains by the recipe with these options; returns the run and its table."""
    random = np.random.default_rng(0)
    x, y = random.standard_normal((48, 1, 12, 12)).astype(np.float32), np.arange(48) % 4
    np.savez(tmp_path / "data.npz", x=x, y=y, x_test=x[:20], y_test=y[:20])

    def run(options):
        file = tmp_path / "small.cnn"
        file.write_text(NETWORK.replace("OPTIONS", options), encoding="utf-8")
        command = [sys.executable, TOOL, file, "--data", tmp_path / "data.npz", *QUICK]
        done = subprocess.run(
            [*command, "--steps", "6", "--to-the-end"], capture_output=True, text=True
        )
        return done, dict(re.findall(r"^\| (.+?) \| (.+?) \|$", done.stdout, re.MULTILINE))

    return run


def test_both_train_alike(compared):
    done, table = compared(
        "spare_vectors=on, optimizer=sgd(nesterov=on), label_smoothing=0.1, augment=[flip]"
    )
    assert done.returncode == 0, done.stderr
    assert "Small, 2 epochs of 6 batches of 8" in done.stdout
    # Rounding alone: sums of a few hundred products.
    for name in ("convdsl", "torch"):
        assert float(table[f"gradients, furthest from float64: {name}"]) < 1e-5
    assert float(table["losses of the first 6 steps, furthest apart"]) < 1e-5
    assert float(table["ratio"]) > 0
    ours, theirs = (v for name, v in table.items() if name.startswith("test accuracy"))
    assert ours == theirs
    assert {"step, convdsl", "step, torch", "step, torch channels_last"} <= set(table)


def test_decay_of_vectors_is_told_apart(compared):
    done, table = compared("spare_vectors=off")
    assert done.returncode == 0, done.stderr
    assert float(table["losses of the first 6 steps, furthest apart"]) < 1e-5


@pytest.mark.parametrize(
    "options",
    ["clip=1", "average=0.9", "optimizer=adam", "augment=[pixel_mean]", "augment=[mixup]"],
)
def test_recipes_beyond_it_are_refused(compared, options):
    done, _ = compared(options)
    assert done.returncode == 1
    assert done.stderr.endswith("the recipe is not translated to torch here: see `--help`\n")
