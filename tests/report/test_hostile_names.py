"""Names that are markup, mathematics, terminal commands or no text: tables, plots and pages show them as they are."""

from __future__ import annotations

import ast
import contextlib
import csv
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_report import entry

from avalanche_vlm import units
from avalanche_vlm.commands import jobs
from avalanche_vlm.commands.answer_files import answers_to
from avalanche_vlm.commands.progress import Progress
from avalanche_vlm.commands.store import write_text
from avalanche_vlm.report import plots, table
from avalanche_vlm.report.page import as_html, as_markdown, content

HOSTILE = (
    "$5_to_$10_", "[/red]", "[bold red]x[/]", "\x1b[2J\x1b[31mred", "caf\udce9", "\ud800", "a\rb", "\x9b31m", "\x00",
    "\u202eevil", "</script><script>", "{task.description}", "%s %d", "\\frac{", "^", "_", "a|b`c*", "=1+1",
    "\x07" * 50,
    "\N{BOM}x", "x" * 300, ":smile:", "\x1b]0;title\x07", "\u2028line", "&amp;", "$\\nonsense$", "{{ 7 * 7 }}",
)  # fmt: skip
NAMES = st.sampled_from(HOSTILE) | st.text(st.characters(), min_size=1, max_size=12)


def entry_with(names: list[str]) -> dict:
    found = entry()
    size = len(names)
    found["result"] |= {
        "tasks": names,
        "matrix": np.full((size + 1, size), 50.0).tolist(),
        "held_out": {name: [50.0] * (size + 1) for name in found["result"]["held_out"]},
    }
    return found


def harmless(text: str) -> bool:
    """Whether a terminal shows it and does nothing else."""
    return all(letter in "\n\t" or (letter.isprintable() or ord(letter) > 0x9F) for letter in text)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(NAMES, min_size=1, max_size=4))
def test_every_table_shows_names_as_they_are(names):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        table.print_matrix(entry_with(names)["result"])
        units.tell("; ".join(names))
    shown = out.getvalue()
    shown.encode()
    assert harmless(shown)
    for name in names:
        if name in ("[/red]", "[bold red]x[/]", ":smile:", "$5_to_$10_"):
            assert name in shown


@pytest.mark.parametrize("names", [HOSTILE[i : i + 9] for i in range(0, len(HOSTILE), 9)])
def test_every_plot_is_drawn(tmp_path, names):
    found = entry_with(list(names))["result"]
    for i, draw in enumerate((plots.matrices, plots.held_out_curves, plots.metric_bars)):
        jobs.save_figure(tmp_path / f"{i}.png", draw([found]))
        assert (tmp_path / f"{i}.png").stat().st_size > 1000


def test_every_page_is_written(tmp_path):
    found = content([entry_with(list(HOSTILE))], None, None)
    for name, text in (("a.html", as_html(found)), ("a.md", as_markdown(found))):
        write_text(tmp_path / name, units.visible(text))
        written = (tmp_path / name).read_text(encoding="utf-8")
        assert "</script><script></" not in written and harmless(written)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_no_cell_of_a_table_is_a_formula(tmp_path, start):
    name = f'{start}HYPERLINK("http://x","y")'
    for file in ("a.csv", "a.jsonl"):
        with answers_to(tmp_path / file, ["image", "class", "score", "known"]) as answer:
            row = {"image": name, "class": name, "score": -1.5, "known": True}
            answer([row], row)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row == {"image": f"'{name}", "class": f"'{name}", "score": "-1.5", "known": "true"}
    assert json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8"))["image"] == name  # for programs
    found = entry_with(["a", "b"])
    found["result"]["protocol"]["recipe"] = name
    (line,) = csv.DictReader(io.StringIO(table.as_csv([found]), newline=""))
    assert line["recipe"] == f"'{name}" and float(line["last"]) == found["result"]["metrics"]["last"]


@given(st.text(st.characters()))
def test_what_is_visible_is_harmless_and_encodes(text):
    shown = units.visible(text)
    shown.encode()
    assert harmless(shown) and not units._UNSEEN.search(shown)
    if harmless(text) and text.isprintable():
        assert shown == text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_is_told(encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    with contextlib.redirect_stdout(stream):
        units.tell("花 caf\xe9 \udce9")
    assert b"\\udce9" in raw.getvalue()


def test_a_plot_that_fails_is_a_remark(tmp_path, capsys):
    def fails():
        raise RuntimeError("no font\nat all")

    jobs.draw_plot(tmp_path / "matrix.png", fails, Progress(None, quiet=False))
    said = capsys.readouterr().err
    assert said == f"{tmp_path / 'matrix.png'} could not be drawn, and all results are there: no font\n"
    assert not list(tmp_path.iterdir())


def test_a_matrix_of_many_tasks_has_no_more_parts_and_points_than_one_of_few():
    figures = {n: plots.matrices([entry_with([f"task {i}" for i in range(n)])["result"]]) for n in (30, 200, 1000)}
    parts = {n: len(figure.findobj()) for n, figure in figures.items()}
    assert parts[200] < 2000 and parts[1000] < 2000
    for figure in figures.values():
        width, height = figure.get_size_inches()
        assert width * height < 400
    assert not figures[200].axes[0].texts and len(figures[30].axes[0].texts) == 30 * 31
    started = time.process_time()
    figures[1000].savefig(io.BytesIO(), dpi=30)
    assert time.process_time() - started < 30  # seconds on any machine: the benchmark has the figure


def test_no_number_is_drawn_where_many_recipes_share_a_plot():
    recipes = []
    for i in range(20):
        found = entry_with([f"task {k}" for k in range(40)])["result"]
        recipes.append({**found, "protocol": {**found["protocol"], "recipe": f"recipe {i}"}})
    figure = plots.matrices(recipes)
    width, height = figure.get_size_inches()
    assert width * height < 1500 and not any(axis.texts for axis in figure.axes)


def test_every_line_that_is_printed_goes_through_one_place():
    root = Path(units.__file__).parent
    files = [root / "cli.py", *(root / "commands").rglob("*.py"), *(root / "report").rglob("*.py")]
    printing = [
        f"{path.name}:{node.lineno}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not printing
