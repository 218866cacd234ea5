"""What runs keep besides their results, in Markdown: pictures are named, and the page shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from avalanche_vlm.report.page import pipes
from avalanche_vlm.report.rounding import show, suffix

_TURNED = {"lost": "Right before, wrong now", "won": "Wrong before, right now"}

_ANSWERS = {
    "lost": "Answers that were right, and are wrong at the end",
    "won": "Answers that were wrong, and are right at the end",
}


def _shown(c: dict[str, Any], part: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every run that shows a part, under its heading."""
    for group in c["groups"]:
        of = f": {group['name']}" if len(c["groups"]) > 1 else ""
        for view in group["views"]["shown"]:
            if view[part]:
                yield f"### {pipes.plain(view['recipe'] + ', seed ' + view['seed'] + of)}", view


def told_changes(c: dict[str, Any]) -> list[str]:
    """Changed answers, the pictures' words, confusions.

    :param c: what :func:`avalanche_vlm.report.page.content` gave.
    """
    blocks = ["## Whose answer changed"]
    columns = ("samples", "lost", "won", "otherwise")
    heads = ["task", "test samples", "right before, wrong now", "wrong before, right now", "wrong in another way"]
    for heading, view in _shown(c, "total"):
        rows = [[of["task"], *(show(of[key], "count") for key in columns)] for of in view["changed"]]
        rows.append(["all tasks", *(show(view["total"][key], "count") for key in columns)])
        blocks += [heading, pipes.table(heads, rows, {1, 2, 3, 4})]
        for kind, title in _TURNED.items():
            told = [[e["task"], e["true"], e["before"], e["after"]] for e in view["examples"][kind]]
            named = f"**{title}**: some of them, whose pictures report.html shows"
            blocks += [named if told else "", pipes.table(["task", "is", "answer before", "answer now"], told)]
        if view["confusions"]:
            blocks += _confusions(view["confusions"])
    return blocks


def _confusions(found: dict[str, Any]) -> list[str]:
    turns = [
        [of["true"], of["answer"], *(show(of[key], "count") for key in ("samples", "before", "after"))]
        for of in found["turns"]
    ]
    heads = ["class", "taken for", "test samples", "pretrained", "at the end"]
    blocks = ["**Confusions that came and went**" if turns else "", pipes.table(heads, turns, {2, 3, 4})]
    for when, title in (("before", "pretrained"), ("after", "at the end")):
        square = pipes.matrix_table("class", found["classes"], found["classes"], found[when], "percent")
        blocks += [f"**Taken for what, {title}**, %", square]
    return blocks


def told_map(c: dict[str, Any]) -> list[str]:
    """What moved farthest on the map; its places are in ``report.json``.

    :param c: what :func:`avalanche_vlm.report.page.content` gave.
    """
    blocks = ["## Where images and texts moved"]
    for heading, view in _shown(c, "map"):
        found = view["map"]
        rows = [
            [point["name"], point["task"], show(point["image_moved"], "ratio"), show(point["text_moved"], "ratio")]
            for point in (found["points"][n] for n in found["farthest"])
        ]
        told = f"The plane of report.html's map has {show(found['share'], 'share')} % of the variance. "
        told += "How far, at most: one less the cosine with the pretrained model's feature."
        blocks += [heading, told, pipes.table(["moved farthest", "task", "image", "text"], rows, {2, 3})]
    return blocks


def told_timeline(c: dict[str, Any]) -> list[str]:
    """Modules, bytes and parameters over the stream.

    :param c: what :func:`avalanche_vlm.report.page.content` gave.
    """
    blocks = ["## What is kept between tasks"]
    for group in c["groups"]:
        if len(c["groups"]) > 1 and group["views"]["timelines"]:
            blocks.append(f"### {pipes.plain(group['name'])}")
        for line in group["views"]["timelines"]:
            none = f"{line['title']}: none at any step."
            table = pipes.steps(line["lines"], "values", group["tasks"], line["kind"])
            blocks += [f"**{line['title']}**", table] if line["lines"] else [none]
    return blocks


def _seeds(seeds: Sequence[str]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"


def told_sides(c: dict[str, Any]) -> list[str]:
    """Two results beside each other; nothing of a report of all.

    :param c: what :func:`avalanche_vlm.report.page.content` gave.
    """
    found = c["sides"]
    if not found:
        return []
    names = [f"{run['name']} ({run['recipe']}, {_seeds(run['seeds'])})" for run in found["runs"]]
    blocks = ["## Side by side"]
    if found["apart"]:
        words = f"These two differ in {found['apart']}, which decides more than the recipe does: their figures stand "
        blocks.append(pipes.plain(words + "beside each other, and do not compare."))
    change = [] if found["apart"] else ["second less first"]
    rows = [
        [
            f["title"] + suffix(f["kind"]),
            *(pipes.mean({"mean": v, "std": s}, f["kind"]) for v, s in zip(f["values"], f["spreads"], strict=True)),
            *(show(f["change"], f["change_kind"]) for _ in change),
        ]
        for f in found["figures"]
    ]
    if all(found["answers"]):
        for key, title in _ANSWERS.items():
            rows.append([title, *(show(of[key], "count") for of in found["answers"]), *("" for _ in change)])
    blocks.append(pipes.table(["figure", *names, *change], rows, {1, 2, 3}))
    if found["change"]:
        steps = ["pretrained", *found["tasks"]]
        square = pipes.matrix_table("after", steps, found["tasks"], found["change"], "points")
        blocks += ["**The second less the first, points**", square]
    facts = [[f["name"], *(value or "none" for value in f["values"])] for f in found["facts"]]
    blocks.append(pipes.table(["differs in", *names], facts) if facts else "Their protocols are equal.")
    return [*blocks, f"And {found['more']} more, which report.json's protocols have."] if found["more"] else blocks


def told_empty(c: dict[str, Any]) -> list[str]:
    """A line for each command that would fill sections which have nothing to say yet.

    :param c: what :func:`avalanche_vlm.report.page.content` gave.
    """
    lines = [f"- {'; '.join(of['titles'])}: `{of['command']}` {of['sentence']}" for of in c["empty"]]
    return ["## Nothing to say yet", "\n".join(lines)] if lines else []
