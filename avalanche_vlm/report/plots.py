"""Plots of results, as matplotlib figures without global state. They grow with the number of recipes and tasks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Plot

from avalanche_vlm.evaluation.beside import published_beside
from avalanche_vlm.evaluation.comparable import check_one_table
from avalanche_vlm.evaluation.curves import curves_by_set
from avalanche_vlm.evaluation.declaration import Figure
from avalanche_vlm.evaluation.figures import figures_of
from avalanche_vlm.evaluation.variants import row_names
from avalanche_vlm.report.lettering import CURVE, labels, reach, set_in_fonts
from avalanche_vlm.units import visible

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Okabe and Ito's palette, readable with every kind of colour vision."""

_STYLES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))
"""Line and marker of every further eight recipes, which have the same colours again."""

_CELL, _LETTER = 0.52, 0.17
"""Side of a heat map's cell and height of a line of text, in inches."""

_PANELS = 12
"""Held-out sets that one plot shows at most."""

_AREA = 225.0
"""Square inches that all cells of a plot take at most: the memory that a picture takes goes by its points."""


def matrices(results: Sequence[Mapping[str, Any]]) -> Plot:
    """Performance matrices side by side, averaged over the seeds of each recipe: rows are training steps.

    :param results: what ``result.json`` holds, of one or more recipes and seeds on one stream.
    :raises InputError: if the results differ in more than recipes and seeds, naming in what.
    """
    check_one_table(results)
    groups = _by_recipe(results)
    tasks = labels(results[0]["tasks"])
    cell = min(_CELL, math.sqrt(_AREA / (len(groups) * len(tasks) * (len(tasks) + 1))))
    across = max(1, min(len(groups), int(22 / (cell * len(tasks) + 0.4))))
    down = math.ceil(len(groups) / across)
    margin = max(2.2, 1.6 + reach(tasks)), max(1.4, 0.5 + 0.7 * reach(tasks))  # names at the left, and slanted below
    size = (margin[0] + across * (cell * len(tasks) + 0.4), margin[1] + down * (cell * (len(tasks) + 1) + 0.5))
    figure = Plot(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    shown = slice(None, None, math.ceil(_LETTER / cell))  # names no nearer to each other than lines of text
    colours = ScalarMappable(Normalize(0, 100), "viridis")
    for axis, (recipe, members) in zip(grid.flat, groups.items(), strict=False):
        values = np.mean([np.array(r["matrix"], dtype=float) for r in members], axis=0)
        # Coloured here: matplotlib would enlarge the numbers first, in double precision and four times over.
        axis.imshow(colours.to_rgba(values, bytes=True), aspect="auto", interpolation="nearest")
        for (j, i), value in np.ndenumerate(values) if cell > 2 * _LETTER else ():
            if not np.isnan(value):
                ink = "white" if value < 60 else "black"
                # Within its cell, whatever the layout: to ask each for its size would take longer than all else.
                axis.text(i, j, f"{value:.0f}", ha="center", va="center", fontsize=8, color=ink, in_layout=False)
        axis.set_title(visible(recipe))
        axis.set_xticks(range(len(tasks))[shown], tasks[shown], rotation=45, ha="right")
    for axis in grid.flat[len(groups) :]:
        axis.set_visible(False)
    for axis in grid.flat[max(0, len(groups) - across) : len(groups)]:  # the lowest of every column
        axis.tick_params(labelbottom=True)
    steps = ["pretrained", *(f"after {task}" for task in tasks)]
    for axis in grid[:, 0]:
        axis.set_yticks(range(len(steps))[shown], steps[shown])
    figure.colorbar(colours, ax=list(grid.flat), label="score (percent)", shrink=0.9 / down)
    return set_in_fonts(figure)


def confusions(
    counts: np.ndarray, names: Sequence[str], answers: Sequence[int] | None = None, of: int | None = None
) -> Plot:
    """Which classes are taken for which, as shares of the true ones.

    :param counts: ``[classes, classes]``, true classes down.
    :param names: names of the classes.
    :param answers: the answers to each class in all; None where ``counts`` has them.
    :param of: number of classes, of which these are the most confused; None where these are all.
    """
    whole = counts.sum(1) if answers is None else np.asarray(answers)
    shares = 100 * counts / np.maximum(whole, 1)[:, None]
    classes = labels(names, "class")
    side, margin = 2 * _LETTER * len(classes) if len(classes) < 10 else 1.2 * _LETTER * len(classes), reach(classes)
    figure = Plot(figsize=(side + margin + 1.6, side + 0.7 * margin + 1.2), layout="constrained")
    axis = figure.subplots()
    colours = ScalarMappable(Normalize(0, 100), "viridis")
    axis.imshow(colours.to_rgba(shares, bytes=True), aspect="auto", interpolation="nearest")
    axis.set_xticks(range(len(classes)), classes, rotation=90, fontsize=8)
    axis.set_yticks(range(len(classes)), classes, fontsize=8)
    axis.set_xlabel("answer")
    axis.set_ylabel("class")
    if of is not None and len(names) < of:
        axis.set_title(f"the {len(names)} of {of} classes with most wrong answers", fontsize=9)
    figure.colorbar(colours, ax=axis, label="percent of the class")
    return set_in_fonts(figure)


def held_out_curves(results: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> Plot:
    """Held-out scores over the stream, a panel for each set and in it a line per recipe: the mean over seeds. Of up to
    eight recipes a band spans the seeds; of more, bands would hide the lines.

    :param results: what ``result.json`` holds, of one or more recipes and seeds on one stream.
    :param names: names of the curves; by default R@1 of each set of captions and the accuracy on each of classes, of
        the first twelve sets.
    :raises InputError: if the results differ in more than recipes and seeds, naming in what.
    """
    check_one_table(results)
    groups = _by_recipe(results)
    tasks = labels(results[0]["tasks"])
    shown = dict.fromkeys(name for result in results for name in curves_by_set(result["held_out"]))
    names = list(shown)[:_PANELS] if names is None else list(names)
    many = len(groups) > len(COLOURS)
    across = min(3, max(1, len(names)))
    down = math.ceil(max(1, len(names)) / across)
    width, height = max(8.0, min(30.0, 2 + 0.3 * len(tasks))), max(4.5, 0.6 + 1.3 * _LETTER * len(groups) * many)
    slanted = 0.7 * max(0.0, reach(tasks) - 1.5)  # beyond what the names of most tasks need below the axis
    shrunk = 1 if across == 1 else 0.6  # several side by side are smaller each
    size = (shrunk * across * width + 3 * many, down * (shrunk * height + slanted))
    figure = Plot(figsize=size, layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for axis, name, title in zip(panels, names or [""], labels(names, CURVE) if names else [""], strict=False):
        _held_out_panel(axis, groups, name, tasks, shrunk * width, bands=not many)
        axis.set_ylabel(visible(f"held-out {title} (percent)"))
    for axis in panels[max(1, len(names)) :]:
        axis.remove()
    if panels[0].lines and many:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    elif panels[0].lines:
        panels[0].legend(loc="lower left")
    return set_in_fonts(figure)


def _held_out_panel(
    axis: Any, groups: Mapping[str, Sequence[Mapping[str, Any]]], name: str, tasks: list[str], width: float, bands: bool
) -> None:
    """One held-out score over the stream, a line per recipe."""
    steps = np.arange(len(tasks) + 1)
    for (colour, line, marker), (recipe, members) in zip(_looks(), groups.items(), strict=False):
        curves = [r["held_out"][name] for r in members if name in r["held_out"]]
        if not curves:
            continue
        values = np.array(curves, dtype=float)
        measured = ~np.isnan(values.mean(0))
        axis.plot(steps[measured], values.mean(0)[measured], line, marker=marker, color=colour, label=visible(recipe))
        if len(values) > 1 and bands:
            low, high = (bound[measured] for bound in (values.min(0), values.max(0)))
            axis.fill_between(steps[measured], low, high, color=colour, alpha=0.15, linewidth=0)
    shown = slice(None, None, math.ceil(1.5 * _LETTER * len(steps) / width))
    axis.set_xticks(steps[shown], ["pretrained", *tasks][shown], rotation=45, ha="right")
    axis.set_xlabel("after training on")
    axis.set_ylim(0, 102)
    axis.grid(alpha=0.3)


def metric_bars(results: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> Plot:
    """Figures side by side, in each a bar per recipe: the mean over seeds, with the standard deviation. Below them, in
    outline, what was published under the same protocol.

    :param results: what ``result.json`` holds, of one or more recipes and seeds.
    :param names: figures to draw; by default those that are declared to be shown in a plot.
    :raises InputError: if the results differ in more than recipes and seeds, naming in what.
    """
    check_one_table(results)
    entries = [{"result": result} for result in results]
    known = figures_of(entries)
    figures = [f for f in known if "plot" in f.shown] if names is None else [f for f in known if f.name in names]
    groups = _by_recipe(results)
    published = [row for row in published_beside(results).rows if any(figure.name in row.figures for figure in figures)]
    rows, theirs = np.split(np.arange(len(groups) + len(published)), [len(groups)])
    height = 1.1 + 2 * _LETTER * (len(rows) + len(theirs))
    plot = Plot(figsize=(1.8 + 2.6 * max(1, len(figures)), height), layout="constrained")
    for axis, figure in zip(
        plot.subplots(1, max(1, len(figures)), squeeze=False, sharey=True)[0], figures, strict=False
    ):
        values = [[_number(figure.value({"result": result})) for result in members] for members in groups.values()]
        means = np.array([np.mean(of) for of in values])
        spreads = np.array([np.std(of, ddof=1) if len(of) > 1 else 0.0 for of in values])
        axis.barh(rows, means, 0.7, color=COLOURS[0])
        several = np.array([len(of) > 1 for of in values]) & np.isfinite(means)
        axis.errorbar(means[several], rows[several], xerr=spreads[several], fmt="none", ecolor="black", capsize=2)
        given = np.array([_number(row.figures.get(figure.name)) for row in published])
        axis.barh(theirs, given, 0.7, facecolor="none", edgecolor=COLOURS[0])
        ends = np.nan_to_num([*np.where(means < 0, means, means + spreads), *given])
        for row, (value, end) in enumerate(zip([*means, *given], ends, strict=True)):
            words = f"{value:.1f}" if not np.isnan(value) else "n/a" if row < len(rows) else ""
            axis.annotate(words, (max(end, 0.0), row), (4, 0), textcoords="offset points", va="center", fontsize=8)
        axis.set_title(visible(f"{figure.title}{_direction(figure)}"), fontsize=10)
        axis.set_xlabel(visible(figure.unit))
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
        axis.margins(x=0.18)
        axis.set_ylim(len(rows) + len(theirs) - 0.4, -0.6)  # the first recipe on top
    called = [*groups, *(f"{row.method} (published)" for row in published)]
    plot.axes[0].set_yticks([*rows, *theirs], labels(called, "recipe"))
    return set_in_fonts(plot)


def _direction(figure: Figure) -> str:
    words = {True: "\n(higher is better)", False: "\n(lower is better)", None: ""}
    return words[figure.higher_is_better]


def _by_recipe(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for name, result in zip(row_names(results), results, strict=True):
        groups.setdefault(name, []).append(result)
    return groups


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _looks() -> Iterator[tuple[str, str, str]]:
    """Colour, line and marker of one recipe after the other; no two of the first 32 look alike."""
    for line, marker in itertools.cycle(_STYLES):
        for colour in COLOURS:
            yield colour, line, marker
