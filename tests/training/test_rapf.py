"""RAPF's margin and fusion."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from made import tiny as tiny_vlm
from recording import Recorder, naive

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.densities import triangles
from avalanche_vlm.models.modules.feature_adapter import FeatureAdapter
from avalanche_vlm.training import recipes
from avalanche_vlm.training.plugins import AdapterFusionPlugin
from avalanche_vlm.weights.svd_fusion import svd_fusion


def test_the_adapter_of_the_first_task_stays_and_later_ones_are_fused(tiny_benchmark):
    model = tiny_vlm("random")
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
    model = tiny_vlm().set_label_space(tiny_benchmark.label_space)
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


def test_every_class_has_a_full_covariance_of_the_features_as_they_are(tiny_benchmark):
    model = tiny_vlm("random")
    replay, fusion = recipes.build("rapf", model=model)
    memory = replay.memory
    naive(model, [replay, fusion]).train(tiny_benchmark.train_stream)
    data = tiny_benchmark.train_stream[0].dataset.eval()
    c = data.targets[0]
    with torch.no_grad():
        own = model.eval().encode_image_plain(torch.stack([x for x, y, _ in data if y == c]), normalize=False)
    place = memory.labels.tolist().index(c)
    assert (own.norm(dim=1) - 1).abs().min() > 0.1
    torch.testing.assert_close(memory.means[place], own.mean(0), atol=1e-2, rtol=0)
    factor = triangles(memory._densities.rows(slice(place, place + 1)))[0, 0]
    torch.testing.assert_close(factor @ factor.T, torch.cov(own.T, correction=0), atol=2e-3, rtol=1e-2)
    drawn = memory.sample(50, torch.tensor([place]))["features"]
    assert not torch.allclose(drawn.norm(dim=1), torch.ones(50), atol=0.05)


@pytest.mark.slow
def test_classes_of_512_dimensions_keep_their_covariances_unless_a_budget_is_given():
    def fitted(**options):
        model = SimpleNamespace(width=512, slots=SimpleNamespace(check=lambda *_, **__: None), install=lambda *_: None)
        model.competing = SimpleNamespace()
        model.freeze = lambda *_: model
        model.unfreeze = lambda *_: model
        memory = recipes.build("rapf", model=model, **options)[0].memory
        rows = torch.randn(44, 512, generator=torch.Generator().manual_seed(0))
        for step in range(2):
            y = 11 * step + torch.arange(44) % 11
            memory.fit(rows, y, torch.full_like(y, step), step=step)
        return memory

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        memory = fitted()
    assert (memory.kind, len(memory)) == ("full", 22)
    assert memory.stored().ram == 22 * (2 * (512 + 512 * 513 // 2) + 12 + 16)
    with pytest.warns(UserWarning, match=r"22 densities .* budget of 4194304 bytes as full in fp16: all are kept as "):
        assert fitted(max_bytes=1 << 22).kind == "diagonal"


def test_a_batch_has_20_pseudo_features_of_each_of_2_old_classes_which_take_turns(tiny_benchmark):
    model = tiny_vlm("random")
    replay, fusion = recipes.build("rapf", model=model)
    drawn, sample = [], replay.memory.sample
    replay.memory.sample = lambda *given: drawn.append(sample(*given)) or drawn[-1]
    naive(model, [replay, fusion], epochs=3).train(tiny_benchmark.train_stream)
    assert len(drawn) == 12
    classes = [part["y"].unique(return_counts=True) for part in drawn]
    assert all(counts.tolist() == [20, 20] for _, counts in classes)
    assert all((part["task"] == 0).all() for part in drawn)
    old = set(tiny_benchmark.train_stream[0].classes_in_this_experience)
    turn = torch.cat([of for of, _ in classes[: len(old) // 2]]).tolist()
    assert len(set(turn)) == len(turn) and set(turn) <= old


def test_a_random_adapter_starts_with_the_first_task_and_is_a_linear_layers(tiny_benchmark):
    model = tiny_vlm("random")
    replay, fusion = recipes.build("rapf", model=model, start="random", seed=3)
    assert not replay.path.adapter.up.weight.any()  # until then the model is the pretrained one
    start = Recorder("before_training_exp", lambda s: replay.path.adapter.up.weight.detach().clone())
    naive(model, [replay, fusion, start], lr=1e-9).train(tiny_benchmark.train_stream)
    whole = start.values[0] + torch.eye(128)
    bound = 128**-0.5  # nn.Linear draws uniformly between these
    assert whole.abs().max() <= bound + 1e-6 and whole.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    torch.testing.assert_close(start.values[1], start.values[0], atol=1e-5, rtol=0)  # and it starts once
    replay, _ = recipes.build("rapf", model=tiny_vlm("random"), start="random", seed=3)
    replay.prepare_parameters(None)
    assert torch.equal(replay.path.adapter.up.weight, start.values[0])


def test_what_cannot_be_fused_or_compared_is_named(tiny_pairs):
    with pytest.raises(InputError, match="bottleneck is not linear"):
        AdapterFusionPlugin(FeatureAdapter(4, bottleneck=2))
    with pytest.raises(InputError, match=r"lies in \[0, 1\], not 2"):
        AdapterFusionPlugin(FeatureAdapter(4), bias=2)
