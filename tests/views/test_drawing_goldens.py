"""A handful of drawings as they were reviewed: `tests/golden/drawings`, a command line each."""

import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT
from drawings import NAMES

from convdsl.cli import main

CASES = sorted((ROOT / "tests" / "golden" / "drawings").glob("*.txt"))


def test_there_are_cases():
    assert len(CASES) >= 5


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_the_drawing_is_as_reviewed(case, tmp_path, golden):
    command = shlex.split(case.read_text(encoding="utf-8").splitlines()[0])
    assert command[:2] == ["convdsl", "draw"]
    file = tmp_path / command[-1]
    assert main([*command[1:-1], str(file)]) == 0
    golden(case, file.read_text(encoding="utf-8"))


def test_the_gallery_is_current():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "gallery", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_gallery_shows_every_network_in_few_bytes():
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[.*\]\((.*)\)", page)
    assert {f"gallery/{name.lower()}.svg" for name in NAMES} <= set(pictures)
    sizes = [(ROOT / "docs" / picture).stat().st_size for picture in pictures]
    assert sum(sizes) < 3_000_000
