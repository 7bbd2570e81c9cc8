"""The errors corpus: programs with a mistake, whose diagnostics stand in their comments.

`# error[E202] @14: message` on the line at fault gives the column; where no comment can stand, it is
anywhere in the file with `@line:column`.
"""

import re
from pathlib import Path

import pytest

from convdsl.diagnostics import CompileError, Source, render
from convdsl.explanations import explanations
from convdsl.language import elaborate, net_names, parse

CORPUS = sorted((Path(__file__).parent / "errors").glob("*.cnn"))
MARK = re.compile(r"# error\[(?P<code>\w+)\] @(?:(?P<line>\d+):)?(?P<column>\d+): (?P<message>.*)")


def expected(text):
    """The diagnostics that the comments tell, sorted."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        for mark in MARK.finditer(line):
            at = int(mark["line"] or number), int(mark["column"])
            found.append((*at, mark["code"], mark["message"]))
    return sorted(found)


def diagnosed(path):
    """The diagnostics of all networks of a file, each once."""
    found = {}
    try:
        file = parse(Source(str(path), path.read_text(encoding="utf-8")))
        for name in net_names(file) or [None]:
            try:
                elaborate(file, name)
            except CompileError as error:
                found.update({render(d): d for d in error.diagnostics})
    except CompileError as error:
        found.update({render(d): d for d in error.diagnostics})
    return list(found.values())


def place(diagnostic):
    told = diagnostic.as_json()
    return told["line"], told["column"], told["code"], told["message"]


@pytest.mark.parametrize("path", CORPUS, ids=lambda p: p.stem)
def test_the_diagnostics_are_those_in_the_comments(path):
    wanted = expected(path.read_text(encoding="utf-8"))
    assert wanted, "the file expects nothing"
    assert sorted(map(place, diagnosed(path))) == wanted


def test_the_corpus_is_there_and_covers_the_codes_of_the_language():
    assert len(CORPUS) > 120
    told = {d[2] for path in CORPUS for d in expected(path.read_text(encoding="utf-8"))}
    known = {c for c in explanations() if re.match(r"E[0124]", c)}
    assert told == known


def test_messages_are_sentences_that_stand_alone():
    for path in CORPUS:
        for diagnostic in diagnosed(path):
            message = diagnostic.message
            assert not message.endswith((".", "!")), message
            assert not message[0].isupper(), message
            assert len(message) < 140, message
            assert not re.search(r"\b(__|ANON|LPAR|RPAR|_SEP|NEWLINE|Token)", message), message


def told(text, *more):
    """What is printed about a program."""
    with pytest.raises(CompileError) as raised:
        elaborate(parse(Source("net.cnn", text)), *more)
    return "\n\n".join(render(d) for d in raised.value.diagnostics)


def test_a_diagnostic_shows_the_calls_that_led_to_it_and_where_shapes_come_from():
    program = """\
block inner(k) {
  conv 4@k
}
block outer(k) {
  max 2x2 -> inner(k)
}
net T {
  input 3@8x8
  outer(5x7)
}
"""
    assert told(program) == (
        """\
error[E202]: the 5x7 window of `conv` does not fit its 4x4 input
 --> net.cnn:2:10
  |
2 |   conv 4@k
  |          ^
  = note: the input 3@4x4 comes from here
 --> net.cnn:5:3
  |
5 |   max 2x2 -> inner(k)
  |   -------
  = note: in `inner(5x7)`, called here
 --> net.cnn:5:14
  |
5 |   max 2x2 -> inner(k)
  |              --------
  = note: in `outer(5x7)`, called here
 --> net.cnn:9:3
  |
9 |   outer(5x7)
  |   ----------
  = help: the output's height would be floor((4 + 0 - 5) / 1) + 1 = 0; `pad=1x2` makes the window fit"""
    )


def test_long_chains_of_calls_leave_out_the_middle():
    shown = told("block b(n) { b(n + 1) }\nnet T {\n  input 3@8x8\n  b(0)\n}\n")
    assert "blocks call each other more than 64 deep" in shown
    assert "... and 58 more calls ..." in shown
    assert len(shown.split("\n")) < 60


HELP = [
    ("rulu", "did you mean `relu`"),
    ("conv 4@3x3 padding=1", "did you mean `pad`?"),
    ("conv 4@3x3 relu", "an arrow leads into an op: `-> relu`"),
    ("classes = 10\n  dense clases", "did you mean `classes`?"),
    ("conv 4@9x9", "`pad=1` makes the window fit"),
    ("conv 4@3x3 groups=2", "groups that divide both 3 channels and 4 filters: 1"),
    ("for i in 4 { relu }", "for example `0..4`"),
    ("x = 6 / 2", "whole numbers are divided by `//`"),
    ("conv 4@3×3", "`x` stands between sizes: `3x3`"),
    ("conv 4@3x3, pad=1", "arguments have spaces between them"),
    ("x = 3\n  if x -1 == 2 { relu }", "a space on both sides of its minus"),
]


@pytest.mark.parametrize(("statement", "help"), HELP, ids=[h[0] for h in HELP])
def test_help_says_how_to_mend_it(statement, help):
    assert help in told(f"net T {{\n  input 3@8x8\n  {statement}\n}}\n")


def test_an_error_in_a_block_is_told_once_however_often_it_is_called():
    shown = told(
        "block b(c) { conv c@3x3 padding=1 }\n"
        "net T {\n  input 3@8x8\n  b(3)\n  b(4)\n  in -> b(5)\n}\n"
    )
    assert shown.count("E103") == 1
    assert "in `b(3)`, called here" in shown


def test_at_most_forty_errors_are_told():
    shown = told("net T {\n  input 3@8x8\n" + "  in -> rulu\n" * 100 + "}\n")
    assert shown.count("error[") == 40
