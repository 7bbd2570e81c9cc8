"""Winograd's transforms, as the text of their arithmetic: for any target's kernels.

F(4×4, 3×3), F(2×2, 5×5) and F(2×2, 3×3) of Lavin and Gray 2016. The first two have tiles of 6×6
and the points 0, ±1, ±2 and ∞, so that they share the inputs' transform; the last has tiles of 4×4.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """F(side×side, window×window)."""

    side: int
    window: int

    @property
    def reach(self) -> int:
        """Rows and columns of inputs of a tile."""
        return self.side + self.window - 1

    @property
    def points(self) -> int:
        return self.reach * self.reach


FORMS = (Form(4, 3), Form(2, 5), Form(2, 3))


def transformed_weights(form: Form, g: list[str], name: str) -> list[str]:
    """G·g for a column of weights: their polynomial at the form's points, scaled."""

    def at(point: int, scale: float) -> list[str]:
        """The polynomial at a point and at its negative."""

        def part(start: int) -> str:
            terms = range(start, len(g), 2)
            return " + ".join(f"{g[k]} * float32({point**k * scale!r})" for k in terms)

        place = 2 * point
        return [
            f"even = {part(0)}",
            f"odd = {part(1)}",
            f"{name}{place - 1} = even + odd",
            f"{name}{place} = even - odd",
        ]

    if form.reach == 4:
        return [f"{name}0 = {g[0]}", *at(1, 0.5), f"{name}3 = {g[-1]}"]
    first = f"{name}0 = {g[0]} * float32(0.25)"
    return [first, *at(1, -1 / 6), *at(2, 1 / 24), f"{name}5 = {g[-1]}"]


def transformed_inputs(d: list[str]) -> list[str]:
    """Bᵀ·d for a column of a tile: as many expressions more, over their shared parts."""
    if len(d) == 4:
        return [
            f"r0 = {d[0]} - {d[2]}",
            f"r1 = {d[1]} + {d[2]}",
            f"r2 = {d[2]} - {d[1]}",
            f"r3 = {d[3]} - {d[1]}",
        ]
    return [
        f"far = {d[4]} - {d[2]} * float32(4.0)",
        f"near = {d[3]} - {d[1]} * float32(4.0)",
        f"last = {d[4]} - {d[2]}",
        f"twice = ({d[3]} - {d[1]}) * float32(2.0)",
        f"r0 = ({d[0]} * float32(4.0) - {d[2]} * float32(5.0)) + {d[4]}",
        "r1 = far + near",
        "r2 = far - near",
        "r3 = last + twice",
        "r4 = last - twice",
        f"r5 = ({d[1]} * float32(4.0) - {d[3]} * float32(5.0)) + {d[5]}",
    ]


def transformed_back(m: list[str], side: int) -> list[str]:
    """Aᵀ·m for a column of products: the expressions of ``side`` results."""
    pairs = (len(m) - 2) // 2
    lines = []
    for k in range(1, pairs + 1):
        lines.append(f"sum{k} = {m[2 * k - 1]} + {m[2 * k]}")
        lines.append(f"less{k} = {m[2 * k - 1]} - {m[2 * k]}")
    for row in range(side):
        # The powers of the points 1 and 2, of −1 and −2 with their signs.
        name = "less" if row % 2 else "sum"
        terms = [
            f"{name}{k}" + (f" * float32({k**row}.0)" if k**row > 1 else "")
            for k in range(1, pairs + 1)
        ]
        ends = ([m[0]] if row == 0 else []) + ([m[-1]] if row == side - 1 else [])
        lines.append(f"r{row} = " + " + ".join([*terms, *ends]))
    return lines
