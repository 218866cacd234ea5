"""Accumulators reduce over processes by what their states declare: the parts give the figure of the whole."""

from __future__ import annotations

import copy
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import together
from sklearn.metrics import balanced_accuracy_score

from avalanche_vlm.errors import NotFinite
from avalanche_vlm.evaluation.accumulators import AccuracyCounts, ClassCounts, SampleColumns, share_of_process
from avalanche_vlm.evaluation.alignment import modality_gap
from avalanche_vlm.evaluation.answers import TaskAnswers
from avalanche_vlm.evaluation.held_out import read_held_out
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.evaluation.per_class import ClassAccuracies
from avalanche_vlm.evaluation.retrieval import retrieval_metrics
from avalanche_vlm.evaluation.zero_shot import count_right, encode_set


def fed(metric, columns, rows, batch):
    """A metric that one process fed with these rows, batch by batch."""
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        metric.update(*(column[chosen] for column in columns))
    return metric


split = st.tuples(st.integers(2, 40), st.integers(0, 2**16), st.integers(1, 9), st.floats(0, 1))


def drawn(example):
    """Which process has which of n samples, and the size of batches: either process may have none."""
    n, seed, batch, share = example
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(n, generator=generator) < share
    return n, generator, first.nonzero().flatten(), (~first).nonzero().flatten(), batch


@settings(deadline=None, max_examples=60)
@given(split)
def test_counts_of_two_processes_are_those_of_one(example):
    n, generator, ours, theirs, batch = drawn(example)
    right = torch.rand(n, generator=generator) < 0.5
    whole = fed(AccuracyCounts(), [right], torch.arange(n), n)
    merged, other = (fed(AccuracyCounts(), [right], rows, batch) for rows in (ours, theirs))
    merged.merge_state(other)
    assert merged.compute() == whole.compute() == pytest.approx(right.double().mean().item())


@settings(deadline=None, max_examples=60)
@given(split)
def test_class_counts_of_two_processes_give_scikit_learns_balanced_accuracy(example):
    n, generator, ours, theirs, batch = drawn(example)
    y = torch.randint(0, 5, (n,), generator=generator) ** 2 % 5  # some classes often, some never
    answers = torch.randint(0, 5, (n,), generator=generator)
    merged, other = (fed(ClassCounts(5), [answers == y, y], rows, batch) for rows in (ours, theirs))
    merged.merge_state(other)
    right, total = merged.compute()
    assert total.tolist() == torch.bincount(y, minlength=5).tolist() and right.sum() == (answers == y).sum()
    balanced = (right[total > 0] / total[total > 0]).mean().item()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        assert balanced == pytest.approx(balanced_accuracy_score(y, answers), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(split)
def test_columns_of_two_processes_give_the_figures_of_one(example):
    n, generator, ours, theirs, batch = drawn(example)
    images, texts = (torch.randn(n, 4, generator=generator) for _ in range(2))
    ids = torch.randint(0, max(2, n // 2), (n,), generator=generator)
    columns = [images, texts, ids]
    merged, other = (fed(SampleColumns("images", "texts", "ids"), columns, rows, batch) for rows in (ours, theirs))
    assert merged.filled == (len(ours) > 0)
    merged.merge_state(other)
    together = merged.compute()
    # The same samples in another order, rows still together.
    order = torch.cat([ours, theirs]) if len(ours) and len(theirs) else torch.arange(n)
    found = {tuple(row.tolist()) for row in torch.cat([*together[:2], together[2][:, None]], 1)}
    assert found == {tuple(row.tolist()) for row in torch.cat([images, texts, ids[:, None]], 1)[order]}
    whole, parts = (retrieval_metrics(*of[:2], of[2], of[2], ks=(1, 3)) for of in (columns, together))
    assert parts == pytest.approx(whole, abs=1e-12)
    assert modality_gap(*together[:2]) == pytest.approx(modality_gap(images, texts), abs=1e-12)


def again(metric, how):
    """The metric as processes and checkpoints pass it on."""
    return {"itself": lambda m: m, "copied": copy.deepcopy, "pickled": lambda m: pickle.loads(pickle.dumps(m))}[how](
        metric
    )


@pytest.mark.parametrize("how", ["itself", "copied", "pickled"])
def test_one_class_keeps_its_axis(how):
    counts = again(ClassCounts(1), how)
    counts.update(torch.tensor([True, False]), torch.tensor([0, 0]))
    for _ in range(2):  # counted, then cached
        assert [of.tolist() for of in counts.compute()] == [[1], [2]]


@pytest.mark.parametrize("how", ["itself", "copied", "pickled"])
def test_one_sample_keeps_its_axes(how):
    columns = again(SampleColumns("wide", "narrow", "ids"), how)
    columns.update(torch.ones(1, 3), torch.ones(1, 1), torch.tensor([7]))
    for _ in range(2):
        assert [of.shape for of in columns.compute()] == [(1, 3), (1, 1), (1,)]
    columns = again(columns, how)  # with what it has computed
    assert columns.compute()[2].tolist() == [7]
    columns.update(torch.zeros(1, 3), torch.zeros(1, 1), torch.tensor([8]))
    assert columns.compute()[2].tolist() == [7, 8] and columns.compute()[1].tolist() == [[1.0], [0.0]]


def test_nothing_is_a_missing_figure():
    assert np.isnan(AccuracyCounts().compute())


@pytest.fixture
def two_processes(monkeypatch):
    """Pretend to be one of two processes; nothing is sent between them."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    return lambda rank: monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)


@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_two_processes_share_a_set_without_a_rest(two_processes, n):
    rows = []
    for rank in (0, 1):
        two_processes(rank)
        rows += list(share_of_process(n))
    assert sorted(rows) == list(range(n))


def test_merged_held_out_sets_score_as_one_process_scores_them(random_model, tiny_benchmark):
    captions, size, _ = tiny_benchmark.held_out
    expected = [read_held_out(random_model, of) for of in (captions, size)]
    halves = [torch.utils.data.Subset(captions.dataset, range(rank, len(captions.dataset), 2)) for rank in (0, 1)]
    pairs, other = (encode_set(random_model, half) for half in halves)
    pairs.merge_state(other)
    images, texts, ids = pairs.compute()
    scores = retrieval_metrics(images, texts, ids, ids, ks=(1,))
    assert scores["image_to_text_hit@1"] == pytest.approx(expected[0][0]["captions R@1 image to text"])
    assert modality_gap(images, texts) == pytest.approx(expected[0][1]["captions modality gap"])
    halves = [torch.utils.data.Subset(size.dataset, range(rank, len(size.dataset), 2)) for rank in (0, 1)]
    counts, other = (count_right(random_model, half, size.label_space) for half in halves)
    counts.merge_state(other)
    assert counts.compute() == expected[1][0]["size"]


def own_rows(rank: int) -> tuple[float, list[int]]:
    """The share of what is right, and the rows, of seven samples that two processes read."""
    right = torch.arange(7) % 3 == 0
    counts, columns = AccuracyCounts(), SampleColumns("row", "right")
    for row in share_of_process(7):
        counts.update(right[[row]])
        columns.update(torch.tensor([row]), right[[row]])
    share = counts.compute()
    found, hits = columns.compute()
    assert torch.equal(hits, right[found]), (found, hits)
    return share, sorted(found.tolist())


def test_two_real_processes_gather_what_they_read(tmp_path):
    assert together(own_rows, tmp_path / "meeting") == [(3 / 7, list(range(7)))] * 2


def without_a_batch(rank: int) -> float:
    """The score of a task, of which the second process alone has samples."""
    columns = SampleColumns("features", "ids")
    if rank == 1:
        columns.update(torch.eye(3), torch.tensor([5, 6, 1 << 40]))
    features, ids = columns.compute()
    assert features.tolist() == torch.eye(3).tolist() and ids.tolist() == [5, 6, 1 << 40], (features, ids)
    experience = SimpleNamespace(current_experience=0, origin_stream=SimpleNamespace(name="test"))
    batch = {"mb_x": torch.zeros(3, 1), "mb_y": torch.tensor([0, 1, 1]), "mb_output": torch.eye(2)[[0, 0, 1]]}
    strategy = SimpleNamespace(device=torch.device("cpu"), experience=experience, **batch)
    classes, matrix, answers = metrics = ClassAccuracies(), PerformanceMatrix(), TaskAnswers()
    for metric in metrics:
        metric.before_eval_exp(strategy)
        if rank == 1:
            metric.after_eval_iteration(strategy)
        metric.after_eval_exp(strategy)
    assert classes.accuracies(0) == {0: (1.0, 1), 1: (0.5, 2)}, classes.accuracies(0)
    assert answers.right[0, 0].tolist() == [1.0, 0.0, 1.0]
    return float(matrix.rows()[0, 0])


def test_a_process_without_a_batch_takes_part(tmp_path):
    assert together(without_a_batch, tmp_path / "meeting") == [pytest.approx(2 / 3)] * 2


def test_answers_that_are_none_are_told_when_all_are_there_and_not_counted_as_wrong():
    counts = AccuracyCounts()
    counts.update(torch.tensor([1.0, float("nan")]))
    counts.update(torch.tensor([float("nan"), 0.0, 1.0]))
    with pytest.raises(NotFinite, match=r"^the logits of 2 of 5 samples are NaN or infinite$"):
        counts.compute()
    counts.reset()
    counts.update(torch.tensor([True, False]))
    assert counts.compute() == 0.5
