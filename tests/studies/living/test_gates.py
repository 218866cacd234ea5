"""A new version is judged by what it lost, and by nothing that nobody knows."""

from __future__ import annotations

import pytest
import torch

from avalanche_vlm.studies.living.answers import SampleAnswers
from avalanche_vlm.studies.living.gates import judge_gate, why_not
from avalanche_vlm.studies.living.updating import promotes


def answered(right: int, of: int) -> SampleAnswers:
    marks = torch.tensor([1.0] * right + [0.0] * (of - right), dtype=torch.float64)
    ids = torch.zeros(of, dtype=torch.long)
    return SampleAnswers(marks, ids, ids, torch.zeros(of, 2))


def test_a_loss_above_the_limit_breaks_it_and_the_sentence_says_by_how_much_and_how_sure():
    before, after = (
        {"may": answered(90, 100), "june": answered(80, 100)},
        {"may": answered(88, 100), "june": answered(70, 100)},
    )
    found = judge_gate("forget", 2.0, before, after)
    assert found.verdict == "broken" and found.mean.loss == pytest.approx(6.0)
    assert found.sentence.startswith("forget: earlier experiences lost 6.0 points (95 % interval ")
    assert "200 samples), june the most with 10.0, above the limit of 2" in found.sentence
    assert found.sentence.endswith("above the limit of 2") == (found.mean.low > 2)
    assert judge_gate("forget", 6.5, before, after).verdict == "kept"
    assert judge_gate("forget", 6.0, before, after).verdict == "kept"  # a loss of the limit itself does not break it
    assert judge_gate("forget", None, before, after).verdict == "off"


def test_few_samples_are_too_few_to_be_sure_and_many_are_not():
    few = judge_gate("forget", 2.0, {"may": answered(9, 10)}, {"may": answered(9, 10)})
    assert few.verdict == "kept" and few.sentence.endswith("the samples are too few to be sure of it")
    many = judge_gate("forget", 2.0, {"may": answered(9000, 10000)}, {"may": answered(9000, 10000)})
    assert many.sentence.endswith("within the limit of 2")
    sure = judge_gate("forget", 2.0, {"may": answered(900, 1000)}, {"may": answered(300, 1000)})
    assert sure.verdict == "broken" and sure.sentence.endswith("above the limit of 2")


def test_a_gain_is_called_one():
    found = judge_gate("zero-shot loss", 1.0, {"captions": answered(50, 100)}, {"captions": answered(60, 100)})
    assert found.verdict == "kept" and "held-out sets gained 10.0 points" in found.sentence


def test_what_nobody_knows_is_not_judged():
    found = judge_gate("forget", 2.0, {}, {}, ["may", "june"])
    assert found.verdict == "unjudged" and found.untold == ["may", "june"] and found.mean is None
    assert found.sentence == "nothing says what became of earlier experiences: no test samples of may, june were kept"
    some = judge_gate("forget", 2.0, {"may": answered(9, 10)}, {"may": answered(9, 10)}, ["june"])
    assert some.verdict == "kept" and "nothing says what became of june" in some.sentence
    assert judge_gate("forget", None, {}, {}, ["may"]).verdict == "off"


@pytest.mark.parametrize(
    ("forget", "zero_shot", "asked", "expected"),
    [
        ("kept", "kept", False, {"judged": True, "unjudged": True, "always": True, "never": False}),
        ("broken", "kept", False, {"judged": False, "unjudged": False, "always": True, "never": False}),
        ("kept", "broken", False, {"judged": False, "unjudged": False, "always": True, "never": False}),
        ("unjudged", "kept", False, {"judged": False, "unjudged": True, "always": True, "never": False}),
        ("kept", "unjudged", False, {"judged": True, "unjudged": True, "always": True, "never": False}),
        ("kept", "unjudged", True, {"judged": False, "unjudged": True, "always": True, "never": False}),
        ("off", "off", True, {"judged": True, "unjudged": True, "always": True, "never": False}),
    ],
)
def test_who_is_promoted(forget, zero_shot, asked, expected):
    findings = []
    for gate, verdict in (("forget", forget), ("zero-shot loss", zero_shot)):
        found = judge_gate(gate, 2.0, {"a": answered(9, 10)}, {"a": answered(9, 10)})
        findings.append(found.model_copy(update={"verdict": verdict}))
    assert {how: promotes(findings, how, asked) for how in expected} == expected


def test_a_refusal_names_the_limit_that_broke_and_not_what_was_merely_not_measured():
    broken = judge_gate("forget", 2.0, {"may": answered(90, 100)}, {"may": answered(10, 100)})
    unknown = judge_gate("zero-shot loss", 1.0, {}, {})
    assert unknown.verdict == "unjudged"
    assert why_not([broken, unknown]) == broken.sentence
    assert why_not([unknown]) == unknown.sentence
    assert why_not([judge_gate("forget", None, {}, {})]) == ""
