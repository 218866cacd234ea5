"""Frozen copies of a student, and who the student is compared with."""

from __future__ import annotations

import copy
import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import tensor_bytes
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.training.reference import Inputs
from avalanche_vlm.training.teachers import (
    InitialTeacher,
    MomentumTeacher,
    MovingAverageTeacher,
    PreviousTeacher,
    Teacher,
)


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


def encoder_calls(model) -> dict[str, list[int]]:
    """How many images and texts each call of the towers gets from now on."""
    calls: dict[str, list[int]] = {"image": [], "text": []}
    for kind, first in (("image", model.clip.visual), ("text", model.clip.token_embedding)):
        sizes = calls[kind]
        first.register_forward_pre_hook(lambda _, inputs, sizes=sizes: sizes.append(len(inputs[0])))
    return calls


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
        random_model.text_head.features(random_model, torch.arange(50))
    teacher = Teacher(random_model)
    assert not teacher._model.text_head._cached and len(teacher._model.text_head.prompts) == 0
    assert teacher._model.class_head is None and random_model.class_head is not None
    assert random_model.text_head._cached
    assert not hasattr(teacher, "classify")


def test_a_gradient_of_the_student_is_not_copied(random_model):
    images, tokens = inputs(random_model)
    step(random_model, images, tokens)
    assert any(p.grad is not None for p in random_model.parameters())
    assert all(p.grad is None for p in Teacher(random_model)._held())


def test_a_fused_step_on_a_shared_weight_is_refused(random_model):
    random_model.freeze("text")
    tokens = inputs(random_model)[1]
    teacher = Teacher(random_model)
    teacher.encode_text(tokens)
    weight = random_model.clip.token_embedding.weight
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], lr=0.1, fused=True).step()
    with pytest.raises(InputError, match="was written to since"):
        teacher.encode_text(tokens)


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


def test_frozen_weights_that_were_written_to_are_no_longer_the_teachers(random_model):
    random_model.freeze("text")
    images, tokens = inputs(random_model)
    teacher = Teacher(random_model)
    step(random_model, images, tokens)  # trains the image tower, which is not shared
    teacher.encode_text(tokens)
    with torch.no_grad():
        random_model.clip.token_embedding.weight.mul_(2)
    with pytest.raises(InputError, match=r"shares clip\.token_embedding\.weight, which is frozen.*but was written to"):
        teacher.encode_text(tokens)
    teacher.refresh(random_model)
    teacher.encode_text(tokens)


class Pairs:
    """A reference of B images and N texts that are known from the start, made as a task starts, or new every time."""

    def __init__(self, model, lifetime: str, numbered: bool = False) -> None:
        self.images, self.tokens = inputs(model)
        self.lifetime, self.numbered = lifetime, numbered

    def chunks(self, size: int = 256):
        if self.lifetime != "batch":
            yield Inputs(self.images[:2])
            yield Inputs(self.images[2:], Prompts(self.tokens))

    def next(self) -> Inputs:
        if self.lifetime == "batch":
            return Inputs(self.images, Prompts(self.tokens), text_rows=torch.arange(2) if self.numbered else None)
        rows = torch.tensor([2, 0])
        return Inputs(self.images[rows], Prompts(self.tokens), image_rows=rows, text_rows=slice(None))


def says(side) -> list[torch.Tensor]:
    return [side.images, side.texts, side.logits]


def said_by(model, given: Inputs) -> list[torch.Tensor]:
    with model.evaluating():
        return outputs(model, given.images, given.texts.tokens)


def close(found, expected) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


LIFETIMES = ("always", "task", "batch")


@pytest.mark.slow
@pytest.mark.parametrize("lifetime", LIFETIMES)
@pytest.mark.parametrize("policy", [InitialTeacher, PreviousTeacher])
@pytest.mark.parametrize("freeze", [(), ("text",)])
def test_initial_and_previous_teachers_are_the_student_of_then(random_model, policy, lifetime, freeze):
    model, teacher = random_model.freeze(*freeze), policy()
    if not freeze:
        model.unfreeze("scale")  # a scale that trains is the teacher's own as well
    reference = Pairs(model, lifetime, numbered=True)
    moments = [copy.deepcopy(model)]
    teacher.prepare(model, reference)
    for task in range(3):
        step(model, reference.images, reference.tokens)  # between tasks, so that "as given" and "at start" differ
        moments.append(copy.deepcopy(model))
        teacher.start(model, reference, nullcontext())
        for _ in range(2):
            given = reference.next()
            expected = said_by(moments[0 if policy is InitialTeacher else task + 1], given)
            found = says(teacher.side(given))
            close(found, expected)
            assert not any(x.requires_grad for x in found)
            step(model, reference.images, reference.tokens)
            teacher.follow(model)
        assert (said_by(model, given)[0] - expected[0]).abs().max() > 1e-3
        teacher.end()
    assert (teacher.stored().total == 0) == (policy is PreviousTeacher)


@pytest.mark.parametrize("policy", [InitialTeacher, PreviousTeacher])
def test_of_a_set_no_copy_of_the_weights_is_kept_and_every_input_is_encoded_once(random_model, policy):
    calls = encoder_calls(random_model)
    teacher, reference = policy(), Pairs(random_model, "always")
    teacher.prepare(random_model, reference)
    for _ in range(2):
        teacher.start(random_model, reference, nullcontext())
        for _ in range(4):
            says(teacher.side(reference.next()))
        assert teacher._copy is None
        teacher.end()
    passes = 1 if policy is InitialTeacher else 2
    assert calls["image"] == [2, 1] * passes and calls["text"] == [2] * passes


@pytest.mark.parametrize("policy", [InitialTeacher, PreviousTeacher])
def test_of_new_batches_only_texts_that_come_again_are_remembered(random_model, policy):
    teacher, reference = policy(), Pairs(random_model, "batch", numbered=True)
    teacher.prepare(random_model, reference)
    for _ in range(2):
        teacher.start(random_model, reference, nullcontext())
        calls = encoder_calls(teacher._copy._model)
        for _ in range(3):
            says(teacher.side(reference.next()))
        assert calls == {"image": [3] * 3, "text": [2]}
        teacher.end()  # the next task's texts have numbers of their own
    own = tensor_bytes([*random_model.trainable_parameters().values(), *random_model.buffers()])
    assert teacher.stored().ram == (own if policy is InitialTeacher else 0)


def test_features_past_the_limit_lie_on_disk(random_model, tmp_path):
    teacher, reference = InitialTeacher(max_bytes=0, folder=tmp_path), Pairs(random_model, "always")
    teacher.prepare(random_model, reference)
    teacher.start(random_model, reference, nullcontext())
    given = reference.next()
    close(says(teacher.side(given)), said_by(random_model, given))
    assert len(list(tmp_path.iterdir())) == 1
    width = teacher.side(given).images.shape[1]
    assert teacher.stored().disk == 4 * width * (3 + 2)


def test_what_is_not_asked_for_is_not_encoded(random_model):
    reference = Pairs(random_model, "batch")
    for teacher in (PreviousTeacher(), MovingAverageTeacher()):
        teacher.start(random_model, reference, nullcontext())
        calls = encoder_calls(teacher._copy._model)
        side = teacher.side(reference.next())
        assert calls == {"image": [], "text": []}
        assert side.images is side.images and len(side.logits) == 3
        assert calls == {"image": [3], "text": [2]}
        assert teacher.side(Inputs(reference.images)).images.shape == side.images.shape
        with pytest.raises(InputError, match="compares texts, and its reference has none"):
            _ = teacher.side(Inputs(reference.images)).texts
        with pytest.raises(InputError, match="compares images, and its reference has none"):
            _ = teacher.side(Inputs(texts=Prompts(reference.tokens))).images


def trained(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().double() for name, p in model.trainable_parameters().items()}


@pytest.mark.parametrize("restart", [False, True])
def test_the_moving_average_is_its_closed_form(random_model, restart):
    model, decay = random_model.freeze("text"), 0.7
    reference = Pairs(model, "batch")
    teacher = MovingAverageTeacher(decay, restart)
    teacher.prepare(model, reference)
    seen = []
    for _ in range(2):
        teacher.start(model, reference, nullcontext())
        if restart or not seen:
            seen = [trained(model)]
        for _ in range(3):
            step(model, reference.images, reference.tokens)
            teacher.follow(model)
            seen.append(trained(model))
        n = len(seen) - 1
        weights = [decay**n] + [(1 - decay) * decay ** (n - i) for i in range(1, n + 1)]
        assert sum(weights) == pytest.approx(1)
        for name, average in teacher._copy.own().items():
            expected = sum(w * state[name] for w, state in zip(weights, seen, strict=True))
            torch.testing.assert_close(average.double(), expected, atol=1e-6, rtol=1e-5)
        assert set(teacher._copy.own()) == set(seen[0])  # the frozen tower is shared, and nothing of it is averaged
        found = says(teacher.side(reference.next()))
        assert not any(x.requires_grad for x in found)
        assert (found[0] - said_by(model, reference.next())[0]).abs().max() > 1e-4
        teacher.end()
        assert (teacher.stored().total == 0) == restart


def test_the_compatible_momentum_is_a_plain_loop_over_the_weights(random_model):
    model, decay, first = random_model, 0.8, 0.6
    reference, teacher = Pairs(model, "batch"), MomentumTeacher(decay, first)
    teacher.prepare(model, reference)
    for task in range(3):
        teacher.start(model, reference, nullcontext())
        momentum = previous = trained(model)
        for _ in range(2):
            step(model, reference.images, reference.tokens)
            teacher.follow(model)
            new = trained(model)
            if task == 0:
                momentum = {n: first * m + (1 - first) * new[n] for n, m in momentum.items()}
            else:
                share = (1 - decay) / 2
                momentum = {n: decay * m + share * new[n] + share * previous[n] for n, m in momentum.items()}
        for name, found in teacher._copy.own().items():
            torch.testing.assert_close(found.double(), momentum[name], atol=1e-6, rtol=1e-5)
        teacher.end()
        assert teacher.stored().total == 0


def test_a_task_that_was_interrupted_leaves_no_average_to_the_next(random_model):
    reference, teacher = Pairs(random_model, "batch"), MomentumTeacher()
    teacher.start(random_model, reference, nullcontext())
    step(random_model, reference.images, reference.tokens)
    teacher.start(random_model, reference, nullcontext())
    close(says(teacher.side(reference.next())), said_by(random_model, reference.next()))


def test_statistics_of_normalisation_layers_are_those_of_the_student(random_model):
    random_model.clip.visual.norm = nn.BatchNorm1d(4)
    teacher = MovingAverageTeacher(0.5)
    teacher.start(random_model, Pairs(random_model, "batch"), nullcontext())
    random_model.clip.visual.norm(torch.randn(8, 4) + 3)
    teacher.follow(random_model)
    mine = teacher._copy._model.clip.visual.norm
    assert torch.equal(mine.running_mean, random_model.clip.visual.norm.running_mean) and mine.running_mean.min() > 0.1


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_decays_outside(decay):
    with pytest.raises(InputError, match="decay of a moving average"):
        MovingAverageTeacher(decay)
    with pytest.raises(InputError, match="decay of the compatible momentum"):
        MomentumTeacher(decay)
    with pytest.raises(InputError, match="decay of a moving average"):
        MomentumTeacher(first_decay=decay)


def test_the_teachers_features_are_of_the_strategys_precision(random_model):
    reference, teacher = Pairs(random_model, "task"), PreviousTeacher()
    exact = said_by(random_model, reference.next())
    teacher.start(random_model, reference, torch.autocast("cpu", dtype=torch.bfloat16))
    found = says(teacher.side(reference.next()))
    assert all(x.dtype == torch.float32 for x in found)
    assert not torch.equal(found[0], exact[0])
    torch.testing.assert_close(found[0], exact[0], atol=0.02, rtol=0)
