"""What a kernel's source says about its names: what it writes, and whose values matter to whom."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence

from emulator.instructions import NAMED, STORES


def dotted(node: ast.AST) -> str:
    """The name of an attribute, such as ``cuda.threadIdx.x``; empty for anything else."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def is_call(node: ast.AST, names: Sequence[str]) -> bool:
    return isinstance(node, ast.Call) and dotted(node.func) in names


def parameters(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in function.args.args]


def assigned(node: ast.AST) -> set[str]:
    """The names that are assigned to, wherever in it."""
    return {n.id for n in _names(node) if isinstance(n.ctx, ast.Store)}


def blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """The statements inside of one: where its condition holds, and where it does not."""
    return [getattr(statement, "body", []), getattr(statement, "orelse", [])]


def written(function: ast.FunctionDef) -> frozenset[str] | None:
    """The parameters through which a kernel writes; None where that cannot be told."""
    own = {  # shared and local memory
        target.id
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and is_call(node.value, NAMED)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = {dotted(pointer) for pointer in _stored(function)} - own
    return frozenset(found) if found <= set(parameters(function)) else None


def _stored(function: ast.FunctionDef) -> Iterator[ast.AST]:
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            yield node.value
        elif isinstance(node, ast.Call) and is_call(node, STORES):
            yield node.args[0]


def carried_indices(function: ast.FunctionDef) -> set[str]:
    """The indices of loops that are read outside of their loops, too."""
    inside: set[int] = set()
    indices: set[str] = set()
    for loop in ast.walk(function):
        if isinstance(loop, ast.For) and isinstance(loop.target, ast.Name):
            name = loop.target.id
            indices.add(name)
            inside.add(id(loop.target))
            inside |= {id(n) for s in loop.body for n in _names(s) if n.id == name}
    return {n.id for n in _names(function) if n.id in indices and id(n) not in inside}


def _names(node: ast.AST) -> Iterator[ast.Name]:
    return (n for n in ast.walk(node) if isinstance(n, ast.Name))


class Mentions:
    """How often statements mention names, counted once."""

    def __init__(self, function: ast.FunctionDef) -> None:
        self._counted: dict[int, Counter[str]] = {}
        self._read: dict[int, set[str]] = {}
        self._everywhere = self._of(function.body)

    def private(self, block: Sequence[ast.stmt]) -> set[str]:
        """The names that only this block mentions, and always assigns before it reads them."""
        return {
            name
            for name, count in self._of(block).items()
            if count == self._everywhere[name] and self._assigned_first(block, name)
        }

    def _of(self, nodes: Sequence[ast.AST]) -> Counter[str]:
        total: Counter[str] = Counter()
        for node in nodes:
            total.update(self._count(node))
        return total

    def _count(self, node: ast.AST) -> Counter[str]:
        if id(node) not in self._counted:
            if isinstance(node, (ast.If, ast.For, ast.While)):
                inner = [s for block in blocks(node) for s in block]
                self._counted[id(node)] = self._of([*_header(node), *inner])
            else:
                names = list(_names(node))
                self._counted[id(node)] = Counter(n.id for n in names)
                self._read[id(node)] = {n.id for n in names if isinstance(n.ctx, ast.Load)}
        return self._counted[id(node)]

    def _assigned_first(self, statements: Sequence[ast.stmt], name: str) -> bool:
        here = [s for s in statements if name in self._count(s)]
        if not here:
            return True
        first = here[0]
        if isinstance(first, ast.Assign):
            return name not in self._read[id(first)]
        if len(here) > 1 or not isinstance(first, (ast.If, ast.For, ast.While)):
            return False
        if isinstance(first, ast.For) and name in assigned(first.target):
            return True
        if name in self._of(_header(first)):
            return False
        return all(self._assigned_first(block, name) for block in blocks(first))


def _header(statement: ast.If | ast.For | ast.While) -> list[ast.expr]:
    if isinstance(statement, ast.For):
        return [statement.target, statement.iter]
    return [statement.test]
