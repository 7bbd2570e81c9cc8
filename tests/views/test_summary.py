"""The summary: the seed's rows in text and Markdown, and the contract's JSON."""

import json

from built import Net, lenet

from convdsl.graph import Scope
from convdsl.ops.attributes import Word
from convdsl.views import summarise


def test_text_is_an_aligned_table():
    assert summarise(lenet()).text().splitlines()[:6] == [
        "LeNet: The LeNet of the seed's code.",
        "",
        "layer  op                           output    parameters     MACs  receptive field",
        "----------------------------------------------------------------------------------",
        "image  input                        1@28x28",
        "C1     conv 6@5x5 pad=2 -> sigmoid  6@28x28          156  117,600              5x5",
    ]


def test_text_ends_in_totals():
    *_, total, _, first, second = summarise(lenet()).text().splitlines()
    assert total.split() == ["total", "61,706", "416,520", "28x28"]
    assert first.startswith("61,706 parameters; 416,520 multiply-adds and ")
    assert second.startswith("activations 58.4 kB, at most ")


def test_markdown_shows_the_arithmetic_of_the_seeds_table():
    lines = summarise(lenet()).markdown().splitlines()
    assert "| --- | --- | --- | ---: | ---: | ---: |" in lines
    row = "| C1 | conv 6@5x5 pad=2 -> sigmoid | 6@28x28 | 5·5·1·6 + 6 = 156 | 117,600 | 5x5 |"
    assert row in lines


def test_json_is_the_contracts():
    found = json.loads(json.dumps(summarise(lenet()).as_json()))
    assert found["network"] == "LeNet"
    assert found["input"] == [["image", [1, 28, 28]]]
    assert found["output"] == [["logits", [10]]]
    assert found["params"] == found["trainable_params"] == 61_706
    assert found["buffers"] == 0
    assert found["macs"] == 416_520
    assert found["receptive_field"] == [28, 28]
    assert found["peak_activation_bytes"] > 0
    assert len(found["layers"]) == len(lenet().nodes)
    first, second = found["layers"][:2]
    assert first | {
        "name": "C1", "op": "conv", "path": [], "inputs": ["image"], "output": [6, 28, 28],
        "params": 156, "macs": 117_600, "receptive_field": [5, 5], "stride": [1, 1],
    } == first  # fmt: skip
    assert second["inputs"] == ["C1"]
    assert sum(layer["flops"] for layer in found["layers"]) == found["flops"]
    assert "why" not in first


def test_why_in_text_and_json():
    summary = summarise(lenet())
    layers = summary.as_json(why=True)["layers"]
    assert layers[0]["why"] == {
        "dense_weights": 3_687_936,
        "sparse_weights": 117_600,
        "shared_weights": 150,
        "saved_by_sparsity": 31.36,
        "saved_by_sharing": 784.0,
    }
    assert "why" not in layers[1]
    assert "C1     3,687,936  117,600     150" in summary.text(why=True)
    assert "| C1 | 3,687,936 | 117,600 | 150 | 31.4× | 784× |" in summary.markdown(why=True)


def test_a_batch_multiplies_costs_and_says_so():
    summary = summarise(lenet(), batch=4)
    assert summary.as_json()["macs"] == 4 * 416_520
    assert "for a batch of 4" in summary.text()


def branching():
    net = Net(2, 6, 6)
    path = (Scope("unit1", "unit"),)
    x = net.conv(2, 3, 3, name="unit1.a", pad=1, path=path)
    net.apply("relu", name="unit1.relu", path=path)
    gate = net.apply("avg", Word("global"), name="gate")
    net.combine(x, gate, name="scaled")
    return net.graph(documentation="What it is.\n\nMore of it.")


def test_rows_that_read_elsewhere_say_so_and_paths_are_kept():
    summary = summarise(branching())
    text = summary.text()
    assert "<- unit1.a, gate" in text
    assert "Net: What it is." in text
    assert "More of it." not in text
    assert summary.layers[0].as_json()["path"] == ["unit1"]


def test_what_is_read_elsewhere_too_keeps_its_own_row():
    """The map before the activation is scaled later, so they are two rows."""
    names = [line.split()[0] for line in summarise(branching()).text().splitlines()[4:8]]
    assert names == ["image", "unit1.a", "unit1.relu", "gate"]


def test_long_strings_are_left_out_of_the_table_only():
    from dataclasses import replace

    summary = summarise(lenet())
    layer = replace(summary.layers[0], notation='conv 2@3x3 connect="XXXXXXXX XXXXXXXX"')
    assert layer.brief == 'conv 2@3x3 connect="..."'
    assert layer.as_json()["notation"] == layer.notation


def test_a_summary_prints_itself():
    assert repr(summarise(lenet())) == str(summarise(lenet())) == summarise(lenet()).text()
