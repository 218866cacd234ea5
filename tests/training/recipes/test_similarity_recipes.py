"""Recipes on similarity matrices, against loops over entries with deep copies as teachers."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from made import tiny

from avalanche_vlm.benchmarks import ImageText
from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.topology import FeatureQueue
from avalanche_vlm.memory import ExemplarMemory
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.training import recipes
from avalanche_vlm.training.criteria import criterion_for
from avalanche_vlm.training.plugins import Comparison, ExemplarReplayPlugin
from avalanche_vlm.training.recipes.regularization.similarity import ctp, dkr, mod_x
from avalanche_vlm.training.teachers.base import Side
from avalanche_vlm.weights.average import snapshot

STREAMS = ("tiny_benchmark", "tiny_pairs")
TAU = 0.07


# Loops ---------------------------------------------------------------------------------------------------------------


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def kl(target: list[float], other: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(target, other, strict=True) if p > 0)


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def transposed(matrix: list[list]) -> list[list]:
    return [list(column) for column in zip(*matrix, strict=True)]


def target_of(new: list[float], old: list[float], right: list[bool], policy: str) -> list[float]:
    """One row of what the student shall imitate."""

    def finds(row: list[float]) -> bool:
        return right[row.index(max(row))]

    if finds(old):
        return softmax(old)
    if policy == "mod-x" or finds(new):
        return softmax(new)
    return [hit / sum(right) for hit in right]


def rectified_kl(new: list[list], old: list[list], right: list[list], policy: str) -> float:
    return mean(kl(target_of(n, o, r, policy), softmax(n)) for n, o, r in zip(new, old, right, strict=True))


def both_ways(new: list[list], old: list[list], right: list[list], policy: str) -> float:
    back = rectified_kl(transposed(new), transposed(old), transposed(right), policy)
    return (rectified_kl(new, old, right, policy) + back) / 2


def cosines(a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> list[list[float]]:
    return (scale * a.double() @ b.double().T).tolist()


def contrast(queries, keys, queue: list, y: list[int], ids: list[int]) -> float:
    """InfoNCE of the queries over the keys of the batch and all that the queue has seen last."""
    losses = []
    for row, identity in zip(cosines(queries, torch.stack([*keys, *queue]), 1 / TAU), y, strict=True):
        hits = [i for i, other in enumerate([*y, *ids]) if other == identity]
        logs = [math.log(p) for p in softmax(row)]
        losses.append(-mean(logs[i] for i in hits))
    return mean(losses)


def topology(new: tuple, old: tuple) -> float:
    """KL of who is near whom: across the modalities in both directions, and within each but for oneself."""
    total = 0.0
    for a, b in ((0, 1), (1, 0), (0, 0), (1, 1)):
        rows = zip(cosines(new[a], new[b], 1 / TAU), cosines(old[a], old[b], 1 / TAU), strict=True)
        for i, (student, teacher) in enumerate(rows):
            if a == b:
                del student[i], teacher[i]
            total += kl(softmax(teacher), softmax(student)) / len(new[0]) / 2
    return total


# Watching a run ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def features(model, strategy) -> tuple[torch.Tensor, torch.Tensor, list[list[bool]]]:
    """Images ``[B, D]``, distinct texts ``[N, D]`` and what belongs together, in this minibatch."""
    x, y = strategy.mb_x, strategy.mb_y
    if isinstance(x, ImageText):
        texts = list({row.tobytes(): row for row in x.tokens.numpy()}.values())
        tokens = torch.stack([torch.from_numpy(row) for row in texts])
        right = [[bool((row == text).all()) for text in tokens] for row in x.tokens]
        return model.encode_image(x.image), Prompts(tokens).encode(model.encode_text), right
    classes = sorted(set(y.tolist()))
    texts = model.prompts(torch.tensor(classes)).encode(model.encode_text)
    return model.encode_image(x), texts, [[label == c for c in classes] for label in y.tolist()]


def paired(images: torch.Tensor, texts: torch.Tensor, right: list[list[bool]]) -> tuple[torch.Tensor, torch.Tensor]:
    return images, texts[[row.index(True) for row in right]]


class Expected(SupervisedPlugin):
    """Stands before a recipe: what it should add to the loss, by a function of this and the strategy."""

    def __init__(self, compute) -> None:
        super().__init__()
        self.compute, self.values, self.task, self.loss = compute, [], -1, 0.0
        self.pushed: list[tuple[torch.Tensor, torch.Tensor, int]] = []  # CTP: image, text, identity

    def before_training_exp(self, strategy, **kwargs) -> None:
        self.task += 1
        self.previous = copy.deepcopy(strategy.model).requires_grad_(False).eval()
        self.momentum = copy.deepcopy(self.previous)

    def before_backward(self, strategy, **kwargs) -> None:
        self.loss = strategy.loss.item()
        self.values.append(self.compute(self, strategy))

    def after_update(self, strategy, **kwargs) -> None:
        last = dict(self.previous.named_parameters())
        now = dict(strategy.model.named_parameters())
        for name, weight in self.momentum.named_parameters():
            if self.task == 0:
                weight.copy_(0.995 * weight + 0.005 * now[name].detach())
            else:
                weight.copy_(0.9 * weight + 0.05 * now[name].detach() + 0.05 * last[name])


class Added(SupervisedPlugin):
    """Stands behind it: what it did add."""

    def __init__(self, expected: Expected) -> None:
        super().__init__()
        self.expected, self.values = expected, []

    def before_backward(self, strategy, **kwargs) -> None:
        self.values.append(strategy.loss.item() - self.expected.loss)


def train(model, benchmark, plugins) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EvaluationPlugin(loggers=[])
    strategy = Naive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        criterion=criterion_for("pairs" if benchmark.label_space is None else "classes", model),
        train_mb_size=16,
        plugins=plugins,
        evaluator=evaluator,
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)


def watched(model, benchmark, plugins, compute, first=()) -> tuple[list[float], list[float], Expected]:
    """What a recipe added and what it should have, in eight steps of two tasks."""
    expected = Expected(compute)
    added = Added(expected)
    train(model, benchmark, [*first, expected, *plugins, added])
    assert len(added.values) == len(expected.values) == 8
    return added.values, expected.values, expected


# Mod-X and DKR -------------------------------------------------------------------------------------------------------


def naive_mod_x(oracle: Expected, strategy) -> float:
    *new, right = features(strategy.model, strategy)
    old = features(oracle.previous, strategy)[:2]
    return 20.0 * len(strategy.mb_y) * both_ways(cosines(*new), cosines(*old), right, "mod-x")


def naive_dkr(oracle: Expected, strategy) -> float:
    *new, right = features(strategy.model, strategy)
    old = features(oracle.previous, strategy)[:2]
    scales = strategy.model.scale.item(), oracle.previous.scale.item()
    return both_ways(cosines(*new, scales[0]), cosines(*old, scales[1]), right, "dkr")


@pytest.mark.slow
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(("recipe", "naive"), [(mod_x, naive_mod_x), (dkr, naive_dkr)], ids=["mod-x", "dkr"])
def test_what_rectified_distillation_adds(random_model, stream, recipe, naive, request):
    added, expected, _ = watched(random_model, request.getfixturevalue(stream), recipe(random_model), naive)
    # The weight times the batch makes of float32's rounding of a mean near zero some 1e-5.
    assert added == pytest.approx(expected, rel=2e-3, abs=3e-5)
    # In a task's first step the student is the teacher: Mod-X has nothing to say, DKR what neither of them knows.
    assert all((abs(value) < 2e-5) == (recipe is mod_x and step % 4 == 0) for step, value in enumerate(added))


@pytest.mark.parametrize("recipe", [mod_x, dkr])
def test_rectified_distillation_has_a_weight_and_a_temperature(random_model, recipe):
    drawn = torch.randn(3, 6, 8)
    # Some rows of the old model are right, some wrong.
    images, texts, old_images, old_texts = torch.nn.functional.normalize(
        torch.cat([drawn, drawn[2:] + torch.randn(6, 8)]), dim=2
    )
    scale, order = torch.tensor(5.0), torch.arange(6)

    def side(i, t):
        return Side(lambda: i, lambda: t, scale, order)

    seen = Comparison(side(images, texts), (side(old_images, old_texts),), 0, order, order)
    loss = recipe(random_model, weight=3.0, temperature=0.5)[0].loss(seen).item()
    scale_of, times = (1.0, 6) if recipe is mod_x else (5.0, 1)
    new, old = cosines(images, texts, scale_of / 0.5), cosines(old_images, old_texts, scale_of / 0.5)
    policy = "mod-x" if recipe is mod_x else "dkr"
    assert loss == pytest.approx(3.0 * times * both_ways(new, old, torch.eye(6).bool().tolist(), policy), rel=1e-4)


# CTP -----------------------------------------------------------------------------------------------------------------


def naive_ctp(size: int):
    def compute(oracle: Expected, strategy) -> float:
        new, old, momentum = (
            paired(*features(m, strategy)) for m in (strategy.model, oracle.previous, oracle.momentum)
        )
        y = strategy.mb_y.tolist()
        queue = oracle.pushed[-size:]
        ids = [identity for _, _, identity in queue]
        there = contrast(new[0], momentum[1], [text for _, text, _ in queue], y, ids)
        back = contrast(new[1], momentum[0], [image for image, _, _ in queue], y, ids)
        oracle.pushed += zip(*momentum, y, strict=True)
        return (there + back) / 2 + (topology(new, old) if oracle.task else 0.0)

    return compute


@pytest.mark.slow
@pytest.mark.parametrize(("stream", "size"), [("tiny_pairs", 24), ("tiny_pairs", 100), ("tiny_benchmark", 40)])
def test_what_ctp_adds_and_what_its_queue_holds(random_model, stream, size, request):
    plugins = ctp(random_model, queue=size)
    added, expected, oracle = watched(random_model, request.getfixturevalue(stream), plugins, naive_ctp(size))
    assert added == pytest.approx(expected, rel=1e-4)
    found, ids = plugins[0].loss.queue.entries()
    last = oracle.pushed[-size:]
    assert ids.tolist() == [identity for *_, identity in last]
    torch.testing.assert_close(found, torch.stack([torch.cat(pair[:2]) for pair in last]), atol=1e-5, rtol=0)
    # After two tasks of 64 pairs a queue of 100 still holds the first task's; it is the only thing that is kept.
    width = found.shape[1]
    assert plugins[0].stored().ram == size * (4 * width + 8) + plugins[0].reference.stored().ram


@pytest.mark.slow
def test_replayed_pairs_are_pairs_like_others(random_model, tiny_benchmark):
    replay = ExemplarReplayPlugin(random_model, ExemplarMemory(8 * 3100), batch_size=4)
    plugins = ctp(random_model, queue=40)
    added, expected, oracle = watched(random_model, tiny_benchmark, plugins, naive_ctp(40), first=[replay])
    assert added == pytest.approx(expected, rel=1e-4)
    assert len(oracle.pushed) == 4 * 16 + 4 * 20


def leaves(*shape: int) -> list[torch.Tensor]:
    return [torch.nn.functional.normalize(torch.randn(*shape), dim=1).requires_grad_() for _ in range(2)]


def seen_by(student, previous, momentum, past: int = 1) -> Comparison:
    order = torch.arange(len(student[0]))
    sides = [Side(lambda f=f: f[0], lambda f=f: f[1], torch.tensor(10.0), order) for f in (student, previous, momentum)]
    return Comparison(sides[0], tuple(sides[1:]), past, order, order)


def test_neither_teachers_nor_the_queue_get_gradients(random_model):
    loss = ctp(random_model, queue=8)[0].loss
    loss.queue = FeatureQueue(8, 2 * 4)
    first = [leaves(5, 4) for _ in range(3)]
    loss(seen_by(*first)).backward()
    assert not loss.queue.features.requires_grad
    student, previous, momentum = (leaves(5, 4) for _ in range(3))
    before = [x.grad.clone() for x in first[0]]
    loss(seen_by(student, previous, momentum)).backward()
    assert all((x.grad.abs() > 0).any() for x in student)
    assert all(x.grad is None for x in (*previous, *momentum, *first[1], *first[2]))
    assert all(torch.equal(x.grad, old) for x, old in zip(first[0], before, strict=True))


def test_the_queue_keeps_what_was_pushed_and_not_what_became_of_it(random_model):
    loss = ctp(random_model, queue=8)[0].loss
    loss.queue = FeatureQueue(8, 2 * 4)
    momentum = [x.detach() for x in leaves(3, 4)]
    pushed = torch.cat(momentum, dim=1).clone()
    loss(seen_by(leaves(3, 4), leaves(3, 4), momentum))
    for x in momentum:
        x.zero_()
    assert torch.equal(loss.queue.entries()[0], pushed)


def test_the_first_task_does_not_ask_the_previous_model(random_model):
    def never() -> torch.Tensor:
        raise AssertionError

    student, momentum = leaves(5, 4), leaves(5, 4)
    seen = seen_by(student, student, momentum, past=0)
    unasked = Side(never, never, torch.tensor(10.0), seen.text_of_image)
    loss = ctp(random_model, contrast=2.0, topology=7.0)[0].loss
    loss.queue = FeatureQueue(8, 2 * 4)
    value = loss(Comparison(seen.student, (unasked, seen.teachers[1]), 0, seen.text_of_image, seen.y))
    y = list(range(5))
    there, back = contrast(student[0], momentum[1], [], y, []), contrast(student[1], momentum[0], [], y, [])
    assert value.item() == pytest.approx(there + back, rel=1e-5)


def test_each_of_ctps_losses_has_its_weight(random_model):
    sides = [leaves(5, random_model.width) for _ in range(3)]
    values = [
        ctp(random_model, contrast=a, topology=b)[0].loss(seen_by(*sides)).item() for a, b in ((1, 0), (0, 1), (2, 3))
    ]
    assert values[1] == pytest.approx(topology(*sides[:2]), rel=1e-4)
    assert values[2] == pytest.approx(2 * values[0] + 3 * values[1], rel=1e-5)


def test_half_precision_around_it_does_not_round_ctps_cosines(random_model):
    sides = [leaves(5, random_model.width) for _ in range(3)]
    exact = ctp(random_model)[0].loss(seen_by(*sides))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ctp(random_model)[0].loss(seen_by(*sides)), exact)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.5}, "compatible momentum lies in .0, 1., not 1.5"),
        ({"first_decay": -1.0}, "moving average lies in .0, 1., not -1"),
    ],
)
def test_wrong_options_are_named(random_model, options, message):
    with pytest.raises(InputError, match=message):
        ctp(random_model, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue": 0}, "recipe ctp: queue is a whole number from 1 to 1000000, not 0"),
        ({"decay": 1.5}, "recipe ctp: decay is a number from 0 to 1, not 1.5"),
        ({"first_decay": -1.0}, "recipe ctp: first_decay is a number from 0 to 1, not -1.0"),
    ],
)
def test_the_recipe_refuses_them_by_name(random_model, options, message):
    with pytest.raises(InputError, match=message):
        recipes.build("ctp", model=random_model, **options)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [mod_x, dkr, ctp])
def test_between_tasks_no_weights_are_kept(tiny_pairs, recipe):
    model = tiny("random")  # of a narrow one CTP's projector would be no small part
    plugins = recipe(model)
    train(model, tiny_pairs, plugins)
    weights = sum(w.nbytes for w in snapshot(model.trainable_parameters()).values())
    assert sum(plugin.stored().ram for plugin in plugins) < weights / 4
    assert all(teacher.stored().ram == 0 for teacher in plugins[0].teachers)
