"""The semantic difference of networks."""

import json

import pytest

import convdsl
from convdsl.cli import main
from convdsl.views.difference import difference

BASE = "net A { input 3@16x16\n C1: conv 8@3x3 -> relu\n P2: max 2x2\n dense 10 }"


def changes(one, other):
    return difference(
        convdsl.load_source(one).summary(), convdsl.load_source(other).summary()
    ).changes


def test_text_that_means_the_same_is_no_change():
    body = "input 3@16x16; C1: conv 8@3x3 /1 pad=0\n relu; P2: max 2 /2; dense 10"
    same = f"net B {{ # a comment\n {body} }}"
    assert changes(BASE, same) == ()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "conv 8@3x3 ->",
            "conv 9@3x3 ->",
            {"~ C1: conv 8@3x3 -> 8@14x14 => C1: conv 9@3x3 -> 9@14x14"},
        ),
        (" -> relu", "", {"- C1.relu1: relu -> 8@14x14"}),
        ("dense 10", "dropout 0.5 -> dense 10", {"+ dropout1: dropout 0.5 -> 8@7x7"}),
    ],
)
def test_changes_are_told_layer_by_layer(old, new, expected):
    found = {str(change) for change in changes(BASE, BASE.replace(old, new))}
    assert expected <= found


def test_members_of_a_family_share_their_layers():
    found = difference(convdsl.load("resnet18").summary(), convdsl.load("resnet34").summary())
    assert {change.kind for change in found.changes} == {"added"}
    assert found.totals[0] == ("parameters", 11_689_512, 21_797_672)


def test_the_command(capsys):
    assert main(["diff", "resnet18", "resnet34"]) == 0
    text = capsys.readouterr().out
    assert "21,797,672" in text
    assert "x1.86" in text
    assert main(["diff", "lenet", "lenet", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["changes"] == []
    assert found["totals"]["parameters"] == {"before": 61_706, "after": 61_706}
