"""Results as a table: on a terminal, as CSV, as a summary over seeds."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from avalanche_vlm.evaluation.beside import published_beside
from avalanche_vlm.evaluation.comparable import check_one_table, shared_facts
from avalanche_vlm.evaluation.declaration import Figure, ResultEntry, Unit
from avalanche_vlm.evaluation.figures import figures_of
from avalanche_vlm.evaluation.variants import row_names
from avalanche_vlm.report.rounding import show, spread
from avalanche_vlm.units import as_cell, one_line, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


_ENDS = 6
"""Tasks that are shown from either end of a long stream."""


def row(entry: ResultEntry) -> dict[str, Any]:
    """The figures of one experiment that have a column in ``results.csv``, by name: scores in percent, changes in
    points, bytes, counts, seconds. NaN is missing.

    :param entry: result and timing of the experiment.
    """
    return _row(entry, figures_of([entry], "csv"))


def _row(entry: ResultEntry, figures: Iterable[Figure]) -> dict[str, Any]:
    protocol = entry["result"]["protocol"]
    values = {figure.name: figure.value(entry) for figure in figures}
    return {
        "recipe": protocol["recipe"],
        "seed": protocol["seed"],
        **{name: math.nan if value is None else value for name, value in values.items()},
    }


def as_csv(entries: Sequence[ResultEntry]) -> str:
    """One line per experiment, figures as they are.

    :param entries: result and timing of each experiment.
    :raises InputError: if the results differ in more than recipes and seeds, naming in what.
    """
    check_one_table([entry["result"] for entry in entries])
    figures = figures_of(entries, "csv")
    text = io.StringIO()
    writer = csv.DictWriter(text, ["recipe", "seed", *(figure.name for figure in figures)], lineterminator="\n")
    writer.writeheader()
    for told, entry in zip(_names(entries), entries, strict=True):
        cells = {**_row(entry, figures), "recipe": told}
        writer.writerow({name: "" if value != value else as_cell(value) for name, value in cells.items()})
    return text.getvalue()


def summary(entries: Sequence[ResultEntry]) -> dict[str, Any]:
    """Mean, standard deviation over seeds (sample, None for one seed) and number of seeds, per recipe and figure.

    :param entries: result and timing of each experiment.
    :return: ``protocol``, what all results have in common (of nested facts those that are equal), and ``recipes``.
    :raises InputError: if the results differ in more than recipes and seeds, naming in what.
    """
    check_one_table([entry["result"] for entry in entries])
    protocol = shared_facts([entry["result"]["protocol"] for entry in entries])
    return {"protocol": protocol, "recipes": _summed_up(entries, figures_of(entries, "summary"))}


def _names(entries: Sequence[ResultEntry]) -> list[str]:
    return row_names([entry["result"] for entry in entries])


def print_table(entries: Sequence[ResultEntry]) -> None:
    """Print :func:`as_table`.

    :param entries: result and timing of each experiment.
    :raises InputError: if the results differ in more than recipes and seeds, naming in what.
    """
    console().print(as_table(entries))


def as_table(entries: Sequence[ResultEntry]) -> Table:
    """One line per recipe; mean ± standard deviation where there are several seeds. Figures without a value have no
    column. Below them what was published under the same protocol, as it was published.

    :param entries: result and timing of each experiment.
    :raises InputError: if the results differ in more than recipes and seeds, naming in what.
    """
    from rich.table import Table

    check_one_table([entry["result"] for entry in entries])
    rows = _summed_up(entries, figures_of(entries, "table"))
    figures = [f for f in figures_of(entries, "table") if any(of[f.name]["n"] for of in rows.values())]
    seeds = sorted({entry["result"]["protocol"]["seed"] for entry in entries})
    protocol = entries[0]["result"]["protocol"]
    visible = protocol.get("label_space")  # pairs have none
    space = f"label space {visible}, " if visible else ""
    table = Table(
        title=words(
            f"{protocol.get('benchmark')}, {space}{protocol.get('model')}, "
            f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))} (scores in percent)"
        )
    )
    table.add_column("recipe", no_wrap=True)
    for figure in figures:
        table.add_column(words(figure.title), justify="right", no_wrap=True)
    of_recipe: dict[str, list[int]] = {}
    for name, entry in zip(_names(entries), entries, strict=True):
        of_recipe.setdefault(name, []).append(entry["result"]["protocol"]["seed"])
    for recipe, values in rows.items():
        own = sorted(of_recipe[recipe])  # a recipe that failed on some seeds has a mean over the others
        told = recipe if own == seeds else f"{recipe} (seed{'s' if len(own) > 1 else ''} {', '.join(map(str, own))})"
        table.add_row(words(told), *(_cell(values[figure.name], figure.unit) for figure in figures))
    table.add_section()
    for published in published_beside([entry["result"] for entry in entries]).rows:
        known = published.figures
        cells = (show(known[figure.name], figure.unit) if figure.name in known else "-" for figure in figures)
        table.add_row(words(f"{published.method} (published)"), *cells)
    return table


def _summed_up(entries: Sequence[ResultEntry], figures: Sequence[Figure]) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean, deviation and number of seeds, by recipe and figure."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, entry in zip(_names(entries), entries, strict=True):
        rows.setdefault(name, []).append(_row(entry, figures))
    return {recipe: {f.name: spread([row[f.name] for row in of]) for f in figures} for recipe, of in rows.items()}


def print_matrix(result: Mapping[str, Any]) -> None:
    """The performance matrix: rows are training steps, columns tasks. Of many tasks the first and the last few are
    shown, which fit a terminal, with the number of those between them.

    :param result: what ``result.json`` holds.
    """
    from rich.table import Table

    tasks, steps = result["tasks"], ["(pretrained)", *result["tasks"]]
    columns, rows = _shown(len(tasks)), _shown(len(steps))
    table = Table(title="score on each task (percent)")
    table.add_column("after", no_wrap=True)
    for column in columns:
        left_out = f"... {len(tasks) - len(columns) + 1} more ..."
        table.add_column(left_out if column is None else words(tasks[column]), justify="right", no_wrap=True)
    for step in rows:
        if step is None:
            table.add_row(f"... {len(steps) - len(rows) + 1} more ...")
            continue
        values = [None if column is None else result["matrix"][step][column] for column in columns]
        cells = zip(columns, values, strict=True)
        table.add_row(words(steps[step]), *("" if c is None else "-" if v is None else f"{v:.1f}" for c, v in cells))
    if None in columns:
        table.caption = "result.json has the whole matrix, and matrix.png draws it"
    console().print(table)


def _shown(count: int) -> list[int | None]:
    """Places of what is shown of a list, None where others are left out."""
    if count <= 2 * _ENDS + 4:
        return list(range(count))
    return [*range(_ENDS), None, *range(count - _ENDS, count)]


def _cell(figures: dict[str, Any], unit: Unit) -> str:
    if figures["mean"] is None:
        return "-"
    return show(figures["mean"], unit) + (f" ±{show(figures['std'], unit)}" if figures["std"] is not None else "")


def words(text: str) -> Text:
    """Text of a table's cell or title as it stands: brackets are brackets, and no command to rich or the terminal.

    :param text: a name, or a sentence with names in it.
    """
    from rich.text import Text

    return Text(visible(one_line(text)))


def console() -> Console:
    """Where tables are printed: the terminal, or a pipe wide enough for every table."""
    from rich.console import Console

    # A pipe has no width of its own; a table cut to eighty columns would lose what it is printed for.
    return Console() if sys.stdout.isatty() else Console(width=200)
