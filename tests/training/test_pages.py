"""docs/data.md and docs/training.md: their programs and commands run, their tables are complete."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from convdsl.cli import main
from convdsl.training.augment import AUGMENTATIONS

BESIDE = Path(sys.executable).parent
WITH_COMMANDS = {**os.environ, "PATH": f"{BESIDE}{os.pathsep}{os.environ['PATH']}"}
DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "data.md").read_text(encoding="utf-8")


def blocks(page):
    """The blocks of a page as (language, text), in their order."""
    return re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)


def test_the_program_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(program, names)
    assert len(names["training"]) == 30
    assert names["target"].shape == (8,)


def test_every_augmentation_has_a_row_with_its_defaults():
    section = PAGE[PAGE.index("## Augmentations") : PAGE.index("## Threads")]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE))
    assert list(rows) == list(AUGMENTATIONS)
    for name, kind in AUGMENTATIONS.items():
        given = dict(re.findall(r"`(\w+)=([\d.]+)`", rows[name]))
        known = {f.name: f.default for f in fields(kind) if f.metadata}
        assert {key: float(value) for key, value in given.items()} == known


def test_every_block_of_training_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    commands = []
    for language, text in blocks((DOCS / "training.md").read_text(encoding="utf-8")):
        if language == "python":
            exec(text, names)
        elif language == "cnn":
            Path("digits.cnn").write_text(text)
        else:
            commands += [shlex.split(line) for line in text.splitlines()]
            for command, *arguments in commands[-len(text.splitlines()) :]:
                if command == "mpiexec":
                    subprocess.run([BESIDE / command, *arguments], check=True, env=WITH_COMMANDS)
                else:
                    assert command == "convdsl"
                    assert main(arguments) == 0, arguments
    assert [c[1] for c in commands] == ["train"] * 3 + ["evaluate"] * 2 + ["run", "-n"]
    assert "finished" in capsys.readouterr().out
    assert len(names["watcher"].losses) == 30 * 3
    assert names["found"].samples == 40
    assert names["found"].accuracy > 0.5
    assert names["model"].score(names["x"], names["y"]) > 0.5
    section = (DOCS / "training.md").read_text(encoding="utf-8").split("The folder gets:")[1]
    rows = re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`(.*?)`", row)}
    for folder in ("trained", "together"):
        assert told == {path.name for path in Path(folder).iterdir()}
