"""The recipe of a training: what a program's `train` section and the flags before it come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from convdsl.diagnostics import CompileError, Diagnostic, Span, did_you_mean
from convdsl.graph import Choice, Setting
from convdsl.ops.losses import CrossEntropy, Loss, NegativeLogLikelihood, SoftCrossEntropy
from convdsl.passes import SGD, Adam, Optimizer, Refined, RMSprop
from convdsl.runtime.inputs import InputSpec
from convdsl.training.augment import Augmentation, make
from convdsl.training.schedules import SCHEDULES, Constant, Schedule


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; every field has a setting of the language behind it.

    ``lr`` is the rate that the ``schedule`` multiplies; in the first ``warmup`` epochs it rises to
    that. ``val`` is the share of the training data that is held out, to choose the best weights by.
    Where several processes train, ``batch`` is of all together, and ``batch_norm`` says whose
    statistics it uses: ``local``, of the process's part, or ``synchronised``, of all of it.
    """

    loss: Loss = field(default_factory=CrossEntropy)
    optimizer: Refined = field(default_factory=lambda: Refined(SGD(momentum=0.9)))
    lr: float = 0.05
    schedule: Schedule = field(default_factory=Constant)
    warmup: float = 0.0
    batch: int = 64
    batch_norm: str = "local"
    epochs: int = 10
    augment: tuple[Augmentation, ...] = ()
    val: float = 0.1
    seed: int = 0

    def rate(self, epoch: float) -> float:
        """The learning rate when that many epochs, a fraction included, are gone."""
        rising = min(1.0, epoch / self.warmup) if self.warmup else 1.0
        return self.lr * rising * self.schedule.factor(epoch, self.epochs)


@dataclass(frozen=True)
class _Kind:
    """An optimiser that recipes know: how it is made, and the settings that it takes."""

    make: Callable[..., Optimizer]
    takes: Mapping[str, Any]
    lr: float = 1e-3
    momentum: float | None = None


def _adamw(**given: Any) -> Optimizer:
    return Adam(decoupled=True, **given)


_ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
OPTIMIZERS: Mapping[str, _Kind] = {
    "sgd": _Kind(SGD, {"nesterov": False}, 0.05, 0.9),
    "adam": _Kind(Adam, _ADAM),
    "adamw": _Kind(_adamw, _ADAM),
    "rmsprop": _Kind(RMSprop, {"smoothing": 0.99, "eps": 1e-8}, momentum=0.0),
}
"""All optimisers by the name that recipes know them by."""
LOSSES = {loss.kind: loss for loss in (CrossEntropy, NegativeLogLikelihood, SoftCrossEntropy)}
"""The losses that compare scores with classes."""
BATCH_NORMS = {name: name for name in ("local", "synchronised")}
"""Of what batch normalisation takes the statistics where several processes train."""


def resolve(settings: Sequence[Setting], flags: Sequence[Setting], input: InputSpec) -> Recipe:
    """The recipe that a program's settings make, with those of the flags in their place.

    Raises CompileError E101, E103 or E201 for what there is not, and E564 for an augmentation that
    cannot be applied to the network's ``input``.
    """
    found = {s.name: s for s in (*settings, *flags)}
    values = {name: s.value for name, s in found.items()}
    optimizer, lr = _optimizer(values, found)
    augment = tuple(_augmentation(c, found["augment"], input) for c in values.get("augment", ()))
    plain = {n: values[n] for n in ("warmup", "batch", "epochs", "val", "seed") if n in values}
    return Recipe(
        loss=_loss(values, any(a.mixes for a in augment)),
        optimizer=optimizer,
        lr=values.get("lr", lr),
        schedule=_schedule(values.get("schedule", Choice("constant"))),
        augment=augment,
        batch_norm=_batch_norm(values.get("batch_norm", Choice("local"))),
        **plain,
    )


def _optimizer(values: Mapping[str, Any], found: Mapping[str, Setting]) -> tuple[Refined, float]:
    choice: Choice = values.get("optimizer", Choice("sgd"))
    kind = _named("an optimiser", choice, OPTIMIZERS)
    given = _parameters(choice, kind.takes)
    if "weight_decay" in values:
        given["weight_decay"] = values["weight_decay"]
    if kind.momentum is not None:
        given["momentum"] = values.get("momentum", kind.momentum)
    elif "momentum" in values:
        _refuse("E103", f"`{choice.name}` has no momentum", found["momentum"].name_span)
    if given.get("nesterov") and not given["momentum"]:
        _refuse("E201", "`nesterov` needs a momentum above 0", choice.span)
    refined = Refined(
        kind.make(**given),
        clip=values.get("clip", 0.0),
        spare_vectors=values.get("spare_vectors", False),
        average=values.get("average", 0.0),
    )
    return refined, kind.lr


def _loss(values: Mapping[str, Any], mixed: bool) -> Loss:
    smoothing = values.get("label_smoothing", 0.0)
    choice: Choice = values.get("loss", Choice("soft_cross_entropy" if mixed else "cross_entropy"))
    kind: type[CrossEntropy | NegativeLogLikelihood] = _named("a loss", choice, LOSSES)
    _parameters(choice, {})
    if mixed is not (kind is SoftCrossEntropy):
        wanted = "`mixup` is" if mixed else "classes are"
        _refuse("E201", f"`{choice.name}` does not fit: {wanted} trained otherwise", choice.span)
    if kind is SoftCrossEntropy:
        return SoftCrossEntropy(label_smoothing=smoothing)
    return kind(label_smoothing=smoothing)


def _batch_norm(choice: Choice) -> str:
    name: str = _named("a batch normalisation", choice, BATCH_NORMS)
    _parameters(choice, {})
    return name


def _schedule(choice: Choice) -> Schedule:
    kind: type[Schedule] = _named("a schedule", choice, SCHEDULES)
    made = kind()
    given = _parameters(choice, {f.name: getattr(made, f.name) for f in fields(made)})
    made = kind(**given)
    if getattr(made, "every", 1) < 1:
        _refuse("E201", "`every` takes a whole number of at least 1", choice.places["every"])
    if not 0 < getattr(made, "peak", 0.5) < 1:
        _refuse("E201", "`peak` takes a number between 0 and 1", choice.places["peak"])
    return made


def _augmentation(choice: Choice, setting: Setting, input: InputSpec) -> Augmentation:
    try:
        return make(choice.name, choice.given, input)
    except CompileError as error:
        (found,) = error.diagnostics
        raise CompileError(
            Diagnostic(found.code, found.message, choice.span or setting.span, help=found.help)
        ) from None


# -- choices ---------------------------------------------------------------------------------


def _named(what: str, choice: Choice, known: Mapping[str, Any]) -> Any:
    if choice.name in known:
        return known[choice.name]
    noun = what.partition(" ")[2]
    help = did_you_mean(choice.name, known) or (f"there are {', '.join(f'`{k}`' for k in known)}",)
    _refuse("E101", f"there is no {noun} called `{choice.name}`", choice.span, *help)
    raise AssertionError("it was refused")


def _parameters(choice: Choice, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a choice, each of the kind that its default is."""
    found = {}
    for name, value in choice.given.items():
        place = choice.places.get(name)
        if name not in defaults:
            known = ", ".join(f"`{k}`" for k in defaults)
            help = did_you_mean(name, defaults) or (f"its parameters are {known or 'none'}",)
            _refuse("E103", f"`{choice.name}` has no parameter `{name}`", place, *help)
        wanted = _wanted(value, defaults[name])
        if wanted:
            _refuse("E201", f"`{name}` of `{choice.name}` takes {wanted}", place)
        found[name] = tuple(value) if isinstance(value, list) else value
    return found


def _wanted(value: Any, default: Any) -> str:
    """What a parameter takes, where the value is not that; else nothing."""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "`on` or `off`"
    if isinstance(default, tuple):
        whole = isinstance(value, list) and all(type(v) is int for v in value)
        return "" if whole else "a list of epochs"
    if isinstance(value, bool | list):
        return "a number"
    if isinstance(default, int):
        return "" if type(value) is int else "a whole number"
    return "" if 0 <= value <= 1 else "a number from 0 to 1"


def _refuse(code: str, message: str, span: Span | None, *help: str) -> None:
    raise CompileError(Diagnostic(code, message, span, help=help))
