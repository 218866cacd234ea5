"""Published settings, as the authors' files have them."""

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
WHOLE = {
    "optimizer": "AdamW",
    "lr": 1e-5,
    "weight_decay": 0.0,
    "warmup": 100,
    "label_smoothing": 0.2,
    "iterations": 1000,
}
CIL = {"lr": 7.1e-6, "weight_decay": 0.0, "warmup": 30, "label_smoothing": 0.2, "epochs": 1, "schedule": "cosine"}
MERGED = {"lr": 1e-5, "weight_decay": 0.1, "warmup": 500, "label_smoothing": 0.0, "epochs": 10, "max_grad_norm": 1.0}
FACTS += [(name, "MTIL", {**WHOLE, "batch_size": 64}) for name in ("fine-tune", "lwf", "lwf-vr", "zscl", "wise-ft")]
FACTS += [(name, "class-incremental", {**CIL, "options": {"weight": 5.0}}) for name in ("lwf", "lwf-vr")]
FACTS += [
    ("zscl", "class-incremental", {**CIL, "batch_size": 128, "options": {"weight": 5.0, "interval": 10}}),
    (
        "snd",
        "their streams of image data sets",
        {"lr": 1e-5, "weight_decay": 5e-4, "batch_size": 32, "warmup": 0, "label_smoothing": 0.0, "iterations": 1000},
    ),
    ("mod-x", "Flickr30K in five parts, a ResNet-50 from COCO", {"lr": 5e-4, "weight_decay": 0.1, "epochs": 35}),
    ("ctp", "P9D", {"lr": 1e-4, "weight_decay": 0.05, "epochs": 5, "batch_size": 512, "schedule": "cosine"}),
    ("nusa", "MTIL", {"lr": 3e-4, "weight_decay": 1e-2, "batch_size": 16, "iterations": 1000, "warmup": 50}),
    ("c-clip", "Flickr30K, then its other tasks", {"lr": 1e-5, "weight_decay": 0.2, "epochs": 40, "warmup_epochs": 5}),
    ("keeplora", "MTIL", {"lr": 1e-3, "weight_decay": 0.01, "epochs": (5, 10), "schedule": "one cycle"}),
]
FACTS += [
    (name, "class-incremental CIFAR100 and ImageNet-R", {**MERGED, "batch_size": 128})
    for name in ("ewc-clip", "magmax", "ties")
]
CODE_THAT_WE_HAVE_NOT_SEEN = {"tic-cumulative", "nusa"}


@pytest.mark.parametrize(("name", "benchmark", "facts"), FACTS)
def test_a_setting_is_the_authors(name, benchmark, facts):
    (entry,) = (found for found in recipes.get(name).training if getattr(found, "benchmark", None) == benchmark)
    assert isinstance(entry, Published)
    assert {field: getattr(entry, field) for field in facts} == facts
    assert ", " in entry.source  # which file, or which section


@pytest.mark.parametrize("name", recipes.list())
def test_settings_are_published_whole_or_there_is_a_reason_why_not(name):
    published = [entry for entry in recipes.get(name).training if isinstance(entry, Published)]
    assert published or recipes.get(name).training[0].reason
    for entry in published if recipes.get(name).family in ("none", "CREG", "fusion") else []:
        assert entry.optimizer and entry.lr and entry.weight_decay is not None and entry.batch_size, entry
        assert entry.epochs or entry.iterations, entry


@pytest.mark.parametrize("name", recipes.list())
def test_settings_of_authors_code_name_the_file(name):
    for entry in recipes.get(name).training:
        if isinstance(entry, Published) and "code" in entry.source and name not in CODE_THAT_WE_HAVE_NOT_SEEN:
            assert "/" in entry.source or ".py" in entry.source, entry.source


@pytest.mark.parametrize(
    "name",
    [
        *("s-prompts", "diki", "l2p", "dualprompt", "moe-adapters", "gift", "rapf", "proof"),
        *("lwf", "lwf-vr", "zscl", "snd", "gnsp", "mod-x", "ctp", "nusa", "c-clip", "wise-ft", "ties", "keeplora"),
    ],
)
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
        "lwf": {"weight": 1.0, "temperature": 2.0, "side": "image", "images": "drawn", "batch_size": 64},
        "lwf-vr": {"sentences": 1000, "words": 10, "texts_per_step": 0, "side": "image", "images": "drawn"},
        "zscl": {"weight": 1.0, "temperature": 2.0, "side": "image", "l2": 1.0, "interval": 100, "batch_size": 64},
        "snd": {
            "previous": 9.0,
            "initial": 0.5,
            "sharpness": 6.0,
            "threshold": 0.2,
            "batch_size": 64,
            "towers": "image",
        },
        "gnsp": {"weight": 1.0, "alignment": 0.75, "temperature": 2.0, "label_smoothing": 0.2, "tail_energy": 0.15},
        "mod-x": {"weight": 20.0, "temperature": 1.0},
        "ctp": {
            "temperature": 0.07,
            "queue": 1024,
            "decay": 0.9,
            "first_decay": 0.995,
            "topology": 1.0,
            "contrast": 1.0,
        },
        "nusa": {"rank": 128, "tail_energy": 0.05, "alpha": 2.0, "dropout": 0.25, "towers": "both"},
        "c-clip": {"rank": 16, "alpha": 32.0, "merge": 0.5, "weight": 2.0, "temperature": 0.07},
        "wise-ft": {"weight": 0.8},
        "ties": {"scale": 0.55, "keep": 0.2},
        "keeplora": {"rank": 16, "image_energy": 0.85, "text_energy": 0.2, "feature_energy": 0.99},
    }[name]
    settings = {**recipes.get(name).settings, **getattr(first, "options", {})}
    assert {option: settings[option] for option in same} == same
