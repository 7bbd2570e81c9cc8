"""Evaluates bodies: statement by statement, calls of blocks, loops and conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convdsl.diagnostics import Note, Span, nearest
from convdsl.graph import Scope, Value
from convdsl.language import naming, syntax, values
from convdsl.language.claims import expectations
from convdsl.language.flows import Flows, Given
from convdsl.language.modules import add_defaults
from convdsl.language.naming import Labels, Line, Names
from convdsl.language.parameters import Signature, check_type
from convdsl.language.session import DEEPEST_CALL, Frame, Session, Stop
from convdsl.language.values import LONGEST, POISON, BlockValue, Refused, Unbound
from convdsl.ops import Op, lookup
from convdsl.ops.attributes import Span as Range

CALL = 10
"""Steps that the call of a block counts for."""


@dataclass(frozen=True)
class Yielded:
    """The values of a `yield`, and the label of each where it has one."""

    values: tuple[Any, ...]


class Bodies(Flows):
    """Evaluates everything below the level of a network."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._labels: dict[int, Labels] = {}
        self.called: set[int] = set()
        """The syntax of the blocks that were called, by identity."""

    # -- blocks ------------------------------------------------------------------------------
    def call_block(
        self, block: BlockValue, given: Given, step: syntax.Expression, frame: Frame
    ) -> Any:
        """The value of a block for what flows in: an instance of it."""
        self.session.tick(step.span, frame, CALL)
        if frame.depth >= DEEPEST_CALL:
            message = f"blocks call each other more than {DEEPEST_CALL} deep"
            help = "a block that calls itself needs an `if` that ends it"
            self.session.error("E403", message, step.span, frame, help=[help])
            raise Stop
        self.called.add(id(block.syntax))
        short, full = frame.line.name(block.name, step)
        labels = self.labels(block.syntax.body)
        inner = Frame(
            f"{block.name}({_arguments(given)})",
            {},
            block.home,
            block.defaults,
            Names(full + ".", labels.names),
            labels.looped,
            (*frame.path, Scope(short, block.name)),
            received=frame.current,
            current=frame.current,
            caller=frame,
            call=step.span,
            depth=frame.depth + 1,
            rounds=frame.rounds,
        )
        if not self.bind(block.name, block.syntax.parameters, given, step, frame, inner):
            return POISON
        result = self.body(block.syntax.body, inner)
        if not frame.line.statement:
            frame.line.statement = full
        if result is None:
            return inner.current
        return result.values[0] if len(result.values) == 1 else result.values

    def bind(
        self,
        name: str,
        parameters: tuple[syntax.Parameter, ...],
        given: Given,
        step: syntax.Expression,
        frame: Frame,
        inner: Frame,
    ) -> bool:
        """Give the parameters their values in the inner frame; False where one has none."""
        signature = Signature(name, parameters)
        failed = False

        def report(code: str, message: str, span: Span, help: Any = ()) -> Any:
            nonlocal failed
            failed = True
            return self.session.error(code, message, span, frame, help=help)

        if given.stride is not None:
            report("E106", f"`{name}` takes no stride after a slash", given.stride[1].span)
        placed = signature.place(given.positional, given.keywords, report)
        for parameter in parameters:
            key = parameter.name.text
            if key in placed:
                value, argument = placed[key]
                inner.names[key] = self.argument(name, parameter, value, argument, frame)
            elif parameter.default is not None:
                value = self.evaluate(parameter.default, inner)
                try:
                    inner.names[key] = check_type(parameter.type, value, f"`{key}` of `{name}`")
                except Refused as reason:
                    inner.names[key] = self.session.refuse(reason, parameter.span, frame)
            else:
                inner.names[key] = POISON
                if not failed:
                    where = step.name.span if isinstance(step, syntax.Application) else step.span
                    report("E104", f"`{name}` needs `{key}`", where, signature.usage())
        return not failed

    def argument(
        self,
        name: str,
        parameter: syntax.Parameter,
        value: Any,
        argument: syntax.Argument,
        frame: Frame,
    ) -> Any:
        """The value for a parameter, checked against its type."""
        key = parameter.name.text
        if isinstance(value, Unbound) and lookup(value.name) is None and _is_typo(value, parameter):
            return self.unknown(value, frame)
        try:
            return check_type(parameter.type, value, f"`{key}` of `{name}`")
        except Refused as reason:
            span = argument.value.span
            if reason.code == "E101" and parameter.type is not None:
                span = parameter.type.span
            return self.session.refuse(reason, span, frame)

    def labels(self, body: syntax.Body) -> Labels:
        """The labels of a body; reports those that occur twice."""
        found = self._labels.get(id(body))
        if found is None:
            found = self._labels[id(body)] = naming.labels(body)
            for again, first in naming.twice(body):
                message = f"the label `{again.text}` is used twice"
                note = Note("it is first used here", first.span)
                self.session.error("E105", message, again.span, notes=[note])
            for statement in naming.unreachable(body):
                message = "nothing behind a `yield` is reached"
                self.session.warn("W102", message, statement.span)
        return found

    # -- statements --------------------------------------------------------------------------
    def body(self, body: syntax.Body, frame: Frame) -> Yielded | None:
        """Evaluate the statements in order; the yielded value where one yields."""
        outer = frame.defaults
        try:
            for statement in body.statements:
                result = self.statement(statement, frame)
                if result is not None:
                    return result
        finally:
            frame.defaults = outer
        return None

    def statement(self, statement: syntax.BodyStatement, frame: Frame) -> Yielded | None:
        self.session.tick(statement.span, frame)
        match statement:
            case syntax.Layer():
                self._layer(statement, frame)
            case syntax.Definition():
                self._definition(statement, frame)
            case syntax.Yield():
                return self._yield(statement, frame)
            case syntax.For():
                return self._for(statement, frame)
            case syntax.If():
                return self._if(statement, frame)
            case syntax.Default():
                frame.defaults = add_defaults(statement, frame.defaults, self, frame)
            case syntax.Train():
                self.train(statement, frame)
            case syntax.Input():
                self.input(statement, frame)
            case syntax.Output():
                self.output(statement, frame)
        return None

    def train(self, statement: syntax.Train, frame: Frame) -> None:
        """A recipe is a matter of networks, which take this over."""
        message = "`train` stands in a network, not in a block"
        self.session.error("E109", message, statement.span, frame)

    def input(self, statement: syntax.Input, frame: Frame) -> None:
        """An `input` statement; blocks have none."""
        help = "what a block receives is `in`; further tensors are parameters"
        message = "`input` stands in a network, not in a block"
        self.session.error("E109", message, statement.span, help=[help])

    def output(self, statement: syntax.Output, frame: Frame) -> None:
        """An `output` statement; blocks have none."""
        message = "`output` stands in a network, not in a block"
        help = "a block gives its values by `yield`"
        self.session.error("E109", message, statement.span, help=[help])

    def evaluated(
        self,
        flow: syntax.Flow,
        line: Line,
        claims: tuple[syntax.Claim, ...],
        frame: Frame,
    ) -> Any:
        """The value of a statement's flow; its expectations are collected."""
        start = len(self.session.builder.nodes)
        frame.line = line
        value = self.flow(flow, frame)
        if claims:
            self.claims(claims, start, value, frame)
        return value

    def claims(
        self, claims: tuple[syntax.Claim, ...], start: int, value: Any, frame: Frame
    ) -> None:
        """Collect what a statement expects of the nodes since ``start`` and of its value."""
        nodes = tuple(n.name for n in self.session.builder.nodes[start:])
        result = value if isinstance(value, Value) else None
        if value is not POISON:
            self.session.expectations += expectations(claims, nodes, result, self, frame)

    def _layer(self, statement: syntax.Layer, frame: Frame) -> None:
        label = statement.label
        line = self.line(statement, frame)
        value = self.evaluated(statement.flow, line, statement.claims, frame)
        if not _flows(value):
            value = self.session.error(
                "E207",
                f"this statement gives {values.kind(value)}, not a tensor",
                statement.flow.span,
                frame,
                help=["to name a value, write `name = ...`"],
            )
        frame.current = value
        if label is not None:
            frame.names[label.text] = value

    def line(self, statement: syntax.Statement, frame: Frame) -> Line:
        """How the nodes of a statement are named."""
        documentation = statement.documentation
        if not isinstance(statement, syntax.Layer) or statement.label is None:
            return Line(frame.naming, documentation=documentation)
        label = statement.label.text
        if statement.label.span.start in frame.looped:
            label = frame.naming.numbered(label)
        full = frame.naming.prefix + label
        owner = self._owner(statement.flow, frame)
        return Line(Names(full + "."), owner, full, documentation, full)

    def _owner(self, flow: syntax.Flow, frame: Frame) -> syntax.Expression | None:
        """The step that a label names: the first that is a block or owns weights, or the first."""
        steps = flow.steps
        while len(steps) == 1 and isinstance(steps[0], syntax.Flow):
            steps = steps[0].steps
        applied = [(s, self._applies(s, frame)) for s in steps]
        for step, target in applied:
            if isinstance(target, BlockValue):
                return step
            if isinstance(target, type) and _owns_weights(target):
                return step
        found = [s for s, target in applied if target is not None]
        return found[0] if found else None

    def _applies(self, step: syntax.Expression, frame: Frame) -> Any:
        """What a step applies: a block, an op's class, an operator's sign, or None."""
        match step:
            case syntax.Name(text=name) | syntax.Application(name=syntax.Name(text=name)):
                found = self.lookup(name, frame)
                if isinstance(found, BlockValue):
                    return found
                if isinstance(found, Unbound):
                    return lookup(found.name)
                is_value = isinstance(step, syntax.Name) and isinstance(found, Value)
                return None if is_value else lookup(name)
            case syntax.Binary():
                return step.operator
        return None

    def _definition(self, statement: syntax.Definition, frame: Frame) -> None:
        value = self.evaluated(statement.flow, self.line(statement, frame), statement.claims, frame)
        if len(statement.names) == 1:
            frame.names[statement.names[0].text] = value
            return
        names = [n.text for n in statement.names]
        if value is not POISON and not (
            isinstance(value, tuple | list) and len(value) == len(names)
        ):
            count = len(value) if isinstance(value, tuple | list) else 1
            value = self.session.error(
                "E206",
                f"{len(names)} names stand before `=`, and {count} values after it",
                statement.names[0].span.to(statement.names[-1].span),
                frame,
            )
        parts = [POISON] * len(names) if value is POISON else value
        frame.names.update(zip(names, parts, strict=True))

    def _yield(self, statement: syntax.Yield, frame: Frame) -> Yielded:
        found: list[Any] = []
        start = len(self.session.builder.nodes)
        for flow in statement.flows:
            value = self.evaluated(flow, self.line(statement, frame), (), frame)
            found += value if isinstance(value, tuple) else [value]
        if statement.claims:
            only = found[0] if len(found) == 1 else None
            self.claims(statement.claims, start, only, frame)
        return Yielded(tuple(found))

    # -- control -----------------------------------------------------------------------------
    def _if(self, statement: syntax.If, frame: Frame) -> Yielded | None:
        frame.line = self.line(statement, frame)
        condition = self.condition(statement.condition, frame)
        if condition is POISON:
            self._poison(naming.branches(statement), frame)
            return None
        if condition:
            return self.body(statement.then, frame)
        if isinstance(statement.otherwise, syntax.If):
            return self.statement(statement.otherwise, frame)
        return self.body(statement.otherwise, frame) if statement.otherwise else None

    def _for(self, statement: syntax.For, frame: Frame) -> Yielded | None:
        frame.line = self.line(statement, frame)
        items = self._items(statement, frame)
        if items is POISON:
            self._poison([statement.body], frame)
            return None
        outer, frame.rounds = frame.rounds, frame.rounds * max(1, len(items))
        if frame.rounds > LONGEST:
            message = f"these loops take {frame.rounds:,} rounds, and the most are {LONGEST:,}"
            self.session.error("E402", message, statement.values.span, frame)
            raise Stop
        for item in items:
            self.session.tick(statement.span, frame)
            frame.names[statement.variable.text] = item
            result = self.body(statement.body, frame)
            if result is not None:
                return result
        frame.rounds = outer
        return None

    def _items(self, statement: syntax.For, frame: Frame) -> Any:
        """What a loop goes over."""
        value = self.known(statement.values, frame)
        if isinstance(value, list) or value is POISON:
            return value
        span = statement.values.span
        if not isinstance(value, Range):
            message = f"a loop goes over a range or a list, not over {values.kind(value)}"
            help = f"for example `0..{value}`" if type(value) is int else "for example `0..4`"
            return self.session.error("E207", message, span, frame, help=[help])
        low, high = value.low, value.high
        if type(low) is not int or type(high) is not int:
            message = "a loop counts in whole numbers"
            return self.session.error("E207", message, span, frame)
        return range(low, high)

    def _poison(self, bodies: Any, frame: Frame) -> None:
        """What bodies that cannot be evaluated would have named is unknown, silently."""
        frame.current = POISON
        for body in bodies:
            for name in _names(body):
                frame.names[name] = POISON


def _names(body: syntax.Body) -> list[str]:
    found: list[str] = []
    for statement in body.statements:
        match statement:
            case syntax.Layer(label=syntax.Name(text=name)):
                found.append(name)
            case syntax.Definition():
                found += [n.text for n in statement.names]
            case syntax.For():
                found += _names(statement.body)
            case syntax.If():
                for branch in naming.branches(statement):
                    found += _names(branch)
    return found


def _flows(value: Any) -> bool:
    """Whether a value can be the current one."""
    if isinstance(value, tuple | list):
        return bool(value) and all(isinstance(v, Value) for v in value)
    return value is POISON or value is None or isinstance(value, Value)


def _arguments(given: Given) -> str:
    shown = [values.show(value) for value, _ in given.positional]
    shown += [f"{name}={values.show(value)}" for name, (value, _) in given.keywords.items()]
    return ", ".join(shown)


def _is_typo(word: Unbound, parameter: syntax.Parameter) -> bool:
    """Whether a word in the place of an argument is more likely a misspelt or unknown name."""
    if parameter.type is not None:
        return parameter.type.name != "word"
    return bool(nearest(word.name, word.known(), 1)) and len(word.name) > 1


def _owns_weights(op: type[Op]) -> bool:
    return op.weights is not Op.weights
