"""What programs mean: values, flows, blocks, networks, inputs, outputs and expectations."""

import pytest

from convdsl.diagnostics import CompileError, Source
from convdsl.graph import Scope, extents
from convdsl.graph.graph import verify
from convdsl.language import elaborate, net_names, parse


def elaborated(text, *more, **named):
    result = elaborate(parse(Source("net.cnn", text)), *more, **named)
    verify(result.graph)
    return result


def network(body, head="", input="3@8x8", **named):
    lines = "".join(f"  {line}\n" for line in body.strip().split("\n"))
    text = f"{head}\nnet T {{\n  input {input}\n{lines}}}\n"
    return elaborated(text, **named).graph


def layers(graph):
    """What is computed, in short: the ops in order with their results."""
    return [f"{n.op.notation()}: {n.outputs[0].type}" for n in graph.nodes]


def shape(graph):
    (output,) = graph.outputs
    return str(output[1].type)


def failing(text, *more, **named):
    with pytest.raises(CompileError) as raised:
        elaborated(text, *more, **named)
    return [(d.code, d.message) for d in raised.value.diagnostics]


# -- values ----------------------------------------------------------------------------------

VALUES = [
    ("1 + 2 * 3", 7),
    ("(1 + 2) * 3", 9),
    ("7 // 2 + 7 % 4", 6),
    ("-7 // 2", -4),
    ("2**3**2", 512),
    ("-2**2 + 5", 1),
    ("10 - 3 - 2", 5),
    ("8-3", 5),
    ("1_000", 1000),
    ("2K + 1", 2001),
    ("3 if 1 < 2 else 4", 3),
    ("3 if 1 < 2 and not true else 4", 4),
    ("5 if 0 < 1 < 2 else 6", 5),
    ("5 if 0 < 1 == 2 else 6", 6),
    ("1 if true == on else 2", 1),
    ('1 if "a" == "a" else 2', 1),
    ("[4, 5, 6][1]", 5),
    ("[4, 5, 6][-1]", 6),
    ("([1, 2] + [3] * 2)[3]", 3),
    ("len([1, 2, 3]) + len([])", 3),
    ("max(3, 9) - min([4, 2])", 7),
    ("sum([1, 2, 3])", 6),
    ("floor(2.9) + ceil(2.1) + round(0.5) + abs(-3)", 9),
    ("3x5[1]", 5),
    ("in.c + in.h * 100 + in.w * 10_000 + in.rank + in.size * 0", 90_805),
]


@pytest.mark.parametrize(("text", "value"), VALUES, ids=[v[0] for v in VALUES])
def test_values(text, value):
    value = value if value > 0 else -value
    sign = "" if text != "-7 // 2" else "0 - "
    assert shape(network(f"x = {text}\ndense {sign}x", input="3@8x9")) == str(value)


def test_what_decides_is_evaluated_alone():
    assert shape(network("n = [1]\ndense 2 if false and n[5] == 1 else 3")) == "3"
    assert shape(network("n = [1]\ndense n[5] if n[0] == 2 else n[0]")) == "1"


def test_names_last_to_the_end_of_the_block_and_can_be_bound_again():
    body = "x = 1\nfor i in 0..3 { x = x + i; last = i }\nif true { y = 10 }\ndense x + y + last"
    assert shape(network(body)) == "16"


def test_loops_go_over_ranges_and_lists():
    assert shape(network("n = 0\nfor c in [4, 5] { n = n + c }\ndense n")) == "9"
    assert (
        shape(network("n = 1\nfor i in 3..3 { n = 0 }\nfor i in 2..4 { n = n * i }\ndense n"))
        == "6"
    )


def test_numbers_of_a_minus_between_arguments():
    graph = network("leaky_relu -0.5\nx = 3\nleaky_relu x-4")
    assert [n.op.notation() for n in graph.nodes] == ["leaky_relu -0.5", "leaky_relu -1"]


# -- flows -----------------------------------------------------------------------------------


def test_statements_take_the_current_value_and_make_the_next():
    graph = network("conv 4@3x3\nrelu -> max 2x2\ndense 10")
    assert layers(graph) == [
        "conv 4@3x3: 4@6x6",
        "relu: 4@6x6",
        "max 2x2: 4@3x3",
        "dense 10: 10",
    ]


def test_a_named_value_leaves_the_current_one():
    graph = network("y = conv 4@3x3\nrelu\ny -> tanh")
    assert [n.data[0].name for n in graph.nodes] == ["image", "image", "conv1"]


def test_a_label_names_the_value_as_well():
    graph = network("A: conv 4@3x3 -> relu\nmax 2x2\nA -> tanh")
    assert graph.nodes[-1].data[0].name == "A.relu1"


def test_a_flow_in_parentheses_starts_from_what_flows_there():
    graph = network("relu -> concat(in, conv 2@1x1)")
    assert [v.name for v in graph.nodes[-1].data] == ["relu1", "image", "conv1"]
    assert graph.nodes[1].data[0].name == "relu1"


def test_tensors_among_the_arguments_take_the_place_of_the_current_value():
    graph = network("y = conv 3@1x1\nrelu\nconcat(y, in)\nadd(in) if false else tanh")
    assert [v.name for v in graph.nodes[2].data] == ["conv1", "image"]


def test_an_op_that_needs_two_values_adds_the_current_one():
    graph = network("conv 3@3x3 pad=half\nadd(in)")
    assert [v.name for v in graph.nodes[1].data] == ["conv1", "image"]


def test_lists_of_tensors_are_joined():
    body = "all = []\nfor i in 1..4 { all = all + [in -> conv i@1x1] }\nconcat(all)"
    assert shape(network(body)) == "6@8x8"


def test_arithmetic_on_tensors_is_an_op():
    graph = network("y = relu\ny + in * y - in -> tanh")
    assert [n.op.kind for n in graph.nodes] == ["relu", "mul", "add", "sub", "tanh"]


def test_ops_as_arguments_of_ops_that_join():
    graph = network("concat(relu, tanh, unit)", "block unit { conv 2@1x1 }")
    assert shape(graph) == "8@8x8"


def test_windows_strides_and_padding_in_all_notations():
    body = """
x = 2
in -> conv 4@3x5 /2x1 pad=[(0, 1), (2, 2)] dilation=2
in -> conv 2*x@(x)x(x + 1) /(x)x(1)
in -> conv (x + 1)@x /x
in -> conv x**2@3 /2
in -> max 3 /2
in -> max 3x3 /(x - 1)
in -> conv(4@3x3, stride=2, pad=half)
in -> conv filters=4 window=3x3
k = 5x5
in -> conv 4@k pad=same
in -> max k
"""
    assert layers(network(body)) == [
        "conv 4@3x5 /2x1 dilation=2 pad=[(0, 1), (2, 2)]: 4@3x4",
        "conv 4@2x3 /2x1: 4@4x6",
        "conv 3@2x2 /2: 3@4x4",
        "conv 4@3x3 /2: 4@3x3",
        "max 3x3 /2: 3@3x3",
        "max 3x3 /1: 3@6x6",
        "conv 4@3x3 /2 pad=1: 4@4x4",
        "conv 4@3x3: 4@6x6",
        "conv 4@5x5 pad=2: 4@8x8",
        "max 5x5: 3@1x1",
    ]


@pytest.mark.parametrize(
    ("word", "size"), [("valid", 3), ("half", 5), ("same", 5), ("same_lower", 5), ("full", 6)]
)
def test_padding_words(word, size):
    # 9 elements, a window of 4 at a stride of 2
    assert shape(network(f"conv 2@4 /2 pad={word}", input="1@9")) == f"2@{size}"


def test_rank_comes_from_the_value():
    for rank in (1, 2, 3):
        sizes = (9,) * rank
        graph = network("conv 4@3 -> max 2", input=f"2@{extents(sizes)}")
        assert graph.outputs[0][1].type.shape == (4, *(3,) * rank)


def test_connections_as_a_table_and_as_a_predicate():
    table = network('conv 2@3x3 connect="X. XX .X"').parameters[0]
    predicate = network("conv 2@3x3 connect=(s, d) => s == d or s == d + 1").parameters[0]
    assert table.type.shape == predicate.type.shape == (4, 3, 3)


# -- defaults --------------------------------------------------------------------------------


def test_defaults_hold_from_where_they_stand_to_the_end_of_the_body():
    body = """
in -> conv 4@3x3
default conv { bias=off }
if true {
  default conv { pad=half }
  in -> conv 4@3x3
}
in -> conv 4@3x3
in -> conv 4@3x3 bias=on
"""
    assert [n.op.notation() for n in network(body).nodes] == [
        "conv 4@3x3",
        "conv 4@3x3 pad=1 bias=off",
        "conv 4@3x3 bias=off",
        "conv 4@3x3",
    ]


def test_defaults_are_lexical():
    head = "block late { conv 4@3x3 }\ndefault conv { pad=half }\nblock unit { conv 4@3x3 }"
    graph = network("default conv { bias=off }\nin -> unit\nin -> late\nin -> conv 4@3x3", head)
    assert [n.op.notation() for n in graph.nodes] == [
        "conv 4@3x3 pad=1",
        "conv 4@3x3",
        "conv 4@3x3 pad=1 bias=off",
    ]


def test_defaults_give_way_to_every_notation():
    body = "default max { stride=2, window=3x3 }\nin -> max\nin -> max 2x2 /1"
    assert [n.op.notation() for n in network(body).nodes] == ["max 3x3 /2", "max 2x2 /1"]


# -- blocks ----------------------------------------------------------------------------------

RESNET = """
default conv { pad=half, bias=off }
block basic(c, s=1) {
  y = in -> conv c@3x3 /s -> bn -> relu -> conv c@3x3 -> bn
  yield y + (in -> shortcut(c, s)) -> relu
}
block shortcut(c, s) {
  if s == 1 and in.c == c { yield in } else { yield in -> conv c@1x1 /s -> bn }
}
"""


def test_blocks_yield_or_end_with_their_current_value():
    head = "block a { conv 4@3x3 }\nblock b { yield relu\n tanh }\nblock c { y = relu }"
    graph = network("a -> b -> c", head)
    assert [n.op.kind for n in graph.nodes] == ["conv", "relu", "relu"]
    assert graph.outputs[0][1].name == "b1.relu1"


def test_blocks_take_blocks_ops_and_tensors():
    head = """
block twice(unit: block, act: block = relu) { unit -> act -> unit }
block small { conv 2@1x1 }
block join(skip: tensor, c) { concat(in, skip) -> conv c@1x1 }
"""
    graph = network("s = relu\ntwice(small)\ntwice(small, act=tanh)\njoin(s, 7)", head)
    kinds = [n.op.kind for n in graph.nodes]
    assert kinds == ["relu", "conv", "relu", "conv", "conv", "tanh", "conv", "concat", "conv"]


def test_blocks_with_several_results():
    head = "block split { yield in -> slice 0..1, in -> slice 1..3 }"
    graph = network(
        "a, b = split\nconcat(b, a)\nin -> split -> pair", head + "\nblock pair { a, b = in }"
    )
    assert str(graph.nodes[2].outputs[0].type) == "3@8x8"


def test_blocks_may_call_themselves_with_less():
    head = "block tower(n) { if n > 0 { conv n@1x1 -> tower(n - 1) } }"
    assert shape(network("tower(5)", head)) == "1@8x8"


def test_blocks_know_the_values_of_their_file_not_of_their_caller():
    assert shape(network("wide = 7\nunit", "wide = 4\nblock unit { conv wide@1x1 }")) == "4@8x8"


def test_a_block_may_be_called_as_an_op_is():
    head = "block conv_bn(c, k, s=1) { conv c@k /s -> bn }\nblock same_as(b) { conv b }"
    graph = network("conv_bn 4 3x3\nconv_bn 4 k=3x3 s=2\nsame_as 8@1x1", head)
    assert shape(graph) == "8@2x2"


def test_a_block_hides_the_op_of_its_name():
    graph = network("relu", "block relu { tanh }")
    assert [n.op.kind for n in graph.nodes] == ["tanh"]


# -- names -----------------------------------------------------------------------------------


def parameter_names(body, head="", **named):
    return [p.name for p in network(body, head, **named).parameters]


def test_labels_name_the_op_with_weights_and_the_rest_below_it():
    graph = network("C1: conv 4@3x3 -> bn -> relu\nS2: relu -> max 2x2\nF: tanh -> dense 3")
    assert [n.name for n in graph.nodes] == [
        "C1", "C1.bn1", "C1.relu1", "S2", "S2.max1", "F.tanh1", "F",
    ]  # fmt: skip
    assert [p.name for p in graph.parameters] == [
        "C1.weight", "C1.bias", "C1.bn1.scale", "C1.bn1.shift", "F.weight", "F.bias",
    ]  # fmt: skip
    assert [n.statement for n in graph.nodes] == ["C1"] * 3 + ["S2"] * 2 + ["F"] * 2


def test_what_has_no_label_is_numbered_by_kind_within_its_scope():
    graph = network("conv 64@7x7 pad=half -> bn -> relu\nbasic(64)\nbasic(8, s=2)", RESNET)
    assert [p.name for p in graph.parameters if p.name.endswith("weight")] == [
        "conv1.weight",
        "basic1.conv1.weight",
        "basic1.conv2.weight",
        "basic2.conv1.weight",
        "basic2.conv2.weight",
        "basic2.shortcut1.conv1.weight",
    ]


def test_nodes_know_the_instances_they_are_in():
    graph = network("S: basic(8)", RESNET)
    paths = {n.name: n.path for n in graph.nodes}
    assert paths["S.conv1"] == (Scope("S", "basic"),)
    assert paths["S.shortcut1.conv1"] == (Scope("S", "basic"), Scope("shortcut1", "shortcut"))


def test_labels_in_loops_are_numbered():
    body = "for i in 0..2 { for j in 0..2 { S: conv 3@1x1 -> relu } }\nif true { A: relu } else { A: tanh }"
    assert [n.name for n in network(body).nodes][::2] == ["S1", "S2", "S3", "S4", "A"]


def test_numbering_passes_over_labels():
    body = "conv 4@1x1\nconv2: conv 4@1x1\nconv 4@1x1\nconv 4@1x1"
    assert [n.name for n in network(body).nodes] == ["conv1", "conv2", "conv3", "conv4"]


def test_parameterless_steps_and_comments_change_no_parameter_name():
    before = "C1: conv 4@3x3\nconv 4@3x3 -> bn\nb(3)\ny = conv 2@1x1\nfor i in 0..2 { conv 3@1x1 }\ndense 3"
    after = """
relu
# a comment
C1: relu -> conv 4@3x3 -> relu
conv 4@3x3 -> relu -> bn -> tanh
dropout 0.5
b(3) -> max 2x2
y = relu -> conv 2@1x1
for i in 0..2 { relu; conv 3@1x1 -> relu }
flatten -> dense 3 -> softmax
"""
    head = "block b(c) { conv c@1x1 }"
    assert parameter_names(before, head) == parameter_names(
        after, "block b(c) { relu -> conv c@1x1; relu }"
    )


def test_documentation_goes_to_the_network_and_to_the_first_node_of_a_statement():
    text = "## All\n## of it\nnet T {\n  input 3@8x8\n  ## first\n  conv 4@3x3 -> relu\n\n  ## no\n\n  tanh\n}\n"
    graph = elaborated(text).graph
    assert graph.documentation == "All\nof it"
    assert [n.documentation for n in graph.nodes] == ["first", "", ""]


# -- networks --------------------------------------------------------------------------------

FAMILY = """
block unit(c) { conv c@3x3 }
net Family(unit: block, n: int[2], classes=10, deep=false) {
  input 3@16x16
  for c in n { unit(c) }
  if deep { unit(5) }
  dense classes
} expect params=3
net Small = Family(unit, [4, 8])  expect params=11_936
net Deep = Family(unit, [4, 8], deep=true)
net Deeper = Deep(classes=3)
"""


def test_networks_that_can_be_built():
    assert net_names(parse(Source("a", FAMILY))) == ("Small", "Deep", "Deeper")
    assert failing(FAMILY)[0] == (
        "E107",
        "a.cnn defines 3 networks, and one has to be named".replace("a.cnn", "net.cnn"),
    )


def test_instances_bind_parameters():
    assert shape(elaborated(FAMILY, "Small").graph) == "10"
    assert len(elaborated(FAMILY, "Deep").graph.nodes) == 4
    assert shape(elaborated(FAMILY, "Deeper").graph) == "3"


def test_expectations_are_those_of_the_instance():
    assert [e.expected for e in elaborated(FAMILY, "Small").expectations] == [11_936]
    assert elaborated(FAMILY, "Deep").expectations == ()


@pytest.mark.parametrize(
    ("net", "overrides", "overridden"),
    [
        ("Small", {}, False),
        ("Small", {"classes": 10}, False),
        ("Small", {"classes": 7}, True),
        ("Small", {"classes": "3 + 4"}, True),
        ("Small", {"deep": True}, True),
        ("Small", {"deep": "true"}, True),
        ("Family", {"unit": "unit", "n": "[4, 8]"}, True),
        ("Family", {"unit": "relu", "n": [4, 8], "classes": 10}, True),
    ],
)
def test_overrides(net, overrides, overridden):
    text = FAMILY.replace("unit(c) }", "unit(c) }").replace("{ unit(c) }", "{ unit(c) }")
    if overrides.get("unit") == "relu":
        text = text.replace("{ unit(c) }", "{ unit }")
    result = elaborated(text, net, overrides)
    assert result.overridden == overridden
    assert shape(result.graph) == str({7: 7, "3 + 4": 7}.get(overrides.get("classes"), 10))


def test_overrides_that_do_not_fit():
    assert failing(FAMILY, "Small", {"clases": 3}) == [
        ("E103", "`Small` has no parameter `clases`")
    ]
    assert failing(FAMILY, "Small", {"n": [1, 2]}) == [("E103", "`n` is fixed by `Small`")]
    assert failing(FAMILY, "Small", {"classes": "3 +"})[0][0] == "E002"
    assert failing(FAMILY, "Small", {"classes": "ten"})[0][0] == "E101"
    assert failing(FAMILY, "Small", {"classes": object()})[0][0] == "E201"


def test_input_sizes():
    result = elaborated(FAMILY, "Small", input_sizes=[(3, 20, 24)])
    assert result.overridden
    assert result.graph.inputs[0].type.shape == (3, 20, 24)
    assert not elaborated(FAMILY, "Small", input_sizes=[(3, 16, 16)]).overridden
    by_name = elaborated(FAMILY, "Small", input_sizes={"image": (3, 9, 9)})
    assert by_name.graph.inputs[0].type.shape == (3, 9, 9)
    assert failing(FAMILY, "Small", input_sizes={"img": (3, 9, 9)})[0][0] == "E103"
    assert failing(FAMILY, "Small", input_sizes=[(3, 9, 9)] * 2)[0][0] == "E106"
    assert failing(FAMILY, "Small", input_sizes=[(3, 0, 9)])[0][0] == "E201"


# -- inputs and outputs ----------------------------------------------------------------------


def test_inputs_have_names_types_and_preprocessing():
    body = "relu"
    kinds = {"3@8x8": "image", "784": "x", "1@16": "x", "2@3x4x5": "x", "pixels: 3@8x8": "pixels"}
    for written, name in kinds.items():
        assert network(body, input=written).inputs[0].name == name
    graph = network(
        body,
        input="3@8x8 range=-0.1..1.175 mean=[0.5, 0.4, 0.3] std=2 order=bgr resize=9x12 crop=8"
        ' pad=2 invert=on labels="cat dog"',
    )
    assert dict(graph.inputs[0].attributes) == {
        "range": (-0.1, 1.175),
        "mean": (0.5, 0.4, 0.3),
        "std": (2.0,),
        "order": "bgr",
        "resize": (9, 12),
        "crop": 8,
        "pad": 2,
        "invert": True,
    }
    assert graph.labels == ("cat", "dog")


def test_several_inputs_are_taken_by_name():
    text = """
net Two {
  input left: 3@8x8
  input right: 1@8x8
  left -> conv 4@1x1
  concat(right)
  dense 2
}
"""
    graph = elaborated(text).graph
    assert [v.name for v in graph.inputs] == ["left", "right"]
    assert [v.name for v in graph.nodes[1].data] == ["conv1", "right"]


OUTPUTS = [
    ("relu", ["output"]),
    ("probabilities: softmax", ["probabilities"]),
    ("y = relu\nyield y", ["output"]),
    ("y = relu\nz = tanh\nyield y, z -> relu, z", ["y", "output2", "z"]),
    ("output aux: relu\ntanh", ["output", "aux"]),
    ("relu\noutput a: tanh\noutput b: sigmoid", ["a", "b"]),
    ("relu\noutput a: tanh\ntanh\noutput b: sigmoid\nlast: tanh", ["last", "a", "b"]),
]


@pytest.mark.parametrize(("body", "names"), OUTPUTS, ids=[o[0] for o in OUTPUTS])
def test_outputs(body, names):
    assert [name for name, _ in network(body).outputs] == names


def test_expectations_say_what_they_are_about():
    text = """
net T {
  input 3@8x8
  C1: conv 4@3x3 -> relu  expect 4@6x6, params=112, macs ~ 3.9K, rf=3x3
  max 2 expect 4@3x3
  dense 10                expect 10
} expect params=482, memory ~ 1K
"""
    claims = elaborated(text).expectations
    told = [(e.quantity, e.relation, e.expected, e.written, e.nodes) for e in claims]
    first = ("C1", "C1.relu1")
    assert told == [
        ("shape", "=", (4, 6, 6), "4@6x6", first),
        ("params", "=", 112, "112", first),
        ("macs", "~", 3900, "3.9K", first),
        ("rf", "=", (3, 3), "3x3", first),
        ("shape", "=", (4, 3, 3), "4@3x3", ("max1",)),
        ("shape", "=", (10,), "10", ("dense1",)),
        ("params", "=", 482, "482", ()),
        ("memory", "~", 1000, "1K", ()),
    ]
    assert claims[1].span.text == "112"
    assert claims[0].value.name == "C1.relu1"
    assert claims[-1].value is None


def test_expectations_in_blocks_hold_for_every_instance():
    graph_of = elaborated(
        "block b(c) { conv c@1x1 expect c@8x8 }\nnet T {\n  input 3@8x8\n  b(4)\n  b(5)\n}\n"
    )
    assert [e.expected for e in graph_of.expectations] == [(4, 8, 8), (5, 8, 8)]


def test_warnings():
    text = "net T {\n  input 3@8x8\n  y = conv 4@3x3\n  yield relu\n  tanh\n}\n"
    told = [(w.code, w.severity, w.span.text) for w in elaborated(text).warnings]
    assert told == [("W102", "warning", "tanh"), ("W101", "warning", "conv 4@3x3")]


# -- imports ---------------------------------------------------------------------------------


def test_imports(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "unit.cnn").write_text(
        "default conv { pad=half }\nwide = 4\nblock unit { conv wide@3x3 }\n"
    )
    (tmp_path / "other.cnn").write_text('import "parts/unit.cnn"\nblock other { unit -> relu }\n')
    (tmp_path / "family.cnn").write_text("net F(n) {\n  input 8\n  dense n\n}\n")
    text = """
import "other.cnn"
import "parts/unit.cnn"
import "family.cnn"
net T {
  input 3@8x8
  other -> unit -> conv 2@3x3
}
net G = F(3)
"""
    file = parse(Source(str(tmp_path / "main.cnn"), text))
    assert net_names(file) == ("T", "G")
    graph = elaborate(file, "T").graph
    assert shape(graph) == "2@6x6"
    assert [n.name for n in graph.nodes] == [
        "other1.unit1.conv1",
        "other1.relu1",
        "unit1.conv1",
        "conv1",
    ]
    assert shape(elaborate(file, "G").graph) == "3"
    assert elaborate(file, "F", {"n": 4}).graph.outputs[0][1].type.shape == (4,)


def test_imports_that_clash_or_go_in_circles(tmp_path):
    (tmp_path / "a.cnn").write_text('import "b.cnn"\nblock a { relu }\n')
    (tmp_path / "b.cnn").write_text('import "a.cnn"\nblock b { relu }\n')
    (tmp_path / "broken.cnn").write_text("block b { conv 3@ }\n")
    main = str(tmp_path / "main.cnn")

    def codes(text):
        with pytest.raises(CompileError) as raised:
            elaborate(parse(Source(main, text)))
        return [(d.code, d.span.source.name.rpartition("/")[2]) for d in raised.value.diagnostics]

    network_after = "net T {\n  input 3@8x8\n  a\n}\n"
    assert codes('import "a.cnn"\n' + network_after) == [("E108", "b.cnn")]
    (tmp_path / "b.cnn").write_text("block a { tanh }\n")
    assert codes('import "a.cnn"\n' + network_after) == [("E105", "a.cnn")]
    assert codes('import "broken.cnn"\n' + network_after)[0] == ("E002", "broken.cnn")


def test_bundled_networks_can_be_imported():
    file = parse(Source("mine.cnn", 'import "lenet.cnn"\nnet Mine = LeNet(classes=3)\n'))
    assert shape(elaborate(file, "Mine").graph) == "3"
