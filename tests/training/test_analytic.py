"""Analytic heads and the untrained model as recipes, in Avalanche's own ``Naive``."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from made import tiny as tiny_vlm
from recording import Recorder, naive
from torch.utils.data import DataLoader

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import stored_bytes
from avalanche_vlm.models import MASKED
from avalanche_vlm.models.feature_cache import FeatureCache
from avalanche_vlm.models.heads.analytic import AnalyticHead, NearestClassMean, RecursiveRidge
from avalanche_vlm.training import ContrastiveCriterion, VLMNaive, recipes
from avalanche_vlm.training.plugins.analytic import AnalyticHeadPlugin, NoTrainingPlugin
from avalanche_vlm.weights.average import snapshot

HEADS = {"rail-primal": {"hidden": 256}, "rail-dual": {}, "ranpac": {"hidden": 256}, "simplecil": {}}


def batch(experience) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return next(iter(DataLoader(experience.dataset.eval(), batch_size=64)))


@pytest.fixture(scope="module")
def pretrained():
    return tiny_vlm().eval()


@pytest.fixture(scope="module")
def trained(tiny_benchmark, pretrained):
    """Every head after the first of two tasks, under the union label space, and the iterations that were trained."""
    cache = {}

    def train(name: str):
        if name not in cache:
            model = copy.deepcopy(pretrained)
            model.set_label_space(replace(tiny_benchmark.label_space, visible="union"))
            plugins = recipes.build(name, model=model, **HEADS[name])
            iterations = Recorder("after_training_iteration", lambda s: 1)
            strategy = naive(model, [*plugins, iterations], epochs=2)
            strategy.train(tiny_benchmark.train_stream[0])
            assert iterations.values == [] and strategy.train_epochs == 2
            cache[name] = strategy
        return cache[name]

    return train


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_it_learns_a_task_and_leaves_the_rest_alone(trained, tiny_benchmark, pretrained, name):
    strategy = trained(name)
    model = strategy.model.eval()
    zero_shot = copy.deepcopy(pretrained).set_label_space(model.label_space)
    for parameter, before in zip(model.parameters(), zero_shot.parameters(), strict=True):
        assert torch.equal(parameter, before)
    seen = torch.tensor(sorted(tiny_benchmark.train_stream[0].classes_in_this_experience))
    x, y, t = (torch.cat(parts) for parts in zip(*map(batch, tiny_benchmark.test_stream), strict=True))
    logits, plain = model(x, t), zero_shot(x, t)
    gated = torch.isin(plain.argmax(1), seen)
    assert 0 < gated.sum() < len(x)
    torch.testing.assert_close(logits[~gated], plain[~gated], atol=1e-5, rtol=0)
    assert not torch.isclose(logits[gated], plain[gated]).all(1).any()
    assert (logits.argmax(1) == y)[gated & (t == 0)].float().mean() > 0.5
    # Alone or in company: the same answer.
    for rows in torch.randperm(len(x)).split(7):
        alone = model(x[rows], t[rows])
        torch.testing.assert_close(alone.softmax(1), logits[rows].softmax(1), atol=1e-5, rtol=0)
        assert torch.equal(alone.argmax(1), logits[rows].argmax(1))


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_what_is_fitted_are_the_plain_features_under_evaluation_transforms(trained, tiny_benchmark, pretrained, name):
    strategy = trained(name)
    x, y, _ = batch(tiny_benchmark.train_stream[0])
    twin = recipes.build(name, model=copy.deepcopy(pretrained), **HEADS[name])[0].head
    twin.fit(pretrained.encode_image_plain(x), y)
    queries = pretrained.encode_image_plain(batch(tiny_benchmark.test_stream[0])[0])
    torch.testing.assert_close(strategy.model.class_head.estimator(queries), twin.estimator(queries), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", HEADS)
def test_the_stream_goes_on_and_the_account_is_that_of_the_head(trained, tiny_benchmark, name):
    model = copy.deepcopy(trained(name).model)
    head = model.class_head
    (plugin,) = recipes.build(name, model=tiny_vlm("random"), **HEADS[name])
    plugin.head = head
    naive(model, [plugin]).train(tiny_benchmark.train_stream[1])
    classes = {c for e in tiny_benchmark.train_stream for c in e.classes_in_this_experience}
    assert set(head.estimator.known.nonzero()[:, 0].tolist()) == classes
    assert stored_bytes([plugin]).total == sum(b.nbytes for b in head.buffers()) > 0
    x, y, t = batch(tiny_benchmark.train_stream[1])
    with torch.no_grad():
        logits = model.eval()(x, t)
    assert ((logits > MASKED).sum(1) > 0).all() and (logits.argmax(1) == y).float().mean() > 0.5


def test_an_experience_that_comes_again_counts_twice(random_model, tiny_benchmark):
    head = AnalyticHead(RecursiveRidge(32))
    plugin = AnalyticHeadPlugin(random_model, head)
    experience = tiny_benchmark.train_stream[0]
    naive(random_model, [plugin]).train([experience, experience])
    x, y, _ = batch(experience)
    with random_model.evaluating():
        features = random_model.encode_image_plain(x)
    twice = RecursiveRidge(32)
    twice.fit(torch.cat([features, features]), torch.cat([y, y]))
    torch.testing.assert_close(head.estimator.weights, twice.weights, atol=1e-5, rtol=0)


@pytest.mark.parametrize("strategy_of", ["Naive", "VLMNaive", "VLMNaive, bf16"])
def test_no_parameter_is_left_to_an_optimizer(random_model, tiny_benchmark, strategy_of):
    plugin = AnalyticHeadPlugin(random_model, AnalyticHead(NearestClassMean()))
    strategy = naive(random_model, [plugin])
    if strategy_of != "Naive":
        strategy = VLMNaive(
            model=random_model,
            optimizer=strategy.optimizer,
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=16,
            plugins=[plugin],
            evaluator=strategy.evaluator,
            amp="bf16" if "bf16" in strategy_of else None,
        )
    before = copy.deepcopy(dict(random_model.named_parameters()))
    strategy.train(tiny_benchmark.train_stream)
    strategy.eval(tiny_benchmark.test_stream)
    assert not any(p.requires_grad for p in random_model.parameters())
    assert all(torch.equal(p, before[n]) for n, p in random_model.named_parameters())
    if strategy_of != "Naive":
        assert all(not group["params"] for group in strategy.optimizer.param_groups)


@pytest.mark.parametrize("kind", ["classes", "pairs"])
def test_zero_shot_is_the_pretrained_model(random_model, tiny_benchmark, tiny_pairs, kind):
    benchmark = tiny_benchmark if kind == "classes" else tiny_pairs
    before = snapshot(random_model.state_dict())
    plugins = recipes.build("zero-shot", model=random_model)
    epochs = Recorder("before_training_epoch", lambda s: 1)
    strategy = naive(random_model, [*plugins, epochs], epochs=3)
    if kind == "pairs":
        strategy._criterion = ContrastiveCriterion()
    strategy.train(benchmark.train_stream)
    strategy.eval(benchmark.test_stream)
    after = snapshot(random_model.state_dict())
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert epochs.values == [] and strategy.train_epochs == 3 and stored_bytes(plugins).total == 0
    assert recipes.get("zero-shot").kinds == ("classes", "pairs")


def test_epochs_come_back_after_an_experience_that_broke_off(random_model, tiny_benchmark):
    plugin, broken = NoTrainingPlugin(random_model), Recorder("after_training_exp", lambda s: 1 / 0)
    strategy = naive(random_model, [plugin], epochs=4)
    strategy.plugins.insert(0, broken)
    with pytest.raises(ZeroDivisionError):
        strategy.train(tiny_benchmark.train_stream[0])
    strategy.plugins.remove(broken)
    strategy.train(tiny_benchmark.train_stream[0])
    assert strategy.train_epochs == 4


@pytest.mark.slow
def test_with_a_cache_a_second_run_encodes_no_training_image(tiny_benchmark, tmp_path, monkeypatch):
    heads, calls = [], []
    for run in range(3):
        torch.manual_seed(0)
        model = tiny_vlm("random")
        encode = model.clip.encode_image
        monkeypatch.setattr(
            model.clip, "encode_image", lambda x, run=run, encode=encode, **kw: calls.append(run) or encode(x, **kw)
        )
        cache = str(tmp_path) if run else ""
        plugins = recipes.build("rail-primal", model=model, hidden=64, cache=cache)
        naive(model, plugins).train(tiny_benchmark.train_stream)
        heads.append(model.class_head.estimator)
    # Two experiences without, two for a cold cache, and a sample of each of its two files for a warm one.
    assert calls == [0, 0, 1, 1, 2, 2]
    assert all(torch.equal(head.weights, heads[0].weights) for head in heads)
    account = stored_bytes(plugins)
    assert account.disk == sum(f.stat().st_size for f in tmp_path.rglob("*.safetensors"))
    assert account.ram > heads[2].stored().ram


def test_what_it_does_not_go_with_is_refused(random_model, tiny_pairs):
    head = AnalyticHead(NearestClassMean())
    strategy = naive(random_model, [AnalyticHeadPlugin(random_model, head, FeatureCache("unused"))])
    with pytest.raises(InputError, match="needs a class-labelled stream"):
        strategy.train(tiny_pairs.train_stream[0])
    with pytest.raises(InputError, match="class head is taken by an analytic head, and an analytic head needs it"):
        AnalyticHeadPlugin(random_model, head)
    random_model.uninstall("class_head")
    random_model.install("image_path", torch.nn.Identity(), "a detour")
    with pytest.raises(InputError, match="image path is taken by a detour, and the class head of an analytic head"):
        AnalyticHeadPlugin(random_model, head)
