"""Settings that papers trained with: taken over where training here can have them, refused by name where not."""

from __future__ import annotations

import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin
from mini import mini

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.benchmarks.classic.multi_domain import MTIL
from avalanche_vlm.benchmarks.registry import BENCHMARKS
from avalanche_vlm.errors import InputError
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import recipes
from avalanche_vlm.training.recipes import Published, published_for
from avalanche_vlm.training.settings import TrainSettings


def test_mtil_is_trained_as_zscls_scripts_train_it():
    fields, options, entry = published_for("zscl", "mtil")
    settings = TrainSettings(**fields)
    assert (settings.lr, settings.weight_decay, settings.iterations, settings.batch_size) == (1e-5, 0.0, 1000, 64)
    assert (settings.warmup, settings.label_smoothing, settings.train_templates) == (100, 0.2, "first")
    assert settings.rates == {"Aircraft": 5e-5, "MNIST": 5e-5} and settings.max_grad_norm is None
    assert options == {} and "ZSCL.sh" in entry.source
    assert published_for("moe-adapters", "mtil")[0]["rates"]["EuroSAT"] == 1e-4


@pytest.mark.parametrize("name", [name for name in recipes.list() if recipes.get(name).training])
def test_all_that_is_kept_by_a_benchmarks_name_can_be_run(name):
    for entry in recipes.get(name).training:
        for benchmark in entry.at if isinstance(entry, Published) else ():
            fields, _, found = published_for(name, benchmark)
            assert found is entry and TrainSettings(**fields) and benchmark in BENCHMARKS.names()
            assert set(entry.rates) <= (set(MTIL.orders["I"]) if benchmark == "mtil" else set())


@pytest.mark.parametrize(
    ("recipe", "benchmark", "sentence"),
    [
        (
            "lora",
            "mtil",
            r"recipe lora has no published settings for mtil that are kept by its name \(for these: none\); our comp",
        ),
        ("zero-shot", "cifar100", r"recipe zero-shot has no .* \(for these: none\); nothing is trained$"),
        ("l2p", "cifar100", r"recipe l2p has no .* none\); others were published for split CIFAR100 \(Adam\), 5-d"),
        ("zscl", "xtail", r"recipe zscl has no published settings for xtail .* \(for these: mtil, imagenet1k\)"),
    ],
)
def test_what_was_not_published_is_one_sentence(recipe, benchmark, sentence):
    with pytest.raises(InputError, match=sentence):
        published_for(recipe, benchmark)


def test_another_optimizer_is_refused_by_name(monkeypatch):
    from avalanche_vlm.training.recipes import runnable

    chosen = recipes.get("zscl")
    entry = Published(source="a paper", at=("mtil",), optimizer="SGD", lr=1.0, schedule="steps", epochs=1)
    monkeypatch.setattr(runnable, "get_recipe", lambda name: type("R", (), {"training": (entry,), "name": chosen.name}))
    with pytest.raises(InputError, match="are for SGD with the schedule steps, and training here has AdamW"):
        published_for("zscl", "mtil")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"iterations": 0}, "iterations: 0 is not a whole number from 1"),
        ({"iterations": 1.5}, "iterations: 1.5 is not a whole number"),
        ({"rates": {"a": 0}}, "the rate of task 'a': 0 is not a finite number above 0"),
        ({"rates": {"a": True}}, "the rate of task 'a': True is not a finite number above 0"),
        ({"rates": {"a": float("nan")}}, "the rate of task 'a': nan is not a finite number above 0"),
    ],
)
def test_settings_that_are_none_are_one_sentence(given, sentence):
    with pytest.raises(InputError, match=sentence):
        TrainSettings(**given)


def test_every_task_has_as_many_iterations_and_its_own_rate():
    sizes = {"n_train": 32, "n_test": 8, "n_held_out": 8, "n_reference": 32}
    rates: list[list[float]] = []

    class Rates(SupervisedPlugin):
        def before_training_exp(self, strategy, **kwargs):
            rates.append([])

        def after_update(self, strategy, **kwargs):
            rates[-1].append(strategy.optimizer.param_groups[0]["lr"])

    def run(**given):
        rates.clear()
        stream = picturebook.mtil_like(order=["sketches", "night"], **sizes)
        settings = TrainSettings(lr=1e-3, batch_size=16, warmup=1, **given)
        torch.manual_seed(1)
        found = run_experiment(stream, "fine-tune", model=mini(), settings=settings, metrics=[], plugins=[Rates()])
        return found, [list(of) for of in rates]

    _, cut = run(iterations=3, rates={"night": 4e-3})
    assert [len(of) for of in cut] == [3, 3] and cut[1] == pytest.approx([4 * rate for rate in cut[0]])
    assert cut[0] == pytest.approx([1e-3, 1e-3, 0.5e-3])  # the warm-up, then half a cosine over what is left
    whole, by_epochs = run(epochs=2)
    same, by_iterations = run(iterations=4)
    assert by_epochs == by_iterations and whole.result["matrix"] == same.result["matrix"]
    assert whole.ledger["extra_forward_passes_per_sample"] == same.ledger["extra_forward_passes_per_sample"]
