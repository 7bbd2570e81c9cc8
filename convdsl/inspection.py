"""Looks into a network at work: sheets of what every layer makes of an input, and of filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convdsl import compiler
from convdsl.diagnostics import problem
from convdsl.graph import Graph
from convdsl.runtime.program import Program
from convdsl.views.drawing import sheets
from convdsl.views.drawing.captions import row_text, shown
from convdsl.views.summary import rows, summarise

Array = np.ndarray


def activation_sheet(program: Program, graph: Graph, arrays: Sequence[Array], **more: Any) -> bytes:
    """The feature maps of the first of some inputs, layer by layer, as PNG.

    ``program`` has the weights; ``more`` goes to `compiler.compile`, for a program whose outputs
    are the results of all layers: for each row of the summary that of its last layer.
    """
    table = rows(summarise(graph).layers)
    results = {node.name: node.outputs[0] for node in graph.nodes}
    ends = tuple((row[-1].name, results[row[-1].name]) for row in table)
    inner = compiler.compile(graph.replace(outputs=ends), **more)
    inner.update(program.weights)
    found = inner(*(array[:1] for array in arrays))
    values = found if isinstance(found, tuple) else (found,)
    sections = [
        sheets.maps(variable.name, array[0])
        for variable, array in zip(graph.inputs, arrays, strict=True)
    ]
    for row, value in zip(table, values, strict=True):
        heading = f"{row[0].name}   {shown(row[-1].output)}   {row_text(tuple(row))}"
        sections.append(sheets.maps(heading, value[0]))
    return sheets.sheet(f"{graph.name}: activations", sections)


def filter_sheet(program: Program, graph: Graph) -> bytes:
    """The filters of the first layer that has some, as PNG.

    Raises CompileError E524 where no layer has any.
    """
    for node in graph.nodes:
        rank = node.data[0].type.rank
        weights = [v for v in node.weights if v.role == "parameter" and len(v.type.shape) > rank]
        if not rank or not weights:
            continue
        array = program.parameters[weights[0].name]
        window = array.shape[-rank:]
        # With a table of connections there is one window for each, and no axis of channels.
        array = array.reshape(len(array), -1, *window)
        heading = f"{weights[0].name}   {node.op.caption(*(v.type for v in node.data))}"
        return sheets.sheet(f"{graph.name}: filters", [sheets.filters(heading, array)])
    raise problem("E524", f"`{graph.name}` has no layer with filters")
