"""Makes or updates `.venv` for `tools/run` and `tools/test`, with nothing but a bare Python.

`environment.py [EXTRA]` returns at once when the environment already has what `pyproject.toml`
asks for, with that extra. Kept to the syntax of Python 3.6, so that an old Python gets as far as
saying that it is too old.
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
COMMAND = VENV / "bin" / "convdsl"
# What the environment was made from. Removed before a change and written after it, so that an
# environment without it was interrupted half-made.
STAMP = VENV / "made-from.json"
LOCK = ROOT / ".cache" / "environment.lock"


def main(extra: str) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 (what runs this may be anything)
        sys.exit(f"convdsl needs Python 3.11 or newer; set PYTHON to one ({this_python()})")
    if is_current(extra):
        return
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        wait_for(lock.fileno())
        if not is_current(extra):  # nobody else has made it meanwhile
            print(f"setting up {VENV}, which may take some minutes", file=sys.stderr)
            install(extra, lock.fileno())


def is_current(extra: str) -> bool:
    """Whether `.venv` has what `pyproject.toml` asks for now. The test extra contains the rest."""
    stamp = read_stamp()
    same_project = stamp.get("pyproject") == pyproject_hash() and COMMAND.exists()
    return is_usable(stamp) and same_project and stamp.get("extra") in (extra, "test")


def is_usable(stamp: dict) -> bool:
    """Whether `.venv` was finished in this folder, and with the Python asked for, if one is."""
    same_python = not os.environ.get("PYTHON") or stamp.get("python") == this_python()
    return PYTHON.exists() and stamp.get("root") == str(ROOT) and same_python


def install(extra: str, lock: int) -> None:
    before = read_stamp()
    if not is_usable(before):
        before = {}
        make_empty(lock)
    STAMP.unlink(missing_ok=True)
    try:
        pip(PYTHON, "install", "--editable", f".[{extra}]" if extra else ".", lock=lock)
    except PipFailed:
        write_stamp(before)  # what pip does not finish it undoes: the environment is as it was
        raise
    made_from = {"python": this_python(), "pyproject": pyproject_hash(), "extra": extra}
    write_stamp({"root": str(ROOT), **made_from})


def make_empty(lock: int) -> None:
    """Makes `.venv` anew, with pip in it and nothing else."""
    # Some systems ship Python without ensurepip, but with a pip that can install another.
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    if importlib.util.find_spec("venv") is None or not (
        has_ensurepip or importlib.util.find_spec("pip")
    ):
        sys.exit(
            "convdsl needs Python's venv and pip modules; install them (python3-venv on Debian) "
            f"or set PYTHON to a Python that has them ({this_python()})"
        )
    import venv

    venv.EnvBuilder(clear=True, symlinks=True, with_pip=has_ensurepip).create(VENV)
    if not has_ensurepip:
        pip(sys.executable, "--python", PYTHON, "install", "pip", lock=lock)


class PipFailed(Exception):
    """Pip has said why."""


def pip(python, *arguments, lock: int) -> None:
    """Runs pip, which says nothing unless it fails, and leaves stdout to the command to come."""
    command = [python, "-I", "-m", "pip", "-qq", "--disable-pip-version-check", *arguments]
    # It holds the lock too, in case it outlives this process.
    status = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, pass_fds=[lock]).returncode
    if status < 0:
        sys.exit(f"cannot set up {VENV}: pip was killed; the next call starts anew")
    if status > 0:
        raise PipFailed


def wait_for(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process to set up {VENV}", file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)


def read_stamp() -> dict:
    try:
        return json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_stamp(stamp: dict) -> None:
    STAMP.write_text(json.dumps(stamp), encoding="utf-8")


def pyproject_hash() -> str:
    return hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()


def this_python() -> str:
    return "Python {}.{}.{} in {}".format(*sys.version_info[:3], sys.base_prefix)


if __name__ == "__main__":
    try:
        main(extra=sys.argv[1] if len(sys.argv) > 1 else "")
    except KeyboardInterrupt:
        sys.exit(130)
    except PipFailed:
        sys.exit(f"cannot set up {VENV}: see pip's message above; the next call tries again")
    except OSError as error:
        sys.exit(f"cannot set up {VENV}: {error}")
