"""Prompts among the tokens of either tower."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from by_hand import TEXTS, coca, images_by_hand, in_a_pool, in_order, siglip, text_by_hand
from made import tiny as tiny_vlm
from torch import nn

from avalanche_vlm.benchmarks import LabelSpace
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.bank import named_weights
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.modules.tokens import inject_image_prompts, inject_text_prompts, splice


@pytest.fixture
def model() -> VLM:
    model = tiny_vlm("random").freeze("image", "text").eval()
    model.clip.double()
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, dtype=torch.float64)


def both(model: VLM, **options) -> dict:
    """Prompts in both towers of a model."""
    image = inject_image_prompts(model.tower("image"), **options)
    return named("image", image) | named("text", inject_text_prompts(model, **options))


@torch.no_grad()
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("depth", [1, 3])
def test_both_towers_equal_a_sequence_with_the_prompts_in_it(model, images, depth, batch_first):
    in_order(model, batch_first)
    pool = in_a_pool(model, both(model, length=3, depth=depth), "t")
    image, text = (list(part.vectors) for part in pool.module("t").values())
    assert len(image) == len(text) == depth and image[0].shape == text[0].shape == (3, 128)
    got = model.encode_image(images, normalize=False)
    torch.testing.assert_close(got, images_by_hand(model, images, image).float(), atol=1e-5, rtol=1e-5)
    got = model.encode_text(model.tokenize(TEXTS), normalize=False)
    expected = torch.cat([text_by_hand(model, t, text) for t in TEXTS])
    torch.testing.assert_close(got, expected.float(), atol=1e-5, rtol=1e-5)
    with pool.using(None):
        assert (model.encode_text(model.tokenize(TEXTS), normalize=False) - got).abs().max() > 1e-2


@torch.no_grad()
def test_without_a_working_module_the_towers_are_what_they_were_bit_for_bit(model, images):
    tokens = model.tokenize(TEXTS)
    before = model.encode_image(images), model.encode_text(tokens)
    keys = set(model.state_dict())
    pool = ModulePool(both(model, length=2, depth=2))
    assert set(model.state_dict()) == keys
    assert torch.equal(model.encode_image(images), before[0]) and torch.equal(model.encode_text(tokens), before[1])
    pool.add("t")
    assert not torch.equal(model.encode_image(images), before[0])
    assert not torch.equal(model.encode_text(tokens), before[1])
    # Texts that do not come through the VLM are plain ones.
    assert torch.equal(nn.functional.normalize(model.clip.encode_text(tokens).float(), dim=1), before[1])
    pool.activate(None)
    assert torch.equal(model.encode_image(images), before[0]) and torch.equal(model.encode_text(tokens), before[1])


@torch.no_grad()
def test_what_comes_after_the_end_of_a_text_counts_for_nothing(model):
    in_a_pool(model, named("text", inject_text_prompts(model, length=4, depth=2)), "t")
    tokens = model.tokenize(["a fox"])
    end = int(tokens.argmax())
    other = tokens.clone()
    other[0, end + 1 : end + 3] = 5
    expected = model.encode_text(tokens)
    torch.testing.assert_close(model.encode_text(other), expected, atol=1e-7, rtol=0)
    other[0, end - 1] = 5
    assert (model.encode_text(other) - expected).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("make", [siglip, coca, lambda: tiny_vlm().eval()], ids=["siglip", "coca", "clip"])
def test_a_context_of_words_is_those_words(make):
    model = make()
    sites = inject_text_prompts(model, length=3, words="a red star a")
    pool = ModulePool(named("text", sites))
    plain = model.encode_text(model.tokenize(["a red star star", "a red star a"]))
    pool.add("t")
    got = model.encode_text(model.tokenize(["star", "a"]))
    torch.testing.assert_close(got, plain, atol=1e-5, rtol=1e-5)
    assert sites["token_embedding"].start == (model.name != "siglip")


@torch.no_grad()
@pytest.mark.parametrize("make", [siglip, coca], ids=["siglip", "coca"])
def test_pooling_sees_as_many_tokens_as_without_prompts(make):
    model = make()
    size = model.transforms.eval.size
    images = torch.randn(2, 3, size, size)
    plain = model.encode_image(images)
    (site,) = inject_image_prompts(model.tower("image"), length=4, depth=2).values()
    pool = in_a_pool(model, {"image.blocks": site}, "t")
    lengths = []
    blocks = [m for n, m in model.clip.visual.named_modules() if n.split(".")[-2:-1] in (["blocks"], ["resblocks"])]
    handles = [block.register_forward_hook(lambda _m, _i, y: lengths.append(y.shape[1])) for block in blocks]
    prompted = model.encode_image(images)
    own = lengths[0] - 4
    assert lengths == [own + 4] * (len(blocks) - 1) + [own]
    assert (prompted - plain).abs().max() > 1e-4
    for handle in handles:
        handle.remove()
    # What the last block gives for its own tokens is a sequence with the prompts, cut off.
    inputs = []
    blocks[0].register_forward_pre_hook(lambda _m, args: inputs.append(args[0][:, :own]))
    outputs = []
    blocks[-1].register_forward_hook(lambda _m, _i, y: outputs.append(y))
    model.encode_image(images)
    x, vectors = inputs[0], pool.module("t")["image.blocks"].vectors
    pool.activate(None)
    for number, block in enumerate(blocks):
        x = x if number > 1 else torch.cat([x[:, :own], vectors[number].expand(2, -1, -1)], 1)
        x = block(x)
    torch.testing.assert_close(outputs[0], x[:, :own], atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_current_module_alone(model, images):
    pool = in_a_pool(model, both(model, length=2, depth=2), "old", "new")
    loss = model.encode_image(images).sum() + model.encode_text(model.tokenize(TEXTS)).sum()
    loss.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, _ in model.named_parameters() if ".bank.new." in name}
    assert all(p.grad.abs().amin((1, 2)).max() > 0 for p in pool.parameters("new"))


@torch.no_grad()
def test_modules_predict_alike_after_saving_copying_and_pickling(model, images, tmp_path):
    tokens = model.tokenize(TEXTS)
    pool = in_a_pool(model, both(model, length=2, depth=2), "a", "b")
    pool.activate("a")
    expected = model.encode_image(images), model.encode_text(tokens)
    pool.save("a", tmp_path / "a")
    assert (tmp_path / "a").stat().st_size < 2 * 2 * 2 * 128 * 8 + 500  # both towers' vectors and little else

    other = tiny_vlm("random").eval()
    other.clip.double().load_state_dict({k: v for k, v in model.clip.state_dict().items() if ".bank." not in k})
    again = ModulePool(both(other, length=2, depth=2))
    again.load("a", tmp_path / "a")
    again.activate("a")
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin is not model and torch.equal(twin.encode_image(images), expected[0])
        assert torch.equal(twin.encode_text(tokens), expected[1])
        for name, parameter in named_weights(twin):
            if ".bank.a." in name:
                nn.init.normal_(parameter)
        assert not torch.equal(twin.encode_image(images), expected[0])
        assert not torch.equal(twin.encode_text(tokens), expected[1])
        assert torch.equal(model.encode_image(images), expected[0])
        assert torch.equal(model.encode_text(tokens), expected[1])


@pytest.mark.parametrize("bf16", [False, True])
def test_autocast(bf16):
    model = tiny_vlm().freeze("image", "text").eval()
    pool = in_a_pool(model, both(model, length=2, depth=2), "t", std=0.1)
    images, tokens = torch.randn(3, 3, 32, 32), model.tokenize(TEXTS)
    with torch.no_grad():
        expected = model.encode_image(images), model.encode_text(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        got = model.encode_image(images), model.encode_text(tokens)
        sum(features.sum() for features in got).backward()
    for features, exact in zip(got, expected, strict=True):
        assert features.dtype == torch.float32
        torch.testing.assert_close(features, exact, atol=0.03 if bf16 else 1e-6, rtol=0)
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in pool.parameters("t"))


def test_class_prompts_are_encoded_anew_when_the_context_changes():
    model = tiny_vlm().freeze("image", "text").eval()
    model.set_label_space(LabelSpace.from_names(["star", "fox"]))
    classes = torch.arange(2)
    with torch.no_grad():
        plain = model.prompt_features(classes)
        pool = in_a_pool(model, named("text", inject_text_prompts(model, length=2)), "t")
        first = model.prompt_features(classes)
        assert not torch.equal(first, plain)
        assert model.prompt_features(classes) is model.prompt_features(classes)
        next(pool.parameters("t")).add_(0.5)
        assert not torch.equal(model.prompt_features(classes), first)
        pool.activate(None)
        assert torch.equal(model.prompt_features(classes), plain)
        pool.activate("t")
    optimizer = torch.optim.AdamW(pool.parameters("t"), lr=0.1)
    before = model.prompt_features(classes)
    before.sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert (model.prompt_features(classes) - before).abs().max() > 1e-4


@torch.no_grad()
def test_a_text_that_leaves_no_room_for_the_context_is_refused_and_nothing_is_left_behind(model):
    words = ("red " * 12).strip()
    in_a_pool(model, named("text", inject_text_prompts(model, length=6)), "t")
    model.encode_text(model.tokenize([words]))  # 12 words and 2 marks fill 14 of 14 positions
    with pytest.raises(InputError, match="leaves 14 of the text tower's 20 positions, and a text takes 15"):
        model.encode_text(model.tokenize(["a fox", words + " star"]))
    assert model.text_path.__self__._inserted is False
    in_a_pool(other := tiny_vlm("random"), named("text", inject_text_prompts(other, length=21)), "t")
    with pytest.raises(InputError, match="leaves 0 of the text tower's 20 positions"):
        other.encode_text(other.tokenize(["a"]))


def test_what_prompts_cannot_enter_is_named():
    from open_clip.model import CLIP

    model = tiny_vlm("random")
    for options, why in (
        ({"length": 0}, "length of a text prompt is a whole number of 1 or more, not 0"),
        ({"depth": 0}, "depth of prompts is a whole number of 1 or more, not 0"),
        ({"length": 3, "words": "a star"}, "context of 3 vectors cannot start as 'a star', which has 2 tokens"),
    ):
        with pytest.raises(InputError, match=why):
            inject_text_prompts(model, **options)
    with pytest.raises(InputError, match="length of a visual prompt is a whole number of 1 or more, not 0"):
        inject_image_prompts(model.tower("image"), length=0)
    inject_text_prompts(model)
    with pytest.raises(InputError, match="text path is taken by a learned context of texts"):
        inject_text_prompts(model)
    resnet = CLIP(32, {"layers": (1, 1, 1, 1), "width": 8, "image_size": 64}, {"layers": 1, "width": 64, "heads": 1})
    with pytest.raises(InputError, match="blocks that pass tokens on, and a ModifiedResNet is none"):
        inject_image_prompts(resnet.visual)
    foreign = tiny_vlm("random")
    foreign.clip.text = nn.Linear(2, 2)
    with pytest.raises(InputError, match="cannot enter tiny's text tower: a Linear has no token_embedding"):
        inject_text_prompts(foreign)
    assert foreign.text_path is None


def test_a_tower_that_checkpoints_its_activations(model, images):
    pool = in_a_pool(model, both(model, length=2, depth=2), "t")
    (image, _) = pool.module("t").values()
    model.encode_image(images).sum().backward()
    expected = image.vectors.grad.clone()
    image.vectors.grad = None
    model.clip.set_grad_checkpointing(True)
    model.encode_image(images).sum().backward()
    torch.testing.assert_close(image.vectors.grad, expected, atol=1e-6, rtol=1e-5)
    with pytest.raises(InputError, match="text tower checkpoints its activations: switch that off"):
        model.encode_text(model.tokenize(TEXTS))
    with torch.no_grad():
        model.encode_text(model.tokenize(TEXTS))


def test_splice_keeps_what_it_does_not_replace():
    x = torch.randn(2, 5, 3)
    vectors = torch.randn(2, 3)
    got = splice(x, vectors, 1, 2, dim=1)
    assert torch.equal(got, torch.cat([x[:, :1], vectors.expand(2, -1, -1), x[:, 3:]], 1))
    assert torch.equal(splice(x.transpose(0, 1), vectors, 1, 2, dim=0), got.transpose(0, 1))
    assert splice(x, vectors, 5, 0, dim=1).shape == (2, 7, 3)
