"""Replay beyond appending: shares, pretraining pairs, texts, distillation of old classes, nearest means."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from avalanche.training.plugins import SupervisedPlugin
from made import tiny as tiny_vlm
from recording import Recorder, naive

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.distillation import logit_distillation
from avalanche_vlm.memory import ExemplarMemory, LatentMemory
from avalanche_vlm.training import ContrastiveCriterion, recipes
from avalanche_vlm.training.plugins import (
    DistillationPlugin,
    ExemplarReplayPlugin,
    LatentReplayPlugin,
    NearestMeanPlugin,
    TextReplayPlugin,
)


def on_pairs(model, plugins):
    strategy = naive(model, plugins)
    strategy._criterion = ContrastiveCriterion()
    return strategy


@pytest.mark.slow
@pytest.mark.parametrize(("share", "old"), [(0.25, 4), (0.5, 8), ("proportional", 6)])
def test_a_share_takes_the_place_of_new_samples(random_model, tiny_benchmark, share, old):
    memory = ExemplarMemory(max_samples=40)  # of 64 new ones: 40 / 104 of 16 are 6
    plugin = ExemplarReplayPlugin(random_model, memory, share=share)
    seen = Recorder("after_forward", lambda s: (len(s.mb_x), len(s.mb_output), s.mb_task_id.tolist()))
    naive(random_model, [plugin, seen]).train(tiny_benchmark.train_stream)
    assert seen.values == [(16, 16, [0] * 16)] * 4 + [(16, 16, [1] * (16 - old) + [0] * old)] * 4


@pytest.mark.parametrize("share", [0, 1, 1.5, "half"])
def test_shares_that_are_none(random_model, share):
    with pytest.raises(InputError, match="between 0 and 1, 'proportional' or 'union'"):
        ExemplarReplayPlugin(random_model, ExemplarMemory(max_samples=4), share=share)


def test_the_variants_of_tic_are_their_mixtures(random_model):
    found = {}
    for variant in ("all", "equal", "exponential"):
        (plugin,) = recipes.build("tic-cumulative", model=random_model, variant=variant)
        found[variant] = plugin.mixture, plugin.share
    assert found == {"all": ("uniform", "proportional"), "equal": ("equal", 0.5), "exponential": ("exponential", 0.5)}
    with pytest.raises(InputError, match="variant is all, equal or exponential, not 'exp'"):
        recipes.build("tic-cumulative", model=random_model, variant="exp")


@pytest.mark.slow
def test_fomo_in_flux_batches_are_thirds_and_weigh_by_their_samples(random_model, tiny_benchmark):
    reference = tiny_benchmark.reference
    with pytest.raises(InputError, match="pretraining pairs needs reference"):
        recipes.build("replay", model=random_model, pretraining=16)
    replay, pretrain = recipes.build("replay", model=random_model, reference=reference, pretraining=16, batch_size=16)
    assert pretrain.stored().ram > reference.nbytes
    losses = Recorder("before_backward", lambda s: s.loss.item())
    joined = Recorder("after_backward", lambda s: (s.loss.item(), len(s.mb_x)))
    drawn = []
    inner = pretrain._passes.next
    pretrain._passes.next = lambda: drawn.append(inner()) or drawn[-1]
    expected = []

    def reference_loss(s):
        if drawn:
            i = drawn[-1]
            with torch.no_grad():
                images = s.model.encode_image(reference.batch(i.tolist()))
                texts = s.model.encode_text(s.model.tokenize([reference.captions[j] for j in i]))
                captions = [reference.captions[j] for j in i]
                y = torch.tensor([captions.index(c) for c in captions])
                expected.append(ContrastiveCriterion()(s.model.similarity(images, texts), y).item())

    check = Recorder("after_backward", reference_loss)
    naive(random_model, [replay, losses, pretrain, joined, check]).train(tiny_benchmark.train_stream)
    assert sorted(torch.cat(drawn[:4]).tolist()) == list(range(64))
    for before, (after, n), own in zip(losses.values, joined.values, expected, strict=True):
        assert after == pytest.approx((n * before + 16 * own) / (n + 16), rel=1e-4)
    assert [n for _, n in joined.values] == [16] * 4 + [32] * 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "pairs"])
def test_replayed_texts_are_pulled_back_to_where_they_were(tiny_benchmark, tiny_pairs, kind):
    benchmark = tiny_benchmark if kind == "classes" else tiny_pairs
    drift = []
    for weight in (0.0, 10.0):
        torch.manual_seed(0)
        model = tiny_vlm("random")
        plugin = TextReplayPlugin(model, LatentMemory(1 << 16), weight=weight)
        strategy = naive(model, [plugin]) if kind == "classes" else on_pairs(model, [plugin])
        strategy.train(benchmark.train_stream[0])
        stored = plugin.memory.sample(1000)
        if kind == "classes":
            texts = sum(len(benchmark.label_space.prompts()[c]) for c in benchmark.label_space.tasks[0])
        else:
            texts = len(set(benchmark.train_stream[0].dataset.targets))
        assert len(stored["y"]) == texts
        with model.evaluating():
            now = model.encode_text(stored["tokens"])
        torch.testing.assert_close(stored["latents"], now, atol=1e-3, rtol=0)
        strategy.train(benchmark.train_stream[1])
        with model.evaluating():
            drift.append(1 - F.cosine_similarity(model.encode_text(stored["tokens"]), stored["latents"]).mean().item())
    assert drift[1] < 0.5 * drift[0]


def test_a_text_that_comes_again_keeps_its_first_feature(random_model):
    benchmark = picturebook.domain_incremental(
        domains=("sketch", "night"), n_train=64, n_test=8, n_held_out=8, n_reference=8
    )
    plugin = TextReplayPlugin(random_model, LatentMemory(1 << 16))
    strategy = naive(random_model, [plugin], lr=1e-2)
    kept = []
    for experience in benchmark.train_stream:
        strategy.train(experience)
        stored = plugin.memory.sample(1000)
        order = (stored["tokens"].double() @ 131.0 ** torch.arange(stored["tokens"].shape[1]).double() % 1e9).argsort()
        kept.append(stored["latents"][order])
    assert torch.equal(*kept)


def test_budgets_and_batches_of_nothing_are_refused_before_anything_is_trained(random_model):
    with pytest.raises(InputError, match="3000 bytes cannot hold one exemplar of 3092 bytes"):
        ExemplarReplayPlugin(random_model, ExemplarMemory(3000))
    with pytest.raises(InputError, match="1000 bytes cannot hold one sample of 1100 bytes"):
        LatentReplayPlugin(random_model, LatentMemory(1000))
    for make in (
        lambda n: ExemplarReplayPlugin(random_model, ExemplarMemory(1 << 20), n),
        lambda n: TextReplayPlugin(random_model, LatentMemory(1 << 16), batch_size=n),
        lambda n: LatentReplayPlugin(random_model, LatentMemory(1 << 16), batch_size=n),
    ):
        with pytest.raises(InputError, match="is a whole number of 1 or more, not -5"):
            make(-5)
    with pytest.raises(InputError, match="number of 0 or more, not nan"):
        TextReplayPlugin(random_model, LatentMemory(1 << 16), weight=float("nan"))


def test_a_last_minibatch_of_one_has_no_room_for_a_share(random_model):
    benchmark = picturebook.mtil_like(n_train=33, n_test=8, order=["sketches", "night"], n_held_out=8, n_reference=8)
    plugin = ExemplarReplayPlugin(random_model, ExemplarMemory(max_samples=8), mixture="equal", share=0.5)
    sizes = Recorder("after_forward", lambda s: s.mb_task_id.tolist())
    naive(random_model, [plugin, sizes]).train(benchmark.train_stream)
    assert [sum(t == 0 for t in tasks) for tasks in sizes.values[3:]] == [8, 8, 0]


@pytest.mark.slow
def test_latent_replay_stands_behind_what_appends_images(random_model, tiny_benchmark):
    def plugins(model):
        return [LatentReplayPlugin(model, LatentMemory(1 << 16), batch_size=4), exemplars(model)]

    def exemplars(model):
        return ExemplarReplayPlugin(model, ExemplarMemory(1 << 16), batch_size=4)

    with pytest.raises(InputError, match="put LatentReplayPlugin behind it"):
        naive(random_model, plugins(random_model)).train(tiny_benchmark.train_stream)
    model = tiny_vlm("random")
    naive(model, plugins(model)[::-1]).train(tiny_benchmark.train_stream)


def test_pairs_are_not_replayed_into_classes(random_model, tiny_benchmark, tiny_pairs):
    plugin = ExemplarReplayPlugin(random_model, ExemplarMemory(1 << 16))
    on_pairs(random_model, [plugin]).train(tiny_pairs.train_stream[0])
    with pytest.raises(InputError, match="pairs cannot be replayed into a class stream"):
        naive(random_model, [plugin]).train(tiny_benchmark.train_stream[1])


def test_a_frozen_text_tower_has_nothing_to_replay(random_model):
    with pytest.raises(InputError, match="the text tower is frozen"):
        TextReplayPlugin(random_model.freeze("text"), LatentMemory(1 << 16))


def of_old_classes(model, weight: float = 1.0) -> DistillationPlugin:
    """iCaRL's distillation."""
    plugins = recipes.build("icarl", model=model, weight=weight)
    return next(plugin for plugin in plugins if isinstance(plugin, DistillationPlugin))


def test_old_classes_are_distilled_from_the_previous_model(tiny_benchmark):
    model = tiny_vlm()
    plugin = of_old_classes(model, weight=3.0)
    losses = Recorder("before_backward", lambda s: s.loss.item())
    joined = Recorder("after_backward", lambda s: s.loss.item())
    students = Recorder("after_backward", lambda s: (copy.deepcopy(s.model), s.mb_x.clone()))
    strategy = naive(model, [losses, plugin, joined, students])
    first, second = tiny_benchmark.train_stream
    strategy.train(first)
    assert losses.values == joined.values and plugin.stored().ram == 8 * len(tiny_benchmark.label_space.tasks[0])
    teacher = copy.deepcopy(model).eval()
    strategy.train(second)
    old = torch.tensor(sorted(tiny_benchmark.label_space.tasks[0]))
    for step in range(4, 8):
        student, images = students.values[step]
        with torch.no_grad():
            target, now = (m.similarity(m.encode_image(images), m.prompt_features(old)) for m in (teacher, student))
        expected = 3 * logit_distillation(now, target, 2.0, "rows").item()
        assert joined.values[step] - losses.values[step] == pytest.approx(expected, rel=1e-3)
        if step > 4:  # otherwise a teacher that learns along would pass
            along = 3 * logit_distillation(now, now, 2.0, "rows").item()
            assert abs(expected - along) > 5e-3 * expected
    assert model.taps == []


@pytest.mark.slow
def test_a_forward_pass_that_fails_leaves_nothing_behind(random_model, tiny_benchmark):
    class Fails(SupervisedPlugin):
        armed = False

        def before_backward(self, strategy, **kwargs):
            if self.armed:
                raise RuntimeError("interrupted")

    class FailsInForward(torch.nn.Module):
        def forward(self, encode, images):
            encode(images)
            raise RuntimeError("interrupted")

    fails, plugin = Fails(), of_old_classes(random_model)
    strategy = naive(random_model, [fails, plugin])
    first, second = tiny_benchmark.train_stream
    strategy.train(first)
    random_model.image_path = FailsInForward()
    with pytest.raises(RuntimeError, match="interrupted"):
        strategy.train(second)
    random_model.image_path = None
    fails.armed = True
    with pytest.raises(RuntimeError, match="interrupted"):
        strategy.train(second)
    fails.armed = False
    strategy.train(second)
    assert random_model.taps == []
    seen = []
    random_model.taps.append(seen.append)  # a tap of the user's own is not the teacher's
    strategy.train(second)
    assert len(seen) == 4


def test_distillation_of_classes_is_not_for_pairs(random_model, tiny_pairs):
    with pytest.raises(InputError, match="needs a class-labelled stream; this one has image-text pairs"):
        on_pairs(random_model, recipes.build("icarl", model=random_model)).train(tiny_pairs.train_stream[0])
    with pytest.raises(InputError, match="needs a class-labelled stream"):
        model = tiny_vlm("random")
        on_pairs(model, [of_old_classes(model)]).train(tiny_pairs.train_stream[0])


def test_means_are_those_of_the_exemplars_under_the_current_encoder(random_model, tiny_benchmark):
    memory = ExemplarMemory(max_samples=20, policy="herding")
    plugins = [ExemplarReplayPlugin(random_model, memory), NearestMeanPlugin(random_model, memory)]
    strategy = naive(random_model, plugins)
    for experience in tiny_benchmark.train_stream:
        strategy.train(experience)
        stored = memory.sample(20)
        with random_model.evaluating():
            features = random_model.encode_image(random_model.transforms.eval.from_uint8(stored["pixels"]))
        head = random_model.class_head
        for c in stored["y"].unique():
            mean = F.normalize(features[stored["y"] == c].mean(0), dim=0)
            torch.testing.assert_close(head.means[c], mean, atol=1e-5, rtol=0)
        assert head.known.nonzero()[:, 0].tolist() == stored["y"].unique().tolist()
    quota = 20 // len(memory.labels.unique())
    assert torch.bincount(memory.labels)[memory.labels.unique()].tolist() == [quota] * len(memory.labels.unique())
    with pytest.raises(InputError, match="class head is taken by a nearest-mean head"):
        NearestMeanPlugin(random_model, memory)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["icarl", "proof", "lada", "rapf", "prototype-replay"])
def test_old_samples_compete_with_all_classes_met_and_never_with_those_to_come(name):
    small = {"n_train": 32, "n_test": 8, "n_held_out": 8, "n_reference": 8}
    benchmark = picturebook.mtil_like(order=["sketches", "night", "fabrics"], label_space="union", **small)
    model = tiny_vlm()
    asked = []
    strategy = naive(model, recipes.build(name, model=model))
    of = type(model.competing).of
    first, second, _ = benchmark.train_stream
    strategy.train(first)
    model.competing.of = lambda labels: asked.append((labels, of(model.competing, labels))) or asked[-1][1]
    strategy.train(second)
    met = set(first.classes_in_this_experience) | set(second.classes_in_this_experience)
    in_training = [(labels, found) for labels, found in asked if isinstance(labels, torch.Tensor)]
    assert any((labels == 0).any() for labels, _ in in_training)  # an old sample has its own task's label
    for _, found in in_training:
        assert set(found.expand(1, -1).any(0).nonzero()[:, 0].tolist()) <= met
    old = [found for labels, found in in_training if bool((labels == 0).any())]
    assert all(set(found.nonzero()[:, -1].tolist()) == met for found in old)
