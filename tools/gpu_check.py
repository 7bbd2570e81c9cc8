#!/usr/bin/env python3
"""Checks the CUDA target on a machine with a GPU, then measures it beside torch on the same GPU.

    tools/gpu_check.py --out found                     # everything; again: what is missing
    tools/gpu_check.py --out found --only layers --afresh
    tools/gpu_check.py --report one/results.jsonl two/results.jsonl
    tools/gpu_check.py --pack kernels.zip              # without a GPU: kernels for one elsewhere
    tools/gpu_check.py --out found --kernels kernels.zip

It needs numpy, cuda-bindings, lark and platformdirs, torch for the measurements, and numba-cuda
with its toolkit for kernels that no file holds; convdsl need not be installed. Whatever is found is
a line of `found/results.jsonl` at once, and `found/report.md` is written after every section. No
check begins after `--seconds`, so that what a time limit cuts off is run by the next call. The exit
status is 1 where something is wrong or missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The repository's own package, wherever else one is installed; what the tests share; peers.py.
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]

from gpu_checks import fast, kernels, report, right, running  # noqa: E402
from gpu_checks.checks import Check  # noqa: E402

import convdsl  # noqa: E402 (found by the line above)
from convdsl.runtime.cuda import open_device  # noqa: E402

SECONDS = 520.0
"""After which no check begins; one takes less than a minute."""
PACKING = 100.0
"""Seconds after which no more kernels are put into a file."""
SECTIONS: dict[str, Callable[[], Iterable[Check]]] = {
    "device": right.device,
    "precisions": right.precisions,
    "layers": fast.layers,
    "inference": fast.inference,
    "training": fast.training,
    "steps": fast.steps,
    "operations": right.operations,
    "networks": right.networks,
    "arrays": right.arrays,
    "random": right.random,
}
"""In the order of what is learned first."""


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    if args.report:
        print(report.markdown(running.read(args.report)))
        return 0
    names = args.only or list(SECTIONS)
    if args.pack:
        checks = [check for name in names for check in SECTIONS[name]()]
        missing = kernels.pack(args.pack, checks, args.arch, args.seconds or PACKING)
        if missing:
            print(f"{missing} kernels are missing; run it again", file=sys.stderr)
        return int(missing > 0)
    until = time.monotonic() + (SECONDS if args.seconds is None else args.seconds)
    problem = _no_device() if args.together else running.told_by_child(_no_device)
    if problem:
        print(problem, file=sys.stderr)
        return 1
    packed = kernels.unpacked(args.kernels) if args.kernels else {}
    args.out.mkdir(parents=True, exist_ok=True)
    results = running.Results(args.out / "results.jsonl")
    if args.afresh:
        results.forget(names)
    missing_sections = []
    for name in names:
        if not running.run(name, list(SECTIONS[name]()), results, packed, until, not args.together):
            missing_sections.append(name)
        text = report.markdown(running.read([results.path]))
        (args.out / "report.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    if missing_sections:
        text = f"not finished: {', '.join(missing_sections)}; run it again"
        print(text, file=sys.stderr)
    wrong = any("wrong" in row for row in running.read([results.path]))
    return int(bool(missing_sections) or wrong)


def _no_device() -> str:
    """Why there is no GPU to be used; empty where there is one."""
    try:
        open_device()
    except convdsl.CompileError as reason:
        return str(reason)
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder of results")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, help="these sections alone")
    parser.add_argument("--afresh", action="store_true", help="run what has been run, too")
    parser.add_argument("--seconds", type=float, help="when no check begins any more")
    parser.add_argument("--kernels", type=Path, help="a file of kernels made elsewhere")
    parser.add_argument("--pack", type=Path, help="make such a file here, without a GPU")
    parser.add_argument("--arch", default="sm_90", help="the architecture that it is for")
    parser.add_argument("--report", type=Path, nargs="+", help="show results of other calls")
    parser.add_argument("--together", action="store_true", help="all checks in this process")
    return parser


if __name__ == "__main__":
    sys.exit(main())
