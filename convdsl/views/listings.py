"""The stages of the compiler as text: syntax tree, graph and plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

from convdsl.diagnostics import Source, Span
from convdsl.graph import Graph
from convdsl.plan.estimate import expected_seconds
from convdsl.plan.model import Buffer, Free, Plan, Step


def tree(node: Any, name: str = "", depth: int = 0) -> str:
    """A syntax tree, one node a line with its place in the text (offsets from 0)."""
    indent = "  " * depth + (f"{name}: " if name else "")
    if isinstance(node, tuple | list):
        if not node:
            return f"{indent}()"
        return "\n".join([f"{indent}"] * bool(name) + [tree(n, "", depth + 1) for n in node])
    if not is_dataclass(node) or isinstance(node, Source | Span):
        return f"{indent}{node!r}"
    span = getattr(node, "span", None)
    place = f" [{span.start}:{span.end}]" if isinstance(span, Span) else ""
    lines = [f"{indent}{type(node).__name__}{place}"]
    for f in fields(node):
        value = getattr(node, f.name)
        if isinstance(value, Source | Span) or value in ((), None, ""):
            continue
        lines.append(tree(value, f.name, depth + 1))
    return "\n".join(lines)


def graph(graph: Graph) -> str:
    """A graph: its variables, then a line per node with the type of its result."""
    lines = [f"graph {graph.name}"]
    for variable in graph.variables:
        shape = list(variable.type.shape)
        kind = str(variable.type) if variable.type.batched else str(shape)
        lines.append(f"  {variable.role} %{variable.name}: {kind} {_dtype(variable.type.dtype)}")
    for node in graph.nodes:
        results = ", ".join(f"%{v.name}: {v.type}" for v in node.outputs)
        inputs = ", ".join(f"%{v.name}" for v in node.inputs)
        lines.append(f"  {results} = {node.op.notation()} ({inputs})")
    lines += [f"  output {name}: %{value.name}" for name, value in graph.outputs]
    lines += [f"  %{variable.name} <- %{value.name}" for variable, value in graph.assignments]
    return "\n".join(line.rstrip() for line in lines)


def _dtype(dtype: str) -> str:
    return "" if dtype == "float32" else dtype


def plan(plan: Plan) -> str:
    """A plan: steps with their kernels, reasons, memory, arithmetic and, on the CPU, time."""
    lines = [
        f"plan {plan.network} for {plan.target}, batch {plan.batch}",
        f"  arena {plan.arena_bytes:,} bytes (largest live set {plan.live_bytes:,}), "
        f"kept from parameters {plan.constant_bytes:,} bytes, {len(plan.kernels)} kernels",
    ]
    prepared = [_row(step, plan) for step in plan.prepare]
    sections = (
        ("prepare, after parameters change:", prepared),
        ("run:", _rows(plan, 0, plan.shared)),
        ("run, for outputs that an update does not need:", _rows(plan, plan.shared, plan.forward)),
        ("update:", _rows(plan, plan.forward, len(plan.steps))),
    )
    for title, rows in sections:
        if rows:
            lines += [f"  {title}", *_table(rows)]
    return "\n".join(lines)


def _rows(plan: Plan, first: int, last: int) -> list[tuple[str, ...]]:
    """Rows for the steps [first, last) and for what takes none on the way."""
    rows = []
    for index in range(first, last):
        rows += [_free_row(free) for free in plan.free if free.before == index]
        rows.append(_row(plan.steps[index], plan))
    return rows


def _free_row(free: Free) -> tuple[str, ...]:
    return (free.name, "no step", f"@{_place(free.buffer)}", "", "", "", "", free.reason)


def _place(buffer: Buffer) -> str:
    return buffer.name if buffer.place == "variable" else f"{buffer.place}+{buffer.offset}"


def _row(step: Step, plan: Plan) -> tuple[str, ...]:
    *reads, writes = step.buffers
    moved = sum(b.bytes for b in step.buffers)
    sources = " ".join(b.name for b in reads)
    return (
        step.name,
        step.kernel.name,
        f"{sources} -> {writes.name} @{_place(writes)} {_dtype(writes.dtype)}".rstrip(),
        f"{step.work} units",
        f"{moved:,} B",
        f"{step.flops:,} FLOP",
        f"~{expected_seconds(step, plan.threads) * 1e6:,.0f} µs" if plan.target == "cpu" else "",
        step.reason,
    )


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    kept = list(rows)
    widths = [max(len(row[c]) for row in kept) for c in range(len(kept[0]))]
    return [
        "    " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in kept
    ]
