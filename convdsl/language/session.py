"""What one elaboration collects: the graph so far, the findings, and how much was evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from convdsl.diagnostics import Diagnostic, Note, Span
from convdsl.graph import Builder, Expectation, Scope, Value
from convdsl.language.naming import Line, Names
from convdsl.language.values import POISON, Defaults

MOST_FINDINGS = 40
MOST_STEPS = 500_000
MOST_NODES = 30_000
DEEPEST_CALL = 64
LARGEST_TENSOR = 1 << 31
"""Elements of any tensor or weight."""


class Located(Protocol):
    """Something that says what is wrong: a `Refused` value or a `Problem` of an op."""

    code: str
    message: str
    help: tuple[str, ...]


class Stop(Exception):
    """Ends the elaboration at once; why has been reported."""


@dataclass
class Frame:
    """A network or an instance of a block while its body is evaluated.

    ``current`` is the value that flows, ``received`` what `in` means; None where there is none.
    """

    title: str
    names: dict[str, Any]
    home: dict[str, Any]
    defaults: Defaults
    naming: Names
    looped: frozenset[int] = frozenset()
    path: tuple[Scope, ...] = ()
    received: Any = None
    current: Any = None
    line: Line = field(default_factory=lambda: Line(Names()))
    caller: Frame | None = None
    call: Span | None = None
    depth: int = 0
    is_net: bool = False
    rounds: int = 1
    """How often the loops around a statement repeat it."""

    def known(self) -> list[str]:
        """The names in scope."""
        return [*self.names, *self.home]

    def chain(self) -> Iterator[Frame]:
        """This frame and its callers, without the network."""
        frame: Frame | None = self
        while frame is not None and frame.call is not None:
            yield frame
            frame = frame.caller


@dataclass
class Session:
    """The state that all parts of an elaboration share."""

    builder: Builder = field(default_factory=Builder)
    findings: list[Diagnostic] = field(default_factory=list)
    expectations: list[Expectation] = field(default_factory=list)
    origins: dict[Value, Span] = field(default_factory=dict)
    """Where values come from."""
    steps: int = 0
    _seen: set[tuple[str, str, int]] = field(default_factory=set)

    # -- findings ----------------------------------------------------------------------------
    @property
    def failed(self) -> bool:
        return any(f.severity == "error" for f in self.findings)

    def error(
        self,
        code: str,
        message: str,
        span: Span | None,
        frame: Frame | None = None,
        *,
        help: Sequence[str] = (),
        notes: Sequence[Note] = (),
    ) -> Any:
        """Report an error, once for a place however often it is evaluated; returns POISON."""
        key = (code, span.source.name, span.start) if span else (code, message, 0)
        if key not in self._seen:
            self._seen.add(key)
            chain = tuple(calls(frame)) if frame else ()
            self.findings.append(
                Diagnostic(code, message, span, (*notes, *chain), tuple(h for h in help if h))
            )
        if len(self.findings) >= MOST_FINDINGS:
            raise Stop
        return POISON

    def refuse(self, reason: Located, span: Span, frame: Frame | None) -> Any:
        """Report what was raised as a `Refused` or a `Problem`; returns POISON."""
        return self.error(reason.code, reason.message, span, frame, help=reason.help)

    def warn(self, code: str, message: str, span: Span | None, *help: str) -> None:
        self.findings.append(Diagnostic(code, message, span, help=help, severity="warning"))

    # -- bounds ------------------------------------------------------------------------------
    def tick(self, span: Span, frame: Frame | None, steps: int = 1) -> None:
        """Count a step of evaluation."""
        self.steps += steps
        if self.steps > MOST_STEPS:
            self.error(
                "E402", f"the program takes more than {MOST_STEPS:,} steps to evaluate", span, frame
            )
            raise Stop

    def count_node(self, span: Span, frame: Frame | None) -> None:
        if len(self.builder.nodes) >= MOST_NODES:
            self.error("E402", f"the network has more than {MOST_NODES:,} layers", span, frame)
            raise Stop


def calls(frame: Frame, most: int = 6) -> Iterator[Note]:
    """The calls that led to a frame, innermost first; the middle of a long chain is left out."""
    chain = list(frame.chain())
    if len(chain) > most:
        half = most // 2
        left_out = len(chain) - most
        shown = [*chain[:half], None, *chain[-half:]]
    else:
        left_out, shown = 0, list(chain)
    for call in shown:
        if call is None:
            yield Note(f"... and {left_out} more calls ...")
        else:
            yield Note(f"in `{call.title}`, called here", call.call)
