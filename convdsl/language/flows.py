"""Evaluates flows: ops applied to tensors become nodes of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convdsl.diagnostics import Note, Span, did_you_mean
from convdsl.graph import TensorType, Value
from convdsl.language import syntax, values
from convdsl.language.expressions import MISSING, Expressions
from convdsl.language.session import LARGEST_TENSOR, Frame
from convdsl.language.values import FUNCTIONS, POISON, BlockValue, Refused, Unbound
from convdsl.ops import Op, Problem, lookup, registry
from convdsl.ops.attributes import Arguments, Bank, Count, Extents, Real, Word, attributes, bind

Target = BlockValue | type[Op]


@dataclass(frozen=True)
class Given:
    """The evaluated arguments of an application, each with its place in the text."""

    positional: tuple[tuple[Any, syntax.Argument], ...] = ()
    keywords: Mapping[str, tuple[Any, syntax.Argument]] = field(default_factory=dict)
    stride: tuple[Any, syntax.Argument] | None = None

    @property
    def failed(self) -> bool:
        return any(value is POISON for value, _ in self.all())

    def all(self) -> list[tuple[Any, syntax.Argument]]:
        stride = [self.stride] if self.stride else []
        return [*self.positional, *self.keywords.values(), *stride]


class Flows(Expressions):
    """Evaluates everything but statements; the bodies of blocks are left to what extends this."""

    def call_block(
        self, block: BlockValue, given: Given, step: syntax.Expression, frame: Frame
    ) -> Any:
        raise NotImplementedError

    # -- steps -------------------------------------------------------------------------------
    def flow(self, flow: syntax.Flow, frame: Frame, first: bool = True) -> Any:
        """The value at the end of a flow that starts from the current one.

        Where it is not ``first``, an arrow leads into it, and it cannot begin with a value.
        """
        value = self.step(flow.steps[0], frame, first)
        outer = frame.current
        for step in flow.steps[1:]:
            frame.current = value
            try:
                value = self.step(step, frame, first=False)
            finally:
                frame.current = outer
        return value

    def step(self, step: syntax.Expression, frame: Frame, first: bool) -> Any:
        """One step; the current value is what flows into it."""
        self.session.tick(step.span, frame)
        match step:
            case syntax.Name():
                return self._bare(step, frame, first)
            case syntax.Application():
                return self._apply(step, frame, first)
            case syntax.Flow():
                return self.flow(step, frame, first)
            case syntax.Conditional():
                condition = self.condition(step.condition, frame)
                if condition is POISON:
                    return POISON
                return self.step(step.then if condition else step.otherwise, frame, first)
        value = self.evaluate(step, frame)
        if isinstance(value, Unbound | BlockValue):
            target = self._target(value)
            if target is None:
                assert isinstance(value, Unbound)
                return self._unknown_target(value.name, value.span, frame)
            return self._applied(target, Given(), step, frame, first)
        if first or value is POISON:
            return value
        return self._not_a_target(step, value, frame)

    def application(self, step: syntax.Application, frame: Frame) -> Any:
        return self._apply(step, frame, first=True)

    def _bare(self, name: syntax.Name, frame: Frame, first: bool) -> Any:
        """A name alone: an op, a block, or at the beginning a value."""
        found = self.lookup(name.text, frame)
        target = self._target(found) if found is not MISSING else None
        if target is None and (found is MISSING or not first):
            target = lookup(name.text)
        if target is not None:
            return self._applied(target, Given(), name, frame, first)
        if found is POISON:
            return POISON
        if found is MISSING:
            what = "op, block or value" if first else "op or block"
            return self._unknown_target(name.text, name.span, frame, what)
        if isinstance(found, Unbound):
            return self._unknown_target(found.name, found.span, frame)
        return found if first else self._not_a_target(name, found, frame)

    def _target(self, value: Any) -> Target | None:
        """What a value applies, if it can be applied."""
        if isinstance(value, BlockValue):
            return value
        return lookup(value.name) if isinstance(value, Unbound) else None

    def _unknown_target(
        self, name: str, span: Span, frame: Frame, what: str = "op or block"
    ) -> Any:
        blocks = [k for k, v in frame.home.items() if isinstance(v, BlockValue)]
        known = [*registry(), *blocks, *frame.names]
        help = did_you_mean(name, known)
        message = f"there is no {what} called `{name}`"
        return self.session.error("E102", message, span, frame, help=help)

    def _not_a_target(self, step: syntax.Expression, value: Any, frame: Frame) -> Any:
        return self.session.error(
            "E106",
            f"an arrow leads into an op or a block, not into {values.kind(value)}",
            step.span,
            frame,
            help=["a value stands at the beginning of a flow"],
        )

    # -- applications ------------------------------------------------------------------------
    def _apply(self, step: syntax.Application, frame: Frame, first: bool) -> Any:
        found = self.lookup(step.name.text, frame)
        target = self._target(found) if found is not MISSING else None
        given = self._given(step.arguments, frame)
        if target is None and step.called and self._is_function(step.name.text, given):
            return self._call_function(step, given, frame)
        # Where something is applied, values of the same name are passed over.
        target = target or lookup(step.name.text)
        if target is not None:
            return self._applied(target, given, step, frame, first)
        if found is MISSING:
            return self._unknown_target(step.name.text, step.name.span, frame)
        if found is POISON:
            return POISON
        if isinstance(found, Unbound):
            return self._unknown_target(found.name, found.span, frame)
        message = f"`{step.name.text}` is {values.kind(found)} and takes no arguments"
        help = "a difference has a space on both sides of its minus: `a - b`"
        subtracts = any(isinstance(a.value, syntax.Unary) for a in step.arguments)
        return self.session.error(
            "E106", message, step.name.span, frame, help=[help] if subtracts else []
        )

    def _given(self, arguments: Sequence[syntax.Argument], frame: Frame) -> Given:
        """The arguments, evaluated from left to right."""
        positional: list[tuple[Any, syntax.Argument]] = []
        keywords: dict[str, tuple[Any, syntax.Argument]] = {}
        stride: tuple[Any, syntax.Argument] | None = None
        for argument in arguments:
            value = self.evaluate(argument.value, frame)
            if argument.name is not None:
                if argument.name.text in keywords:
                    message = f"`{argument.name.text}` is given twice"
                    value = self.session.error("E105", message, argument.name.span, frame)
                keywords[argument.name.text] = value, argument
            elif argument.stride:
                if stride is not None:
                    message = "the stride is given twice"
                    value = self.session.error("E105", message, argument.span, frame)
                if isinstance(value, Unbound):
                    value = self.unknown(value, frame)
                stride = value, argument
            else:
                positional.append((value, argument))
        return Given(tuple(positional), keywords, stride)

    def _applied(
        self, target: Target, given: Given, step: syntax.Expression, frame: Frame, first: bool
    ) -> Any:
        if isinstance(target, BlockValue):
            return self.call_block(target, given, step, frame)
        return self._op(target, given, step, frame, first)

    @staticmethod
    def _is_function(name: str, given: Given) -> bool:
        """Whether a call means the function of numbers and not the op of the same name."""
        if name not in FUNCTIONS or lookup(name) is None:
            return name in FUNCTIONS
        if given.keywords:
            return False
        arguments = [value for value, _ in given.positional]
        if any(isinstance(v, Value) for v in arguments):
            return False
        return len(arguments) > 1 or any(isinstance(v, list) for v in arguments)

    def _call_function(self, step: syntax.Application, given: Given, frame: Frame) -> Any:
        for name, (_, argument) in given.keywords.items():
            message = f"`{step.name.text}` has no parameter `{name}`"
            return self.session.error("E103", message, argument.span, frame)
        arguments = [
            self.unknown(value, frame) if isinstance(value, Unbound) else value
            for value, _ in given.positional
        ]
        if any(value is POISON for value in arguments):
            return POISON
        try:
            return FUNCTIONS[step.name.text](*arguments)
        except Refused as reason:
            return self.session.refuse(reason, step.span, frame)

    # -- ops ---------------------------------------------------------------------------------
    def _op(
        self, op: type[Op], given: Given, step: syntax.Expression, frame: Frame, first: bool
    ) -> Any:
        data, given = self._data(op, given, step, frame, first)
        if given.failed or any(value is POISON for value in data):
            return self._known_attributes(op, given, frame)
        if not self._count_fits(op, data, step, frame):
            return POISON
        defaults = {k: v for k, (v, _) in frame.defaults.get(op.kind, {}).items()}
        arguments = Arguments(
            tuple(_plain(v) for v, _ in given.positional),
            {k: _plain(v) for k, (v, _) in given.keywords.items()},
            _plain(given.stride[0]) if given.stride else None,
            defaults,
        )
        try:
            made = bind(op, arguments, [v.type for v in data])
            return self._node(made, data, step, frame)
        except Problem as problem:
            return self._explain(problem, op, given, data, step, frame)

    def _known_attributes(self, op: type[Op], given: Given, frame: Frame) -> Any:
        """Report unknown attributes, which needs no input; returns POISON."""
        known = attributes(op)
        for name, (_, argument) in given.keywords.items():
            if name not in known and argument.name is not None:
                message, help = f"`{op.kind}` has no attribute `{name}`", did_you_mean(name, known)
                self.session.error("E103", message, argument.name.span, frame, help=help)
        return POISON

    def _data(
        self, op: type[Op], given: Given, step: syntax.Expression, frame: Frame, first: bool
    ) -> tuple[list[Any], Given]:
        """The tensors an op is applied to, and the arguments that are left.

        At the beginning of a flow, tensors among the arguments take the place of the current
        value, unless the op needs more of them; behind an arrow they come after it.
        """
        data: list[Any] = []
        rest = []
        for value, argument in given.positional:
            if op.arity != 1 and self._target(value) is not None:
                value = self.step(argument.value, frame, first=True)
            if isinstance(value, Value):
                data.append(value)
            elif isinstance(value, list) and value and all(isinstance(v, Value) for v in value):
                data += value
            else:
                rest.append((value, argument))
        least = 2 if op.arity is None else op.arity
        if not first or not data or len(data) < least:
            data.insert(0, self._current(op.kind, step, frame))
        return data, Given(tuple(rest), given.keywords, given.stride)

    def _current(self, what: str, step: syntax.Expression, frame: Frame) -> Any:
        """The tensor that flows in."""
        value = frame.current
        if value is None:
            message = f"nothing flows into `{what}` yet"
            frame.current = POISON  # said once
            return self.session.error(
                "E104", message, step.span, frame, help=self._how_to_begin(frame)
            )
        if value is POISON or isinstance(value, Value):
            return value
        if isinstance(value, tuple | list):
            message = f"`{what}` takes one tensor, and {len(value)} values flow into it"
            help = ["give them names: `a, b = ...`"]
            return self.session.error("E206", message, step.span, frame, help=help)
        message = f"`{what}` takes a tensor, not {values.kind(value)}"
        return self.session.error("E207", message, step.span, frame)

    def _how_to_begin(self, frame: Frame) -> list[str]:
        names = [v.name for v in self.session.builder.variables if v.role == "input"]
        if names:
            return [f"with several inputs, begin with the name of one: `{names[0]} -> ...`"]
        return ["a network begins with its input, such as `input 3@224x224`"]

    def _count_fits(
        self, op: type[Op], data: list[Value], step: syntax.Expression, frame: Frame
    ) -> bool:
        if len(data) == op.arity or (op.arity is None and len(data) > 1):
            return True
        needs = "two inputs or more" if op.arity is None else _inputs(op.arity)
        example = [f"for example `{op.samples[0].text}`"] if op.samples else []
        message = f"`{op.kind}` takes {needs}, not {len(data)}"
        self.session.error("E206", message, _place(step), frame, help=example)
        return False

    def _node(self, op: Op, data: list[Value], step: syntax.Expression, frame: Frame) -> Any:
        """Add the node with its weights; the op's first result, or all of several."""
        session, types = self.session, [v.type for v in data]
        results = op.infer(*types)
        weights = op.weights(*types)
        for type in (*results, *(TensorType(w.shape) for w in weights)):
            if type.size > LARGEST_TENSOR:
                message = f"`{op.kind}` makes a tensor of {type.size:,} elements"
                raise Problem("E401", message, "a tensor has at most 2^31")
        session.count_node(step.span, frame)
        line = frame.line
        _, name = line.name(op.kind, step)
        name = session.builder.unique(name)
        owned = [
            session.builder.variable(
                f"{name}.{w.name}", TensorType(w.shape, batched=False), w.role, w.initialiser
            )
            for w in weights
        ]
        session.builder.release(name)
        line.statement = line.statement or name
        node = session.builder.apply(
            op,
            (*data, *owned),
            name=name,
            path=frame.path,
            span=step.span,
            documentation=line.take_documentation(),
            statement=line.statement,
        )
        for value in node.outputs:
            session.origins[value] = step.span
        return node.outputs[0] if len(node.outputs) == 1 else node.outputs

    def combine(self, op: str, step: syntax.Expression, data: list[Value], frame: Frame) -> Any:
        """An op that an operator on tensors stands for."""
        made = lookup(op)
        assert made is not None, op
        try:
            return self._node(bind(made, Arguments(), [v.type for v in data]), data, step, frame)
        except Problem as problem:
            return self._explain(problem, made, Given(), data, step, frame)

    # -- what went wrong ---------------------------------------------------------------------
    def _explain(
        self,
        problem: Problem,
        op: type[Op],
        given: Given,
        data: Sequence[Value],
        step: syntax.Expression,
        frame: Frame,
    ) -> Any:
        """Report what an op refused, at the argument that is to blame."""
        session = self.session
        forgotten = next((v for v, _ in given.positional if self._is_word_for_op(v, frame)), None)
        if forgotten is not None and problem.code in ("E106", "E201", "E105"):
            return session.error(
                "E106",
                f"`{forgotten.name}` stands where an argument of `{op.kind}` would",
                forgotten.span,
                frame,
                help=[f"an arrow leads into an op: `-> {forgotten.name}`"],
            )
        value, span = _culprit(problem, op, given, frame)
        declared = attributes(op).get(problem.attribute or "")
        if isinstance(value, Unbound) and declared and isinstance(declared.kind, Count | Real):
            return self.unknown(value, frame)
        notes = []
        if problem.code in ("E202", "E203", "E204", "E205"):
            for tensor in dict.fromkeys(data):
                origin = session.origins.get(tensor)
                notes.append(Note(f"the input {tensor.type} comes from here", origin))
        return session.error(
            problem.code,
            problem.message,
            span or _place(step),
            frame,
            help=problem.help,
            notes=notes,
        )

    def _is_word_for_op(self, value: Any, frame: Frame) -> bool:
        return isinstance(value, Unbound) and lookup(value.name) is not None


def _culprit(problem: Problem, op: type[Op], given: Given, frame: Frame) -> tuple[Any, Span | None]:
    """The argument a problem speaks of: its value and its place."""
    name = problem.attribute
    if name is None:
        if problem.code != "E106":
            return None, None
        extra = given.stride or (given.positional[-1] if given.positional else None)
        return (None, extra[1].span) if extra else (None, None)
    if name in given.keywords:
        value, argument = given.keywords[name]
        unknown = problem.code == "E103" and argument.name is not None
        return value, argument.name.span if unknown and argument.name else argument.value.span
    declared = attributes(op).get(name)
    notation = declared.notation if declared else None
    if notation == "stride" and given.stride:
        return given.stride[0], given.stride[1].value.span
    for value, argument in given.positional:
        written = argument.value
        if isinstance(value, Bank) and notation in ("filters", "window"):
            if not isinstance(written, syntax.Bank):
                return value, written.span
            part = written.filters if notation == "filters" else written.window
            return getattr(value, notation), part.span
        if notation == "window" and isinstance(value, Extents):
            return value, written.span
        if notation in ("value", "window", "filters"):
            return value, written.span
    inherited = frame.defaults.get(op.kind, {}).get(name)
    return (inherited[0], inherited[1].value.span) if inherited else (None, None)


def _place(step: syntax.Expression) -> Span:
    """Where an application as a whole is at fault: its name."""
    if isinstance(step, syntax.Application) and not step.called:
        return step.name.span
    return step.span


def _plain(value: Any) -> Any:
    """A value as ops take it."""
    if isinstance(value, Unbound):
        return Word(value.name)
    if isinstance(value, BlockValue):
        return Word(value.name)
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    return value


def _inputs(count: int) -> str:
    return "one input" if count == 1 else f"{count} inputs"
