"""A handful of drawings as they were reviewed: `tests/golden/drawings`, a command line each."""

import shlex

import pytest
from conftest import ROOT

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
