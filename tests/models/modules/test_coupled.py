"""Coupled prompts: one module for both towers."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from by_hand import TEXTS, coca, images_by_hand, in_a_pool, in_order, siglip, text_by_hand
from made import tiny as tiny_vlm
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.bank import named_weights
from avalanche_vlm.models.modules.coupled import inject_coupled_prompts
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import named

WORDS = "a picture of a"


@pytest.fixture
def model() -> VLM:
    model = tiny_vlm("random").freeze("image", "text").eval()
    model.clip.double()
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, dtype=torch.float64)


def coupled(model: VLM, **options) -> dict:
    return named("text", inject_coupled_prompts(model, **options))


@torch.no_grad()
@pytest.mark.parametrize("batch_first", [True, False])
def test_visual_prompts_are_linear_functions_of_those_of_the_texts(model, images, batch_first):
    in_order(model, batch_first)
    pool = in_a_pool(model, coupled(model, length=3, depth=2), "t", std=0.3)
    state = pool.state("t")
    text = state["text.token_embedding.vectors"]
    assert text.shape == (2, 3, 128)
    image = [
        text[i] @ state[f"text.token_embedding.couplings.{i}.weight"].T
        + state[f"text.token_embedding.couplings.{i}.bias"]
        for i in range(2)
    ]
    got = model.encode_image(images, normalize=False)
    torch.testing.assert_close(got, images_by_hand(model, images, image).float(), atol=1e-5, rtol=1e-5)
    got = model.encode_text(model.tokenize(TEXTS), normalize=False)
    expected = torch.cat([text_by_hand(model, t, list(text)) for t in TEXTS])
    torch.testing.assert_close(got, expected.float(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_pool_holds_everything_once_and_switches_both_towers(model, images, tmp_path):
    tokens = model.tokenize(TEXTS)
    plain = model.encode_image(images), model.encode_text(tokens)
    pool = in_a_pool(model, coupled(model, length=2, depth=9, words=WORDS), "a", "b")
    # Depth is at most that of the shorter tower: 3 blocks of text, 4 of the image.
    assert {key: list(t.shape) for key, t in pool.state("a").items()} == {
        "text.token_embedding.vectors": [3, 2, 128],
        **{f"text.token_embedding.couplings.{i}.weight": [128, 128] for i in range(3)},
        **{f"text.token_embedding.couplings.{i}.bias": [128] for i in range(3)},
    }
    assert pool.nbytes() == 2 * 8 * (3 * 2 * 128 + 3 * (128 * 128 + 128))
    pool.activate("a")
    expected = model.encode_image(images), model.encode_text(tokens)
    assert all((new - old).abs().max() > 1e-3 for new, old in zip(expected, plain, strict=True))
    pool.activate(None)
    assert torch.equal(model.encode_image(images), plain[0]) and torch.equal(model.encode_text(tokens), plain[1])
    pool.activate("a")
    pool.save("a", tmp_path / "a")
    other = tiny_vlm("random").eval()
    other.clip.double().load_state_dict({k: v for k, v in model.clip.state_dict().items() if ".bank." not in k})
    again = ModulePool(coupled(other, length=2, depth=3, words=WORDS))
    again.load("a", tmp_path / "a")
    again.activate("a")
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.encode_image(images), expected[0])
        assert torch.equal(twin.encode_text(tokens), expected[1])
        for name, parameter in named_weights(twin):
            if ".bank.a.vectors" in name:
                nn.init.normal_(parameter)
        assert not torch.equal(twin.encode_image(images), expected[0])
        assert not torch.equal(twin.encode_text(tokens), expected[1])
    assert torch.equal(model.encode_image(images), expected[0])


def test_the_context_starts_as_words_and_gradients_of_both_towers_reach_it(model, images):
    pool = ModulePool(coupled(model, length=2, depth=2, words=WORDS))
    pool.add("old")
    pool.add("new")
    (module,) = pool.module("new").values()
    ids = model.tokenize([WORDS])[0, 1:3]
    assert torch.equal(module.vectors[0], model.clip.token_embedding.weight[ids])
    assert 0.01 < module.vectors[1].std() < 0.03
    model.encode_image(images).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        name for name, _ in model.named_parameters() if ".bank.new." in name
    }
    of_images = module.vectors.grad.clone()
    assert (of_images.abs().amax((1, 2)) > 0).all()
    model.encode_text(model.tokenize(TEXTS)).sum().backward()
    assert not torch.equal(module.vectors.grad, of_images)


@pytest.mark.parametrize("make", [siglip, coca], ids=["siglip", "coca"])
def test_towers_of_other_widths_and_kinds(make):
    model = make().freeze("image", "text")
    sites = inject_coupled_prompts(model, length=2, depth=2, words="a red")
    pool = in_a_pool(model, named("text", sites), "t")
    size = model.transforms.eval.size
    (module,) = pool.module("t").values()
    assert module.visual(1).shape == (2, 96 if model.name == "siglip" else 32)
    loss = model.encode_image(torch.randn(2, 3, size, size)).sum() + model.encode_text(model.tokenize(["a star"])).sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in pool.parameters("t"))


@pytest.mark.parametrize("bf16", [False, True])
def test_autocast(bf16):
    model = tiny_vlm().freeze("image", "text").eval()
    pool = in_a_pool(model, coupled(model, length=2, depth=2), "t", std=0.1)
    images, tokens = torch.randn(3, 3, 32, 32), model.tokenize(TEXTS)
    with torch.no_grad():
        expected = model.encode_image(images), model.encode_text(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        got = model.encode_image(images), model.encode_text(tokens)
        sum(features.sum() for features in got).backward()
    for features, exact in zip(got, expected, strict=True):
        torch.testing.assert_close(features, exact, atol=0.03 if bf16 else 1e-6, rtol=0)
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in pool.parameters("t"))


def test_a_model_without_blocks_in_its_image_tower_is_refused_and_left_as_it_is():
    model = tiny_vlm("random")
    model.clip.visual = nn.Linear(2, 2)
    with pytest.raises(InputError, match="and a Linear is none"):
        inject_coupled_prompts(model)
    assert model.text_path is None and not model.clip.token_embedding._forward_hooks
