"""What a recipe is trained with where nothing else is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from avalanche_vlm.benchmarks.label_space import StreamKind
from avalanche_vlm.errors import InputError
from avalanche_vlm.training.plugins.base import classes_needed
from avalanche_vlm.training.recipes.declaration import Published, Recipe, Unpublished
from avalanche_vlm.training.recipes.facts import WHOLE_TOWERS
from avalanche_vlm.training.recipes.registry import get_recipe
from avalanche_vlm.training.settings import TrainSettings

TUNED_MODEL = "tiny"
"""The model that declarations state tuned rates for; all others start with published ones."""


def settings_for(recipe: str, benchmark: str, model: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Training settings and options of a recipe on a benchmark, for a model.

    The rate goes with the model. The tiny one has rates of its own, found by trying on the picturebook, wherever it is
    trained: at rates for large pretrained models it does not move. Any other has the published rate for the benchmark;
    else the recipe's own for AdamW; else the first published one that AdamW can run with one rate for all parameters;
    else that of :class:`~avalanche_vlm.training.settings.TrainSettings`, at which CLIP is fine-tuned. Epochs, batches,
    warm-up and the recipe's options are those of the picturebook on its streams.

    :param recipe: a recipe's name.
    :param benchmark: a benchmark's name; any other name for a user's own data.
    :param model: a model's name as :func:`~avalanche_vlm.models.create_vlm` takes it; None for the tiny one on the
        picturebook, and for a large pretrained one elsewhere.
    :return: fields of :class:`~avalanche_vlm.training.settings.TrainSettings`, and options of the recipe.
    :raises InputError: if there is no recipe of that name.

    >>> settings_for("zscl", "picturebook")
    ({'epochs': 5, 'batch_size': 64, 'warmup': 5, 'lr': 0.0005, 'weight_decay': 0.0}, {'interval': 10, 'weight': 5.0})
    >>> settings_for("keeplora", "data"), settings_for("keeplora", "data", "tiny")
    (({'lr': 0.001, 'weight_decay': 0.01}, {}), ({'lr': 0.1, 'weight_decay': 0.0}, {}))
    """
    chosen = get_recipe(recipe)
    tuned = chosen.picturebook or WHOLE_TOWERS
    on_picturebook = benchmark.startswith("picturebook")
    fields: dict[str, Any] = {}
    if on_picturebook:
        fields = {"epochs": tuned.epochs, "batch_size": tuned.batch_size, "warmup": tuned.warmup}
    if model == TUNED_MODEL or (model is None and on_picturebook):
        (lr, weight_decay), options = (tuned.lr, 0.0), dict(tuned.options)
    else:
        (lr, weight_decay), options = _rate(chosen, benchmark)
        options = dict(tuned.options) if on_picturebook else options
    return {**fields, "lr": lr, "weight_decay": weight_decay}, options


def published_for(recipe: str, benchmark: str) -> tuple[dict[str, Any], dict[str, Any], Published]:
    """The settings that a recipe was published with on a benchmark.

    :param recipe: a recipe's name.
    :param benchmark: a benchmark's name.
    :return: fields of :class:`~avalanche_vlm.training.settings.TrainSettings`, options of the recipe, and the entry
        that they are from.
    :raises InputError: if none were published, or they are for another optimizer or schedule than ours, naming it.
    """
    entries = [entry for entry in get_recipe(recipe).training if isinstance(entry, Published)]
    found = next((entry for entry in entries if benchmark in entry.at), None)
    if found is None:
        known = ", ".join(dict.fromkeys(name for entry in entries for name in entry.at)) or "none"
        why = [of.reason for of in get_recipe(recipe).training if isinstance(of, Unpublished)]
        if others := [f"{of.benchmark} ({of.optimizer})" for of in entries if not of.at]:
            why.append(f"others were published for {', '.join(others)}")
        lacks = f"no published settings for {benchmark} that are kept by its name (for these: {known})"
        raise InputError("; ".join([f"recipe {recipe} has {lacks}", *why]))
    batch_size = found.batch_size or TrainSettings().batch_size
    rate = found.rate(batch_size)
    if rate is None or found.schedule != "cosine":
        raise InputError(
            f"the settings that recipe {recipe} was published with on {benchmark} are for {found.optimizer} with the "
            f"schedule {found.schedule}, and training here has AdamW with one rate and half a cosine"
        )
    if found.iterations is None and not isinstance(found.epochs, int):
        raise InputError(f"for how long recipe {recipe} was trained on {benchmark} was not published as one number")
    fields: dict[str, Any] = {
        "lr": rate[0],
        "weight_decay": rate[1],
        "batch_size": batch_size,
        "warmup": found.warmup or 0,
        "label_smoothing": found.label_smoothing or 0.0,
        "max_grad_norm": found.max_grad_norm,
        "rates": dict(found.rates) or None,
        **({"epochs": found.epochs} if found.iterations is None else {"iterations": found.iterations}),
        **({"train_templates": found.train_templates} if found.train_templates else {}),
    }
    return fields, dict(found.options), found


def refuse_unpublished(names: Iterable[str], benchmark: str) -> None:
    """Refuse recipes that train and have no published settings for a benchmark.

    :param names: names of the recipes.
    :param benchmark: a benchmark's name.
    :raises InputError: in one sentence, which names all of them.
    """
    wrong = []
    for name in names:
        try:
            if get_recipe(name).trains:
                published_for(name, benchmark)
        except InputError as error:
            wrong.append(str(error))
    if wrong:
        raise InputError("; and ".join(wrong))


def settled(settings: TrainSettings, recipe: str, kind: StreamKind, plugins: Sequence[Any] = ()) -> TrainSettings:
    """Training settings in which nothing is left to the recipe.

    :param settings: what was asked for.
    :param recipe: a recipe's name.
    :param kind: the stream's kind, ``"classes"`` or ``"pairs"``.
    :param plugins: plugins beside the recipe's, which may need classes as well
        (:attr:`~avalanche_vlm.training.plugins.base.VLMPlugin.train_classes`).
    :return: the settings with the classes that compete in training; None on a stream of pairs, which has none.
    :raises InputError: if the recipe's method or a plugin needs other classes than were asked for, or one of them other
        classes than another, or if settings of classes were asked for on a stream of pairs.

    >>> settled(TrainSettings(), "icarl", "classes").train_classes
    'seen'
    >>> settled(TrainSettings(), "lora", "pairs").train_classes  # None
    """
    if kind == "pairs":
        default = TrainSettings()
        for name in ("label_smoothing", "train_classes", "train_templates", "negatives"):
            if getattr(settings, name) != getattr(default, name):
                raise InputError(f"{name} is about class labels, and the stream is one of image-text pairs")
        return replace(settings, train_classes=None)
    everything = get_recipe(recipe).train_classes == "seen"
    of_plugins = classes_needed(plugins)
    if everything and of_plugins == "current":
        raise InputError(
            f"recipe {recipe} needs all classes met so far in training, and a plugin those of the batch's own tasks "
            "alone: one training cannot have both"
        )
    needed = "seen" if everything else of_plugins
    if needed is not None and settings.train_classes not in (None, needed):
        who = f"recipe {recipe}" if everything else "a plugin beside the recipe"
        what = "all classes met so far" if needed == "seen" else "the classes of the batch's own tasks alone"
        raise InputError(f"{who} needs {what} in training: leave train_classes at {needed}")
    return replace(settings, train_classes=settings.train_classes or needed or "current")


def _rate(chosen: Recipe, benchmark: str) -> tuple[tuple[float, float], dict[str, Any]]:
    default = TrainSettings()
    published = [entry for entry in chosen.training if isinstance(entry, Published)]
    for entry in published:
        rate = entry.rate(default.batch_size)
        if rate is not None and entry.benchmark.lower() == benchmark.lower():
            return rate, dict(entry.options)
    if chosen.adamw is not None:
        return (chosen.adamw.lr, chosen.adamw.weight_decay), {}
    for entry in published:
        rate = entry.rate(default.batch_size)
        if rate is not None:
            return rate, {}
    return (default.lr, default.weight_decay), {}
