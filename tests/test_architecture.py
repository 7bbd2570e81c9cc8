"""The house keeps its shape: imports point one way, start-up stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import convdsl

PACKAGE = Path(convdsl.__file__).parent

# A module may import from its own row's folder and from rows above, not from its neighbours.
ROWS = [
    {"diagnostics", "resources"},
    {"explanations"},
    {"graph"},
    {"ops"},
    {"language", "passes", "exchange"},
    {"plan"},
    {"analysis", "kernels"},
    {"views", "runtime"},
    {"network", "compiler"},
    {"inspection"},
    {"training"},
    {"sklearn"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: row for row, names in enumerate(ROWS) for name in names}

# The compiler's recipe and the network it starts from are two halves of one thing.
TOGETHER = {("network", "compiler"), ("compiler", "network")}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def place(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(path):
    """The top-level parts of convdsl that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
            if node.module == "convdsl":
                names = [f"convdsl.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "convdsl" and len(parts) > 1:
                yield parts[1]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    here = place(path)
    assert here in LEVEL, f"{here} has no row in the house"
    for there in imported(path):
        if there == here or (here, there) in TOGETHER or there not in LEVEL:
            continue
        assert LEVEL[there] < LEVEL[here], f"{here} imports {there}, which is not above it"


def test_stages_name_no_op():
    """Passes, plans, kernels and views ask the op; they do not know any by name."""
    from convdsl.ops import registry

    classes = {cls.__name__ for cls in registry().values()}
    checked = 0
    for path in modules():
        if place(path) in {"passes", "plan", "kernels", "views", "runtime", "analysis"}:
            checked += 1
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("convdsl.ops"):
                    assert not classes & {alias.name for alias in node.names}, path
    assert checked > 10


def test_every_module_says_what_it_is_for():
    for path in modules():
        text = path.read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)), path


def test_numba_is_imported_only_to_compile():
    code = (
        "import sys, convdsl; n = convdsl.load('lenet'); n.summary(); n.verify(); repr(n);"
        "assert 'numba' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
