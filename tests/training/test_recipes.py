"""Every recipe, as plugins in Avalanche's own ``Naive``, on both kinds of streams."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mini import shallow
from quick import QUICK, one_each
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks import ImageText, ReferencePairs, VLMBenchmark
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.memory import ExemplarMemory, stored_bytes
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.site import Site, sites_of
from avalanche_vlm.models.other_classes import OtherClasses
from avalanche_vlm.training import criterion_for, recipes
from avalanche_vlm.training.plugins import DistillationPlugin, ReferenceReplayPlugin
from avalanche_vlm.training.reference import ReferenceSet

STREAMS = ("classes", "pairs")
LESS: dict[str, dict[str, Any]] = {
    "gift": {"n": 64},
    "lwf-vr": {"sentences": 32},
    "ewc-clip": {"samples": 16},
    "adapter-per-task": {"bottleneck": 8},
    "moe-adapters": {"experts": 4, "bottleneck": 8},
    "rail-primal": {"hidden": 64},
    "ranpac": {"hidden": 64},
    "lada": {"units": 2, "bottleneck": 4},
    "proof": {"exemplars": 3},
}
"""Options that make a recipe quick."""
RUNS = one_each(((name, kind) for name in recipes.list() for kind in recipes.get(name).kinds), quick=QUICK)


class Trained(NamedTuple):
    """What came out of a stream."""

    model: VLM
    benchmark: VLMBenchmark
    rows: np.ndarray
    plugins: list[SupervisedPlugin]


@pytest.fixture(scope="module")
def trained(tiny_benchmark, tiny_pairs):
    """Every recipe on every stream that it is for, trained once and kept."""
    cache = {}

    @torch.enable_grad()  # whoever asks
    def train(name: str, kind: str):
        if (name, kind) not in cache:
            torch.manual_seed(0)
            benchmark = tiny_benchmark if kind == "classes" else tiny_pairs
            model = shallow()
            resources = {what: getattr(benchmark, what) for what in recipes.get(name).takes}
            # Budgets that fill up, as they do in use.
            options = {"max_bytes": 100_000} if "max_bytes" in recipes.get(name).settings else {}
            plugins = recipes.build(name, model=model, **resources, **options, **LESS.get(name, {}))
            matrix = PerformanceMatrix()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                evaluator = EvaluationPlugin(matrix, loggers=[])
            strategy = Naive(
                model=model,
                optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3 if recipes.get(name).family == "PEA" else 3e-4),
                criterion=criterion_for(kind, model),
                train_mb_size=32,
                train_epochs=2,
                eval_mb_size=64,
                plugins=plugins,
                evaluator=evaluator,
            )
            strategy.eval(benchmark.test_stream)
            for experience in benchmark.train_stream:
                # Replay with a worker process, as users load their data.
                strategy.train(experience, num_workers=int(recipes.get(name).family == "MMRE"))
                strategy.eval(benchmark.test_stream)
            cache[name, kind] = Trained(model.eval(), benchmark, matrix.rows(), plugins)
        return cache[name, kind]

    return train


def pictures(benchmark) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures that a task was trained on, others of every task, and held-out ones, with task labels."""
    images, tasks = [], []
    for stream in (benchmark.train_stream, benchmark.test_stream):
        for experience in stream:
            x, _, t = next(iter(DataLoader(experience.dataset.eval(), batch_size=4)))
            images.append(x.image if isinstance(x, ImageText) else x)
            tasks.append(t)
    images.append(torch.stack([benchmark.held_out[0].dataset[i][0].image for i in range(8)]))
    tasks.append(torch.zeros(8, dtype=torch.long))
    return torch.cat(images), torch.cat(tasks)


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_every_recipe_trains_in_avalanches_naive(trained, name, kind):
    model, _, rows, _ = trained(name, kind)
    assert rows.shape == (3, 2) and ((rows >= 0) & (rows <= 1)).all()
    assert rows[1, 0] >= rows[0, 0] - 0.1  # what was just trained did not get worse
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize(("name", "kind"), RUNS)
@given(order=st.permutations(range(24)), size=st.integers(1, 24))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@torch.no_grad()
def test_a_prediction_does_not_depend_on_what_else_is_in_the_batch(trained, name, kind, order, size):
    model, benchmark, *_ = trained(name, kind)
    images, tasks = pictures(benchmark)
    if kind == "pairs":
        features = model.encode_image(images)
        batches = [list(order[i : i + size]) for i in range(0, 24, size)]
        for rows in batches:
            torch.testing.assert_close(model.encode_image(images[rows]), features[rows], atol=1e-5, rtol=0)
        return
    together = model(images, tasks).softmax(1)
    for start in range(0, 24, size):
        rows = list(order[start : start + size])
        alone = model(images[rows], tasks[rows]).softmax(1)
        torch.testing.assert_close(alone, together[rows], atol=1e-5, rtol=0)
        assert torch.equal(alone.argmax(1), together[rows].argmax(1))


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_what_was_trained_can_be_copied_and_pickled(trained, name, kind):
    model, benchmark, _, plugins = trained(name, kind)
    images, _ = pictures(benchmark)
    with torch.no_grad():
        expected = model.encode_image(images)
        for again, parts in (copy.deepcopy((model, plugins)), pickle.loads(pickle.dumps((model, plugins)))):
            assert torch.equal(again.encode_image(images), expected)
            assert stored_bytes(parts) == stored_bytes(plugins)


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_held_out_classes_are_asked_of_what_predicts(trained, name, kind):
    model, benchmark, *_ = trained(name, kind)
    held_out = next(of for of in benchmark.held_out if of.label_space is not None)
    with torch.no_grad():
        images = torch.stack([held_out.dataset[i][0] for i in range(8)])
        logits = OtherClasses(model, held_out.label_space).logits(images)
        assert logits.shape == (8, len(held_out.label_space)) and logits.isfinite().all()
        one = OtherClasses(model, held_out.label_space).logits(images[3:4])
        torch.testing.assert_close(one, logits[3:4], atol=1e-4, rtol=1e-4)
        if model.label_space is not None:  # asked about the classes of the stream, it says what it says there
            x, _ = pictures(benchmark)
            asked = OtherClasses(model, model.label_space.with_visible("union")).logits(x)
            if model.class_head is None:
                model.competing.visible, before = "union", model.competing.visible
                torch.testing.assert_close(asked, model(x), atol=1e-4, rtol=1e-4)
                model.competing.visible = before


@pytest.mark.parametrize("kind", STREAMS)
@torch.no_grad()
def test_the_pictures_above_take_the_way_through_both_modules(trained, kind):
    model, benchmark, *_ = trained("lora", kind)
    path = model.routed
    with path.pool.using(None):
        route = path.router.score(model.encode_image_plain(pictures(benchmark)[0]))
    # Otherwise the test above would compare the pretrained model with itself.
    assert set(route.task[~route.is_out_of_distribution].tolist()) == {0, 1}


def arrays(found: Any, seen: set[int]) -> Iterator[torch.Tensor | np.ndarray]:
    """All tensors and arrays that hang on an object, each storage once."""
    if isinstance(found, (torch.Tensor, np.ndarray)):
        place = found.untyped_storage().data_ptr() if isinstance(found, torch.Tensor) else id(found)
        if place not in seen:
            yield found
        seen.add(place)
        return
    if id(found) in seen or isinstance(found, (str, int, float, bool, type, ModuleType, ReferencePairs, type(None))):
        return
    seen.add(id(found))
    if isinstance(found, dict):
        parts = list(found.values())
    elif isinstance(found, (list, tuple, set)):
        parts = list(found)
    else:
        parts = [*getattr(found, "__dict__", {}).values()]
        parts += [getattr(found, name, None) for name in getattr(type(found), "__slots__", ())]
    for part in parts:
        yield from arrays(part, seen)


def _of_modules(site: Site) -> list[torch.Tensor]:
    """What a place holds for the pool, and not for the tower."""
    parts = [site.bank.state_dict().values(), site.buffers(recurse=False)]
    parts += [] if site.shared is None else [site.shared.state_dict().values()]
    return [tensor for part in parts for tensor in part]


def _reference_of(plugin: SupervisedPlugin) -> Any:
    return plugin.reference if isinstance(plugin, DistillationPlugin) else None


STORE_NOTHING = ("fine-tune", "zero-shot", "lwf", "mod-x", "dkr", "wise-ft", "nusa", "c-clip")
"""Between tasks."""


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_the_account_of_what_is_kept_between_tasks_is_complete(trained, name, kind):
    model, benchmark, _, plugins = trained(name, kind)
    # The deployed model and the transforms that come with it are no memory, but modules that were added to it are.
    own = {id(model), id(model.transforms), id(model.tokenizer), id(model.label_space), id(benchmark.generator)}
    added = {id(site): site for site in sites_of(model)}
    modules = {t.untyped_storage().data_ptr() for site in added.values() for t in _of_modules(site)}
    own |= {t.untyped_storage().data_ptr() for t in model.clip.state_dict().values()} - modules
    found = sum(part.nbytes for plugin in plugins for part in arrays(plugin, own))
    account = stored_bytes(plugins).total
    if any(isinstance(p, ReferenceReplayPlugin) or isinstance(_reference_of(p), ReferenceSet) for p in plugins):
        account -= benchmark.reference.nbytes
    if name == "gift":
        account -= sum(len(caption) + 1 for caption in benchmark.reference.captions)  # kept as bytes, not as a tensor
    # Slots that are free have pages that were never written: they have a size, but no memory.
    stores = {id(p.memory): p.memory._store for p in plugins if isinstance(getattr(p, "memory", None), ExemplarMemory)}
    found -= sum((len(store._rows) - store._used) * store._size for store in stores.values())
    # Random states and indices by the row make the difference.
    assert account - 6000 <= found <= account + 2000
    assert (stored_bytes(plugins).total > 0) == (name not in STORE_NOTHING)


def test_settings_are_listed_and_wrong_ones_named(random_model, tiny_benchmark):
    assert recipes.get("replay").settings["max_bytes"] == 1 << 20
    with pytest.raises(InputError, match=r"no recipe is called 'zcsl' \(did you mean zscl\?\); there are fine-tune, "):
        recipes.build("zcsl", model=random_model)
    with pytest.raises(InputError, match="recipe fine-tune has no option 'rank'; it has none"):
        recipes.build("fine-tune", model=random_model, rank=2)
    with pytest.raises(InputError, match=r"recipe zscl needs reference=ReferencePairs"):
        recipes.build("zscl", model=random_model)
    assert recipes.build("fine-tune", model=random_model, reference=tiny_benchmark.reference) == []
