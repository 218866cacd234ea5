"""The report: one content, and HTML, Markdown and JSON that say the same."""

from __future__ import annotations

import copy
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import page_files as files
import pytest

from avalanche_vlm.report import page
from avalanche_vlm.report.page import pipes, proposal
from avalanche_vlm.report.page.charts.heatmap import STRONGEST
from avalanche_vlm.report.page.html import at
from avalanche_vlm.report.rounding import MISSING

WATCHED = ("changes", "map", "timeline")
"""What runs of earlier versions have not kept."""
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def full() -> dict:
    return page.content([files.watched(entry) for entry in files.entries()], files.diagnosis(), files.advice())


class Reader(HTMLParser):
    """Figures with their path and kind, tables as texts, tags, and digits of data cells that have no path."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[tuple[str, dict]] = []
        self.figures: list[tuple[str, str, str]] = []
        self.strays: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.tables: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append("")

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            opened, _ = self.stack.pop()
            assert opened == tag

    def handle_data(self, data):
        names = [tag for tag, _ in self.stack]
        if "table" in names:
            self.tables[-1] += data
        if "title" in names or not self.stack:
            return
        attributes = self.stack[-1][1]
        if "data-path" in attributes:
            self.figures.append((attributes["data-path"], attributes["data-kind"], data))
            return
        classes = [c for _, a in self.stack for c in (a.get("class") or "").split()]
        cell = ("td" in names and "num" in classes) or ("svg" in names and not {"axis", "name"} & set(classes))
        if cell and re.search(r"\d", data):
            self.strays.append(data)


DECIMALS = {"percent": 1, "points": 1, "ratio": 2, "share": 0, "count": 0}
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "": 1}


def agrees(text: str, value: float | None, kind: str) -> bool:
    """Whether a printed figure is the number, rounded by the rule that the report states."""
    if value is None:
        return text == "n/a"
    digits, _, unit = text.replace(",", "").partition(" ")
    decimals = len(digits.partition(".")[2].partition("e")[0])
    shown = float(digits) * UNITS[unit]
    if kind == "scale":
        return abs(shown - value) <= 0.051 * abs(value)
    if kind in DECIMALS:
        scaled = 100 * value if kind == "share" else value
        return decimals == DECIMALS[kind] and abs(shown - scaled) <= 0.5000001 * 10 ** -DECIMALS[kind]
    wanted = {"bytes": unit != "B", "flops": bool(unit), "seconds": abs(value) < 10}[kind]
    return decimals == wanted and abs(shown - value) <= 0.5000001 * 10 ** -int(wanted) * UNITS[unit]


def test_every_figure_of_the_page_is_in_the_json_and_rounded_as_stated(full):
    stored = json.loads(json.dumps(full, allow_nan=False))
    read = Reader(page.as_html(full))
    assert len(read.figures) > 700
    for path, kind, text in read.figures:
        assert kind in stored["rounding"]
        assert agrees(text, at(stored, path), kind), (path, kind, text, at(stored, path))
    assert read.strays == []
    seen = {path.partition(".")[0] for path, _, _ in read.figures}
    assert seen == {
        *("exposures", "attribution", "modules", "drift", "erosion", "groups", "paretos", "rounds", "plan", "ledgers"),
        "circumstances",
    }


def test_markdown_has_the_figures_of_the_page(full):
    text = page.as_markdown(full)
    for part in ("26.4", "24.3 to 28.5", "| 17.7 |".replace(" ", ""), "2.8 MiB", "n/a", "cannot be told from no loss"):
        assert part in text
    widths = {}
    for number, line in enumerate(text.splitlines()):
        if line.startswith("|"):
            cells = len(re.findall(r"(?<!\\)\|", line))
            widths[number] = cells
            assert widths.get(number - 1, cells) == cells, line
    titles = re.findall(r"<h2>(.*?)</h2>", page.as_html(full))
    assert re.findall(r"^## (.*)$", text, re.M) == titles and len(titles) == 14


def test_a_section_without_input_says_what_fills_it():
    results = page.content(files.entries())
    assert set(results["missing"]) == {"exposures", "attribution", "modules", "plan", "ledger", *WATCHED}
    assert results["missing"]["plan"]["command"] == "avalanche-vlm advise --out DIR"
    assert results["missing"]["modules"]["command"] == "avalanche-vlm diagnose DIR/RECIPE/seed-N"
    assert "diagnose DIR" in page.content([files.entry()])["missing"]["modules"]["command"]
    advice = page.content([], None, files.advice())
    assert set(advice["missing"]) == {"exposures", "attribution", "modules", "curves", "matrices", *WATCHED}
    for found in (results, advice, page.content([], files.diagnosis()), page.content([])):
        read = Reader(page.as_html(found))
        words = page.as_markdown(found)
        assert read.strays == []
        for absent in found["missing"].values():
            assert f"`{absent['command']}` {absent['sentence']}" in words


def test_nothing_is_fetched_and_nothing_runs(full):
    text = page.as_html(full)
    tags = Reader(text).tags
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in tags}
    assert not [a for _, a in tags if any(key.startswith("on") or key == "style" for key in a)]
    assert all(tag == "img" and a["src"].startswith("data:image/png;base64,") for tag, a in tags if "src" in a)
    assert all(a["href"].startswith("#") for tag, a in tags if tag == "a")
    assert "http:" not in text.replace("http-equiv", "") and "url(" not in text and "@import" not in text
    assert {a["name"]: a["content"] for tag, a in tags if "name" in a}[
        "viewport"
    ] == "width=device-width, initial-scale=1"


def test_names_and_sentences_of_users_are_text():
    tasks = [EVIL, 'a "quoted" & <b>', "pipe | star * tick `"]
    diagnosis, advice = files.diagnosis(tasks), files.advice()
    diagnosis["attribution"][0]["verdict"]["sentence"] = EVIL
    diagnosis["attribution"][0]["interventions"][0]["name"] = EVIL
    diagnosis["erosion"]["classes"][0]["class"] = EVIL
    diagnosis["erosion"]["sets"][EVIL] = {"score": [1.0, 2.0], "calibration error": [1.0, 2.0]}
    diagnosis["interference"]["blocks"][0] = EVIL
    for r in (advice["rounds"][1]["recipes"][0], advice["excluded"][0]):
        r["recipe"] = EVIL
    advice["ledger"][EVIL] = advice["ledger"]["lora"]
    advice["plan"][0]["costs"][EVIL] = EVIL
    entry = files.entry(tasks=tasks, order=tasks, benchmark=EVIL)
    entry["result"]["held_out"][EVIL] = [1.0] * 4
    other = files.entry(tasks=tasks, order=tasks, benchmark=EVIL, recipe=EVIL)
    found = page.content([entry, other], diagnosis, advice)
    text = page.as_html(found)
    assert EVIL not in text and text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20
    assert not {"script", "b/"} & {tag for tag, _ in Reader(text).tags}
    words = page.as_markdown(found)
    assert "<script" not in words and "<b>" not in words.replace("**", "") and r"pipe \| star \* tick \`" in words


def test_means_and_spreads_are_over_the_seeds_of_one_recipe(full):
    (group,) = full["groups"]
    assert [r["name"] for r in group["recipes"]] == ["fine-tune", "replay", "zscl", "lora"]
    mine = [e["result"] for e in files.entries() if e["result"]["protocol"]["recipe"] == "lora"]
    lora = group["recipes"][3]
    assert lora["seeds"] == ["0", "1", "2"]
    values = [r["matrix"][3][2] for r in mine]
    mean = sum(values) / 3
    assert lora["matrix"][3][2] == pytest.approx(mean, abs=1e-4)
    deviation = (sum((v - mean) ** 2 for v in values) / 2) ** 0.5
    assert lora["matrix_std"][3][2] == pytest.approx(deviation, abs=1e-4)
    assert group["recipes"][2]["figures"]["zsd"] == {"mean": None, "std": None, "n": 0}
    curve = group["held_out"][0]["lines"][3]
    ends = [r["held_out"]["captions R@1"][-1] for r in mine]
    assert (curve["low"][-1], curve["high"][-1]) == (min(ends), max(ends))


def test_the_weakest_classes_are_those_of_the_best_recipe(full):
    (group,) = full["groups"]
    best = max(
        files.LAST,
        key=lambda recipe: next(r for r in group["recipes"] if r["name"] == recipe)["figures"]["last"]["mean"],
    )
    shown = group["weakest"]
    first = files.entry(best, 0)["result"]
    lowest = sorted(row["last"] for of_task in first["classes"] for row in of_task)[:10]
    assert [row["last"] for row in shown] == lowest and {row["recipe"] for row in shown} == {best}
    assert all(f'<th scope="row">{row["class"]}</th><td>{row["task"]}</td>' in page.as_html(full) for row in shown)


def test_results_of_different_protocols_share_no_table():
    mixed = [files.entry("lora"), files.entry("zscl", label_space="seen"), files.entry("replay", n_train=64)]
    found = page.content(mixed)
    assert [[r["name"] for r in g["recipes"]] for g in found["groups"]] == [["lora"], ["zscl"], ["replay"]]
    assert {d["name"] for d in found["groups"][0]["differs"]} == {"label_space", "n_train"}
    for table in Reader(page.as_html(found)).tables:
        assert sum(name in table for name in ("lora", "zscl", "replay")) <= 1
    for block in page.as_markdown(found).split("\n\n"):
        assert not block.startswith("|") or sum(name in block for name in ("lora", "zscl", "replay")) <= 1
    assert "come from 3 protocols" in page.as_html(found)


def test_one_recipe_with_two_settings_is_two_lines_and_a_seed_counts_once():
    again = files.entry("lora", 1)
    wide = files.entry("lora", 2)
    wide["result"]["protocol"]["recipe_options"] = {"rank": 16}
    (group,) = page.content([files.entry("lora", 0), again, copy.deepcopy(again), wide])["groups"]
    assert [(r["name"], r["seeds"]) for r in group["recipes"]] == [
        ("lora (rank=4)", ["0", "1"]),
        ("lora (rank=16)", ["2"]),
    ]


def test_the_answer_is_the_verdict_and_the_advice_or_what_the_seeds_tell_apart():
    full = page.content(files.entries(), files.diagnosis(), files.advice())["answer"]
    earlier, pairs, advised = full["sentences"][:3]
    assert earlier.startswith("Most of the loss") and pairs.startswith("Most") and advised.startswith("Start with lora")
    assert full["confidence"] == "leaning"
    (sentence,) = page.content(files.entries())["answer"]["sentences"]
    assert sentence.startswith("lora ends at ") and "above replay" in sentence and "chance" not in sentence
    near = [files.entry("lora"), files.entry("replay")]
    for entry, last in zip(near, (80.0, 79.9), strict=True):
        entry["result"]["metrics"]["last"] = last
    (sentence,) = page.content(near)["answer"]["sentences"]
    assert "0.1 points above replay with one seed, so the order may be chance" in sentence


def test_front_of_results_holds_what_nothing_beats_in_both_scores():
    (front,) = page.content(files.entries())["paretos"]
    assert {p["name"] for p in front["points"] if p["front"]} <= {"lora", "zscl"}
    assert page.content([files.entry()])["paretos"] == []
    (advised,) = page.content(files.entries(), None, files.advice())["paretos"]
    assert [p["name"] for p in advised["points"] if p["front"]] == ["lora", "zscl", "wise-ft"]


def test_missing_figures_are_said_to_be():
    nan = float("nan")
    diagnosis = files.diagnosis()
    diagnosis["exposures"]["drift"] = {"points": None, "low": nan, "high": None, "measure": None}
    diagnosis["drift"]["curves"]["RSA"][2] = nan
    entry = files.entry()
    entry["result"]["matrix"][2][1] = None
    entry["result"]["metrics"]["last"] = nan
    found = page.content([entry], diagnosis)
    assert found["exposures"][0]["reading"] == "not measured"
    json.dumps(found, allow_nan=False)
    figures = {path: text for path, _, text in Reader(page.as_html(found)).figures}
    assert figures["exposures.0.points"] == "n/a" and "no interval" in page.as_markdown(found)
    assert "no recipe was scored on every task" not in found["answer"]["sentences"][0]
    assert "no recipe was scored on every task" in page.content([entry])["answer"]["sentences"][0]


def places(node, path=()):
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


@pytest.mark.slow
def test_files_of_other_versions_leave_gaps_and_no_traceback():
    rng = random.Random(0)
    for make, position in ((files.diagnosis, 1), (files.advice, 2)):
        every = [p for p in places(make()) if p]
        shallow = [p for p in every if len(p) <= 3]
        for path in shallow[:: max(1, len(shallow) // 40)] + rng.sample(every, 25):
            broken = copy.deepcopy(make())
            parent = broken
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = rng.choice([None, "x", 7.5, [], {}, [[]], [None, "x"], {"x": [1]}, True])
            arguments = [[], None, None]
            arguments[position] = broken
            found = page.content(*arguments)
            json.dumps(found, allow_nan=False)
            page.as_html(found), page.as_markdown(found)


def test_ink_is_readable_on_every_tint_in_light_and_dark():
    style = (Path(page.__file__).parent / "templates/style.css").read_text()
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split("prefers-color-scheme: dark", 1)
    )

    def rgb(colour: str) -> list[float]:
        return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]

    def contrast(a: list[float], b: list[float]) -> float:
        linear = [[c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour] for colour in (a, b)]
        high, low = sorted(
            (sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), x, strict=True)) for x in linear), reverse=True
        )
        return (high + 0.05) / (low + 0.05)

    for scheme in (light, dark):
        surface, ink = rgb(scheme["surface"]), rgb(scheme["ink"])
        for hue in ("above", "below"):
            tinted = [STRONGEST * h + (1 - STRONGEST) * s for h, s in zip(rgb(scheme[hue]), surface, strict=True)]
            assert contrast(ink, tinted) >= 4.5, hue
        for name in ("muted", "accent", *(f"s{k}" for k in range(8)), "drift", "interference", "erosion", "pairs"):
            assert contrast(rgb(scheme[name]), surface) >= 4.5, name
        for name in ("ink", "muted", "accent"):
            assert contrast(rgb(scheme[name]), rgb(scheme["ground"])) >= 4.5, name


def test_what_nobody_knows_is_told_apart_from_what_nobody_measured():
    entries = {
        "replay": {"raw_user_data_kept": True, "undeclared_plugins": []},
        "own": {"raw_user_data_kept": None, "undeclared_plugins": ["Mine"]},
        "old": {"reversible": True},
    }
    lines = {line["key"]: line["values"] for line in proposal.ledger(entries)["lines"]}
    assert lines["raw_user_data_kept"] == [True, "unknown", None]
    assert lines["undeclared_plugins"] == [None, "Mine", None] and lines["reversible"] == [None, None, True]
    assert [pipes.value(value, "flag") for value in lines["raw_user_data_kept"]] == ["yes", "unknown", MISSING]
