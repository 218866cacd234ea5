"""The cost ledger, of every recipe."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from avalanche.training.plugins import ReplayPlugin
from mini import shallow
from quick import LESS, QUICK, one_each

from avalanche_vlm.evaluation.ledger import Ledger, fingerprints
from avalanche_vlm.evaluation.passes import FlopCounter, inference_flops
from avalanche_vlm.memory.state import RAW, stateful_parts
from avalanche_vlm.models.routers import ReferenceGate, create_router
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import recipes
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.settings import TrainSettings

SIZES = {"n_train": 16, "n_test": 8, "n_held_out": 8, "n_reference": 16}
SMALL_BATCHES = (
    "replay",
    "latent-replay",
    "text-replay",
    "prototype-replay",
    "lwf",
    "lwf-vr",
    "zscl",
    "snd",
    "gnsp",
    "gift",
)
PICTURES = {"replay", "icarl", "tic-cumulative", "proof"}
"""Recipes that keep pictures of the user's."""
CAPTIONS = {"replay", "tic-cumulative", "text-replay", "latent-replay"}
"""Recipes that keep captions of the user's, or pictures, on a stream of pairs."""
MERGED = {"nusa", "keeplora", "c-clip"}
"""Recipes of modules that end in the weights."""
REFERENCE_IF_GIVEN = {"moe-adapters", "s-prompts", "gift"}
"""Recipes that run without reference pairs and use them where there are some: for a gate, or for prompts."""


@pytest.fixture(scope="module")
def streams():
    from avalanche_vlm.benchmarks import picturebook

    return {
        "classes": picturebook.mtil_like(order=["sketches", "night"], **SIZES),
        "pairs": picturebook.pairs(domains=("sketch", "night"), **SIZES),
    }


@pytest.fixture(scope="module")
def outcome_of(streams):
    """Runs a recipe on one of the streams, once."""
    known: dict[tuple, Any] = {}

    def run(name: str, kind: str = "classes", **settings: Any) -> Any:
        key = (name, kind, *settings.items())
        if key not in known:
            options = {**LESS.get(name, {}), **({"batch_size": 8} if name in SMALL_BATCHES else {})}
            train = TrainSettings(**{"lr": 1e-3, "epochs": 1, "batch_size": 8, **settings})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                known[key] = run_experiment(
                    streams[kind], name, model=shallow(), settings=train, options=options, evaluate=False
                )
        return known[key]

    return run


@pytest.mark.parametrize(
    ("name", "kind"),
    one_each(((name, kind) for name in recipes.list() for kind in recipes.get(name).kinds), quick=QUICK),
)
def test_every_recipe_says_what_it_keeps_and_changes(outcome_of, name, kind):
    outcome = outcome_of(name, kind)
    entry, model = outcome.ledger, outcome.strategy.model
    assert entry["undeclared_plugins"] == []
    assert entry["raw_user_data_kept"] is (name in (CAPTIONS if kind == "pairs" else PICTURES))
    assert entry["reference_pairs_needed"] == ("reference" in recipes.get(name).needs or name in REFERENCE_IF_GIVEN)
    assert entry["task_id_needed"] == (kind == "classes")  # these classes compete within their task
    # Whoever leaves the pretrained weights alone can go back to them, and nobody else can.
    untouched = fingerprints(shallow()) <= fingerprints(model)
    assert entry["reversible"] == untouched == ("weights" not in entry["artifacts"])
    if recipes.get(name).family == "PEA" and name not in MERGED:
        assert untouched
    if "router" in entry["artifacts"]:
        assert "modules" in entry["artifacts"] and entry["added_parameters"] > 0
    assert entry["stored_ram_bytes"] + entry["stored_disk_bytes"] == outcome.result["costs"]["stored_bytes"]
    assert entry["training_flops_per_sample"] > 0 or name == "zero-shot"
    assert entry["inference_flops_per_sample"] > 5.6e5  # five tokens through three blocks, and the patches


def test_reference_pairs_count_where_a_training_uses_them(streams):
    replay = recipes.get("replay")
    assert replay.uses(["reference"], {}) == () and replay.uses(["reference"], {"pretraining": 8}) == ("reference",)
    assert recipes.get("s-prompts").uses([], {}) == () and recipes.get("zscl").uses(["generator"], {}) == ()
    assert recipes.get("gift").uses(["reference", "generator"], {}) == ("generator", "reference")
    # A gate that a user puts into a model counts as much as a recipe's.
    model = shallow()
    ledger = Ledger(model, streams["classes"])
    model.set_label_space(streams["classes"].label_space)
    assert not ledger.entry((), [], 1.0)["reference_pairs_needed"]
    model.auxiliary["gate"] = ReferenceGate(create_router("kmeans"), torch.nn.functional.normalize(torch.rand(10, 8)))
    assert ledger.entry((), [], 1.0)["reference_pairs_needed"]


def test_switching_modules_off_gives_the_pretrained_answers_back(outcome_of, streams):
    model, plain = outcome_of("lora").strategy.model, shallow()
    x = torch.rand(4, 3, 32, 32)
    model.eval()
    with torch.no_grad(), model.routed.pool.using(None):
        torch.testing.assert_close(model.encode_image_plain(x), plain.eval().encode_image_plain(x))


def test_passes_are_counted_beside_those_of_fine_tuning(outcome_of):
    def passes(name: str, **settings: Any) -> tuple[float, float]:
        entry = outcome_of(name, **settings).ledger
        return entry["extra_forward_passes_per_sample"], entry["extra_backward_passes_per_sample"]

    assert passes("fine-tune") == passes("wise-ft") == (0.0, 0.0)
    assert passes("replay") == (1.0, 1.0)  # as many old samples as new
    assert passes("lwf") == (2.0, 1.0)  # as many images of a draw of its own, and once a task the teacher's of them all
    assert passes("lwf", epochs=2) == (1.5, 1.0)
    assert passes("zscl") == (1.0, 1.0)  # reference images through the student; the teacher's features are there
    assert passes("zero-shot") == (-1.0, -1.0)
    assert passes("simplecil") == (0.0, -1.0)
    assert passes("simplecil", epochs=4) == (-0.75, -1.0)  # features are computed once, whatever the epochs
    assert passes("lora", epochs=2) == (0.5, 0.0)  # the router's features


def test_operations_are_those_of_the_whole_experience(outcome_of, streams):
    once, twice = (outcome_of("fine-tune", epochs=n).ledger["training_flops_per_sample"] for n in (1, 3))
    assert twice == pytest.approx(once, rel=0.01)
    replay = outcome_of("replay").ledger["training_flops_per_sample"]
    assert 1.3 * once < replay < 2.1 * once
    assert (
        outcome_of("lora").ledger["inference_flops_per_sample"]
        > 1.5 * (outcome_of("fine-tune").ledger["inference_flops_per_sample"])
    )


def test_operations_of_a_prediction_against_a_count_by_hand(random_model, streams):
    """Patches, blocks and projection of the image tower; the texts are encoded before."""
    random_model.set_label_space(streams["classes"].label_space)
    tower = random_model.tower("image")
    width, layers = tower.conv1.out_channels, len(tower.transformer.resblocks)
    tokens = (32 // tower.conv1.kernel_size[0]) ** 2 + 1
    hidden = tower.transformer.resblocks[0].mlp[0].out_features
    block = 2 * tokens * (4 * width**2 + 2 * width * hidden) + 4 * tokens**2 * width
    patches = 2 * (tokens - 1) * width * 3 * tower.conv1.kernel_size[0] ** 2
    out = 2 * width * tower.output_dim
    classes = 2 * tower.output_dim * len(streams["classes"].label_space.tasks[0])
    labels = torch.zeros(4, dtype=torch.long)
    assert inference_flops(random_model, torch.rand(4, 3, 32, 32), labels) == patches + layers * block + out + classes


def test_counting_changes_no_result(streams):
    """Kernels are chosen as they are without the counter."""
    x, y = torch.rand(8, 3, 32, 32), torch.arange(8) % 10
    losses = []
    for counted in (False, True):
        model = shallow()
        model.set_label_space(streams["classes"].label_space)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            counter = FlopCounter()
            if counted:
                counter.__enter__()
            loss = torch.nn.functional.cross_entropy(model(x, torch.zeros(8, dtype=torch.long)), y)
            loss.backward()
            if counted:
                counter.__exit__(None, None, None)
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == losses[1]


class Telling(VLMPlugin):
    """A user's plugin that holds all pictures in a form of its own, and says so."""

    states: ClassVar = {"pictures": RAW}

    def __init__(self, form: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.form, self.pictures = form, None

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.pictures = self.form((strategy.mb_x * 255).byte().cpu())


class Silent(VLMPlugin):
    """A user's plugin that hides pictures where no walk over objects would find them."""

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.kept = deque([strategy.mb_x.flatten().tolist()])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "raw", "unknown"),
    [
        (Telling(lambda x: deque(x, maxlen=4)), True, []),
        (Telling(lambda x: x.numpy().reshape(-1)), True, []),
        (Telling(lambda x: {"of": [None, {3: x}]}), True, []),
        (Telling(lambda x: None), False, []),
        (Silent(), None, ["Silent"]),
        (ReplayPlugin(mem_size=8), None, ["ReplayPlugin"]),
    ],
    ids=["deque", "flattened", "nested", "none", "silent", "avalanche's replay"],
)
def test_plugins_of_a_user_count_as_they_declare_and_as_unknown_if_they_do_not(streams, plugin, raw, unknown):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = TrainSettings(lr=1e-3, epochs=1, batch_size=8)
        model = shallow()
        outcome = run_experiment(
            streams["classes"], "fine-tune", model=model, settings=settings, plugins=[plugin], evaluate=False
        )
    assert outcome.ledger["raw_user_data_kept"] is raw
    assert outcome.ledger["undeclared_plugins"] == unknown


def test_what_will_keep_pictures_is_known_before_it_does(streams):
    expected = {"replay", "icarl", "tic-cumulative", "proof"}
    found = {
        name
        for name in ("fine-tune", "replay", "icarl", "tic-cumulative", "proof", "lora", "text-replay", "ewc-clip")
        if any(
            part.may_keep_raw_data()
            for part in stateful_parts(recipes.build(name, model=shallow(), **LESS.get(name, {})))
        )
    }
    assert found == expected


def test_operations_are_those_that_torch_counts_too(streams):
    from torch.utils.flop_counter import FlopCounterMode

    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 30 * 30, 5))
    x, found = torch.rand(2, 3, 32, 32), []
    for counter in (FlopCounterMode(display=False), FlopCounter()):
        with counter:
            layers(x).sum().backward()
        found.append(counter.total if isinstance(counter, FlopCounter) else counter.get_total_flops())
    assert found[0] == found[1] > 0


def test_samples_of_a_broken_off_pass_are_counted_as_they_were_trained(streams):
    settings = TrainSettings(lr=1e-3, iterations=3, batch_size=12)  # not a divisor of the samples of a task
    assert len(streams["classes"].train_stream[0].dataset) % 12
    found = run_experiment(streams["classes"], "fine-tune", model=shallow(), settings=settings, evaluate=False).ledger
    assert found["extra_forward_passes_per_sample"] == found["extra_backward_passes_per_sample"] == 0


def test_a_run_that_fails_leaves_no_counter_behind(streams, monkeypatch):
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    settings = TrainSettings(lr=1e-3, epochs=1, batch_size=8)

    def stop(experience: int, iteration: int, iterations: int) -> None:
        if experience == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        given = {"model": shallow(), "settings": settings, "progress": stop}
        run_experiment(streams["classes"], "fine-tune", **given, evaluate=False)
    assert not _get_current_dispatch_mode_stack()
    assert not torch.nn.modules.module._global_forward_hooks


def test_what_probes_look_at_is_no_cost_of_the_recipe(streams, outcome_of):
    from avalanche_vlm.evaluation.probes import DriftProbe, ErosionProbe, InterferenceProbe

    held_out = streams["classes"].held_out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probed = run_experiment(
            streams["classes"],
            "replay",
            model=shallow(),
            settings=TrainSettings(lr=1e-3, epochs=1, batch_size=8),
            options={"batch_size": 8},
            metrics=[DriftProbe(held_out[0]), InterferenceProbe(samples=8), ErosionProbe(held_out)],
            evaluate=False,
        )
    costs = ("extra_forward_passes_per_sample", "extra_backward_passes_per_sample", "training_flops_per_sample")
    plain = outcome_of("replay").ledger
    assert {name: probed.ledger[name] for name in costs} == {name: plain[name] for name in costs}
    assert not set(probed.ledger["artifacts"]) ^ set(plain["artifacts"])
