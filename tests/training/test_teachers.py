"""Frozen copies of a student."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import tensor_bytes
from avalanche_vlm.training.teachers import Teacher


def inputs(model) -> tuple[torch.Tensor, torch.Tensor]:
    size = model.transforms.eval.size
    return torch.randn(3, 3, size, size), model.tokenize(["a red circle", "a small blue square"])


def outputs(encoder, images, tokens) -> list[torch.Tensor]:
    with torch.no_grad():
        features = encoder.encode_image(images), encoder.encode_text(tokens)
        return [*features, encoder.similarity(*features)]


def step(model, images, tokens) -> None:
    optimizer = torch.optim.SGD(model.trainable_parameters().values(), lr=0.1)
    model.similarity(model.encode_image(images), model.encode_text(tokens)).square().mean().backward()
    optimizer.step()


def test_a_teacher_says_what_its_student_said(random_model):
    images, tokens = inputs(random_model)
    with random_model.evaluating():
        said = outputs(random_model, images, tokens)
    teacher = Teacher(random_model)
    for _ in range(2):
        torch.testing.assert_close(outputs(teacher, images, tokens), said, atol=1e-5, rtol=1e-5)
        step(random_model, images, tokens)
    assert (outputs(random_model, images, tokens)[2] - said[2]).abs().max() > 0.01


def test_refreshed_it_says_what_the_student_says_now(random_model):
    images, tokens = inputs(random_model)
    teacher = Teacher(random_model)
    step(random_model, images, tokens)
    teacher.refresh(random_model)
    with random_model.evaluating():
        said = outputs(random_model, images, tokens)
    step(random_model, images, tokens)
    torch.testing.assert_close(outputs(teacher, images, tokens), said, atol=1e-5, rtol=1e-5)


def test_a_refresh_lets_the_old_copy_go(random_model):
    teacher = Teacher(random_model)
    old = weakref.ref(teacher._held()[0])
    teacher.refresh(random_model)
    gc.collect()
    assert old() is None


def test_no_gradient_reaches_a_teacher_and_none_leaves_it(random_model):
    images, tokens = inputs(random_model)
    images.requires_grad_()
    teacher = Teacher(random_model)
    features = teacher.encode_image(images), teacher.encode_text(tokens)
    logits = teacher.similarity(*features)
    assert not any(x.requires_grad for x in (*features, logits))
    assert all(not p.requires_grad for p in teacher._held())


def test_what_is_frozen_in_the_student_is_shared_and_only_the_rest_is_counted(random_model):
    random_model.freeze("text")
    teacher = Teacher(random_model)
    ours = dict(random_model.named_parameters())
    for name, parameter in teacher._model.named_parameters():
        assert (parameter is ours[name]) == (not ours[name].requires_grad), name
        assert (parameter.data_ptr() == ours[name].data_ptr()) == (not ours[name].requires_grad), name
    image = tensor_bytes(p for _, p in random_model.tower_parameters("image"))
    assert teacher.stored().ram == image + tensor_bytes(random_model.buffers())
    assert image > 100_000
    assert teacher._model.tokenizer is random_model.tokenizer
    assert teacher._model.transforms is random_model.transforms


def test_a_teacher_is_no_part_of_the_model(random_model):
    before = {n: p.requires_grad for n, p in random_model.named_parameters()}
    keys = list(random_model.state_dict())
    random_model.teacher = Teacher(random_model)
    assert {n: p.requires_grad for n, p in random_model.named_parameters()} == before
    assert list(random_model.state_dict()) == keys and random_model.training
    random_model.train()
    assert not any(m.training for m in random_model.teacher._model.modules())


def test_heads_are_not_carried_along(random_model):
    random_model.set_label_space(LabelSpace.from_names([f"class {i}" for i in range(50)]))
    random_model.class_head = nn.Linear(500, 500)
    with random_model.evaluating():
        random_model._head.features(random_model, torch.arange(50))
    teacher = Teacher(random_model)
    assert teacher._model._head._cached is None and len(teacher._model._head.prompts) == 0
    assert teacher._model.class_head is None and random_model.class_head is not None
    assert random_model._head._cached is not None
    assert not hasattr(teacher, "classify")


def test_a_gradient_of_the_student_is_not_copied(random_model):
    images, tokens = inputs(random_model)
    step(random_model, images, tokens)
    assert any(p.grad is not None for p in random_model.parameters())
    assert all(p.grad is None for p in Teacher(random_model)._held())


def test_a_shared_tower_that_trains_later_is_refused(random_model):
    random_model.freeze("text")
    tokens = inputs(random_model)[1]
    teacher = Teacher(random_model)
    teacher.encode_text(tokens)
    random_model.unfreeze("text")
    with pytest.raises(InputError, match=r"shares clip.* with its student, which trains it now"):
        teacher.encode_text(tokens)
    teacher.refresh(random_model)
    teacher.encode_text(tokens)


def test_a_teacher_follows_its_inputs_to_their_device(random_model):
    # A device without data shows where tensors are, on any machine.
    images, tokens = inputs(random_model)
    teacher = Teacher(random_model)
    student = copy.deepcopy(random_model).to("meta")
    random_model.to("meta")
    assert teacher._held()[0].device.type == "cpu"
    features = teacher.encode_image(images.to("meta")), teacher.encode_text(tokens.to("meta"))
    assert all(x.device.type == "meta" for x in (*features, *teacher._held()))
    teacher.refresh(student)
    assert teacher.encode_image(images.to("meta")).device.type == "meta"
