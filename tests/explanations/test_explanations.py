"""Every code has a page, every page a code, and its programs are wrong and right in that way."""

import re
from pathlib import Path

import pytest

import convdsl
from convdsl import CompileError, load_source
from convdsl.explanations import explanations

PACKAGE = Path(convdsl.__file__).parent
WITH_PROGRAMS = [e for e in explanations().values() if e.wrong]


def test_codes_in_the_source_and_pages_are_the_same():
    used = set()
    for path in PACKAGE.rglob("*.py"):
        used |= set(re.findall(r'"([EW]\d{3})"', path.read_text(encoding="utf-8")))
    assert len(used) > 40
    assert used == set(explanations())


def codes(program: str) -> set[str]:
    """The codes of all findings about a program."""
    try:
        network = load_source(program)
    except CompileError as error:
        return {d.code for d in error.diagnostics}
    return {d.code for d in (*network.warnings, *network.verify())}


@pytest.mark.parametrize("explanation", WITH_PROGRAMS, ids=lambda e: e.code)
def test_the_wrong_program_gives_the_code_and_the_right_one_nothing(explanation):
    assert codes(explanation.wrong) == {explanation.code}
    assert codes(explanation.right) == set()


def test_language_codes_have_programs():
    without = {e.code for e in explanations().values() if not e.wrong}
    assert all(code.startswith("E5") for code in without - {"E107"})
