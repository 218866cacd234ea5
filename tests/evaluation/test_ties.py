"""Ties among classes are counted by expectation, wherever answers are scored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_matrix import naive

from avalanche_vlm.errors import NotFinite
from avalanche_vlm.evaluation.answers import TaskAnswers
from avalanche_vlm.evaluation.held_out import HeldOutScores
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.evaluation.per_class import ClassAccuracies
from avalanche_vlm.evaluation.probes.erosion import ErosionProbe, answers_on_pairs
from avalanche_vlm.evaluation.rightness import answered, rightness
from avalanche_vlm.models.competing import MASKED
from avalanche_vlm.studies.advice.pilot import Scores


@settings(deadline=None)
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=6), st.integers(0, 7), st.sampled_from([1, 30]))
def test_it_is_the_chance_of_an_answer_that_is_drawn_among_the_best(row, y, scale):
    best = [c for c, value in enumerate(row) if value == max(row)]
    found = rightness(scale * torch.tensor([row, row]).float(), torch.tensor([y, y]))
    assert found.tolist() == [pytest.approx((y in best) / len(best))] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_no_class_competes_for_is_wrong_what_is_no_number_is_no_answer_and_what_is_told_apart_is_no_tie(dtype):
    nan, inf = float("nan"), float("inf")
    rows = [[MASKED, MASKED], [-inf, -inf], [nan, 1.0], [inf, 1.0], [MASKED, -5.0], [30.0, 30.25], [1.0, 1.01]]
    found = rightness(torch.tensor(rows, dtype=dtype), torch.tensor([0, 0, 0, 0, 1, 0, 1]))
    assert found.isnan().tolist() == [False, True, True, True, False, False, False]
    assert found.nan_to_num().tolist() == [0, 0, 0, 0, 1, 0, 1]
    answered(found[4:])
    with pytest.raises(NotFinite, match=r"^the logits of 3 of 7 samples are NaN or infinite$"):
        answered(found)


@pytest.mark.parametrize("width", [32, 512])
@pytest.mark.parametrize("classes", [3, 10, 101])
def test_products_of_equal_features_tie(width, classes):
    generator = torch.Generator().manual_seed(0)
    images, text = (torch.nn.functional.normalize(torch.randn(n, width, generator=generator)) for n in (64, 1))
    logits = 100 * images @ text.expand(classes, width).contiguous().T
    y = torch.arange(64) % classes
    np.testing.assert_allclose(rightness(logits, y), 1 / classes)


def test_a_model_to_which_all_is_equal_scores_as_guessing_does(random_model, tiny_benchmark):
    random_model.set_label_space(tiny_benchmark.label_space)
    with torch.no_grad():  # all texts become one
        text = random_model.clip.text if hasattr(random_model.clip, "text") else random_model.clip
        text.ln_final.weight.zero_()
    sets = [of for of in tiny_benchmark.held_out if of.label_space is not None]
    matrix, answers, classes, held_out = PerformanceMatrix(), TaskAnswers(), ClassAccuracies(), HeldOutScores(sets)
    erosion = ErosionProbe(sets)
    naive(random_model, [matrix, answers, classes, held_out, erosion]).eval(tiny_benchmark.test_stream)
    chances = [1 / len(task) for task in tiny_benchmark.label_space.tasks]
    np.testing.assert_allclose(matrix.rows()[0], chances)
    for task, chance in enumerate(chances):
        np.testing.assert_allclose(answers.right[0, task], chance)
        assert all(accuracy == pytest.approx(chance) for accuracy, _ in classes.accuracies(task, 0).values())
        assert erosion.result()["sets"][f"task {tiny_benchmark.task_names[task]}"]["score"] == [pytest.approx(chance)]
    piloted = Scores(random_model, tiny_benchmark)
    for of in sets:
        chance = 1 / len(of.label_space)
        assert held_out.result()[of.name] == [pytest.approx(chance)]
        assert erosion.result()["sets"][of.name] == {
            "score": [pytest.approx(chance)],
            "calibration error": [pytest.approx(0, abs=1e-6)],
        }
        np.testing.assert_allclose(piloted.held_out[of.name], chance)
    np.testing.assert_allclose(piloted.tasks[0], chances[0])


def test_captions_that_are_all_equal_are_as_sure_as_they_are_right(random_model):
    images, texts = torch.eye(4)[:, :1].expand(4, 3).contiguous() + 1, torch.ones(4, 3)
    found = answers_on_pairs(random_model, images, texts, torch.arange(4))
    assert found.score == pytest.approx(0.25) and found.error == pytest.approx(0, abs=1e-6)
