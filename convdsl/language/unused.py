"""Checks the names in blocks that no network called: what needs no tensor to be seen wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from convdsl.diagnostics import did_you_mean
from convdsl.language import syntax
from convdsl.language.modules import Module
from convdsl.language.session import Session
from convdsl.language.values import FUNCTIONS, BlockValue
from convdsl.ops import lookup, registry
from convdsl.ops.attributes import attributes


def check_unused(module: Module, called: set[int], session: Session) -> None:
    """Report unknown ops and attributes in the module's blocks, but for those ``called`` (ids)."""
    for item in module.file.items:
        if isinstance(item, syntax.Block) and id(item) not in called:
            _check(item, module, session)


def _check(block: syntax.Block, module: Module, session: Session) -> None:
    bound = {p.name.text for p in block.parameters} | set(_bound(block.body))
    for name, arguments in _applied(block.body):
        if name.text in bound or name.text in module.names:
            continue
        op = lookup(name.text)
        if op is None and name.text not in FUNCTIONS:
            blocks = [n for n, v in module.names.items() if isinstance(v, BlockValue)]
            help = did_you_mean(name.text, [*registry(), *blocks, *bound])
            message = f"there is no op or block called `{name.text}`"
            session.error("E102", message, name.span, help=help)
        if op is None:
            continue
        known = attributes(op)
        for argument in arguments:
            if argument.name is not None and argument.name.text not in known:
                help = did_you_mean(argument.name.text, known)
                message = f"`{op.kind}` has no attribute `{argument.name.text}`"
                session.error("E103", message, argument.name.span, help=help)


def _nodes(node: syntax.Node) -> Iterator[syntax.Node]:
    """A part of the program and all parts of it."""
    yield node
    for field in fields(node):
        value = getattr(node, field.name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, syntax.Node):
                yield from _nodes(part)


def _bound(body: syntax.Body) -> Iterator[str]:
    """The names that a body gives to values."""
    for node in _nodes(body):
        match node:
            case syntax.Definition(names=names) | syntax.Predicate(parameters=names):
                yield from (n.text for n in names)
            case syntax.Layer(label=syntax.Name(text=name)):
                yield name
            case syntax.For(variable=variable):
                yield variable.text


def _applied(body: syntax.Body) -> Iterator[tuple[syntax.Name, tuple[syntax.Argument, ...]]]:
    """What is applied: names with arguments, and names that arrows lead into."""
    for node in _nodes(body):
        match node:
            case syntax.Application(name=name, arguments=arguments):
                yield name, arguments
            case syntax.Layer(flow=syntax.Flow(steps=(syntax.Name() as name,))):
                yield name, ()
            case syntax.Flow(steps=(_, *behind)):
                for step in behind:
                    if isinstance(step, syntax.Name):
                        yield step, ()
