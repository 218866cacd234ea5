"""LADA's training."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from made import tiny as tiny_vlm
from recording import Recorder, naive

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import FeatureMemory
from avalanche_vlm.models import MASKED
from avalanche_vlm.models.heads.trained import LabelSpecificHead
from avalanche_vlm.training import recipes
from avalanche_vlm.training.data import LabelledFeatures
from avalanche_vlm.training.plugins import LabelSpecificPlugin
from avalanche_vlm.training.plugins.label_specific import text_adapters


def run(benchmark, visible: str, **options):
    """Two tasks; what was recorded of the first one's units and texts when it ended."""
    torch.manual_seed(0)
    model = tiny_vlm().set_label_space(replace(benchmark.label_space, visible=visible))
    (plugin,) = recipes.build("lada", model=model, **{"units": 3, "bottleneck": 4, **options})
    end = Recorder("after_training_exp", lambda s: (plugin.head.units[0].clone(), plugin.head.texts.clone()))
    strategy = naive(model, [plugin, end], epochs=2, lr=1e-2)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    return plugin, model, end.values


@pytest.mark.slow
def test_old_units_and_texts_stay_bit_for_bit(tiny_benchmark):
    plugin, model, ((units, texts), _) = run(tiny_benchmark, "union")
    head = plugin.head
    assert torch.equal(head.units[0], units) and head.units[0].grad is None
    old = list(tiny_benchmark.label_space.tasks[0])
    assert torch.equal(head.texts[old], texts[old])
    assert not model.trainable_parameters() and plugin.pool.names == []
    # The adapters made the kept texts what they are, and are gone.
    with torch.no_grad():
        plain = model.eval().prompt_features(torch.arange(len(model.label_space)))
    assert not torch.allclose(head.texts[old], plain[old], atol=1e-3)


def test_text_adapters_have_as_many_parameters_as_a_log_of_the_authors_code_states():
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = torch.nn.Sequential(torch.nn.Linear(512, 2048), torch.nn.GELU(), torch.nn.Linear(2048, 512))

    tower = torch.nn.Module()  # of the size of ViT-B/16's text tower
    tower.resblocks = torch.nn.ModuleList([Block() for _ in range(12)])
    places = text_adapters(tower, bottleneck=16)
    modules = [place.build() for place in places.values()]
    assert sum(p.numel() for module in modules for p in module.parameters()) == 215_244
    x = torch.randn(5, 512)
    module = modules[0]
    torch.nn.init.normal_(module.up.weight)
    standard = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = 0.1 * (standard @ module.down.weight.T).relu() @ module.up.weight.T
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-4)
    module(x).sum().backward()
    assert module.scale.grad.item() == pytest.approx(10 * expected.sum().item(), rel=1e-3)


def test_units_start_as_centres_of_their_class(tiny_benchmark):
    model = tiny_vlm("random")
    (plugin,) = recipes.build("lada", model=model, units=1, bottleneck=0)
    start = Recorder("before_training_epoch", lambda s: (plugin.head.units[0].detach().clone(), plugin.rows))
    naive(model, [plugin, start]).train(tiny_benchmark.train_stream[0])
    units, rows = start.values[0]
    for unit, owner in zip(units, plugin.head.owners, strict=True):
        torch.testing.assert_close(unit, rows.features[rows.y == owner].mean(0))


@pytest.mark.slow
@pytest.mark.parametrize("visible", ["union", "task"])
def test_old_classes_come_back_where_they_compete(tiny_benchmark, visible, monkeypatch):
    drawn = []
    sample = FeatureMemory.sample
    monkeypatch.setattr(FeatureMemory, "sample", lambda memory, n: drawn.append(sample(memory, n)) or drawn[-1])
    run(tiny_benchmark, visible, batch_size=7)
    steps = 2 * -(-len(tiny_benchmark.train_stream[1].dataset) // 16)
    assert len(drawn) == (steps if visible == "union" else 0)
    assert all(
        len(part["y"]) == 7 and set(part["y"].tolist()) <= set(tiny_benchmark.label_space.tasks[0]) for part in drawn
    )


def test_the_loss_is_the_mean_over_classes_of_new_and_drawn(tiny_benchmark):
    model = tiny_vlm().set_label_space(replace(tiny_benchmark.label_space, visible="union"))
    (plugin,) = recipes.build("lada", model=model, units=2, bottleneck=0, batch_size=9, components=1)
    old, new = (list(classes) for classes in tiny_benchmark.label_space.tasks)
    kept = []

    def expected(strategy) -> float:
        if not len(plugin.memory):
            return 0.0
        plugin.memory._draws.count -= 1  # the same draw again
        columns, head = plugin.memory.sample(9), plugin.head
        losses = []
        with torch.no_grad():
            for features, y in ((columns["features"], columns["y"]), (strategy.mb_x, strategy.mb_y)):
                logits = head.scale * features @ model.prompt_features(torch.arange(len(model.label_space))).T
                logits = head(features, logits)
                assert (logits > MASKED).all()
                losses.append(torch.nn.functional.cross_entropy(logits, y).item())
        kept.append((strategy.loss.item(), (len(old) * losses[0] + len(new) * losses[1]) / len(old + new)))
        return 0.0

    strategy = naive(model, [plugin, Recorder("before_backward", expected)])
    for experience in tiny_benchmark.train_stream:
        strategy.train(experience)
    assert kept
    for found, wanted in kept:
        assert found == pytest.approx(wanted, rel=1e-4)


def test_an_experience_that_broke_off_can_be_trained_again(tiny_benchmark):
    model = tiny_vlm("random")
    (plugin,) = recipes.build("lada", model=model, units=2, bottleneck=2)

    def fail(_strategy) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        naive(model, [plugin, Recorder("after_training_iteration", fail)]).train(tiny_benchmark.train_stream[0])
    naive(model, [plugin]).train(tiny_benchmark.train_stream[0])
    assert len(plugin.head.units) == 1 and plugin.pool.names == [] and not model.trainable_parameters()


def test_wrong_settings_are_named():
    for options, message in (
        ({"bottleneck": -1}, "recipe lada: bottleneck is a whole number from 0 to 1000000, not -1"),
        ({"batch_size": 0}, "recipe lada: batch_size is a whole number from 1 to 1000000, not 0"),
        ({"units": 0}, "recipe lada: units is a whole number from 1 to 1000, not 0"),
    ):
        with pytest.raises(InputError, match=message):
            recipes.build("lada", model=tiny_vlm("random"), **options)
    with pytest.raises(InputError, match="this one has by='task'"):
        LabelSpecificPlugin(tiny_vlm("random"), LabelSpecificHead(), FeatureMemory(by="task"))


def test_a_class_of_several_tasks_is_drawn_with_the_label_of_each():
    model = tiny_vlm("random")
    (plugin,) = recipes.build("lada", model=model, units=1, bottleneck=0)
    y, task = torch.tensor([3, 3, 3, 3, 2]), torch.tensor([0, 1, 0, 1, 1])
    plugin._experience = LabelledFeatures(torch.nn.functional.normalize(torch.randn(5, 128), dim=1), y, task)
    plugin.head.seal = plugin.class_texts = lambda *_: ()
    plugin.after_training_exp(SimpleNamespace(experience=SimpleNamespace(current_experience=0)))
    labels = list(zip(plugin.memory.labels.tolist(), plugin.memory.task_labels.tolist(), strict=True))
    assert labels == [(3, 0), (2, 1), (3, 1)]
