"""Networks are scikit-learn classifiers: they pass its own checks, and learn."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator

import convdsl
from convdsl.diagnostics import CompileError
from convdsl.sklearn import Classifier
from convdsl.training.augment import Crop, Mixup, PixelMean

DENSE = "cnn 1\nnet Dense(classes=2) {\n  input 4\n  dense 32 -> relu\n  dense classes\n}\n"
SMALL = """cnn 1
net Small(classes=10) {
  input 1@8x8
  conv 16@3x3 pad=half -> bn -> relu
  max 2x2
  dense 32 -> relu
  dense classes
}
"""
NOT_APPLICABLE = {
    "check_array_api_input": "arrays of other libraries than NumPy; nothing here takes them",
    "check_classifier_data_not_an_array": "data frames of pandas, which is not installed here",
}


def test_scikit_learns_own_checks_pass():
    model = Classifier(DENSE, epochs=20, batch=16, learning_rate=0.02, threads=1)
    results = check_estimator(model, on_fail=None, on_skip=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert failed == {}
    skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
    assert skipped <= set(NOT_APPLICABLE)
    assert len(results) > 50


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), np.array([f"digit {label}" for label in y])


def small(**changed) -> Classifier:
    given = {"epochs": 4, "learning_rate": 5e-3, "random_state": 0, "threads": 1}
    return Classifier(SMALL, **(given | changed))


def test_it_learns_digits_with_labels_of_any_kind(digits):
    x, y = digits
    model = small().fit(x[:1500], y[:1500])
    assert model.score(x[1500:], y[1500:]) > 0.9
    assert model.loss_curve_[-1] < model.loss_curve_[0] / 3
    shares = model.predict_proba(x[1500:])
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (model.classes_[shares.argmax(axis=1)] == model.predict(x[1500:])).all()
    # Rows are images that are laid out one after the other.
    as_images = model.predict_proba(x[:10].reshape(10, 64))
    again = small().fit(x[:1500].reshape(-1, 1, 8, 8), y[:1500])
    assert (again.predict_proba(x[:10].reshape(-1, 1, 8, 8)) == as_images).all()


def test_a_fitted_classifier_is_pickled_with_what_it_learned(digits):
    x, y = digits
    model = small(epochs=1).fit(x, y)
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict_proba(x[:50]) == model.predict_proba(x[:50])).all()
    assert not hasattr(clone(model), "weights_")


def test_the_seed_decides(digits):
    x, y = digits
    one, same, other = (small(epochs=1, random_state=s).fit(x, y) for s in (1, 1, 2))
    assert all((one.weights_[n] == same.weights_[n]).all() for n in one.weights_)
    assert any((one.weights_[n] != other.weights_[n]).any() for n in one.weights_)


def test_augmentations_are_applied_and_what_belongs_to_the_input_when_predicting(digits):
    x, y = digits
    model = small(augmentations=(Crop(pad=1), PixelMean(), Mixup()), epochs=6).fit(x, y)
    assert model.score(x, y) > 0.8
    (_, mean, _) = model.augmentations_
    np.testing.assert_allclose(mean.mean.ravel(), x.mean(axis=0), atol=1e-6)
    kept = x[:5].copy()
    model.predict(x[:5])
    assert (x[:5] == kept).all()


def test_tools_of_scikit_learn_work_with_it(digits):
    x, y = digits
    assert cross_val_score(small(), x, y, cv=2).min() > 0.8


def test_networks_take_the_shape_and_the_classes_of_the_data():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((20, 7)), np.arange(20) % 5
    model = Classifier(DENSE, epochs=1).fit(x, y)
    assert model.weights_["dense1.weight"].shape == (32, 7)
    assert model.predict_proba(x).shape == (20, 5)
    assert convdsl.load_source(model.program_).graph.inputs[0].type.shape == (7,)
    with pytest.raises(CompileError, match="no parameter `classes`"):
        Classifier("cnn 1\nnet A {\n input 7\n dense 2\n}\n").fit(x, y)


def test_scikit_learn_is_imported_by_nothing_else():
    code = (
        "import sys, pkgutil, importlib, convdsl.training;"
        "[importlib.import_module(f'convdsl.training.{m.name}')"
        " for m in pkgutil.iter_modules(convdsl.training.__path__)];"
        "import convdsl.cli; assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
