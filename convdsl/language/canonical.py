"""Canonical text of one network: what it needs and nothing else, in a single file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from convdsl.diagnostics import Source
from convdsl.graph import TensorType
from convdsl.language import syntax
from convdsl.language.elaboration import Elaborator, InputSizes, elaborate, written
from convdsl.language.formatting import render
from convdsl.language.modules import Loader, Module
from convdsl.language.networks import choose
from convdsl.language.parsing import parse
from convdsl.language.session import Session
from convdsl.language.values import NetValue

Defined = syntax.Block | syntax.Net | syntax.Instance | syntax.Definition


def to_text(
    file: syntax.File,
    net: str | None = None,
    overrides: Mapping[str, object] | None = None,
    input_sizes: InputSizes = (),
) -> str:
    """The text of one network with the overrides bound; elaborating it gives the same graph.

    Definitions come in before what uses them, imported ones included; comments are left out but for
    documentation. Where something was overridden, expectations are left out, too.
    """
    overrides = dict(overrides or {})
    elaborated = elaborate(file, net, overrides, input_sizes)
    module = Loader(Elaborator(Session())).root(file)
    chosen = choose(module, net, tuple(overrides))
    sizes = [v.type.shape for v in elaborated.graph.inputs] if input_sizes else []
    homes = list(_modules(module))
    names = _closure(chosen, overrides, homes)
    needed = [(home, item) for home in homes for item in _own(home) if _defined(item) in names]
    several = len({id(home) for home, _ in needed}) > 1
    items: list[syntax.Item] = list(parse(Source("<version>", "cnn 1")).items)
    for home, item in needed:
        before = [d for d in _defaults(home) if d.span.start < item.span.start]
        if item is chosen.syntax:
            item = _bound(item, overrides)
        if sizes and isinstance(item, syntax.Net):
            item = replace(item, body=_resized(item.body, iter(sizes)))
        if elaborated.overridden:
            item = _without_claims(item)
        if several and isinstance(item, syntax.Block | syntax.Net):
            # Defaults are in force for the definitions of their own file.
            item = replace(
                item, body=replace(item.body, statements=(*before, *item.body.statements))
            )
        elif not several:
            items += [d for d in before if d not in items]
        items.append(item)
    return render(syntax.File(file.source, tuple(items)), comments=False)


# -- what is needed --------------------------------------------------------------------------


def _modules(module: Module) -> Iterator[Module]:
    """The modules that a module imports, and itself at last, each once."""
    seen: dict[int, Module] = {}

    def visit(at: Module) -> None:
        if id(at) not in seen:
            for imported in at.imports:
                visit(imported)
            seen[id(at)] = at

    visit(module)
    yield from seen.values()


def _own(module: Module) -> list[Defined]:
    return [i for i in module.file.items if isinstance(i, Defined)]


def _defaults(module: Module) -> list[syntax.Default]:
    return [i for i in module.file.items if isinstance(i, syntax.Default)]


def _defined(item: Defined) -> str:
    return item.names[0].text if isinstance(item, syntax.Definition) else item.name.text


def _closure(
    net: NetValue, overrides: Mapping[str, object], homes: Sequence[Module]
) -> frozenset[str]:
    """The names of the definitions that a network needs, its own among them."""
    items = {_defined(item): item for home in homes for item in _own(home)}
    waiting: list[syntax.Node] = [written(n, v) for n, v in overrides.items()]
    waiting += [d for home in homes for d in _defaults(home)]
    found = {net.name}
    waiting.append(net.syntax)
    while waiting:
        for name in _names(waiting.pop()):
            if name in items and name not in found:
                found.add(name)
                waiting.append(items[name])
    return frozenset(found)


def _names(node: syntax.Node) -> Iterator[str]:
    """Every name that occurs in a part of the program."""
    if isinstance(node, syntax.Name):
        yield node.text
    for field in fields(node):
        value = getattr(node, field.name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, syntax.Node):
                yield from _names(part)


# -- what changes ----------------------------------------------------------------------------


def _bound(item: Defined, overrides: Mapping[str, object]) -> Defined:
    """A network with the overrides as the values of its parameters."""
    given = {name: written(name, value) for name, value in overrides.items()}
    if isinstance(item, syntax.Instance):
        more = tuple(
            syntax.Argument(value.span, value, syntax.Name(value.span, name))
            for name, value in given.items()
        )
        return replace(item, arguments=(*item.arguments, *more))
    assert isinstance(item, syntax.Net)
    parameters = tuple(
        replace(p, default=given.get(p.name.text, p.default)) for p in item.parameters
    )
    return replace(item, parameters=parameters)


def _resized(body: syntax.Body, shapes: Iterator[tuple[int, ...]]) -> syntax.Body:
    """The body with these shapes in its `input` statements, in order."""
    statements = []
    for statement in body.statements:
        if isinstance(statement, syntax.Input):
            written_type = written("size", _shape(next(shapes)))
            first, *rest = statement.arguments
            argument = replace(first, value=written_type)
            statement = replace(statement, arguments=(argument, *rest))
        statements.append(statement)
    return replace(body, statements=tuple(statements))


def _shape(shape: tuple[int, ...]) -> str:
    return str(TensorType(shape))


def _without_claims(node: Any) -> Any:
    """A part of the program without its expectations."""
    changes: dict[str, Any] = {}
    for field in fields(node):
        value = getattr(node, field.name)
        if field.name == "claims":
            changes["claims"] = ()
        elif isinstance(value, syntax.Body | syntax.If):
            changes[field.name] = _without_claims(value)
        elif field.name == "statements":
            changes["statements"] = tuple(map(_without_claims, value))
    return replace(node, **changes) if changes else node
