"""The gate: what is not seen keeps the zero-shot logits, and what is seen gets the mixture."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import MASKED
from avalanche_vlm.models.heads.analytic import AnalyticHead, KernelRidge, NearestClassMean, RecursiveRidge
from avalanche_vlm.models.heads.analytic.gate import SMALLEST, fuse, log_scores


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, labels of which 1 and 3 are learned, and zero-shot logits over five classes."""
    centres = F.normalize(torch.randn(2, 16), dim=1)
    y = torch.arange(40) % 2
    return F.normalize(centres[y] + 0.2 * torch.randn(40, 16), dim=1), 1 + 2 * y, 3 * torch.randn(40, 5)


@pytest.mark.parametrize("estimator", [RecursiveRidge(32), KernelRidge(), NearestClassMean()])
def test_seen_answers_are_mixed_and_others_are_not_touched(data, estimator):
    x, y, logits = data
    head = AnalyticHead(estimator, 0.8)
    head.fit(x, y)
    out = head(x, logits)
    seen = torch.isin(logits.argmax(1), torch.tensor([1, 3]))
    assert 0 < seen.sum() < 40
    assert torch.equal(out[~seen], logits[~seen])
    mixed = 0.2 * logits.double().softmax(1)
    mixed[:, [1, 3]] += 0.8 * estimator(x)[:, [1, 3]].double()
    assert torch.equal(out[seen].argmax(1), mixed[seen].argmax(1))
    # Where all of a row is a probability, so is the answer.
    proper = seen & (mixed > SMALLEST).all(1)
    assert proper.any()
    expected = mixed[proper] / mixed[proper].sum(1, keepdim=True)
    torch.testing.assert_close(out[proper].double().softmax(1), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(out[seen].logsumexp(1), torch.zeros(int(seen.sum())), atol=1e-5, rtol=0)


def test_each_sample_is_answered_for_itself(data):
    x, y, logits = data
    head = AnalyticHead(RecursiveRidge(32))
    head.fit(x, y)
    together = head(x, logits)
    for row in range(len(x)):
        torch.testing.assert_close(head(x[row : row + 1], logits[row : row + 1])[0], together[row], atol=1e-5, rtol=0)


def test_what_does_not_compete_is_no_answer_and_no_measure(data):
    x, y, logits = data
    head = AnalyticHead(NearestClassMean(), 1.0)
    head.fit(x, y)
    task = logits.clone()
    task[:, [0, 1]] = MASKED
    out = head(x, task)
    assert (out[:, [0, 1]] == MASKED).all()
    seen = task.argmax(1) == 3
    # 3 is the only class that was learned and competes.
    assert torch.equal(out[seen], torch.tensor([MASKED, MASKED, MASKED, 0.0, MASKED]).expand(int(seen.sum()), 5))
    assert torch.equal(out[~seen], task[~seen])


def test_with_the_weight_one_it_is_the_estimator_alone(data):
    x, y, logits = data
    head = AnalyticHead(NearestClassMean(), 1.0)
    head.fit(x, y)
    logits[:, 3] = 10
    out = head(x, logits)
    assert (out[:, [0, 2, 4]] == MASKED).all()
    torch.testing.assert_close(out.softmax(1), F.pad(head.estimator(x), (0, 1)).float(), atol=1e-4, rtol=0)
    assert torch.equal(out.argmax(1), y)


def test_with_the_weight_zero_it_is_the_zero_shot_answer(data):
    x, y, logits = data
    head = AnalyticHead(RecursiveRidge(8), 0.0)
    head.fit(x, y)
    torch.testing.assert_close(head(x, logits).softmax(1), logits.softmax(1), atol=1e-4, rtol=0)


def test_before_anything_is_learned_the_logits_are_the_models(data):
    x, _, logits = data
    assert AnalyticHead(RecursiveRidge(8))(x, logits) is logits


def test_scores_keep_their_order_and_small_ones_their_slope():
    scores = torch.linspace(-2, 1, 3001).double()
    assert (log_scores(scores).diff() > 0).all()
    around = torch.tensor([SMALLEST], dtype=torch.float64).requires_grad_()
    for shift in (-1e-12, 1e-12):
        (slope,) = torch.autograd.grad(log_scores(around + shift).sum(), around)
        assert slope.item() == pytest.approx(1 / SMALLEST, rel=1e-6)
    assert log_scores(torch.tensor(0.25)).item() == pytest.approx(-1.3862944)


def test_half_precision_does_not_reach_the_mixture(data):
    x, y, logits = data
    head = AnalyticHead(RecursiveRidge(32, precision="float32"))
    head.fit(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(x, logits), head(x, logits.clone()))
        cast = head(x, logits)
    assert torch.equal(cast, head(x, logits)) and cast.dtype == torch.float32


def test_a_head_is_saved_with_its_model(random_model, data):
    x, y, logits = data
    head = AnalyticHead(RecursiveRidge(16))
    head.fit(x, y)
    random_model.class_head = head
    state = random_model.state_dict()
    assert not any(name.startswith("class_head") for name, _ in random_model.named_parameters())
    random_model.class_head = fresh = AnalyticHead(RecursiveRidge(16, seed=9))
    random_model.load_state_dict(state)
    for other in (fresh, copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(other(x, logits), head(x, logits))
    assert head.stored() == head.estimator.stored()


def test_what_does_not_fit_is_refused(data):
    x, y, logits = data
    head = AnalyticHead(NearestClassMean())
    head.fit(x, y)
    with pytest.raises(InputError, match="learned class id 3, but there are only 3 classes"):
        head(x, logits[:, :3])
    with pytest.raises(InputError, match=r"from 0 to 1, not 1\.5"):
        AnalyticHead(NearestClassMean(), 1.5)


def test_fusion_by_hand():
    logits = torch.tensor([[0.0, 0.0, MASKED]])
    out = fuse(logits, torch.tensor([[0.9, 5.0, 5.0]]), torch.tensor([True, False, True]), 0.5)
    # 0.25 + 0.45 against 0.25: the second class is not known, and the third does not compete.
    torch.testing.assert_close(out.softmax(1), torch.tensor([[0.70 / 0.95, 0.25 / 0.95, 0.0]]))
