"""Scalar expressions: the one place where elementwise mathematics is stated.

From an expression come the CPU and CUDA kernels (`text`), the derivative (`differentiate`), the
count of floating-point operations (`operations`) and the NumPy value (`evaluate`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

Scalar = Literal["float32", "int64", "bool"]


class Expr:
    """Base of all expressions; immutable, compared by structure."""

    dtype: Scalar

    def __add__(self, other: Operand) -> Expr:
        return apply("add", self, other)

    def __radd__(self, other: Operand) -> Expr:
        return apply("add", other, self)

    def __sub__(self, other: Operand) -> Expr:
        return apply("sub", self, other)

    def __rsub__(self, other: Operand) -> Expr:
        return apply("sub", other, self)

    def __mul__(self, other: Operand) -> Expr:
        return apply("mul", self, other)

    def __rmul__(self, other: Operand) -> Expr:
        return apply("mul", other, self)

    def __truediv__(self, other: Operand) -> Expr:
        return apply("div", self, other)

    def __rtruediv__(self, other: Operand) -> Expr:
        return apply("div", other, self)

    def __floordiv__(self, other: Operand) -> Expr:
        return apply("floordiv", self, other)

    def __mod__(self, other: Operand) -> Expr:
        return apply("mod", self, other)

    def __neg__(self) -> Expr:
        return apply("neg", self)


Operand = Expr | float | int


@dataclass(frozen=True)
class Number(Expr):
    """A constant."""

    value: float
    dtype: Scalar = "float32"


@dataclass(frozen=True)
class Symbol(Expr):
    """A named scalar: an operand's element, a loop index or a size."""

    name: str
    dtype: Scalar = "float32"


@dataclass(frozen=True)
class Load(Expr):
    """The element of a buffer at a flat index; only in loop nests."""

    buffer: str
    index: Expr
    dtype: Scalar = "float32"


@dataclass(frozen=True)
class Apply(Expr):
    """A function of other expressions."""

    function: str
    arguments: tuple[Expr, ...]
    dtype: Scalar


@dataclass(frozen=True)
class Function:
    """How a scalar function is written, evaluated and differentiated.

    ``source`` is Python that Numba compiles for both targets, with ``{0}``, ``{1}`` … for the
    arguments; ``partials`` gives the derivative by each argument, or None where it is zero.
    """

    source: str
    numpy: Callable[..., Any]
    partials: Callable[..., tuple[Expr | None, ...]] | None = None
    flops: int = 1
    result: Scalar | None = None


def _numpy() -> Any:
    import numpy

    return numpy


def _erf(x: Any) -> Any:
    numpy = _numpy()
    return numpy.vectorize(math.erf, otypes=[numpy.asarray(x).dtype])(x)


def uniform(key: Any, index: Any) -> Any:
    """Uniform numbers in [0, 1) from a key and a counter, in NumPy.

    The counter is mixed with the key by two rounds of a 32-bit finaliser (xor-shift, multiply);
    the kernels' library has the same function for scalars.
    """
    numpy = _numpy()
    mask = numpy.uint64(0xFFFFFFFF)
    x = (numpy.asarray(index, numpy.uint64) * numpy.uint64(0x9E3779B1)) & mask
    x = x ^ (numpy.asarray(key, numpy.int64).astype(numpy.uint64) & mask)
    for _ in range(2):
        x = ((x ^ (x >> numpy.uint64(16))) * numpy.uint64(0x7FEB352D)) & mask
        x = ((x ^ (x >> numpy.uint64(15))) * numpy.uint64(0x846CA68B)) & mask
        x = x ^ (x >> numpy.uint64(16))
    return ((x >> numpy.uint64(8)).astype(numpy.float32) / numpy.float32(1 << 24)).astype("float32")


def _np(name: str) -> Callable[..., Any]:
    return lambda *arguments: getattr(_numpy(), name)(*arguments)


ZERO: Expr = Number(0.0)
ONE: Expr = Number(1.0)

FUNCTIONS: dict[str, Function] = {
    "add": Function("({0} + {1})", _np("add"), lambda a, b: (ONE, ONE)),
    "sub": Function("({0} - {1})", _np("subtract"), lambda a, b: (ONE, -ONE)),
    "mul": Function("({0} * {1})", _np("multiply"), lambda a, b: (b, a)),
    "div": Function("({0} / {1})", _np("true_divide"), lambda a, b: (ONE / b, -(a / (b * b)))),
    "floordiv": Function("({0} // {1})", _np("floor_divide"), flops=0),
    "mod": Function("({0} % {1})", _np("remainder"), flops=0),
    "neg": Function("(-{0})", _np("negative"), lambda a: (-ONE,)),
    # A NaN in the first argument is kept, as in every framework's relu.
    "maximum": Function(
        "({1} if {0} < {1} else {0})",
        _np("maximum"),
        lambda a, b: (select(less(b, a), ONE, ZERO), select(less(b, a), ZERO, ONE)),
    ),
    "minimum": Function(
        "({1} if {0} > {1} else {0})",
        _np("minimum"),
        lambda a, b: (select(less(a, b), ONE, ZERO), select(less(a, b), ZERO, ONE)),
    ),
    "less": Function("({0} < {1})", _np("less"), result="bool"),
    "less_equal": Function("({0} <= {1})", _np("less_equal"), result="bool"),
    "equal": Function("({0} == {1})", _np("equal"), result="bool"),
    "both": Function("({0} and {1})", _np("logical_and"), flops=0, result="bool"),
    "either": Function("({0} or {1})", _np("logical_or"), flops=0, result="bool"),
    "select": Function("({1} if {0} else {2})", _np("where"), flops=0),
    "cast": Function("float32({0})", lambda x: x * _numpy().float32(1), flops=0, result="float32"),
    "exp": Function("exp({0})", _np("exp"), lambda a: (exp(a),)),
    "logistic": Function(
        "(float32(1.0) / (float32(1.0) + exp(-{0})))",
        lambda a: 1 / (1 + _numpy().exp(-a)),
        lambda a: (logistic(a) * (1.0 - logistic(a)),),
        flops=4,
    ),
    "log": Function("log({0})", _np("log"), lambda a: (ONE / a,)),
    "log1p": Function("log1p({0})", _np("log1p"), lambda a: (ONE / (a + 1.0),)),
    "expm1": Function("expm1({0})", _np("expm1"), lambda a: (exp(a),)),
    "sqrt": Function("sqrt({0})", _np("sqrt"), lambda a: (0.5 / sqrt(a),)),
    "tanh": Function("tanh({0})", _np("tanh"), lambda a: (1.0 - tanh(a) * tanh(a),)),
    "erf": Function("erf({0})", _erf, lambda a: (exp(-(a * a)) * (2.0 / math.sqrt(math.pi)),)),
    "abs": Function(
        "abs({0})",
        _np("absolute"),
        lambda a: (select(less(a, ZERO), -ONE, select(less(ZERO, a), ONE, ZERO)),),
    ),
    "power": Function(
        "({0} ** {1})", _np("power"), lambda a, b: (b * power(a, b - 1.0), power(a, b) * log(a))
    ),
    "uniform": Function("uniform({0}, {1})", uniform, flops=8, result="float32"),
}


def wrap(value: Operand, like: Scalar = "float32") -> Expr:
    """A Python number as an expression of the type of its neighbour."""
    return value if isinstance(value, Expr) else Number(value, like)


def apply(name: str, *arguments: Operand) -> Expr:
    """The application of a function, folded where the result is known without computing."""
    like: Scalar = next((a.dtype for a in arguments if isinstance(a, Expr)), "float32")
    wrapped = tuple(wrap(a, like if like != "bool" else "float32") for a in arguments)
    folded = _fold(name, wrapped)
    if folded is not None:
        return folded
    dtype = FUNCTIONS[name].result or wrapped[-1].dtype
    return Apply(name, wrapped, dtype)


def _fold(name: str, arguments: tuple[Expr, ...]) -> Expr | None:
    def has(position: int, value: float) -> bool:
        argument = arguments[position]
        return isinstance(argument, Number) and argument.value == value

    match name:
        case "add":
            return arguments[1] if has(0, 0) else arguments[0] if has(1, 0) else None
        case "sub" if has(1, 0):
            return arguments[0]
        case "mul":
            if has(0, 0) or has(1, 0):
                return Number(0, arguments[0].dtype)
            return arguments[1] if has(0, 1) else arguments[0] if has(1, 1) else None
        case "div" | "floordiv" if has(1, 1):
            return arguments[0]
        case "neg" if isinstance(arguments[0], Number):
            return Number(-arguments[0].value, arguments[0].dtype)
        case "select" if arguments[1] == arguments[2]:
            return arguments[1]
    return None


def exp(x: Operand) -> Expr:
    return apply("exp", x)


def logistic(x: Operand) -> Expr:
    """1 / (1 + exp(−x)), to which a target may have a shorter way."""
    return apply("logistic", x)


def expm1(x: Operand) -> Expr:
    return apply("expm1", x)


def log(x: Operand) -> Expr:
    return apply("log", x)


def log1p(x: Operand) -> Expr:
    return apply("log1p", x)


def sqrt(x: Operand) -> Expr:
    return apply("sqrt", x)


def tanh(x: Operand) -> Expr:
    return apply("tanh", x)


def erf(x: Operand) -> Expr:
    return apply("erf", x)


def absolute(x: Operand) -> Expr:
    return apply("abs", x)


def power(x: Operand, y: Operand) -> Expr:
    return apply("power", x, y)


def maximum(x: Operand, y: Operand) -> Expr:
    return apply("maximum", x, y)


def minimum(x: Operand, y: Operand) -> Expr:
    return apply("minimum", x, y)


def less(x: Operand, y: Operand) -> Expr:
    return apply("less", x, y)


def less_equal(x: Operand, y: Operand) -> Expr:
    return apply("less_equal", x, y)


def equal(x: Operand, y: Operand) -> Expr:
    return apply("equal", x, y)


def both(*conditions: Expr) -> Expr:
    """True where all conditions are."""
    first, *rest = conditions
    for condition in rest:
        first = apply("both", first, condition)
    return first


def select(condition: Expr, x: Operand, y: Operand) -> Expr:
    """``x`` where the condition holds, else ``y``."""
    return apply("select", condition, x, y)


def cast(x: Expr) -> Expr:
    """An integer as float32."""
    return apply("cast", x)


def random(key: Expr, index: Expr) -> Expr:
    """A uniform number in [0, 1), a function of the key and the counter alone."""
    return apply("uniform", key, index)


@cache
def differentiate(expression: Expr, by: Symbol) -> Expr:
    """The derivative of an expression by one of its symbols.

    At a kink the derivative is the one from the side that the frameworks take: 0 for ``maximum``'s
    first argument where both are equal.
    """
    if expression == by:
        return ONE
    if not isinstance(expression, Apply):
        return ZERO
    if expression.function == "select":
        condition, x, y = expression.arguments
        return select(condition, differentiate(x, by), differentiate(y, by))
    inner = [differentiate(argument, by) for argument in expression.arguments]
    if all(d == ZERO for d in inner):
        return ZERO
    partials = FUNCTIONS[expression.function].partials
    if partials is None:
        return ZERO
    total: Expr = ZERO
    for partial, d in zip(partials(*expression.arguments), inner, strict=True):
        if partial is not None and d != ZERO:
            total = total + partial * d
    return total


@cache
def symbols(expression: Expr) -> frozenset[Symbol]:
    """The symbols an expression reads."""
    if isinstance(expression, Symbol):
        return frozenset({expression})
    if isinstance(expression, Apply):
        return frozenset().union(*(symbols(a) for a in expression.arguments))
    if isinstance(expression, Load):
        return symbols(expression.index)
    return frozenset()


def substitute(expression: Expr, values: Mapping[Symbol, Expr]) -> Expr:
    """The expression with symbols replaced."""
    if isinstance(expression, Symbol):
        return values.get(expression, expression)
    if isinstance(expression, Apply):
        return apply(expression.function, *(substitute(a, values) for a in expression.arguments))
    if isinstance(expression, Load):
        return Load(expression.buffer, substitute(expression.index, values), expression.dtype)
    return expression


def shifted(expression: Expr, by: Mapping[str, Expr]) -> Expr:
    """The expression with the loads of these buffers so many elements further."""
    if isinstance(expression, Apply):
        arguments = tuple(shifted(a, by) for a in expression.arguments)
        return Apply(expression.function, arguments, expression.dtype)
    if isinstance(expression, Load) and expression.buffer in by:
        return replace(expression, index=expression.index + by[expression.buffer])
    return expression


def operations(expression: Expr) -> int:
    """The floating-point operations one evaluation takes; integer arithmetic is free."""
    if not isinstance(expression, Apply):
        return 0
    own = FUNCTIONS[expression.function].flops if expression.dtype != "int64" else 0
    return own + sum(operations(a) for a in expression.arguments)


def evaluate(expression: Expr, values: Mapping[str, Any]) -> Any:
    """The value in NumPy, with arrays or numbers for the symbols; loads are not evaluated."""
    if isinstance(expression, Number):
        return expression.value if expression.dtype != "int64" else int(expression.value)
    if isinstance(expression, Symbol):
        return values[expression.name]
    assert isinstance(expression, Apply)
    arguments = (evaluate(a, values) for a in expression.arguments)
    return FUNCTIONS[expression.function].numpy(*arguments)


def text(expression: Expr) -> str:
    """The expression as Python that Numba compiles, on float32, int64 and bool alone."""
    match expression:
        case Number(value, "float32"):
            if math.isinf(value):
                return "float32(inf)" if value > 0 else "float32(-inf)"
            return f"float32({value!r})"
        case Number(value, _):
            return str(int(value))
        case Symbol(name, _):
            return name
        case Load(buffer, index, _):
            return f"{buffer}[{bare(index)}]"
        case Apply(function, arguments, _):
            return FUNCTIONS[function].source.format(*(text(a) for a in arguments))
    raise AssertionError(expression)


def bare(expression: Expr) -> str:
    """The text without the outermost parentheses."""
    written = text(expression)
    if not (written.startswith("(") and written.endswith(")")):
        return written
    depth = 0
    for position, character in enumerate(written):
        depth += (character == "(") - (character == ")")
        if depth == 0 and position < len(written) - 1:
            return written
    return written[1:-1]
