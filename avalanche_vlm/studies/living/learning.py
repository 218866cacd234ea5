"""A saved model that trains again, from where it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm.artifacts import Built, SavedModel
from avalanche_vlm.artifacts.rebuilding import build_again, freeze_as_before
from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.state import part_of
from avalanche_vlm.memory.unpacking import unpack
from avalanche_vlm.models import VLM
from avalanche_vlm.studies.feasible import refuse_undeclared, refuse_untrainable
from avalanche_vlm.studies.strategy import strategy_of
from avalanche_vlm.training import VLMNaive, recipes
from avalanche_vlm.training.plugins import ProgressPlugin, WarmupCosinePlugin
from avalanche_vlm.training.settings import TrainSettings
from avalanche_vlm.training.state import load_training_state, restore_random_states


@dataclass(frozen=True)
class Learner:
    """A model that can go on learning.

    :param model: the model, as it was saved.
    :param plugins: plugins of its recipe, in the state that they had; of another recipe, new ones.
    :param recipe: the recipe with its options, as it is saved with the next version.
    :param earlier: the recipes that were built on the model before.
    """

    model: VLM
    plugins: list[SupervisedPlugin]
    recipe: Built
    earlier: tuple[Built, ...]


def revived(
    saved: SavedModel,
    recipe: str | None,
    options: Mapping[str, Any],
    resources: Mapping[str, Any],
    *,
    train_classes: str | None,
    device: str | torch.device = "cpu",
    base: VLM | None = None,
) -> Learner:
    """A saved model as it was when its training ended, with all that the recipe keeps.

    :param saved: a version of a model.
    :param recipe: name of another recipe to go on with, which begins anew on the model as it is; None for the one that
        the model was trained with.
    :param options: options of the recipe that differ from those of before, or, of another recipe, from its defaults.
    :param resources: reference pairs and generator, by the names of the recipe's parameters.
    :param train_classes: which classes compete in training, ``"current"`` or ``"seen"``; None for pairs.
    :param device: where the model trains.
    :param base: the model's base, for one that was built by the user's own hands.
    :raises InputError: if the model was saved without what training goes on from, or the recipe cannot go on from it.
    """
    built = saved.description.built
    if recipe is None and not built:
        raise InputError(
            f"{saved.folder} was trained with no recipe of a name, so there is none to go on with: name one"
        )
    same = recipe is None or (bool(built) and recipe == built[-1].recipe)
    model = saved.base(base)
    state, of_base = saved.training(model), set(model.state_dict())
    model.to(device)
    if same:
        earlier, chosen = tuple(built[:-1]), built[-1].recipe
        options = {**built[-1].options, **options}
        build_again(model, earlier, saved.folder, saved.label_space)
        freeze_as_before(model, built[-1])
    else:
        assert recipe is not None
        earlier, chosen = tuple(built), recipe
        saved.build(model)
        saved.fill(model, part_of(state, "model"))
        if earlier and _stands(model, of_base):
            raise InputError(
                f"recipe {earlier[-1].recipe} has put modules or a head into {saved.folder.name} that it alone goes on "
                f"with: recipe {chosen} cannot take over from it"
            )
        model.unfreeze(*model.frozen).freeze(*saved.description.base.frozen)
    if train_classes is not None:
        model.competing.in_training = "seen" if train_classes == "seen" else "current"
    options = recipes.check_options(chosen, options)
    headless, frozen = model.class_head is None, list(model.frozen)
    plugins = recipes.build(chosen, model=model, **resources, **options)
    if not same and headless and model.class_head is not None:
        raise InputError(
            f"recipe {chosen} answers by a class head that knows the classes it was trained on alone, and it would "
            f"know none of those that {saved.folder.name} has learned: train it on the whole stream (run)"
        )
    if same:
        load_training_state(model, plugins, state)
    else:
        restore_random_states(unpack("random", None, state, "random generators"))
    step = Built(recipe=chosen, options=options, resources=sorted(resources), frozen=frozen)
    return Learner(model, plugins, step, earlier)


def learn(
    learner: Learner,
    stream: VLMBenchmark,
    first: int,
    settings: TrainSettings,
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int, int], None] | None = None,
    further: Sequence[SupervisedPlugin] = (),
    resume: Callable[[VLMNaive], int] | None = None,
) -> VLMNaive:
    """Train the experiences of a stream from one on, as ``run_experiment`` would have gone on.

    :param learner: the model with its recipe, trained in place.
    :param stream: the whole stream (:func:`~avalanche_vlm.studies.living.growth.continued`).
    :param first: number of the first experience that is trained.
    :param settings: settings of the optimizer and of the loop.
    :param device: where to run.
    :param progress: called as ``(experience, iteration, iterations)``.
    :param further: plugins behind the recipe's, such as one that writes checkpoints.
    :param resume: takes the strategy back to where it was interrupted, and gives the number of experiences that it has
        finished; None starts with the first.
    :return: the strategy as it ended.
    :raises InputError: for an experience that the recipe cannot be trained on, and for rates of single tasks, before
        anything is trained.
    """
    if settings.rates:
        raise InputError(
            f"rates are of a stream's tasks by their names ({', '.join(settings.rates)}), and what is new here is "
            "trained with one rate: give it as lr"
        )
    model, recipe = learner.model, learner.recipe.recipe
    refuse_undeclared(recipe, model, learner.plugins, settings)
    refuse_untrainable(recipe, stream, learner.plugins, settings, first)
    # Watched or not, the plugins are the same: a checkpoint of one is one of the other.
    helpers = [WarmupCosinePlugin(settings.warmup), ProgressPlugin(progress)]
    plugins = [*learner.plugins, *helpers, *further]
    strategy = strategy_of(model, stream.kind, settings, plugins, device=device)
    done = 0 if resume is None else resume(strategy)
    for experience in stream.train_stream[first + done :]:
        strategy.train(experience, num_workers=settings.num_workers)
    return strategy


def _stands(model: VLM, of_base: set[str]) -> bool:
    """Whether earlier recipes have left parts that predict besides the towers."""
    parts = [model.routed, model.image_path, model.text_path, model.class_head]
    added = model.state_dict().keys() - of_base
    return any(part is not None for part in parts) or any(not name.startswith("auxiliary.") for name in added)
