"""The long text of every diagnostic code, read from `codes.md` beside this file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PAGE = Path(__file__).with_name("codes.md")


@dataclass(frozen=True)
class Explanation:
    """What a code means, with a program that is wrong in this way and one that is right.

    Codes about files and devices have no programs.
    """

    code: str
    title: str
    text: str
    wrong: str = ""
    right: str = ""

    def __str__(self) -> str:
        parts = [f"{self.code}: {self.title}", self.text]
        for heading, program in (("Wrong:", self.wrong), ("Right:", self.right)):
            if program:
                indented = "\n".join(f"    {line}".rstrip() for line in program.splitlines())
                parts.append(f"{heading}\n\n{indented}")
        return "\n\n".join(parts)


@cache
def explanations() -> dict[str, Explanation]:
    """All explanations by code, in the order of the page."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = [_explanation(section) for section in sections]
    return {explanation.code: explanation for explanation in found}


def _explanation(section: str) -> Explanation:
    heading, _, body = section.partition("\n")
    code, _, title = heading.partition(": ")
    programs = dict(
        re.findall(r"^```cnn (wrong|right)\n(.*?)^```$", body, re.DOTALL | re.MULTILINE)
    )
    text = body.split("```")[0].strip()
    return Explanation(code, title, text, programs.get("wrong", ""), programs.get("right", ""))
