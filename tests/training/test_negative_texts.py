"""Negative texts in a training run."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from torch.utils.data import ConcatDataset, Dataset, Subset

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.picturebook.scenes import NAMES
from avalanche_vlm.benchmarks.scenario import PairDataset, VLMBenchmark, as_experience_data
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import ExemplarMemory, StoredBytes
from avalanche_vlm.memory.draws import Draws
from avalanche_vlm.memory.negatives import perturb_captions, vocabulary_from
from avalanche_vlm.models import create_vlm
from avalanche_vlm.training import VLMNaive, criterion_for
from avalanche_vlm.training.data import images_of
from avalanche_vlm.training.plugins import ExemplarReplayPlugin, negatives
from avalanche_vlm.training.plugins.negatives import NegativeTextPlugin, captions_of, negative_text_loss

WORDS = vocabulary_from(list(NAMES.values()))
SMALL = {"n_train": 32, "n_test": 10, "n_held_out": 10, "n_reference": 4}


@pytest.fixture(scope="module")
def streams():
    """Two tasks of each kind, two minibatches long."""
    return {
        "classes": picturebook.mtil_like(order=["sketches", "night"], **SMALL),
        "pairs": picturebook.pairs(domains=("sketch", "night"), **SMALL),
    }


class Probe(SupervisedPlugin):
    """What comes out of a function of the strategy before each backward pass."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.values: list = []

    def before_backward(self, strategy, **kwargs) -> None:
        self.values.append(self.function(strategy))


def strategy_of(model, benchmark, plugins, kind=Naive, lr=1e-3, epochs=1, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EvaluationPlugin(loggers=[])
    return kind(
        model=model,
        optimizer=torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr),
        criterion=criterion_for(benchmark.kind, model),
        train_mb_size=16,
        train_epochs=epochs,
        eval_mb_size=64,
        plugins=plugins,
        evaluator=evaluator,
        **options,
    )


def added_by(plugin) -> tuple[Probe, Probe]:
    """Probes to stand around a plugin: the loss before and after it."""
    return Probe(lambda s: s.loss.item()), Probe(lambda s: s.loss.item())


def unit(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def by_hand(images, true, negatives, mask, scale) -> float:
    losses = []
    for i in range(len(images)):
        logits = [scale * float(images[i] @ true[i])]
        logits += [scale * float(images[i] @ negatives[i, j]) for j in range(mask.shape[1]) if mask[i, j]]
        if len(logits) > 1:
            losses.append(math.log(sum(math.exp(v - logits[0]) for v in logits)))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize(("b", "n", "share"), [(1, 1, 1.0), (7, 3, 0.6), (5, 4, 0.2), (3, 2, 0.0)])
def test_the_loss_is_that_of_a_naive_loop(b, n, share):
    images, true, negatives, mask = unit(b, 6), unit(b, 6), unit(b, n, 6), torch.rand(b, n) < share
    loss = negative_text_loss(images, true, negatives, mask, 20.0)
    assert loss.item() == pytest.approx(by_hand(images, true, negatives, mask, 20.0), rel=1e-9, abs=1e-12)


def test_the_gradients_of_the_loss_are_right_and_finite():
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    inputs = [unit(3, 4).requires_grad_(), unit(3, 4).requires_grad_(), unit(3, 2, 4).requires_grad_()]
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda i, t, n, s: negative_text_loss(i, t, n, mask, s), (*inputs, scale))
    negative_text_loss(*inputs, mask, scale).backward()
    assert (inputs[0].grad[1] == 0).all() and (inputs[2].grad[~mask] == 0).all()
    assert inputs[0].grad[0].abs().max() > 0 and scale.grad.isfinite()


@pytest.mark.parametrize("stream", ["classes", "pairs"])
def test_the_plugin_adds_the_loss_of_the_texts_own_negatives(random_model, streams, stream):
    benchmark = streams[stream]
    plugin = NegativeTextPlugin(random_model, WORDS, n=3, weight=2.0, seed=5)
    before, after = added_by(plugin)
    batches = Probe(lambda s: (copy.deepcopy(s.model), s.mbatch[0].clone(), s.mbatch[1].clone()))
    strategy = strategy_of(random_model, benchmark, [before, plugin, after, batches])
    strategy.train(benchmark.train_stream[0])
    assert len(batches.values) == 2
    draws = Draws(5)
    for start, end, (model, x, y) in zip(before.values, after.values, batches.values, strict=True):
        if stream == "classes":
            ids = {i: benchmark.label_space.prompts()[i][0] for i in sorted(set(y.tolist()))}
        else:
            texts = {int(c): model.tokenizer.decode(tokens) for c, tokens in zip(y, x.tokens, strict=True)}
            ids = dict(sorted(texts.items()))
        drawn = dict(zip(ids, perturb_captions(list(ids.values()), WORDS, 3, draws.next()), strict=True))
        losses = []
        with torch.no_grad():
            for image, i in zip(images_of(x), y.tolist(), strict=True):
                assert len(drawn[i]) == 3
                texts = model.encode_text(model.tokenize([ids[i], *drawn[i]]))
                logits = model.scale * texts @ model.encode_image(image[None])[0]
                losses.append(-logits.log_softmax(0)[0].item())
        assert end - start == pytest.approx(2 * sum(losses) / len(losses), abs=1e-4)
    assert plugin._texts is None and plugin.stored() == StoredBytes()


def test_images_come_to_prefer_their_captions(streams):
    # The shipped model in a style that it never saw, trained by nothing but the negatives.
    model = create_vlm("tiny")
    plugin = NegativeTextPlugin(model, WORDS, n=3, weight=1.0)
    silence = SupervisedPlugin()
    silence.before_backward = lambda strategy, **kwargs: setattr(strategy, "loss", 0 * strategy.loss)
    losses = Probe(lambda s: s.loss.item())
    strategy = strategy_of(model, streams["pairs"], [silence, plugin, losses], epochs=6, lr=3e-4)
    strategy.train(streams["pairs"].train_stream[1])
    assert sum(losses.values[-2:]) < 0.5 * sum(losses.values[:2])


def images_per_loss(monkeypatch) -> list[int]:
    """A list that grows with every loss: how many images it is about."""
    sizes = []

    def spy(images: torch.Tensor, *rest) -> torch.Tensor:
        sizes.append(len(images))
        return negative_text_loss(images, *rest)

    monkeypatch.setattr(negatives, "negative_text_loss", spy)
    return sizes


@pytest.mark.parametrize("given", [False, True])
def test_replayed_pairs_are_left_out_unless_their_captions_are_given(random_model, streams, monkeypatch, given):
    first, second = streams["pairs"].train_stream
    new = captions_of(second.dataset)
    plugin = NegativeTextPlugin(random_model, WORDS, n=1, captions=captions_of(first.dataset) | new if given else None)
    replay = ExemplarReplayPlugin(random_model, ExemplarMemory(1 << 20), batch_size=8)
    known = Probe(lambda s: sum(i in new for i in s.mb_y.tolist()))
    strategy = strategy_of(random_model, streams["pairs"], [replay, known, plugin])
    strategy.train(first)
    known.values.clear()
    sizes = images_per_loss(monkeypatch)
    strategy.train(second)
    assert all(16 <= n < 24 for n in known.values)
    assert sizes == ([24, 24] if given else known.values)


def test_replayed_classes_of_earlier_tasks_are_known(random_model, streams, monkeypatch):
    plugin = NegativeTextPlugin(random_model, WORDS, n=1)
    replay = ExemplarReplayPlugin(random_model, ExemplarMemory(1 << 20), batch_size=8)
    strategy = strategy_of(random_model, streams["classes"], [replay, plugin])
    strategy.train(streams["classes"].train_stream[0])
    sizes = images_per_loss(monkeypatch)
    strategy.train(streams["classes"].train_stream[1])
    assert sizes == [24] * 2


def test_every_distinct_text_is_encoded_once_per_step(random_model, streams):
    plugin = NegativeTextPlugin(random_model, {"circle": ("square", "triangle"), "square": ("circle",)}, n=4)
    strategy = strategy_of(random_model, streams["classes"], [plugin])
    counts, encode = [], random_model.encode_text
    random_model.encode_text = lambda tokens: counts.append(tokens) or encode(tokens)
    strategy.train(streams["classes"].train_stream[0])
    own = [tokens for tokens in counts if len(tokens) <= 3]
    assert own
    assert all(len(torch.unique(tokens, dim=0)) == len(tokens) for tokens in own)


@pytest.mark.parametrize("stream", ["classes", "pairs"])
def test_frozen_towers_get_no_gradient_and_the_scale_a_finite_one(random_model, streams, stream):
    benchmark = streams[stream]
    random_model.freeze("text").unfreeze("scale")
    start = {name: p.clone() for name, p in random_model.named_parameters()}
    # One alternative against n = 4: most columns of the table are masked.
    plugin = NegativeTextPlugin(random_model, dict.fromkeys(NAMES["object"], ("letter a",)))
    strategy_of(random_model, benchmark, [plugin]).train(benchmark.train_stream[0])
    assert all(torch.equal(p, start[f"clip.{n}"]) for n, p in random_model.tower_parameters("text"))
    assert all(p.isfinite().all() for p in random_model.parameters())
    assert any(not torch.equal(p, start[f"clip.{n}"]) for n, p in random_model.tower_parameters("image"))
    assert not torch.equal(random_model.clip.logit_scale, start["clip.logit_scale"])


@pytest.mark.parametrize("stream", ["classes", "pairs"])
@pytest.mark.parametrize(("kind", "options"), [(Naive, {}), (VLMNaive, {"amp": "bf16"})])
def test_it_runs_with_workers_and_under_autocast(random_model, streams, stream, kind, options):
    benchmark = streams[stream]
    plugin = NegativeTextPlugin(random_model, WORDS, n=1)
    before, after = added_by(plugin)
    strategy = strategy_of(random_model, benchmark, [before, plugin, after], kind, **options)
    strategy.train(benchmark.train_stream, num_workers=1)
    assert len(after.values) == 4
    assert all(b > a and math.isfinite(b) for a, b in zip(before.values, after.values, strict=True))


def test_the_same_seed_trains_the_same_model(random_model, streams):
    models = []
    for seed in (1, 1, 2):
        model = copy.deepcopy(random_model)
        torch.manual_seed(0)
        strategy = strategy_of(model, streams["pairs"], [NegativeTextPlugin(model, WORDS, n=1, seed=seed)])
        strategy.train(streams["pairs"].train_stream[0])
        models.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(models[0], models[1]) and not torch.equal(models[0], models[2])


def test_negatives_that_the_tokenizer_cannot_tell_apart_add_nothing(random_model, streams):
    tokenizer = random_model.tokenizer
    random_model.tokenizer = lambda texts: tokenizer([text.split()[0] for text in texts])
    plugin = NegativeTextPlugin(random_model, WORDS)
    before, after = added_by(plugin)
    strategy_of(random_model, streams["classes"], [before, plugin, after]).train(streams["classes"].train_stream[0])
    assert before.values == after.values


def test_a_task_without_a_known_phrase_is_warned_about_and_trains_as_without(random_model, streams):
    plugin = NegativeTextPlugin(random_model, {"zebra": ("horse",)})
    before, after = added_by(plugin)
    strategy = strategy_of(random_model, streams["classes"], [before, plugin, after])
    with pytest.warns(UserWarning, match="no negative texts in experience 0: none of its first 19 texts, such as 'a "):
        strategy.train(streams["classes"].train_stream[0])
    assert before.values == after.values


class Unlabelled(Dataset):
    """Pairs whose captions are tokens only."""

    targets = (0, 1) * 8

    def __init__(self, model) -> None:
        self.samples = [
            ImageText(torch.randn(3, 32, 32), model.tokenizer([f"a {name} shape"])[0]) for name in ("red", "blue")
        ]

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int):
        return self.samples[index % 2], index % 2


def test_pairs_of_tokens_only_need_captions(random_model):
    data = as_experience_data(Unlabelled(random_model), None, None)
    benchmark = VLMBenchmark("tokens", "pairs", [data], [data], task_names=["only"])
    with pytest.raises(InputError, match=r"captions of experience 0 cannot be read.*give NegativeTextPlugin captions"):
        plugin = NegativeTextPlugin(random_model, WORDS)
        strategy_of(random_model, benchmark, [plugin]).train(benchmark.train_stream[0])
    plugin = NegativeTextPlugin(random_model, WORDS, captions={0: "a red shape", 1: "a blue shape"})
    before, after = added_by(plugin)
    strategy_of(random_model, benchmark, [before, plugin, after]).train(benchmark.train_stream[0])
    assert after.values[0] > before.values[0]


def test_captions_are_found_however_a_data_set_was_joined_and_split(streams):
    first, second = (experience.dataset for experience in streams["pairs"].train_stream)
    known = [captions_of(data) for data in (first, second)]
    assert all(len(captions) == 32 for captions in known) and known[0] != known[1]
    for data in (first, first.eval(), first.subset(range(5)), AvalancheDataset([first]), Subset(first, [3])):
        assert known[0].items() >= captions_of(data).items() and captions_of(data)
    for data in (first.concat(second), ConcatDataset([first, Subset(second, range(9))])):
        assert captions_of(data) == known[0] | known[1]
    assert captions_of([1, 2]) == {} == captions_of(AvalancheDataset([]))
    pairs = PairDataset(torch.zeros(3, 3, 2, 2), ["a", "b", "a"])
    assert captions_of(pairs) == {0: "a", 1: "b"}


@pytest.mark.parametrize(
    ("alternatives", "options", "message"),
    [
        ({}, {}, "need alternatives"),
        ({"red": ()}, {}, "need alternatives"),
        (WORDS, {"n": 0}, "1 or more, not 0"),
        (WORDS, {"weight": -1.0}, "0 or more, not -1"),
    ],
)
def test_bad_settings(random_model, alternatives, options, message):
    with pytest.raises(InputError, match=message):
        NegativeTextPlugin(random_model, alternatives, **options)
