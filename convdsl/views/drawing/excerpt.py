"""Takes one block instance out of a network, to be drawn on its own."""

from __future__ import annotations

from dataclasses import replace

from convdsl.analysis import Costs
from convdsl.diagnostics import did_you_mean, problem
from convdsl.views.summary import Layer, Summary

INPUT = "in"
"""What a block's program calls its input."""


def excerpt(summary: Summary, instance: str) -> Summary:
    """The layers of a block instance such as ``conv2.basic1``, as a network.

    Raises CompileError E523 where there is no such instance.
    """
    inside = [layer for layer in summary.layers if _is_in(layer, instance)]
    if not inside:
        known = dict.fromkeys(name for layer in summary.layers for name in _instances(layer))
        raise problem(
            "E523",
            f"`{summary.network}` has no block instance `{instance}`",
            *did_you_mean(instance, known),
        )
    names = {layer.name for layer in inside}
    read = dict.fromkeys(name for layer in inside for name in layer.inputs if name not in names)
    shown = {name: INPUT if len(read) == 1 else name for name in read}
    types = dict(summary.inputs) | {layer.name: layer.output for layer in summary.layers}
    used = {name for layer in summary.layers if layer.name not in names for name in layer.inputs}
    results = [layer for layer in inside if layer.name in used | set(summary.sources)]
    level = instance.count(".")
    renamed = tuple(
        replace(
            layer,
            inputs=tuple(shown.get(name, name) for name in layer.inputs),
            path=layer.path[level + 1 :],
        )
        for layer in inside
    )
    return replace(
        summary,
        network=f"{instance}: {inside[0].path[level].block}",
        documentation=f"Of {summary.network}.",
        inputs=tuple((shown[name], types[name]) for name in read),
        outputs=tuple((layer.name, layer.output) for layer in results),
        sources=tuple(layer.name for layer in results),
        layers=renamed,
        total=_total(inside),
    )


def _instances(layer: Layer) -> list[str]:
    """The names of the block instances that a layer lies in."""
    names = [scope.name for scope in layer.path]
    return [".".join(names[: end + 1]) for end in range(len(names))]


def _is_in(layer: Layer, instance: str) -> bool:
    return instance in _instances(layer)


def _total(layers: list[Layer]) -> Costs:
    costs = [layer.costs for layer in layers]
    return Costs(
        sum(c.parameters for c in costs),
        sum(c.buffers for c in costs),
        sum(c.macs for c in costs),
        sum(c.flops for c in costs),
        sum(c.activation_bytes for c in costs),
    )
