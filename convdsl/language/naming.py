"""How nodes, and with them parameters, get their names; the rule is in `docs/language.md`.

A label names the first step of its chain that is a block or an op with weights (the first step
that is applied, where none is), and the other steps below it: `C1`, `C1.tanh1`. Everything else is
numbered per kind in its scope, a network or an instance of a block: `conv1`, `basic2.conv1`. A
label in a loop is numbered, too: `stage1`, `stage2`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from convdsl.language import syntax


@dataclass
class Names:
    """The names of one scope; ``prefix`` is what stands before them."""

    prefix: str = ""
    reserved: frozenset[str] = frozenset()
    """Labels, which numbering passes over."""
    _counts: dict[str, int] = field(default_factory=dict)

    def numbered(self, kind: str) -> str:
        """The next free name of a kind, without the prefix."""
        while True:
            count = self._counts[kind] = self._counts.get(kind, 0) + 1
            if f"{kind}{count}" not in self.reserved:
                return f"{kind}{count}"


@dataclass
class Line:
    """A statement while it is evaluated.

    ``owner`` is the step that the label names; ``statement`` becomes the label, or the name of the
    first node.
    """

    names: Names
    owner: syntax.Expression | None = None
    label: str = ""
    documentation: str = ""
    statement: str = ""

    def name(self, kind: str, step: syntax.Expression) -> tuple[str, str]:
        """The name for what a step makes: as it is in its scope, and in full."""
        if step is self.owner:
            short = self.label.rpartition(".")[2]
            return short, self.label
        short = self.names.numbered(kind)
        return short, self.names.prefix + short

    def take_documentation(self) -> str:
        """The documentation, for the first node that asks."""
        found, self.documentation = self.documentation, ""
        return found


@dataclass(frozen=True)
class Labels:
    """The labels of a body; of those in loops, where they stand."""

    names: frozenset[str]
    looped: frozenset[int]


def labels(body: syntax.Body) -> Labels:
    """The labels of a body and the bodies in it."""
    found = list(_labels(body, False))
    looped = frozenset(name.span.start for name, in_loop in found if in_loop)
    return Labels(frozenset(name.text for name, _ in found), looped)


def _labels(body: syntax.Body, in_loop: bool) -> Iterator[tuple[syntax.Name, bool]]:
    for statement in body.statements:
        match statement:
            case syntax.Layer(label=syntax.Name() as label):
                yield label, in_loop
            case _:
                in_this = in_loop or isinstance(statement, syntax.For)
                for inner in nested(statement):
                    yield from _labels(inner, in_this)


def branches(statement: syntax.If) -> Iterable[syntax.Body]:
    """The bodies of an `if` with all its `else if`."""
    step: syntax.Body | syntax.If | None = statement
    while isinstance(step, syntax.If):
        yield step.then
        step = step.otherwise
    if step is not None:
        yield step


def nested(statement: syntax.BodyStatement) -> Iterable[syntax.Body]:
    """The bodies in a statement."""
    match statement:
        case syntax.For():
            return (statement.body,)
        case syntax.If():
            return branches(statement)
    return ()


def unreachable(body: syntax.Body) -> Iterator[syntax.BodyStatement]:
    """The first statement behind a `yield`, here and in the bodies in this one."""
    for statement, following in pairwise(body.statements):
        if isinstance(statement, syntax.Yield):
            yield following
            break
    for statement in body.statements:
        for inner in nested(statement):
            yield from unreachable(inner)


def twice(body: syntax.Body) -> Iterator[tuple[syntax.Name, syntax.Name]]:
    """Labels that occur again where both are reached, each with its first occurrence."""
    seen: dict[str, syntax.Name] = {}
    yield from _twice(body, seen)


def _twice(
    body: syntax.Body, seen: dict[str, syntax.Name]
) -> Iterator[tuple[syntax.Name, syntax.Name]]:
    for statement in body.statements:
        match statement:
            case syntax.Layer(label=syntax.Name() as label):
                if label.text in seen:
                    yield label, seen[label.text]
                seen.setdefault(label.text, label)
            case syntax.For():
                yield from _twice(statement.body, seen)
            case syntax.If():
                branched: dict[str, syntax.Name] = {}
                for branch in branches(statement):
                    own = dict(seen)
                    yield from _twice(branch, own)
                    branched |= own
                seen |= branched
