"""A network as people embed it: loaded from a name, a file or text, then looked at or compiled."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from convdsl.diagnostics import Diagnostic, Source, did_you_mean, problem
from convdsl.graph import Expectation, Graph, Setting

if TYPE_CHECKING:
    from convdsl.language.syntax import File
    from convdsl.ops.losses import Loss
    from convdsl.runtime.program import Program
    from convdsl.views.summary import Summary

InputSizes = Sequence[tuple[int, ...]] | Mapping[str, tuple[int, ...]]


class Network:
    """A typed graph with what its program says about it.

    Made by `load` and `load_source`; nothing is compiled, and numba is not imported, before
    `compile`.
    """

    def __init__(
        self,
        file: File,
        name: str | None = None,
        parameters: Mapping[str, object] | None = None,
        input_sizes: InputSizes = (),
    ) -> None:
        from convdsl.language import elaborate

        self.file = file
        self._parameters = dict(parameters or {})
        self._input_sizes = input_sizes
        elaborated = elaborate(file, name, self._parameters, input_sizes)
        self.graph: Graph = elaborated.graph
        self.expectations: tuple[Expectation, ...] = elaborated.expectations
        self.overridden: bool = elaborated.overridden
        self.recipe: tuple[Setting, ...] = elaborated.recipe
        self.warnings: tuple[Diagnostic, ...] = tuple(elaborated.warnings)

    @property
    def name(self) -> str:
        """The name in the program."""
        return self.graph.name

    @property
    def params(self) -> int:
        """The number of learned values."""
        return sum(p.type.size for p in self.graph.parameters)

    def verify(self) -> tuple[Diagnostic, ...]:
        """The expectations that do not hold; none where parameters were overridden."""
        from convdsl.analysis import verify

        return () if self.overridden else verify(self.graph, self.expectations)

    def summary(self, batch: int = 1) -> Summary:
        """The paper's table: printed as text, and as JSON or Markdown on request."""
        from convdsl.views.summary import summarise

        return summarise(self.graph, batch)

    def compile(
        self,
        target: str = "cpu",
        batch: int = 1,
        train: bool = False,
        threads: int | None = None,
        loss: str | Loss = "cross_entropy",
        optimizer: object | None = None,
        precision: str = "fp32",
        seed: int = 0,
        recompute: bool = False,
        accuracy: str = "fast",
        processes: int = 1,
    ) -> Program:
        """The program for a target and a batch, with parameters drawn from ``seed``.

        With ``train`` it has `value_and_grad` for the ``loss``, and `step` where an ``optimizer``
        is given (`convdsl.SGD`, `convdsl.Adam`); with ``recompute`` cheap values are computed twice
        instead of kept, for less memory. With the accuracy ``exact`` convolutions are sums of
        products alone; ``fast`` also uses Winograd's algorithm (docs/numerics.md). For several
        ``processes``, each with a batch of its own, batch normalisation takes the statistics of all
        together (docs/training.md). Raises CompileError E5xx where the target is not to be had or
        the loss does not fit.
        """
        from convdsl import compiler

        return compiler.compile(
            self.graph,
            target,
            batch,
            loss if train else None,
            optimizer,
            threads,
            precision,
            seed,
            recompute,
            accuracy,
            processes=processes,
        )

    def to_text(self) -> str:
        """Canonical text of this network alone; loading it gives the same graph."""
        from convdsl.language import to_text

        return to_text(self.file, self.name, self._parameters, self._input_sizes)

    @cached_property
    def _summary_text(self) -> str:
        return str(self.summary())

    def __repr__(self) -> str:
        return self._summary_text

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(self._summary_text)}</pre>"

    def _repr_svg_(self) -> str:
        from convdsl.views.drawing import draw

        return draw([self.graph]).decode()


def load_source(text: str, name: str | None = None, **parameters: object) -> Network:
    """The network of a program text; ``name`` says which, where there are several.

    Keywords override the network's parameters. Raises CompileError with all diagnostics.
    """
    from convdsl.language import parse

    return Network(parse(Source("<text>", text)), name, parameters)


def load(network: str | Path, **parameters: object) -> Network:
    """The network of a bundled name, ``PATH.cnn`` or ``PATH.cnn:NetName``.

    Keywords override the network's parameters. Raises CompileError with all diagnostics.
    """
    path, name = locate(str(network))
    return Network(read(path), name, parameters)


def read(path: Path) -> File:
    """The syntax tree of a file. Raises CompileError E508 where it cannot be read."""
    from convdsl.language import parse

    return parse(Source(str(path), text_of(path)))


def text_of(path: Path) -> str:
    """The text of a file. Raises CompileError E508 where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise problem("E508", f"there is no file {path}") from None
    except IsADirectoryError:
        raise problem("E508", f"{path} is a directory, not a .cnn file") from None
    except UnicodeDecodeError:
        raise problem("E508", f"{path} is not text in UTF-8") from None
    except OSError as reason:
        raise problem("E508", f"{path} cannot be read: {reason.strerror}") from None


def locate(network: str) -> tuple[Path, str | None]:
    """The file of a NETWORK as the command line takes it, and the network's name in it."""
    path, _, name = network.rpartition(":")
    if path and name.isidentifier():
        return Path(path), name
    known = bundled()
    if _folded(network) in known:
        return known[_folded(network)]
    if network.endswith(".cnn") or "/" in network or Path(network).exists():
        return Path(network), None
    names = sorted(name for _, name in known.values())
    raise problem(
        "E509",
        f"there is no bundled network called `{network}`",
        *did_you_mean(network, names),
        "a file is given as PATH.cnn or PATH.cnn:NetName",
    )


@cache
def bundled() -> dict[str, tuple[Path, str]]:
    """The bundled networks: file and name by folded name (underscores, hyphens, case away)."""
    from convdsl import resources

    found = {}
    for path in sorted(resources.networks_directory().glob("*.cnn")):
        text = path.read_text(encoding="utf-8")
        for name, parameters in re.findall(r"^net[ \t]+(\w+)[ \t]*(?:\(([^)]*)\))?", text, re.M):
            # A net with a parameter that has no value is a family, not a network.
            if all("=" in parameter for parameter in parameters.split(",") if parameter.strip()):
                found[_folded(name)] = (path, name)
    return found


def _folded(name: str) -> str:
    return re.sub(r"[_-]", "", name).lower()


__all__: list[str] = [
    "InputSizes",
    "Network",
    "bundled",
    "load",
    "load_source",
    "locate",
    "read",
    "text_of",
]
