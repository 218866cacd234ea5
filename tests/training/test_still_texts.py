"""What a student with a still text tower says of a set's texts is computed once, and again where anything changes."""

from __future__ import annotations

import pytest
import torch
from recording import Recorder, naive

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.losses.features import feature_l2
from avalanche_vlm.models import encoder
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.training.plugins import DistillationPlugin
from avalanche_vlm.training.reference import ReferenceSet
from avalanche_vlm.training.teachers import InitialTeacher
from avalanche_vlm.training.teachers import still as still_module
from avalanche_vlm.training.teachers.still import StillTexts


@pytest.fixture
def texts(random_model, monkeypatch):
    """Ten texts, which are encoded four by four."""
    monkeypatch.setattr(still_module, "BLOCK", 4)
    return Prompts(random_model.tokenizer([f"a picture of {number} stars" for number in range(10)]))


@pytest.fixture
def encoded(monkeypatch):
    """How many texts the tower took, each time."""
    found: list[int] = []
    encode = encoder.encode_short

    def noted(clip, tokens, *more, **how):
        found.append(len(tokens))
        return encode(clip, tokens, *more, **how)

    monkeypatch.setattr(encoder, "encode_short", noted)
    return found


def test_each_block_is_encoded_once_and_its_texts_have_the_same_bits_whichever_came_first(random_model, texts, encoded):
    model = random_model.freeze("text")
    batches = [torch.tensor([1, 9]), torch.tensor([0, 1, 6]), torch.tensor([2, 9])]
    one, other = StillTexts(), StillTexts()
    forth = [one.features(model, texts, rows) for rows in batches]
    assert encoded == [4, 2, 4]
    whole = other.features(model, texts, slice(None))
    assert encoded[3:] == [4, 4, 2] and not whole.requires_grad
    assert all(torch.equal(features, whole[rows]) for features, rows in zip(forth, batches, strict=True))
    assert torch.allclose(whole, texts.encode(model.encode_text), atol=1e-6)


def test_another_weight_or_precision_or_mode_of_working_is_another_feature(random_model, texts, encoded):
    model, still = random_model.freeze("text"), StillTexts()
    before = still.features(model, texts, slice(None))
    with torch.no_grad():
        model.clip.token_embedding.weight.add_(torch.randn_like(model.clip.token_embedding.weight))
    after = still.features(model, texts, slice(None))
    assert not torch.allclose(before, after, atol=1e-2)
    assert torch.allclose(after, texts.encode(model.encode_text), atol=1e-6)
    del encoded[:]
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(still.features(model, texts, slice(None)), after)
    assert encoded == [4, 4, 2]
    still.forget()
    assert torch.equal(still.features(model, texts, slice(None)), after)


def test_a_tower_that_drops_out_answers_as_it_does_in_evaluation(random_model, texts):
    model = random_model.train()
    for parameter in model.tower("text").parameters():
        parameter.requires_grad_(False)
    model.clip.transformer.register_module("drop", torch.nn.Dropout(0.5))
    model.clip.transformer.register_forward_hook(lambda module, given, out: module.drop(out))
    found = StillTexts().features(model, texts, slice(None))
    assert model.clip.transformer.training and model.clip.transformer.drop.training
    with model.evaluating():
        assert torch.allclose(found, texts.encode(model.encode_text), atol=1e-6)


@pytest.mark.parametrize("kind", ["batch", "all"])
@pytest.mark.parametrize("still", [True, False])
def test_a_loss_has_the_features_that_the_student_gives(random_model, kind, still, encoded):
    benchmark = picturebook.mtil_like(order=["sketches"], n_train=32, n_test=4, n_held_out=4, n_reference=24)
    model = random_model.freeze("text") if still else random_model
    reference = ReferenceSet(model, benchmark.reference, 8, kind)
    seen = []

    def loss(c):
        seen.append(c.student.texts)
        return feature_l2(c.student.images, c.teacher.images) + feature_l2(c.student.texts, c.teacher.texts)

    plugin = DistillationPlugin(model, loss, reference, InitialTeacher())
    asked = []
    take = reference.next
    reference.next = lambda *given: asked.append(take(*given)) or asked[-1]
    steps = Recorder("before_backward", lambda s: asked[-1].texts.encode(s.model.encode_text).detach())
    del encoded[:]
    naive(model, [plugin, steps], lr=1e-3).train(benchmark.train_stream[0])
    assert len(seen) == 2 and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(seen, steps.values, strict=True))
    assert all(features.requires_grad != still for features in seen)
    # Nothing is left at hand when the task is over.
    assert plugin._still._state is None and len(plugin._still._store) == 0
