"""What is trained on features of a frozen tower, in Avalanche's own ``Naive``: LADA and PROOF."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from made import tiny as tiny_vlm
from quick import slow_but_for_some
from recording import Recorder, naive
from torch.utils.data import DataLoader

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import MASKED
from avalanche_vlm.training import VLMNaive, criterion_for, recipes

HEADS = {"lada": {"units": 4, "bottleneck": 4}, "proof": {"exemplars": 4}}
RATES = {"lada": 1e-2, "proof": 1e-3}


def pictures(experience) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return next(iter(DataLoader(experience.dataset.eval(), batch_size=64)))


@pytest.fixture(scope="module")
def pretrained():
    return tiny_vlm().eval()


@pytest.fixture(scope="module")
def trained(tiny_benchmark, pretrained):
    """Every head after the first of two tasks, under the union label space, and the images that the tower saw."""
    cache = {}

    def train(name: str):
        if name not in cache:
            torch.manual_seed(0)
            model = copy.deepcopy(pretrained)
            model.set_label_space(replace(tiny_benchmark.label_space, visible="union"))
            encoded = []
            model.tower("image").register_forward_hook(lambda _layer, inputs, _output: encoded.append(len(inputs[0])))
            plugins = recipes.build(name, model=model, **HEADS[name])
            steps = Recorder("after_training_iteration", lambda s: s.mb_x.ndim)
            strategy = naive(model, [*plugins, steps], epochs=8, lr=RATES[name])
            with torch.enable_grad():  # whoever asks first may look without gradients
                strategy.train(tiny_benchmark.train_stream[0])
            cache[name] = strategy, sum(encoded), steps.values
        return cache[name]

    return train


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_every_image_goes_through_the_tower_once(trained, tiny_benchmark, name):
    _, encoded, dimensions = trained(name)
    assert dimensions == [2] * 8 * 4  # features, in eight epochs of four iterations
    assert encoded <= len(tiny_benchmark.train_stream[0].dataset) + 1  # and one that told the width


@pytest.mark.parametrize("name", slow_but_for_some(HEADS, ["proof"]))
@torch.no_grad()
def test_it_learns_a_task_and_leaves_the_rest_alone(trained, tiny_benchmark, pretrained, name):
    model = trained(name)[0].model.eval()
    zero_shot = copy.deepcopy(pretrained).set_label_space(model.label_space)
    now = model.clip.state_dict()
    assert all(torch.equal(now[key], part) for key, part in zero_shot.clip.state_dict().items())
    assert not next(model.tower("text").parameters()).requires_grad
    learned = tiny_benchmark.label_space.tasks[0]
    x, y, _ = pictures(tiny_benchmark.train_stream[0])
    before, after = zero_shot(x), model(x)
    answered = torch.isin(before.argmax(1), torch.tensor(learned))  # by a class learned: the others keep their answer
    assert torch.equal(after[~answered], before[~answered]) and 0 < answered.sum() < len(x)
    right = [(logits.argmax(1) == y)[answered].float().mean() for logits in (before, after)]
    assert right[1] > right[0] + 0.1
    # Whatever is asked of the other task's classes alone gets the pretrained model's answer, bit for bit.
    x, _, task = pictures(tiny_benchmark.test_stream[1])
    for m in (model, zero_shot):
        m.set_label_space(tiny_benchmark.label_space)
    try:
        assert torch.equal(model(x, task), zero_shot(x, task))
        texts = torch.arange(len(model.label_space))
        torch.testing.assert_close(model.prompt_features(texts), zero_shot.prompt_features(texts), rtol=0, atol=0)
    finally:
        model.set_label_space(replace(tiny_benchmark.label_space, visible="union"))


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_it_runs_under_autocast_and_its_parameters_are_in_the_optimizer(tiny_benchmark, name):
    model = tiny_vlm("random")
    plugins = recipes.build(name, model=model, **HEADS[name])
    before = Recorder("after_train_dataset_adaptation", lambda s: model.trainable_parameters())
    held = Recorder("before_training_epoch", lambda s: [p for g in s.optimizer.param_groups for p in g["params"]])
    strategy = VLMNaive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        criterion=criterion_for("classes", model),
        train_mb_size=32,
        plugins=[*plugins, before, held],
        amp="bf16",
    )
    for experience in tiny_benchmark.train_stream:
        strategy.train(experience)
    for trainable, parameters in zip(before.values, held.values, strict=True):
        assert trainable and {id(p) for p in trainable.values()} == {id(p) for p in parameters}
    x, _, task = pictures(tiny_benchmark.test_stream[0])
    with strategy.autocast(), torch.no_grad():
        logits = model.eval()(x, task)
    assert logits.dtype == torch.float32 and torch.isfinite(logits).all() and (logits.argmax(1) >= 0).all()
    assert (logits[:, list(tiny_benchmark.label_space.tasks[1])] == MASKED).all()


@pytest.mark.parametrize("name", HEADS)
def test_it_needs_a_plain_model_and_classes(tiny_benchmark, tiny_pairs, name):
    model = tiny_vlm("random")
    plugins = recipes.build(name, model=model)
    with pytest.raises(InputError, match=r"class head is taken by (\w+), and \1 needs it"):
        recipes.build(name, model=model)
    with pytest.raises(InputError, match="needs a class-labelled stream; this one has image-text pairs"):
        naive(model, plugins).train(tiny_pairs.train_stream[0])
    model = tiny_vlm("random")
    recipes.build("lora", model=model)
    with pytest.raises(InputError, match="image path is taken by modules per task, and the class head of "):
        recipes.build(name, model=model)
