"""Turns Graphviz text into SVG, PNG or PDF with whatever Graphviz there is.

The system's `dot` is preferred. `graphviz-pure`, which pip installs with convdsl, draws SVG and PNG
but no PDF; its SVG is then converted with svglib and reportlab.
"""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, files
from io import BytesIO
from pathlib import Path

from convdsl.diagnostics import problem

FORMATS = ("svg", "png", "pdf", "dot")
PURE = "graphviz-pure"


def format_of(path: Path) -> str:
    """The format that a file's extension asks for. Raises CompileError E520 for any other."""
    extension = path.suffix.removeprefix(".").lower()
    if extension not in FORMATS:
        known = ", ".join(f"`.{f}`" for f in FORMATS)
        shown = f"`.{extension}`" if extension else "a file without an extension"
        raise problem("E520", f"{path}: {shown} is not a format for drawings", f"there is {known}")
    return extension


def render(source: str, format: str) -> bytes:
    """A drawing in a format; its text itself for ``dot``.

    Raises CompileError E521 where no Graphviz is installed, E522 where it fails.
    """
    if format == "dot":
        return source.encode()
    if dot := shutil.which("dot"):
        return _run(dot, source, format)
    pure = _pure()
    if pure is None:
        raise problem(
            "E521",
            f"there is no Graphviz to draw {format.upper()} with",
            f"`pip install {PURE}` installs one, or install Graphviz so that `dot` is on PATH",
            "`-o FILE.dot` writes the graph without drawing it",
        )
    if format == "pdf":
        return _pdf(_run(pure, source, "svg"))
    return _run(pure, source, format)


def _run(command: str, source: str, format: str) -> bytes:
    try:
        done = subprocess.run([command, f"-T{format}"], input=source.encode(), capture_output=True)
    except OSError as reason:
        raise problem("E522", f"{command} cannot be run: {reason.strerror}") from None
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        told = f": {said[-1]}" if said else ""
        raise problem("E522", f"{command} failed to draw the graph{told}")
    return done.stdout


def _pure() -> str | None:
    """The pip-installed command, which need not be on PATH."""
    try:
        installed = files(PURE) or []
    except PackageNotFoundError:
        return shutil.which(PURE)
    for file in installed:
        if file.stem == PURE and file.parent.name.lower() in ("bin", "scripts"):
            return str(file.locate())
    return shutil.which(PURE)


def _pdf(svg: bytes) -> bytes:
    """An SVG as PDF."""
    from reportlab.graphics import renderPDF
    from svglib.svglib import svg2rlg

    made = svg2rlg(BytesIO(svg))
    if made is None:
        raise problem("E522", "the drawing cannot be converted to PDF", "draw SVG or PNG instead")
    return bytes(renderPDF.drawToString(made, invariant=True))
