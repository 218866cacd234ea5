"""Plots of results, as matplotlib figures without global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Plot

from avalanche_vlm.evaluation.curves import HELD_OUT
from avalanche_vlm.evaluation.declaration import Figure
from avalanche_vlm.evaluation.figures import figures_of

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Okabe and Ito's palette, readable with every kind of colour vision."""


def matrices(results: Sequence[Mapping[str, Any]]) -> Plot:
    """Performance matrices side by side, averaged over the seeds of each recipe: rows are training steps.

    :param results: what ``result.json`` holds, of one or more recipes and seeds on one stream.
    """
    groups = _by_recipe(results)
    tasks = results[0]["tasks"]
    cell = 0.52
    figure = Plot(
        figsize=(2.2 + len(groups) * (cell * len(tasks) + 0.4), 1.9 + cell * (len(tasks) + 1)), layout="constrained"
    )
    axes = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    for axis, (recipe, members) in zip(axes, groups.items(), strict=True):
        values = np.mean([np.array(r["matrix"], dtype=float) for r in members], axis=0)
        image = axis.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
        for (j, i), value in np.ndenumerate(values):
            if not np.isnan(value):
                ink = "white" if value < 60 else "black"
                axis.text(i, j, f"{value:.0f}", ha="center", va="center", fontsize=8, color=ink)
        axis.set_title(recipe)
        axis.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right")
    axes[0].set_yticks(range(len(tasks) + 1), ["pretrained", *(f"after {task}" for task in tasks)])
    figure.colorbar(image, ax=list(axes), label="score (percent)", shrink=0.9)
    return figure


def held_out_curves(results: Sequence[Mapping[str, Any]], name: str = HELD_OUT) -> Plot:
    """A held-out score over the stream, one line per recipe; the band spans the seeds.

    :param results: what ``result.json`` holds, of one or more recipes and seeds on one stream.
    :param name: name of the curve.
    """
    figure = Plot(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    tasks = results[0]["tasks"]
    steps = np.arange(len(tasks) + 1)
    for colour, (recipe, members) in zip(_cycle(), _by_recipe(results).items(), strict=False):
        curves = [r["held_out"][name] for r in members if name in r["held_out"]]
        if not curves:
            continue
        values = np.array(curves, dtype=float)
        axis.plot(steps, values.mean(0), marker="o", color=colour, label=recipe)
        if len(values) > 1:
            axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
    axis.set_xticks(steps, ["pretrained", *tasks], rotation=45, ha="right")
    axis.set_ylabel(f"held-out {name} (percent)")
    axis.set_xlabel("after training on")
    axis.set_ylim(0, 102)
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(loc="lower left")
    return figure


def metric_bars(results: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> Plot:
    """Bars per recipe, mean over seeds with the standard deviation.

    :param results: what ``result.json`` holds, of one or more recipes and seeds.
    :param names: figures to draw, all of one unit; by default those that are declared to be shown in a plot.
    """
    entries = [{"result": result} for result in results]
    known = figures_of(entries)
    figures = [f for f in known if "plot" in f.shown] if names is None else [f for f in known if f.name in names]
    plot = Plot(figsize=(8, 4.5), layout="constrained")
    axis = plot.subplots()
    groups = _by_recipe(results)
    width = 0.8 / len(groups)
    for k, (colour, (recipe, members)) in enumerate(zip(_cycle(), groups.items(), strict=False)):
        values = np.array([[_number(figure.value({"result": result})) for figure in figures] for result in members])
        position = np.arange(len(figures)) + (k - (len(groups) - 1) / 2) * width
        spread = values.std(0, ddof=1) if len(values) > 1 else None
        bars = axis.bar(position, values.mean(0), width * 0.92, yerr=spread, capsize=3, color=colour, label=recipe)
        axis.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    axis.set_xticks(range(len(figures)), [f"{figure.title}{_direction(figure)}" for figure in figures])
    axis.set_ylabel("percent")
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    axis.margins(y=0.12)
    axis.legend()
    return plot


def _direction(figure: Figure) -> str:
    words = {True: " (higher is better)", False: " (lower is better)", None: ""}
    return words[figure.higher_is_better]


def _by_recipe(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault(result["protocol"]["recipe"], []).append(result)
    return groups


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _cycle() -> list[str]:
    return list(COLOURS) * 8
