"""Networks as columns of the papers' configuration tables: stages of one map size, units × n."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from convdsl.graph import Scope
from convdsl.graph.types import Shape
from convdsl.ops import Caption, times
from convdsl.views.drawing.boxes import Row
from convdsl.views.drawing.diagram import diagram
from convdsl.views.summary import Layer, Summary, rows


@dataclass(frozen=True)
class Line:
    """A layer, or a chain of them in a branch."""

    captions: tuple[Caption, ...]

    def text(self, usual: str) -> str:
        """In words; layers of the ``usual`` name go without it: ``3×3, 64``."""
        return " → ".join(_in_unit(caption, usual) for caption in self.captions)

    @property
    def compact(self) -> str:
        """As in the VGG paper's table: ``conv3-64``."""
        return " → ".join(_compact(caption) for caption in self.captions)


@dataclass(frozen=True)
class Part:
    """Layers that stand together in a cell; a unit is put in brackets, with its copies."""

    lines: tuple[Line, ...]
    copies: int = 1
    is_unit: bool = False
    is_pooling: bool = False
    name: str = ""
    """What the program calls it, where that is one thing."""


@dataclass(frozen=True)
class Stage:
    """What has results of one size: parts, those that pool apart from the others."""

    spatial: Shape
    occurrence: int
    """How many stages before have this size."""
    chunks: tuple[tuple[Part, ...], ...]

    @property
    def key(self) -> tuple[Shape, int]:
        return self.spatial, self.occurrence


@dataclass(frozen=True)
class Configuration:
    """A column of the table."""

    summary: Summary
    stages: tuple[Stage, ...]
    weight_layers: int
    """Layers that multiply, those of shortcuts left out: the number in ResNet-18."""

    @property
    def has_units(self) -> bool:
        return any(part.is_unit for part in self.parts)

    @property
    def parts(self) -> Iterator[Part]:
        return (part for stage in self.stages for chunk in stage.chunks for part in chunk)


def configuration(summary: Summary) -> Configuration:
    """The column of a network."""
    shortcuts = diagram(summary).shortcuts
    layers = [layer for layer in summary.layers if layer.name not in shortcuts]
    stages: list[Stage] = []
    seen: Counter[Shape] = Counter()
    groups = groupby(_parts(summary, shortcuts), key=lambda found: found[0])
    for spatial, found in groups:
        parts = [part for _, part in found]
        chunks = groupby(parts, key=lambda part: part.is_pooling)
        stages.append(Stage(spatial, seen[spatial], tuple(tuple(chunk) for _, chunk in chunks)))
        seen[spatial] += 1
    return Configuration(summary, tuple(stages), sum(layer.costs.macs > 0 for layer in layers))


def usual_name(configurations: Sequence[Configuration]) -> str:
    """The name that most layers with filters and a window have."""
    names = Counter(
        caption.name
        for column in configurations
        for part in column.parts
        for line in part.lines
        for caption in line.captions
        if caption.window and caption.filters is not None
    )
    return max(names, key=lambda name: names[name], default="")


# -- parts -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """Successive rows of one block instance, or of none."""

    path: tuple[Scope, ...]
    rows: tuple[Row, ...]

    @property
    def spatial(self) -> Shape:
        """The size of the result; that of a vector for a single position."""
        sizes = self.rows[-1][-1].output.spatial
        return () if all(size == 1 for size in sizes) else sizes

    @property
    def block(self) -> str:
        return self.path[-1].block if self.path else ""


def _parts(summary: Summary, shortcuts: frozenset[str]) -> Iterator[tuple[Shape, Part]]:
    """The parts of a network with the size of their results, alike ones counted."""
    table = [tuple(row) for row in rows(summary.layers)]
    joining = {row[0].path[-1].block for row in table if _joins(row) and row[0].path}
    groups = list(_groups(table, joining))
    alike = groupby(groups, key=lambda g: (g.block, g.spatial, _unit_lines(g, shortcuts)))
    for (block, spatial, lines), found in alike:
        copies = list(found)
        if block and lines and (block in joining or len(copies) > 1):
            name = _given(copies[0].path)
            yield spatial, Part(lines, len(copies), is_unit=True, name=name)
            continue
        for group in copies:
            for row in group.rows:
                if shown := _shown(row):
                    sizes = replace(group, rows=(row,)).spatial
                    pools = row[0].category == "pooling"
                    name = _given(row[0].path) if row[0].path else row[0].name
                    yield sizes, Part(tuple(Line((c,)) for c in shown), 1, False, pools, name)


def _given(path: Sequence[Scope]) -> str:
    """The name of the outermost block instance, unless it is called after its block."""
    return "" if path[0].name.startswith(path[0].block) else path[0].name


def _groups(table: Sequence[Row], joining: set[str]) -> Iterator[_Group]:
    """Rows by the outermost block instance that joins branches, else by the innermost one."""

    def instance(row: Row) -> tuple[Scope, ...]:
        path = row[0].path
        for end, scope in enumerate(path, 1):
            if scope.block in joining:
                return path[:end]
        return path

    for path, found in groupby(table, key=instance):
        yield _Group(path, tuple(found))


def _unit_lines(group: _Group, shortcuts: frozenset[str]) -> tuple[Line, ...]:
    """The lines of a unit: its layers without their strides, those of a branch in one line."""
    shown = {
        row[0].name: tuple(map(_plain, _shown(row)))
        for row in group.rows
        if row[0].name not in shortcuts
    }
    branches = _branches(group, shown)
    lines = []
    for name, captions in shown.items():
        branch = next((b for b in branches if name in b), ())
        if not branch:
            lines += [Line((caption,)) for caption in captions]
        elif name == branch[0]:
            lines.append(Line(tuple(caption for name in branch for caption in shown[name])))
    return tuple(lines)


def _branches(group: _Group, shown: Mapping[str, Sequence[Caption]]) -> list[tuple[str, ...]]:
    """The rows of every branch that the unit joins, where more than one has something to show."""
    owner = {layer.name: row[0].name for row in group.rows for layer in row}
    inside = {row[0].name: row for row in group.rows}
    readers = Counter(owner[name] for row in group.rows for name in row[0].inputs if name in owner)
    for row in group.rows:
        found = []
        for end in row[0].inputs if _joins(row) else ():
            branch: list[str] = []
            while end in owner and readers[owner[end]] == 1 and not _joins(inside[owner[end]]):
                branch.insert(0, owner[end])
                (end,) = inside[owner[end]][0].inputs
            if any(shown.get(name) for name in branch):
                found.append(tuple(name for name in branch if name in shown))
        if len(found) > 1:
            return found
    return []


def _joins(row: Row) -> bool:
    return len(set(row[0].inputs)) > 1


def _shown(row: Row) -> tuple[Caption, ...]:
    """What tables show of a row: no joins, nothing elementwise but normalisation by neighbours."""
    head, *joined = row
    more = [layer.caption for layer in joined if _normalises(layer)]
    if _joins(row) or (head.window is None and not _normalises(head)):
        return tuple(more)
    return (head.caption, *more)


def _normalises(layer: Layer) -> bool:
    return layer.category == "normalisation" and not layer.costs.parameters


def _plain(caption: Caption) -> Caption:
    """A caption without its stride, which only the first of several copies has."""
    return replace(caption, stride=())


def _in_unit(caption: Caption, usual: str) -> str:
    if caption.name == usual and caption.window:
        parts = [times(caption.window), str(caption.filters)]
        parts += [f"stride {times(caption.stride)}"] if caption.stride else []
        return ", ".join([*parts, *caption.notes])
    return str(caption)


def _compact(caption: Caption) -> str:
    if caption.filters is None:
        return str(caption)
    if not caption.window:
        return f"{caption.name.upper()}-{caption.filters}"
    sizes = sorted(set(caption.window))
    window = str(sizes[0]) if len(sizes) == 1 else times(caption.window)
    stride = [f"/{times(caption.stride)}"] if caption.stride else []
    head = f"{caption.name}{window}-{caption.filters}"
    return ", ".join([head, *stride, *caption.notes])
