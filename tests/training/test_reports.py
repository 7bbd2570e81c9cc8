"""Pictures after an evaluation: from commands, of the worst mistakes, as people see images."""

import shutil
from io import BytesIO

import numpy as np
import pytest
from datasets import image_folder
from PIL import Image

import convdsl
import convdsl.cli.train
from convdsl.cli import main
from convdsl.runtime import inputs
from convdsl.runtime.inputs import InputSpec
from convdsl.training import reports
from convdsl.training.data import from_arrays, open_data
from convdsl.training.evaluation import Evaluation, evaluate

COLOURS = """cnn 1
net Colours {
  input 3@6x8 mean=[0.4, 0.5, 0.6] std=[0.2, 0.2, 0.2] labels=["dog", "cat"]
  conv 2@3x3 -> relu
  dense 2
  train { epochs=1, batch=4, lr=0.001, val=0.25 }
}
"""


def evaluation(labels, predicted, losses):
    labels, predicted = np.array(labels), np.array(predicted)
    chances = np.full(len(labels), 0.5)
    return Evaluation(np.arange(len(labels)), labels, predicted, chances, np.array(losses))


def test_worst_are_the_wrong_ones_with_the_highest_losses():
    found = evaluation([0, 1, 0, 1, 0], [1, 1, 1, 0, 1], [1.0, 9.0, 3.0, 2.0, 3.0])
    assert found.worst.tolist() == [2, 4, 3, 0]
    assert (found.samples, found.accuracy, found.loss) == (5, 0.2, 3.6)


def test_evaluating_tells_of_each_example_what_its_scores_do():
    net = convdsl.load_source("net N {\n  input 4\n  dense 3\n}\n")
    random = np.random.default_rng(0)
    x, y = random.standard_normal((10, 4)).astype(np.float32), np.arange(10) % 3
    program = net.compile(batch=4)
    found = evaluate(program, from_arrays(x, y, InputSpec("x", (4,))), np.array([7, 2, 9, 0, 1]))
    weight, bias = program.parameters.values()
    logits = weight @ x[found.indices].T + bias[:, None]
    chances = np.exp(logits) / np.exp(logits).sum(axis=0)
    assert found.indices.tolist() == [7, 2, 9, 0, 1]
    np.testing.assert_array_equal(found.labels, y[found.indices])
    np.testing.assert_array_equal(found.predicted, logits.argmax(axis=0))
    np.testing.assert_allclose(found.probability, chances.max(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.losses, -np.log(chances[found.labels, range(5)]), rtol=1e-5)


@pytest.mark.parametrize(
    "preprocessing",
    [
        {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]},
        {"range": [0, 255], "order": "bgr"},
        {"range": [-0.1, 1.175], "invert": True},
    ],
)
def test_people_see_images_as_they_were_before_preprocessing(preprocessing):
    spec = InputSpec("image", (3, 5, 7), preprocessing)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7), np.uint8)
    seen = inputs.visible(inputs.from_pixels(pixels, spec), spec)
    np.testing.assert_allclose(seen, pixels / 255, atol=1e-6)


def test_arrays_are_seen_from_their_least_value_to_their_largest():
    x = np.array([[-1.0, 0.0, 3.0], [2.0, 2.0, 2.0]], np.float32)
    data = from_arrays(x, np.array([0, 1]), InputSpec("x", (3,)))
    np.testing.assert_array_equal(data.seen([0, 1]), [[0, 0.25, 1], [0, 0, 0]])


def test_mistakes_show_the_image_itself(tmp_path):
    spec = InputSpec.of(convdsl.load_source(COLOURS).graph.inputs[0])
    data = open_data(image_folder(tmp_path / "data", 3), spec, 2)
    sheet = reports.worst_mistakes(evaluation([0] * 3, [0, 1, 0], [1.0] * 3), data, "Colours")
    page = np.asarray(Image.open(BytesIO(sheet)))
    assert (page == [10, 100, 200]).all(axis=-1).sum() == 128 * 96


def stopped(*given):
    """Somebody presses Ctrl-C."""
    raise KeyboardInterrupt


@pytest.fixture
def given(tmp_path):
    program = tmp_path / "colours.cnn"
    program.write_text(COLOURS)
    return program, image_folder(tmp_path / "data", 16)


def test_evaluate_draws_what_is_asked_for(given, tmp_path, capsys):
    program, data = given
    weights = tmp_path / "w.safetensors"
    convdsl.load(program).compile().save(weights)
    line = ["evaluate", str(program), "--data", str(data), "--weights", str(weights)]
    files = [tmp_path / name for name in ("c.svg", "c.png", "m.png")]
    svg, png, mistakes = map(str, files)
    assert main([*line, "--confusion", svg, "--mistakes", mistakes]) == 0
    assert main([*line, "--confusion", png]) == 0
    assert "Colours: confusion" in files[0].read_text()
    assert all(Image.open(file).width > 100 for file in files[1:])
    assert main([*line, "--mistakes", svg]) == 1
    assert main([*line, "--confusion", "c.txt"]) == 1
    assert capsys.readouterr().err.count("E520") == 2


def test_train_draws_the_test_part_also_where_it_was_stopped_there(
    given, tmp_path, capsys, monkeypatch
):
    program, folder = given
    data, out = tmp_path / "parts", tmp_path / "out"
    for part in ("train", "test"):
        shutil.copytree(folder, data / part)
    line = ["train", str(program), "--data", str(data), "--out", str(out), "--threads", "1"]
    with monkeypatch.context() as patched:
        patched.setattr(convdsl.cli.train, "worst_mistakes", stopped)
        assert main(line) == 130
    assert "`--resume` goes on from there" in capsys.readouterr().err
    assert main([*line, "--resume"]) == 0
    assert "test: 32 examples" in capsys.readouterr().out
    drawn = (out / "confusion.svg").read_text()
    assert "Colours, test: confusion" in drawn
    # Classes are in the order that the program declares, not in that of the folders' names.
    assert drawn.index(">dog</text>") < drawn.index(">cat</text>")
    assert Image.open(out / "mistakes.png").width > 100
    assert main([*line, "--resume"]) == 0
    assert "finished" in capsys.readouterr().out


def test_without_a_test_part_what_was_held_out_is_evaluated(given, tmp_path, capsys):
    program, data = given
    out = tmp_path / "out"
    line = ["train", str(program), "--data", str(data), "--threads", "1", "--out"]
    assert main([*line, str(out)]) == 0
    assert "validation: 8 examples" in capsys.readouterr().out
    assert main([*line, str(tmp_path / "all"), "--val", "0"]) == 0
    assert "right ->" not in capsys.readouterr().out
    assert not (tmp_path / "all" / "confusion.svg").exists()


def test_a_test_part_without_images_is_told_before_training(given, tmp_path, capsys):
    program, folder = given
    data = tmp_path / "parts"
    shutil.copytree(folder, data / "train")
    for name in ("cat", "dog"):
        (data / "test" / name).mkdir(parents=True)
    out = ["--out", str(tmp_path / "out")]
    assert main(["train", str(program), "--data", str(data), *out]) == 1
    told = capsys.readouterr()
    assert "has no images" in told.err
    assert "epoch" not in told.out


def test_an_array_without_test_examples_is_told_before_training(given, tmp_path, capsys):
    program, _ = given
    x, y = np.zeros((8, 3, 6, 8), np.float32), np.arange(8) % 2
    np.savez(tmp_path / "d.npz", x=x, y=y, x_test=x[:0], y_test=y[:0])
    out = ["--out", str(tmp_path / "out")]
    assert main(["train", str(program), "--data", str(tmp_path / "d.npz"), *out]) == 1
    told = capsys.readouterr()
    assert "has no examples" in told.err
    assert "epoch" not in told.out


def test_one_class_alone_is_never_mistaken(given, tmp_path, capsys):
    program, folder = given
    shutil.rmtree(folder / "dog")
    text = program.read_text().replace("dense 2", "dense 1").replace('"dog", ', "")
    program.write_text(text)
    out = tmp_path / "out"
    line = ["train", str(program), "--data", str(folder), "--threads", "1", "--out", str(out)]
    assert main(line) == 0
    told = capsys.readouterr().out
    assert "validation: 4 examples, loss 0.0000, 100.00% right" in told
    assert "-0.0" not in told
    assert Image.open(out / "mistakes.png").width > 100


def test_a_network_that_gives_a_map_is_refused(tmp_path, capsys):
    program = tmp_path / "map.cnn"
    program.write_text("net Map {\n  input 3@6x8\n  conv 2@1x1\n}\n")
    data = str(image_folder(tmp_path / "data", 4))
    assert main(["train", str(program), "--data", data, "--out", str(tmp_path / "out")]) == 1
    assert main(["evaluate", str(program), "--data", data, "--weights", "none"]) == 1
    assert capsys.readouterr().err.count("E572") == 2
    assert not (tmp_path / "out").exists()
