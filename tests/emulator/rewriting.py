"""A kernel's source as a Python function on vectors, with an element for every thread.

Arithmetic stays as it is, for NumPy does it on vectors. Rewritten is what NumPy cannot know: that
branches and loops narrow the mask of active threads, that assignments keep the values of the other
ones, that accesses to memory are checked.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import convdsl
from emulator import instructions, memory
from emulator.activity import UNSET, negated
from emulator.errors import EmulationError
from emulator.instructions import INSTRUCTIONS, NAMED, SCALARS
from emulator.names import Names, blocks, dotted, is_call

LIBRARY = Path(convdsl.__file__).parent / "runtime" / "cuda_native.py"
"""What kernels are written with."""
PLACES = {
    "cuda.threadIdx.x": "_run.thread",
    "cuda.blockIdx.x": "_run.block",
    "cuda.blockDim.x": "_run.block_threads",
    "cuda.gridDim.x": "_run.grid",
    "cuda.laneid": "_run.lane",
    "cuda.warpsize": "32",
}
POSITION = "(_run.block * _run.block_threads + _run.thread)"
HELPERS = {
    "_UNSET": UNSET,
    "_load": memory.load,
    "_store": memory.store,
    "_select": instructions.select,
    "_choose": instructions.choose,
    "_both": instructions.both,
    "_both_in_turn": instructions.both_in_turn,
    "_either": instructions.either,
    "_either_in_turn": instructions.either_in_turn,
    "_not": negated,
}
INFIX = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
PREFIX = {ast.USub: "-", ast.UAdd: "+", ast.Invert: "~"}
INDENT = "    "


@dataclass(frozen=True)
class Rewritten:
    """A kernel on vectors: called with an execution, then the kernel's arguments.

    ``written`` are the parameters through which it writes; None if that cannot be told.
    """

    run: Callable[..., None]
    written: frozenset[str] | None


@cache
def rewritten(source: str) -> Rewritten:
    """The kernel of a source text. Raises EmulationError for what the emulator does not know."""
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    names = Names(function)
    return Rewritten(_compiled(function, names, kernel=True), names.written)


@cache
def _device_function(name: str) -> Callable[..., Any]:
    """A function of the kernels' library that is written in plain Python."""
    function = _library()[name]
    return _compiled(function, Names(function), kernel=False)


@cache
def _library() -> dict[str, ast.FunctionDef]:
    """Those functions, by what kernels call them: what the library names ``py_func``.

    It is read and not imported, for a GPU's machine may have another numba-cuda or none.
    """
    statements = ast.parse(LIBRARY.read_text(encoding="utf-8")).body
    functions = {s.name: s for s in statements if isinstance(s, ast.FunctionDef)}
    found = {}
    for statement in statements:
        match statement:
            case ast.Assign([ast.Attribute(ast.Name(name), "py_func")], ast.Name(function)):
                found[name] = functions[function]
    return found


def _compiled(function: ast.FunctionDef, named: Names, kernel: bool) -> Callable[..., Any]:
    rewriter = _Rewriter(function, named, kernel)
    text = "\n".join(rewriter.lines()) + "\n"
    names = {**HELPERS, **SCALARS}
    names |= {_identifier(name): f for name, f in INSTRUCTIONS.items()}
    names |= {name: _device_function(name) for name in rewriter.used}
    exec(compile(text, f"<{function.name} on vectors>", "exec"), names)
    return names["_rewritten"]


def _identifier(name: str) -> str:
    return "_" + name.replace(".", "_")


def _is_harmless(expression: ast.expr) -> bool:
    """Whether it may be evaluated for threads that do not want it, too."""
    return not any(
        isinstance(node, (ast.Subscript, ast.Div, ast.FloorDiv, ast.Mod))
        or (isinstance(node, ast.Call) and dotted(node.func) not in SCALARS)
        for node in ast.walk(expression)
    )


class _Rewriter:
    """Rewrites one function. ``used`` are the functions of the library that it calls."""

    def __init__(self, function: ast.FunctionDef, named: Names, kernel: bool) -> None:
        self.used: set[str] = set()
        self._function = function
        self._kernel = kernel
        self._count = 0
        self._loops: list[str] = []
        self._named = named
        # The names that are private to the branches around the current statement, and the
        # variable that holds the mask with which the branch began.
        self._homes: dict[str, str] = {}

    def lines(self) -> list[str]:
        """The function on vectors, called ``_rewritten``."""
        given = self._named.parameters
        start = [f"{name} = _UNSET" for name in self._named.assigned] + ["_start = _run.mask"]
        body = self._block(self._function.body)
        return [f"def _rewritten({', '.join(['_run', *given])}):", *_indented([*start, *body])]

    # -- statements ----------------------------------------------------------------------------
    def _block(self, statements: Sequence[ast.stmt]) -> list[str]:
        return [line for statement in statements for line in self._statement(statement)] or ["pass"]

    def _statement(self, statement: ast.stmt) -> list[str]:
        method = getattr(self, f"_{type(statement).__name__.lower()}", None)
        if method is None:
            raise self._unknown(statement, f"a statement {type(statement).__name__}")
        new: list[str] = method(statement)
        return new

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"_{kind}{self._count}"

    def _expr(self, statement: ast.Expr) -> list[str]:
        if isinstance(statement.value, ast.Constant):
            return []  # the documentation
        return [self._value(statement.value)]

    def _pass(self, statement: ast.Pass) -> list[str]:
        return []

    def _assign(self, statement: ast.Assign) -> list[str]:
        first = statement.targets[0]
        if len(statement.targets) == 1 and not isinstance(first, ast.Tuple):
            called = first.id if isinstance(first, ast.Name) else ""
            return [self._stored(first, self._value(statement.value, called))]
        whole = self._fresh("value")
        new = [f"{whole} = {self._value(statement.value)}"]
        for target in statement.targets:
            if isinstance(target, ast.Tuple):
                new += [self._stored(part, f"{whole}[{k}]") for k, part in enumerate(target.elts)]
            else:
                new.append(self._stored(target, whole))
        return new

    def _augassign(self, statement: ast.AugAssign) -> list[str]:
        sign = INFIX[type(statement.op)]
        value = f"{self._value(statement.target)} {sign} ({self._value(statement.value)})"
        return [self._stored(statement.target, value)]

    def _stored(self, target: ast.expr, value: str) -> str:
        if isinstance(target, ast.Name):
            home = self._homes.get(target.id, "_run.live" if self._kernel else "_start")
            return f"{target.id} = _run.assign({target.id}, {value}, {home})"
        if isinstance(target, ast.Subscript):
            pointer, index = self._value(target.value), self._value(target.slice)
            if pointer in self._named.local:
                return f"{pointer}.store(_run, {index}, {value}, {target.lineno})"
            return f"_store(_run, {pointer}, {index}, {value}, {target.lineno})"
        raise self._unknown(target, "such a target of an assignment")

    def _if(self, statement: ast.If) -> list[str]:
        branch = self._fresh("branch")
        new = [f"{branch} = _run.branch({self._value(statement.test)})"]
        for enter, block in zip(("then", "otherwise"), blocks(statement), strict=True):
            if block:
                new.append(f"if _run.{enter}({branch}):")
                new += _indented(self._at_home(block))
        return [*new, f"_run.join({branch})"]

    def _at_home(self, block: Sequence[ast.stmt]) -> list[str]:
        """The block of a branch, which begins with noting whose values its own names have."""
        own = self._named.private(block) - set(self._homes)
        home = self._fresh("home")
        before = self._homes
        self._homes = {**before, **dict.fromkeys(own, home)}
        new = self._block(block)
        self._homes = before
        return [f"{home} = _run.mask", *new] if own else new

    def _for(self, statement: ast.For) -> list[str]:
        target, bounds = statement.target, statement.iter
        if not isinstance(target, ast.Name) or not is_call(bounds, ["range"]) or statement.orelse:
            raise self._unknown(statement, "a loop over anything but a range")
        assert isinstance(bounds, ast.Call)
        loop = self._fresh("loop")
        walked = ", ".join(self._value(bound) for bound in bounds.args)
        index, kept = target.id, []
        if target.id in self._named.carried:
            index = self._fresh("index")
            kept = [self._stored(target, index)]
        head = f"for {index} in {loop}.range({walked}):"
        return self._looped(loop, head, [*kept, *self._inside(loop, statement.body)])

    def _while(self, statement: ast.While) -> list[str]:
        if statement.orelse:
            raise self._unknown(statement, "a loop with an else")
        loop = self._fresh("loop")
        head = f"while {loop}.again() and {loop}.goes_on({self._value(statement.test)}):"
        return self._looped(loop, head, self._inside(loop, statement.body))

    def _looped(self, loop: str, head: str, body: list[str]) -> list[str]:
        return [f"{loop} = _run.loop()", head, *_indented(body), f"_run.end({loop})"]

    def _inside(self, loop: str, body: Sequence[ast.stmt]) -> list[str]:
        self._loops.append(loop)
        new = self._block(body)
        self._loops.pop()
        return new

    def _break(self, statement: ast.Break) -> list[str]:
        # Threads that have only gone on to the next iteration are still in the loop.
        return [f"if _run.leave({self._loops[-1]}): continue"]

    def _continue(self, statement: ast.Continue) -> list[str]:
        return [f"if _run.proceed({self._loops[-1]}): continue"]

    def _return(self, statement: ast.Return) -> list[str]:
        if self._kernel and statement.value is None:
            return ["if _run.retire(): return"]
        if not self._kernel and statement is self._function.body[-1] and statement.value:
            return [f"return {self._value(statement.value)}"]
        raise self._unknown(statement, "a return in such a place")

    # -- expressions ---------------------------------------------------------------------------
    def _value(self, node: ast.expr, called: str = "") -> str:
        """An expression on vectors; ``called`` is what its value is going to be called."""
        match node:
            case ast.Constant():
                return repr(node.value)
            case ast.Name():
                return node.id
            case ast.Attribute() if dotted(node) in PLACES:
                return PLACES[dotted(node)]
            case ast.BinOp():
                sign = INFIX[type(node.op)]
                return f"({self._value(node.left)} {sign} {self._value(node.right)})"
            case ast.UnaryOp(ast.Not()):
                return f"_not({self._value(node.operand)})"
            case ast.UnaryOp():
                return f"({PREFIX[type(node.op)]}{self._value(node.operand)})"
            case ast.Tuple():
                return f"({''.join(self._value(part) + ', ' for part in node.elts)})"
            case ast.Subscript():
                pointer, index = self._value(node.value), self._value(node.slice)
                if pointer in self._named.local:
                    return f"{pointer}.load(_run, {index}, {node.lineno})"
                return f"_load(_run, {pointer}, {index}, {node.lineno})"
            case ast.Compare():
                return self._comparison(node)
            case ast.BoolOp():
                return self._condition(node)
            case ast.IfExp():
                return self._choice(node)
            case ast.Call():
                return self._call(node, called)
        raise self._unknown(node, f"`{ast.unparse(node)}`")

    def _comparison(self, node: ast.Compare) -> str:
        sides = [self._value(side) for side in (node.left, *node.comparators)]
        whole = ""
        for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
            pair = f"({left} {INFIX[type(op)]} {right})"
            whole = f"_both({whole}, {pair})" if whole else pair
        return whole

    def _condition(self, node: ast.BoolOp) -> str:
        function = "_both" if isinstance(node.op, ast.And) else "_either"
        whole = self._value(node.values[0])
        for part in node.values[1:]:
            value = self._value(part)
            if _is_harmless(part):
                whole = f"{function}({whole}, {value})"
            else:
                whole = f"{function}_in_turn(_run, {whole}, lambda: {value})"
        return whole

    def _choice(self, node: ast.IfExp) -> str:
        test, then, otherwise = map(self._value, (node.test, node.body, node.orelse))
        if _is_harmless(node.body) and _is_harmless(node.orelse):
            return f"_select({test}, {then}, {otherwise})"
        return f"_choose(_run, {test}, lambda: {then}, lambda: {otherwise})"

    def _call(self, node: ast.Call, called: str) -> str:
        function = dotted(node.func)
        arguments = [self._value(argument) for argument in node.args]
        if function == "cuda.grid" and arguments == ["1"]:
            return POSITION
        arguments += [f"{k.arg}={self._value(k.value)}" for k in node.keywords]
        if function in SCALARS:
            return f"{function}({', '.join(arguments)})"
        if function in INSTRUCTIONS:
            if function in NAMED:
                self._check_declaration(node)
                arguments.append(f"name={(called or function)!r}")
            arguments.append(f"line={node.lineno}")
            return f"{_identifier(function)}({', '.join(['_run', *arguments])})"
        if function not in _library():
            raise self._unknown(node, f"a function `{function or ast.unparse(node.func)}`")
        self.used.add(function)
        return f"{function}({', '.join(['_run', *arguments])})"

    def _check_declaration(self, node: ast.Call) -> None:
        # On some versions of the compiler such arrays silently share their memory.
        if self._named.declarations[node.lineno] > 1:
            raise self._unknown(node, "more than one declaration of memory on a line")
        if not isinstance(node.args[0], ast.Constant):
            raise self._unknown(node, "memory whose size is not a constant")

    def _unknown(self, node: ast.AST, what: str) -> EmulationError:
        where = f"kernel `{self._function.name}`, line {getattr(node, 'lineno', 0)}"
        return EmulationError(f"{where}: there must not be {what}")


def _indented(lines: Sequence[str]) -> list[str]:
    return [INDENT + line for line in lines]
