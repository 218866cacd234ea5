"""Replay of pseudo-features through an adapter, in Avalanche's own ``Naive``."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Naive
from made import tiny as tiny_vlm
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks import ImageText, picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.statistics import FeatureMemory
from avalanche_vlm.training import VLMNaive, criterion_for, recipes
from avalanche_vlm.training.plugins import feature_replay
from avalanche_vlm.training.plugins.feature_replay import FeatureReplayPlugin
from avalanche_vlm.weights.average import snapshot

KINDS = ("classes", "pairs")


@pytest.fixture
def benchmarks(tiny_benchmark, tiny_pairs):
    return {"classes": tiny_benchmark, "pairs": tiny_pairs}


@pytest.fixture(scope="module")
def seen_benchmark():
    """The tasks of ``tiny_benchmark`` where all classes seen so far compete."""
    small = {"n_train": 64, "n_test": 20, "n_held_out": 8, "n_reference": 8}
    return picturebook.mtil_like(order=["sketches", "night"], label_space="seen", **small)


def memory_for(kind: str) -> FeatureMemory:
    return FeatureMemory(by="class" if kind == "classes" else "task")


def strategy_of(model, plugins, kind="classes", strategy=Naive, optimizer=None, lr=1e-3, epochs=1, **options):
    return strategy(
        model=model,
        optimizer=optimizer or torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1),
        criterion=criterion_for(kind, model),
        train_mb_size=16,
        train_epochs=epochs,
        eval_mb_size=64,
        plugins=plugins,
        evaluator=None,
        **options,
    )


def move(adapter: torch.nn.Module) -> None:
    """Away from the identity."""
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def batch_of(experience) -> list:
    return next(iter(DataLoader(experience.dataset.eval(), batch_size=256)))


def images_in(x) -> torch.Tensor:
    return x.image if isinstance(x, ImageText) else x


class Drawn:
    """Stands around a memory's method and keeps what went through it."""

    def __init__(self, memory, method: str) -> None:
        self.calls: list[tuple] = []
        inner = getattr(memory, method)

        def outer(*args, **kwargs):
            result = inner(*args, **kwargs)
            self.calls.append((args, kwargs, result))
            return result

        setattr(memory, method, outer)


class Losses(SupervisedPlugin):
    """Stands after the replay: the loss, and what it was made of."""

    def __init__(self, replay: FeatureReplayPlugin) -> None:
        super().__init__()
        self.path = replay.path
        self.steps: list[dict] = []

    def before_backward(self, strategy, **kwargs) -> None:
        self.steps.append(
            {
                "loss": strategy.loss.item(),
                "output": strategy.mb_output.detach().double(),
                "y": strategy.mb_y.clone(),
                "path": copy.deepcopy(self.path).double(),
            }
        )


class Constant(SupervisedPlugin):
    """Adds a constant to the loss."""

    def before_backward(self, strategy, **kwargs) -> None:
        strategy.loss = strategy.loss + 0.7


@torch.no_grad()
def naive_class_losses(model, path, drawn, seen_only: bool) -> list[float]:
    """Cross-entropy of each pseudo-feature by itself, in float64."""
    text = model.class_features(model.label_space).double()
    known = range(len(model.label_space))
    losses = []
    for feature, y, task in zip(drawn["features"], drawn["y"].tolist(), drawn["task"].tolist(), strict=True):
        adapted = F.normalize(path.adapt(feature[None].double())[0], dim=0)
        competing = [c for c in known if seen_only or c in model.label_space.tasks[task]]
        logits = torch.stack([model.scale.double() * adapted @ text[c] for c in competing])
        losses.append((torch.logsumexp(logits, 0) - logits[competing.index(y)]).item())
    return losses


@torch.no_grad()
def naive_pair_loss(model, path, drawn, width: int) -> float:
    """CLIP's loss on the drawn pairs, pair by pair, in float64."""
    pairs = drawn["features"].double()
    images = [F.normalize(path.adapt(F.normalize(row[:width], dim=0)[None])[0], dim=0) for row in pairs]
    texts = [F.normalize(row[width:], dim=0) for row in pairs]
    logits = torch.stack([torch.stack([model.scale.double() * a @ b for b in texts]) for a in images])
    rows = [torch.logsumexp(logits[i], 0) - logits[i, i] for i in range(len(pairs))]
    columns = [torch.logsumexp(logits[:, i], 0) - logits[i, i] for i in range(len(pairs))]
    return (sum(rows) + sum(columns)).item() / (2 * len(pairs))


@pytest.mark.parametrize("bottleneck", [None, 4])
@torch.no_grad()
def test_before_training_the_model_predicts_what_the_plain_one_does(random_model, tiny_benchmark, bottleneck):
    random_model.set_label_space(tiny_benchmark.label_space).eval()
    x, _, tasks = batch_of(tiny_benchmark.train_stream[0])
    features, logits = random_model.encode_image(x), random_model(x, tasks)
    FeatureReplayPlugin(random_model, memory_for("classes"), bottleneck=bottleneck)
    torch.testing.assert_close(random_model.encode_image(x), features, atol=1e-6, rtol=0)
    torch.testing.assert_close(random_model(x, tasks), logits, atol=2e-5, rtol=0)  # the scale is 14


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer_first", [False, True])
def test_the_adapter_trains_and_the_towers_stay_bit_identical(random_model, benchmarks, kind, optimizer_first):
    optimizer = torch.optim.AdamW(random_model.parameters(), lr=1e-3, weight_decay=0.1) if optimizer_first else None
    towers = snapshot(random_model.clip.state_dict())
    plugin = FeatureReplayPlugin(random_model, memory_for(kind), bottleneck=4)
    assert set(random_model.trainable_parameters()) == {
        "image_path.adapter.down.weight",
        "image_path.adapter.up.weight",
    }
    moments = []
    strategy = strategy_of(random_model, [plugin], kind, optimizer=optimizer)
    for experience in benchmarks[kind].train_stream:
        before = snapshot(plugin.path.state_dict())
        strategy.train(experience)
        moments.append(any(not torch.equal(p, before[name]) for name, p in plugin.path.state_dict().items()))
    assert moments == [True, True]
    assert all(torch.equal(value, towers[name]) for name, value in random_model.clip.state_dict().items())
    held = {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in plugin.path.parameters()} <= held


@pytest.mark.parametrize("label_space", ["task", "seen"])
def test_the_loss_is_the_mean_over_current_samples_and_pseudo_features(
    random_model, tiny_benchmark, seen_benchmark, label_space
):
    benchmark = tiny_benchmark if label_space == "task" else seen_benchmark
    memory = memory_for("classes")
    plugin = FeatureReplayPlugin(random_model, memory, batch_size=10)
    move(plugin.path)
    drawn, losses = Drawn(memory, "sample"), Losses(plugin)
    strategy = strategy_of(random_model, [Constant(), plugin, losses])
    strategy.train(benchmark.train_stream[0])
    assert not drawn.calls
    losses.steps.clear()
    strategy.train(benchmark.train_stream[1])
    assert len(drawn.calls) == len(losses.steps) == 4
    for step, (_, _, old) in zip(losses.steps, drawn.calls, strict=True):
        assert set(old["y"].tolist()) <= set(benchmark.label_space.tasks[0])
        chosen = step["output"].gather(1, step["y"][:, None])[:, 0]
        current = (torch.logsumexp(step["output"], 1) - chosen).tolist()
        past = naive_class_losses(random_model, step["path"], old, label_space == "seen")
        assert len(current) == 16 and len(past) == 10
        # What the plugin before it added keeps its weight.
        assert step["loss"] == pytest.approx(0.7 + sum(current + past) / 26, rel=1e-5)


def test_pairs_are_drawn_together_and_contrasted_among_each_other(random_model, tiny_pairs):
    memory = memory_for("pairs")
    plugin = FeatureReplayPlugin(random_model, memory, batch_size=10)
    move(plugin.path)
    drawn, losses = Drawn(memory, "sample"), Losses(plugin)
    strategy = strategy_of(random_model, [plugin, losses], "pairs")
    strategy.train(tiny_pairs.train_stream[0])
    losses.steps.clear()
    strategy.train(tiny_pairs.train_stream[1])
    assert len(drawn.calls) == len(losses.steps) == 4
    for step, (_, _, old) in zip(losses.steps, drawn.calls, strict=True):
        current = criterion_for("pairs", random_model)(step["output"], step["y"]).item()
        past = naive_pair_loss(random_model, step["path"], old, plugin.path.adapter.width)
        assert step["loss"] == pytest.approx((16 * current + 10 * past) / 26, rel=1e-5)


def test_a_weight_adds_the_mean_loss_of_pseudo_features(random_model, tiny_benchmark):
    memory = memory_for("classes")
    plugin = FeatureReplayPlugin(random_model, memory, batch_size=10, weight=3.0)
    drawn, losses = Drawn(memory, "sample"), Losses(plugin)
    strategy = strategy_of(random_model, [plugin, losses])
    strategy.train(tiny_benchmark.train_stream)
    step, (_, _, old) = losses.steps[-1], drawn.calls[-1]
    current = F.cross_entropy(step["output"], step["y"]).item()
    past = sum(naive_class_losses(random_model, step["path"], old, False)) / 10
    assert step["loss"] == pytest.approx(current + 3 * past, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_memory_is_fitted_on_the_plain_towers_features(random_model, benchmarks, kind):
    plain = copy.deepcopy(random_model).eval()
    memory = memory_for(kind)
    fits = Drawn(memory, "fit")
    plugin = FeatureReplayPlugin(random_model, memory)
    move(plugin.path)
    with torch.enable_grad():
        strategy_of(random_model, [plugin], kind).train(benchmarks[kind].train_stream)
    assert len(fits.calls) == 2 and random_model.training
    for t, (args, kwargs, _) in enumerate(fits.calls):
        x, y, tasks = batch_of(benchmarks[kind].train_stream[t])
        expected = plain.encode_image(images_in(x))
        if kind == "pairs":
            expected = torch.cat([expected, plain.encode_text(x.tokens)], 1) / math.sqrt(2)
        torch.testing.assert_close(args[0], expected, atol=1e-6, rtol=0)
        labels = y if kind == "classes" else torch.zeros_like(y)
        assert torch.equal(args[1], labels) and torch.equal(args[2], tasks) and kwargs == {"step": t}
        torch.testing.assert_close(args[0].norm(dim=1), torch.ones(64))


def test_a_class_of_several_tasks_has_statistics_in_each(random_model, monkeypatch):
    memory = memory_for("classes")
    plugin = FeatureReplayPlugin(random_model, memory)
    width, task_labels = plugin.path.adapter.width, torch.tensor([0, 1, 0, 1, 1])
    features = F.normalize(torch.randn(5, width), dim=1)
    found = (features, torch.tensor([3, 3, 3, 3, 2]), task_labels)
    monkeypatch.setattr(feature_replay, "_plain_features", lambda strategy, unit: found)
    plugin.after_training_exp(SimpleNamespace(experience=SimpleNamespace(current_experience=0)))
    assert list(zip(memory.labels.tolist(), memory.task_labels.tolist(), strict=True)) == [(3, 0), (2, 1), (3, 1)]
    torch.testing.assert_close(memory.means[2], features[[1, 3]].mean(0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_prediction_does_not_depend_on_what_else_is_in_the_batch(random_model, benchmarks, kind):
    plugin = FeatureReplayPlugin(random_model, memory_for(kind), bottleneck=4)
    with torch.enable_grad():
        strategy_of(random_model, [plugin], kind, lr=1e-2).train(benchmarks[kind].train_stream)
    images = torch.cat([images_in(batch_of(e)[0])[:8] for e in benchmarks[kind].test_stream])
    random_model.eval()
    together = random_model.encode_image(images)
    alone = torch.cat([random_model.encode_image(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert (together - random_model.encode_image_plain(images)).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_runs_in_our_strategy_under_bf16_with_worker_processes(random_model, benchmarks, kind):
    plugin = FeatureReplayPlugin(random_model, memory_for(kind))
    losses = Losses(plugin)
    strategy = strategy_of(random_model, [plugin, losses], kind, VLMNaive, amp="bf16")
    strategy.train(benchmarks[kind].train_stream, num_workers=2)
    assert all(math.isfinite(step["loss"]) for step in losses.steps) and len(losses.steps) == 8
    assert all(p.dtype == torch.float32 for p in plugin.path.parameters())
    assert plugin.path.adapter.up.weight.abs().max() > 0


@pytest.mark.slow
def test_old_classes_are_forgotten_less(seen_benchmark):
    accuracy = {}
    for weight in (0.0, None):
        torch.manual_seed(0)
        model = tiny_vlm()
        plugin = FeatureReplayPlugin(model, memory_for("classes"), weight=weight)
        strategy_of(model, [plugin], lr=1e-2, epochs=4).train(seen_benchmark.train_stream)
        x, y, tasks = batch_of(seen_benchmark.train_stream[0])
        with torch.no_grad():
            accuracy[weight] = (model.eval()(x, tasks).argmax(1) == y).float().mean().item()
    assert accuracy[None] > accuracy[0.0] + 0.05


def test_what_is_stored_are_the_statistics_and_the_adapter(random_model, tiny_benchmark):
    memory = memory_for("classes")
    plugin = FeatureReplayPlugin(random_model, memory, bottleneck=4)
    adapter = 2 * 4 * plugin.path.adapter.width * 4
    assert plugin.stored().total == adapter + memory.stored().total
    strategy_of(random_model, [plugin]).train(tiny_benchmark.train_stream[0])
    assert plugin.stored().ram == adapter + memory.stored().ram > adapter
    assert plugin._before is None


class Drift(SupervisedPlugin):
    """Bends the image tower's last projection at the end of the second experience's only epoch."""

    def __init__(self, model) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        shape = model.clip.visual.proj.shape
        self.change = 0.3 * model.clip.visual.proj.std().item() * torch.randn(shape, generator=generator)

    @torch.no_grad()
    def after_training_epoch(self, strategy, **kwargs) -> None:
        if strategy.experience.current_experience == 1:
            strategy.model.clip.visual.proj += self.change


def distance_to_the_truth(compensate: bool) -> float:
    """Mean distance of stored class means from the true ones, after the image tower moved in the second experience."""
    torch.manual_seed(0)
    model = tiny_vlm()
    benchmark = picturebook.mtil_like(n_train=256, n_test=20, order=["sketches", "night"], n_held_out=8, n_reference=8)
    memory = memory_for("classes")
    plugin = FeatureReplayPlugin(model, memory, train_towers=("image",), compensate=compensate)
    assert model.frozen == ("text", "scale")
    strategy = strategy_of(model, [Drift(model), plugin], optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    strategy.train(benchmark.train_stream)
    assert plugin._before is None
    x, y, _ = batch_of(benchmark.train_stream[0])
    with torch.no_grad():
        features = model.eval().encode_image_plain(x)
    means = dict(zip(memory.labels.tolist(), memory.means, strict=True))
    gaps = [(means[c] - features[y == c].mean(0)).norm() for c in y.unique().tolist()]
    return torch.stack(gaps).mean().item()


@pytest.mark.slow
def test_compensation_follows_an_encoder_that_moves():
    without, with_compensation = distance_to_the_truth(False), distance_to_the_truth(True)
    assert without > 0.05
    assert with_compensation < 0.8 * without


def test_without_training_towers_there_is_nothing_to_compensate(random_model):
    with pytest.raises(InputError, match="compensate=True follows towers that train: name them in train_towers"):
        FeatureReplayPlugin(random_model, memory_for("classes"), compensate=True, train_towers=("scale",))


def test_an_image_path_that_is_taken(random_model):
    recipes.build("lora", model=random_model, rank=2)
    with pytest.raises(InputError, match="image path is taken by modules per task, and feature replay needs it"):
        FeatureReplayPlugin(random_model, memory_for("classes"))


def test_a_memory_that_does_not_know_its_classes(random_model, tiny_benchmark):
    plugin = FeatureReplayPlugin(random_model, FeatureMemory(by="task"))
    with pytest.raises(InputError, match=r"needs FeatureMemory\(by='class'\), this one has by='task'"):
        strategy_of(random_model, [plugin]).train(tiny_benchmark.train_stream[0])


def test_pairs_of_an_experience_are_one_class(random_model, tiny_pairs):
    plugin = FeatureReplayPlugin(random_model, FeatureMemory())
    strategy_of(random_model, [plugin], "pairs").train(tiny_pairs.train_stream)
    assert plugin.memory.counts.tolist() == [64, 64] and plugin.memory.steps.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "1 or more, not 0"),
        ({"weight": -1.0}, "0 or more, or None, not -1.0"),
        ({"weight": math.nan}, "0 or more, or None, not nan"),
        ({"bottleneck": 0}, "1 or more, not 0"),
        ({"train_towers": ("audio",)}, "image, text, scale, not 'audio'"),
    ],
)
def test_settings_out_of_range(random_model, settings, message):
    with pytest.raises(InputError, match=message):
        FeatureReplayPlugin(random_model, memory_for("classes"), **settings)
    assert random_model.image_path is None
