"""Turns drawings into files: Graphviz text into SVG, and SVG into PDF and PNG.

The system's `dot` lays graphs out where there is one, else `graphviz-pure`, which pip installs with
convdsl. From SVG on it is the same everywhere, and needs no fonts installed: svglib and reportlab
write PDF with the standard Helvetica, and PDFium draws that.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from io import BytesIO

from convdsl.diagnostics import problem

PURE = "graphviz-pure"
PNG_SCALE = 2
"""Pixels to a point: 144 dots an inch."""
GAP = 24
"""Between drawings side by side, in points."""
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


def laid_out(source: str) -> str:
    """A Graphviz graph as SVG.

    Raises CompileError E521 where no Graphviz is installed, E522 where it fails.
    """
    command = shutil.which("dot") or _pure()
    if command is None:
        raise problem(
            "E521",
            "there is no Graphviz to lay a graph out with",
            f"`pip install {PURE}` installs one, or install Graphviz so that `dot` is on PATH",
            "`-o FILE.dot` writes the graph without drawing it; other styles need no Graphviz",
        )
    svg = _run(command, source, "svg").decode()
    # It repeats every name in a comment.
    svg = re.sub(r"<!--.*?-->\n", "", svg, flags=re.DOTALL)
    return re.sub(r'<g [^>]*class="node">.*?</g>', _centred, svg, flags=re.DOTALL)


def _centred(node: re.Match[str]) -> str:
    """A node with its text in the middle.

    Graphviz gives the start of each line, for the width that it has in whatever font it takes for
    Helvetica.
    """
    outline = re.search(r' (?:d|points)="([^"]+)"', node[0])
    if outline is None:
        return node[0]
    xs = [float(x) for x in re.findall(r"(-?[\d.]+),", outline[1])]
    middle = f'text-anchor="middle" x="{(min(xs) + max(xs)) / 2:.2f}"'
    return re.sub(r'text-anchor="start" x="[^"]*"', middle, node[0])


def converted(svg: str, format: str) -> bytes:
    """An SVG as ``svg``, ``pdf`` or ``png``. Raises CompileError E522 where that fails."""
    if format == "svg":
        return svg.encode()
    pdf = _pdf(svg)
    return pdf if format == "pdf" else _png(pdf)


def side_by_side(drawings: Sequence[str], ground: str) -> str:
    """One SVG of several, from left to right, their tops in line."""
    if len(drawings) == 1:
        return drawings[0]
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    roots = [ET.fromstring(drawing) for drawing in drawings]
    sizes = [(_points(root.get("width")), _points(root.get("height"))) for root in roots]
    width = sum(w for w, _ in sizes) + GAP * (len(sizes) - 1)
    height = max(h for _, h in sizes)
    page = ET.Element(f"{{{SVG}}}svg", width=f"{width:g}pt", height=f"{height:g}pt")
    page.set("viewBox", f"0 0 {width:g} {height:g}")
    ET.SubElement(page, f"{{{SVG}}}rect", width=f"{width:g}", height=f"{height:g}", fill=ground)
    left = 0.0
    for index, (root, (w, _)) in enumerate(zip(roots, sizes, strict=True)):
        place = ET.SubElement(page, f"{{{SVG}}}g", transform=f"translate({left:g} 0)")
        for element in root.iter():
            if "id" in element.attrib:
                element.set("id", f"network{index}-{element.get('id')}")
        place.extend(list(root))
        left += w + GAP
    text = ET.tostring(page, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n{text}\n'


def _points(length: str | None) -> float:
    return float((length or "0").removesuffix("pt"))


def _run(command: str, source: str, format: str) -> bytes:
    try:
        done = subprocess.run([command, f"-T{format}"], input=source.encode(), capture_output=True)
    except OSError as reason:
        raise problem("E522", f"{command} cannot be run: {reason.strerror}") from None
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        told = f": {said[-1]}" if said else ""
        raise problem("E522", f"{command} failed to lay the graph out{told}")
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


def _pdf(svg: str) -> bytes:
    from reportlab.graphics import renderPDF
    from svglib.svglib import svg2rlg

    made = svg2rlg(BytesIO(svg.encode()))
    if made is None:
        raise problem("E522", "the drawing cannot be converted to PDF", "draw SVG instead")
    return bytes(renderPDF.drawToString(made, invariant=True))


def _png(pdf: bytes) -> bytes:
    import pypdfium2

    document = pypdfium2.PdfDocument(pdf)
    image = document[0].render(scale=PNG_SCALE).to_pil()
    stream = BytesIO()
    image.save(stream, "PNG", dpi=(72 * PNG_SCALE,) * 2)
    return stream.getvalue()
