"""What the report shows of a run besides its scores, and two runs side by side."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import page_files as files
import pytest
from small_runs import forge

from avalanche_vlm import cli
from avalanche_vlm.commands import prepare, store
from avalanche_vlm.commands.requests import RunRequest
from avalanche_vlm.evaluation.results import RESULT, metrics_of
from avalanche_vlm.evaluation.views.records import VIEWS
from avalanche_vlm.report import page
from avalanche_vlm.report.page.charts.heatmap import heat
from avalanche_vlm.report.page.charts.svg import breadth
from avalanche_vlm.report.page.sides import sides as sides_of

STYLE = (Path(page.__file__).parent / "templates/style.css").read_text()


def save(folder: Path, entry: dict, run: str = "0123456789abcdef") -> Path:
    result = entry["result"] | {"metrics": metrics_of(entry["result"]["matrix"])}
    RESULT.write(folder / "result.json", {"run": run, **result})
    if "views" in entry:
        VIEWS.write(folder / "views.json", {"run": run, **entry["views"]})
    return folder


def report(*words: object, named: str = "report") -> tuple[dict, str]:
    assert cli.main(["report", *map(str, words)]) == 0
    folder = Path(str(words[0]))
    return json.loads((folder / f"{named}.json").read_text()), (folder / f"{named}.html").read_text()


def tags(html: str, name: str) -> list[dict]:
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag == name:
                found.append(dict(attrs))

    Reader().feed(html)
    return found


def test_pictures_stand_in_the_page_with_words_for_those_who_do_not_see_them(tmp_path, capsys):
    found, html = report(save(tmp_path, files.watched(files.entry("lora"))))
    pictures = tags(html, "img")
    assert found["pictures"] == len(pictures) == 2
    assert all(of["src"].startswith("data:image/png;base64,iVBOR") for of in pictures)
    assert all(of["alt"].startswith("Test picture of sketches: ") and of["width"] == "96" for of in pictures)
    assert "hold 2 test pictures: whoever gets them sees your data" in html
    policy = next(of["content"] for of in tags(html, "meta") if "http-equiv" in of)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    text = (tmp_path / "report.md").read_text()
    assert "|sketches|cat|cat|dog|" in text and "base64" not in text
    found, html = report(tmp_path, "--no-pictures")
    assert found["pictures"] == 0 and not tags(html, "img") and "iVBOR" not in (tmp_path / "report.json").read_text()
    assert "right before, wrong now" in html.lower() and found["groups"][0]["views"]["shown"][0]["total"]


def test_of_many_recipes_the_best_and_the_worst_show_their_answers_and_all_what_they_keep():
    entries = [files.watched(entry) for entry in files.entries()]
    found = page.content(entries)["groups"][0]["views"]
    assert [of["recipe"] for of in found["shown"]] == ["lora", "fine-tune"] and found["others"] == 2
    modules, stored, parameters = found["timelines"]
    assert [line["name"] for line in stored["lines"]] == list(files.LAST)
    assert modules["lines"][0]["values"] == [0, 1, 2, 3, 4, 5, 6] and stored["lines"][0]["values"][-1] == 6 * 2048
    assert parameters["lines"][0]["values"][-1] == 6 * 9216
    nothing = files.watched(files.entry())
    nothing["views"]["timeline"] = [{**of, "modules": 0, "ram_bytes": 0} for of in nothing["views"]["timeline"]]
    html = page.as_html(page.content([nothing]))
    assert "Bytes kept for the next task: none at any step." in html and "Modules in the model: none" in html


def test_confusions_are_shares_of_a_class_and_points_that_moved_have_their_number():
    (shown,) = page.content([files.watched(files.entry())])["groups"][0]["views"]["shown"]
    assert shown["confusions"]["before"] == [[93.3333, 6.6667], [15.0, 85.0]]
    assert shown["confusions"]["after"] == [[66.6667, 33.3333], [0.0, 100.0]]
    points, farthest = shown["map"]["points"], shown["map"]["farthest"]
    moved = [points[n]["image_moved"] for n in farthest]
    assert moved == sorted((point["image_moved"] for point in points), reverse=True)
    html = page.as_html(page.content([files.watched(files.entry())]))
    trails = re.search(r'<svg[^>]*class="chart trails">.*?</svg>', html, re.S).group()
    assert trails.count("<circle") == trails.count("<rect") == 2 * len(points)
    assert all(f">{n}</text>" in trails for n in range(1, len(farthest) + 1))


def test_sections_with_nothing_to_say_are_a_line_at_the_end():
    found = page.content([files.entry()])
    html, text = page.as_html(found), page.as_markdown(found)
    for words in (html, text):
        assert words.count("diagnose DIR") == 1 and words.count("run --out DIR") == 1
    assert [line["sections"] for line in found["empty"]] == [
        ["exposures", "attribution", "modules"],
        ["changes", "map", "kept"],
        ["pareto", "plan", "costs"],
    ]
    quiet = re.search(r'<section id="empty" class="quiet">.*?</section>', html, re.S).group()
    assert quiet.count("<p>") == 3
    links = {of["href"].removeprefix("#") for of in tags(html, "a")}
    ids = {of["id"] for of in tags(html, "section")}
    assert links <= ids and "exposures" not in ids


def test_two_runs_side_by_side(tmp_path, capsys):
    first = save(tmp_path / "a/run", files.watched(files.entry("lora")))
    second = save(tmp_path / "b/run", files.watched(files.entry("replay")), "f" * 16)
    found, html = report(first, second, named="side-by-side")
    sides = found["sides"]
    assert [run["name"] for run in sides["runs"]] == ["a/run", "b/run"] and sides["apart"] is None
    (last,) = [f for f in sides["figures"] if f["title"] == "Last"]
    assert last["change"] == pytest.approx(last["values"][1] - last["values"][0], abs=1e-3)
    matrices = [json.loads((of / "result.json").read_text())["matrix"] for of in (first, second)]
    assert sides["change"][2][3] == round(matrices[1][2][3] - matrices[0][2][3], 4)
    assert {fact["name"]: fact["values"] for fact in sides["facts"]}["recipe"] == ["lora", "replay"]
    assert len(found["groups"]) == 1 and [r["name"] for r in found["groups"][0]["recipes"]] == ["lora", "replay"]
    assert html.count("Second less first") == 1 and "|Last, %|" in (first / "side-by-side.md").read_text()
    assert not (first / "report.html").exists()
    lost = [str(of["lost"]) for of in sides["answers"]]
    assert (
        f"|Answers that were right, and are wrong at the end|{'|'.join(lost)}||"
        in (first / "side-by-side.md").read_text()
    )


def seeds(folder: Path, recipe: str, *numbers: int) -> Path:
    """Runs of a recipe as a comparison lays them out, whose scores are apart by as much as their seeds."""
    for number in numbers:
        entry = files.entry(recipe)
        entry["result"]["protocol"]["seed"] = number
        entry["result"]["matrix"] = [[cell and cell / 2 + number for cell in row] for row in entry["result"]["matrix"]]
        save(folder / f"seed-{number}", entry, f"{number:016x}")
    return folder


def test_a_folder_of_seeds_stands_beside_a_run_or_another_with_its_mean_and_its_spread(tmp_path):
    first, second = seeds(tmp_path / "lora", "lora", 0, 2, 10), seeds(tmp_path / "replay", "replay", 0, 2, 10)
    found, html = report(first, second, named="side-by-side")
    assert [run["seeds"] for run in found["sides"]["runs"]] == [["0", "2", "10"]] * 2
    (last,) = [f for f in found["sides"]["figures"] if f["title"] == "Last"]
    scores = [[json.loads((of / f"seed-{n}/result.json").read_text())["metrics"]["last"] for n in (0, 2, 10)]
              for of in (first, second)]  # fmt: skip
    assert last["values"] == [pytest.approx(sum(of) / 3, abs=1e-3) for of in scores]
    assert last["spreads"] == [pytest.approx(28**0.5, abs=1e-3)] * 2 and found["sides"]["apart"] is None
    matrices = [json.loads((of / "seed-2/result.json").read_text())["matrix"] for of in (first, second)]
    assert found["sides"]["change"][2][3] == pytest.approx(matrices[1][2][3] - matrices[0][2][3], abs=1e-3)
    text = (first / "side-by-side.md").read_text()
    assert "seeds 0, 2, 10" in html and "seeds 0, 2, 10" in text and f"{last['values'][0]:.1f} ± 5.3" in text
    assert "Mean ± standard deviation over seeds" in html and "± <" in html
    one, html = report(first / "seed-2", second, named="side-by-side")
    (of_one,) = [f for f in one["sides"]["figures"] if f["title"] == "Last"]
    assert of_one["values"] == [scores[0][1], last["values"][1]] and of_one["spreads"][0] is None


def test_two_sides_of_one_recipe_have_rows_of_their_own(tmp_path):
    first, second = seeds(tmp_path / "a", "lora", 0, 2), seeds(tmp_path / "b", "lora", 0, 2)
    found, html = report(first, second, named="side-by-side")
    (group,) = found["groups"]
    assert [(of["name"], of["seeds"]) for of in group["recipes"]] == [
        ("lora (a)", ["0", "2"]),
        ("lora (b)", ["0", "2"]),
    ]
    assert "lora (a)" in html and "lora (b)" in (first / "side-by-side.md").read_text()
    assert [r["name"] for r in page.content([files.entry("lora"), files.entry("lora")])["groups"][0]["recipes"]] == [
        "lora"
    ]


def test_a_side_that_ends_at_chance_is_named_beside_one_of_the_same_recipe_that_does_not(tmp_path):
    for side in "ab":
        for number in (0, 2):
            entry = files.entry("lora", number)
            if side == "b":
                entry["result"]["matrix"] = [[35.0 for _ in row] for row in entry["result"]["matrix"]]
            save(tmp_path / side / f"seed-{number}", entry, f"{number:016x}")
    found, html = report(tmp_path / "a", tmp_path / "b", named="side-by-side")
    (sentence,) = [of for of in found["groups"][0]["remarks"] if "chance" in of]
    assert sentence.startswith("lora (b) ends at chance, as far as the test samples tell: 35.0 % of ")
    assert sentence in found["answer"]["sentences"] and sentence in html


def test_seeds_that_are_not_finished_are_told_of_either_side(tmp_path, capsys):
    first, second = seeds(tmp_path / "a", "lora", 0), seeds(tmp_path / "b", "replay", 0)
    for folder, recipe, trained in ((first, "lora", 1), (second, "replay", 2)):
        going = folder / "seed-1"
        going.mkdir()
        asked = prepare.experiment(RunRequest(out=going), recipe, 1)
        store.write_request(going, asked)
        store.write_partial(going, asked, trained, [[10.0, 20.0]])
    found, _ = report(first, second, named="side-by-side")
    told = capsys.readouterr().out
    for sentence in (
        "lora, seed 1 of a is not finished: 1 of 2 tasks trained.",
        "replay, seed 1 of b is not finished: 2 of 2 tasks trained.",
    ):
        assert sentence in told and sentence in found["answer"]["sentences"]


def test_a_folder_of_several_recipes_is_no_side(tmp_path, capsys):
    run = save(tmp_path / "run", files.entry("lora"))
    mixed = seeds(seeds(tmp_path / "mixed", "lora", 0), "replay", 1)
    assert cli.main(["report", str(run), str(mixed)]) == 2
    assert "it has runs of lora and replay, and one recipe's seeds are put side by side" in capsys.readouterr().err


def test_of_many_differences_the_rest_is_counted_and_what_an_earlier_version_did_not_say_is_none():
    one, other = files.entry(), files.entry(tokenizer={"content": "1f"})
    one["result"]["protocol"]["train"] |= {f"of{n}": n for n in range(50)}
    found = sides_of({"a": [one], "b": [other]})
    assert len(found["facts"]) == 40 and found["more"] == 10 and "tokenizer.content" not in str(found["facts"])
    text = page.as_markdown(page.content([one, other]) | {"sides": found})
    assert "And 10 more" in text


def test_groups_are_named_where_there_are_several_and_none_is_said_of_what_was_watched():
    entries = [files.watched(files.entry(label_space=space)) for space in ("task", "union")]
    entries[1]["views"]["timeline"] = []
    found = page.content(entries)
    assert [bool(group["views"]["timelines"]) for group in found["groups"]] == [True, False]
    kept = page.as_markdown(found).split("## What is kept between tasks")[1].split("\n## ")[0]
    assert kept.count("### ") == 1 and "none at any step" not in kept


def test_runs_that_do_not_compare_have_no_difference(tmp_path):
    first = save(tmp_path / "a", files.entry())
    second = save(tmp_path / "b", files.entry(label_space="union"), "f" * 16)
    found, html = report(first, second, named="side-by-side")
    assert found["sides"]["apart"] == "label_space" and found["sides"]["change"] == []
    assert all(f["change"] is None for f in found["sides"]["figures"]) and "Second less first" not in html
    assert "do not compare" in (first / "side-by-side.md").read_text()


def test_what_cannot_be_put_side_by_side_is_told(tmp_path, capsys):
    run = save(tmp_path / "cmp/lora/seed-0", files.entry("lora"))
    seeds(seeds(tmp_path / "many", "fine-tune", 2) / "fine", "fine-tune", 0, 1)
    (link := tmp_path / "again").symlink_to(run)
    for words, sentence in (
        ([run, tmp_path / "cmp"], f"it holds 1 run in a folder of its own, such as {run.parent}"),
        ([run, tmp_path / "many"], f"it holds 2 runs in folders of their own, such as {tmp_path / 'many/fine'}"),
        ([run, run], f"{run} and {run} are one folder"),
        ([run, link], f"{run} and {link} are one folder"),
        ([run, tmp_path / "none"], f"there is no folder at {tmp_path / 'none'}"),
    ):
        assert cli.main(["report", *map(str, words)]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("changed", [{"run": "f" * 16}, {"map": {"steps": [0]}}, {"examples": [{"form": "svg+xml"}]}])
def test_views_that_are_not_of_this_run_or_no_views_are_refused(tmp_path, capsys, changed):
    save(tmp_path, files.watched(files.entry()))
    forge(tmp_path / "views.json", **changed)
    assert cli.main(["report", str(tmp_path)]) == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert "views.json is " in sentence


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_is_readable_on_every_ground_that_it_stands_on_in_light_in_dark_and_on_paper():
    light, rest = STYLE.split("prefers-color-scheme: dark", 1)
    dark, printed = rest.split("@media print", 1)
    schemes = [dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in (light, dark)]
    short = {name: f"#{value[1:] * 2}" for name, value in re.findall(r"--([\w-]+): (#\w{3});", printed)}
    paper = {**schemes[0], **{name: re.sub(r"#(\w)(\w)(\w).*", r"#\1\1\2\2\3\3", v) for name, v in short.items()}}
    for scheme in (*schemes, paper):
        for ground in ("surface", "ground", "track", "note"):
            assert contrast(scheme["ink"], scheme[ground]) >= 4.5, ground
        for ground in ("surface", "ground", "track"):
            assert contrast(scheme["muted"], scheme[ground]) >= 4.5, ground
            assert contrast(scheme["accent"], scheme[ground]) >= 4.5, ground
        for mark in (*(f"s{k}" for k in range(8)), "accent", "drift", "interference", "erosion", "pairs", "other"):
            assert contrast(scheme[mark], scheme["surface"]) >= 4.5, mark
    assert "@media screen and (prefers-color-scheme: dark)" in STYLE  # paper is white, whatever the screen is


def test_the_page_is_for_keyboard_paper_and_its_whole_width():
    html = page.as_html(page.content([files.watched(e) for e in files.entries()], files.diagnosis(), files.advice()))
    assert html.index('class="skip" href="#answer"') < html.index("<nav")
    regions = re.findall(r'<div class="scroll"([^>]*)>', html)
    assert len(regions) > 20
    assert all('tabindex="0"' in of and 'role="region"' in of and "aria-label=" in of for of in regions)
    assert all(of.get("aria-label") and of.get("role") == "img" for of in tags(html, "svg"))
    assert all(of.get("alt") for of in tags(html, "img"))
    assert re.search(r"^table \{[^}]*width: 100%", STYLE, re.M)
    assert ":focus-visible" in STYLE and "outline: none" not in STYLE
    printed = STYLE.split("@media print", 1)[1]
    assert "nav { display: none; }" in printed and ".scroll { overflow: visible; }" in printed
    assert "break-inside: avoid" in printed


def test_names_in_other_scripts_have_room_and_a_sentence():
    entry = files.watched(files.entry(tasks=["猫", "ночь", "قط", *files.TASKS[3:]]))
    html = page.as_html(page.content([entry]))
    assert "Some names are not in Latin letters" in html and html.count("猫") > 3
    assert "Some names" not in page.as_html(page.content([files.watched(files.entry())]))
    wide, narrow = ("猫" * 8, "c" * 8)
    assert breadth(wide) == 2 * breadth(narrow)
    widths = [
        int(re.search(r'width="(\d+)"', heat([[1.0]], rows=[n], columns=["a"], path="p", kind="count", title="t"))[1])
        for n in (wide, narrow)
    ]
    assert widths[0] > widths[1] + 40
