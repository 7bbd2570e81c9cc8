"""Normalisation: batch, group, layer, instance and local response normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from convdsl.graph import Builder, Initialiser, Node, TensorType, Value
from convdsl.ops.attributes import Choice, Count, Flag, Real, Word, attribute
from convdsl.ops.base import Caption, Mistake, Op, Problem, Sample, Weight, Window, op, single
from convdsl.ops.exchange import mean_over_processes
from convdsl.ops.expressions import Number, cast, power, sqrt
from convdsl.ops.families import BATCH, operand
from convdsl.ops.linear import along
from convdsl.ops.primitive import Reshape, compute

if TYPE_CHECKING:
    import numpy as np

ONES, ZEROS = Initialiser("ones"), Initialiser("zeros")


def _affine(channels: int) -> tuple[Weight, Weight]:
    return Weight("scale", (channels,), ONES), Weight("shift", (channels,), ZEROS)


def _per_channel(array: np.ndarray, rank: int) -> np.ndarray:
    return array.reshape(-1, *(1,) * rank)


@op("bn")
@dataclass(frozen=True)
class BatchNorm(Op):
    """Batch normalisation: (x − mean) / √(variance + eps) · scale + shift, channel by channel.

    In training, mean and variance are those of the batch (the biased variance, Σ(x − mean)²/n), and
    the running statistics move by `momentum` towards them, the variance unbiased (n/(n − 1)). In
    inference the running statistics are used. (Ioffe and Szegedy 2015) Where several processes
    train, a recipe's `batch_norm` says whether the batch is each one's part of it or all of it.

    Weights: `scale`, `shift`; buffers: `mean`, `variance` (one value per channel each).
    """

    category: ClassVar[str] = "normalisation"
    samples: ClassVar[Sequence[Sample]] = (
        Sample("bn", "3@4x5"),
        Sample("bn eps=0.001 momentum=0.01", "3@6"),
        Sample("bn affine=off", "5"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("bn 3", "3@4x5", "E106"),
        Mistake("bn eps=-1", "3@4x5", "E201"),
    )

    eps: float = attribute(
        Real(low=0, open_low=True), "what is added to the variance", default=1e-5
    )
    momentum: float = attribute(
        Real(low=0, high=1), "how fast running statistics move", default=0.1
    )
    affine: bool = attribute(Flag(), "whether scale and shift are learned", default=True)

    def caption(self, *x: TensorType) -> Caption:
        return Caption("BN")

    def weights(self, *x: TensorType) -> tuple[Weight, ...]:
        shape = (x[0].channels,)
        statistics = (
            Weight("mean", shape, ZEROS, "buffer"),
            Weight("variance", shape, ONES, "buffer"),
        )
        return (*(_affine(x[0].channels) if self.affine else ()), *statistics)

    def result(self, *x: TensorType) -> TensorType:
        return x[0]

    def flops(self, *x: TensorType) -> int:
        # A multiplication and an addition per element, once scale and shift are folded.
        return 2 * x[0].size

    def _parts(self, node: Node) -> tuple[Value, Value | None, Value | None, Value, Value]:
        x, *rest = node.inputs
        scale, shift = (rest[0], rest[1]) if self.affine else (None, None)
        return x, scale, shift, rest[-2], rest[-1]

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...]:
        x, scale, shift, mean, variance = self._parts(node)
        return (_normalise(b, node, x, mean, variance, scale, shift, self.eps),)

    def specialise(
        self, b: Builder, node: Node, training: bool, processes: int
    ) -> tuple[Value, ...] | None:
        if not training:
            return None
        x, scale, shift, running_mean, running_variance = self._parts(node)
        kind = running_mean.type
        own_mean = compute(b, operand(0), [x], x.type, kind, mean=True)
        mean = mean_over_processes(b, own_mean, processes)
        apart = operand(0) - operand(1)
        own_variance = compute(b, apart * apart, [x, mean], x.type, kind, mean=True)
        variance = mean_over_processes(b, own_variance, processes)
        m = self.momentum
        count = cast(BATCH) * float(math.prod(x.type.spatial) * processes)
        unbiased = compute(b, operand(0) * (count / (count - 1.0)), [variance], kind)
        for running, now in ((running_mean, mean), (running_variance, unbiased)):
            moved = operand(0) * (1 - m) + operand(1) * m
            b.assign(running, compute(b, moved, [running, now], kind))
        normalised = _Normalised(self.eps, x.type, self.affine, processes)
        affine = (scale, shift) if scale is not None and shift is not None else ()
        return (b.add(normalised, x, mean, variance, *affine, name=node.name),)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        x, *rest = inputs
        rank = x.ndim - 2
        mean, variance = (_per_channel(a, rank) for a in rest[-2:])
        y = (x - mean) / np.sqrt(variance + self.eps)
        if self.affine:
            y = y * _per_channel(rest[0], rank) + _per_channel(rest[1], rank)
        return np.asarray(y, x.dtype)


def _normalise(
    b: Builder,
    node: Node,
    x: Value,
    mean: Value,
    variance: Value,
    scale: Value | None,
    shift: Value | None,
    eps: float,
) -> Value:
    """x·factor + offset, both computed per channel first."""
    kind = mean.type
    inverse = Number(1.0) / sqrt(operand(0) + eps)
    if scale is None or shift is None:
        factor = compute(b, inverse, [variance], kind)
        offset = compute(b, -(operand(0) * operand(1)), [mean, factor], kind)
    else:
        factor = compute(b, operand(1) * inverse, [variance, scale], kind)
        offset = compute(b, operand(2) - operand(0) * operand(1), [mean, factor, shift], kind)
    y = operand(0) * operand(1) + operand(2)
    return compute(b, y, [x, factor, offset], x.type, name=node.name)


@dataclass(frozen=True)
class _Normalised(Op):
    """A value by the mean and variance of its own batch; its gradient goes through those, too.

    Inputs: the value, its mean and its biased variance, then scale and shift if ``affine``. These
    two are of all ``processes``, each of which has an equal part of the batch.
    """

    kind: ClassVar[str] = "bn.normalised"
    category: ClassVar[str] = "normalisation"
    arity: ClassVar[int | None] = None
    eps: float
    x: TensorType
    affine: bool
    processes: int

    def result(self, *x: TensorType) -> TensorType:
        return self.x

    def flops(self, *x: TensorType) -> int:
        return 2 * self.x.size

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...]:
        x, mean, variance, *affine = node.inputs
        scale, shift = affine or (None, None)
        return (_normalise(b, node, x, mean, variance, scale, shift, self.eps),)

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        """With x̂ = (x − mean)/σ and n elements to a channel:

        dx = scale/σ·(dy − Σdy/n − x̂·Σ(dy·x̂)/n), dscale = Σ(dy·x̂), dshift = Σdy.
        (Ioffe and Szegedy 2015)

        Where several processes have parts of the batch, the loss of each is the mean over its own
        part: the mean of such sums over all parts is what n elements of one part are to be
        compared with.
        """
        x, mean, variance, *affine = node.inputs
        upstream, kind = single(dy), mean.type
        own_total = compute(b, operand(0), [upstream], x.type, kind)
        total = mean_over_processes(b, own_total, self.processes)
        apart = operand(1) - operand(2)
        own_moment = compute(b, operand(0) * apart, [upstream, x, mean], x.type, kind)
        moment = mean_over_processes(b, own_moment, self.processes)
        inverse = compute(b, 1.0 / sqrt(operand(0) + self.eps), [variance], kind)
        count = cast(BATCH) * float(math.prod(x.type.spatial))
        factor = inverse
        if affine:
            factor = compute(b, operand(0) * operand(1), [inverse, affine[0]], kind)
        slope = compute(
            b,
            -(operand(0) * operand(1) * operand(1) * operand(2)) / count,
            [factor, inverse, moment],
            kind,
        )
        level = compute(
            b,
            -(operand(0) * operand(1)) / count - operand(2) * operand(3),
            [factor, total, slope, mean],
            kind,
        )
        dx = operand(0) * operand(1) + operand(2) * operand(3) + operand(4)
        found: list[Value | None] = [
            compute(b, dx, [upstream, factor, x, slope, level], x.type) if needs[0] else None,
            None,
            None,
        ]
        if affine:
            found += [compute(b, operand(0) * operand(1), [moment, inverse], kind), total]
        return found


@dataclass(frozen=True)
class _Grouped(Op):
    """Each image's channels in groups, each group to mean 0 and (biased) variance 1."""

    category: ClassVar[str] = "normalisation"

    eps: float = attribute(
        Real(low=0, open_low=True), "what is added to the variance", default=1e-5
    )
    affine: bool = attribute(Flag(), "whether scale and shift are learned", default=True)

    def count(self, x: TensorType) -> int:
        """The number of groups."""
        raise NotImplementedError

    def weights(self, *x: TensorType) -> tuple[Weight, ...]:
        return _affine(x[0].channels) if self.affine else ()

    def result(self, *x: TensorType) -> TensorType:
        if x[0].channels % self.count(x[0]):
            raise Problem(
                "E204",
                f"{x[0].channels} channels do not divide into {self.count(x[0])} groups",
                attribute="groups",
            )
        return x[0]

    def flops(self, *x: TensorType) -> int:
        # Mean (1), variance (3), normalisation (2), scale and shift (2), per element.
        return (8 if self.affine else 6) * x[0].size

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...]:
        x, *affine = node.inputs
        groups = self.count(x.type)
        split, rows = TensorType((groups, x.type.size // groups)), TensorType((groups,))
        flat = b.add(Reshape(split), x)
        mean = compute(b, operand(0), [flat], split, rows, mean=True)
        apart = operand(0) - operand(1)
        variance = compute(b, apart * apart, [flat, mean], split, rows, mean=True)
        y = apart / sqrt(operand(2) + self.eps)
        normal = b.add(Reshape(x.type), compute(b, y, [flat, mean, variance], split))
        if not affine:
            return (normal,)
        scaled = operand(0) * operand(1) + operand(2)
        return (compute(b, scaled, [normal, *affine], x.type, name=node.name),)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        x = inputs[0]
        flat = x.reshape(x.shape[0], self.count(TensorType(x.shape[1:])), -1)
        y = (flat - flat.mean(2, keepdims=True)) / np.sqrt(flat.var(2, keepdims=True) + self.eps)
        y = y.reshape(x.shape)
        if self.affine:
            y = y * _per_channel(inputs[1], x.ndim - 2) + _per_channel(inputs[2], x.ndim - 2)
        return np.asarray(y, x.dtype)


@op("group_norm")
@dataclass(frozen=True)
class GroupNorm(_Grouped):
    """Group normalisation: each image's channels in groups, each group to mean 0 and variance 1.

    Then times `scale` plus `shift`, weights with one value per channel each. The variance is the
    biased one. (Wu and He 2018)
    """

    samples: ClassVar[Sequence[Sample]] = (
        Sample("group_norm 2", "4@3x5"),
        Sample("group_norm 3 eps=0.001", "6@7"),
        Sample("group_norm 2 affine=off", "4@2x3"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("group_norm 3", "4@3x5", "E204"),
        Mistake("group_norm", "4@3x5", "E104"),
    )

    groups: int = attribute(Count(), "the number of groups", notation="value")

    def count(self, x: TensorType) -> int:
        return self.groups


@op("layer_norm")
@dataclass(frozen=True)
class LayerNorm(_Grouped):
    """Layer normalisation: each image's whole map to mean 0 and variance 1.

    Then times `scale` plus `shift`, weights with one value per channel each. (Ba, Kiros and Hinton
    2016; group normalisation with one group)
    """

    samples: ClassVar[Sequence[Sample]] = (
        Sample("layer_norm", "4@3x5"),
        Sample("layer_norm eps=0.001 affine=off", "6"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("layer_norm 3", "4@3x5", "E106"),)

    def count(self, x: TensorType) -> int:
        return 1


@op("instance_norm")
@dataclass(frozen=True)
class InstanceNorm(_Grouped):
    """Instance normalisation: each channel of each image to mean 0 and variance 1.

    Then times `scale` plus `shift`, weights with one value per channel each. (Ulyanov, Vedaldi and
    Lempitsky 2016)
    """

    spatial: ClassVar[bool] = True
    samples: ClassVar[Sequence[Sample]] = (
        Sample("instance_norm", "4@3x5"),
        Sample("instance_norm affine=off", "2@7"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("instance_norm 3", "4@3x5", "E106"),
        Mistake("instance_norm", "7", "E203"),
    )

    def count(self, x: TensorType) -> int:
        return x.channels


@op("lrn")
@dataclass(frozen=True)
class LocalResponseNorm(Op):
    """Local response normalisation: x / (k + alpha/n · Σ x²)^beta over n neighbouring channels.

    The sum runs over the channels from c − n//2 to c + (n − 1)//2 that exist, as PyTorch's (ONNX's
    leans the other way for even n). With `over=within` it runs over the n×n spatial window of the
    same channel instead. The 2012 paper's alpha is not divided by n: its 1e-4 with n = 5 is
    `alpha=0.0005` here. (Krizhevsky, Sutskever, Hinton 2012)
    """

    category: ClassVar[str] = "normalisation"
    samples: ClassVar[Sequence[Sample]] = (
        Sample("lrn 5", "7@3x4"),
        Sample("lrn 3 alpha=0.5 beta=0.5 k=2", "4@5"),
        Sample("lrn 2 alpha=1", "4@3x3"),
        Sample("lrn 3 alpha=0.5 over=within", "2@5x4"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("lrn", "7@3x4", "E104"),
        Mistake("lrn 0", "7@3x4", "E201"),
        Mistake("lrn 5 over=all", "7@3x4", "E201"),
    )

    size: int = attribute(Count(), "the number of neighbours", notation="value")
    alpha: float = attribute(Real(), "the weight of the sum", default=1e-4)
    beta: float = attribute(Real(), "the exponent", default=0.75)
    k: float = attribute(Real(low=0, open_low=True), "the constant", default=1.0)
    over: str = attribute(
        Choice(options=("channels", "within")), "what is summed over", default=Word("channels")
    )

    def caption(self, *x: TensorType) -> Caption:
        return Caption("LRN")

    def result(self, *x: TensorType) -> TensorType:
        return x[0]

    def flops(self, *x: TensorType) -> int:
        terms = self.size if self.over == "channels" else self.size ** x[0].rank
        # A square; the sum; scale, constant, power, division.
        return (terms + 5) * x[0].size

    def sees(self, *x: TensorType) -> Window | None:
        if self.over == "channels":
            return None
        rank = x[0].rank
        return Window((self.size,) * rank, (1,) * rank, (self.size // 2,) * rank)

    def _axes(self, x: TensorType) -> range:
        return range(1) if self.over == "channels" else range(1, len(x.shape))

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...]:
        (x,) = node.inputs
        total = compute(b, operand(0) * operand(0), [x], x.type)
        count = 1
        for axis in self._axes(x.type):
            extent = x.type.shape[axis]
            total = along(b, total, axis, _band(extent, self.size))
            count *= self.size
        base = operand(1) * (self.alpha / count) + self.k
        y = operand(0) * power(base, -self.beta)
        return (compute(b, y, [x, total], x.type, name=node.name),)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        (x,) = inputs
        total, count = x * x, 1
        for axis in self._axes(TensorType(x.shape[1:])):
            rows = [
                np.take(total, _neighbours(c, self.size, x.shape[axis + 1]), axis + 1)
                for c in range(x.shape[axis + 1])
            ]
            total = np.stack([r.sum(axis + 1) for r in rows], axis + 1)
            count *= self.size
        return np.asarray(x / (self.k + self.alpha / count * total) ** self.beta, x.dtype)


def _neighbours(c: int, size: int, extent: int) -> range:
    return range(max(0, c - size // 2), min(extent, c + (size - 1) // 2 + 1))


def _band(extent: int, size: int) -> tuple[tuple[tuple[int, float], ...], ...]:
    return tuple(tuple((k, 1.0) for k in _neighbours(c, size, extent)) for c in range(extent))
