"""Shows what a network computed: predictions with probabilities, gradients, time per layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from convdsl.views.table import Column, text_table

Array = np.ndarray
MOST_ROWS = 40
"""Tables of more images than this are cut short."""


def predictions(
    logits: Array, labels: Sequence[str] = (), true: Array | None = None, top: int = 5
) -> str:
    """The likeliest classes of every image, for an array N×classes.

    One image has a line per class; several have a line each, with the true class where known and
    the accuracy below.
    """
    chances = probabilities(logits)
    best = np.argsort(-chances, axis=1, kind="stable")[:, :top]
    if len(chances) == 1 and true is None:
        return _one_image(chances[0], best[0], labels)
    return _many_images(chances, best, labels, true)


def probabilities(logits: Array) -> Array:
    """The softmax of every row; rows that are probabilities already stay as they are."""
    if logits.min(initial=0) >= 0 and np.allclose(logits.sum(axis=1), 1, atol=1e-4):
        return logits
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _one_image(chances: Array, best: Array, labels: Sequence[str]) -> str:
    rows = [(_class(int(k), labels), f"{chances[k]:.2%}") for k in best]
    return text_table((Column("class"), Column("probability", right=True)), rows)


def _many_images(chances: Array, best: Array, labels: Sequence[str], true: Array | None) -> str:
    columns = [Column("image", right=True), Column("prediction"), Column("probability", right=True)]
    if best.shape[1] > 1:
        columns.append(Column("then"))
    if true is not None:
        columns[1:1] = [Column("label")]
    rows = []
    for index in range(min(len(chances), MOST_ROWS)):
        first, *others = (int(k) for k in best[index])
        row = [str(index), _class(first, labels), f"{chances[index, first]:.2%}"]
        if others:
            row.append(", ".join(f"{_class(k, labels)} {chances[index, k]:.1%}" for k in others))
        if true is not None:
            row[1:1] = [_class(int(true[index]), labels)]
        rows.append(tuple(row))
    parts = [text_table(columns, rows)]
    if len(chances) > MOST_ROWS:
        parts.append(f"and {len(chances) - MOST_ROWS} more images")
    if true is not None:
        right = int((best[:, 0] == true).sum())
        parts.append(f"{right} of {len(true)} right: accuracy {right / len(true):.1%}")
    return "\n\n".join(parts)


def _class(index: int, labels: Sequence[str]) -> str:
    return labels[index] if index < len(labels) else str(index)


def values(outputs: Mapping[str, Array]) -> str:
    """The shape and the spread of arrays."""
    headings = ("output", "shape", "least", "mean", "largest")
    columns = [Column(h, right=h not in ("output", "shape")) for h in headings]
    rows = [
        (name, "x".join(str(s) for s in array.shape), *_numbers(array))
        for name, array in outputs.items()
    ]
    return text_table(columns, rows)


def _numbers(array: Array) -> tuple[str, str, str]:
    return tuple(f"{f(array):.4g}" for f in (np.min, np.mean, np.max))  # type: ignore[return-value]


def gradients(loss: float, by_name: Mapping[str, Array]) -> str:
    """The loss and, for every gradient, its shape, Euclidean norm and largest element."""
    columns = (
        Column("gradient of"),
        Column("shape"),
        Column("norm", right=True),
        Column("largest", right=True),
    )
    rows = [
        (
            name,
            "x".join(str(s) for s in g.shape),
            f"{np.linalg.norm(g):.4g}",
            f"{np.abs(g).max(initial=0):.4g}",
        )
        for name, g in by_name.items()
    ]
    return f"loss {loss:.6f}\n\n{text_table(columns, rows)}"


def profile(steps: Iterable[tuple[str, str, float]], images: int) -> str:
    """The time of every step of a program, its share, and the total."""
    steps = list(steps)
    total = sum(seconds for _, _, seconds in steps)
    columns = (
        Column("layer"),
        Column("kernel"),
        Column("time", right=True),
        Column("share", right=True),
    )
    rows: list[tuple[str, ...] | None] = [
        (layer, kernel, _time(seconds), f"{seconds / total:.1%}" if total else "")
        for layer, kernel, seconds in steps
    ]
    rows += [None, ("total", "", _time(total), "")]
    each = f", {_time(total / images)} for each of {images}" if images > 1 else ""
    return f"{text_table(columns, rows)}\n\nmedian times{each}"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.1f} µs"
