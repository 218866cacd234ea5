"""From options to a model, a benchmark and settings."""

from __future__ import annotations

import json
import math
import re
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm.errors import InputError
from avalanche_vlm.presets import COMPARED, settings_for

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.scenario import VLMBenchmark
    from avalanche_vlm.models import VLM
    from avalanche_vlm.training.settings import TrainSettings

BENCHMARKS = {
    "picturebook": "mtil_like",
    "picturebook-classes": "class_incremental",
    "picturebook-domains": "domain_incremental",
    "picturebook-pairs": "pairs",
    "picturebook-time": "time_incremental",
}
"""Names on the command line, and the functions of :mod:`avalanche_vlm.benchmarks.picturebook` that they stand for."""

WITHOUT_TASKS = ("picturebook-domains", "picturebook-pairs", "picturebook-time")
"""Those whose classes always compete, or that have none."""
_SIZES = ("n_train", "n_test", "n_held_out", "n_reference")


def make_model(options: Namespace, seed: int) -> VLM:
    """The model, fresh. The seed decides random weights."""
    import torch

    from avalanche_vlm.models import create_vlm

    torch.manual_seed(seed)
    return create_vlm(options.model, options.pretrained, device=device_of(options))


def device_of(options: Namespace) -> str:
    """``auto`` is CUDA where there is one.

    :raises InputError: if it is neither CPU nor CUDA, or CUDA is asked for and missing.
    """
    import torch

    if options.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", options.device):
        raise InputError(f"--device is auto, cpu, cuda or cuda:N, not {options.device!r}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no CUDA device that torch can use")
    return options.device


def names(text: str) -> list[str]:
    """Names separated by commas, without the blanks around them.

    >>> names("zscl, lora")
    ['zscl', 'lora']
    """
    return [name.strip() for name in text.split(",")]


def lacking(options: Namespace, recipe: str) -> str | None:
    """What the recipe cannot do without and nothing brings, in a sentence: known before anything is read."""
    from avalanche_vlm.studies.experiment import lacks
    from avalanche_vlm.training import recipes

    missing = [name for name in recipes.get(recipe).needs if options.data and getattr(options, name) is None]
    return lacks(recipe, options.data, missing[0]) if missing else None


def make_benchmark(options: Namespace, model: VLM, seed: int) -> VLMBenchmark:
    """The picturebook's stream, or the user's own data, under the model's transforms.

    :raises InputError: for unusable data, and for an option that would go unheeded with it.
    """
    common: dict[str, Any] = {
        "train_transform": model.transforms.train,
        "eval_transform": model.transforms.eval,
        "seed": seed,
    }
    if options.order:
        common["order"] = names(options.order)
    if options.label_space:
        common["label_space"] = options.label_space
    return _own_data(options, model, common) if options.data else _picturebook(options, model, common)


def _picturebook(options: Namespace, model: VLM, common: dict[str, Any]) -> VLMBenchmark:
    import inspect

    from avalanche_vlm.benchmarks import picturebook

    _refuse(options, ("reference", "generator", "template"), f"{options.benchmark}, only to --data")
    function = getattr(picturebook, BENCHMARKS[options.benchmark])
    common = {**common, "tokenizer": model.tokenizer}
    for name in _SIZES:
        if getattr(options, name) is not None:
            common[name] = getattr(options, name)
    known = inspect.signature(function).parameters
    if "order" in common and "domains" in known:
        common["domains"] = common.pop("order")
    for name in common:
        if name not in known:
            raise InputError(f"--{name.replace('_', '-')} does not apply to {options.benchmark}")
    try:
        return function(**common)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error


def _own_data(options: Namespace, model: VLM, common: dict[str, Any]) -> VLMBenchmark:
    from avalanche_vlm.benchmarks import image_folder_stream, reference_table, table_stream
    from avalanche_vlm.benchmarks.label_space import PromptTemplates

    path = Path(options.data)
    if not path.exists():
        raise InputError(f"--data: there is no file or folder at {path}")
    _refuse(options, _SIZES, "--data")
    common["on_error"] = options.on_error
    if options.template:
        common["templates"] = PromptTemplates("given", tuple(options.template))
    if path.is_dir():
        benchmark = image_folder_stream(path, **common)
    else:
        benchmark = table_stream(path, tokenizer=model.tokenizer, **common)
    if options.reference:
        benchmark.reference = reference_table(
            Path(options.reference), transform=model.transforms.eval, on_error=options.on_error
        )
        benchmark.data.skipped += [f"reference: {sentence}" for sentence in benchmark.reference.skipped]
    if options.generator:
        from avalanche_vlm.memory.generators import DiffusersGenerator

        size = model.transforms.eval.size
        benchmark.generator = DiffusersGenerator(options.generator, size=size, device=device_of(options))
    return benchmark


def _refuse(options: Namespace, names: tuple[str, ...], where: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} does not apply to {where}")


def settings(options: Namespace, recipe: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Training settings and recipe options: the presets, overridden by what was given.

    :raises InputError: for a ``--set`` that is malformed, or that no recipe knows.
    """
    train, chosen = settings_for("data" if options.data else options.benchmark, recipe)
    for name in ("lr", "epochs", "batch_size", "warmup", "weight_decay", "amp"):
        if getattr(options, name) is not None:
            train[name] = getattr(options, name)
    train["num_workers"] = options.workers
    return train, {**chosen, **_given_options(options, recipe)}


def request(
    options: Namespace, recipe: str, seed: int, train: TrainSettings, recipe_options: dict[str, Any]
) -> dict[str, Any]:
    """Everything that decides a result and is known before it is there.

    Defaults, versions and the device that ``auto`` stands for are part of it: they can change between two starts.
    """
    from avalanche_vlm.studies.experiment import versions
    from avalanche_vlm.training import recipes

    names = ("benchmark", "data", "order", "label_space", "model", "pretrained", "n_train", "n_test", "n_held_out")
    more = ("n_reference", "on_error", "reference", "generator", "template")
    chosen = {name: getattr(options, name) for name in names + more}
    if options.data:
        chosen["benchmark"] = None
    return {
        **chosen,
        "device": device_of(options),
        "recipe": recipe,
        "recipe_options": {**recipes.get(recipe).settings, **recipe_options},
        "train": asdict(train),
        "seed": seed,
        "versions": versions(),
    }


def asked(options: Namespace) -> list[str]:
    """The recipes that a command is about, each once: one that is named twice is one experiment."""
    if getattr(options, "recipe", None):
        return [options.recipe]
    return list(dict.fromkeys(names(options.recipes or ",".join(COMPARED))))


def _given_options(options: Namespace, recipe: str) -> dict[str, Any]:
    from avalanche_vlm.training import recipes

    given = {}
    for assignment in options.set:
        given_name, equals, value = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}: write OPTION=VALUE or RECIPE.OPTION=VALUE")
        target, dot, option = given_name.rpartition(".")
        if dot and target != recipe:
            recipes.get(target)
            continue
        if option not in recipes.get(recipe).settings:
            if dot or not any(option in recipes.get(name).settings for name in asked(options)):
                known = ", ".join(recipes.get(recipe).settings) or "none"
                raise InputError(f"--set {assignment}: recipe {recipe} has no option {option!r}; it has {known}")
            continue  # an option of another recipe of the comparison
        given[option] = _value(assignment, value, recipes.get(recipe).settings[option])
    return given


def _value(assignment: str, text: str, default: Any) -> Any:
    """An option's value: JSON, else the text as it stands; of the kind that its default is."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    kinds = {int: ("a whole number", int), float: ("a number", (int, float)), str: ("a word", str)}
    # An option without a default of its own (None) is a number that is derived where it is not given.
    words, kind = kinds.get(type(default), ("a number", (int, float, type(None))))
    if isinstance(value, bool) or not isinstance(value, kind) or value in (math.inf, -math.inf) or value != value:
        raise InputError(f"--set {assignment}: the value must be {words}")
    return value
