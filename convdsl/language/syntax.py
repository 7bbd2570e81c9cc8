"""The syntax tree of a `.cnn` file: what was written, with the place of every part."""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.diagnostics import Source, Span


@dataclass(frozen=True)
class Node:
    """A part of the program and where it stands."""

    span: Span


# -- values ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number(Node):
    """``10``, ``0.5``, ``1_000``, ``60M``; ``text`` as written."""

    value: int | float
    text: str


@dataclass(frozen=True)
class String(Node):
    """Text in double quotes, or in three of them over several lines."""

    value: str


@dataclass(frozen=True)
class Size(Node):
    """``3x5``."""

    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Computed(Node):
    """``(a)x(b)``: a size whose parts are expressions."""

    sizes: tuple[Expression, ...]


@dataclass(frozen=True)
class Name(Node):
    """A name: of a value, a block, an op, or a word that an attribute knows."""

    text: str


@dataclass(frozen=True)
class In(Node):
    """``in``: what a block or a network receives."""


@dataclass(frozen=True)
class List(Node):
    items: tuple[Expression, ...]


@dataclass(frozen=True)
class Tuple(Node):
    items: tuple[Expression, ...]


@dataclass(frozen=True)
class Unary(Node):
    """``-x`` and ``not x``."""

    operator: str
    operand: Expression


@dataclass(frozen=True)
class Binary(Node):
    """Arithmetic, ``and`` and ``or``."""

    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True)
class Comparison(Node):
    """``a < b == c``: every operand compared with the next."""

    operands: tuple[Expression, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True)
class Conditional(Node):
    """``then if condition else otherwise``."""

    then: Expression
    condition: Expression
    otherwise: Expression


@dataclass(frozen=True)
class Index(Node):
    value: Expression
    index: Expression


@dataclass(frozen=True)
class Member(Node):
    """``x.c``."""

    value: Expression
    name: Name


@dataclass(frozen=True)
class Range(Node):
    """``low..high``."""

    low: Expression
    high: Expression


@dataclass(frozen=True)
class Predicate(Node):
    """``(source, destination) => condition``."""

    parameters: tuple[Name, ...]
    body: Expression


@dataclass(frozen=True)
class Bank(Node):
    """``filters@window``; also a shape, ``channels@spatial``."""

    filters: Expression
    window: Expression


@dataclass(frozen=True)
class Argument(Node):
    """One argument: plain, ``name=value``, or a stride (``/value``)."""

    value: Expression
    name: Name | None = None
    stride: bool = False


@dataclass(frozen=True)
class Application(Node):
    """A name with arguments: ``conv 6@5x5 /2``, or called: ``unit(64, s=2)``."""

    name: Name
    arguments: tuple[Argument, ...]
    called: bool = False


@dataclass(frozen=True)
class Flow(Node):
    """Steps from left to right, each taking what the one before gave; one step is its value."""

    steps: tuple[Expression, ...]
    parenthesised: bool = False


Expression = (
    Number
    | String
    | Size
    | Computed
    | Name
    | In
    | List
    | Tuple
    | Unary
    | Binary
    | Comparison
    | Conditional
    | Index
    | Member
    | Range
    | Predicate
    | Bank
    | Application
    | Flow
)

# -- statements ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim(Node):
    """One item after ``expect``: a quantity, or a shape (``quantity`` is then "shape")."""

    quantity: Name | None
    relation: str
    value: Expression


@dataclass(frozen=True)
class Statement(Node):
    """A line of a body; ``documentation`` are the ``##`` comments before it."""

    documentation: str


@dataclass(frozen=True)
class Input(Statement):
    name: Name | None
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class Layer(Statement):
    """A flow whose result becomes the current value, perhaps with a label."""

    label: Name | None
    flow: Flow
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Definition(Statement):
    """``name = flow``: names a value and leaves the current one."""

    names: tuple[Name, ...]
    flow: Flow
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Output(Statement):
    """``output name: flow``: one more output of the network."""

    name: Name
    flow: Flow
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Yield(Statement):
    flows: tuple[Flow, ...]
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Default(Statement):
    """``default op { name=value, ... }``."""

    op: Name
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class Train(Statement):
    """``train { name=value, ... }``: how the network is trained."""

    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class Body(Node):
    """What stands between braces."""

    statements: tuple[BodyStatement, ...]


@dataclass(frozen=True)
class For(Statement):
    variable: Name
    values: Expression
    body: Body


@dataclass(frozen=True)
class If(Statement):
    condition: Expression
    then: Body
    otherwise: Body | If | None = None


BodyStatement = Input | Layer | Definition | Output | Yield | Default | Train | For | If

# -- the file --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Type(Node):
    """The type of a parameter: ``int``, ``block``, ``int[4]``, ``int[]``."""

    name: str
    list: bool = False
    count: int | None = None


@dataclass(frozen=True)
class Parameter(Node):
    name: Name
    type: Type | None = None
    default: Expression | None = None


@dataclass(frozen=True)
class Version(Statement):
    number: Number


@dataclass(frozen=True)
class Import(Statement):
    path: String


@dataclass(frozen=True)
class Block(Statement):
    name: Name
    parameters: tuple[Parameter, ...]
    body: Body


@dataclass(frozen=True)
class Net(Statement):
    name: Name
    parameters: tuple[Parameter, ...]
    body: Body
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Instance(Statement):
    """``net Name = Base(arguments)``."""

    name: Name
    base: Name
    arguments: tuple[Argument, ...]
    claims: tuple[Claim, ...] = ()


Item = Version | Import | Default | Definition | Block | Net | Instance


@dataclass(frozen=True)
class Comment(Node):
    """A comment with its ``#``; ``alone`` when nothing stands before it on its line."""

    alone: bool

    @property
    def documents(self) -> bool:
        return self.span.text.startswith("##")


@dataclass(frozen=True)
class File:
    """A whole file."""

    source: Source
    items: tuple[Item, ...]
    comments: tuple[Comment, ...] = ()
