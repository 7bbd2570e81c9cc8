"""The README and the documents are true: every program, command and example in them is run."""

import re
import shlex

import pytest
from conftest import ROOT

import convdsl
from convdsl.cli import main

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(kind):
    """The fenced blocks of a kind, whose fences come in pairs."""
    pieces = re.split(r"^```(\w*)\n", README, flags=re.MULTILINE)
    found = [text for mark, text in zip(pieces[1::4], pieces[2::4], strict=True) if mark == kind]
    assert found
    return found


def test_the_program_holds_its_expectations():
    (text,) = [block for block in blocks("") if block.startswith("cnn 1")]
    network = convdsl.load_source(text)
    assert len(network.expectations) >= 10
    assert network.verify() == ()


def test_the_diagnostic_is_what_is_printed(tmp_path, monkeypatch, capsys):
    (shown,) = [block for block in blocks("") if block.startswith("error")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.cnn").write_text("net Small {\n  input 3@8x8\n  conv 4@9x9\n}\n")
    assert main(["check", "small.cnn"]) == 1
    assert shown.strip() in capsys.readouterr().err


def test_the_python_runs(tmp_path, monkeypatch, capsys):
    (code,) = blocks("python")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "61706" in capsys.readouterr().out
    assert (tmp_path / "lenet.safetensors").exists()


LANGUAGE = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"^```cnn\n(.*?)^```", LANGUAGE, re.M | re.S))
def test_the_language_references_programs_hold(text):
    from convdsl.diagnostics import Source
    from convdsl.language import net_names, parse

    names = [n for n in net_names(parse(Source("language.md", text))) if n != "Family"]
    assert names
    for name in names:
        network = convdsl.load_source(text, name)
        assert network.expectations
        assert network.verify() == ()


def test_the_names_are_those_of_the_reference():
    assert "`C1.bn1.shift`" in LANGUAGE
    net = convdsl.load_source("net T { input 3@9x9\n C1: conv 6@5x5 -> bn -> tanh }")
    names = [v.name for v in net.graph.parameters]
    assert names == ["C1.weight", "C1.bias", "C1.bn1.scale", "C1.bn1.shift"]


def commands():
    (text,) = blocks("sh")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [line[1:] for line in lines if line[0] == "tools/run" and len(line) > 1]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_the_commands_work(command, tmp_path, monkeypatch):
    networks = [str(p) for p in sorted((ROOT / "networks").glob("*.cnn"))]
    arguments = networks if "networks/*.cnn" in command else []
    command = [word for word in command if word != "networks/*.cnn"] + arguments
    monkeypatch.chdir(tmp_path)
    assert main(command) == 0


def test_the_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 10
    for link in links:
        assert (ROOT / link).exists(), link
