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
    colours = torch.randn(80, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    images = 3 * colours.expand(-1, -1, 32, 32).contiguous()
    features = model.encode_image(images)
    plain = model.similarity(features, model.class_features(ASKED))
    answers, often = plain.argmax(1).unique(return_counts=True)
    both = int(answers[often.argmin()])  # the name that the stream has as well
    model.set_label_space(LabelSpace.from_names(["star", ASKED.class_names[both]]))
    model.competing.met[:, :] = True
    head = NearestMeanHead()
    head.fit(features[:2], torch.tensor([0, 1]), 2)
    model.class_head = head
    # By the texts, some of these look like the stream's star most of all: a model without a head gives that answer as
    # well, and is asked among the candidates all the same. The head answers for the class that is one of both.
    star = model.similarity(features, model.class_features(STREAM)[:1])[:, 0] >= plain.amax(1)
    taken = plain.argmax(1) == both
    assert star.any() and not star.all() and taken.any() and not taken.all()
    logits = OtherClasses(model, ASKED).logits(images)
    others = [c for c in range(3) if c != both]
    assert torch.equal((logits[:, others] == MASKED).all(1), taken)
    assert torch.equal(logits[~taken], plain[~taken])


class Greedy(torch.nn.Module):
    """Takes for the stream's first class what comes near it, and leaves the rest alone."""

    def __init__(self, margin):
        super().__init__()
        self.margin = margin

    def forward(self, features, logits):
        taken = logits[:, 0] + self.margin >= logits[:, 1:].amax(1)
        return torch.where(taken[:, None] & (torch.arange(logits.shape[1]) > 0), MASKED, logits)


@torch.no_grad()
def test_a_head_is_charged_for_what_it_takes_from_the_asked_classes_and_for_no_more(model):
    images = torch.randn(60, 3, 32, 32)
    plain = OtherClasses(model, ASKED).logits(images)
    star = model.similarity(model.encode_image(images), model.class_features(STREAM)[:1])[:, 0]
    behind = plain.amax(1) - star
    margin = behind[behind > 0].median().item() + 1e-3
    data = list(zip(images, plain.argmax(1).tolist(), strict=True))
    for of, lost in ((0.0, 0), (margin, int(((behind > 0) & (behind <= margin)).sum()))):
        model.class_head = Greedy(of)
        assert 60 * zero_shot_accuracy(model, data, ASKED) == pytest.approx(60 - lost)
    assert lost > 5


@torch.no_grad()
def test_classes_that_were_not_trained_do_not_compete(model):
    model.competing.met[:, :] = False
    model.class_head = Override()
    images = torch.randn(3, 3, 32, 32)
    OtherClasses(model, ASKED).logits(images)
    assert bool((model.class_head.asked[:, 0] == MASKED).all())
