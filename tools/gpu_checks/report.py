"""What checks found, as a page for people: what is wrong first, then numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import peers

from convdsl.views.table import Column, markdown_table
from gpu_checks.checks import Row

BARS = {
    ("layers", "fp32"): 0.9,
    ("layers", "tf32"): 0.7,
    ("layers", "bf16"): 0.6,
    ("inference", "fp32", 32): 0.9,
    ("inference", "fp32", 1): 1.2,
}
"""What is aimed for: torch's time over ours, as a geometric mean."""
KNOWN = ("section", "check", "began", "seconds", "wrong", "raised", "where", "launch")
"""What a line about something wrong says in its own place, or not at all."""


def markdown(rows: Sequence[Row]) -> str:
    """Everything that was found."""
    lines = []
    for section in dict.fromkeys(row["section"] for row in rows):
        lines += _section(section, [r for r in rows if r["section"] == section])
    return "\n".join(lines)


def _section(section: str, rows: Sequence[Row]) -> list[str]:
    seconds = sum(row.get("seconds", 0.0) for row in rows)
    kernels = [f"kernels: {row['kernels']}" for row in rows if "kernels" in row]
    rows = [row for row in rows if "kernels" not in row]
    wrong = [row for row in rows if "wrong" in row]
    began = [row["check"] for row in rows if "seconds" not in row]
    lines = [f"## {section}: {len(rows)} checks, {len(wrong)} wrong ({seconds:.0f} s)", ""]
    told: set[str] = set()
    for row in wrong:
        lines += _wrong(row, told)
    lines += [f"- not finished: {', '.join(began)}"] * bool(began)
    lines += kernels
    lines += [""] * bool(wrong or began or kernels)
    errors = [row for row in rows if "error" in row]
    if errors:
        worst = max(errors, key=lambda row: row["error"])
        lines += [f"worst error {worst['error']:.1e} ({worst['check']})", ""]
    timed = [row for row in rows if "times" in row]
    if timed:
        lines += [*_speeds(section, timed), ""]
    for row in rows:
        if "steps" in row:
            lines += [*_steps(row), ""]
        elif not {"error", "times", "wrong"} & set(row):
            lines += [f"{row['check']}: {_rest(row)}", ""]
    return lines


def _wrong(row: Row, told: set[str]) -> list[str]:
    """What is wrong; where it was raised only if that text is not among what has been told."""
    lines = [f"- wrong: {row['check']}: {row['wrong']}"]
    if rest := _rest(row):
        lines.append(f"    - {rest}")
    if "launch" in row:
        lines.append(f"    - launch: {json.dumps(row['launch'], ensure_ascii=False)}")
    if row.get("raised", "") not in {*told, ""}:
        told.add(row["raised"])
        lines += [f"    - {line}" for line in row["raised"].splitlines()[1:]]
        lines += ["", *(f"        {line}" for line in row["where"].splitlines()), ""]
    return lines


def _rest(row: Row) -> str:
    def shown(value: Any) -> str:
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{k} {shown(v)}" for k, v in row.items() if k not in KNOWN)


def _speeds(section: str, rows: Sequence[Row]) -> list[str]:
    columns = [Column("name"), *(Column(n, right=True) for n in ("batch", "precision"))]
    columns += [Column(n, right=True) for n in ("convdsl, µs", "torch, µs", "ratio")]
    cells = []
    for row in rows:
        torch = min(t for name, t in row["times"].items() if name != "convdsl")
        times = [f"{1e6 * t:.1f}" for t in (row["times"]["convdsl"], torch)]
        shown = (row["name"], str(row["batch"]), row["precision"], *times, f"{row['ratio']:.2f}")
        cells.append(shown)
    lines = [markdown_table(columns, cells), ""]
    for precision, batch in dict.fromkeys((r["precision"], r["batch"]) for r in rows):
        ratios = [r["ratio"] for r in rows if (r["precision"], r["batch"]) == (precision, batch)]
        bar = BARS.get((section, precision)) or BARS.get((section, precision, batch))
        wanted = f", aimed for: {bar}" if bar else ""
        mean = peers.geometric(ratios)
        lines.append(f"- {precision} at batch {batch}: geometric mean {mean:.2f}{wanted}")
    return lines


def _steps(row: Row) -> list[str]:
    columns = [Column("step"), Column("kernel")]
    columns += [Column(n, right=True) for n in ("µs", "GB/s", "GFLOP/s", "blocks")]
    cells = []
    for step in row["steps"]:
        numbers = [f"{step[name]:.1f}" for name in ("µs", "GB/s", "GFLOP/s")]
        cells.append((step["step"], step["kernel"], *numbers, str(step["blocks"])))
    total = f"{1e6 * row['total']:.0f} µs of steps one by one"
    return [f"{row['check']}: {total}", "", markdown_table(columns, cells)]
