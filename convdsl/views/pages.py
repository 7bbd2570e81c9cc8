"""What the ops of the language are, as text: a list of them all, and a page for each."""

from __future__ import annotations

from convdsl.ops import Op, registry
from convdsl.ops.attributes import REQUIRED, Attribute, attributes, describe
from convdsl.views.table import Column, text_table


def op_list() -> str:
    """Every op with its kind and the first sentence of its page."""
    rows = [(name, cls.category, _first_sentence(cls)) for name, cls in registry().items()]
    columns = (Column("op"), Column("kind"), Column("does"))
    return f"{text_table(columns, rows)}\n\n`convdsl ops NAME` explains one."


def op_page(op: type[Op]) -> str:
    """The maths, the attributes and the samples of an op."""
    parts = [f"{op.kind} ({op.category})", op.documentation()]
    declared = attributes(op)
    banked = any(a.notation == "filters" for a in declared.values())
    rows = [
        (name, _notation(name, a, banked), a.kind.words, _default(a), a.doc)
        for name, a in declared.items()
    ]
    if rows:
        headings = ("attribute", "written", "takes", "default", "is")
        parts.append(text_table([Column(heading) for heading in headings], rows))
    if op.samples:
        examples = [(sample.text, sample.input) for sample in op.samples]
        parts.append(text_table((Column("example"), Column("on")), examples))
    return "\n\n".join(parts)


def _first_sentence(op: type[Op]) -> str:
    first = op.documentation().split("\n\n")[0].replace("\n", " ")
    return first.split(". ")[0].rstrip(".")


def _notation(name: str, attribute: Attribute, banked: bool) -> str:
    """Where the language writes an attribute; ``banked`` for ops written ``C@HxW``."""
    window = "@HxW" if banked else "HxW"
    places = {"filters": "C@", "window": window, "stride": "/S", "value": "value"}
    own = f"{name}="
    if attribute.notation is None:
        return own
    return f"{places[attribute.notation]} or {own}"


def _default(attribute: Attribute) -> str:
    if attribute.default is REQUIRED:
        return "required"
    return describe(attribute.default).strip("`")
