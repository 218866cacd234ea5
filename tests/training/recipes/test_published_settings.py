"""Published settings of the recipes for adaptation and replay, as the authors' files have them."""

from __future__ import annotations

import pytest

from avalanche_vlm.training import recipes
from avalanche_vlm.training.recipes import Published

# Recipe, benchmark, and what a file of the authors' code says there.
FACTS = [
    ("coop", "single image data sets", {"optimizer": "SGD", "lr": 0.002, "weight_decay": 5e-4, "batch_size": 32}),
    ("maple", "single image data sets", {"lr": 0.0035, "epochs": 5, "batch_size": 4, "momentum": 0.9}),
    ("maple", "ImageNet, for other data sets", {"lr": 0.0026, "epochs": 2, "options": {"depth": 3}}),
    ("s-prompts", "DomainNet", {"optimizer": "SGD", "lr": 0.01, "epochs": 30, "weight_decay": 2e-4}),
    ("s-prompts", "CORe50", {"epochs": 20, "batch_size": 128}),
    ("s-prompts", "CDDB", {"epochs": 50}),
    ("diki", "MTIL", {"optimizer": "SGD", "lr": 5.0, "momentum": 0.0, "weight_decay": 0.0, "epochs": 10}),
    ("l2p", "split CIFAR100", {"lr": 0.03, "lr_batch": 256, "epochs": 5, "max_grad_norm": 1.0}),
    ("l2p", "5-datasets", {"optimizer": "Adam", "lr": 0.03, "epochs": 5, "options": {"size": 20, "weight": 0.5}}),
    ("dualprompt", "split ImageNet-R", {"lr": 0.005, "epochs": 50}),
    ("dualprompt", "split CIFAR100", {"lr": 0.03, "epochs": 5, "options": {"task_length": 5}}),
    ("coda-prompt", "split CIFAR100", {"lr": 1e-3, "epochs": 20, "options": {"weight": 0.0}}),
    ("coda-prompt", "DomainNet in five tasks", {"epochs": 5, "options": {"weight": 0.0, "components": 20}}),
    ("moe-adapters", "MTIL", {"lr": 1e-3, "iterations": 1000, "warmup": 100, "label_smoothing": 0.2}),
    ("moe-adapters", "class-incremental CIFAR100", {"lr": 1e-3, "epochs": 1, "warmup": 30, "label_smoothing": 0.0}),
    ("proof", "class-incremental image data sets", {"lr": 1e-3, "epochs": 10, "weight_decay": 0.05, "batch_size": 64}),
    ("icarl", "class-incremental CIFAR100, a ResNet from scratch", {"lr": 2.0, "epochs": 70, "batch_size": 128}),
    ("gift", "MTIL", {"lr": 1e-5, "iterations": 1000, "warmup": 100, "label_smoothing": 0.2, "weight_decay": 0.0}),
    ("rapf", "class-incremental CIFAR100", {"optimizer": "Adam", "lr": 1e-3, "epochs": 15, "batch_size": 100}),
    (
        "rapf",
        "class-incremental ImageNet-R",
        {"batch_size": 64, "options": {"classes": 5, "per_class": 10, "threshold": 0.65, "bias": 0.7}},
    ),
]
CODE_THAT_WE_HAVE_NOT_SEEN = {"tic-cumulative"}


@pytest.mark.parametrize(("name", "benchmark", "facts"), FACTS)
def test_a_setting_is_the_authors(name, benchmark, facts):
    (entry,) = (found for found in recipes.get(name).training if getattr(found, "benchmark", None) == benchmark)
    assert isinstance(entry, Published)
    assert {field: getattr(entry, field) for field in facts} == facts
    assert ", " in entry.source  # which file, or which section


@pytest.mark.parametrize("name", recipes.list(family="PEA") + recipes.list(family="MMRE"))
def test_settings_of_authors_code_name_the_file(name):
    for entry in recipes.get(name).training:
        if isinstance(entry, Published) and "code" in entry.source and name not in CODE_THAT_WE_HAVE_NOT_SEEN:
            assert "/" in entry.source or ".py" in entry.source, entry.source


@pytest.mark.parametrize("name", ["s-prompts", "diki", "l2p", "dualprompt", "moe-adapters", "gift", "rapf", "proof"])
def test_published_options_are_the_defaults_where_nothing_is_said(name):
    first = recipes.get(name).training[0]
    same = {
        "s-prompts": {"image_length": 10, "centres": 5},
        "diki": {"length": 8, "depth": 8},
        "l2p": {"size": 10, "length": 10, "chosen": 4, "weight": 1.0},
        "dualprompt": {"shared_length": 5, "task_length": 20, "shared_blocks": 2, "task_blocks": 3, "weight": 1.0},
        "moe-adapters": {"experts": 22, "k": 2, "bottleneck": 64, "scale": 0.1},
        "gift": {"alignment": 0.25, "consolidation": 1.0, "weight": 1.0, "temperature": 2.0},
        "rapf": {"bias": 0.6, "threshold": 0.55, "margin": 0.1, "classes": 2, "per_class": 20},
        "proof": {"exemplars": 20, "contexts": 3},
    }[name]
    settings = {**recipes.get(name).settings, **first.options}
    assert {option: settings[option] for option in same} == same
