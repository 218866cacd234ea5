"""PROOF's training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from made import tiny as tiny_vlm
from recording import Recorder, naive

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import ExemplarMemory
from avalanche_vlm.models.heads.trained import ProjectionFusionHead
from avalanche_vlm.training import recipes
from avalanche_vlm.training.plugins import ProjectionFusionPlugin


def run(benchmark, *recorders, **options):
    torch.manual_seed(0)
    model = tiny_vlm()
    (plugin,) = recipes.build("proof", model=model, **options)
    recorders = [make(plugin) for make in recorders]
    strategy = naive(model, [plugin, *recorders], epochs=2, lr=1e-2)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    return plugin, model, [recorder.values for recorder in recorders]


def test_exemplars_of_every_class_are_in_the_next_tasks_data(tiny_benchmark):
    classes = Recorder("before_training_epoch", lambda s: s.adapted_dataset.targets[:])
    labels = Recorder("before_training_epoch", lambda s: list(s.adapted_dataset.targets_task_labels))
    plugin, _, _ = run(tiny_benchmark, lambda _: classes, lambda _: labels, exemplars=3)
    first, second = tiny_benchmark.train_stream
    old, new = list(first.dataset.targets), list(second.dataset.targets)
    kept = [c for c in sorted(set(old)) for _ in range(min(3, old.count(c)))]
    assert list(classes.values[0]) == old
    assert list(classes.values[2])[: len(new)] == new and sorted(list(classes.values[2])[len(new) :]) == kept
    assert labels.values[2] == [1] * len(new) + [0] * len(kept)
    counts = torch.bincount(plugin.memory.labels).tolist()
    assert counts == [min(3, (old + new).count(c)) for c in range(len(counts))]


def test_old_projections_and_contexts_stay_bit_for_bit(tiny_benchmark):
    def tasks_own(plugin) -> list[torch.Tensor]:
        head = plugin.head
        return [*head.image_projections[0].parameters(), *head.text_projections[0].parameters(), head.contexts[0]]

    def record(plugin) -> Recorder:
        return Recorder("after_training_exp", lambda _: [part.detach().clone() for part in tasks_own(plugin)])

    plugin, _, ((learned, later),) = run(tiny_benchmark, record)
    assert all(torch.equal(a, b) for a, b in zip(learned, later, strict=True))
    assert all(part.grad is None and not part.requires_grad for part in tasks_own(plugin))
    assert not torch.equal(learned[0], torch.eye(len(learned[0])))


def test_the_loss_is_the_sum_of_three(tiny_benchmark):
    kept = []

    def record(plugin) -> Recorder:
        def loss(strategy) -> None:
            head, x, y = plugin.head, strategy.mb_x, strategy.mb_y
            with torch.no_grad():
                total = 0.0
                for features, target, task in zip(x, y, strategy.mb_task_id, strict=True):
                    among = [c for c in tiny_benchmark.label_space.tasks[int(task)] if head.known[c]]
                    found = head.similarities(features[None], torch.tensor(among))
                    where = torch.tensor([among.index(int(target))])
                    total += F.cross_entropy(found.texts, where) + F.cross_entropy(found.prototypes, where)
                similar = head.scale * head.project_images(x) @ head.project_texts(head.texts[y]).T
                same = (y[:, None] == y).float()
                rows = -(same / same.sum(1, keepdim=True) * similar.log_softmax(1)).sum(1).mean()
                columns = -(same / same.sum(0) * similar.log_softmax(0)).sum(0).mean()
            kept.append((strategy.loss.item(), float(total / len(x) + (rows + columns) / 2)))

        return Recorder("before_backward", loss)

    run(tiny_benchmark, record, exemplars=5)
    for found, wanted in kept:
        assert found == pytest.approx(wanted, rel=1e-4)


def test_an_epoch_shows_every_new_sample_and_every_exemplar_once(tiny_benchmark):
    rows = Recorder("after_forward", lambda s: s.mb_x.clone())
    tasks = Recorder("after_forward", lambda s: s.mb_task_id.clone())
    run(tiny_benchmark, lambda _: rows, lambda _: tasks, exemplars=3)
    old = list(tiny_benchmark.train_stream[0].dataset.targets)
    kept = sum(min(3, old.count(c)) for c in set(old))
    per_epoch = -(-(64 + kept) // 16)
    for start in (8, 8 + per_epoch):  # four batches in each of the first task's two epochs
        shown, of = (torch.cat(seen.values[start : start + per_epoch]) for seen in (rows, tasks))
        assert len(shown.unique(dim=0)) == len(shown) == 64 + kept and int((of == 0).sum()) == kept


def test_prototypes_are_the_means_of_the_plain_features(tiny_benchmark):
    plugin, model, _ = run(tiny_benchmark)
    dataset = tiny_benchmark.train_stream[0].dataset.eval()
    c = dataset.targets[0]
    with torch.no_grad():
        images = torch.stack([x for x, y, _ in dataset if y == c])
        expected = model.encode_image_plain(images).mean(0)
    torch.testing.assert_close(plugin.head.prototypes.means[c], expected)


def test_wrong_settings_are_named():
    model = tiny_vlm("random")
    with pytest.raises(InputError, match="by herding, and the memory's policy is reservoir"):
        ProjectionFusionPlugin(model, ProjectionFusionHead(128), ExemplarMemory(max_samples=1, policy="reservoir"))
    with pytest.raises(InputError, match="a whole number from 1 to 1000000, not 0"):
        recipes.build("proof", model=tiny_vlm("random"), exemplars=0)
