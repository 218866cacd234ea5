"""What README and pages say to type is what the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from avalanche_vlm.commands.arguments import parse
from avalanche_vlm.errors import InputError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TYPED = re.compile(r"(?:^|&& )avalanche-vlm ([a-z][^`\n]*)", re.MULTILINE)
SKETCH = re.compile(r"\[|\.\.\.|\|")
"""What marks a line as the shape of a command: optional words, repeated ones, and choices."""


def typed(page: str) -> list[list[str]]:
    """The commands of a page, those of several lines too, without comments, and without the shapes of commands."""
    lines = [line.strip() for line in re.sub(r"\\\n\s*", "", page).splitlines()]
    found = [words for line in lines for words in TYPED.findall(line)]
    return [shlex.split(words, comments=True) for words in found if not SKETCH.search(words)]


EXAMPLES = [
    example
    for page in PAGES
    for example in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
]
"""Files that pages show, by their names."""

COMMANDS = sorted({(page.name, *words) for page in PAGES for words in typed(page.read_text()) if len(words) > 1})


def test_the_pages_have_commands():
    assert {words[1] for words in COMMANDS} >= {"run", "compare", "diagnose", "advise", "report", "update", "predict"}
    assert typed("  pip x && avalanche-vlm run --no-such # b\n    avalanche-vlm predict DIR PATH... [--top-k K]") == [
        ["run", "--no-such"]
    ]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_of_a_page_is_taken(words, tmp_path, monkeypatch):
    (tmp_path / "FILE").write_text("a red star\n")
    (tmp_path / "DIR").mkdir()
    (tmp_path / "DIR/request.yaml").write_text("command: run\nrecipe: lora\nout: x\n")
    for name, content in EXAMPLES:
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    typed_here = list(words[1:])
    if "--dump-config" in typed_here:
        with pytest.raises(SystemExit) as end:
            parse(typed_here[: typed_here.index(">")])
        assert end.value.code == 0
        return
    parse(typed_here)


def test_an_option_that_there_is_not_is_refused():
    with pytest.raises((InputError, SystemExit)):
        parse(["run", "--no-such"])
