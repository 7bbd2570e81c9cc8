"""The contract of an op: everything the compiler knows about it is stated in its class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from convdsl.graph import Builder, Initialiser, Node, TensorType, Value
from convdsl.graph.graph import Role
from convdsl.graph.types import Shape

if TYPE_CHECKING:
    import numpy as np

    from convdsl.ops.blocks import Blocking
    from convdsl.ops.expressions import Expr
    from convdsl.ops.families import Family


class Problem(Exception):
    """A use of an op that does not fit; the language adds the place in the text.

    ``attribute`` names the attribute at fault, where it is one.
    """

    def __init__(self, code: str, message: str, *help: str, attribute: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.help = help
        self.attribute = attribute


@dataclass(frozen=True)
class Weight:
    """A variable that an op owns; its shape has no batch axis."""

    name: str
    shape: Shape
    initialiser: Initialiser
    role: Role = "parameter"


Extent = int | Fraction


@dataclass(frozen=True)
class Window:
    """How one result element sees the input, per spatial axis (for receptive fields).

    Element o sees [o·stride − offset, … + size): ``size`` is the effective extent, dilation
    included, ``offset`` the padding before. Where elements lie closer than the input's, as after
    upsampling, the numbers are fractions and cover what every element sees. An op that sees
    everything has ``whole`` set.
    """

    size: tuple[Extent, ...] = ()
    stride: tuple[Extent, ...] = ()
    offset: tuple[Extent, ...] = ()
    whole: bool = False


@dataclass(frozen=True)
class Caption:
    """What figures say of an op: the facts that papers give, for each view to put in its words.

    ``window`` and ``filters`` are given where papers write them, ``stride`` where it is not 1,
    ``notes`` for what else a reader needs to know. An op with a ``symbol`` joins its inputs element
    by element and is drawn as that sign.
    """

    name: str
    window: Shape = ()
    filters: int | None = None
    stride: Shape = ()
    notes: tuple[str, ...] = ()
    symbol: str = ""

    def __str__(self) -> str:
        """The words of a box in a figure: ``3×3 conv, 64, /2``, for series ``conv 3, 64, /2``."""
        sizes = times(self.window)
        head = f"{self.name} {sizes}" if len(self.window) == 1 else f"{sizes} {self.name}".strip()
        parts = [head] if self.filters is None else [head, f"{self.filters}"]
        if self.stride:
            parts.append(f"/{times(self.stride)}")
        return ", ".join([*parts, *self.notes])


def times(sizes: Shape) -> str:
    """Sizes as papers print them: ``3×3``."""
    return "×".join(str(size) for size in sizes)


def steps(stride: Shape) -> Shape:
    """A stride as captions have it: empty where it is 1, one number where the axes agree."""
    if all(step == 1 for step in stride):
        return ()
    return stride[:1] if len(set(stride)) == 1 else stride


@dataclass(frozen=True)
class Sample:
    """A use of the op that works, on an input of that type: drives tests and documentation."""

    text: str
    input: str


@dataclass(frozen=True)
class Mistake:
    """A use of the op that is refused, and the diagnostic's code."""

    text: str
    input: str
    code: str


class Op:
    """Base class of all ops. An op is a frozen dataclass whose fields are its attributes.

    An op is either *primitive* (`family` says which kernel family computes it) or *composite*
    (`expand` builds it from others).
    """

    kind: ClassVar[str] = ""
    """Name in the language, or a dotted name for ops that only passes build."""
    category: ClassVar[str] = "other"
    """What it is drawn as: convolution, pooling, dense, activation, normalisation, ..."""
    arity: ClassVar[int | None] = 1
    """How many data inputs it takes; None for any number from two."""
    alias: ClassVar[bool] = False
    """Whether the result is its input's buffer under another shape."""
    spatial: ClassVar[bool] = False
    """Whether its input needs spatial axes."""
    takes_epilogue: ClassVar[bool] = False
    """Whether its family can put its results through an expression before storing them."""
    samples: ClassVar[Sequence[Sample]] = ()
    mistakes: ClassVar[Sequence[Mistake]] = ()
    surface: ClassVar[bool] = False
    """Whether a program can name it."""
    exchanged: ClassVar[bool] = False
    """Whether its result gives way to the mean of those of all processes that train together."""

    # -- shapes ------------------------------------------------------------------------------
    def weights(self, *x: TensorType) -> tuple[Weight, ...]:
        """The variables it owns for data inputs of these types, in definition order."""
        return ()

    def result(self, *x: TensorType) -> TensorType | tuple[TensorType, ...]:
        """The type of its result, or of its results. Raises Problem."""
        raise NotImplementedError(self.kind)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The types of the results for all inputs of a node, weights included."""
        data = inputs if self.arity is None else inputs[: self.arity]
        result = self.result(*data)
        return result if isinstance(result, tuple) else (result,)

    # -- costs, for one image ----------------------------------------------------------------
    def macs(self, *x: TensorType) -> int:
        """Multiply-adds of convolutions and dense layers; zero for every other op."""
        return 0

    def flops(self, *x: TensorType) -> int:
        """Every floating-point operation; an op that does not say is an error."""
        raise NotImplementedError(f"{self.kind} has no rule for counting operations")

    def sees(self, *x: TensorType) -> Window | None:
        """What one result element sees; None where it is the same element alone."""
        return None

    # -- meaning -----------------------------------------------------------------------------
    def evaluate(self, *inputs: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
        """The reference: plain NumPy on arrays with the batch in front."""
        raise NotImplementedError(self.kind)

    def evaluate_for(self, batch: int, *inputs: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
        """`evaluate`, for ops whose result has a batch that no input shows."""
        return self.evaluate(*inputs)

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        """The kernel family that computes it, for full shapes (batch included)."""
        raise NotImplementedError(self.kind)

    def family_for(self, batch: int, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        """`family`, for ops that depend on a batch that no shape shows."""
        return self.family(inputs, outputs)

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...] | None:
        """The op in terms of simpler ones; None for a primitive op."""
        return None

    def pointwise(self, *inputs: TensorType) -> Expr | None:
        """The op as one scalar expression of its inputs' elements x0, x1, …, where it is one."""
        return None

    def in_blocks(self, blocking: Blocking, node: Node) -> tuple[Op, list[Value]] | None:
        """The op that computes the node on feature maps in blocks of channels, and its operands.

        None where the op takes its channels one behind the other; an op that is one scalar
        expression does not care.
        """
        from convdsl.ops.primitive import map_in_blocks

        expression = self.pointwise(*(v.type for v in node.inputs))
        return None if expression is None else map_in_blocks(blocking, node, expression)

    @property
    def composite(self) -> bool:
        """Whether the op is built from others."""
        return type(self).expand is not Op.expand

    @property
    def differentiable(self) -> bool:
        """Whether `gradient` is stated; a composite op without it is expanded first."""
        return type(self).gradient is not Op.gradient

    def specialise(
        self, b: Builder, node: Node, training: bool, processes: int
    ) -> tuple[Value, ...] | None:
        """What the op becomes in inference or in training, where that differs; else None.

        In training ``processes`` is how many have a part of the batch whose statistics are wanted.
        """
        return None

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        """Gradients by each input of the node, as new graph nodes.

        ``dy`` has the gradient of each result, ``needs`` says which inputs' gradients are wanted.
        """
        raise NotImplementedError(f"{self.kind} has no gradient")

    # -- text --------------------------------------------------------------------------------
    def notation(self) -> str:
        """The op as it is written in the language; attributes at their default are left out."""
        from convdsl.ops.attributes import notation

        return notation(self)

    def caption(self, *x: TensorType) -> Caption:
        """What figures say of it, applied to inputs of these types."""
        return Caption(self.notation())

    @classmethod
    def documentation(cls) -> str:
        """The op's page: its docstring."""
        import inspect

        return inspect.getdoc(cls) or ""

    @classmethod
    def attribute_fields(cls) -> tuple[Any, ...]:
        """The dataclass fields that the language can set."""
        return tuple(f for f in fields(cls) if "attribute" in f.metadata)  # type: ignore[arg-type]


OpClass = TypeVar("OpClass", bound=type[Op])

REGISTRY: dict[str, type[Op]] = {}


def op(kind: str) -> Any:
    """Register a class as the op of that name in the language."""

    def register(cls: OpClass) -> OpClass:
        assert kind not in REGISTRY, f"two ops are called {kind}"
        cls.kind = kind
        cls.surface = True
        REGISTRY[kind] = cls
        return cls

    return register


def single(values: Sequence[Value | None]) -> Value:
    """The gradient of the only result, which is known to be wanted."""
    value = values[0]
    assert value is not None
    return value
