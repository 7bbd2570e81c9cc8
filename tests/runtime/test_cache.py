"""The kernel cache: what is compiled once is found again, unless it must not be trusted."""

import hashlib
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from small_kernels import kernel, outcome

from convdsl.diagnostics import CompileError
from convdsl.runtime import cache, processor


def test_a_kernel_is_compiled_once(folder, compilations, forget):
    for _ in range(3):
        assert outcome(cache.compiled(kernel(2))) == 2
        forget()
    assert compilations == ["scale"]
    assert cache.is_stored(kernel(2))
    assert not cache.is_stored(kernel(3))
    # One to read, one to run.
    assert sorted(path.suffix for path in folder.iterdir()) == [".bin", ".py"]


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-1],
    "cut short": lambda content: content[:20],
    "garbage": lambda content: b"\xff\x00" * 500,
    "one bit": lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
    "something else": lambda content: hashlib.sha256(b"").digest(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_machine_code_is_compiled_again(folder, damage, compilations, forget):
    cache.compiled(kernel(2))
    (file,) = folder.glob("*.bin")
    file.write_bytes(damage(file.read_bytes()))
    for _ in range(2):
        forget()
        assert outcome(cache.compiled(kernel(2))) == 2
    assert compilations == ["scale"] * 2


@pytest.mark.parametrize(
    "content", [b"", b"def scale(", b"\xff\x00", b"def scale(a, b, c): pass\n"]
)
def test_damaged_source_is_written_again(folder, content):
    cache.function(kernel(2))
    (file,) = folder.glob("*.py")
    good = file.read_bytes()
    file.write_bytes(content)
    assert outcome(cache.compiled(kernel(2))) == 2
    assert file.read_bytes() == good


# -- whose it is -----------------------------------------------------------------------------


def test_the_folder_is_private(folder, forget):
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    forget()
    assert cache.folder().stat().st_mode & 0o777 == 0o700


def test_the_folder_of_someone_else_is_not_used(folder, forget, monkeypatch):
    cache.compiled(kernel(2))
    (file,) = folder.glob("*.bin")
    file.write_bytes(b"evil")
    actual = Path.stat

    def stat(path, **options):
        found = actual(path, **options)
        if path != folder:
            return found
        return os.stat_result([*found[:4], found.st_uid + 1, *found[5:10]])

    monkeypatch.setattr(Path, "stat", stat)
    forget()
    with pytest.warns(RuntimeWarning, match="belongs to another user"):
        assert cache.folder() != folder
    assert outcome(cache.compiled(kernel(2))) == 2
    assert file.read_bytes() == b"evil"


@pytest.mark.parametrize("which", ["the folder itself", "the one above"])
def test_a_folder_that_everybody_may_write_to_is_not_used(folder, which, forget):
    (folder if which == "the folder itself" else folder.parent).chmod(0o777)
    forget()
    with pytest.warns(RuntimeWarning, match="everybody may write to it"):
        assert cache.folder() != folder
    assert cache.folder().stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_made_costs_nothing_but_time(tmp_path, forget, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CONVDSL_CACHE_DIR", str(tmp_path / "file" / "cache"))
    forget()
    with pytest.warns(RuntimeWarning, match="Not a directory"):
        assert outcome(cache.compiled(kernel(2))) == 2
    assert cache.is_stored(kernel(2)), "a temporary folder is good for this process"


def test_nor_does_a_machine_without_any_place_to_write(folder, forget, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache.resources, "own_directory", refuse)
    forget()
    with pytest.warns(RuntimeWarning, match="Permission denied"):
        assert outcome(cache.compiled(kernel(2))) == 2
    assert not cache.folder().exists()
    assert not cache.is_stored(kernel(2))
    cache.prune(0)


def test_a_full_disk_leaves_no_broken_files(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert outcome(cache.compiled(kernel(2))) == 2
    assert not list(folder.iterdir())


def test_what_decides_the_machine_code_decides_the_folder(folder, monkeypatch):
    names = [folder.name]
    read = Path.read_text

    def changed(module):
        return lambda path, **how: read(path, **how) + "#" * (path.name == module)

    for thing, attribute, value in [
        (sys, "version", "4.0"),
        (metadata, "version", lambda name: "1.0" if name == "numba" else "0.49"),
        (metadata, "version", lambda name: "1.0" if name == "llvmlite" else "0.68"),
        (processor, "identity", lambda: "abacus"),
        (os, "environ", {**os.environ, "NUMBA_CPU_NAME": "generic"}),
        (Path, "read_text", changed("native.py")),
        (Path, "read_text", changed("emission.py")),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(thing, attribute, value)
            cache.folder.cache_clear()
            names.append(cache.folder().name)
    assert len(set(names)) == len(names)
    cache.folder.cache_clear()
    assert cache.folder() == folder


# -- several processes -----------------------------------------------------------------------

TOGETHER = """
import sys
from small_kernels import kernel, outcome
from convdsl.runtime import cache, compilation
kernels = [kernel(factor) for factor in (2, 3, 4)]
cache.folder()
print("ready", flush=True)
sys.stdin.readline()
compilation.load(kernels, 1)
print([outcome(cache.compiled(k)) for k in kernels])
"""


def test_processes_may_share_an_empty_cache(folder, compilations):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate() == ("[2.0, 3.0, 4.0]\n", "")
    assert not list(folder.glob("*.tmp"))
    for factor in (2, 3, 4):
        assert outcome(cache.compiled(kernel(factor))) == factor
    assert not compilations


# -- size ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 512 * 2**20),
        ("0", 0),
        ("123", 123),
        ("4K", 4096),
        (" 800M ", 800 * 2**20),
        ("2g", 2 * 2**30),
    ],
)
def test_the_size_comes_from_the_environment(text, size, monkeypatch):
    monkeypatch.setenv("CONVDSL_CACHE_SIZE", text)
    assert cache.size_limit() == size


@pytest.mark.parametrize("text", ["much", "-1", "1.5G", "1T", "G", "²"])
def test_what_is_not_a_size_is_refused(text, monkeypatch):
    monkeypatch.setenv("CONVDSL_CACHE_SIZE", text)
    with pytest.raises(CompileError, match="CONVDSL_CACHE_SIZE") as caught:
        cache.size_limit()
    (told,) = caught.value.diagnostics
    assert told.code == "E511"
    assert told.help


def age(path, hours, size=100):
    """A file last used so many hours ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"." * size)
    set_age(path, hours)


def set_age(path, hours):
    then = time.time() - 3600 * hours
    os.utime(path, (then, then))


def test_what_was_used_longest_ago_goes_first(folder):
    old_version = folder.parent / "cpu-old"
    for path, hours in {
        folder / "a_1.py": 9,
        folder / "a_1.bin": 2,  # its last use is that of all its files
        folder / "b_2.py": 8,
        folder / "b_2.bin": 8,
        folder / "c_3.bin": 0,
        old_version / "d_4.bin": 7,
        old_version / "e_5.bin": 3,
        folder.parent / "grammar.lark": 1000,
    }.items():
        age(path, hours)
    cache.prune(400)
    left = {path.name for path in folder.parent.rglob("*.*")}
    assert left == {"a_1.py", "a_1.bin", "c_3.bin", "e_5.bin", "grammar.lark"}


def test_what_may_be_about_to_be_loaded_stays(folder):
    cache.compiled(kernel(2))
    age(folder / "a_1.bin", 0.5)
    before = set(folder.iterdir())
    cache.prune(0)
    assert set(folder.iterdir()) == before


def test_looking_is_using(folder):
    cache.compiled(kernel(2))
    for path in folder.iterdir():
        set_age(path, 1000)
    assert cache.is_stored(kernel(2))
    cache.prune(0)
    assert cache.is_stored(kernel(2))


def test_versions_that_are_forgotten_go(folder):
    age(folder.parent / "cpu-forgotten" / "__pycache__" / "a.nbc", 31 * 24)
    age(folder.parent / "cpu-recent" / "a_1.bin", 29 * 24)
    (folder.parent / "cpu-just-made").mkdir()
    for inner in ("cpu-forgotten/__pycache__", "cpu-forgotten", "cpu-recent"):
        set_age(folder.parent / inner, 31 * 24)
    age(folder / "a_1.bin", 31 * 24)
    cache.prune(1000)
    left = {path.name for path in folder.parent.iterdir()}
    assert left == {folder.name, "cpu-recent", "cpu-just-made"}
    assert (folder / "a_1.bin").exists()


def test_leftovers_of_killed_processes_go(folder):
    age(folder / "x.tmp", 2)
    age(folder / "y.tmp", 0)
    cache.prune(1000)
    assert [path.name for path in folder.iterdir()] == ["y.tmp"]
