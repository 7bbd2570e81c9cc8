"""Shows what `convdsl bench` measured, as text and as Markdown; the JSON is what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from convdsl.views.table import Column, Rows, markdown_table, text_table

Found = Mapping[str, Any]
Table = Callable[[Sequence[Column], Rows], str]


def text(found: Found) -> str:
    """For a terminal."""
    return "\n\n".join(_parts(found, text_table))


def markdown(found: Found) -> str:
    """The same in Markdown."""
    title, *parts = _parts(found, markdown_table)
    return "\n\n".join([f"# {title}", *parts])


def _parts(found: Found, table: Table) -> list[str]:
    results = found["results"]
    parts = [
        _title(found),
        _network(found),
        table(*_speed(results)),
        table(*_memory(results)),
        _ceiling(found),
    ]
    if "relative_error" in found:
        parts.append(
            f"largest error against float64 at batch 1: {found['relative_error']:.2g} of the "
            f"largest {'gradient' if found['mode'] == 'training' else 'output'} "
            f"(checked in {duration(found['check_seconds'])})"
        )
    for result in results:
        if "layers" in result:
            parts += [f"layers at batch {result['batch']}:", table(*_layers(result["layers"]))]
    return parts


def _title(found: Found) -> str:
    machine, threads = found["machine"], found["threads"]
    return (
        f"{found['network']}, {found['mode']} on {threads} thread{'s' * (threads > 1)} of "
        f"{machine['processor']} ({machine['cores']} cores, {machine['vector_lanes']} float32 "
        "lanes)"
    )


def _network(found: Found) -> str:
    counted = "three forward passes, " if found["mode"] == "training" else ""
    return (
        f"{found['params']:,} parameters ({size(found['parameter_bytes'])}), "
        f"{found['macs']:,} multiply-adds per input ({counted}two FLOP each)"
    )


def _speed(results: Sequence[Found]) -> tuple[list[Column], list[tuple[str, ...]]]:
    headings = ("batch", "median", "p10", "p90", "runs", "images/s", "GFLOP/s", "of peak")
    rows = [
        (
            str(r["batch"]),
            *(duration(r[f"{which}_seconds"]) for which in ("median", "p10", "p90")),
            str(r["repetitions"]),
            _rate(r["images_per_second"]),
            _rate(r["flops_per_second"] / 1e9),
            f"{r['peak_fraction']:.1%}",
        )
        for r in results
    ]
    return [Column(heading, right=True) for heading in headings], rows


def _memory(results: Sequence[Found]) -> tuple[list[Column], list[tuple[str, ...]]]:
    headings = (
        "batch",
        "compile",
        "first result",
        "activations",
        "largest live set",
        "packed weights",
        "peak resident",
    )
    rows = [
        (
            str(r["batch"]),
            f"{duration(r['compile_seconds'])} ({r['compile']})",
            duration(r["first_result_seconds"]),
            *(
                size(r[f"{which}_bytes"])
                for which in ("activation", "largest_live", "packed_weight", "resident")
            ),
        )
        for r in results
    ]
    return [Column(heading, right=True) for heading in headings], rows


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _ceiling(found: Found) -> str:
    results = found["results"]
    peaks = [r["peak_flops_per_second"] / 1e9 for r in results]
    reads = [r["read_bytes_per_second"] / 1e9 for r in results]
    return (
        f"measured between the runs: {_range(peaks)} GFLOP/s of float32 multiply-adds at most, "
        f"{_range(reads)} GB/s read from memory"
    )


def _range(numbers: Sequence[float]) -> str:
    low, high = f"{min(numbers):.3g}", f"{max(numbers):.3g}"
    return low if low == high else f"{low} to {high}"


def _layers(layers: Sequence[Found]) -> tuple[list[Column], list[tuple[str, ...] | None]]:
    headings = ("layer", "kernel", "time", "share", "GFLOP/s", "of peak")
    rows: list[tuple[str, ...] | None] = [
        (
            layer["layer"],
            " + ".join(layer["kernels"]),
            duration(layer["seconds"]),
            f"{layer['share']:.1%}",
            _rate(layer["flops_per_second"] / 1e9),
            f"{layer['peak_fraction']:.1%}",
        )
        for layer in layers
    ]
    total = sum(layer["seconds"] for layer in layers)
    rows += [None, ("total", "", duration(total), "", "", "")]
    return [Column(h, right=h not in ("layer", "kernel")) for h in headings], rows


def duration(seconds: float) -> str:
    """A time with its unit and three digits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def size(number: int) -> str:
    """A size in bytes with its decimal unit and three digits."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number} B"
