"""The nearest mean of exemplars."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestCentroid

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import MASKED
from avalanche_vlm.models.heads.nearest_mean import NearestMeanHead


@pytest.fixture
def features() -> tuple[torch.Tensor, torch.Tensor]:
    centres = F.normalize(torch.randn(4, 16), dim=1)
    y = torch.arange(80) % 4
    return F.normalize(centres[y] + 0.15 * torch.randn(80, 16), dim=1), y


def test_with_all_classes_known_it_is_the_nearest_centroid(features):
    x, y = features
    head = NearestMeanHead()
    head.fit(x[:40], y[:40], 4)
    answers = head(x[40:], torch.randn(40, 4)).argmax(1)
    means = torch.stack([F.normalize(x[:40][y[:40] == c].mean(0), dim=0) for c in range(4)])
    reference = NearestCentroid().fit(means, range(4))
    assert answers.tolist() == reference.predict(x[40:]).tolist()
    assert (answers == y[40:]).float().mean() > 0.9


def test_unknown_classes_keep_the_zero_shot_answer_sample_by_sample(features):
    x, _ = features
    head = NearestMeanHead(scale=50)
    head.fit(x[:2], torch.tensor([0, 2]), 4)
    logits = torch.tensor([[9.0, 1, 2, 3], [1, 9, 2, 3], [1, 2, 9, MASKED], [MASKED, 8, 9, 1]])
    out = head(x[:4], logits)
    assert torch.equal(out[1], logits[1])
    for row in (0, 2):
        torch.testing.assert_close(out[row, [0, 2]], 50 * x[row] @ x[:2].T)
        assert (out[row, [1, 3]] == MASKED).all()
    assert out[3].argmax() == 2 and (out[3, [0, 1, 3]] == MASKED).all()
    for row in range(4):
        torch.testing.assert_close(head(x[row : row + 1], logits[row : row + 1])[0], out[row])


def test_an_empty_head_changes_nothing():
    logits = torch.randn(3, 5)
    assert NearestMeanHead()(torch.randn(3, 8), logits) is logits


def test_stored_bytes_and_wrong_ids(features):
    x, y = features
    head = NearestMeanHead()
    head.fit(x, y, 5)
    assert head.stored().ram == 5 * 16 * 4 + 5
    with pytest.raises(InputError, match="class id 3, but there are only 2"):
        head.fit(x, y, 2)


def test_half_precision_does_not_reach_the_cosines(features):
    # Classes a hundredth apart: bf16 has two decimal digits.
    centre = F.normalize(torch.randn(1, 16), dim=1)
    means = F.normalize(centre + 0.01 * torch.randn(20, 16), dim=1)
    head = NearestMeanHead()
    head.fit(means, torch.arange(20), 20)
    logits = torch.zeros(20, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answers = head(means, logits)
    assert torch.equal(answers.argmax(1), torch.arange(20))
    torch.testing.assert_close(answers, 100 * means @ means.T, atol=1e-4, rtol=0)


def test_a_head_is_saved_with_its_model(random_model, features):
    x, y = features
    head = NearestMeanHead()
    head.fit(x, y, 5)
    random_model.class_head = head
    state = random_model.state_dict()
    fresh = NearestMeanHead()
    random_model.class_head = fresh
    random_model.load_state_dict(state)
    logits = torch.randn(6, 5)
    assert torch.equal(fresh(x[:6], logits), head(x[:6], logits)) and fresh.known.tolist() == [True] * 4 + [False]
