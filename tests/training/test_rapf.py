"""RAPF's margin and fusion."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from recording import Recorder, naive

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import create_vlm
from avalanche_vlm.models.modules.feature_adapter import FeatureAdapter
from avalanche_vlm.training import recipes
from avalanche_vlm.training.plugins import AdapterFusionPlugin
from avalanche_vlm.weights.svd_fusion import svd_fusion


def test_the_adapter_of_the_first_task_stays_and_later_ones_are_fused(tiny_benchmark):
    model = create_vlm("tiny", "random")
    replay, fusion = recipes.build("rapf", model=model, bias=0.3)
    adapter = replay.path.adapter
    learned = Recorder("after_training_exp", lambda s: adapter.up.weight.detach().clone())
    strategy = naive(model, [replay, learned, fusion])
    first, second = tiny_benchmark.train_stream
    strategy.train(first)
    assert torch.equal(adapter.up.weight, learned.values[0]) and (learned.values[0] != 0).any()
    strategy.train(second)
    identity = torch.eye(len(adapter.up.weight))
    expected = svd_fusion(identity + learned.values[0], identity + learned.values[1], 0.3) - identity
    torch.testing.assert_close(adapter.up.weight.detach(), expected)
    assert not torch.allclose(expected, learned.values[1], atol=1e-5)


def test_the_margin_is_the_hinge_by_hand(tiny_benchmark):
    model = create_vlm("tiny").set_label_space(tiny_benchmark.label_space)
    old, new = (list(classes) for classes in tiny_benchmark.label_space.tasks)
    with torch.no_grad():
        texts = model.prompt_features(torch.arange(len(tiny_benchmark.label_space)))
    distances = (texts[old][:, None] - texts[new][None]).norm(dim=-1).flatten().sort().values
    near = distances[len(distances) // 2 - 1 : len(distances) // 2 + 1].mean().item()  # between two: no tie to round
    replay, _ = recipes.build("rapf", model=model, margin=0.4, threshold=near, margin_weight=2.0)
    strategy = naive(model, [replay])
    strategy.train(tiny_benchmark.train_stream[0])
    strategy.experience = tiny_benchmark.train_stream[1]
    y = torch.tensor(old)[torch.randint(len(old), (12,))]
    features = F.normalize(torch.randn(12, 128), dim=1)
    with torch.no_grad():
        found = replay.extra(strategy, features, y).item()
    total, met = 0.0, 0
    for feature, own in zip(features, y.tolist(), strict=True):
        for other in new:
            if (texts[own] - texts[other]).norm() < near:
                met += 1
                total += max(0.0, 0.4 - float(feature @ texts[own]) + float(feature @ texts[other]))
    assert 0 < met < 12 * len(new)  # some are confusable, and not all
    assert found == pytest.approx(2.0 * total / met, rel=1e-4)


def test_what_cannot_be_fused_or_compared_is_named(tiny_pairs):
    with pytest.raises(InputError, match="bottleneck is not linear"):
        AdapterFusionPlugin(FeatureAdapter(4, bottleneck=2))
    with pytest.raises(InputError, match=r"lies in \[0, 1\], not 2"):
        AdapterFusionPlugin(FeatureAdapter(4), bias=2)
