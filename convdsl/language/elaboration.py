"""From the syntax tree to the typed graph of one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convdsl.diagnostics import CompileError, Diagnostic, Source, Span, did_you_mean
from convdsl.graph import Expectation, Graph, Setting, TensorType, Value
from convdsl.language import inputs, recipes, syntax, values
from convdsl.language.bodies import Bodies, Yielded
from convdsl.language.claims import expectations
from convdsl.language.flows import Given
from convdsl.language.modules import Loader
from convdsl.language.naming import Names
from convdsl.language.networks import Family, choose, family, unbound
from convdsl.language.parameters import Signature
from convdsl.language.parsing import parse
from convdsl.language.session import Frame, Session, Stop
from convdsl.language.unused import check_unused
from convdsl.language.values import POISON, NetValue, Refused, Unbound

InputSizes = Sequence[tuple[int, ...]] | Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Elaborated:
    """A network's graph and what its program claims about it.

    ``overridden`` says that a parameter or an input size differs from the declared one, so that the
    expectations do not apply.
    """

    graph: Graph
    expectations: tuple[Expectation, ...] = ()
    overridden: bool = False
    warnings: tuple[Diagnostic, ...] = ()
    recipe: tuple[Setting, ...] = ()


def elaborate(
    file: syntax.File,
    net: str | None = None,
    overrides: Mapping[str, object] | None = None,
    input_sizes: InputSizes = (),
) -> Elaborated:
    """The graph of a network of the file: of the one called ``net``, or of the only one.

    ``overrides`` bind parameters of the network, strings as they would be written in the language;
    ``input_sizes`` replace the shapes of its inputs, in order or by name. Raises CompileError with
    all independent errors.
    """
    elaborator = Elaborator(Session(), overrides, input_sizes)
    session = elaborator.session
    graph = _guarded(elaborator, file, net)
    errors = [f for f in session.findings if f.severity == "error"]
    if errors or graph is None:
        errors.sort(key=lambda d: d.span.start if d.span and d.span.source is file.source else -1)
        raise CompileError(errors)
    warnings = tuple(f for f in session.findings if f.severity == "warning")
    return Elaborated(
        graph, tuple(session.expectations), elaborator.overridden, warnings, elaborator.recipe
    )


def _guarded(elaborator: Elaborator, file: syntax.File, net: str | None) -> Graph | None:
    """The graph of a network; what goes wrong is among the session's findings."""
    findings, graph = elaborator.session.findings, None
    try:
        module = Loader(elaborator).root(file)
        try:
            graph = elaborator.network(choose(module, net, tuple(elaborator.overrides)))
        except CompileError as error:
            findings += error.diagnostics
        check_unused(module, elaborator.called, elaborator.session)
    except Stop:
        pass
    except RecursionError:
        message = "an expression nests too deeply"
        findings.append(Diagnostic("E403", message, Span(file.source, 0, 0)))
    return graph


def net_names(file: syntax.File) -> tuple[str, ...]:
    """The networks a file defines that can be built as they are."""
    loader = Loader(Elaborator(Session()))
    return tuple(n.name for n in loader.root(file).nets() if not unbound(n))


class Elaborator(Bodies):
    """Evaluates a network: its parameters, inputs and outputs."""

    def __init__(
        self,
        session: Session,
        overrides: Mapping[str, object] | None = None,
        input_sizes: InputSizes = (),
    ) -> None:
        super().__init__(session)
        self.overrides = dict(overrides or {})
        self.input_sizes = input_sizes
        self.overridden = False
        self.labels_of_classes: tuple[str, ...] = ()
        self.recipe: tuple[Setting, ...] = ()
        self._outputs: list[tuple[str, Value]] = []
        self._output_names: dict[str, Span] = {}
        self._inputs = 0

    def network(self, net: NetValue) -> Graph | None:
        """The graph, or None where an error was reported."""
        line = family(net)
        base = line.net
        labels = self.labels(base.body)
        names = Names("", labels.names)
        frame = Frame(
            net.name, {}, line.base.home, line.base.defaults, names, labels.looped, is_net=True
        )
        if not self._parameters(line, frame):
            return None
        result = self.body(base.body, frame)
        self._check_inputs(base, frame)
        outputs = self._all_outputs(base, result, frame)
        self._expectations(net, frame)
        if self.session.failed:
            return None
        documentation = net.syntax.documentation or base.documentation
        graph = self.session.builder.finish(
            net.name,
            outputs,
            documentation,
            span=net.syntax.name.span,
            labels=self.labels_of_classes,
        )
        self._warn_unused(graph)
        return graph

    # -- parameters --------------------------------------------------------------------------
    def _parameters(self, line: Family, frame: Frame) -> bool:
        """Bind what instances and overrides give, and the defaults of the rest."""
        given: dict[str, tuple[Any, syntax.Argument]] = {}
        for count, instance in enumerate(line.instances):
            assert isinstance(instance.syntax, syntax.Instance)
            home = Frame("", {}, instance.home, {}, Names())
            written = self._given(instance.syntax.arguments, home)
            signature = Signature(instance.syntax.base.text, line.free(count))
            given |= signature.place(written.positional, written.keywords, self._report)
        overridden = self._overrides(line, frame)
        if self.session.failed:
            return False
        given |= overridden
        step = line.instances[-1].syntax.name if line.instances else line.net.name
        everything = Given(keywords=given)
        if not self.bind(line.net.name.text, line.net.parameters, everything, step, frame, frame):
            return False
        self._note_overrides(line, overridden, frame)
        return not self.session.failed

    def _report(self, code: str, message: str, span: Span, help: Sequence[str] = ()) -> Any:
        return self.session.error(code, message, span, help=help)

    def _overrides(self, line: Family, frame: Frame) -> dict[str, tuple[Any, syntax.Argument]]:
        """The overridden parameters, each as if it stood in the program."""
        open_names = [p.name.text for p in line.free()]
        bound = {p.name.text for p in line.net.parameters} - set(open_names)
        title = line.instances[-1].name if line.instances else line.base.name
        found = {}
        for name, value in self.overrides.items():
            if name in bound:
                self.session.error("E103", f"`{name}` is fixed by `{title}`", None)
            elif name not in open_names:
                known = ", ".join(f"`{n}`" for n in open_names)
                help = did_you_mean(name, open_names) or (
                    (f"its parameters are {known}",) if known else ("it has no parameters",)
                )
                message = f"`{title}` has no parameter `{name}`"
                self.session.error("E103", message, None, help=help)
            else:
                found[name] = self._override(name, value, line)
        return found

    def _override(self, name: str, value: object, line: Family) -> tuple[Any, syntax.Argument]:
        expression = written(name, value)
        home = Frame("", {}, line.base.home, {}, Names())
        result = self.evaluate(expression, home)
        return result, syntax.Argument(expression.span, expression)

    def _note_overrides(
        self, line: Family, given: Mapping[str, tuple[Any, syntax.Argument]], frame: Frame
    ) -> None:
        """Whether an override changes anything."""
        for parameter in line.net.parameters:
            if parameter.name.text in given:
                value = frame.names[parameter.name.text]
                declared = self.evaluate(parameter.default, frame) if parameter.default else POISON
                if type(declared) is not type(value) or declared != value:
                    self.overridden = True

    # -- inputs ------------------------------------------------------------------------------
    def input(self, statement: syntax.Input, frame: Frame) -> None:
        if not frame.is_net:
            super().input(statement, frame)
            return
        given = self._given(statement.arguments, frame)
        first = self._inputs == 0
        self._inputs += 1
        variable = self._variable(statement, given, frame)
        if statement.name is not None:
            frame.names[statement.name.text] = variable
        # With several inputs, a flow begins with the name of one.
        only = variable if first or variable is POISON else None
        frame.received = frame.current = only

    def _variable(self, statement: syntax.Input, given: Given, frame: Frame) -> Any:
        """The variable of an `input`, or POISON."""
        if given.stride is not None:
            message = "`input` takes no stride"
            self.session.error("E106", message, given.stride[1].span, frame)
        for _, argument in given.positional[1:]:
            message = "`input` takes one type"
            self.session.error("E106", message, argument.span, frame)
        if not given.positional:
            help = "for example `input 3@224x224`"
            return self.session.error(
                "E104", "`input` needs a type", statement.span, frame, help=[help]
            )
        value, argument = given.positional[0]
        if isinstance(value, Unbound):
            value = self.unknown(value, frame)
        if value is POISON:
            return POISON
        try:
            type = inputs.input_type(value)
            name = statement.name.text if statement.name else inputs.default_name(type)
            type = inputs.checked_type(self._resized(name, type).shape)
        except Refused as reason:
            return self.session.refuse(reason, argument.span, frame)
        attributes = self._attributes(given, type, frame)
        taken = any(v.name == name for v in self.session.builder.variables)
        if taken:
            help = "an input has a name of its own: `input left: 3@224x224`"
            place = statement.name.span if statement.name else statement.span
            return self.session.error(
                "E105", f"there is already an input `{name}`", place, frame, help=[help]
            )
        variable = self.session.builder.variable(
            name, type, "input", span=argument.span, attributes=attributes
        )
        self.session.origins[variable] = argument.span
        return variable

    def _attributes(
        self, given: Given, type: TensorType, frame: Frame
    ) -> tuple[tuple[str, Any], ...]:
        """The checked preprocessing; class labels are kept for the graph."""
        found = []
        for name, (value, argument) in given.keywords.items():
            if value is POISON:
                continue
            try:
                checked = inputs.preprocessing(name, value, type)
            except Refused as reason:
                unknown = reason.code == "E103" and argument.name is not None
                span = argument.name.span if unknown and argument.name else argument.value.span
                self.session.refuse(reason, span, frame)
                continue
            if name == "labels":
                self.labels_of_classes = checked
            else:
                found.append((name, checked))
        return tuple(found)

    def _resized(self, name: str, declared: TensorType) -> TensorType:
        """The type with the shape that the caller wants, where one does."""
        sizes, shape = self.input_sizes, None
        if isinstance(sizes, Mapping):
            shape = sizes.get(name)
        elif self._inputs <= len(sizes):
            shape = sizes[self._inputs - 1]
        if shape is None:
            return declared
        type = TensorType(tuple(shape))
        self.overridden = self.overridden or type != declared
        return type

    def _check_inputs(self, base: syntax.Net, frame: Frame) -> None:
        """Report a network without inputs, and sizes that belong to no input."""
        names = [v.name for v in self.session.builder.variables if v.role == "input"]
        if self._inputs == 0 and not self.session.failed:
            help = "for example `input 3@224x224`"
            message = f"`{base.name.text}` has no input"
            self.session.error("E104", message, base.name.span, help=[help])
        if isinstance(self.input_sizes, Mapping):
            for name in self.input_sizes:
                if name not in names and not self.session.failed:
                    help_lines = did_you_mean(name, names)
                    message = f"`{frame.title}` has no input called `{name}`"
                    self.session.error("E103", message, None, help=help_lines)
        elif len(self.input_sizes) > self._inputs:
            count = f"{self._inputs} input{'s' if self._inputs != 1 else ''}"
            message = f"`{frame.title}` has {count}, and {len(self.input_sizes)} sizes are given"
            self.session.error("E106", message, None)

    # -- the recipe --------------------------------------------------------------------------
    def train(self, statement: syntax.Train, frame: Frame) -> None:
        if not frame.is_net:
            super().train(statement, frame)
            return
        found = {setting.name: setting for setting in self.recipe}
        for setting in recipes.settings(statement.arguments, self, frame):
            if setting.name in found:
                self.session.error(
                    "E105", f"`{setting.name}` is given twice", setting.name_span, frame
                )
            found.setdefault(setting.name, setting)
        self.recipe = tuple(found.values())

    # -- outputs -----------------------------------------------------------------------------
    def output(self, statement: syntax.Output, frame: Frame) -> None:
        if not frame.is_net:
            super().output(statement, frame)
            return
        line = self.line(statement, frame)
        value = self.evaluated(statement.flow, line, statement.claims, frame)
        self._add_output(statement.name.text, value, statement.name.span, frame)

    def _add_output(self, name: str, value: Any, span: Span, frame: Frame) -> None:
        if name in self._output_names:
            self.session.error("E105", f"there is already an output `{name}`", span, frame)
        self._output_names[name] = span
        if isinstance(value, Value):
            self._outputs.append((name, value))
        elif value is not POISON:
            message = f"an output is a tensor, not {values.kind(value)}"
            self.session.error("E207", message, span, frame)

    def _all_outputs(
        self, base: syntax.Net, result: Yielded | None, frame: Frame
    ) -> list[tuple[str, Value]]:
        """What the network gives: what it yields or ends with, then its named outputs."""
        named, self._outputs = self._outputs, []
        last = base.body.statements[-1] if base.body.statements else None
        if result is not None:
            several = len(result.values) > 1
            flows = last.flows if isinstance(last, syntax.Yield) else ()
            for index, value in enumerate(result.values):
                name = _flow_name(flows[index]) if index < len(flows) and several else ""
                name = name or (f"output{index + 1}" if several else "output")
                self._add_output(name, value, base.name.span, frame)
        elif not self._taken(frame.current, named):
            labelled = isinstance(last, syntax.Layer) and last.label is not None
            name = last.label.text if labelled else "output"  # type: ignore[union-attr]
            parts = frame.current if isinstance(frame.current, tuple | list) else [frame.current]
            for index, value in enumerate(parts):
                suffix = str(index + 1) if len(parts) > 1 else ""
                self._add_output(name + suffix, value, base.name.span, frame)
        return self._outputs + named

    def _taken(self, current: Any, named: list[tuple[str, Value]]) -> bool:
        """Whether named outputs leave nothing of the current value to give."""
        if current is None or current is POISON:
            return True
        if not named:
            return False
        used = any(current in node.inputs for node in self.session.builder.nodes)
        return used or any(current is value for _, value in named)

    # -- the end -----------------------------------------------------------------------------
    def _expectations(self, net: NetValue, frame: Frame) -> None:
        claims = net.syntax.claims
        self.session.expectations += expectations(claims, (), None, self, frame)

    def _warn_unused(self, graph: Graph) -> None:
        """Warn of layers that no output depends on."""
        live = {node.name for node in graph.live()}
        seen: set[int] = set()
        for node in graph.nodes:
            if node.name in live or node.span is None or node.span.start in seen:
                continue
            seen.add(node.span.start)
            message = f"no output depends on `{node.name}`"
            self.session.warn("W101", message, node.span)


def _flow_name(flow: syntax.Flow) -> str:
    """The name of a flow that is nothing but a name."""
    step = flow.steps[0] if len(flow.steps) == 1 else None
    return step.text if isinstance(step, syntax.Name) else ""


def written(name: str, value: object) -> syntax.Expression:
    """A parameter's value as an expression, as if it were written in a program."""
    text = value if isinstance(value, str) else literal(value)
    source = Source(f"<{name}>", f"{name} = {text}\n")
    (item,) = parse(source).items
    assert isinstance(item, syntax.Definition)
    return item.flow.steps[0] if len(item.flow.steps) == 1 else item.flow


def recipe(text: str, option: str) -> tuple[Setting, ...]:
    """The settings of a recipe that stand outside of a program: ``epochs=3, schedule=cosine``.

    Raises CompileError with what is wrong, as standing in ``<option>``.
    """
    items = parse(Source(f"<{option}>", f"net N {{ train {{ {text} }} }}\n")).items
    elaborator = Elaborator(Session())
    frame = Frame("", {}, {}, {}, Names(), is_net=True)
    for item in items:
        assert isinstance(item, syntax.Net)
        for statement in item.body.statements:
            if not isinstance(statement, syntax.Train):
                message = f"`{text}` are no settings of `train`"
                raise CompileError(Diagnostic("E002", message, statement.span))
            elaborator.train(statement, frame)
    if elaborator.session.findings:
        raise CompileError(elaborator.session.findings)
    return elaborator.recipe


def literal(value: object) -> str:
    """A Python value as it is written in the language."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case list() | tuple():
            return f"[{', '.join(map(literal, value))}]"
    raise CompileError(Diagnostic("E201", f"{value!r} is no value of the language"))
