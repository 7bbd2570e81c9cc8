"""Runs checks in processes of their own, and keeps what each found as soon as it did.

After an illegal address a process can use the GPU no more, and a kernel that never ends holds it.
So checks run in a child, which goes away then; the next one goes on with the next check, after
another has found out which launch it was.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from convdsl.runtime.cuda import open_device
from gpu_checks import diagnosis
from gpu_checks.checks import Check, Row
from gpu_checks.kernels import kernels_of, provide

PATIENCE = 100.0
"""Seconds in which a child has to have something to tell."""
DIAGNOSED = 4
"""Checks of a section whose launches are followed."""
ATTEMPTS = 3
"""Processes of a section in a row that may end without a check."""
FRAMES = 8
"""Calls of a traceback that are kept, the innermost ones."""


class Results:
    """A file of lines of JSON; later lines about a check add to those before."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, section: str, check: str, row: Row) -> None:
        line = json.dumps({"section": section, "check": check, **row}, default=str)
        with self.path.open("a", encoding="utf-8") as file:
            print(line, file=file)

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def forget(self, sections: Sequence[str]) -> None:
        """Keep nothing of those sections."""
        kept = [row for row in read([self.path]) if row["section"] not in sections]
        lines = [json.dumps(row, default=str) + "\n" for row in kept]
        self.path.write_text("".join(lines), encoding="utf-8")

    def rows(self, section: str) -> dict[str, Row]:
        """What is known of a section's checks."""
        found: dict[str, Row] = {}
        for row in read([self.path]):
            if row["section"] == section:
                found[row["check"]] = row
        return found


def read(paths: Sequence[Path]) -> list[Row]:
    """What files of results say, a row for each check; of one that ran twice, the latest."""
    found: dict[tuple[str, str], Row] = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:  # written by a process that was killed meanwhile
                continue
            key = row["section"], row["check"]
            found[key] = row if "began" in row else {**found.get(key, {}), **row}
    return list(found.values())


def run(
    section: str,
    checks: Sequence[Check],
    results: Results,
    packed: dict[tuple[str, str], str],
    until: float,
    apart: bool = True,
) -> bool:
    """Run what has no result yet; False where time was up before all was done.

    ``until`` is when no check begins any more, as `time.monotonic` counts. Without ``apart``
    everything happens in this process, for debuggers.
    """
    idle = 0
    while True:
        pending = _pending(section, checks, results)
        if not pending or time.monotonic() > until:
            return not pending
        work = _Work(section, pending, results, packed, until)
        end = in_child(work, results) if apart else work()
        begun = [c for c in pending if _unfinished(results.rows(section).get(c.name))]
        for check in begun:
            lost = {"wrong": f"its process {end}", "seconds": 0.0}
            results.add(section, check.name, lost)
        for check in _to_follow(section, pending, results):
            # First what is said where nothing is found out, which is not tried again.
            results.add(section, check.name, {"launch": {"error": "its process did not end well"}})
            follow = _Follow(section, check, results)
            in_child(follow, results) if apart else follow()
        idle = idle + 1 if len(_pending(section, checks, results)) == len(pending) else 0
        if idle == ATTEMPTS:
            results.add(section, "the section", {"wrong": f"its process {end}", "seconds": 0.0})
            return False


def _pending(section: str, checks: Sequence[Check], results: Results) -> list[Check]:
    """The checks that have no result."""
    done = {name for name, row in results.rows(section).items() if "seconds" in row}
    return [check for check in checks if check.name not in done]


def _unfinished(row: Row | None) -> bool:
    return row is not None and "began" in row and "seconds" not in row


def _to_follow(section: str, checks: Sequence[Check], results: Results) -> list[Check]:
    """Checks that went wrong and whose launches nobody has looked at, as many as time allows."""
    rows = results.rows(section)
    followed = sum("launch" in row for row in rows.values())
    wrong = [c for c in checks if "wrong" in rows.get(c.name, {}) and c.programs]
    return [c for c in wrong if "launch" not in rows[c.name]][: max(0, DIAGNOSED - followed)]


class _Work:
    """A child's work: kernels, then one check after the other until the GPU is lost."""

    def __init__(
        self,
        section: str,
        checks: Sequence[Check],
        results: Results,
        packed: dict[tuple[str, str], str],
        until: float,
    ) -> None:
        self.section, self.checks, self.results = section, checks, results
        self.packed, self.until = packed, until

    def __call__(self) -> str:
        start = time.perf_counter()

        def say(text: str) -> None:
            row = {"kernels": text, "seconds": time.perf_counter() - start}
            self.results.add(self.section, "kernels", row)

        provide(kernels_of(self.checks).values(), open_device().arch, self.packed, say)
        for check in self.checks:
            if time.monotonic() > self.until:
                return ""
            self.results.add(self.section, check.name, {"began": time.time()})
            start = time.perf_counter()
            row = attempt(check)
            row["seconds"] = time.perf_counter() - start
            self.results.add(self.section, check.name, row)
            if "raised" in row and not alive():
                return "lost the GPU"
        return ""


class _Follow:
    """A child's work: which launch of a check it was."""

    def __init__(self, section: str, check: Check, results: Results) -> None:
        self.section, self.check, self.results = section, check, results

    def __call__(self) -> str:
        row = self.results.rows(self.section)[self.check.name]
        mismatch = "raised" not in row and "first" in row
        if mismatch and not self.check.small:
            found: Row = {"step": "not followed: the emulator would take too long"}
        else:
            found = (diagnosis.differing if mismatch else diagnosis.failing)(self.check)
        self.results.add(self.section, self.check.name, {"launch": found})
        return ""


def attempt(check: Check) -> Row:
    """What a check finds; where it fails, why and where."""
    try:
        return check.run()
    except Exception as reason:
        where = "".join(traceback.format_exception(reason, limit=-FRAMES))
        text = f"{type(reason).__name__}: {reason}"
        return {"wrong": text.splitlines()[0], "raised": text, "where": where}


def alive() -> bool:
    """Whether this process can still use the GPU."""
    try:
        with open_device() as device:
            device.wait_for_others()
    except Exception:
        return False
    return True


def in_child(work: Callable[[], Any], results: Results) -> str:
    """Do something in a process of its own; returns how that ended, empty where it did well."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(bool(work()))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            # Without what the parent would do at its end.
            os._exit(code)
    size, since = results.size, time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return f"ended with {code}" if code else ""
        if results.size != size:
            size, since = results.size, time.monotonic()
        if time.monotonic() - since > PATIENCE:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"was silent for {PATIENCE:.0f} s"
        time.sleep(0.02)


def told_by_child(call: Callable[[], str]) -> str:
    """What a function returns, called in a process of its own: for what touches the GPU."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write_end, call().encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, encoding="utf-8") as file:
        text = file.read()
    os.waitpid(child, 0)
    return text
