"""The logit scale: as it is in the forward pass, and CLIP's at most 100 after a step."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from avalanche.training.supervised import Naive
from mini import mini
from open_clip.model import CLIP

from avalanche_vlm.models import from_open_clip, tiny


def siglip():
    tokenizer = tiny.build_tokenizer()
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    text = {"context_length": 20, "vocab_size": tokenizer.vocab_size, "width": 32, "heads": 2, "layers": 1}
    clip = CLIP(16, vision, text, init_logit_scale=math.log(117.0), init_logit_bias=-12.9)
    return from_open_clip(clip, tokenizer, image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3).eval()


def step(model, to: float, kind=torch.optim.SGD) -> float:
    """The scale after an optimizer step that leads the parameter to log ``to``."""
    parameter = model.clip.logit_scale
    parameter.grad = torch.full_like(parameter, parameter.item() - math.log(to))
    kind([parameter], lr=1.0).step()
    return model.scale.item()


@torch.no_grad()
def test_logits_are_open_clips_beyond_100():
    model = siglip()
    images, tokens = torch.randn(4, 3, 32, 32), model.tokenize(["a star", "a heart", "a cup"])
    expected, _ = model.clip.get_logits(images, tokens)
    actual = model.similarity(model.encode_image(images), model.encode_text(tokens))
    assert model.scale.item() == pytest.approx(117)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_the_gradient_of_the_scale_is_not_cut_off():
    model = siglip().unfreeze("scale")
    images, tokens = torch.randn(4, 3, 32, 32), model.tokenize(["a star", "a heart", "a cup"])
    model.similarity(model.encode_image(images), model.encode_text(tokens)).square().mean().backward()
    actual, model.clip.logit_scale.grad = model.clip.logit_scale.grad, None
    model.clip.get_logits(images, tokens)[0].square().mean().backward()
    torch.testing.assert_close(actual, model.clip.logit_scale.grad)
    assert actual.abs() > 1


def test_a_step_leaves_clips_parameter_between_0_and_ln_100():
    model = mini().unfreeze("scale")
    assert step(model, 40) == pytest.approx(40)
    assert step(model, 130) == pytest.approx(100)
    assert step(model, 0.5) == pytest.approx(1)
    assert model.clip.logit_scale.item() == 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_so_do_copies(copied):
    assert step(copied(mini().unfreeze("scale")), 130) == pytest.approx(100)


def test_siglips_is_never_clamped_and_no_frozen_one_either():
    assert step(siglip().unfreeze("scale"), 130) == pytest.approx(130)
    model = mini()
    model.clip.logit_scale.fill_(math.log(130))
    other = torch.nn.Parameter(torch.ones(()))
    other.grad = torch.ones(())
    torch.optim.SGD([other], lr=0.1).step()
    assert model.scale.item() == pytest.approx(130)
    model.unfreeze("scale")
    torch.optim.SGD([other], lr=0.1).step()  # an optimizer that does not hold it
    assert model.scale.item() == pytest.approx(130)


def test_stock_avalanche_keeps_clips_scale_too():
    from avalanche_vlm import benchmarks

    model = mini().unfreeze("scale").freeze("image", "text")
    benchmark = benchmarks.create("picturebook", model=model, n_train=16, n_test=4, n_held_out=4, order=["sketches"])
    optimizer = torch.optim.SGD([model.clip.logit_scale], lr=1e6)  # somewhere far off, up or down
    strategy = Naive(
        model=model, optimizer=optimizer, criterion=torch.nn.CrossEntropyLoss(), train_mb_size=8, evaluator=None
    )
    strategy.train(benchmark.train_stream[0])
    assert model.scale.item() in (pytest.approx(1), pytest.approx(100))
