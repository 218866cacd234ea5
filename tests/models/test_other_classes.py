"""Held-out classes asked of a model with a class head."""

from __future__ import annotations

import pytest
import torch
from mini import mini

from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.evaluation.zero_shot import zero_shot_accuracy
from avalanche_vlm.models.competing import MASKED
from avalanche_vlm.models.heads.nearest_mean import NearestMeanHead
from avalanche_vlm.models.other_classes import OtherClasses

STREAM, ASKED = LabelSpace.from_names(["star", "heart"]), LabelSpace.from_names(["cup", "heart", "moon"])


class Override(torch.nn.Module):
    """Answers with the stream's first class, whatever is asked."""

    def forward(self, features, logits):
        self.asked = logits
        answer = torch.full_like(logits, MASKED)
        answer[:, 0] = 1.0
        return answer


@pytest.fixture
def model():
    model = mini().eval().set_label_space(STREAM)
    model.competing.met[:, :] = True
    return model


@torch.no_grad()
def test_a_head_that_answers_everything_itself_shows_erosion(model):
    images = torch.randn(6, 3, 32, 32)
    plain = OtherClasses(model, ASKED).logits(images)
    texts = model.class_features(ASKED)
    assert torch.equal(plain, model.similarity(model.encode_image(images), texts))
    data = list(zip(images, plain.argmax(1).tolist(), strict=True))
    assert zero_shot_accuracy(model, data, ASKED) == 1
    model.class_head = Override()
    assert zero_shot_accuracy(model, data, ASKED) == 0  # without the head on the way it would be 1 still
    # A name that both label spaces have is one class; all others of the question come behind the stream's.
    torch.testing.assert_close(model.class_head.asked[:, [2, 1, 3]], plain)


@torch.no_grad()
def test_a_fitted_head_takes_what_looks_like_its_own(model):
    images = torch.randn(40, 3, 32, 32)
    features = model.encode_image(images)
    head = NearestMeanHead()
    head.fit(features[:2], torch.tensor([0, 1]), 2)
    model.class_head = head
    # By the texts, some of these look like the stream's star most of all: the head has an answer for those.
    texts = torch.cat([model.class_features(STREAM)[:1], model.class_features(ASKED)])
    star = model.similarity(features, texts).argmax(1) == 0
    heart = model.similarity(features, texts).argmax(1) == 2
    logits = OtherClasses(model, ASKED).logits(images)
    taken = star | heart
    assert torch.equal((logits[:, [0, 2]] == MASKED).all(1), taken)
    plain = model.similarity(features, model.class_features(ASKED))
    assert torch.equal(logits[~taken], plain[~taken])


@torch.no_grad()
def test_classes_that_were_not_trained_do_not_compete(model):
    model.competing.met[:, :] = False
    model.class_head = Override()
    images = torch.randn(3, 3, 32, 32)
    OtherClasses(model, ASKED).logits(images)
    assert bool((model.class_head.asked[:, 0] == MASKED).all())
