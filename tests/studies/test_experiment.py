"""One experiment, start to end."""

from __future__ import annotations

import json
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from made import tiny as tiny_vlm
from mini import IMAGE_BLOCKS, WIDTH, mini
from quick import QUICK, one_each, slow_but_for_some

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import create_vlm
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import recipes
from avalanche_vlm.training.settings import TrainSettings
from avalanche_vlm.weights.average import snapshot

SMALL = {"n_train": 32, "n_test": 10, "order": ["sketches", "night"], "n_held_out": 20, "n_reference": 32}
OPTIONS = {
    "lora": {"rank": 2},
    "zscl": {"interval": 1, "batch_size": 16},
    "replay": {"max_bytes": 60_000},
    "gift": {"n": 64},
    "lwf-vr": {"sentences": 32},
    "ewc-clip": {"samples": 16},
    "adapter-per-task": {"bottleneck": 8},
    "moe-adapters": {"experts": 4, "bottleneck": 8},
    "rail-primal": {"hidden": 64},
    "ranpac": {"hidden": 64},
    "lada": {"units": 2, "bottleneck": 2},
    "proof": {"exemplars": 3},
}


@cache
def streams(seed: int) -> VLMBenchmark:
    return picturebook.mtil_like(seed, **SMALL)


def run(recipe: str, seed: int = 0, **settings):
    benchmark = streams(seed)
    torch.manual_seed(0)
    rows = []
    outcome = run_experiment(
        benchmark,
        recipe,
        model=mini(),
        settings=TrainSettings(**{"lr": 1e-3, "epochs": 1, **settings}),
        options=OPTIONS.get(recipe),
        seed=seed,
        on_row=lambda step, matrix: rows.append((step, matrix.shape)),
    )
    assert rows == [(0, (1, 2)), (1, (2, 2)), (2, (3, 2))]
    return outcome


NAMES = [(name,) for name in recipes.list()]


@pytest.mark.parametrize("recipe", one_each(NAMES, QUICK, ("replay", "lora")))
def test_the_same_seed_gives_the_same_result(recipe):
    outcomes = run(recipe), run(recipe)
    first, second = (outcome.result for outcome in outcomes)
    assert_same_weights(*(outcome.strategy.model for outcome in outcomes))
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)


@pytest.mark.parametrize("recipe", slow_but_for_some(recipes.list(), ("replay", "lora")))
def test_a_result_has_what_it_should_and_costs_are_those_of_the_recipe(recipe):
    first = run(recipe).result
    assert set(first) >= {"protocol", "tasks", "matrix", "held_out", "metrics", "costs"}
    assert len(first["matrix"]) == 3 and len(first["held_out"]["captions R@1"]) == 3
    assert set(first["metrics"]) == {"last", "avg", "transfer", "forget", "bwt", "zsd"}
    protocol = first["protocol"]
    assert protocol["recipe"] == recipe and protocol["label_space"] == "task"
    assert protocol["data"]["order"] == SMALL["order"]
    assert protocol["recipe_options"] == {**recipes.get(recipe).settings, **OPTIONS.get(recipe, {})}
    check_costs(recipe, first["costs"])


def fewer(benchmark, n: int, task: int = 1) -> VLMBenchmark:
    """The same stream with n training samples in one task."""
    train = [experience.dataset for experience in benchmark.train_stream]
    train[task] = train[task].subset(range(n))
    test = [experience.dataset for experience in benchmark.test_stream]
    facts = {"label_space": benchmark.label_space, "task_names": benchmark.task_names}
    return VLMBenchmark(benchmark.name, benchmark.kind, train, test, **facts)


@pytest.mark.parametrize("recipe", ["lora", "adapter-per-task", "moe-adapters", "s-prompts", "diki"])
def test_a_task_too_small_for_a_router_is_refused_before_anything_is_trained(recipe, tiny_benchmark):
    """Found by running every recipe on tasks of 1 to 9 samples: routers alone need more than one."""
    small, rows = fewer(tiny_benchmark, 9), []
    said = f"recipe {recipe}: task night has 9 training samples, and the method needs at least 10 of every task"
    settings, given = TrainSettings(lr=1e-3, epochs=1), {"options": OPTIONS.get(recipe)}
    with pytest.raises(InputError, match=said):
        run_experiment(small, recipe, model=mini(), settings=settings, on_row=lambda *row: rows.append(row), **given)
    assert rows == []
    # In a script of one's own the experience itself is refused when it starts, not when it has been trained.
    model = mini()
    plugins = recipes.build(recipe, model=model, **OPTIONS.get(recipe, {}))
    model.set_label_space(small.label_space)
    with pytest.raises(InputError, match="experience 1 has 9 training samples"):
        plugins[0].before_train_dataset_adaptation(
            SimpleNamespace(experience=small.train_stream[1], model=model, plugins=plugins)
        )


def test_pairs_one_by_one_have_nothing_to_be_told_from(tiny_pairs):
    for benchmark, size in ((tiny_pairs, 1), (fewer(tiny_pairs, 1), 16)):
        settings = TrainSettings(lr=1e-3, epochs=1, batch_size=size)
        with pytest.raises(InputError, match=r"batches of 2 or more|has 1 training sample, .* at least 2"):
            run_experiment(benchmark, "fine-tune", model=mini(), settings=settings)
        assert run_experiment(benchmark, "zero-shot", model=mini(), settings=settings).result["matrix"]


def assert_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    # Scores on twenty pictures are coarse: weights tell two runs apart.
    assert all(torch.equal(x, b.state_dict()[name]) for name, x in snapshot(a.state_dict()).items())


def check_costs(recipe: str, costs: dict) -> None:
    width, blocks, rank = WIDTH, IMAGE_BLOCKS, 2
    if recipe == "lora":
        # q, k, v, out: 2 * width per rank each; the MLP's two layers: 5 * width per rank each.
        module = blocks * rank * (4 * 2 * width + 2 * 5 * width)
        assert costs["trainable_parameters"] == module and costs["added_parameters"] == 2 * module
        assert costs["stored_bytes"] > 4 * 2 * module
    elif recipe in ("prototype-replay", "rapf"):
        assert costs["trainable_parameters"] == costs["added_parameters"] == width * width
    elif recipe == "c-clip":
        # In every block of both towers, the output of attention and the MLP: 12 widths per rank; the loss's projector.
        assert costs["trainable_parameters"] == (blocks + 3) * 16 * 12 * width + width * (width + 1)
        assert costs["added_parameters"] == 0
    elif recipe == "nusa":
        # Square matrices of at least one direction, for q, k, v and the output of attention.
        assert (blocks + 3) * 4 <= costs["trainable_parameters"] < (blocks + 3) * 4 * width**2
        assert costs["added_parameters"] == 0
    elif recipe in ("zero-shot", "rail-primal", "rail-dual", "ranpac", "simplecil"):
        assert costs["trainable_parameters"] == costs["added_parameters"] == 0
        assert (costs["stored_bytes"] > 0) == (recipe != "zero-shot")
    elif recipes.get(recipe).family == "PEA":
        assert 0 < costs["trainable_parameters"] < 0.2 * costs["model_parameters"]
        # Modules stay beside the model, unless they are merged into its weights, or leave nothing but texts.
        assert (costs["added_parameters"] >= costs["trainable_parameters"]) == (recipe not in ("keeplora", "lada"))
    else:
        # Half of the blocks, and what is before them: patches, positions and a norm.
        before = 3 * 8 * 8 * width + (1 + 17) * width + 2 * width
        frozen = 0 if recipe != "latent-replay" else before + 2 * (12 * width**2 + 13 * width)
        if recipe == "snd":  # its authors train the image tower alone
            frozen = sum(p.numel() for _, p in mini().tower_parameters("text"))
        assert frozen < costs["model_parameters"] - costs["trainable_parameters"] < frozen + 2
        assert costs["added_parameters"] == 0
    if recipe == "replay":
        assert 0 < costs["stored_bytes"] <= 60_000
    if recipe in ("icarl", "tic-cumulative"):
        assert costs["stored_bytes"] > 2 * SMALL["n_train"] * 3072  # everything fits
    if recipe == "fine-tune":
        assert costs["stored_bytes"] == 0
    if recipe == "zscl":
        n = SMALL["n_reference"]
        pictures, features = n * 3 * 32 * 32, 2 * n * width * 4
        weights = 4 * costs["trainable_parameters"]
        assert pictures + features < costs["stored_bytes"] < 1.1 * (pictures + features + weights)


def test_evaluating_leaves_training_as_it_would_have_been():
    """Avalanche's loaders take the seed of their processes from the global generator, at evaluation as well."""
    found = []
    for evaluate in (True, False):
        benchmark, model = picturebook.mtil_like(0, **SMALL), mini()
        run_experiment(
            benchmark, "fine-tune", model=model, settings=TrainSettings(lr=1e-3, epochs=1), evaluate=evaluate
        )
        found.append(model)
    assert_same_weights(*found)


def test_another_seed_differs():
    with pytest.raises(AssertionError):
        assert_same_weights(*(run("fine-tune", seed).strategy.model for seed in (0, 1)))


def test_what_was_computed_is_reported_before_a_failure():
    benchmark = picturebook.mtil_like(0, **SMALL)
    rows = []
    with pytest.raises(InputError, match="loss became"):
        run_experiment(
            benchmark,
            "fine-tune",
            model=tiny_vlm("random"),
            settings=TrainSettings(lr=1e18, epochs=4, max_grad_norm=None),
            on_row=lambda step, matrix: rows.append(step),
        )
    assert rows[0] == 0


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("lr", "0.1", "lr: '0.1' is not a finite number above 0"),
        ("lr", float("nan"), "lr: nan is not a finite number"),
        ("lr", 10**400, "lr: 1000.* is above 1e\\+18"),
        ("epochs", 2.5, "epochs: 2.5 is not a whole number"),
        ("epochs", True, "epochs: True is not a whole number"),
        ("num_workers", None, "num_workers: None is not a whole number"),
        ("label_smoothing", [], r"label_smoothing: \[\] is not a finite number"),
        ("max_grad_norm", {}, "max_grad_norm: {} is not a finite number"),
    ],
)
def test_a_setting_that_is_no_such_number(setting, value, said):
    with pytest.raises(InputError, match=said):
        TrainSettings(**{setting: value})


def test_bad_settings():
    with pytest.raises(InputError, match="lr: 0 is not a finite number above 0"):
        TrainSettings(lr=0)
    benchmark = picturebook.mtil_like(0, **SMALL)
    benchmark.reference = None
    with pytest.raises(InputError, match="zscl needs what picturebook-mtil does not bring, reference pairs"):
        run_experiment(benchmark, "zscl", model=tiny_vlm("random"), settings=TrainSettings())
    benchmark.kind = "pairs"
    with pytest.raises(InputError, match="icarl is for streams of classes, and picturebook-mtil is one of pairs"):
        run_experiment(benchmark, "icarl", model=tiny_vlm("random"), settings=TrainSettings())


@pytest.mark.gpu
def test_cuda():
    benchmark = picturebook.mtil_like(0, **SMALL)
    for recipe in recipes.list():
        model = create_vlm("tiny", device="cuda")
        result = run_experiment(
            benchmark, recipe, model=model, settings=TrainSettings(lr=1e-3, epochs=1, amp="bf16"), device="cuda"
        ).result
        assert result["protocol"]["device"] == "cuda" and result["metrics"]["last"] > 20
