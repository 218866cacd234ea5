"""Scores of routing."""

from __future__ import annotations

import math

import pytest
import torch

from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.errors import InputError, NotFinite
from avalanche_vlm.evaluation.routing import routing_scores
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.routed import RoutedPool
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.routers import Route


class BySign:
    """A task for each side of a centre on one coordinate, and nobody's near it."""

    centre = border = 0.0

    def __len__(self) -> int:
        return 2

    def score(self, features: torch.Tensor) -> Route:
        x = features[:, 0] - self.centre
        return Route((x < 0).long(), torch.ones_like(x), x.abs() < self.border)


@torch.no_grad()
def coordinates(model, experience) -> torch.Tensor:
    """What the router looks at, picture by picture."""
    pictures = experience.dataset.eval()
    return torch.stack([model.encode_image_plain(pictures[i][0][None])[0, 0] for i in range(20)])


def between(values: torch.Tensor) -> float:
    """What half of them are below, and none is near: features differ by rounding from batch to batch."""
    return values.sort().values[9:11].mean().item()


@pytest.mark.parametrize("turns_away", [True, False])
def test_scores_equal_the_loop_over_samples(random_model, tiny_benchmark, turns_away):
    x = [coordinates(random_model.eval(), experience) for experience in tiny_benchmark.test_stream]
    pool, router = ModulePool(named("image", inject_lora(random_model.tower("image"), rank=1))), BySign()
    router.centre = between(x[0])
    router.border = between((x[0] - router.centre).abs()) if turns_away else 0.0
    pool.add("a")
    pool.add("b")
    random_model.routed = RoutedPool(pool, router)
    random_model.routed.of_label = {0: "b"}  # task 1 has no module
    scores = routing_scores(random_model, tiny_benchmark.test_stream, batch_size=7)
    own, other = ([value - router.centre for value in of.tolist()] for of in x)
    counts = [
        sum(abs(v) >= router.border and v < 0 for v in own),
        sum(abs(v) < router.border for v in own),
        sum(abs(v) >= router.border for v in other),
    ]
    assert scores == pytest.approx([count / 20 for count in counts])
    assert scores.accuracy > 0 and scores.out_of_distribution_let_in > 0 and (scores.turned_away > 0) == turns_away
    first = routing_scores(random_model, tiny_benchmark.test_stream[:1])
    assert math.isnan(first.out_of_distribution_let_in) and first.accuracy == scores.accuracy


def test_features_that_are_no_numbers_are_routed_nowhere(random_model, tiny_benchmark):
    pool = ModulePool(named("image", inject_lora(random_model.tower("image"), rank=1)))
    pool.add("a")
    random_model.routed = RoutedPool(pool, BySign())
    with torch.no_grad():
        next(random_model.tower("image").parameters()).fill_(float("nan"))
    with pytest.raises(NotFinite, match=r"task 0: the features of 20 of 20 samples are NaN or infinite"):
        routing_scores(random_model, tiny_benchmark.test_stream)


def test_a_model_without_modules(random_model, tiny_benchmark):
    with pytest.raises(InputError, match="does not choose among modules"):
        routing_scores(random_model, tiny_benchmark.test_stream)


@pytest.mark.parametrize("visible", ["seen", "union"])
def test_a_samples_module_is_its_own_tasks_whatever_competes(random_model, tiny_benchmark, visible):
    """Experiences have task labels of their own under every label space, so module and sample find each other."""
    other = VLMBenchmark(
        tiny_benchmark.name,
        tiny_benchmark.kind,
        [experience.dataset for experience in tiny_benchmark.train_stream],
        [experience.dataset for experience in tiny_benchmark.test_stream],
        label_space=tiny_benchmark.label_space.with_visible(visible),
        task_names=tiny_benchmark.task_names,
    )
    x = coordinates(random_model.eval(), tiny_benchmark.test_stream[0])
    pool, router = ModulePool(named("image", inject_lora(random_model.tower("image"), rank=1))), BySign()
    router.centre = between(x)
    pool.add("a")
    pool.add("b")
    random_model.routed = RoutedPool(pool, router)
    random_model.routed.of_label = {0: "b"}  # task 1 has no module
    scores = routing_scores(random_model, other.test_stream)
    assert scores == routing_scores(random_model, tiny_benchmark.test_stream)
    assert scores.accuracy == pytest.approx(sum(v < router.centre for v in x.tolist()) / 20) == 0.5
    assert scores.out_of_distribution_let_in == 1  # of task 1 alone: under one label for all there would be none
