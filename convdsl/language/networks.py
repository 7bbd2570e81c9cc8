"""Which network of a file is meant, and what its instances bind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convdsl.diagnostics import CompileError, Diagnostic, Span, did_you_mean
from convdsl.language import syntax
from convdsl.language.modules import Module
from convdsl.language.values import BlockValue, NetValue


@dataclass(frozen=True)
class Family:
    """A network with the instances that lead to it, the one nearest to it first."""

    base: NetValue
    instances: tuple[NetValue, ...] = ()

    @property
    def net(self) -> syntax.Net:
        assert isinstance(self.base.syntax, syntax.Net)
        return self.base.syntax

    def free(self, count: int | None = None) -> tuple[syntax.Parameter, ...]:
        """The parameters that are left after the first ``count`` instances, or after all."""
        left = list(self.net.parameters)
        for instance in self.instances[:count]:
            assert isinstance(instance.syntax, syntax.Instance)
            arguments = instance.syntax.arguments
            positional = sum(a.name is None for a in arguments)
            named = {a.name.text for a in arguments if a.name}
            left = [p for p in left[positional:] if p.name.text not in named]
        return tuple(left)


def family(net: NetValue) -> Family:
    """The network at the bottom. Raises CompileError where an instance has no such base."""
    instances: list[NetValue] = []
    while isinstance(net.syntax, syntax.Instance):
        if any(i is net for i in instances):
            message = f"`{net.name}` is an instance of itself"
            raise CompileError(Diagnostic("E107", message, net.syntax.base.span))
        instances.append(net)
        net = _base(net)
    return Family(net, tuple(reversed(instances)))


def _base(net: NetValue) -> NetValue:
    assert isinstance(net.syntax, syntax.Instance)
    name = net.syntax.base
    found = net.home.get(name.text)
    if isinstance(found, NetValue):
        return found
    help: tuple[str, ...] = ()
    if isinstance(found, BlockValue):
        message = f"`{name.text}` is a block, and a network is made from a network"
    else:
        nets = [n for n, v in net.home.items() if isinstance(v, NetValue)]
        message, help = f"there is no network called `{name.text}`", did_you_mean(name.text, nets)
    raise CompileError(Diagnostic("E101", message, name.span, help=help))


def unbound(net: NetValue) -> tuple[syntax.Parameter, ...]:
    """The parameters a network needs before it can be built; none where its base is unknown."""
    try:
        return tuple(p for p in family(net).free() if p.default is None)
    except CompileError:
        return ()


def choose(module: Module, name: str | None, given: Sequence[str] = ()) -> NetValue:
    """The network called ``name``, or the only one that can be built; raises CompileError E107.

    Parameters among ``given`` do not count as missing.
    """
    if name is not None:
        return _named(module, name)
    own = module.nets()
    ready = [n for n in own if all(p.name.text in given for p in unbound(n))]
    if len(ready) == 1:
        return ready[0]
    if not ready and own:
        return own[-1]  # whose error then says what is missing
    file = module.file.source.name
    if not own:
        start = Span(module.file.source, 0, 0)
        raise CompileError(Diagnostic("E107", "this file defines no network", start))
    listed = "\n".join(f"{file}:{n.name}" for n in ready)
    message = f"{file} defines {len(ready)} networks, and one has to be named"
    raise CompileError(Diagnostic("E107", message, help=(listed,)))


def _named(module: Module, name: str) -> NetValue:
    found: Any = module.names.get(name)
    if isinstance(found, NetValue):
        return found
    nets = [n for n, v in module.names.items() if isinstance(v, NetValue)]
    help = did_you_mean(name, nets) or ((f"its networks are {', '.join(nets)}",) if nets else ())
    file = module.file.source.name
    raise CompileError(Diagnostic("E107", f"{file} has no network called `{name}`", help=help))
