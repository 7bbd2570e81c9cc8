"""What people look at after an evaluation: the confusion matrix and the worst mistakes."""

from __future__ import annotations

from convdsl.training.data import Data
from convdsl.training.evaluation import Evaluation
from convdsl.views.drawing.confusion import confusion
from convdsl.views.drawing.mistakes import Mistake, contact_sheet

SHOWN = 30
"""Mistakes on a sheet."""


def confusion_matrix(found: Evaluation, data: Data, title: str) -> str:
    """Which classes were taken for which, as SVG."""
    return confusion(found.labels, found.predicted, data.classes, f"{title}: confusion")


def worst_mistakes(found: Evaluation, data: Data, title: str) -> bytes:
    """A contact sheet of the examples told wrong that have the highest losses, as PNG.

    Raises CompileError E563 where one of them is lost.
    """
    places = found.worst
    shown = places[:SHOWN].tolist()
    if not shown:
        told = f"no mistakes among {found.samples:,} examples"
    elif len(shown) < len(places):
        told = f"the worst {len(shown)} of {len(places):,} mistakes"
    else:
        told = "the only mistake" if len(shown) == 1 else f"all {len(shown)} mistakes"
    mistakes = [
        Mistake(
            data.seen(found.indices[[place]])[0],
            data.classes[found.predicted[place]],
            data.classes[found.labels[place]],
            float(found.probability[place]),
        )
        for place in shown
    ]
    return contact_sheet(f"{title}: {told}", mistakes)
