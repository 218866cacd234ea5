"""What a run takes of the training settings that a recipe was published with, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm.benchmarks.registry import get_benchmark
from avalanche_vlm.commands import prepare
from avalanche_vlm.commands.requests import TrainingRequest
from avalanche_vlm.commands.requests.shared import CHECKS, FILES

NOT_PROTOCOL = (*FILES, *CHECKS, "seed", "num_workers")
"""Options that say where files lie and how they are read."""

if TYPE_CHECKING:
    from avalanche_vlm.training.recipes.declaration import Published


def published_from(request: TrainingRequest) -> list[str]:
    """Where the published settings that are asked for come from, a sentence for each recipe.

    :param request: what was asked for.
    :raises InputError: if a recipe that trains has none.
    """
    from avalanche_vlm.training.recipes import Unpublished, get, published_for

    if not request.train.published or request.stream.benchmark is None:
        return []
    found = []
    for name in request.recipe_names():
        if not get(name).trains:
            why = "; ".join(of.reason for of in get(name).training if isinstance(of, Unpublished))
            found.append(f"{name} needs no published settings: {why}")
            continue
        fields, options, entry = published_for(name, request.stream.benchmark)
        mine, taken = prepare.settings(request, name)
        other = [key for key in {**fields, **mine} if mine.get(key) != fields.get(key) and key not in NOT_PROTOCOL]
        other += [field for field in taken if taken[field] != options.get(field)]
        other += changed_of(request)
        as_published = f"as published but for {', '.join(other)}" if other else "as published"
        note = f" ({entry.note})" if entry.note else ""
        parts = [f"{name} is trained {as_published}: {entry.source}{note}", *not_taken(entry)]
        found.append("; ".join([*parts, "images go through the model's transforms"]))
    return found


def changed_of(request: TrainingRequest) -> list[str]:
    """Names of the benchmark's options that are others than its own.

    :param request: what was asked for, of a published benchmark.
    """
    assert request.stream.benchmark is not None
    own = get_benchmark(request.stream.benchmark).options()
    space, order = request.stream.label_space, list(request.stream.order or ())
    said = {**request.stream.options, "label_space": space or own.get("label_space")}
    found = [name for name, value in said.items() if name not in NOT_PROTOCOL and value != own.get(name)]
    return [*found, *(["order"] if order and order not in ([own.get("order")], own.get("order")) else [])]


def not_taken(entry: Published) -> list[str]:
    """What was published of a recipe's training and is not done here, a clause each.

    :param entry: what was published.
    """
    found = []
    if entry.warmup is None and entry.warmup_epochs:
        found.append(f"its warm-up of {entry.warmup_epochs} epochs is not taken")
    if entry.betas not in (None, (0.9, 0.999)):
        found.append(f"its betas {entry.betas} are not taken, but 0.9 and 0.999")
    return found
