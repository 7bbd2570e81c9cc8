"""Memory of a training: flat over epochs, and never the decoded data as a whole."""

import os
import subprocess
import sys

import numpy as np
import pytest
from datasets import digits, idx_files
from PIL import Image

# A child process tells the most memory it ever had, in KiB, mapped files counted in.
CHILD = """
import resource, sys
import numpy as np
import convdsl
from convdsl.runtime.inputs import InputSpec
from convdsl.training.data import open_data
from convdsl.training.recipe import resolve
from convdsl.training.trainer import Trainer, Watcher

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

class Told(Watcher):
    def epoch(self, trainer, metrics):
        print(peak(), flush=True)

program, path = sys.argv[1:]
net = convdsl.load_source(program)
spec = InputSpec.of(net.graph.inputs[0])
recipe = resolve(net.recipe, (), spec)
# Everything that is no data first: programs, their kernels, an image.
net.compile(train=True, batch=recipe.batch, optimizer=recipe.optimizer, threads=1)
net.compile(batch=recipe.batch, threads=1)
print(peak(), flush=True)
data = open_data(path, spec, 10)
every = np.arange(len(data))
print(peak(), flush=True)
Trainer(net, recipe, data, every, every[::20], None, 1, [Told()]).fit()
"""

TINY = """net Tiny {
  input %s
  conv 2@5x5 /4 -> relu -> dense 10
  train { batch=16, epochs=%d, lr=0.01, augment=[flip] }
}
"""
KIB = 1024
# Blocks are given back or not as malloc decides; thresholds that do not move make that the same
# every time.
SETTLED = {"MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536"}


def peaks(input, epochs, path):
    """KiB: with programs alone, with the data opened, and after every epoch."""
    given = [sys.executable, "-c", CHILD, TINY % (input, epochs), str(path)]
    done = subprocess.run(given, env=os.environ | SETTLED, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def image_folder(folder, count, side):
    """JPEG files of noise that is smooth, so that they are small."""
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = random.integers(0, 256, (6, 6, 3), np.uint8)
        where = folder / str(i % 10)
        where.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        image.save(where / f"{i:04}.jpg")
    return folder


@pytest.mark.parametrize("kind", ["idx", "idx.gz", "folder"])
def test_it_is_flat_over_epochs_and_less_than_the_decoded_data(kind, tmp_path):
    if kind == "folder":
        path, input = image_folder(tmp_path / "data", 200, 256), "3@256x256"
        decoded = 200 * 3 * 256 * 256 * 4
    else:
        images, labels = digits(4000, 96)
        path = idx_files(tmp_path / "data", images, labels, packed=kind == "idx.gz")
        input, decoded = "1@96x96", 4000 * 96 * 96 * 4
    alone, opened, *epochs = peaks(input, 6, path)
    assert len(epochs) == 6
    assert opened - alone < decoded / KIB / 8
    assert epochs[-1] - alone < decoded / KIB / 2
    # An epoch decodes 140 MiB; 4 are room for what threads and the allocator do at their leisure.
    assert epochs[5] - epochs[1] < 4 * KIB
