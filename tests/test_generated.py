"""Tables and the catalogue are what the recipes' declarations give."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def generate():
    return runpy.run_path(str(ROOT / "docs/generate.py"))


def test_what_is_generated_is_fresh():
    """In a process of its own: other tests add benchmarks and recipes to this one's registries."""
    command = [sys.executable, str(ROOT / "docs/generate.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr


def test_a_stale_cell_is_noticed(generate):
    page = (ROOT / "docs/recipes.md").read_text()
    changed = page.replace("the task loss and nothing else", "the task loss")
    assert changed != page and generate["filled"](changed, ["recipes"], "docs/recipes.md") == page


def test_the_best_published_figure_is_told_of_each_stream_by_what_is_not_the_benchmarks_own(generate):
    best = generate["best_published"]("cifar100", "").split("; ")
    assert best[0] == "79.1 by PROOF, class_order=numpy-1993, prompts=own"
    assert best[3] == "80.0 by PROOF, base=50, class_order=numpy-1993, prompts=own" and len(best) == 4
    assert generate["best_published"]("aircraft", "splits=folders") == "55.8 by PROOF, the default stream"
    assert [word.rpartition(", ")[2] for word in generate["best_published"]("mtil", "splits=zscl").split("; ")] == [
        "order I",
        "order II",
    ]
    assert generate["best_published"]("mtil", "splits=coop") == ""


def test_a_missing_block_is_named(generate):
    page = (ROOT / "docs/recipes.md").read_text().replace("<!-- generated: recipes -->", "")
    with pytest.raises(SystemExit, match=r"docs/recipes\.md has no block <!-- generated: recipes -->"):
        generate["filled"](page, ["recipes"], "docs/recipes.md")


def test_every_recipe_is_in_every_table_that_is_about_it(generate):
    for block in ("recipes", "published settings"):
        rows = generate["BLOCKS"][block]().splitlines()[2:]
        named = {row.split("`")[1] for row in rows}
        assert named == set(generate["shipped"]())
    options = {tuple(row.split("`")[1:4:2]) for row in generate["BLOCKS"]["options"]().splitlines()[2:]}
    assert ("zscl", "side") in options and ("lwf", "temperature") in options


def test_a_number_has_a_line_for_each_meaning_that_commands_give_it(generate):
    rows = [line.strip("| ").split(" | ") for line in generate["number_table"]().splitlines()[2:]]
    found = {(row[0], command): (row[3], row[4]) for row in rows for command in row[1].split(", ")}
    assert found["`--batch-size`", "`predict`"] == ("64", "images that are read and encoded at a time")
    assert found["`--batch-size`", "`run`"] == ("as benchmark and recipe have it", "new samples per iteration")
    assert found["`--batch-size`", "`update`"][0] == found["`--workers`", "`update`"][0] == "as before"
    assert found["`--top-k`", "`predict`"][0] == "5" and ("`--seeds`", "`compare`") in found
    assert ("`--seed`", "`compare`") not in found and not [row for row in rows if not row[3]]


def test_every_recipe_has_prose_beside_its_row():
    page = (ROOT / "docs/recipes.md").read_text()
    for name in runpy.run_path(str(ROOT / "docs/generate.py"))["shipped"]():
        assert f"## {name}\n" in page or f"`{name}`" in page.split("## Adaptation", 1)[1].split("\n## ", 1)[0], name
