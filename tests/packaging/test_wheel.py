"""What is shipped is complete: the wheel made from the sdist works without the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object, cwd: Path) -> str:
    """The standard output of a command that must succeed and is told nothing of the checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def bundled_files() -> set[str]:
    """The path in the wheel of every file of grammars/, networks/ and convdsl/data/."""
    files = {
        path.relative_to(ROOT).as_posix().removeprefix("convdsl/")
        for folder in ("grammars", "networks", "convdsl/data")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }
    return {f"convdsl/{path}" for path in files}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and with the wheel that was built from the unpacked sdist."""
    folder = tmp_path_factory.mktemp("dist")
    # Without isolation: the build backend is in the test extra, so nothing is fetched here.
    build = (sys.executable, "-m", "build", "--no-isolation")
    run(*build, "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(shipped: Path) -> Path:
    return next(shipped.glob("*.whl"))


def empty_environment(folder: Path) -> Path:
    """The bin folder of a new environment."""
    venv.EnvBuilder(symlinks=True).create(folder)
    return folder / "bin"


def install(bin_folder: Path, *arguments: object) -> None:
    pip = (sys.executable, "-m", "pip", "-qq", "--python", bin_folder / "python")
    run(*pip, "install", *arguments, cwd=bin_folder)


def check_installed(bin_folder: Path, folder: Path) -> None:
    """Runs the installed commands from a folder that has nothing to do with the checkout."""
    found = "import convdsl; print(convdsl.__file__)"
    package = Path(run(bin_folder / "python", "-c", found, cwd=folder).strip())
    assert package.is_relative_to(bin_folder.parent)

    assert "lenet" in run(bin_folder / "convdsl", "check", "lenet", cwd=folder).lower()
    summary = json.loads(
        run(bin_folder / "convdsl", "summary", "lenet", "--format", "json", cwd=folder)
    )
    assert summary["params"] == 61_706


def test_wheel_holds_what_is_bundled(wheel: Path) -> None:
    bundled = bundled_files()
    assert {"convdsl/grammars/cnn.lark", "convdsl/networks/lenet.cnn"} <= bundled
    names = set(zipfile.ZipFile(wheel).namelist())
    assert bundled <= names
    assert all(name.startswith(("convdsl/", "convdsl-")) for name in names)


def test_sdist_holds_what_a_developer_needs(shipped: Path) -> None:
    with tarfile.open(next(shipped.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    needed = {"README.md", "LICENSE", "pyproject.toml", "tools/test", "tests/conftest.py"}
    assert needed | {"grammars/cnn.lark", "networks/lenet.cnn"} <= names


def test_wheel_runs_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    bin_folder = empty_environment(tmp_path / "environment")
    # The dependencies are lent from here, which takes no time. The editable convdsl is not lent
    # with them: a folder named in a .pth file is searched, its own .pth files are not read.
    # That the declared dependencies are enough is for the slow test below.
    install(bin_folder, "--no-deps", wheel)
    library = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "environment")})
    (Path(library) / "lent.pth").write_text(sysconfig.get_path("purelib"))

    check_installed(bin_folder, tmp_path)


@pytest.mark.slow
def test_declared_dependencies_are_enough(wheel: Path, tmp_path: Path) -> None:
    bin_folder = empty_environment(tmp_path / "environment")
    install(bin_folder, wheel)

    check_installed(bin_folder, tmp_path)
    run(bin_folder / "convdsl", "run", "lenet", cwd=tmp_path)
    for extension in ("svg", "png", "pdf", "dot"):
        drawing = tmp_path / f"lenet.{extension}"
        run(bin_folder / "convdsl", "draw", "lenet", "-o", drawing, cwd=tmp_path)
        assert drawing.stat().st_size > 0
