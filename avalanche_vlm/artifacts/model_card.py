"""A model card: what a saved model is, what it was measured to do, and what it has lost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from avalanche_vlm.artifacts.description import Description
from avalanche_vlm.errors import InputError
from avalanche_vlm.training import recipes
from avalanche_vlm.units import human_bytes, in_markdown, one_line

_SCORES = {
    "last": "Last: mean over the tasks after the last one",
    "avg": "Avg: mean over the tasks and over training",
    "transfer": "Transfer: tasks that were still to come",
    "forget": "Forget: points lost on earlier tasks since their best",
    "bwt": "BWT: points since each task was trained",
    "zsd": "ZSD: points lost on tasks that were still to come",
}
_CLASSES = 500
"""Names of classes that are listed; ``model.json`` has all of them."""


def model_card(description: Description) -> str:
    """A ``README.md`` with the head that hubs read.

    The licence is the user's to say. Nothing is claimed that is not in the description.

    :param description: what ``model.json`` of the saved model says.
    """
    sections = [_head(description), f"# {_title(description)}", *_what(description), *_use(description)]
    sections += [*_scores(description), *_limits(description), *_costs(description), *_images(description)]
    return "\n\n".join([*sections, *_classes(description)]) + "\n"


def _facts(part: Any) -> dict[str, Any]:
    """A part of a description that may be missing, of which every entry may be."""
    return part or {}


def _title(description: Description) -> str:
    recipe = description.built[-1].recipe if description.built else None
    return description.name if recipe is None else f"{description.name}, trained by {recipe}"


def _head(description: Description) -> str:
    protocol = _facts(description.protocol)
    tags = ["avalanche-vlm", "continual-learning", "vision-language", *(step.recipe for step in description.built)]
    lines = [
        "---",
        "license:  # yours to choose: an SPDX name such as apache-2.0, that the base and the data allow",
        f"library_name: {'open_clip' if description.plain else 'avalanche-vlm'}",
        f"pipeline_tag: {'zero-shot-image-classification' if description.label_space else 'feature-extraction'}",
        "tags:",
        *(f"- {json.dumps(tag, ensure_ascii=False)}" for tag in dict.fromkeys(tags)),
    ]
    if benchmark := protocol.get("benchmark"):
        lines += ["datasets:", f"- {json.dumps(str(benchmark), ensure_ascii=False)}"]
    if description.result and description.result.get("metrics"):
        lines += ["metrics:", "- accuracy"]
    return "\n".join([*lines, "---"])


def _what(description: Description) -> Iterator[str]:
    base = description.base
    made = "a model that was built by hand" if base.origin is None else f"`{base.origin.origin()}`"
    yield f"A vision-language model on the base {made}, saved by avalanche_vlm."
    for step in description.built:
        options = ", ".join(f"{name} {value}" for name, value in step.options.items())
        lines = [f"- recipe: `{step.recipe}`{f' ({options})' if options else ''}"]
        try:
            facts = recipes.get(step.recipe)
        except InputError:  # of a distribution that is not installed here
            facts = None
        if facts is not None:
            lines += [f"- what it does: {facts.summary}", *(f"- source: {paper}" for paper in facts.paper)]
        yield "\n".join(lines)
    protocol = _facts(description.protocol)
    if train := protocol.get("train"):
        yield "Training: " + ", ".join(f"{name} {value}" for name, value in train.items() if value is not None) + "."
    if tasks := _facts(description.result).get("tasks"):
        names = ", ".join(map(in_markdown, tasks))
        yield f"It was trained on {len(tasks)} tasks, one after another: {names}."


def _use(description: Description) -> Iterator[str]:
    lines = ["import avalanche_vlm", ""]
    lines.append(
        'model = avalanche_vlm.load("this folder")'
        if description.base.origin is not None
        else 'model = avalanche_vlm.load("this folder", base=...)  # the base, made as it was'
    )
    if description.label_space is not None:
        lines.append('for found in model.predict("picture.jpg")[0].classes:')
        lines.append("    print(found.name, found.probability)")
    else:
        lines.append('print(model.retrieve(["picture.jpg"], "a query"))')
    yield "## How to use it"
    yield "\n".join(["```python", *lines, "```"])
    if description.plain:
        yield 'open_clip alone opens it as well: `open_clip.create_model_and_transforms("local-dir:this folder")`.'
    base = description.base
    if base.origin is not None and not base.embedded:
        yield (
            f"The weights of the base, `{base.origin.origin()}`, are not in this folder: they are loaded by that name, "
            "and have to be what they were."
        )


def _scores(description: Description) -> Iterator[str]:
    result = _facts(description.result)
    metrics = {name: value for name, value in (result.get("metrics") or {}).items() if value is not None}
    held = _with_ends(result)
    yield "## What was measured"
    if not metrics and not held:
        yield "Nothing was measured when it was saved."
        return
    protocol = _facts(description.protocol)
    among = {"task": "those of the image's own task", "seen": "those met so far", "union": "all"}
    competes = among.get(str(protocol.get("label_space")))
    yield "In percent and points" + (f"; the classes that compete are {competes}." if competes else ".")
    if metrics:
        yield _table(["figure", "value"], [[_SCORES.get(n, n), _number(v)] for n, v in metrics.items()])
    matrix, tasks = result.get("matrix") or [], [one_line(task) for task in result.get("tasks") or []]
    if matrix and tasks:
        yield "Rows are steps of training, the first of them the base; columns are tasks."
        steps = ["the base", *(f"after {task}" for task in tasks)]
        rows = [[step, *map(_number, row)] for step, row in zip(steps, matrix, strict=False)]
        yield _table(["", *tasks], rows)
    if held:
        yield "On what no task trained:"
        yield _table(["held-out set", "base", "now"], [[n, _number(c[0]), _number(c[-1])] for n, c in held.items()])


def _with_ends(result: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Held-out curves that say where they began and where they ended, whatever is missing between."""
    curves = (result.get("held_out") or {}).items()
    return {name: curve for name, curve in curves if curve and None not in (curve[0], curve[-1])}


def _limits(description: Description) -> Iterator[str]:
    result, ledger = _facts(description.result), _facts(description.ledger)
    metrics = result.get("metrics") or {}
    said = []
    if (forgot := metrics.get("forget")) is not None:
        said.append(f"It has lost {forgot:.1f} points on earlier tasks, on average, since it was at its best on them.")
    curves = list(_with_ends(result).values())
    if curves:
        lost = sum(curve[0] - curve[-1] for curve in curves) / len(curves)
        said.append(f"On held-out sets it is {lost:.1f} points below its base, on average.")
    if (erosion := metrics.get("zsd")) is not None:
        said.append(f"It has lost {erosion:.1f} points on tasks before they were trained (zero-shot degradation).")
    space = description.label_space
    if space is not None:
        said.append(
            f"It knows {len(space['class_names'])} classes by name; of images of others it names one of these all the "
            "same, unless other labels are given."
        )
    if ledger.get("task_id_needed"):
        said.append("Its figures are among the classes of an image's own task, which has to be told.")
    kept = {
        True: "The state of its training holds samples of the data that it was trained on.",
        False: "No samples of the data that it was trained on are in this folder.",
        None: "Nobody knows whether samples of the data that it was trained on are kept.",
    }
    said.append(kept[description.raw_data])
    said.append("Who may use it for what depends on the data and on the base, of which nothing is known here.")
    yield "## Limits"
    yield "\n".join(f"- {sentence}" for sentence in said)


def _costs(description: Description) -> Iterator[str]:
    ledger = _facts(description.ledger)
    if not ledger:
        return
    stored = [ledger.get("stored_ram_bytes"), ledger.get("stored_disk_bytes")]
    rows = [
        ["parameters that trained", _count(ledger.get("trainable_parameters"))],
        ["parameters added to the base", _count(ledger.get("added_parameters"))],
        ["stored between tasks", human_bytes(sum(filter(None, stored))) if None not in stored else None],
        ["seconds of training", _count(ledger.get("train_seconds"))],
        ["operations per prediction", _count(ledger.get("inference_flops_per_sample"))],
    ]
    yield "## What it cost"
    yield _table(["", "measured"], [[name, value] for name, value in rows if value is not None])


def _images(description: Description) -> Iterator[str]:
    yield "## How images are prepared"
    yield f"{one_line(description.transforms.get('eval', 'not known'))}."


def _classes(description: Description) -> Iterator[str]:
    space = description.label_space
    if space is None:
        return
    names = [in_markdown(name) for name in space["class_names"]]
    listed = ", ".join(names[:_CLASSES])
    rest = f" and {len(names) - _CLASSES} more, in `model.json`" if len(names) > _CLASSES else ""
    yield "## Classes"
    yield f"{listed}{rest}."
    sets: Sequence[Mapping[str, Any]] = space["templates"]
    yield "Prompts: " + "; ".join(_quoted(text) for group in sets for text in group["templates"]) + "."


def _quoted(text: str) -> str:
    return in_markdown(text) if "`" in text else f"`{one_line(text)}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [[in_markdown(str(cell)) for cell in row] for row in [head, *rows]]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.1f}"


def _count(value: Any) -> str | None:
    return None if value is None else f"{value:,}"
