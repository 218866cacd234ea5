"""Names that are commands to a terminal, markup or no text, through every command: nothing of them is obeyed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avalanche_vlm import cli, units

CLASSES = ("$5_to_$10_", "\x1b[2J\x1b[31mred", "caf\xe9 =1+1", "</script><script>alert(1)</script>",
           "[/red] :smile:", "\u202eevil\u2066", "two\nlines\r\x07", "x" * 300)  # fmt: skip
TASKS = ("\x9b31m[bold]$\\frac{", "=1+1;a|b,`c*\x1b]0;title\x07")
MONTH = "\u200f{{ 7 * 7 }}\x00%s\x85"
FILE = "$a_b$ \x1b[2J [red] caf\udce9 \u202e,;"
IMAGE, LABEL = "im\x1b[2Jage", "$la_bel$[/]"


def table(folder: Path, name: str, tasks: dict[str, tuple[str, ...]], seed: int) -> Path:
    """A table with pictures of noise, whose names, columns and labels are hostile."""
    rng = np.random.default_rng(seed)
    rows = []
    for task, classes in tasks.items():
        for label in classes:
            for i in range(6):
                path = folder / f"{FILE}{len(rows)}-{seed}.png"
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
                split = "test" if i > 3 else "train"
                rows.append({IMAGE: path.name, LABEL: label, "task": task, "split": split})
    target = folder / f"{name}.jsonl"
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return target


def harmless(text: str) -> bool:
    """Whether a terminal shows it and does nothing else."""
    return units.visible(text) == text


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / FILE
    folder.mkdir()
    first = table(folder, "first", {TASKS[0]: CLASSES[:4], TASKS[1]: CLASSES[4:]}, 0)
    second = table(folder, "second", {MONTH: CLASSES[:2]}, 1)
    return folder, first, second


@pytest.fixture
def command(capfd):
    """Runs a command: its exit code, and what it has said, which is harmless."""

    def run(*words: object) -> tuple[int, str]:
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as ended:
            code = ended.code
        said = capfd.readouterr()
        for stream, text in (("out", said.out), ("err", said.err)):
            assert harmless(text), (words, stream, text)
            assert "Traceback" not in text and "could not be drawn" not in text, text
        return code, said.out + said.err

    return run


@pytest.mark.slow
def test_no_command_obeys_a_name(world, command):
    folder, first, second = world
    columns = ["--image-column", IMAGE, "--label-column", LABEL]
    stream = ["--data", first, *columns, "--template", "a {} \x1b[31m$_$ [red]"]
    brief = ["--epochs", "1", "--batch-size", "8", "--warmup", "0", "--device", "cpu"]
    out = folder / f"out {FILE}"
    asked = ["run", *stream, *brief, "--recipe", "replay", "--label-space", "union", "--out", out]
    asked += ["--log", "csv,tensorboard"]
    code, said = command(*asked)
    assert code == 0 and "Last" in said and "csv logs" not in said, said  # TensorBoard itself takes no such folder
    assert harmless((out / "logs/csv/metrics.csv").read_text(encoding="utf-8"))
    assert "\\ud" not in (out / "logs/csv/run.json").read_text()  # a text that JSON's readers take
    assert "finished before, kept" in command(*asked)[1]
    for words in (
        ["compare", *stream, *brief, "--recipes", "fine-tune,zero-shot", "--jobs", "1", "--out", folder / "several"],
        ["diagnose", out],
        ["report", out],
        ["report", folder / "several"],
        ["predict", out, folder],
        ["predict", out, folder, "--labels", "\x1b[2Ja,[red]b", "--out", folder / f"{FILE}.csv"],
        ["retrieve", out, "--images", folder, "--query", "\x1b[2J [red]"],
        ["update", out, "--data", second, *columns, *brief, "--promote", "always"],
        ["versions", out],
        ["diff", out, "v1", "v2", "--pictures", folder / "pictures"],
        ["export", out, "--out", folder / "hub", "--to", "hub-folder"],
        ["report", out],
        ["rollback", out, "v1"],
    ):
        code, said = command(*words)
        assert code == 0, (words, said)
    for path in [*out.rglob("*"), *(folder / "several").rglob("*"), *(folder / "hub").rglob("*")]:
        if path.suffix in (".html", ".md", ".txt"):
            text = path.read_text(encoding="utf-8")
            assert harmless(text), path
            if path.suffix == ".html":
                assert not re.search(r"<script", text) and "{{" not in text.replace("{{ 7 * 7 }}", "")
    assert (out / "matrix.png").stat().st_size > 1000
    assert not (out / "held_out.png").exists()  # nothing was held out


def test_what_is_refused_is_named_harmlessly(world, command, tmp_path):
    folder, first, _ = world
    data = ["--data", first, "--image-column", IMAGE, "--label-column", LABEL]
    for words in (
        ["run", "--recipe", FILE, "--out", tmp_path],
        ["run", "--set", f"{FILE}=\x1b[2J", "--out", tmp_path],
        ["run", "--set", f"lora.{FILE}=1", "--recipe", "lora", "--out", tmp_path],
        ["run", "--order", f"{FILE},\x1b[2J", "--out", tmp_path],
        ["run", "--model", FILE, "--out", tmp_path],
        ["run", "--pretrained", f"/{FILE}", "--out", tmp_path],
        ["run", "--data", folder / f"no {FILE}", "--out", tmp_path],
        ["run", *data, "--template", FILE, "--out", tmp_path],
        ["run", *data[:2], "--image-column", f"\x1b[2J{FILE}", "--out", tmp_path],
        ["run", *data, "--class-names", folder / FILE, "--out", tmp_path],
        ["run", "--option", f"{FILE}=1", "--out", tmp_path],
        ["run", "--device", FILE, "--out", tmp_path],
        ["compare", "--recipes", FILE, "--out", tmp_path],
        ["advise", "--recipes", FILE, "--out", tmp_path],
        ["diagnose", folder / FILE],
        ["report", folder / FILE],
        ["predict", folder / FILE, "x"],
        ["retrieve", folder / FILE, "--query", "x", "--images", "y"],
        ["export", folder / FILE, "--out", tmp_path, "--to", FILE],
        ["versions", folder / FILE],
        ["rollback", folder / FILE, FILE],
        ["list", "recipes", FILE],
        ["list", "benchmarks", FILE],
        [FILE],
    ):
        code, said = command(*words)
        assert code == 2 and "\\x1b" in said, (words, said)
