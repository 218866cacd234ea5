"""EWC as a plugin."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mini import mini
from recording import Recorder, naive

from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.fisher import accumulate
from avalanche_vlm.losses.penalty import quadratic_penalty
from avalanche_vlm.memory import tensor_bytes
from avalanche_vlm.memory.draws import Draws
from avalanche_vlm.training.plugins import FisherPenaltyPlugin
from avalanche_vlm.weights.average import snapshot


def small() -> torch.nn.Module:
    """A model of which one layer norm and one projection train: few enough to differentiate sample by sample."""
    torch.manual_seed(0)
    model = mini()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("resblocks.0.ln_1" in name or name.endswith("visual.proj"))
    return model


@pytest.fixture
def first(tiny_benchmark):
    return tiny_benchmark.train_stream[0]


def whole(experience) -> tuple[torch.Tensor, ...]:
    return tuple(
        torch.stack([torch.as_tensor(part) for part in column])
        for column in zip(*experience.dataset.eval(), strict=True)
    )


@pytest.mark.slow
def test_the_empirical_fisher_is_the_mean_of_squared_gradients(first):
    model = small()
    plugin = FisherPenaltyPlugin(kind="empirical", samples=1000, batch_size=7)
    naive(model, [plugin], epochs=1).train(first)
    x, y, task = whole(first)
    trainable = model.eval().trainable_parameters()
    expected = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in trainable.items()}
    for i in range(len(y)):
        loss = F.cross_entropy(model(x[i : i + 1], task[i : i + 1]), y[i : i + 1])
        for name, gradient in zip(trainable, torch.autograd.grad(loss, list(trainable.values())), strict=True):
            expected[name] += gradient.double() ** 2 / len(y)
    assert set(plugin.fisher) == set(trainable)
    for name, fisher in plugin.fisher.items():
        torch.testing.assert_close(fisher.double(), expected[name], rtol=1e-3, atol=1e-10)
    assert plugin.stored().ram == 2 * tensor_bytes(trainable.values())


def test_predicted_labels_are_those_that_the_model_finds_likeliest(first):
    model = small().set_label_space(first.label_space)
    plugin = FisherPenaltyPlugin(kind="predicted", samples=6, batch_size=4, seed=0)
    strategy = naive(model, [], epochs=1)
    strategy.experience = first
    plugin.after_training_exp(strategy)
    x, _, task = whole(first)
    trainable = model.eval().trainable_parameters()
    chosen = torch.randperm(len(x), generator=Draws(0).next())[:6]
    expected = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in trainable.items()}
    for i in chosen.tolist():
        logits = model(x[i : i + 1], task[i : i + 1])
        loss = -logits.log_softmax(1).max()  # the likeliest class's
        for name, gradient in zip(trainable, torch.autograd.grad(loss, list(trainable.values())), strict=True):
            expected[name] += gradient.double() ** 2 / 6
    for name, fisher in plugin.fisher.items():
        torch.testing.assert_close(fisher.double(), expected[name], rtol=1e-3, atol=1e-10)


def test_half_of_each_importance_is_a_decay_of_a_half_at_half_the_weight():
    """MagMax's rule, half the old and half the new, beside ours."""
    theirs, ours = torch.zeros(3), {}
    for new in torch.rand(4, 3):
        theirs = 0.5 * theirs + 0.5 * new
        ours = accumulate(ours, {"w": new}, decay=0.5)
    torch.testing.assert_close(0.5 * ours["w"], theirs)


@pytest.mark.slow
def test_the_true_fisher_asks_the_model_and_not_the_labels(first):
    found = {}
    for seed in range(2):
        for kind in ("true", "empirical"):
            plugin = FisherPenaltyPlugin(kind=kind, samples=1000, seed=seed)
            torch.manual_seed(0)
            model = small().set_label_space(first.label_space)
            strategy = naive(model, [], epochs=1)
            strategy.experience = first
            plugin.after_training_exp(strategy)
            found[kind, seed] = torch.cat([f.flatten() for f in plugin.fisher.values()])
    # All samples count, so only what is drawn from the model depends on the seed.
    torch.testing.assert_close(found["empirical", 0], found["empirical", 1], rtol=1e-3, atol=1e-10)
    assert (found["true", 0] - found["true", 1]).norm() > 1e-2 * found["true", 0].norm()
    assert (found["true", 0] - found["empirical", 0]).norm() > 1e-2 * found["true", 0].norm()


@pytest.mark.slow
def test_the_penalty_starts_at_zero_and_is_half_the_quadratic_form(tiny_benchmark):
    model = small()
    plugin = FisherPenaltyPlugin(weight=6.0, samples=16)
    before = Recorder("before_backward", lambda s: s.loss.item())
    after = Recorder("before_backward", lambda s: s.loss.item())
    weights = Recorder("before_backward", lambda s: snapshot(s.model.trainable_parameters()))
    strategy = naive(model, [before, plugin, after, weights])
    first, second = tiny_benchmark.train_stream
    strategy.train(first)
    steps = len(before.values)
    assert before.values == after.values  # nothing is known yet
    fisher, anchor = snapshot(plugin.fisher), snapshot(plugin.anchor)
    strategy.train(second)
    assert after.values[steps] == pytest.approx(before.values[steps], abs=1e-7)
    for step in range(steps + 1, len(before.values)):
        expected = 3.0 * quadratic_penalty(weights.values[step], anchor, fisher).item()
        assert expected > 0 and after.values[step] - before.values[step] == pytest.approx(expected, rel=1e-2, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("decay", [1.0, 0.25])
def test_fishers_add_up_and_fade_and_the_anchor_moves_on(tiny_benchmark, decay):
    model = small()
    plugin = FisherPenaltyPlugin(weight=0.0, samples=8, decay=decay, seed=3)
    alone = FisherPenaltyPlugin(weight=0.0, samples=8, decay=0.0, seed=3)
    strategy = naive(model, [plugin, alone])
    first, second = tiny_benchmark.train_stream
    strategy.train(first)
    old = snapshot(plugin.fisher)
    strategy.train(second)
    for name, new in alone.fisher.items():
        torch.testing.assert_close(plugin.fisher[name], decay * old[name] + new)
        assert torch.equal(plugin.anchor[name], model.trainable_parameters()[name])


@pytest.mark.slow
def test_what_matters_moves_less(tiny_benchmark):
    moved = {}
    for weight in (0.0, 1e6):
        model = small()
        plugin = FisherPenaltyPlugin(weight=weight, samples=64)
        strategy = naive(model, [plugin], epochs=2)
        first, second = tiny_benchmark.train_stream
        strategy.train(first)
        fisher, anchor = snapshot(plugin.fisher), snapshot(plugin.anchor)
        strategy.train(second)
        moved[weight] = quadratic_penalty(model.trainable_parameters(), anchor, fisher).item()
    assert moved[1e6] < 0.5 * moved[0.0]


@pytest.mark.slow
def test_on_pairs_a_text_is_told_apart_from_the_others_of_its_batch(tiny_pairs):
    model = small()
    plugin = FisherPenaltyPlugin(kind="empirical", samples=1000, batch_size=1000)
    strategy = naive(model, [])
    strategy.experience = tiny_pairs.train_stream[0]
    plugin.after_training_exp(strategy)
    samples = [x for x, *_ in strategy.experience.dataset.eval()]
    tokens = torch.stack([x.tokens for x in samples])
    texts, own = torch.unique(tokens, dim=0, return_inverse=True)
    expected = dict.fromkeys(plugin.fisher, 0.0)
    trainable = model.eval().trainable_parameters()
    for x, right in zip(samples, own, strict=True):
        logits = model.similarity(model.encode_image(x.image[None]), model.encode_text(texts))
        gradients = torch.autograd.grad(F.cross_entropy(logits, right[None]), list(trainable.values()))
        for name, gradient in zip(trainable, gradients, strict=True):
            expected[name] += gradient.square() / len(samples)
    for name, fisher in plugin.fisher.items():
        torch.testing.assert_close(fisher, expected[name], rtol=1e-3, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "both"}, "is true, empirical, predicted, not 'both'"),
        ({"weight": -1.0}, "0 or more, not -1.0"),
        ({"weight": float("nan")}, "0 or more, not nan"),
        ({"decay": 1.5}, r"lies in \[0, 1\], not 1.5"),
        ({"samples": 0}, "samples"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(InputError, match=message):
        FisherPenaltyPlugin(**options)
