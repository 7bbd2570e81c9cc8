#!/usr/bin/env python3
"""Compiles the CUDA kernels of networks without a GPU, and says what each takes on one.

    tools/offline.py                                  # the five networks of the test suite
    tools/offline.py resnet50 --arch sm_90 --markdown found.md
    tools/offline.py --all                            # the whole zoo
    tools/offline.py --summary lenet5 resnet18        # a line for every network and architecture

Run it with the environment's Python (`.venv/bin/python`) and the `cuda` extra. Every kernel of the
plans for inference (batches 1 and 32) and for training (batch 32) goes to PTX and through `ptxas`.
The exit status is 1 where a kernel spills, keeps an array outside registers, or does not assemble.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import convdsl  # noqa: E402 (found by the line above)
from convdsl.compiler import PRECISIONS, laid_out, lower  # noqa: E402
from convdsl.kernels.cuda.target import CudaTarget  # noqa: E402
from convdsl.language import net_names  # noqa: E402
from convdsl.network import read  # noqa: E402
from convdsl.passes import SGD  # noqa: E402
from convdsl.plan import plan  # noqa: E402
from convdsl.plan.model import Kernel  # noqa: E402
from convdsl.runtime.assembler import Usage, assemble  # noqa: E402
from convdsl.runtime.cuda_compilation import ptx  # noqa: E402
from convdsl.views.table import Column, markdown_table  # noqa: E402

NETWORKS = ("lenet5", "alexnet", "vgg16", "resnet18", "resnet50")
ARCHITECTURES = ("sm_80", "sm_90")
BATCHES = (1, 32)
"""Of inference; training has the last."""


def kernels(
    names: Iterable[str], training: bool = True, precision: str = "fp32"
) -> dict[str, Kernel]:
    """The distinct kernels of networks' plans, by key."""
    found: dict[str, Kernel] = {}
    target = CudaTarget(precision)
    for name in names:
        graph = convdsl.load(name).graph
        optimizer = SGD(momentum=0.9, weight_decay=1e-4)
        plans = [(lower(graph), batch) for batch in BATCHES]
        if training:
            plans.append((lower(graph, "cross_entropy", optimizer), BATCHES[-1]))
        for lowered, batch in plans:
            for kernel in plan(laid_out(lowered, target), batch, target).kernels:
                found.setdefault(kernel.key, kernel)
    return found


def usages(found: Iterable[Kernel], arch: str) -> Iterator[tuple[Kernel, Usage]]:
    """What every kernel takes."""
    for kernel in found:
        yield kernel, assemble(ptx(kernel, arch), arch)


def table(rows: list[tuple[str, Kernel, Usage]]) -> str:
    columns = [
        Column("kernel"),
        Column("architecture"),
        *(Column(name, right=True) for name in ("threads", "registers", "spills", "stack")),
        *(Column(name, right=True) for name in ("shared", "occupancy")),
    ]
    cells = [
        (
            f"{kernel.name} {kernel.key[:6]}",
            arch,
            str(kernel.threads),
            str(usage.registers),
            str(usage.spills),
            str(usage.stack),
            str(usage.shared),
            f"{usage.occupancy(kernel.threads, arch):.0%}",
        )
        for arch, kernel, usage in rows
    ]
    return markdown_table(columns, cells)


def summary(rows: dict[tuple[str, str], list[tuple[Kernel, Usage]]], precision: str) -> str:
    """A line for every network and architecture."""
    columns = [Column("network"), Column("precision"), Column("architecture")]
    heads = ("kernels", "most registers", "spills", "least occupancy", "median")
    columns += [Column(name, right=True) for name in heads]
    cells = []
    for (network, arch), found in rows.items():
        occupancies = [usage.occupancy(kernel.threads, arch) for kernel, usage in found]
        told = (
            str(len(found)),
            str(max(usage.registers for _, usage in found)),
            str(sum(usage.spills + usage.stack for _, usage in found)),
            f"{min(occupancies):.0%}",
            f"{median(occupancies):.0%}",
        )
        cells.append((network, precision, arch, *told))
    return markdown_table(columns, cells)


def zoo() -> list[str]:
    """Every bundled network."""
    paths = sorted((ROOT / "networks").glob("*.cnn"))
    return [f"{path}:{name}" for path in paths for name in net_names(read(path))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--all", action="store_true", help="the whole zoo")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--inference", action="store_true", help="leave out training")
    parser.add_argument("--arch", action="append", help="sm_80 and sm_90 where none is given")
    parser.add_argument("--summary", action="store_true", help="networks, not their kernels")
    parser.add_argument("--markdown", type=Path, help="write the table there as well")
    options = parser.parse_args()
    names = zoo() if options.all else options.networks
    together = [[name] for name in names] if options.summary else [names]
    found: dict[tuple[str, str], list[tuple[Kernel, Usage]]] = {}
    failed = False
    for some in together:
        wanted = kernels(some, not options.inference, options.precision).values()
        for arch in options.arch or ARCHITECTURES:
            rows = found[some[0], arch] = list(usages(wanted, arch))
            for kernel, usage in rows:
                if usage.spills or usage.stack:
                    failed = True
                    print(f"{kernel.name} {kernel.key} on {arch}: {usage}", file=sys.stderr)
    if options.summary:
        text = summary(found, options.precision)
    else:
        text = table([(arch, *row) for (_, arch), rows in found.items() for row in rows])
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
