"""Files are written whole, for whoever may read the others, or are left as they were."""

import os

import pytest

from convdsl.diagnostics import CompileError
from convdsl.runtime import parameters


def test_a_file_is_replaced_and_has_the_rights_that_files_get(tmp_path):
    path = tmp_path / "weights"
    before = os.umask(0o027)
    try:
        parameters.write_text(path, "old")
        parameters.write_text(path, "new")
    finally:
        os.umask(before)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path):
    with pytest.raises(CompileError, match=r"E504.*No such file"):
        parameters.write_text(tmp_path / "none" / "weights", "text")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(CompileError, match=r"E504.*directory"):
        parameters.write_text(folder, "text")
    assert list(tmp_path.iterdir()) == [folder]
