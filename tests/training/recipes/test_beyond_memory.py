"""Options that come to more memory than there is are refused before it is taken."""

from __future__ import annotations

import pytest
from mini import mini

from avalanche_vlm import _allocations, _memory
from avalanche_vlm._allocations import within_memory
from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import create_vlm
from avalanche_vlm.studies.feasible import resources
from avalanche_vlm.studies.strategy import strategy_of
from avalanche_vlm.training import recipes
from avalanche_vlm.training.recipes.runnable import settled
from avalanche_vlm.training.settings import TrainSettings


@pytest.fixture(scope="module")
def month():
    return picturebook.time_incremental(n_experiences=2, n_train=16, n_test=10, n_held_out=8, n_reference=16)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lora", {"rank": 8192}),
        ("adapter-per-task", {"bottleneck": 8192}),
        ("moe-adapters", {"bottleneck": 8192}),
        ("ranpac", {"hidden": 10**6}),
        ("rail-primal", {"hidden": 10**6}),
        ("l2p", {"size": 1000, "length": 1000}),
        ("lwf-vr", {"sentences": 10**6}),
        ("gift", {"n": 10**6}),
        ("lada", {"units": 1000, "bottleneck": 10**6}),
    ],
)
def test_what_no_memory_holds_is_a_sentence(name, options, month, monkeypatch):
    monkeypatch.setattr(_allocations, "free_memory", lambda: 2**20)
    monkeypatch.setattr(_memory, "memory", lambda: 2**20)
    model, settings = mini(), settled(TrainSettings(epochs=1), name, "classes")
    model.set_label_space(month.label_space)
    with pytest.raises(InputError, match=r"would take .* memory"):
        plugins = recipes.build(name, model=model, **resources(name, month), **options)
        strategy = strategy_of(model, "classes", settings, plugins, device="cpu")
        strategy.train(month.train_stream[0])


def test_many_small_parts_count_together(monkeypatch):
    monkeypatch.setattr(_allocations, "free_memory", lambda: 2**20)
    with pytest.raises(InputError, match=r"recipe moe-adapters with these options|SharedExpertsPlugin adds"):
        model = mini()
        plugins = recipes.build("moe-adapters", model=model, experts=1000, bottleneck=16)
        for plugin in plugins:
            if hasattr(plugin, "experts"):
                plugin.experts.add_next()


@pytest.mark.parametrize(
    ("name", "options"), [("lora", {"rank": 10**10}), ("moe-adapters", {"experts": 4000}), ("gift", {"n": 2**63})]
)
def test_what_is_absurd_anywhere_is_out_of_range(name, options, month):
    with pytest.raises(InputError, match=r"is a whole number from \d to \d+, not"):
        recipes.build(name, model=mini(), **resources(name, month), **options)


def test_pixels_come_to_positions():
    with pytest.raises(InputError, match=r"tiny for images of 8000000 pixels would take .* memory"):
        create_vlm("tiny", "random", image_size=8_000_000)


def test_errors_that_are_not_about_memory_stay():
    with pytest.raises(RuntimeError, match="of its own"), within_memory("it"):
        raise RuntimeError("one of its own")
