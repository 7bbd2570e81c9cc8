"""A network as a scikit-learn classifier: `fit`, `predict`, `predict_proba`, `score`.

    from convdsl.sklearn import Classifier
    model = Classifier("lenet", epochs=5).fit(x, y)      # x: N×C×height×width or N×features

Nothing else in convdsl imports this module, and only this one imports scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from convdsl.network import Network, load_source, locate, read
from convdsl.ops.losses import CrossEntropy, SoftCrossEntropy
from convdsl.passes import Adam, Optimizer, Refined
from convdsl.runtime.inputs import InputSpec, in_batches
from convdsl.runtime.program import Program
from convdsl.training.augment import Augmentation
from convdsl.training.data import from_arrays
from convdsl.training.recipe import Recipe
from convdsl.training.trainer import Trainer

Array = np.ndarray

PREDICTED_AT_ONCE = 64
"""The batch of programs that predict."""

# Not in the estimators themselves, which are copied and pickled; machine code is not.
_programs: WeakKeyDictionary[Classifier, Program] = WeakKeyDictionary()


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A network trained with cross-entropy to tell the classes of ``y`` apart.

    Parameters
    ----------
    network : a bundled name, ``PATH.cnn``, ``PATH.cnn:Name`` or the text of a program. Its input
        takes the shape of ``x``, unless ``x`` has the same number of values in rows; its parameter
        ``classes`` becomes the number of classes.
    parameters : further parameters of the network, by name.
    epochs : how often every example is seen.
    batch : examples per step; the last ones of an epoch that do not fill a batch wait for the next.
    optimizer : such as ``convdsl.SGD(momentum=0.9)``; Adam if it is not given.
    learning_rate : how far a step goes.
    augmentations : from ``convdsl.training.augment``, applied when training.
    threads : how many to use; all cores if it is not given.
    random_state : seeds first values, order and augmentation.

    Attributes
    ----------
    classes_ : the labels, sorted.
    loss_curve_ : the mean loss of every epoch.
    weights_ : all that a weights file holds, by name.
    program_ : the network's text, with its input and number of classes as trained.
    """

    def __init__(
        self,
        network: str | Path = "lenet",
        *,
        parameters: Mapping[str, object] | None = None,
        epochs: int = 10,
        batch: int = 32,
        optimizer: Optimizer | None = None,
        learning_rate: float = 1e-3,
        augmentations: Sequence[Augmentation] = (),
        threads: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.network = network
        self.parameters = parameters
        self.epochs = epochs
        self.batch = batch
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.augmentations = augmentations
        self.threads = threads
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Classifier:
        """Train from the start. X: N×C×spatial, or N×features; y: N labels of any kind.

        Raises CompileError where the network cannot be made for them or the loss is not finite,
        ValueError where they are no examples.
        """
        X, y = validate_data(self, X, y, dtype=np.float32, allow_nd=True)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        net = self._network(X.shape[1:], len(self.classes_))
        self.program_ = net.to_text()
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._train(net, X, labels, seed)
        return self

    def predict_proba(self, X: Any) -> Array:
        """N×classes: how probable every class is, in the order of ``classes_``."""
        check_is_fitted(self, "weights_")
        X = validate_data(self, X, dtype=np.float32, allow_nd=True, reset=False)
        program = self._program()
        shape = program.graph.inputs[0].type.shape
        given = np.ascontiguousarray(X).reshape(len(X), *shape)
        logits = in_batches(program, [given], program.batch)[0].astype(np.float64)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))

    def predict(self, X: Any) -> Array:
        """N labels, those of the most probable classes."""
        found = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[found])

    # -- training ----------------------------------------------------------------------------

    def _network(self, shape: tuple[int, ...], classes: int) -> Network:
        """The network with its input and its outputs as the data has them."""
        given = dict(self.parameters or {})
        sizes: list[tuple[int, ...]] = []
        net = self._made(given, sizes)
        if int(np.prod(shape)) != net.graph.inputs[0].type.size:
            sizes = [shape]
            net = self._made(given, sizes)
        if net.graph.outputs[0][1].type.shape != (classes,):
            net = self._made({**given, "classes": classes}, sizes)
        return net

    def _made(self, parameters: Mapping[str, object], sizes: Sequence[tuple[int, ...]]) -> Network:
        """The network that was asked for; one given as text has more than one line."""
        text = str(self.network)
        if "\n" in text:
            return Network(load_source(text).file, None, parameters, sizes)
        path, name = locate(text)
        return Network(read(path), name, parameters, sizes)

    def _train(self, net: Network, X: Array, labels: Array, seed: int) -> None:
        spec = InputSpec.of_graph(net.graph)
        data = from_arrays(X.reshape(len(X), *spec.shape), labels, spec, len(self.classes_))
        mixed = any(a.mixes for a in self.augmentations)
        recipe = Recipe(
            loss=SoftCrossEntropy() if mixed else CrossEntropy(),
            optimizer=Refined(self.optimizer or Adam()),
            lr=self.learning_rate,
            batch=min(self.batch, len(data)),
            epochs=self.epochs,
            augment=tuple(self.augmentations),
            seed=seed,
        )
        everything, nothing = np.arange(len(data)), np.arange(0)
        trainer = Trainer(net, recipe, data, everything, nothing, threads=self.threads)
        trainer.fit()
        self.augmentations_ = trainer.augmentations
        self.loss_curve_ = [metrics["loss"] for metrics in trainer.progress.history]
        self.weights_ = trainer.weights()
        self.n_iter_ = self.epochs
        _programs.pop(self, None)

    # -- predicting --------------------------------------------------------------------------

    def _program(self) -> Program:
        """The trained network compiled for predicting, at most once for an estimator."""
        program = _programs.get(self)
        if program is None:
            net = load_source(self.program_)
            program = net.compile(batch=PREDICTED_AT_ONCE, threads=self.threads)
            program.update(self.weights_)
            _programs[self] = program
        return program
