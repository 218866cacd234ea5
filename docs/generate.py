"""Write what the pages of this folder and the catalogue say of recipes and benchmarks, from their declarations.

``python docs/generate.py`` writes; with ``--check`` it names the files that are stale and exits with 1. A block stands
between ``<!-- generated: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from textwrap import wrap
from typing import Any

from avalanche_vlm._numbers import NUMBERS
from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, PAIR_SETS, TOGETHER, DataFiles
from avalanche_vlm.benchmarks.published.results import PublishedRow, PublishedTable, published_tables, tables_on
from avalanche_vlm.benchmarks.registry import BENCHMARKS, get_benchmark
from avalanche_vlm.commands.arguments.parser import _parser
from avalanche_vlm.commands.arguments.values import NumberWord
from avalanche_vlm.errors import InputError
from avalanche_vlm.training import recipes
from avalanche_vlm.training.recipes import AdamW, Published, Tuned, Unpublished

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "docs/recipes.md": ("recipes", "image towers", "options", "published settings", "rates on new data", "picturebook"),
    "docs/benchmarks.md": ("benchmarks", "layouts"),
    "docs/numbers.md": ("numbers",),
    "docs/reproduction.md": ("reproduction",),
}
"""Files, and the blocks that each must have."""
STREAM = ("data.base", "data.increment", "data.order", "data.shots", "label_space")
"""What a published protocol says of how hard a stream is: figures on others do not compare."""
CATALOGUE = "avalanche_vlm/catalogue.json"
FAMILIES = {
    "none": "(none)",
    "MMRE": "multi-modal replay",
    "CREG": "cross-modal regularization",
    "PEA": "parameter-efficient adaptation",
    "fusion": "model fusion",
}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table.

    :param head: names of the columns.
    :param rows: cells as texts.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    head = list(head)
    lines = [head, *map(list, rows)]
    texts = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([texts[0], "|" + "---|" * len(head), *texts[1:]])


def shipped() -> list[str]:
    """Names of the package's own recipes: those of other distributions may be installed beside it."""
    return [name for name in recipes.list() if recipes.get(name).compose.__module__.startswith("avalanche_vlm.")]


def recipe_table() -> str:
    """All recipes in a line each."""
    rows = []
    last = ""
    for described in map(recipes.describe, shipped()):
        family = FAMILIES[described.family]
        needs = ", ".join([*(f"needs a {need}" for need in described.needs), *only(described.kinds)])
        summary = described.summary + (f" ({needs})" if needs else "")
        rows.append([f"`{described.name}`", "" if family == last else family, summary, "; ".join(described.papers)])
        last = family
    return table(["recipe", "family of the survey", "what it does", "source"], rows)


def only(kinds: tuple[str, ...]) -> list[str]:
    """The remark on a recipe that is for one kind of stream."""
    return [] if len(kinds) > 1 else [f"streams of {kinds[0]}"]


def image_towers() -> str:
    """Which recipes do not take every image tower."""
    names = [f"`{name}`" for name in shipped() if recipes.get(name).image_tower == "transformer"]
    said = f"{', '.join(names[:-1])} and {names[-1]} take image towers of transformer blocks, open_clip's or timm's"
    return "\n".join(wrap(f"{said} (SigLIP's), and refuse CLIP's ResNets. All others take any.", 120))


def option_table() -> str:
    """All options of all recipes."""
    rows = [
        [f"`{name}`", f"`{option.name}`", f"`{option.default!r}`", option.accepts, option.description]
        for name in shipped()
        for option in recipes.describe(name).options
    ]
    return table(["recipe", "option", "default", "accepts", "what it is"], rows)


def published_table() -> str:
    """What was published, an entry in a line."""
    rows = []
    for name in shipped():
        for entry in recipes.get(name).training:
            if isinstance(entry, Unpublished):
                rows.append([f"`{name}`", "", f"none: {entry.reason}", "", "", "", ""])
            else:
                rows.append([f"`{name}`", entry.benchmark, *settings_of(entry), entry.source])
    return table(["recipe", "on", "optimizer", "schedule", "length", "batch", "source"], rows)


def settings_of(entry: Published) -> list[str]:
    """Cells on optimizer, schedule, length and batch."""
    optimizer = [
        entry.optimizer or "",
        stating("at {:g}", entry.lr) + stating(" per {} samples", entry.lr_batch),
        stating("text tower x {:g}", entry.text_lr_factor),
        stating("decay {:g}", entry.weight_decay),
        stating("momentum {:g}", entry.momentum),
        "" if entry.betas is None else f"betas {entry.betas[0]:g}, {entry.betas[1]:g}",
        stating("smoothing {:g}", entry.label_smoothing),
        stating("gradients clipped to {:g}", entry.max_grad_norm),
        ", ".join(f"`{name}={value!r}`" for name, value in entry.options.items()),
        entry.note,
    ]
    warmup = stating("warm-up {} iterations", entry.warmup) or stating("warm-up {} epochs", entry.warmup_epochs)
    epochs = entry.epochs if not isinstance(entry.epochs, tuple) else "{} to {}".format(*entry.epochs)
    length = stating("{} epochs", epochs) or stating("{} iterations", entry.iterations)
    joined = ", ".join(filter(None, optimizer)).replace(f"{entry.optimizer}, at", f"{entry.optimizer} at")
    return [joined, ", ".join(filter(None, [entry.schedule or "", warmup])), length, stating("{}", entry.batch_size)]


def stating(form: str, value: Any) -> str:
    """A text about a value, or nothing where there is none."""
    return "" if value is None else form.format(value)


def new_data_table() -> str:
    """The rates for a user's own data, recipes with the same reason in one line."""
    lines: dict[tuple[str, str, str], list[str]] = {}
    for name in shipped():
        fields, _ = recipes.settings_for(name, "data")
        if not recipes.get(name).trains:
            continue
        ours = recipes.get(name).adamw
        why = f"ours, {ours.why}" if isinstance(ours, AdamW) else "published"
        lines.setdefault((f"{fields['lr']:g}", f"{fields['weight_decay']:g}", why), []).append(f"`{name}`")
    rows = [[", ".join(names), *facts] for facts, names in lines.items()]
    return table(["recipes", "learning rate", "weight decay", "from"], rows)


def training(name: str) -> tuple[Published | Unpublished, ...]:
    """The published settings of a recipe."""
    return recipes.get(name).training


def picturebook_table() -> str:
    """What the picturebook's streams are trained with, recipes with the same entry in one line."""
    lines: dict[tuple[str, str, str], list[str]] = {}
    for name in shipped():
        tuned = recipes.get(name).picturebook
        if isinstance(tuned, Tuned):
            options = ", ".join(f"`{option}={value!r}`" for option, value in tuned.options.items())
            lines.setdefault((f"{tuned.lr:g}", options, tuned.how), []).append(f"`{name}`")
    rows = [[", ".join(names), *facts] for facts, names in lines.items()]
    return table(["recipes", "learning rate", "options", "what was tried"], rows)


def benchmark_table() -> str:
    """All published benchmarks, with their defaults and what they are made of."""
    rows = []
    for of in BENCHMARKS:
        if of.family in ("", "picturebook"):
            continue
        told = of.as_json()
        sets: dict[str, dict[str, Any]] = {}
        for name, known in told["data_sets"].items():
            sets.setdefault(name.rpartition(": ")[0], {})[name.rpartition(": ")[2]] = known
        for which, members in sets.items():
            numbers = [known.get("classes", 0) for known in members.values()]
            classes = max(numbers) if of.family == "domain-incremental" else sum(numbers)
            counted = all(known["images"].get("train") for known in members.values()) or of.kind == "classes"
            images = [
                sum(known["images"].get(part, 0) for known in members.values())
                for part in ("train", "test", "all", TOGETHER)
            ]
            known = [
                f"{images[0]:,} / {images[1]:,}" if all(images[:2]) and counted else "",
                f"{images[2]:,} to be split",
            ]
            told_of = [known["images"] for known in members.values()]
            if known[0] and any(told_of) and not all(told_of):
                known[0] += " of those that are published"
            if images[3]:
                known[0] = f"{images[3]:,} in all"
            rows.append(
                [
                    f"`{of.name}`" + (f" `{which}`" if which else ""),
                    of.family,
                    of.summary,
                    f"{classes:,}" if classes else "captions",
                    " and ".join(filter(None, known if images[2] else known[:1])) or "not published",
                    next(iter(told["label_spaces"]), "none"),
                    best_published(of.name, which),
                    of.source,
                ]
            )
    head = ["benchmark", "family", "what it is", "classes", "training / test images", "classes that compete"]
    head += ["best published Last that we have read, stream by stream", "source"]
    return table(head, rows)


def best_published(benchmark: str, splits: str) -> str:
    """The highest Last among the published figures on each stream of a benchmark, with its method and the settings of
    that stream that are not the benchmark's own."""
    tables = [of for of in tables_on(benchmark) if splits in ("", f"splits={of.protocol.get('data.splits')}")]
    streams: dict[str, list[tuple[float, str, PublishedTable]]] = {}
    for of in tables:
        stream = json.dumps([of.protocol.get(name) for name in STREAM])
        streams.setdefault(stream, []).extend((row.figures["last"], row.method, of) for row in of.rows)
    best = [max(found, key=lambda row: row[0]) for found in streams.values()]
    return "; ".join(f"{last:.1f} by {method}, {told_stream(of)}" for last, method, of in best)


def told_stream(published: PublishedTable) -> str:
    """Which stream of the benchmark a table is of, by the settings that are not the benchmark's own."""
    if "order" in published.run:
        return told_order(published)
    own = get_benchmark(published.run["benchmark"]).options()
    other = [word for word in published.options if word != f"{(name := word.partition('=')[0])}={own[name]}"]
    return ", ".join(other) or "the default stream"


def layout_table() -> str:
    """Where the files of all data sets lie below the root."""
    alike: dict[tuple[Any, ...], list[DataFiles]] = {}
    for of in (*DATASETS, *PAIR_SETS):  # parts of one data set lie in the same files
        alike.setdefault((*of.needs.items(), of.licence), []).append(of)
    rows = []
    for first, *others in alike.values():
        files = "; ".join(f"`{path}`: {what}" for path, what in first.needs.items())
        more = f" and {len(others)} more in the same files" if others else ""
        rows.append([f"`{first.name}`{more}", first.summary, files, first.licence])
    return table(["data set", "what it is", "below the root", "licence"], rows)


def number_table() -> str:
    """All declared numbers, and the commands that take each: a line for every meaning that commands give to it."""
    taken: dict[str, dict[tuple[str, str, str], list[str]]] = {}
    for command, parser in _parser()[1].items():
        for action in parser._actions:
            if isinstance(action.type, NumberWord):
                says, _, unset = str(action.help).replace("%%", "%").removesuffix(")").rpartition(" (default: ")
                meanings = taken.setdefault(action.type.number.name, {})
                meanings.setdefault((action.option_strings[-1], unset, says), []).append(f"`{command}`")
    rows = [
        [f"`{option}`", ", ".join(commands), number.accepts, unset, says]
        for name, number in NUMBERS.items()
        for (option, unset, says), commands in taken.get(
            name, {(number.option, number.unset, number.says): ["all that train"]}
        ).items()
    ]
    return table(["option", "commands", "takes", "without it", "what it is"], rows)


def reproduction_table() -> str:
    """Every published figure with the command that trains the same."""
    rows = [
        [
            f"{of.named}, {of.run['benchmark']} {told_order(of)}",
            row.method,
            f"`{command_of(of, row)}`" if row.recipe else "no recipe of ours",
            *(f"{row.figures[name]:.1f}" if name in row.figures else "" for name in ("transfer", "avg", "last")),
            "not run yet" if row.recipe else "",
        ]
        for of in published_tables()
        for row in of.rows
    ]
    return table(["published in", "method", "command", "Transfer", "Avg", "Last", "measured here"], rows)


def has_settings(name: str, benchmark: str) -> bool:
    """Whether a recipe has published settings for a benchmark that can be run."""
    try:
        recipes.published_for(name, benchmark)
    except InputError:
        return False
    return True


def told_order(published: PublishedTable) -> str:
    """Which stream of the benchmark a table is of."""
    return f"order {published.run['order']}" if "order" in published.run else ", ".join(published.options)


def command_of(published: PublishedTable, row: PublishedRow) -> str:
    """The command line that trains what a paper reports."""
    run = published.run
    which = run.get("order") or "-".join(published.options).replace("=", "-")
    words = [
        f"avalanche-vlm run --benchmark {run['benchmark']} --root DATA",
        f"--order {run['order']}" if "order" in run else "",
        *(f"--option {option}" for option in published.options),
        f"--recipe {row.recipe}",
        f"--model {run['model']} --pretrained {run['pretrained']}",
        "--reference PAIRS" if "reference" in recipes.describe(row.recipe).needs else "",
        "--published" if has_settings(row.recipe, run["benchmark"]) else "",
        f"--device cuda --out out/{run['benchmark']}-{which}-{row.recipe}",
    ]
    return " ".join(filter(None, words))


BLOCKS: dict[str, Callable[[], str]] = {
    "recipes": recipe_table,
    "image towers": image_towers,
    "options": option_table,
    "published settings": published_table,
    "rates on new data": new_data_table,
    "picturebook": picturebook_table,
    "benchmarks": benchmark_table,
    "layouts": layout_table,
    "numbers": number_table,
    "reproduction": reproduction_table,
}


def filled(text: str, names: Iterable[str], where: str) -> str:
    """A page with its blocks as they should be.

    :param text: the page as it is.
    :param names: names of the blocks that it must have.
    :param where: the page's name, for the error.
    :raises SystemExit: if a block is missing.
    """
    for name in names:
        block = re.compile(rf"(<!-- generated: {re.escape(name)} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        if not block.search(text):
            raise SystemExit(f"{where} has no block <!-- generated: {name} --> ... <!-- end -->")
        made = BLOCKS[name]()
        text = block.sub(lambda match, made=made: match[1] + made + match[2], text)
    return text


def catalogue_line(name: str) -> dict[str, Any]:
    """What is known of a recipe before it is imported: enough to refuse what cannot be meant."""
    told = recipes.describe(name)
    options = recipes.get(name).options
    return {
        "name": name,
        "family": told.family,
        "summary": told.summary,
        "kinds": list(told.kinds),
        "takes": list(told.takes),
        "needs": list(told.needs),
        "options": {of.name: {"accepts": of.accepts, "schema": options[of.name].schema} for of in told.options},
    }


def catalogue() -> str:
    """The light list of shipped recipes, for help texts."""
    lines = [json.dumps(catalogue_line(name)) for name in shipped()]
    return '{"recipes": [\n  ' + ",\n  ".join(lines) + "\n]}\n"


def wanted(root: Path = ROOT) -> dict[Path, str]:
    """Every generated file, as it should be.

    :param root: the checkout.
    """
    pages = {root / name: filled((root / name).read_text(), blocks, name) for name, blocks in PAGES.items()}
    return {**pages, root / CATALOGUE: catalogue()}


def main(check: bool) -> int:
    """Write what is stale, or say it.

    :param check: whether files stay as they are.
    """
    stale = {path: text for path, text in wanted().items() if path.read_text() != text}
    for path, text in stale.items():
        if not check:
            path.write_text(text)
        print(f"{path.relative_to(ROOT)} {'is stale: run python docs/generate.py' if check else 'is written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
