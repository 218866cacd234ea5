"""What guessing comes to, and when a score is no better."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mini import unbalanced
from scipy.special import betainc
from scipy.stats import binomtest

from avalanche_vlm.benchmarks import LabelSpace, VLMBenchmark
from avalanche_vlm.benchmarks.scenario import ImageDataset, as_experience_data
from avalanche_vlm.evaluation import chance
from avalanche_vlm.evaluation.binomial import binomial_interval, incomplete_beta
from avalanche_vlm.evaluation.chance import Guess, guessed_pairs, guesses, remarks, verdict
from avalanche_vlm.evaluation.retrieval import mean_hit_at_1
from avalanche_vlm.losses.identity import pair_number
from avalanche_vlm.models.competing import CompetingClasses


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 300), st.floats(0, 1))
def test_the_interval_is_that_of_scipys_exact_test(samples, share):
    right = round(share * samples)
    exact = binomtest(right, samples).proportion_ci(0.95, method="exact")
    assert binomial_interval(right, samples) == pytest.approx((exact.low, exact.high), abs=1e-9)


@settings(deadline=None, max_examples=200)
@given(st.floats(1e-9, 1 - 1e-9), st.floats(0.5, 1e5), st.floats(0.5, 1e5))
def test_the_incomplete_beta_function_is_scipys(x, a, b):
    assert incomplete_beta(x, a, b) == pytest.approx(betainc(a, b, x), abs=1e-8)
    assert incomplete_beta(a / (a + b), a, b) == pytest.approx(betainc(a, b, a / (a + b)), abs=1e-8)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.sampled_from([0.1, 0.25, 0.5, 0.8]))
def test_at_chance_is_what_the_binomial_test_says(right, level):
    found = verdict([right / 60], [Guess(4, 60, level)])
    assert found.at_chance == (binomtest(right, 60, level, alternative="greater").pvalue > 0.025)


def test_a_guesser_on_tasks_of_different_chances_is_seldom_above_them():
    rng = np.random.default_rng(0)
    of = [Guess(2, 40, 0.5), Guess(10, 120, 0.1), Guess(3, 25, 0.6)]
    guessed = [[rng.binomial(g.samples, g.level) / g.samples for g in of] for _ in range(400)]
    assert np.mean([not verdict(scores, of).at_chance for scores in guessed]) <= 0.03


def exactly(labels: list[list[int]], competing: list[list[int]], one_answer: bool) -> float:
    """The best mean score over tasks of a guesser who draws from all, or answers with one class (per task, or one for
    all tasks), by trying all of them."""
    drawn = np.mean([1 / len(of) for of in competing])
    if one_answer:
        constant = max(np.mean([np.mean(np.array(y) == c) for y in labels]) for c in set().union(*competing))
    else:
        constant = np.mean(
            [max(np.mean(np.array(y) == c) for c in of) for y, of in zip(labels, competing, strict=True)]
        )
    return max(drawn, constant)


@pytest.mark.parametrize("visible", ["task", "seen", "union"])
def test_levels_are_those_of_the_best_guesser(tiny_benchmark, visible):
    stream = unbalanced(tiny_benchmark, visible)
    space = stream.label_space
    labels = [[int(y) for y in experience.dataset.targets] for experience in stream.test_stream]
    competing = [list(of) for of in space.tasks] if visible == "task" else [list(range(len(space)))] * len(labels)
    of = guesses(stream)
    assert np.mean([g.level for g in of]) == pytest.approx(exactly(labels, competing, visible != "task"))
    assert [(g.classes, g.samples) for g in of] == [(len(c), len(y)) for c, y in zip(competing, labels, strict=True)]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_pairs_are_guessed_as_retrieval_counts_ties_of_all_with_all(rows):
    """Image 0 stands for one that is known from no other row."""
    ids = [pair_number(*row) for row in rows]
    alike = torch.ones(len(ids), 2)
    assert guessed_pairs(ids).level == pytest.approx(mean_hit_at_1(alike, alike, torch.tensor(ids)))
    assert guessed_pairs(ids).classes == len({caption for _, caption in rows})


@pytest.mark.parametrize(("visible", "classes"), [("task", [3, 2]), ("seen", [3, 5]), ("union", [6, 6])])
def test_the_classes_that_compete_at_the_end_are_counted(visible, classes):
    """A stream that trains the first of three tasks, and tests the second too: samples of a task that is not trained
    have its own classes besides, as in the model."""
    space = LabelSpace(tuple("abcdef"), ((0, 1, 2), (3, 4), (5,)), visible)
    train, test = ([data(task, space) for task in tasks] for tasks in ([0], [0, 1]))
    stream = VLMBenchmark("s", "classes", train, test, label_space=space, task_names=["one"])
    model = CompetingClasses(space)
    model.meet(stream.train_stream[0])
    model.eval()
    counted = [int(model.of(torch.tensor([task])).sum()) for task in (0, 1)]
    of = guesses(stream)
    assert [guess.classes for guess in of] == counted == classes
    if visible == "task":
        assert [guess.level for guess in of] == [pytest.approx(1 / n) for n in classes]


@pytest.mark.parametrize("visible", ["task", "seen", "union"])
def test_rows_in_which_one_class_alone_competes_are_those_of_the_model(visible):
    space = LabelSpace(tuple("abcd"), ((0,), (1,), (2, 3)), visible)
    train, test = ([data(task, space) for task in range(3)] for _ in range(2))
    stream = VLMBenchmark("s", "classes", train, test, label_space=space, task_names=["one", "two", "three"])
    model = CompetingClasses(space)
    alone = [[], [], []]
    for row in range(4):
        model.eval()
        for task in range(3):
            if int(model.of(torch.tensor([task])).sum()) == 1:
                alone[task].append(row)
        model.train()
        if row < 3:
            model.meet(stream.train_stream[row])
    of = guesses(stream)
    assert [list(guess.alone) for guess in of] == alone
    stored = {"tasks": ["one", "two", "three"], "chance": [guess.as_json() for guess in of]}
    assert [guess.alone for guess in chance.guesses_of(stored)] == [guess.alone for guess in of]
    said = " ".join(chance.certain(stored["tasks"], of))
    if visible == "seen":
        assert alone == [[0, 1], [0], []] and "competes on one (rows 0, 1), two (row 0), where" in said
    else:
        assert ("One class alone competes on one, two:" in said) == (visible == "task") and "row" not in said


def test_captions_that_are_all_the_same_are_no_class():
    same = guessed_pairs([1 << 32 | 5, 2 << 32 | 5, 3 << 32 | 5])
    assert same.level == 1.0
    found = result("a", [100.0, 90.0], (1, 3, 1.0), (3, 3, 1 / 3))
    found["protocol"]["label_space"] = None
    assert remarks([found])[0] == (
        "All test pairs of cats share one caption or one picture: every answer is right, and a score of 100 says "
        "nothing."
    )


def test_samples_of_several_tasks_in_one_test_set():
    space = LabelSpace(tuple("abcde"), ((0, 1, 2), (3, 4)), "task")
    joined = data(0, space).concat(data(1, space))
    stream = VLMBenchmark("s", "classes", [data(0, space)], [joined], label_space=space, task_names=["one"])
    (guess,) = guesses(stream)
    assert (guess.classes, guess.samples) == (3, 10) and guess.level == pytest.approx((6 / 3 + 4 / 2) / 10)


def data(task: int, space: LabelSpace):
    """Two samples of every class of a task."""
    y = [c for c in space.tasks[task] for _ in range(2)]
    return as_experience_data(ImageDataset(torch.zeros(len(y), 3, 2, 2), y), float, float, task)


def test_pairs_are_guessed_by_drawing_a_picture(tiny_pairs):
    """By trying every pair of a caption and a picture."""
    for experience, guess in zip(tiny_pairs.test_stream, guesses(tiny_pairs), strict=True):
        ids = [int(y) for y in experience.dataset.targets]
        assert guess.level == pytest.approx(np.mean([a == b for a, b in itertools.product(ids, ids)]))


def result(recipe: str, last: list[float], *levels: tuple[int, int, float], tasks=("cats", "dogs")) -> dict:
    return {
        "protocol": {"recipe": recipe},
        "tasks": list(tasks),
        "matrix": [[0.0] * len(last)] * len(last) + [last],
        "chance": [Guess(*of).as_json() for of in levels],
    }


TWO = ((2, 40, 0.5), (2, 40, 0.5))


def test_a_recipe_at_chance_is_said_with_its_interval():
    (sentence,) = remarks([result("zero-shot", [50.0, 50.0], *TWO)])
    assert sentence == (
        "zero-shot ends at chance, as far as the test samples tell: 50.0 % of 80 test samples right (95 % interval "
        "38.6 to 61.4), where guessing comes to 50.0 %."
    )
    assert remarks([result("lora", [90.0, 85.0], *TWO)]) == []


def test_all_at_chance_is_said_once_and_one_of_several_by_its_name():
    low, high = result("zero-shot", [50.0, 47.5], *TWO), result("lora", [90.0, 85.0], *TWO)
    (sentence,) = remarks([low, {**low, "protocol": {"recipe": "fine-tune"}}])
    assert sentence.startswith("No recipe ends above chance, as far as the test samples tell: the best has 48.8 %")
    (sentence,) = remarks([low, high])
    assert sentence.startswith("zero-shot ends at chance")
    # One seed above is enough not to say it of a recipe.
    assert remarks([low, {**high, "protocol": {"recipe": "zero-shot"}}]) == []


def test_results_go_by_the_names_that_they_are_given():
    low, high = result("lora", [50.0, 47.5], *TWO), result("lora", [90.0, 85.0], *TWO)
    without = {**low, "chance": None}
    assert remarks([without, low, high]) == []
    (sentence,) = remarks([without, low, high], ["lora (c)", "lora (a)", "lora (b)"])
    assert sentence.startswith("lora (a) ends at chance")


def test_a_task_that_nobody_learns_is_named():
    (sentence,) = remarks([result("a", [90.0, 52.5], *TWO), result("b", [95.0, 47.5], *TWO)])
    assert sentence == "The test samples tell no recipe from guessing on dogs (50.0 %)."


def test_one_class_alone_says_nothing():
    found = remarks([result("a", [100.0, 90.0], (1, 40, 1.0), (2, 40, 0.5))])
    assert found == ["One class alone competes on cats: every answer is right, and a score of 100 says nothing."]
    found = remarks([result("a", [100.0, 90.0], (3, 40, 1.0), (2, 40, 0.5))])
    assert found == ["All test samples of cats are of one class: whoever always answers with it has 100."]
    assert verdict([1.0], [Guess(1, 40, 1.0)]) is None


def test_results_without_the_field_or_with_nonsense_in_it_say_nothing():
    good = result("a", [50.0, 50.0], *TWO)
    for wrong in (None, 3, [], [{}], [{}, {}], [{"classes": 2, "samples": 0, "level": 50.0}] * 2):
        assert remarks([{**good, "chance": wrong}]) == []
    assert chance.guesses_of({"tasks": []}) is None
