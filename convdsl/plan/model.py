"""The data of a plan: kernels, steps and buffers."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol

from convdsl.graph.types import Shape
from convdsl.ops.families import Family, Nest

ITEM_SIZE = {"float32": 4, "int64": 8, "float16": 2, "bfloat16": 2}
"""Bytes of an element."""


@dataclass(frozen=True)
class Kernel:
    """The source of a compiled function, keyed by what it computes and not by where it is used.

    ``pointers`` are its buffers with their element types, ``sizes`` the integers after them. The
    ``source`` is a Python function of the kernel's name.
    """

    name: str
    pointers: tuple[tuple[str, str], ...]
    sizes: tuple[str, ...]
    source: str
    options: tuple[str, ...] = ()
    """The floating-point liberties its arithmetic may take: LLVM fast-math flags."""
    threads: int = 0
    """Threads of a block, where the target has blocks; else 0."""

    @cached_property
    def key(self) -> str:
        """A hash of everything that decides the compiled code."""
        block = (f"{self.threads} threads",) if self.threads else ()
        text = "\n".join((self.name, *self.options, *block, self.source))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Call:
    """One launch of a kernel within a recipe.

    ``operands`` name the kernel's buffers: ``in0``, ``in1``, …, ``out``, or a temporary of the
    recipe. ``work`` is the number of independent units it can be split into (on a GPU the blocks of
    its grid), ``cost`` a rough count of operations, on vectors where the kernel works on them.
    """

    kernel: Kernel
    operands: tuple[str, ...]
    sizes: tuple[int, ...]
    work: int
    cost: int


@dataclass(frozen=True)
class Recipe:
    """How a target computes a family: calls in order, and the temporaries between them."""

    calls: tuple[Call, ...]
    temporaries: tuple[tuple[str, int] | tuple[str, int, str], ...] = ()
    """Name, number of elements, and their type where it is not float32."""
    reason: str = ""
    """Why this way, for people who read plans."""


@dataclass(frozen=True)
class Stored(Family):
    """A family whose operands a target that stores in 16 bits may keep so.

    Kernels compute in float32: what they read is exact, what they store is rounded.
    """

    family: Family
    dtypes: tuple[str, ...]
    """The element types of the inputs, the tables among them, and last of the result."""
    constant: tuple[bool, ...] = ()
    """Whether an input depends on parameters alone, and these do not change; no word of any means
    that none does."""

    def nest(self) -> Nest:
        return self.family.nest()


RESULT = -1
"""The number of the result among a family's operands."""


@dataclass(frozen=True)
class Images:
    """How far from one another images of operands lie that are parts of larger feature maps."""

    elements: tuple[int, ...] = ()
    """Per input, and last for the result; 0 where images are one behind the other."""
    gaps: tuple[int, ...] = ()
    """Likewise, how many elements of others lie between two images."""
    count: int = 1
    """How many images there are."""

    def blocks(self, operand: int, size: int) -> int:
        """How many blocks of so many elements apart; 0 where images are one behind the other."""
        return self.elements[operand] // size if self.elements else 0

    def gap(self, operand: int) -> int:
        """How many elements lie between two images of an operand."""
        return self.gaps[operand] if self.gaps else 0


CONTIGUOUS = Images()
"""Those of operands that are no parts."""


@dataclass(frozen=True)
class Placed(Family):
    """A family some of whose feature maps are parts of larger ones."""

    family: Family
    images: Images

    def nest(self) -> Nest:
        return self.family.nest()


class Target(Protocol):
    """A device that kernels are generated for."""

    @property
    def name(self) -> str:
        """Its name on the command line."""

    @property
    def lanes(self) -> int:
        """How many channels its kernels want side by side; 1 for plain feature maps."""

    @property
    def threads(self) -> int:
        """Into how many parts the work of a step is split at most."""

    @property
    def grain(self) -> int:
        """At multiples of how many elements its kernels want parts of feature maps to begin."""

    @property
    def storage(self) -> str:
        """The element type of feature maps between kernels."""

    def recipe(self, family: Family) -> Recipe:
        """How it computes a family."""

    def takes_part(self, family: Family, operand: int, batch: int) -> bool:
        """Whether it computes a family with that operand as a part of a larger feature map.

        The operand is the number of an input or `RESULT`. Parts begin wherever a channel, or a
        block of them, does, at a multiple of `grain`; those of several images are `Placed`.
        """


Place = Literal["arena", "constant", "variable", "input"]


@dataclass(frozen=True)
class Buffer:
    """A piece of memory.

    ``arena`` buffers lie at ``offset`` bytes in memory that is reused through a run; ``constant``
    ones, computed from parameters alone, in memory that is kept; ``variable`` and ``input`` ones
    belong to the variable called ``name``. Of a feature map that is a part of a larger one, images
    lie ``image`` elements apart; else that is 0.
    """

    name: str
    place: Place
    elements: int
    dtype: str = "float32"
    offset: int = 0
    image: int = 0

    @property
    def bytes(self) -> int:
        return self.elements * ITEM_SIZE[self.dtype]

    def spanned(self, batch: int) -> Buffer:
        """The memory from its first element to its last, with what lies between its images."""
        between = self.image and self.image - self.elements // batch
        return replace(self, elements=self.elements + (batch - 1) * between, image=0)


@dataclass(frozen=True)
class Free:
    """A node that takes no step, for people who read plans; it stands ``before`` a step's index."""

    name: str
    before: int
    buffer: Buffer
    reason: str


@dataclass(frozen=True)
class Step:
    """A kernel on buffers: one entry of the program."""

    name: str
    kernel: Kernel
    buffers: tuple[Buffer, ...]
    sizes: tuple[int, ...]
    work: int
    cost: int
    flops: int
    reason: str = ""
    exchanged: bool = False
    """Whether what it writes gives way to its mean over the processes that train together."""


@dataclass(frozen=True)
class Port:
    """A named array that goes in or comes out, with its full shape."""

    name: str
    buffer: Buffer
    shape: Shape
    dtype: str = "float32"
    role: str = "input"

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Plan:
    """Everything that runs.

    ``prepare`` runs once after parameters change, ``steps`` at every call: the first ``forward`` of
    them for the outputs; the first ``shared`` of those and all after ``forward`` to update
    variables, with the first two outputs, loss and prediction, on the way.
    """

    network: str
    target: str
    threads: int
    batch: int
    variables: tuple[Port, ...]
    outputs: tuple[Port, ...]
    prepare: tuple[Step, ...]
    steps: tuple[Step, ...]
    shared: int
    forward: int
    tables: tuple[tuple[Buffer, tuple[float, ...]], ...]
    """Constant arrays to fill in before anything runs."""
    arena_bytes: int
    constant_bytes: int
    live_bytes: int
    """The largest sum of buffers that are needed at the same time: what memory cannot go below."""
    free: tuple[Free, ...] = ()

    @cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        """The distinct kernels, in order of first use."""
        return tuple({s.kernel.key: s.kernel for s in (*self.prepare, *self.steps)}.values())
