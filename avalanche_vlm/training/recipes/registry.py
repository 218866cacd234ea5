"""Where recipes are declared, and found again by name."""

from __future__ import annotations

import pkgutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from threading import RLock
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

from avalanche_vlm.benchmarks.label_space import TrainClasses
from avalanche_vlm.benchmarks.registry import KINDS
from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.training.recipes.declaration import (
    FAMILIES,
    RESOURCES,
    AdamW,
    ImageTower,
    Paper,
    Plugins,
    Published,
    Recipe,
    Tuned,
    Unpublished,
)
from avalanche_vlm.units import did_you_mean

GROUP = "avalanche_vlm.recipes"
"""Entry points of this group name modules of other distributions that declare recipes."""

_SHIPPED = ("baseline", "replay", "regularization", "adaptation", "fusion")
"""Modules and folders of this package that declare recipes, in the order in which recipes are listed."""

_Compose = TypeVar("_Compose", bound=Callable[..., Plugins])
_recipes: dict[str, Recipe] = {}
_begun: set[str] = set()
_loading = RLock()


def recipe(
    name: str,
    *,
    family: str,
    summary: str,
    kinds: str | Iterable[str] = KINDS,
    train_classes: TrainClasses = "current",
    image_tower: ImageTower = "any",
    paper: str | Paper | Iterable[str | Paper] = (),
    training: Published | Unpublished | Iterable[Published | Unpublished] = (),
    adamw: AdamW | None = None,
    picturebook: Tuned | None = None,
    only_with: Mapping[str, str] | None = None,
    grows: bool = True,
) -> Callable[[_Compose], _Compose]:
    """Declare a recipe: a function ``(model, *, ...) -> plugins`` with its facts. Where there can be several (kinds,
    papers, settings), one may stand alone.

    Options are the function's keyword parameters, annotated with what they accept
    (:mod:`~avalanche_vlm.training.recipes.ranges`).

    :param name: the recipe's name, as users write it.
    :param family: the survey's paradigm: ``none``, ``MMRE``, ``CREG``, ``PEA`` or ``fusion``.
    :param summary: what it does, in a phrase for tables.
    :param kinds: kinds of streams that it is for, ``classes`` and ``pairs`` by default.
    :param train_classes: which classes compete in training: ``"seen"``, all that were met so far, where the method
        needs them, or ``"current"``, those of the batch's own tasks.
    :param image_tower: which image towers it takes: ``"any"``, or those of ``"transformer"`` blocks alone, open_clip's
        or timm's, so that CLIP's ResNets are refused.
    :param paper: arXiv ids, or where else its sources appeared.
    :param training: published training settings; for other benchmarks than the picturebook the first entry that AdamW
        can run decides the rate.
    :param adamw: a rate for them that is not published, which goes before what was published.
    :param picturebook: what the picturebook's streams are trained with; by default what trains whole towers there.
    :param only_with: resources that the recipe takes and leaves alone where an option is 0 or empty, each with that
        option's name, as in ``{"reference": "pretraining"}``; by default it uses whatever it is given.
    :param grows: whether a saved model may learn classes that were not known when its training began.
    :raises InputError: for a name that is taken, and for a fact that is out of place.
    """
    works, published, streams = (_several(facts) for facts in (paper, training, kinds))
    papers = tuple(work if isinstance(work, Paper) else Paper(work) for work in works)

    def register(compose: _Compose) -> _Compose:
        if not (compose.__module__ or "").startswith(f"{__package__}."):
            _load_shipped()
        if name in _recipes:
            first = _recipes[name].compose
            raise InputError(
                f"a recipe is called {name!r} already, {first.__module__}.{first.__qualname__}; "
                f"recipes.forget({name!r}) takes it out"
            )
        _recipes[name] = Recipe(
            name=name,
            family=family,
            summary=summary,
            compose=compose,
            kinds=streams,
            train_classes=train_classes,
            image_tower=image_tower,
            paper=papers,
            training=published,
            adamw=adamw,
            picturebook=picturebook,
            only_with=dict(only_with or {}),
            grows=grows,
        )
        return compose

    return register


def _several(facts: Any) -> tuple[Any, ...]:
    """Facts of which there may be several, where one stands alone and none is None."""
    if facts is None:
        return ()
    alone = isinstance(facts, str) or not isinstance(facts, Iterable)
    return (facts,) if alone else tuple(facts)


def forget_recipe(name: str) -> None:
    """Take a recipe out of the registry, so that its name can be declared anew.

    :param name: the recipe's name.
    :raises InputError: if there is none of that name.
    """
    get_recipe(name)
    del _recipes[name]


def all_recipes() -> Mapping[str, Recipe]:
    """All recipes by name: the shipped ones in the survey's order of families, then those of other distributions."""
    _load_shipped()
    if "others" not in _begun:
        _begun.add("others")
        _load_others()
    return MappingProxyType(_recipes)


def get_recipe(name: str) -> Recipe:
    """The recipe of a name.

    :param name: the recipe's name, as in its declaration.
    :raises InputError: if there is none.
    """
    known = all_recipes()
    if not isinstance(name, str) or name not in known:
        raise InputError(f"no recipe is called {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
    return known[name]


def recipe_names(
    family: str | None = None, kind: str | None = None, needs: str | Iterable[str] | None = None
) -> list[str]:
    """Names of recipes.

    :param family: only recipes of this paradigm of the survey's; None for all.
    :param kind: only recipes for this kind of stream, ``classes`` or ``pairs``; None for all.
    :param needs: only recipes that need exactly these resources, ``reference`` or ``generator``, and no others; an
        empty sequence for those that need none, None for all.
    :raises InputError: for a family, kind or resource that there is not.

    >>> recipe_names(family="fusion", kind="pairs")
    ['wise-ft', 'magmax', 'ties']
    >>> recipe_names(needs="generator")
    ['gift']
    """
    wanted = None if needs is None else {needs} if isinstance(needs, str) else set(needs)
    for what, value, known in (("family", family, FAMILIES), ("kind", kind, KINDS)):
        if value is not None and value not in known:
            raise InputError(f"the {what} of a recipe is {', '.join(known)}, not {value!r}")
    if wanted is not None and not wanted <= set(RESOURCES):
        raise InputError(f"recipes need {', '.join(RESOURCES)}, not {', '.join(sorted(wanted - set(RESOURCES)))}")
    return [
        name
        for name, known in all_recipes().items()
        if family in (None, known.family)
        and (kind is None or kind in known.kinds)
        and wanted in (None, set(known.needs))
    ]


def _load_shipped() -> None:
    with _loading:  # other threads wait; the thread that loads comes by again from the modules that it imports
        if "shipped" not in _begun:
            _begun.add("shipped")
            _import_shipped()


def _import_shipped() -> None:
    families = [import_module(f"{__package__}.{name}") for name in _SHIPPED]
    place = {name: i for i, name in enumerate(name for family in families for name in _imported(family))}
    # A module may have been imported before its turn, by somebody who wants what is in it.
    ordered = sorted(_recipes.items(), key=lambda item: place.get(item[1].compose.__module__, len(place)))
    _recipes.clear()
    _recipes.update(ordered)


def _imported(family: ModuleType) -> list[str]:
    """The modules of a family, imported: those that it lists, in its order, then what else lies in its folder, so that
    a new file is all that a new recipe needs."""
    found = [info.name for info in pkgutil.iter_modules(getattr(family, "__path__", ()))]
    names = dict.fromkeys([*getattr(family, "ORDER", ()), *found])
    return [family.__name__, *(import_module(f"{family.__name__}.{name}").__name__ for name in names)]


def _load_others() -> None:
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:
            where = f"{point.dist.name}, {point.value}" if point.dist else point.value
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            told = f"the recipes of {where} are left out, since they cannot be loaded: {reason}"
            warnings.warn(told, VLMWarning, stacklevel=4)
