"""All figures that a result is shown with: those of the package, those registered, those that a result declares."""

from __future__ import annotations

from collections.abc import Iterable

from avalanche_vlm._registry import Registry
from avalanche_vlm.evaluation import balance, costs, curves, over_time, survey
from avalanche_vlm.evaluation.declaration import Figure, ResultEntry, Shown, found_at

FIGURES: Registry[Figure] = Registry("figure", Figure, "avalanche_vlm.figures")
"""The figures that every result is shown with, in the order in which tables have them. Entry points of that group bring
those of other distributions."""


def register_figure(figure: Figure) -> Figure:
    """Show a figure that is computed from what results hold, wherever it says, in this process.

    A figure that is measured while a stream is trained needs no registration: its metric declares it
    (:class:`~avalanche_vlm.evaluation.base.VLMMetric`), and the result carries the declaration with it.

    :param figure: the declaration; its ``read`` finds the value.
    :return: the figure, for use as a constant.
    :raises InputError: if the name is taken.
    """
    return FIGURES.add(figure)


_last, *_others = survey.FIGURES
for _figure in (_last, *balance.FIGURES, *_others, *over_time.FIGURES, *curves.FIGURES, *costs.FIGURES):
    register_figure(_figure)


def list_figures(shown: Shown | None = None) -> list[Figure]:
    """What :data:`FIGURES` has, in its order.

    :param shown: only those shown in this place; None for all.
    """
    return [figure for figure in FIGURES if shown is None or shown in figure.shown]


def figures_of(entries: Iterable[ResultEntry], shown: Shown | None = None) -> list[Figure]:
    """The figures of some experiments: those of every result, then those that these results declare themselves.

    :param entries: experiments that share a table.
    :param shown: only figures shown in this place; None for all.
    """
    found = {figure.name: figure for figure in list_figures()}
    for entry in entries:
        declared = found_at(entry, "result", "figures")
        for name, content in (declared if isinstance(declared, dict) else {}).items():
            figure = Figure.from_json(name, content)
            if figure is not None:
                found.setdefault(name, figure)
    return [figure for figure in found.values() if shown is None or shown in figure.shown]
