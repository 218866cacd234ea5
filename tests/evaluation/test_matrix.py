"""The plugin metrics: the right cell for every score."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from mini import mini
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.held_out import HeldOutScores, read_held_out
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.evaluation.probes.erosion import ErosionProbe
from avalanche_vlm.evaluation.zero_shot import retrieval_scores, zero_shot_accuracy
from avalanche_vlm.studies.advice.pilot import Scores
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import ContrastiveCriterion
from avalanche_vlm.training.settings import TrainSettings


def naive(model, metrics, criterion=None, **options) -> Naive:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EvaluationPlugin(*metrics, loggers=[])
    return Naive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        criterion=criterion or torch.nn.CrossEntropyLoss(),
        train_mb_size=32,
        eval_mb_size=7,
        evaluator=evaluator,
        **options,
    )


@torch.no_grad()
def by_hand(model, stream) -> list[float]:
    model.eval()
    scores = []
    for experience in stream:
        x, y, t = next(iter(DataLoader(experience.dataset.eval(), batch_size=1000)))
        scores.append((model(x, t).argmax(1) == y).float().mean().item())
    return scores


def test_rows_are_accuracies_and_row_0_is_the_untrained_model(mini_model, tiny_benchmark):
    matrix = PerformanceMatrix()
    strategy = naive(mini_model, [matrix])
    expected = []
    test = tiny_benchmark.test_stream
    mini_model.set_label_space(tiny_benchmark.label_space)
    expected.append(by_hand(mini_model, test))
    strategy.eval(test)
    for experience in tiny_benchmark.train_stream:
        strategy.train(experience)
        expected.append(by_hand(mini_model, test))
        metrics = strategy.eval(test)
    np.testing.assert_allclose(matrix.rows(), expected, atol=1e-6)
    assert metrics["Score/test/exp1"] == pytest.approx(expected[2][1], abs=1e-6)
    assert matrix.survey()["last"] == pytest.approx(np.mean(expected[2]), abs=1e-6)
    assert matrix.survey()["bwt"] == pytest.approx(expected[2][0] - expected[1][0], abs=1e-6)


def test_streams_and_partial_rows_do_not_mix(mini_model, tiny_benchmark):
    matrix = PerformanceMatrix()
    strategy = naive(mini_model, [matrix])
    strategy.eval(tiny_benchmark.test_stream[:1])
    first = matrix.rows("test").copy()
    strategy.eval(tiny_benchmark.train_stream)
    strategy.eval(tiny_benchmark.test_stream[1:])
    rows = matrix.result()
    assert set(rows) == {"test", "train"} and rows["test"].shape == rows["train"].shape == (1, 2)
    assert first.shape == (1, 1) and rows["test"][0, 0] == first[0, 0]
    strategy.train(tiny_benchmark.train_stream[0])
    assert np.isnan(matrix.rows()).all(1).tolist() == [False, True]
    assert np.isnan(PerformanceMatrix().rows()).all()


@pytest.mark.slow
@pytest.mark.parametrize("eval_every", [0, 1])
def test_periodic_evaluation_within_training_is_filed_under_no_wrong_row(mini_model, tiny_benchmark, eval_every):
    matrix = PerformanceMatrix()
    strategy = naive(mini_model, [matrix], eval_every=eval_every, train_epochs=2)
    test = tiny_benchmark.test_stream
    strategy.eval(test)
    expected = [by_hand(mini_model, test)]
    for experience in tiny_benchmark.train_stream:
        strategy.train(experience, eval_streams=[test])
        expected.append(by_hand(mini_model, test))
    rows = matrix.rows()
    assert rows.shape == (3, 2)
    # Avalanche evaluates when an experience ends, or after its last epoch: either way that is its row.
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_held_out_sets_are_scored_once_per_step(mini_model, tiny_benchmark, monkeypatch):
    held_out = HeldOutScores(tiny_benchmark.held_out)
    strategy = naive(mini_model, [held_out])
    captions, size, _ = tiny_benchmark.held_out
    first = strategy.eval(tiny_benchmark.test_stream)
    strategy.eval(tiny_benchmark.train_stream)
    expected = retrieval_scores(mini_model, captions.dataset)
    both = (expected["image_to_text_hit@1"] + expected["text_to_image_hit@1"]) / 2
    result = held_out.result()
    assert result["captions R@1"] == [pytest.approx(both)]
    for k in (1, 5):
        ways = [expected[f"{way}_hit@{k}"] for way in ("image_to_text", "text_to_image")]
        for way, value in zip((" image to text", " text to image", ""), (*ways, sum(ways) / 2), strict=True):
            assert result[f"captions R@{k}{way}"] == [pytest.approx(value)]
    assert result["size"] == [zero_shot_accuracy(mini_model, size.dataset, size.label_space)]
    assert first["HeldOut/size"] == result["size"][0]
    with torch.no_grad():
        pairs = next(iter(DataLoader(captions.dataset, len(captions.dataset))))[0]
        images, texts = mini_model.eval().encode_image(pairs.image), mini_model.encode_text(pairs.tokens)
    apart = (images.mean(0) - texts.mean(0)).norm().item()
    assert held_out.alignment()["captions modality gap"] == [pytest.approx(apart, abs=1e-5)]
    assert held_out.alignment()["captions paired cosine"] == [
        pytest.approx((images * texts).sum(1).mean().item(), abs=1e-5)
    ]
    strategy.train(tiny_benchmark.train_stream[0])
    assert np.isnan(held_out.result()["size"][1])
    strategy.eval(tiny_benchmark.test_stream)
    assert len(held_out.result()["captions R@1"]) == 2 and not np.isnan(held_out.result()["size"]).any()


def test_pairs_score_retrieval_within_each_task(mini_model, tiny_pairs):
    matrix = PerformanceMatrix()
    naive(mini_model, [matrix], ContrastiveCriterion()).eval(tiny_pairs.test_stream)
    for i, experience in enumerate(tiny_pairs.test_stream):
        scores = retrieval_scores(mini_model, experience.dataset.eval())
        both = (scores["image_to_text_hit@1"] + scores["text_to_image_hit@1"]) / 2
        assert matrix.rows()[0, i] == pytest.approx(both)


def test_a_benchmark_is_an_avalanche_scenario(tiny_benchmark):
    from avalanche.benchmarks.scenarios import CLScenario

    assert isinstance(tiny_benchmark, CLScenario) and isinstance(tiny_benchmark, VLMBenchmark)
    assert len(tiny_benchmark.train_stream) == 2 and tiny_benchmark.train_stream.benchmark is tiny_benchmark


def test_the_last_evaluation_of_a_step_counts_for_held_out_sets_too(tiny_benchmark):
    model, held_out, alone = mini(), *(HeldOutScores(tiny_benchmark.held_out) for _ in range(2))
    strategy = naive(model, [held_out])
    strategy.eval(tiny_benchmark.test_stream[:1])
    first = held_out.result()
    with torch.no_grad():  # as a plugin does that merges when an experience ends
        for parameter in model.clip.visual.parameters():
            parameter.add_(torch.randn_like(parameter))
    strategy.eval(tiny_benchmark.test_stream[:1])
    naive(model, [alone]).eval(tiny_benchmark.test_stream[:1])
    assert held_out.result() == alone.result() != first
    assert all(len(curve) == 1 for curve in held_out.result().values())


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("classes", r"the logits of \d+ of \d+ samples are NaN or infinite"),
        ("pairs", r"\d+ of \d+ image features are NaN or infinite, the first in row 0"),
    ],
)
def test_an_answer_that_is_no_number_is_refused_with_its_place(random_model, tiny_benchmark, tiny_pairs, kind, what):
    stream = tiny_benchmark if kind == "classes" else tiny_pairs
    if stream.label_space is not None:
        random_model.set_label_space(stream.label_space)
    matrix = PerformanceMatrix()
    criterion = None if kind == "classes" else ContrastiveCriterion()
    strategy = naive(random_model, [matrix], criterion)
    strategy.eval(stream.test_stream)
    before = matrix.rows()
    matrix.step = 1
    with torch.no_grad():
        random_model.clip.visual.conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=rf"^{what} at step 1, task {stream.task_names[0]}: training"):
        strategy.eval(stream.test_stream)
    np.testing.assert_array_equal(matrix.rows()[0], before[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_on_a_held_out_set_is_refused_with_its_name(random_model, tiny_benchmark, value):
    captions, size = tiny_benchmark.held_out[:2]
    random_model.set_label_space(tiny_benchmark.label_space)
    with torch.no_grad():
        random_model.clip.visual.proj[:] = value
    for of in (captions, size):
        with pytest.raises(InputError, match=rf"^held-out set '{of.name}': .*\d+ of \d+ .* are NaN or infinite"):
            read_held_out(random_model, of)
    with pytest.raises(
        InputError, match=r"^held-out set 'size': the logits of \d+ of \d+ samples are NaN or infinite$"
    ):
        naive(random_model, [ErosionProbe([size])]).eval(tiny_benchmark.test_stream[:0])
    with pytest.raises(InputError, match=r"^held-out set 'size': the logits"):
        Scores(random_model, SimpleNamespace(label_space=None, test_stream=[], held_out=[size]))


def test_a_broken_model_ends_an_experiment_before_any_score(random_model, tiny_benchmark):
    with torch.no_grad():
        random_model.clip.visual.conv1.weight[0, 0, 0, 0] = float("nan")
    rows = []
    settings = TrainSettings(epochs=1, batch_size=8, lr=1e-3)
    with pytest.raises(InputError, match=r"NaN or infinite at step 0, .*: the weights that training began with"):
        run_experiment(
            tiny_benchmark,
            "zero-shot",
            model=random_model,
            settings=settings,
            on_row=lambda step, matrix: rows.append(step),
        )
    assert not rows
