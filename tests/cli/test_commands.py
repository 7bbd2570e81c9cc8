"""The commands of the contract that compile nothing: output, exit status, diagnostics."""

import json
import os
import subprocess
import sys

import pytest

from convdsl import cli, resources
from convdsl.cli import COMMANDS, networks
from convdsl.cli.output import wants_colour
from convdsl.ops import registry


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(convdsl, command):
    ran = convdsl(command, "--help")
    assert ran.status == 0
    assert ran.out.startswith(f"usage: convdsl {command}")


def test_help_lists_the_commands(convdsl):
    ran = convdsl("--help")
    assert ran.status == 0
    assert all(f"  {command} " in ran.out for command in COMMANDS)
    assert convdsl("--version").out.startswith("convdsl ")


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["no_such_command"],
        ["summary"],
        ["summary", "lenet", "--format", "xml"],
        ["summary", "lenet", "--batch", "0"],
        ["summary", "lenet", "--set", "classes"],
        ["summary", "lenet", "--input-size", "3@axb"],
        ["draw", "lenet"],
        ["draw", "lenet", "-o", "x.svg", "--depth", "-1"],
        ["draw", "lenet", "-o", "x.svg", "--show", "beauty"],
        ["compile", "lenet"],
        ["run", "lenet", "--top", "many"],
        ["run", "lenet", "--backward", "--output", "y.npy"],
    ],
    ids=" ".join,
)
def test_a_malformed_line_has_status_2(convdsl, line):
    ran = convdsl(*line)
    assert ran.status == 2
    assert ran.err.startswith("usage: convdsl")
    assert ran.out == ""


# -- check -----------------------------------------------------------------------------------


def test_bundled_networks_hold():
    """As a user does it: in a process of its own."""
    files = sorted(str(p) for p in resources.networks_directory().glob("*.cnn"))
    assert files
    command = [sys.executable, "-m", "convdsl", "check", *files]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) >= len(files)


def test_check_has_a_verdict_per_network(convdsl, tiny):
    ran = convdsl("check", tiny, "lenet")
    assert ran.status == 0
    first, second = ran.out.splitlines()
    assert first == f"{tiny}:Tiny: ok, 151 parameters, 4 expectations hold"
    assert "LeNet: ok, 61,706 parameters" in second


def test_a_changed_number_fails_with_the_caret_under_it(convdsl, tiny):
    tiny.write_text(tiny.read_text().replace("params=40", "params=41"))
    ran = convdsl("check", tiny)
    assert ran.status == 1
    assert ran.out == f"{tiny}:Tiny: 1 of 4 expectations failed\n"
    line, caret = ran.err.splitlines()[3:5]
    assert line[caret.index("^") : caret.rindex("^") + 1] == "41"
    assert "expected 41 parameters, `C1` has 40" in ran.err


def test_check_as_json(convdsl, tiny):
    assert json.loads(convdsl("check", "--format", "json", tiny).out) == []
    tiny.write_text(tiny.read_text().replace("params=151", "params=150"))
    ran = convdsl("check", "--format", "json", tiny, "no_such_file.cnn")
    assert ran.status == 1
    first, second = json.loads(ran.out)
    assert (first["code"], first["severity"]) == ("E302", "error")
    assert (first["line"], first["column"], first["end_line"], first["end_column"]) == (
        9,
        17,
        9,
        20,
    )
    assert first["file"] == str(tiny)
    assert isinstance(first["help"], list)
    assert (second["code"], second["line"]) == ("E508", None)
    assert ran.err == ""


def test_check_goes_on_after_a_file_with_an_error(convdsl, tiny):
    ran = convdsl("check", "no_such_file.cnn", tiny)
    assert ran.status == 1
    assert [line.split(": ")[1] for line in ran.out.splitlines()] == ["1 error", "ok, 151 parameters, 4 expectations hold"]  # fmt: skip  # noqa: E501


def test_a_warning_is_no_failure(convdsl, tmp_path):
    path = tmp_path / "w.cnn"
    path.write_text("cnn 1\nnet W {\n  input 1@8x8\n  x = conv 4@3x3\n  dense 3\n}\n")
    ran = convdsl("check", path)
    assert ran.status == 0
    assert ran.err.startswith("warning[W")
    assert json.loads(convdsl("check", "--format", "json", path).out)[0]["severity"] == "warning"


# -- summary ---------------------------------------------------------------------------------


def test_summary_of_the_seeds_alexnet(convdsl):
    found = json.loads(convdsl("summary", "AlexNet", "--format", "json").out)
    assert found["params"] == 62_378_344
    assert found["layers"][0]["output"] == [96, 55, 55]


def test_summary_formats(convdsl, tiny):
    assert "C1      conv 4@3x3 -> relu" in convdsl("summary", tiny).out
    assert (
        "| C1 | conv 4@3x3 -> relu |"
        in convdsl("summary", f"{tiny}:Tiny", "--format", "markdown").out
    )
    assert "Why convolutions" in convdsl("summary", tiny, "--why").out


def test_summary_plot(convdsl, tiny, tmp_path):
    target = tmp_path / "plot.svg"
    ran = convdsl("summary", tiny, "--plot", target, "--format", "json")
    assert json.loads(ran.out)["params"] == 151
    assert "C1: 3×3 conv, 4, relu" in target.read_text(encoding="utf-8")
    ran = convdsl("summary", tiny, "--plot", tmp_path / "plot.dot")
    assert (ran.status, ran.err.count("E520")) == (1, 1)


def test_parameters_and_inputs_can_be_overridden(convdsl, tiny):
    line = ["summary", tiny, "--set", "classes=7", "--input-size", "1@10x12", "--format", "json"]
    found = json.loads(convdsl(*line).out)
    assert found["input"] == [["image", [1, 10, 12]]]
    assert found["output"][0][1] == [7]
    assert convdsl("summary", tiny, "--set", "clases=7").status == 1


def test_input_sizes_are_types():
    assert networks.input_size("3@192x256") == ("", (3, 192, 256))
    assert networks.input_size("left=784") == ("left", (784,))
    assert networks.assignment(" classes = 10 ") == ("classes", "10")


# -- draw ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "extension"),
    [
        *(("graph", e) for e in ("svg", "png", "pdf", "dot")),
        *(("volumes", e) for e in ("svg", "png", "pdf")),
        *(("blocks", e) for e in ("svg", "png", "pdf", "md")),
    ],
)
def test_draw_writes_every_style_and_format(convdsl, tiny, tmp_path, style, extension):
    target = tmp_path / f"picture.{extension}"
    assert convdsl("draw", tiny, "lenet", "--style", style, "-o", target).status == 0
    assert target.stat().st_size > 300


def test_the_options_of_draw(convdsl, tmp_path):
    target = tmp_path / "x.dot"
    line = ["draw", "resnet18", "-o", target, "--depth", "1", "--show", "macs"]
    assert convdsl(*line, "--theme", "dark", "--direction", "right").status == 0
    text = target.read_text()
    for expected in ("basic × 2", "multiply-adds: 0", "rankdir=LR", 'bgcolor="#1B1E23"'):
        assert expected in text
    assert convdsl("draw", "resnet18", "-o", target, "--block", "conv3.basic1").status == 0
    assert "conv3.basic1: basic" in target.read_text()
    ran = convdsl("draw", "resnet18", "-o", target, "--block", "conv3.basic9")
    assert (ran.status, ran.err.count("E523")) == (1, 1)


def test_draw_tells_what_it_cannot_write(convdsl, tiny, tmp_path):
    assert "E520" in convdsl("draw", tiny, "-o", tmp_path / "x.gif").err
    ran = convdsl("draw", tiny, "-o", tmp_path / "x.dot", "--style", "volumes")
    assert (ran.status, ran.err.count("E520")) == (1, 1)
    ran = convdsl("draw", tiny, "-o", tmp_path / "no_such_folder" / "x.svg")
    assert (ran.status, ran.err.count("E504")) == (1, 1)


# -- ops, explain ----------------------------------------------------------------------------


def test_ops(convdsl):
    assert all(name in convdsl("ops").out for name in registry())
    assert "conv 4@3x3" in convdsl("ops", "conv").out
    ran = convdsl("ops", "conw")
    assert ran.status == 1
    assert "did you mean `conv`" in ran.err


def test_explain(convdsl):
    ran = convdsl("explain", "e202")
    assert ran.out.startswith("E202: a window that does not fit its input\n\n")
    assert "Wrong:\n\n    cnn 1\n" in ran.out
    assert "E202  a window" in convdsl("explain").out
    ran = convdsl("explain", "E999")
    assert (ran.status, "E541" in ran.err) == (1, True)


# -- fmt -------------------------------------------------------------------------------------


def test_fmt_rewrites_checks_and_shows_the_difference(convdsl, tmp_path):
    path = tmp_path / "ugly.cnn"
    ugly = "cnn 1\nnet A   {\n input 1@8x8\n      dense   3\n}\n"
    path.write_text(ugly)
    ran = convdsl("fmt", "--check", path)
    assert (ran.status, "would be reformatted" in ran.err) == (1, True)
    ran = convdsl("fmt", "--diff", path)
    assert ran.status == 0
    assert {"-      dense   3", "+  dense 3"} <= set(ran.out.splitlines())
    assert path.read_text() == ugly
    assert convdsl("fmt", path).status == 0
    assert path.read_text() == "cnn 1\nnet A {\n  input 1@8x8\n  dense 3\n}\n"
    assert convdsl("fmt", "--check", path).status == 0


def test_fmt_filters_the_standard_input(convdsl, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("net A   { input 4; dense 3 }"))
    ran = convdsl("fmt", "-")
    assert ran.status == 0
    assert "net A {" in ran.out


def test_fmt_leaves_a_file_with_an_error_as_it_is(convdsl, tmp_path):
    path = tmp_path / "wrong.cnn"
    path.write_text("net A {")
    ran = convdsl("fmt", path)
    assert (ran.status, path.read_text()) == (1, "net A {")
    assert ran.err.startswith("error[E0")


# -- bad files -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "summary", "draw", "fmt"])
def test_files_that_are_no_programs_are_told(convdsl, tmp_path, command):
    garbage = tmp_path / "garbage.cnn"
    garbage.write_bytes(bytes(range(256)))
    text = tmp_path / "text.cnn"
    text.write_text("Dear Sir or Madam,\n\x00\x01")
    for path in (garbage, text, tmp_path, tmp_path / "missing.cnn"):
        more = ["-o", tmp_path / "x.svg"] if command == "draw" else []
        ran = convdsl(command, path, *more)
        assert ran.status == 1, path
        assert ran.err.startswith("error[E")


def test_an_unknown_name_is_told(convdsl):
    ran = convdsl("summary", "lenett")
    assert ran.status == 1
    assert "did you mean" in ran.err


# -- the outside -----------------------------------------------------------------------------


def test_an_internal_error_has_status_3(convdsl, monkeypatch):
    def broken(arguments):
        raise RuntimeError("the roof\nfell in")

    monkeypatch.setattr(cli, "_run", broken)
    ran = convdsl("ops")
    assert ran.status == 3
    assert ran.err.splitlines() == [
        "internal error, please report: RuntimeError: the roof",
        "  = help: CONVDSL_TRACEBACK=1 shows where it happened",
    ]


def test_a_traceback_is_there_for_those_who_ask(monkeypatch, capsys):
    monkeypatch.setenv("CONVDSL_TRACEBACK", "1")
    assert cli.main(["summary", "no_such_file.cnn"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_what_the_system_refuses_is_told(convdsl, monkeypatch):
    def full(arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli, "_run", full)
    assert convdsl("ops").err.strip() == "error[E500]: No space left on device"


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m convdsl summary alexnet --format json | head -c 1"
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_signs_that_a_terminal_lacks_are_replaced():
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "convdsl", "ops", "conv"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0
    assert "?" in ran.stdout


class Terminal:
    def isatty(self):
        return True


def test_colour_is_for_terminals_that_want_it(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


@pytest.mark.parametrize(
    ("line", "without"),
    [
        (["--help"], "numba numpy lark graphviz PIL"),
        (["check", "lenet"], "numba numpy graphviz PIL"),
        (["summary", "alexnet"], "numba numpy graphviz PIL"),
        (["ops", "conv"], "numba numpy lark graphviz PIL"),
        (["explain", "E202"], "numba numpy lark graphviz PIL"),
        (["draw", "lenet", "-o", "/dev/null/x.svg"], "numba numpy pypdfium2"),
        (["fmt", "--check", "-"], "numba numpy graphviz PIL"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_commands_import_what_they_need_alone(line, without):
    code = (
        "import sys; from convdsl.cli import main; "
        f"main({line!r}); print([m for m in {without.split()!r} if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], input="net A {\n}\n", capture_output=True, text=True
    )
    assert ran.stdout.splitlines()[-1] == "[]", ran.stderr


def test_blanks_at_the_ends_of_lines_mean_nothing(convdsl, tmp_path):
    path = tmp_path / "blanks.cnn"
    path.write_text(
        "cnn 1 \nnet A { \n  input 1@8x8\t\n  conv 4@3x3 -> \n    relu \n    -> relu \n"
        "  dense (3 + \n  1) \n} \n"
    )
    ran = convdsl("check", path)
    assert (ran.status, ran.out) == (0, f"{path}:A: ok, 620 parameters, nothing expected\n")
