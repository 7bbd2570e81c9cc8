"""What a kernel's source says about its names: what it writes, and whose values matter to whom."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence

from emulator.instructions import NAMED, STORES


def dotted(node: ast.AST) -> str:
    """The name of an attribute, such as ``cuda.threadIdx.x``; empty for anything else."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def is_call(node: ast.AST, names: Sequence[str]) -> bool:
    return isinstance(node, ast.Call) and dotted(node.func) in names


def blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """The statements inside of one: where its condition holds, and where it does not."""
    return [getattr(statement, "body", []), getattr(statement, "orelse", [])]


class Names:
    """The names of a function, found in one walk through it.

    ``assigned`` are all but parameters that it assigns to, ``carried`` the indices of loops that it
    reads outside of their loops, too, ``local`` the memory of a thread's own; ``declarations``
    counts declarations of memory by line.
    """

    def __init__(self, function: ast.FunctionDef) -> None:
        self.parameters = [argument.arg for argument in function.args.args]
        self.declarations: Counter[int] = Counter()
        self.local: set[str] = set()
        self._stores: set[str] = set()
        self._own_memory: set[str] = set()
        self._indices: set[str] = set()
        self._outside: set[str] = set()
        self._through: set[str] = set()
        # By statement: all names, those outside of inner statements, those of them that are read.
        self._mentioned: dict[int, Counter[str]] = {}
        self._header: dict[int, Counter[str]] = {}
        self._read: dict[int, set[str]] = {}
        for statement in function.body:
            self._statement(statement, frozenset())
        self._everywhere = self._all(function.body)
        self.assigned = sorted(self._stores - set(self.parameters))
        self.carried = self._indices & self._outside

    @property
    def written(self) -> frozenset[str] | None:
        """The parameters through which a kernel writes; None where that cannot be told."""
        found = self._through - self._own_memory
        return frozenset(found) if found <= set(self.parameters) else None

    def private(self, block: Sequence[ast.stmt]) -> set[str]:
        """The names that only this block mentions, and always assigns before it reads them."""
        return {
            name
            for name, count in self._all(block).items()
            if count == self._everywhere[name] and self._assigned_first(block, name)
        }

    # -- the walk ------------------------------------------------------------------------------
    def _statement(self, statement: ast.stmt, loops: frozenset[str]) -> None:
        """Note the names of a statement, within the loops over such indices."""
        header: Counter[str] = Counter()
        read: set[str] = set()
        within = loops
        if isinstance(statement, ast.For):
            index = dotted(statement.target)
            self._indices.add(index)
            within |= {index}
            if index in loops:
                # Threads that do not enter this loop go on with the outer one's.
                self._outside.add(index)
        elif isinstance(statement, ast.Assign) and is_call(statement.value, NAMED):
            declared = {t.id for t in statement.targets if isinstance(t, ast.Name)}
            self._own_memory |= declared
            if is_call(statement.value, ["local_floats"]):
                self.local |= declared
        inner = []
        for child in ast.iter_child_nodes(statement):
            if isinstance(child, ast.stmt):
                self._statement(child, within)
                inner.append(child)
            else:
                of_loop = isinstance(statement, ast.For) and child is statement.target
                self._expression(child, within if of_loop else loops, header, read)
        self._header[id(statement)] = header
        self._read[id(statement)] = read
        self._mentioned[id(statement)] = self._all(inner) + header if inner else header

    def _expression(
        self, node: ast.AST, loops: frozenset[str], mentioned: Counter[str], read: set[str]
    ) -> None:
        if isinstance(node, ast.Name):
            self._name(node, loops, mentioned, read)
            return
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            self._through.add(dotted(node.value))
        elif isinstance(node, ast.Call):
            self._call(node)
        for child in ast.iter_child_nodes(node):
            self._expression(child, loops, mentioned, read)

    def _name(
        self, node: ast.Name, loops: frozenset[str], mentioned: Counter[str], read: set[str]
    ) -> None:
        mentioned[node.id] += 1
        if node.id not in loops:
            self._outside.add(node.id)
        if isinstance(node.ctx, ast.Store):
            self._stores.add(node.id)
        else:
            read.add(node.id)

    def _call(self, node: ast.Call) -> None:
        called = dotted(node.func)
        if called in STORES:
            self._through.add(dotted(node.args[0]))
        if called in NAMED:
            self.declarations[node.lineno] += 1

    # -- questions -----------------------------------------------------------------------------
    def _all(self, statements: Sequence[ast.stmt]) -> Counter[str]:
        total: Counter[str] = Counter()
        for statement in statements:
            total.update(self._mentioned[id(statement)])
        return total

    def _assigned_first(self, statements: Sequence[ast.stmt], name: str) -> bool:
        here = [s for s in statements if name in self._mentioned[id(s)]]
        if not here:
            return True
        first = here[0]
        if isinstance(first, ast.Assign):
            return name not in self._read[id(first)]
        if len(here) > 1 or not isinstance(first, (ast.If, ast.For, ast.While)):
            return False
        if isinstance(first, ast.For) and name == dotted(first.target):
            return True
        if name in self._header[id(first)]:
            return False
        return all(self._assigned_first(block, name) for block in blocks(first))
