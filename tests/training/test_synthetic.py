"""Distillation on generated pairs (GIFT) in Avalanche's own ``Naive``."""

from __future__ import annotations

import copy
import warnings
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from made import tiny as tiny_vlm

from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.alignment import soft_alignment
from avalanche_vlm.losses.distillation import logit_distillation
from avalanche_vlm.memory import tensor_bytes
from avalanche_vlm.training import VLMNaive, criterion_for, recipes
from avalanche_vlm.training.plugins import ConsolidatedDistillationPlugin
from avalanche_vlm.training.reference import Inputs, SyntheticPairs
from avalanche_vlm.training.teachers import InitialTeacher
from avalanche_vlm.weights.average import snapshot

BASE = ("a red circle", "a blue square", "a small green star", "a large ring on a white ground")


class Painter:
    """A colour for every prompt, with noise from the seed; remembers what it was asked for."""

    def __init__(self, size: int = 32) -> None:
        self.size = size
        self.prompts: list[str] = []

    def __call__(self, prompts, seed: int) -> torch.Tensor:
        self.prompts += prompts
        colours = torch.tensor([[zlib.crc32(p.encode()) >> shift & 127 for shift in (0, 8, 16)] for p in prompts])
        noise = torch.randint(
            128, (len(prompts), 3, self.size, self.size), generator=torch.Generator().manual_seed(seed)
        )
        return (colours[:, :, None, None] + noise).to(torch.uint8)


def naive(model, plugins, kind="classes", strategy=Naive, lr=1e-3, optimizer=torch.optim.AdamW, **options) -> Naive:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EvaluationPlugin(loggers=[])
    return strategy(
        model=model,
        optimizer=optimizer(model.parameters(), lr=lr),
        criterion=criterion_for(kind, model),
        train_mb_size=16,
        plugins=plugins,
        evaluator=evaluator,
        **options,
    )


def gift(model, teacher="previous", prompts=BASE, **options) -> ConsolidatedDistillationPlugin:
    """The recipe's plugin, or the same with the initial teacher."""
    reference = SimpleNamespace(captions=prompts) if prompts else None
    options = {"n": 32, "batch_size": 16, **options}
    (plugin,) = recipes.build("gift", model=model, generator=Painter(), reference=reference, **options)
    if teacher == "previous":
        return plugin
    parts = plugin.loss, plugin.reference, InitialTeacher(), plugin.consolidation
    return ConsolidatedDistillationPlugin(model, *parts)


def started(model, experience, **options):
    """A plugin at the start of an experience, and the strategy that it sees."""
    model.set_label_space(experience.label_space)
    plugin = gift(model, **options)
    strategy = SimpleNamespace(model=model, experience=experience, device=model.device, mb_x=None, mb_y=None)
    plugin.before_training_exp(strategy)
    return plugin, strategy


def everything(plugin) -> Inputs:
    """All pairs of a task as one batch of inputs, each picture and each prompt once."""
    parts = list(plugin.reference.chunks(1000))
    return Inputs(parts[0].images, parts[1].texts, None, torch.arange(32), slice(None))


def disturb(model) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.trainable_parameters().values():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))


def gradients_of(plugin, strategy) -> tuple[float, dict[str, torch.Tensor]]:
    strategy.model.zero_grad()
    strategy.loss = torch.zeros(())
    plugin.before_backward(strategy)
    strategy.loss.backward()
    return strategy.loss.item(), {n: p.grad.clone() for n, p in strategy.model.trainable_parameters().items()}


@pytest.mark.slow
def test_pairs_are_made_of_base_prompts_and_of_the_classes_of_earlier_tasks(random_model, tiny_benchmark):
    plugin = gift(random_model)
    strategy = naive(random_model, [plugin])
    first, second = tiny_benchmark.train_stream
    strategy.train(first)
    assert set(plugin.reference.generator.prompts) == set(BASE) and len(plugin.reference.generator.prompts) == 32
    plugin.reference.generator.prompts.clear()
    strategy.train(second)
    prompts = tiny_benchmark.label_space.prompts()
    old = {prompts[c][0] for c in tiny_benchmark.label_space.tasks[0]}
    assert set(plugin.reference.generator.prompts) == set(BASE) | old


@pytest.mark.slow
def test_without_base_prompts_the_first_task_is_plain_fine_tuning(random_model, tiny_benchmark):
    plain = copy.deepcopy(random_model)
    plugin = gift(random_model, prompts=())
    ends = []
    for model, plugins in ((plain, []), (random_model, [plugin])):
        torch.manual_seed(3)
        strategy = naive(model, plugins)
        strategy.train(tiny_benchmark.train_stream[0])
        ends.append(snapshot(model.state_dict()))
    assert all(torch.equal(value, ends[0][name]) for name, value in ends[1].items())
    assert plugin.reference.generator.prompts == []
    strategy.train(tiny_benchmark.train_stream[1])
    assert len(plugin.reference.generator.prompts) == 32


@pytest.mark.slow
def test_a_pair_streams_captions_are_not_kept(random_model, tiny_pairs):
    plugin = gift(random_model)
    naive(random_model, [plugin], "pairs").train(tiny_pairs.train_stream)
    assert set(plugin.reference.generator.prompts) == set(BASE) and len(plugin.reference.generator.prompts) == 64
    assert plugin.stored().ram == sum(map(len, BASE)) + len(BASE) - 1
    with pytest.raises(InputError, match="made of base prompts, and there are none"):
        naive(random_model, [gift(random_model, prompts=())], "pairs").train(tiny_pairs.train_stream[0])


@pytest.mark.parametrize("teacher", ["previous", "initial"])
def test_a_task_starts_without_a_distillation_gradient(random_model, tiny_benchmark, teacher):
    plugin, strategy = started(random_model, tiny_benchmark.train_stream[0], alignment=0, teacher=teacher)
    loss, gradients = gradients_of(plugin, strategy)
    assert loss > 1  # cross-entropies: the teacher's entropy is their minimum
    assert max(g.abs().max() for g in gradients.values()) < 1e-4
    disturb(random_model)
    assert max(g.abs().max() for g in gradients_of(plugin, strategy)[1].values()) > 1e-2


@pytest.mark.parametrize("consolidation", [0.0, 0.01])
def test_value_and_gradient_equal_those_of_the_definition(random_model, tiny_benchmark, consolidation):
    weights = {"weight": 0.7, "alignment": 0.3, "consolidation": consolidation}
    plugin, strategy = started(random_model, tiny_benchmark.train_stream[0], **weights)
    teacher, start = copy.deepcopy(random_model).eval(), snapshot(random_model.trainable_parameters())
    disturb(random_model)
    inputs = copy.deepcopy(plugin.reference).next(strategy, None)
    value, got = gradients_of(plugin, strategy)

    # The definition, with every prompt encoded for itself and the synthetic batch differentiated twice.
    random_model.zero_grad()
    images, tokens = inputs.images, inputs.texts.tokens[inputs.text_of_image]
    with torch.no_grad():
        taught = teacher.similarity(teacher.encode_image(images), teacher.encode_text(tokens))
    said = random_model.similarity(random_model.encode_image(images), random_model.encode_text(tokens))
    matches = (tokens[:, None] == tokens[None, :]).all(-1)
    assert matches.sum() > 16
    loss = 0.7 * logit_distillation(said, taught, 2.0) + 0.3 * soft_alignment(said, matches, 0.2)
    parameters = random_model.trainable_parameters()
    loss.backward(retain_graph=True)
    penalty = 0.0
    for name, p in parameters.items():
        if p.grad is not None and p.grad.abs().max() > 0:
            importance = p.grad.double() ** 2
            penalty = penalty + (importance / importance.mean() * (p - start[name]) ** 2).sum()
    random_model.zero_grad()
    (loss + consolidation * penalty).backward()
    assert value == pytest.approx((loss + consolidation * penalty).item(), rel=1e-4)
    for name, p in parameters.items():
        scale = p.grad.abs().max().item()
        torch.testing.assert_close(got[name], p.grad, rtol=2e-3, atol=2e-4 * scale, msg=lambda m, n=name: f"{n}: {m}")


def test_a_pass_sees_every_pair_once(random_model, tiny_benchmark):
    plugin, strategy = started(random_model, tiny_benchmark.train_stream[0], batch_size=8)
    seen, following = [], plugin.reference._batches.next
    plugin.reference._batches.next = lambda: seen.append(following()) or seen[-1]
    for _ in range(8):
        gradients_of(plugin, strategy)
    assert sorted(torch.cat(seen[:4]).tolist()) == sorted(torch.cat(seen[4:]).tolist()) == list(range(32))


@pytest.mark.slow
def test_the_teacher_is_the_previous_or_the_initial_model(random_model, tiny_benchmark):
    class Keep(SupervisedPlugin):
        def before_training_iteration(self, strategy, **kwargs) -> None:
            task = strategy.experience.current_experience
            if len(states) == task:
                inputs = everything(plugin)
                side = plugin.teachers[0].side(inputs)
                said.append((inputs, side.images.clone(), side.texts.clone(), side.scale))
                states.append(copy.deepcopy(strategy.model).eval())

    for teacher in ("previous", "initial"):
        said, states = [], []
        model = copy.deepcopy(random_model)
        plugin = gift(model, teacher=teacher)
        naive(model, [plugin, Keep()]).train(tiny_benchmark.train_stream)
        assert len(said) == 2
        expected = states if teacher == "previous" else [states[0], states[0]]
        for (inputs, images, texts, scale), state in zip(said, expected, strict=True):
            with torch.no_grad():
                torch.testing.assert_close(images, state.encode_image(inputs.images), atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(texts, state.encode_text(inputs.texts.tokens), atol=1e-5, rtol=1e-4)
                assert scale == state.scale
        first, _, texts, _ = said[0]
        assert (texts - states[1].encode_text(first.texts.tokens)).abs().max() > 1e-3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(tiny_benchmark):
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        model = tiny_vlm("random")
        naive(model, [gift(model, n=16, batch_size=8)]).train(tiny_benchmark.train_stream)
        ends.append(snapshot(model.state_dict()))
    assert all(torch.equal(value, ends[0][name]) for name, value in ends[1].items())


def test_every_seed_and_task_has_pairs_of_its_own(random_model, tiny_benchmark):
    pixels = [
        started(random_model, tiny_benchmark.train_stream[task], seed=seed)[0].reference.pairs.pixels
        for task, seed in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert [np.array_equal(pixels[0], other) for other in pixels[1:]] == [True, False, False]


@pytest.mark.slow
def test_distillation_keeps_the_similarities_and_consolidation_the_weights(tiny_benchmark):
    model = tiny_vlm()
    images, tokens = model.transforms.eval.from_uint8(Painter()(BASE * 4, 9)), model.tokenize(BASE * 4)

    def trained(optimizer, lr: float, options: dict | None) -> tuple[float, float]:
        """How far the similarities and the weights went in a task."""
        student = copy.deepcopy(model)
        plugins = [] if options is None else [gift(student, **options)]
        torch.manual_seed(1)
        naive(student, plugins, lr=lr, optimizer=optimizer).train(tiny_benchmark.train_stream[0])
        moved = sum((p - q).square().sum() for p, q in zip(student.parameters(), model.parameters(), strict=True))
        said, taught = (m.similarity(m.encode_image(images), m.encode_text(tokens)).detach() for m in (student, model))
        return (logit_distillation(said, taught) - logit_distillation(taught, taught)).item(), moved.item()

    free = trained(torch.optim.SGD, 1e-3, None)
    held = trained(torch.optim.SGD, 1e-3, {"alignment": 0, "consolidation": 0})
    assert held[0] < 0.5 * free[0]
    free = trained(torch.optim.AdamW, 1e-4, {"weight": 0, "consolidation": 0})
    held = trained(torch.optim.AdamW, 1e-4, {"weight": 0, "consolidation": 100})
    assert held[1] < 0.7 * free[1]


def test_it_stores_its_pairs_while_a_task_trains_and_a_few_words_between_tasks(random_model, tiny_benchmark):
    during = []

    class Account(SupervisedPlugin):
        def after_update(self, strategy, **kwargs) -> None:
            during.append(plugin.stored().ram)

    plugin = gift(random_model)
    words = len("\0".join(BASE).encode())
    assert plugin.stored().ram == words
    naive(random_model, [plugin, Account()]).train(tiny_benchmark.train_stream[0])
    assert plugin.stored().ram == words + 8 * len(tiny_benchmark.label_space.tasks[0])
    assert plugin.reference.pairs is None and plugin._anchor == {}
    weights = tensor_bytes(random_model.trainable_parameters().values())
    assert words + weights + 32 * 3 * 32 * 32 < during[0] < words + weights + 32 * 3 * 32 * 32 + 100_000
    assert gift(random_model, teacher="initial").stored().ram > weights


def test_pictures_of_another_size_are_resized(random_model, tiny_benchmark):
    reference = SyntheticPairs(random_model, Painter(size=40), BASE, n=8, batch_size=8)
    random_model.set_label_space(tiny_benchmark.label_space)
    reference.start(SimpleNamespace(model=random_model, experience=tiny_benchmark.train_stream[0]))
    assert reference.pairs.pixels.shape == (8, 3, 32, 32) and reference.pairs.pixels.dtype == np.uint8


def test_a_frozen_tower_gets_no_gradient_and_no_anchor(random_model, tiny_benchmark):
    random_model.freeze("text")
    plugin, strategy = started(random_model, tiny_benchmark.train_stream[0])
    assert set(plugin._anchor) == {f"clip.{name}" for name, _ in random_model.tower_parameters("image")}
    _, gradients = gradients_of(plugin, strategy)
    assert set(gradients) == set(plugin._anchor)
    assert all(p.grad is None for _, p in random_model.tower_parameters("text"))


@pytest.mark.slow
def test_it_runs_in_bfloat16_with_a_trained_scale_and_workers(random_model, tiny_benchmark):
    random_model.unfreeze("scale")
    before = snapshot(random_model.trainable_parameters())
    strategy = naive(random_model, [gift(random_model)], strategy=VLMNaive, amp="bf16", max_grad_norm=1.0)
    strategy.train(tiny_benchmark.train_stream, num_workers=1)
    after = random_model.trainable_parameters()
    assert all(p.isfinite().all() for p in after.values())
    assert not torch.equal(before["clip.logit_scale"], after["clip.logit_scale"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 1}, "recipe gift: n is a whole number from 2 to 1000000, not 1"),
        ({"batch_size": 1}, "recipe gift: batch_size is a whole number from 2 to 1000000, not 1"),
        ({"seed": -1}, "recipe gift: seed is a whole number from 0 to 4294967295, not -1"),
        ({"temperature": 0.0}, "recipe gift: temperature is a number above 0, not 0.0"),
        ({"prompts": "a star"}, "a list of texts, not 'a star'"),
    ],
)
def test_bad_settings_are_refused(random_model, options, message):
    with pytest.raises(InputError, match=message):
        gift(random_model, **options)
