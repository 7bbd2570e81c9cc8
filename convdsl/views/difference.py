"""What changed between two networks, in structure and in the numbers; not in the text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from convdsl.graph import extents
from convdsl.views.summary import Layer, Summary
from convdsl.views.table import Column, text_table

Kind = Literal["added", "removed", "changed"]


@dataclass(frozen=True)
class Change:
    """A layer that only one network has, or that both have with other attributes or shapes."""

    kind: Kind
    before: Layer | None
    after: Layer | None

    def __str__(self) -> str:
        mark = {"added": "+", "removed": "-", "changed": "~"}[self.kind]
        shown = [_shown(layer) for layer in (self.before, self.after) if layer is not None]
        return f"{mark} {' => '.join(shown)}"


@dataclass(frozen=True)
class Difference:
    """The changes from one network to another."""

    before: Summary
    after: Summary
    changes: tuple[Change, ...]
    unchanged: int

    @property
    def totals(self) -> tuple[tuple[str, int, int], ...]:
        """The numbers of both networks, by name."""
        a, b = self.before, self.after
        return (
            ("parameters", a.total.parameters, b.total.parameters),
            ("MACs", a.total.macs, b.total.macs),
            ("FLOPs", a.total.flops, b.total.flops),
            ("activation bytes", a.total.activation_bytes, b.total.activation_bytes),
            ("peak bytes", a.peak_activation_bytes, b.peak_activation_bytes),
        )

    def __str__(self) -> str:
        lines = [str(change) for change in self.changes]
        if not lines:
            lines = ["the networks have the same structure"]
        elif self.unchanged:
            lines.append(f"  {self.unchanged} layers are the same")
        columns = [Column("")] + [
            Column(text, right=True) for text in (self.before.network, self.after.network, "change")
        ]
        rows = [(name, f"{a:,}", f"{b:,}", _ratio(a, b)) for name, a, b in self.totals]
        seen, sees = (extents(s.receptive_field) for s in (self.before, self.after))
        rows.append(("receptive field", seen, sees, "" if seen == sees else "differs"))
        return "\n".join([*lines, "", text_table(columns, rows)])

    def as_json(self) -> dict[str, object]:
        """The form that ``diff --format json`` prints."""
        return {
            "before": self.before.network,
            "after": self.after.network,
            "changes": [
                {
                    "kind": change.kind,
                    "before": change.before.as_json() if change.before else None,
                    "after": change.after.as_json() if change.after else None,
                }
                for change in self.changes
            ],
            "unchanged": self.unchanged,
            "totals": {name: {"before": a, "after": b} for name, a, b in self.totals},
            "receptive_field": {
                "before": list(self.before.receptive_field),
                "after": list(self.after.receptive_field),
            },
        }


def difference(before: Summary, after: Summary) -> Difference:
    """The difference of two summaries.

    Layers are held against each other in order: by what they are and make where the names differ
    too much to be of use, as between members of a family.
    """
    old, new = ([_key(layer) for layer in summary.layers] for summary in (before, after))
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    changes: list[Change] = []
    unchanged = 0
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            unchanged += j - i
        else:
            changes += _changes(before.layers[i:j], after.layers[k:m])
    return Difference(before, after, tuple(changes), unchanged)


def _key(layer: Layer) -> tuple[str, str]:
    return layer.notation, str(layer.output)


def _changes(old: Sequence[Layer], new: Sequence[Layer]) -> Iterator[Change]:
    """Layers of one name in both are changed; the rest come and go."""
    by_name = {layer.name: layer for layer in new}
    paired = {layer.name for layer in old if layer.name in by_name}
    for layer in old:
        if layer.name in paired:
            yield Change("changed", layer, by_name[layer.name])
        else:
            yield Change("removed", layer, None)
    for layer in new:
        if layer.name not in paired:
            yield Change("added", None, layer)


def _shown(layer: Layer) -> str:
    return f"{layer.name}: {layer.brief} -> {layer.output}"


def _ratio(a: int, b: int) -> str:
    if a == b:
        return ""
    return f"x{b / a:.3g}" if a else f"+{b:,}"
