"""docs/data.md: its program runs, its table has every augmentation with its defaults."""

import re
from dataclasses import fields
from pathlib import Path

from convdsl.training.augment import AUGMENTATIONS

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


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
