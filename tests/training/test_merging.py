"""Weights that are mended when a task is over, in Avalanche's own ``Naive``."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from live import Live
from made import tiny as tiny_vlm
from torch import nn

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import tensor_bytes
from avalanche_vlm.training import criterion_for, recipes
from avalanche_vlm.training.plugins import RunningMeanPlugin
from avalanche_vlm.training.plugins.merging import InterpolationPlugin, TaskVectorMergePlugin
from avalanche_vlm.training.recipes.fusion.merging import magmax, ties
from avalanche_vlm.weights import task_vectors
from avalanche_vlm.weights.average import interpolate, snapshot

METHODS = ("magmax", "average", "random", "ties")


class Recorder(SupervisedPlugin):
    """Keeps what trains, as it is at a callback."""

    def __init__(self, callback: str) -> None:
        super().__init__()
        self.values: list[dict[str, torch.Tensor]] = []
        setattr(self, callback, lambda strategy, **kwargs: self.values.append(trainable(strategy)))


class Calls(SupervisedPlugin):
    """Does something at a callback."""

    def __init__(self, callback: str, function) -> None:
        super().__init__()
        setattr(self, callback, lambda strategy, **kwargs: function(strategy))


def trainable(strategy) -> dict[str, torch.Tensor]:
    return snapshot({n: p for n, p in strategy.model.named_parameters() if p.requires_grad})


def naive(model, plugins, kind="classes") -> Naive:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EvaluationPlugin(loggers=[])
    return Naive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        criterion=criterion_for(kind, model),
        train_mb_size=16,
        plugins=plugins,
        evaluator=evaluator,
    )


def train(benchmark, plugins, freeze=(), kind="classes"):
    """The strategy after the stream, and what it had trained by the end of every task."""
    torch.manual_seed(0)
    strategy, after = naive(tiny_vlm("random").freeze(*freeze), plugins, kind), []
    for experience in benchmark.train_stream:
        strategy.train(experience)
        after.append(trainable(strategy))
    return strategy, after


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def three_tasks():
    order = ["sketches", "night", "fabrics"]
    return picturebook.mtil_like(n_train=32, n_test=8, order=order, n_held_out=8, n_reference=8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "pairs"])
def test_wise_ft_ends_between_start_and_end(tiny_benchmark, tiny_pairs, kind):
    starts, ends = Recorder("before_training_exp"), Recorder("after_training_exp")
    plugin = InterpolationPlugin(0.75)
    _, after = train(tiny_benchmark if kind == "classes" else tiny_pairs, [starts, ends, plugin], kind=kind)
    for start, end, mended in zip(starts.values, ends.values, after, strict=True):
        assert equal(mended, interpolate(start, end, 0.75))
    assert equal(starts.values[1], after[0]) and plugin.stored().ram == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_merges_are_those_of_the_pure_functions(three_tasks, method):
    plugin = TaskVectorMergePlugin(method, scale=0.6, keep=0.3, seed=5)
    starts, ends = Recorder("before_training_exp"), Recorder("after_training_exp")
    _, after = train(three_tasks, [starts, ends, plugin])
    initial = starts.values[0]
    vectors = [task_vectors.task_vector(end, initial) for end in ends.values]
    merge = {
        "magmax": task_vectors.magmax,
        "average": task_vectors.average,
        "ties": lambda seen: task_vectors.ties(seen, 0.3),
        "random": lambda seen: task_vectors.random_mix(seen, torch.Generator().manual_seed(5)),
    }[method]
    for task in range(3):
        merged = merge(vectors[: task + 1])
        got = task_vectors.task_vector(after[task], initial)
        for name, vector in merged.items():
            wrong = ~torch.isclose(got[name], 0.6 * vector, atol=5e-7, rtol=1e-5)
            if method == "magmax":  # opposite changes of the same size, but for rounding
                wrong &= ~torch.isclose(got[name].abs(), 0.6 * vector.abs(), atol=5e-7, rtol=1e-5)
            assert not wrong.any(), (task, name)
    # Training goes on from where it ended, bit by bit, and every plugin sees that: this one is behind the recorder.
    for task in range(2):
        assert equal(starts.values[task + 1], ends.values[task]) and not equal(after[task], ends.values[task])


@pytest.mark.slow
def test_what_trains_is_what_plain_fine_tuning_trains(three_tasks):
    plain, merged = Recorder("after_training_exp"), Recorder("after_training_exp")
    train(three_tasks, [plain])
    train(three_tasks, [merged, TaskVectorMergePlugin()])
    assert all(equal(a, b) for a, b in zip(plain.values, merged.values, strict=True))


def test_predictions_between_tasks_are_the_merged_models(three_tasks):
    starts, ends = Recorder("before_training_exp"), Recorder("after_training_exp")
    strategy, _ = train(three_tasks, [starts, ends, TaskVectorMergePlugin("average")])
    model, initial = strategy.model.eval(), starts.values[0]
    images = torch.randn(4, 3, 32, 32)
    vectors = [task_vectors.task_vector(end, initial) for end in ends.values]
    expected = copy.deepcopy(model).set_label_space(model.label_space)  # with an empty cache of prompts
    state = task_vectors.apply(initial, task_vectors.average(vectors))
    expected.load_state_dict(state, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(model(images, 0), expected(images, 0), atol=1e-3, rtol=1e-4)
        expected.load_state_dict(ends.values[-1], strict=False)
        assert (model(images, 0) - expected(images, 0)).abs().max() > 0.1


def tensors(found) -> Iterator[torch.Tensor]:
    """All that hang on an object."""
    if isinstance(found, torch.Tensor):
        yield found
    for part in found if isinstance(found, (list, tuple)) else getattr(found, "__dict__", {}).values():
        yield from tensors(list(part.values()) if isinstance(part, dict) else part)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_copies_of_what_trains_and_the_sums_of_ties(three_tasks, method):
    plugin = TaskVectorMergePlugin(method)
    while_training = []
    strategy, after = train(
        three_tasks, [plugin, Calls("after_update", lambda _: while_training.append(list(tensors(plugin))))], ("text",)
    )
    assert all(name.startswith("clip.visual.") for name in after[0])
    one = tensor_bytes(after[0].values())
    between = tensor_bytes(tensors(plugin))
    assert plugin.stored().ram == between == one * (5 if method == "ties" else 2)
    assert [tensor_bytes(kept) / one for kept in while_training] == [1] * 2 + [4 if method == "ties" else 2] * 4
    own = {p.data_ptr() for p in strategy.model.parameters()}
    assert not own & {t.data_ptr() for t in tensors(plugin)}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["magmax", "average", "random"])
def test_never_a_third_copy_while_merging(three_tasks, method):
    plugin = TaskVectorMergePlugin(method)
    merge, peaks = plugin.after_training_exp, []

    def watched(strategy, **kwargs):
        with Live(tensors(plugin)) as live:
            merge(strategy, **kwargs)
        peaks.append(live.peak)

    plugin.after_training_exp = watched
    _, after = train(three_tasks, [plugin], ("text",))
    sizes = [tensor_bytes([t]) for t in after[0].values()]
    assert 2 * sum(sizes) < max(peaks) < 2 * sum(sizes) + 8 * max(sizes) < 3 * sum(sizes)


def test_the_mean_of_a_task_is_what_is_merged_and_trained_on(three_tasks):
    steps, starts = Recorder("after_update"), Recorder("before_training_exp")
    mean = RunningMeanPlugin(interval=1)
    _, after = train(three_tasks, [starts, steps, mean, TaskVectorMergePlugin("average")])
    means = []
    for task in range(3):
        chosen = [starts.values[task], *steps.values[2 * task : 2 * task + 2]]
        means.append({n: torch.stack([s[n] for s in chosen]).mean(0) for n in chosen[0]})
    initial = starts.values[0]
    vectors = [task_vectors.task_vector(m, initial) for m in means]
    expected = task_vectors.apply(initial, task_vectors.average(vectors))
    for name, value in expected.items():
        torch.testing.assert_close(after[2][name], value, atol=1e-6, rtol=1e-5)
    for name, value in means[1].items():
        torch.testing.assert_close(starts.values[2][name], value, atol=1e-6, rtol=1e-5)


def test_an_interrupted_task_starts_again_from_where_it_was(three_tasks):
    class Stop(Exception):
        pass

    def stop(strategy):
        if armed:
            raise Stop

    armed: list = []
    starts = Recorder("before_training_exp")
    strategy = naive(tiny_vlm("random"), [TaskVectorMergePlugin(), starts, Calls("after_training_epoch", stop)])
    for task in (0, 1):
        armed.append(1)
        with pytest.raises(Stop):
            strategy.train(three_tasks.train_stream[task])
        reached = trainable(strategy)
        armed.clear()
        strategy.train(three_tasks.train_stream[task])
        assert equal(starts.values[-1], reached)


class Statistics(nn.Module):
    """The tower with a normalisation layer behind it."""

    def __init__(self, model) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(model.clip.visual.output_dim)

    def forward(self, encode, images):
        return self.norm(encode(images))


def test_statistics_are_the_fine_tuned_models(three_tasks):
    torch.manual_seed(0)
    model = tiny_vlm("random")
    model.image_path = Statistics(model)
    moved = []
    watch = Calls("after_training_exp", lambda s: moved.append(s.model.image_path.norm.running_mean.clone()))
    strategy = naive(model, [watch, TaskVectorMergePlugin()])
    strategy.train(three_tasks.train_stream[0])
    assert moved[0].abs().max() > 0 and torch.equal(model.image_path.norm.running_mean, moved[0])


@pytest.mark.slow
@pytest.mark.parametrize("change", ["new", "frozen", "shape"])
@pytest.mark.parametrize("method", ["magmax", "ties"])
def test_other_weights_than_those_of_the_first_task_are_refused(three_tasks, method, change):
    def later(strategy):
        if strategy.experience.current_experience != 1:
            return
        if change == "frozen":
            strategy.model.freeze("text")
        elif change == "new":
            strategy.model.unfreeze("scale")
        else:
            visual = strategy.model.clip.visual
            visual.class_embedding = nn.Parameter(torch.zeros(2 * len(visual.class_embedding)))

    plugins = [TaskVectorMergePlugin(method), Calls("after_train_dataset_adaptation", later)]
    named = {"frozen": r"\S+", "new": "clip.logit_scale", "shape": "clip.visual.class_embedding"}[change]
    with pytest.raises(InputError, match=f"and {named} is new, frozen or of another shape at experience 1"):
        train(three_tasks, plugins)


@pytest.mark.parametrize("scale", [0.0, -0.5, float("nan"), float("inf")])
def test_a_scale_that_is_none(scale):
    with pytest.raises(InputError, match="finite number above 0"):
        TaskVectorMergePlugin(scale=scale)


def test_other_settings_out_of_their_range():
    with pytest.raises(InputError, match="magmax, average, random, ties, not 'median'"):
        TaskVectorMergePlugin("median")
    for keep in (0.0, 1.1, float("nan")):
        with pytest.raises(InputError, match=f"share of the elements in .0, 1., not {keep}"):
            TaskVectorMergePlugin("ties", keep=keep)
    for weight in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match=f"lies in .0, 1., not {weight}"):
            InterpolationPlugin(weight)
    with pytest.raises(InputError, match="recipe magmax: method is magmax, average or random, not 'ties'"):
        recipes.build("magmax", model=tiny_vlm("random"), method="ties")


def test_the_published_scales():
    assert [magmax(None, method=m)[0].scale for m in ("magmax", "average", "random")] == [0.5, 1.0, 1.0]
    assert ties(None)[0].scale == 0.55 and ties(None)[0].keep == 0.2
    assert recipes.get("wise-ft").settings == {"weight": 0.8}


@pytest.mark.parametrize("name", ["wise-ft", "magmax", "ties"])
@pytest.mark.parametrize("kind", ["classes", "pairs"])
@pytest.mark.slow
def test_recipes_run_on_both_streams(tiny_benchmark, tiny_pairs, name, kind):
    torch.manual_seed(0)
    model = tiny_vlm("random").freeze("text")
    frozen = snapshot(dict(model.tower_parameters("text")))
    strategy = naive(model, recipes.build(name, model=model), kind)
    benchmark = tiny_benchmark if kind == "classes" else tiny_pairs
    strategy.train(benchmark.train_stream)
    strategy.eval(benchmark.test_stream)
    assert equal(frozen, dict(model.tower_parameters("text")))
    assert all(torch.isfinite(p).all() for p in model.parameters())
