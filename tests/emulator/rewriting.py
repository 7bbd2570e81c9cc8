"""A kernel's source as a Python function on vectors, with an element for every thread.

Arithmetic stays as it is, for NumPy does it on vectors. Rewritten is what NumPy cannot know: that
branches and loops narrow the mask of active threads, that assignments keep the values of the other
ones, that accesses to memory are checked. Lines keep their numbers.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from convdsl.runtime import cuda_native
from emulator import memory
from emulator.activity import UNSET, negated
from emulator.errors import EmulationError
from emulator.instructions import (
    INSTRUCTIONS,
    NAMED,
    SCALARS,
    STORES,
    both,
    both_in_turn,
    choose,
    either,
    either_in_turn,
    select,
)

PLACES = {
    "cuda.threadIdx.x": "_run.thread",
    "cuda.blockIdx.x": "_run.block",
    "cuda.blockDim.x": "_run.block_threads",
    "cuda.gridDim.x": "_run.grid",
    "cuda.laneid": "_run.lane",
    "cuda.warpsize": "32",
}
POSITION = "_run.block * _run.block_threads + _run.thread"
HELPERS = {
    "_UNSET": UNSET,
    "_load": memory.load,
    "_store": memory.store,
    "_select": select,
    "_choose": choose,
    "_both": both,
    "_both_in_turn": both_in_turn,
    "_either": either,
    "_either_in_turn": either_in_turn,
    "_not": negated,
}


@dataclass(frozen=True)
class Rewritten:
    """A kernel on vectors: called with an execution, then the kernel's arguments.

    ``written`` are the parameters through which it writes; None if that cannot be told.
    """

    run: Callable[..., None]
    parameters: tuple[str, ...]
    written: frozenset[str] | None


@cache
def rewritten(source: str) -> Rewritten:
    """The kernel of a source text. Raises EmulationError for what the emulator does not know."""
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    parameters = tuple(argument.arg for argument in function.args.args)
    return Rewritten(_compiled(function, kernel=True), parameters, _written(function))


@cache
def _device_function(name: str) -> Callable[..., Any]:
    """A function of the kernels' library that is written in plain Python."""
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(_python(name)))).body
    assert isinstance(function, ast.FunctionDef)
    return _compiled(function, kernel=False)


def _python(name: str) -> Any:
    return getattr(getattr(cuda_native, name, None), "py_func", None)


def _compiled(function: ast.FunctionDef, kernel: bool) -> Callable[..., Any]:
    rewriter = _Rewriter(function, kernel)
    module = ast.Module([rewriter.function()], [])
    ast.fix_missing_locations(module)
    names = {"_run": None, **HELPERS, **SCALARS}
    names |= {_identifier(name): f for name, f in INSTRUCTIONS.items()}
    names |= {name: _device_function(name) for name in rewriter.used}
    exec(compile(module, f"<{function.name} on vectors>", "exec"), names)
    return names["_rewritten"]


def _identifier(name: str) -> str:
    return "_" + name.replace(".", "_")


def _dotted(node: ast.AST) -> str:
    """The name of an attribute, such as ``cuda.threadIdx.x``; empty for anything else."""
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


# -- what is written -------------------------------------------------------------------------


def _written(function: ast.FunctionDef) -> frozenset[str] | None:
    parameters = {argument.arg for argument in function.args.args}
    own = {  # shared and local memory
        target.id
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and _is_call(node.value, NAMED)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = {_dotted(pointer) for pointer in _stored(function)} - own
    return frozenset(found) if found <= parameters else None


def _stored(function: ast.FunctionDef) -> Iterator[ast.AST]:
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            yield node.value
        elif isinstance(node, ast.Call) and _is_call(node, STORES):
            yield node.args[0]


def _is_call(node: ast.AST, names: Sequence[str]) -> bool:
    return isinstance(node, ast.Call) and _dotted(node.func) in names


def _is_harmless(expression: ast.expr) -> bool:
    """Whether it may be evaluated for threads that do not want it, too."""
    return not any(
        isinstance(node, (ast.Subscript, ast.Div, ast.FloorDiv, ast.Mod))
        or (isinstance(node, ast.Call) and not _is_call(node, [*SCALARS]))
        for node in ast.walk(expression)
    )


# -- whose values matter ---------------------------------------------------------------------


def _names(node: ast.AST) -> Iterator[ast.Name]:
    return (n for n in ast.walk(node) if isinstance(n, ast.Name))


def _mentions(node: ast.AST, name: str) -> bool:
    return any(n.id == name for n in _names(node))


def _blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """The statements inside of one."""
    return [getattr(statement, "body", []), getattr(statement, "orelse", [])]


def _private(statements: Sequence[ast.stmt], name: str) -> bool:
    """Whether these statements always assign the name before they read it."""
    here = [s for s in statements if _mentions(s, name)]
    if not here:
        return True
    first = here[0]
    if isinstance(first, ast.Assign):
        stores = [n for t in first.targets for n in _names(t) if isinstance(n.ctx, ast.Store)]
        reads = [first.value, *(t for t in first.targets if not isinstance(t, ast.Name))]
        return any(n.id == name for n in stores) and not any(
            n.id == name and isinstance(n.ctx, ast.Load) for r in reads for n in _names(r)
        )
    if len(here) > 1 or not isinstance(first, (ast.If, ast.For, ast.While)):
        return False
    header = first.iter if isinstance(first, ast.For) else first.test
    if _mentions(header, name):
        return False
    if isinstance(first, ast.For) and _mentions(first.target, name):
        return True
    return all(_private(block, name) for block in _blocks(first))


# -- statements ------------------------------------------------------------------------------


class _Rewriter:
    """Rewrites one function. ``used`` are the functions of the library that it calls."""

    def __init__(self, function: ast.FunctionDef, kernel: bool) -> None:
        self._function = function
        self._kernel = kernel
        self._count = 0
        self._loops: list[str] = []
        # The names that are private to the branches around the current statement, and the
        # variable that holds the mask with which the branch began.
        self._homes: dict[str, str] = {}
        self.used: set[str] = set()
        self._parameters = [argument.arg for argument in function.args.args]
        self._carried = self._carried_indices()

    def function(self) -> ast.FunctionDef:
        """The function on vectors, called ``_rewritten``."""
        stored = {n.id for n in _names(self._function) if isinstance(n.ctx, ast.Store)}
        local = sorted(stored - set(self._parameters))
        start = self._parsed(f"{' = '.join([*local, '_start'])} = _UNSET")
        start += self._parsed("_start = _run.mask")
        body = self._block(self._function.body)
        arguments = [ast.arg(name) for name in ("_run", *self._parameters)]
        return ast.FunctionDef(
            name="_rewritten",
            args=ast.arguments([], arguments, None, [], [], None, []),
            body=[*start, *body],
            decorator_list=[],
        )

    def _carried_indices(self) -> set[str]:
        """Loop indices that are read outside of their loops, too."""
        inside: set[int] = set()
        indices: set[str] = set()
        for loop in ast.walk(self._function):
            if isinstance(loop, ast.For) and isinstance(loop.target, ast.Name):
                indices.add(loop.target.id)
                inside |= {
                    id(n) for s in loop.body for n in _names(s) if n.id == loop.target.id
                } | {id(loop.target)}
        return {n.id for n in _names(self._function) if n.id in indices and id(n) not in inside}

    def _block(self, statements: Sequence[ast.stmt]) -> list[ast.stmt]:
        rewritten = [new for old in statements for new in self._statement(old)]
        return rewritten or [ast.Pass()]

    def _statement(self, statement: ast.stmt) -> list[ast.stmt]:
        method = getattr(self, f"_{type(statement).__name__.lower()}", None)
        if method is None:
            raise self._unknown(statement, f"a statement {type(statement).__name__}")
        new: list[ast.stmt] = method(statement)
        for node in new:
            for inner in ast.walk(node):
                if "lineno" in inner._attributes and getattr(inner, "lineno", 0) in (0, 1):
                    ast.copy_location(inner, statement)
        return new

    def _parsed(self, text: str, **values: ast.expr) -> list[ast.stmt]:
        """Statements from text, with expressions in place of names."""
        tree = ast.parse(text)
        if values:
            tree = _Placed(values).visit(tree)
        return tree.body

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"_{kind}{self._count}"

    def _expr(self, statement: ast.Expr) -> list[ast.stmt]:
        if isinstance(statement.value, ast.Constant):
            return []  # the documentation
        return [ast.Expr(self._value(statement.value))]

    def _pass(self, statement: ast.Pass) -> list[ast.stmt]:
        return [statement]

    def _assign(self, statement: ast.Assign) -> list[ast.stmt]:
        (first, *others) = statement.targets
        name = first.id if isinstance(first, ast.Name) else ""
        value = self._value(statement.value, name)
        if not others and not isinstance(first, ast.Tuple):
            return self._stored(first, value)
        whole = self._fresh("value")
        new = self._parsed(f"{whole} = VALUE", VALUE=value)
        for target in statement.targets:
            if isinstance(target, ast.Tuple):
                for k, part in enumerate(target.elts):
                    new += self._stored(part, self._text(f"{whole}[{k}]"))
            else:
                new += self._stored(target, self._text(whole))
        return new

    def _augassign(self, statement: ast.AugAssign) -> list[ast.stmt]:
        target = statement.target
        read = ast.copy_location(ast.parse(ast.unparse(target), mode="eval").body, target)
        for node in ast.walk(read):
            ast.copy_location(node, target)
        value = ast.BinOp(self._value(read), statement.op, self._value(statement.value))
        return self._stored(target, value)

    def _stored(self, target: ast.expr, value: ast.expr) -> list[ast.stmt]:
        if isinstance(target, ast.Name):
            home = self._homes.get(target.id, "_run.live" if self._kernel else "_start")
            text = f"{target.id} = _run.assign({target.id}, VALUE, {home})"
            return self._parsed(text, VALUE=value)
        if isinstance(target, ast.Subscript):
            where = {"POINTER": self._value(target.value), "INDEX": self._value(target.slice)}
            text = f"_store(_run, POINTER, INDEX, VALUE, {target.lineno})"
            return self._parsed(text, **where, VALUE=value)
        raise self._unknown(target, "such a target of an assignment")

    def _if(self, statement: ast.If) -> list[ast.stmt]:
        branch = self._fresh("branch")
        new = self._parsed(f"{branch} = _run.branch(TEST)", TEST=self._value(statement.test))
        for enter, block in zip(("then", "otherwise"), _blocks(statement), strict=True):
            if block:
                (inner,) = self._parsed(f"if _run.{enter}({branch}): pass")
                assert isinstance(inner, ast.If)
                inner.body = self._at_home(block)
                new.append(inner)
        return new + self._parsed(f"_run.join({branch})")

    def _at_home(self, block: Sequence[ast.stmt]) -> list[ast.stmt]:
        """The block of a branch, which begins with noting whose values its own names have."""
        outside = self._function.body
        mentioned = {n.id for s in block for n in _names(s) if isinstance(n.ctx, ast.Store)}
        inside = _counts(block)
        everywhere = _counts(outside)
        home = self._fresh("home")
        own = {
            name: home
            for name in mentioned - set(self._homes)
            if inside[name] == everywhere[name] and _private(block, name)
        }
        before = self._homes
        self._homes = {**before, **own}
        new = self._block(block)
        self._homes = before
        return self._parsed(f"{home} = _run.mask") + new if own else new

    def _for(self, statement: ast.For) -> list[ast.stmt]:
        target, bounds = statement.target, statement.iter
        if not isinstance(target, ast.Name) or not _is_call(bounds, ["range"]) or statement.orelse:
            raise self._unknown(statement, "a loop over anything but a range")
        assert isinstance(bounds, ast.Call)
        loop = self._fresh("loop")
        index = self._fresh("index") if target.id in self._carried else target.id
        new = self._parsed(f"{loop} = _run.loop()\nfor {index} in {loop}.range(): pass")
        walk = new[-1]
        assert isinstance(walk, ast.For)
        assert isinstance(walk.iter, ast.Call)
        walk.iter.args = [self._value(argument) for argument in bounds.args]
        kept = self._stored(target, self._text(index)) if index != target.id else []
        walk.body = [*kept, *self._inside(loop, statement.body)]
        return new + self._parsed(f"_run.end({loop})")

    def _while(self, statement: ast.While) -> list[ast.stmt]:
        if statement.orelse:
            raise self._unknown(statement, "a loop with an else")
        loop = self._fresh("loop")
        text = f"{loop} = _run.loop()\nwhile {loop}.again() and {loop}.goes_on(TEST): pass"
        new = self._parsed(text, TEST=self._value(statement.test))
        walk = new[-1]
        assert isinstance(walk, ast.While)
        walk.body = self._inside(loop, statement.body)
        return new + self._parsed(f"_run.end({loop})")

    def _inside(self, loop: str, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        self._loops.append(loop)
        new = self._block(body)
        self._loops.pop()
        return new

    def _break(self, statement: ast.Break) -> list[ast.stmt]:
        # Threads that have only gone on to the next iteration are still in the loop.
        return self._parsed(f"if _run.leave({self._loops[-1]}): continue")

    def _continue(self, statement: ast.Continue) -> list[ast.stmt]:
        return self._parsed(f"if _run.proceed({self._loops[-1]}): continue")

    def _return(self, statement: ast.Return) -> list[ast.stmt]:
        if self._kernel and statement.value is None:
            return self._parsed("if _run.retire(): return")
        if not self._kernel and statement is self._function.body[-1] and statement.value:
            return [ast.Return(self._value(statement.value))]
        raise self._unknown(statement, "a return in such a place")

    # -- expressions ---------------------------------------------------------------------------
    def _value(self, node: ast.expr, name: str = "") -> ast.expr:
        """An expression on vectors; ``name`` is what its value is going to be called."""
        method = getattr(self, f"_value_{type(node).__name__.lower()}", None)
        new: ast.expr = method(node, name) if method else self._plain(node)
        return ast.copy_location(new, node)

    def _plain(self, node: ast.expr) -> ast.expr:
        if not isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Name, ast.Constant, ast.Tuple)):
            raise self._unknown(node, f"an expression {type(node).__name__}")
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return self._text("_not(VALUE)", VALUE=self._value(node.operand))
        copied = copy.copy(node)
        for field, value in ast.iter_fields(node):
            if isinstance(value, ast.expr):
                setattr(copied, field, self._value(value))
            elif isinstance(value, list):
                setattr(copied, field, [self._value(v) for v in value])
        return copied

    def _text(self, text: str, **values: ast.expr) -> ast.expr:
        (statement,) = self._parsed(text, **values)
        assert isinstance(statement, ast.Expr)
        return statement.value

    def _value_attribute(self, node: ast.Attribute, name: str) -> ast.expr:
        place = PLACES.get(_dotted(node))
        if place is None:
            raise self._unknown(node, f"`{ast.unparse(node)}`")
        return self._text(place)

    def _value_subscript(self, node: ast.Subscript, name: str) -> ast.expr:
        text = f"_load(_run, POINTER, INDEX, {node.lineno})"
        return self._text(text, POINTER=self._value(node.value), INDEX=self._value(node.slice))

    def _value_boolop(self, node: ast.BoolOp, name: str) -> ast.expr:
        function = "_both" if isinstance(node.op, ast.And) else "_either"
        left = self._value(node.values[0])
        for value in node.values[1:]:
            text = f"{function}(LEFT, RIGHT)"
            if not _is_harmless(value):
                text = f"{function}_in_turn(_run, LEFT, lambda: RIGHT)"
            left = self._text(text, LEFT=left, RIGHT=self._value(value))
        return left

    def _value_compare(self, node: ast.Compare, name: str) -> ast.expr:
        sides = [self._value(side) for side in (node.left, *node.comparators)]
        pairs = [
            ast.Compare(left, [op], [right])
            for left, op, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        whole: ast.expr = pairs[0]
        for pair in pairs[1:]:
            whole = self._text("_both(LEFT, RIGHT)", LEFT=whole, RIGHT=pair)
        return whole

    def _value_ifexp(self, node: ast.IfExp, name: str) -> ast.expr:
        parts = {
            "TEST": self._value(node.test),
            "THEN": self._value(node.body),
            "OTHERWISE": self._value(node.orelse),
        }
        if _is_harmless(node.body) and _is_harmless(node.orelse):
            return self._text("_select(TEST, THEN, OTHERWISE)", **parts)
        return self._text("_choose(_run, TEST, lambda: THEN, lambda: OTHERWISE)", **parts)

    def _value_call(self, node: ast.Call, name: str) -> ast.expr:
        called = _dotted(node.func)
        if called == "cuda.grid" and ast.unparse(node.args[0]) == "1":
            return self._text(POSITION)
        arguments = [self._value(argument) for argument in node.args]
        keywords = [ast.keyword(k.arg, self._value(k.value)) for k in node.keywords]
        if called in SCALARS:
            return ast.Call(ast.Name(called, ast.Load()), arguments, keywords)
        run = ast.Name("_run", ast.Load())
        if called in INSTRUCTIONS:
            if called in NAMED:
                self._only_one(node)
                keywords.append(ast.keyword("name", ast.Constant(name or called)))
            keywords.append(ast.keyword("line", ast.Constant(node.lineno)))
            function = ast.Name(_identifier(called), ast.Load())
            return ast.Call(function, [run, *arguments], keywords)
        if _python(called) is None:
            raise self._unknown(node, f"a function `{called or ast.unparse(node.func)}`")
        self.used.add(called)
        return ast.Call(ast.Name(called, ast.Load()), [run, *arguments], keywords)

    def _only_one(self, node: ast.Call) -> None:
        """Two arrays that are declared on one line silently share their memory on the GPU."""
        same = [
            n
            for n in ast.walk(self._function)
            if _is_call(n, NAMED) and getattr(n, "lineno", 0) == node.lineno
        ]
        if len(same) > 1:
            raise self._unknown(node, "more than one declaration of memory on a line")
        if not isinstance(node.args[0], ast.Constant):
            raise self._unknown(node, "memory whose size is not a constant")

    def _unknown(self, node: ast.AST, what: str) -> EmulationError:
        line = getattr(node, "lineno", 0)
        return EmulationError(
            f"kernel `{self._function.name}`, line {line}: there must not be {what}"
        )


class _Placed(ast.NodeTransformer):
    """Puts expressions in place of names."""

    def __init__(self, values: dict[str, ast.expr]) -> None:
        self._values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._values.get(node.id, node)


def _counts(statements: Sequence[ast.stmt]) -> Any:
    return Counter(n.id for s in statements for n in _names(s))
