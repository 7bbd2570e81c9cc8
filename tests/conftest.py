"""What all tests share: the `--slow` option, the kernel cache, and no skips where CI runs."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from convdsl.runtime import compilation

ROOT = Path(__file__).resolve().parent.parent

# Kept between runs, because compiling kernels is what takes the time.
os.environ.setdefault("CONVDSL_CACHE_DIR", str(ROOT / ".cache" / "convdsl-tests"))

# How long an example takes depends on what else the machine does.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden")


def pytest_configure(config: pytest.Config) -> None:
    if not config.option.slow and not config.option.markexpr:
        config.option.markexpr = "not slow"
    if hasattr(config, "workerinput"):
        # One of several processes, which keep all cores busy: helpers would only have to start.
        compilation.MOST_WORKERS = 0


@pytest.fixture
def golden(request: pytest.FixtureRequest):
    """Compares a text with what a file of `tests/golden` has below its first line, the case.

    The file is given by its path; `--update-golden` rewrites it.
    """

    def compare(path: Path, found: str) -> None:
        case, _, expected = path.read_text(encoding="utf-8").partition("\n\n")
        if request.config.option.update_golden:
            path.write_text(f"{case}\n\n{found}", encoding="utf-8")
        else:
            assert found == expected, "look at the change; --update-golden takes it over"

    return compare


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run on CI that skipped a test, for every oracle is installed there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    # One of several processes has no reporter: what it skips is told to the first.
    if reporter and os.environ.get("CI") and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
