"""What the tests of commands share: running one in this process, and programs to run it on."""

from dataclasses import dataclass

import pytest

from convdsl.cli import main

TINY = """cnn 1
## A tiny network.
## Its second line.
net Tiny(classes=3) {
  input 1@8x8 range=0..1
  C1: conv 4@3x3 -> relu   expect 4@6x6, params=40
  max 2x2
  dense classes
} expect params=151, macs~1.4K
"""


@dataclass(frozen=True)
class Ran:
    """How a command went."""

    status: int
    out: str
    err: str


@pytest.fixture
def convdsl(capsys, monkeypatch):
    """Runs a command line and returns how it went; no traceback is ever printed."""
    monkeypatch.delenv("CONVDSL_TRACEBACK", raising=False)

    def run(*arguments: object) -> Ran:
        status = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Ran(status, out, err)

    return run


@pytest.fixture
def tiny(tmp_path):
    """A file with a small network whose expectations hold."""
    path = tmp_path / "tiny.cnn"
    path.write_text(TINY)
    return path
