"""Expectations: what holds, what is said where one does not, and the conventions that explain."""

from decimal import Decimal

import pytest
from built import Net, alexnet, lenet

from convdsl.analysis import verify
from convdsl.analysis.precision import precision
from convdsl.diagnostics import Source, Span, render
from convdsl.graph import Expectation, Graph


def expect(graph: Graph, quantity: str, written: str, expected, *names: str, relation="="):
    """The diagnostics for one claim, about the nodes of these names or about the network."""
    source = Source("net.cnn", f"expect {quantity}{relation}{written}\n")
    span = Span(source, len(source.text) - 1 - len(written), len(source.text) - 1)
    by_name = {node.name: node for node in graph.nodes}
    value = by_name[names[-1]].outputs[0] if names else None
    return verify(graph, [Expectation(quantity, relation, expected, written, span, names, value)])


def told(diagnostics) -> str:
    (diagnostic,) = diagnostics
    return render(diagnostic)


def test_what_holds_is_silent():
    graph = lenet()
    assert not expect(graph, "params", "61_706", 61706)
    assert not expect(graph, "macs", "416_520", 416520)
    assert not expect(graph, "params", "62k", 62000, relation="~")
    assert not expect(graph, "shape", "6@28x28", (6, 28, 28), "C1")
    assert not expect(graph, "params", "156", 156, "C1")
    assert not expect(graph, "rf", "14", 14, "C3")
    assert not expect(graph, "rf", "14x14", (14, 14), "C3")
    assert not expect(graph, "rf", "28", 28)
    assert not expect(graph, "memory", "18816", 4 * 6 * 28 * 28, "C1")


def test_the_caret_stands_under_the_number():
    text = told(expect(lenet(), "params", "61_707", 61707))
    assert text.startswith(
        "error[E302]: expected 61_707 parameters, this network has 61_706\n"
        " --> net.cnn:1:15\n"
        "  |\n"
        "1 | expect params=61_707\n"
        "  |               ^^^^^^\n"
    )


@pytest.mark.parametrize(
    ("quantity", "expected", "code", "message"),
    [
        ("params", 157, "E302", "expected 157 parameters, `C1` has 156"),
        ("macs", 1, "E303", "expected 1 multiply-adds, `C1` has 117_600"),
        ("flops", 1, "E304", "expected 1 floating-point operations, `C1` has 239_904"),
        ("rf", 4, "E305", "expected a receptive field of 4, `C1` has a receptive field of 5"),
        ("memory", 4, "E306", "expected 4 bytes of activations, `C1` has 18_816"),
        ("shape", (6, 27, 27), "E301", "expected 6@27x27, `C1` gives 6@28x28"),
    ],
)
def test_every_quantity_has_a_code_and_both_numbers(quantity, expected, code, message):
    (diagnostic,) = expect(lenet(), quantity, str(expected), expected, "C1")
    assert (diagnostic.code, diagnostic.message) == (code, message)


def test_notes_show_how_the_number_comes_about():
    assert "5·5·1·6 + 6 = 156" in told(expect(lenet(), "params", "1", 1, "C1"))
    assert "4_704 outputs × 25 each = 117_600" in told(expect(lenet(), "macs", "1", 1, "C1"))
    shape = told(expect(lenet(), "shape", "9@9x9", (9, 9, 9), "C3"))
    assert "floor((14 + 0 − 5) / 1) + 1 = 10 for `conv 16@5x5` on 6@14x14" in shape
    assert "C1 156, C3 2_416, F5 48_120" in told(expect(lenet(), "params", "1", 1))
    assert "1 + 4 by C1 + 1 by S2 + 8 by C3" in told(expect(lenet(), "rf", "1", 1, "C3"))


def test_grouped_alexnet_is_named():
    """The second, fourth and fifth convolution of the paper see the channels of one GPU."""
    text = told(expect(alexnet(), "params", "60_965_224", 60_965_224))
    assert "splits layers over two GPUs" in text
    assert "`groups=2` on `C3`, `C6` and `C7` gives 60_965_224" in text


def test_biases_are_named():
    net = Net(3, 8, 8)
    net.conv(4, 3, 3, name="a", bias=False)
    net.conv(4, 3, 3, name="b", bias=False)
    net.apply("dense", 2, name="c")
    graph = net.graph()
    count = 27 * 4 + 36 * 4 + 64 * 2 + 2
    assert not expect(graph, "params", str(count), count)
    text = told(expect(graph, "params", str(count + 8), count + 8))
    assert f"`bias=on` on `a` and `b` gives {count + 8}" in text
    assert "leaves out the biases" in told(expect(graph, "params", str(count - 2), count - 2))


def test_other_ways_to_count_are_named():
    graph = lenet()
    assert "counts multiplications and additions apart: 833_040" in told(
        expect(graph, "macs", "833_040", 2 * 416520)
    )
    assert "feature maps alone" in told(expect(graph, "macs", "357_600", 117600 + 240000))
    assert "use `macs`" in told(expect(graph, "flops", "416_520", 416520))


def test_ceil_mode_is_named():
    net = Net(1, 12, 12)
    net.apply("max", (3, 3), stride=2, name="P")
    text = told(expect(net.graph(), "shape", "1@6x6", (1, 6, 6), "P"))
    assert "`ceil=on` here gives 1@6x6" in text


def test_the_padding_that_would_fit_is_worked_out():
    net = Net(1, 28, 28)
    net.conv(6, 5, 5, name="C")
    assert "help: `pad=2` gives 6@28x28" in told(
        expect(net.graph(), "shape", "6@28x28", (6, 28, 28), "C")
    )


def test_auxiliary_outputs_are_named():
    net = Net(1, 8, 8)
    trunk = net.conv(2, 3, 3)
    aux = net.apply("dense", 5, name="aux_head")
    net.at = trunk
    main = net.apply("dense", 3, name="head")
    graph = net.graph("Net", ("main", main), ("aux", aux))
    whole = 20 + (72 * 5 + 5) + (72 * 3 + 3)
    assert not expect(graph, "params", str(whole), whole)
    text = told(expect(graph, "params", "239", 239))
    assert "without its outputs `aux` the network has 239" in text


def test_the_stride_on_the_one_by_one_layer_is_named():
    net = Net(4, 8, 8)
    net.conv(2, 1, 1, name="a")
    net.apply("relu")
    net.conv(2, 3, 3, name="b", stride=2, pad=1)
    graph = net.graph()
    macs = 4 * 4 * 2 * 4 + 4 * 4 * 2 * 18
    assert "as in ResNet's paper" in told(expect(graph, "macs", str(macs), macs))


def test_nothing_is_guessed():
    (diagnostic,) = expect(alexnet(), "params", "62_378_345", 62_378_345)
    assert diagnostic.help == ()


@pytest.mark.parametrize(
    ("written", "unit"),
    [
        ("60M", 10**6), ("1.81G", 10**7), ("4.09e9", 10**7), ("61_706", 1), ("138_000_000", 10**6),
        ("2.5k", 100), ("0.5M", 10**5), ("7", 1),
    ],
)  # fmt: skip
def test_the_last_digit_written_is_the_precision(written, unit):
    assert precision(written) == Decimal(unit)


def test_about_holds_up_to_half_a_unit():
    graph = alexnet()  # 62,378,344
    assert not expect(graph, "params", "62M", 62_000_000, relation="~")
    assert not expect(graph, "params", "62.4M", 62_400_000, relation="~")
    text = told(expect(graph, "params", "63M", 63_000_000, relation="~"))
    assert "expected about 63M parameters, this network has 62_378_344" in text
    text = told(expect(graph, "params", "61.0M", 61_000_000, relation="~"))
    assert "expected about 61.0M" in text
