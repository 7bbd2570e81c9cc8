"""What a file defines and imports: blocks, networks and top-level values by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convdsl import resources
from convdsl.diagnostics import CompileError, Note, Source, did_you_mean
from convdsl.language import syntax
from convdsl.language.expressions import Expressions
from convdsl.language.naming import Names
from convdsl.language.parsing import parse
from convdsl.language.session import Frame
from convdsl.language.values import POISON, BlockValue, Defaults, NetValue, Unbound
from convdsl.ops import lookup, registry
from convdsl.ops.attributes import attributes


@dataclass
class Module:
    """A file and the names it has; imported names are among them."""

    file: syntax.File
    names: dict[str, Any] = field(default_factory=dict)
    places: dict[str, syntax.Name | syntax.Import] = field(default_factory=dict)
    imports: list[Module] = field(default_factory=list)
    items: dict[int, Defaults] = field(default_factory=dict)
    """The defaults in force at each definition, by its offset."""

    def nets(self) -> list[NetValue]:
        """The networks that this file itself defines, in order."""
        own = [i for i in self.file.items if isinstance(i, syntax.Net | syntax.Instance)]
        found = [self.names.get(i.name.text) for i in own]
        return [n for n in found if isinstance(n, NetValue)]


class Loader:
    """Loads a file with everything it imports, each file once."""

    def __init__(self, expressions: Expressions) -> None:
        self.expressions = expressions
        self.session = expressions.session
        self.loaded: dict[Path, Module] = {}
        self._loading: list[Path] = []

    def load(self, file: syntax.File) -> Module:
        """The module of a file. What is wrong is reported and left out."""
        module = Module(file)
        frame = Frame("", module.names, module.names, {}, Names(), is_net=False)
        defaults: dict[str, dict[str, Any]] = {}
        for item in file.items:
            match item:
                case syntax.Version():
                    if item is not file.items[0]:
                        message = "the version stands at the top of the file"
                        self.session.error("E002", message, item.span)
                case syntax.Import():
                    self._import(item, module)
                case syntax.Default():
                    defaults = add_defaults(item, defaults, self.expressions, frame)
                    frame.defaults = defaults
                case syntax.Block():
                    self._define(module, item.name, BlockValue(item, module.names, defaults))
                case syntax.Net() | syntax.Instance():
                    self._define(module, item.name, NetValue(item, module.names, defaults))
                case syntax.Definition():
                    self._value(item, module, frame)
        return module

    def _define(self, module: Module, name: syntax.Name, value: Any) -> None:
        if name.text in module.names:
            earlier = module.places[name.text]
            self.session.error(
                "E105",
                f"`{name.text}` is defined twice",
                name.span,
                notes=[Note("it is first defined here", earlier.span)],
            )
            return
        module.names[name.text] = value
        module.places[name.text] = name

    def _value(self, item: syntax.Definition, module: Module, frame: Frame) -> None:
        (name, *more), flow = item.names, item.flow
        if more or item.claims:
            message = "at the top of a file, a value has one name and no expectations"
            self.session.error("E109", message, item.span)
            return
        value: Any = POISON
        if len(flow.steps) == 1:
            value = self.expressions.evaluate(flow.steps[0], frame)
        else:
            self.session.error("E109", "layers stand in a network or a block", flow.span)
        self._define(module, name, value)

    # -- imports -----------------------------------------------------------------------------
    def _import(self, item: syntax.Import, module: Module) -> None:
        path = self._find(item)
        if path is None:
            return
        if path in self._loading:
            chain = " -> ".join(p.name for p in [*self._loading[self._loading.index(path) :], path])
            self.session.error(
                "E108", f"files import each other in a circle: {chain}", item.path.span
            )
            return
        imported = self.loaded.get(path) or self._read(path, item)
        if imported is None:
            return
        module.imports.append(imported)
        for name, value in imported.names.items():
            if module.names.get(name, value) is not value:
                notes = [Note("it is first defined here", module.places[name].span)]
                message = f"`{item.path.value}` defines `{name}`, which exists already"
                self.session.error("E105", message, item.path.span, notes=notes)
            module.names.setdefault(name, value)
            module.places.setdefault(name, item)

    def _find(self, item: syntax.Import) -> Path | None:
        """The file beside the importing one, or the bundled one of that name."""
        beside = Path(item.span.source.name).parent
        for folder in (beside, resources.networks_directory()):
            path = folder / item.path.value
            if path.is_file():
                return path.resolve()
        near = did_you_mean(item.path.value, [p.name for p in beside.glob("*.cnn")])
        message = f"there is no file `{item.path.value}`"
        self.session.error("E108", message, item.path.span, help=near)
        return None

    def _read(self, path: Path, item: syntax.Import) -> Module | None:
        beside = Path(item.span.source.name).parent / item.path.value
        shown = beside if beside.is_file() else path
        try:
            source = Source(str(shown), path.read_text(encoding="utf-8"))
            file = parse(source)
        except (OSError, UnicodeDecodeError):
            message = f"`{item.path.value}` cannot be read as text"
            self.session.error("E108", message, item.path.span)
            return None
        except CompileError as error:
            self.session.findings += error.diagnostics
            return None
        self._loading.append(path)
        try:
            module = self.loaded[path] = self.load(file)
        finally:
            self._loading.pop()
        return module

    def root(self, file: syntax.File) -> Module:
        """The module of the file that was asked for."""
        path = Path(file.source.name)
        self._loading.append(path.resolve())
        return self.load(file)


def add_defaults(
    item: syntax.Default, defaults: Defaults, expressions: Expressions, frame: Frame
) -> dict[str, dict[str, Any]]:
    """The defaults with those of a `default` statement on top."""
    error = expressions.session.error
    op = lookup(item.op.text)
    found = {name: dict(values) for name, values in defaults.items()}
    if op is None:
        help = did_you_mean(item.op.text, registry())
        error("E102", f"there is no op called `{item.op.text}`", item.op.span, frame, help=help)
        return found
    known = attributes(op)
    settings: dict[str, Any] = {}
    for argument in item.arguments:
        assert argument.name is not None
        name = argument.name.text
        if name not in known:
            help = did_you_mean(name, known)
            message = f"`{op.kind}` has no attribute `{name}`"
            error("E103", message, argument.name.span, frame, help=help)
        elif name in settings:
            error("E105", f"`{name}` is given twice", argument.name.span, frame)
        else:
            value = expressions.evaluate(argument.value, frame)
            if value is not POISON:
                settings[name] = _as_word(value), argument
    found[op.kind] = {**found.get(op.kind, {}), **settings}
    return found


def _as_word(value: Any) -> Any:
    from convdsl.ops.attributes import Word

    return Word(value.name) if isinstance(value, Unbound) else value
