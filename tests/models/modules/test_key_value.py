"""Residual key/value prompts on attention."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from by_hand import TEXTS, block_by_hand, in_a_pool, siglip
from made import tiny as tiny_vlm
from timm.layers import Attention
from torch import nn

from avalanche_vlm.benchmarks import LabelSpace
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.bank import named_weights
from avalanche_vlm.models.modules.key_value import (
    CalibratedPool,
    KeyValueAttention,
    TimmKeyValueAttention,
    inject_key_values,
    strength,
)
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.routers import GaussianRouter, Route

WIDTH, HEADS, LENGTH = 16, 4, 5


def prompted(attention: nn.MultiheadAttention, x: torch.Tensor, keys, values, weight, causal: bool) -> torch.Tensor:
    """Attention ``[B, L, D]`` with the prompts' part, one head after the other."""
    q, k, v = (x @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, -1)
    d = x.shape[-1] // attention.num_heads
    heads = []
    for part in (slice(h * d, (h + 1) * d) for h in range(attention.num_heads)):
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(d)
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), -torch.inf)
        own = scores.softmax(-1) @ v[..., part]
        residual = (q[..., part] @ keys[:, part].T / math.sqrt(d)).softmax(-1) @ values[:, part]
        heads.append(own + weight[:, None, None] * residual)
    return attention.out_proj(torch.cat(heads, -1))


@torch.no_grad()
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_the_prompts_part_is_a_softmax_of_its_own(batch_first, causal):
    plain = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first).double()
    nn.init.normal_(plain.in_proj_bias)
    layer = KeyValueAttention(copy.deepcopy(plain), length=3)
    layer.add("t")
    keys, values = layer.bank["t"].keys, layer.bank["t"].values
    assert keys.shape == values.shape == (3, WIDTH) and keys.dtype == torch.float64
    assert not values.any() and 0.4 < keys.abs().max() <= 1
    nn.init.normal_(values)
    x = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    mask = torch.full((LENGTH, LENGTH), -torch.inf, dtype=torch.float64).triu(1) if causal else None

    def run() -> torch.Tensor:
        y = x if batch_first else x.transpose(0, 1)
        y = layer(y, y, y, need_weights=False, attn_mask=mask)[0]
        return y if batch_first else y.transpose(0, 1)

    weight = torch.tensor([0.3, 0.9], dtype=torch.float64)
    nothing = torch.zeros(2, dtype=torch.float64)
    off = run()
    torch.testing.assert_close(off, prompted(plain, x, keys, values, nothing, causal), atol=1e-12, rtol=0)
    layer.active = "t"
    torch.testing.assert_close(run(), prompted(plain, x, keys, values, nothing + 1, causal), atol=1e-12, rtol=0)
    with strength([layer], weight):
        torch.testing.assert_close(run(), prompted(plain, x, keys, values, weight, causal), atol=1e-12, rtol=0)
    with strength([layer], 0.25):
        torch.testing.assert_close(run(), prompted(plain, x, keys, values, nothing + 0.25, causal), atol=1e-12, rtol=0)
    torch.testing.assert_close(run(), prompted(plain, x, keys, values, nothing + 1, causal), atol=1e-12, rtol=0)
    with pytest.raises(ZeroDivisionError), strength([layer], weight):
        raise ZeroDivisionError
    assert layer.strength == 1.0


@torch.no_grad()
@pytest.mark.parametrize("qk_norm", [True, False])
def test_so_it_is_in_timms_attention(qk_norm):
    plain = Attention(WIDTH, HEADS, qkv_bias=True, qk_norm=qk_norm, norm_layer=nn.LayerNorm).double()
    layer = TimmKeyValueAttention(copy.deepcopy(plain), length=3)
    assert list(layer.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    layer.add("t")
    keys, values = layer.bank["t"].keys, layer.bank["t"].values
    assert torch.equal(layer(x), plain(x))
    layer.active = "t"
    torch.testing.assert_close(layer(x), plain(x), atol=1e-12, rtol=0)  # values start at zero
    nn.init.normal_(values)
    weight, d = torch.tensor([0.3, 0.9], dtype=torch.float64), WIDTH // HEADS
    q, k, v = plain.qkv(x).view(2, LENGTH, 3, HEADS, d).unbind(2)
    q, k = plain.q_norm(q), plain.k_norm(k)
    heads = []
    for h in range(HEADS):
        own = (q[:, :, h] @ k[:, :, h].transpose(1, 2) / d**0.5).softmax(-1) @ v[:, :, h]
        part = slice(h * d, (h + 1) * d)
        residual = (q[:, :, h] @ keys[:, part].T / d**0.5).softmax(-1) @ values[:, part]
        heads.append(own + weight[:, None, None] * residual)
    with strength([layer], weight):
        torch.testing.assert_close(layer(x), plain.proj(torch.cat(heads, -1)), atol=1e-12, rtol=0)


@pytest.fixture
def model() -> VLM:
    return tiny_vlm("random").freeze("image", "text").eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32)


def both(model: VLM, **options) -> dict:
    image = named("image", inject_key_values(model.tower("image"), **options))
    return image | named("text", inject_key_values(model.tower("text"), **options))


@torch.no_grad()
def test_new_modules_change_nothing_and_inactive_ones_neither(model, images):
    tokens = model.tokenize(TEXTS)
    keys = set(model.state_dict())
    before = model.encode_image(images), model.encode_text(tokens)
    sites = both(model)
    assert set(model.state_dict()) == keys
    # All of 4 and 3 blocks, as the published depth of 8 is more.
    assert [where.split(".")[0] for where in sites] == 4 * ["image"] + 3 * ["text"]
    off = model.encode_image(images), model.encode_text(tokens)
    assert torch.equal(off[0], before[0]) and torch.equal(off[1], before[1])
    pool = ModulePool(sites)
    pool.add("t")
    torch.testing.assert_close(model.encode_image(images), off[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.encode_text(tokens), off[1], atol=1e-6, rtol=1e-5)
    for part in pool.module("t").values():
        nn.init.normal_(part.values)
    assert (model.encode_image(images) - off[0]).abs().max() > 1e-2
    assert (model.encode_text(tokens) - off[1]).abs().max() > 1e-2
    pool.activate(None)
    assert torch.equal(model.encode_image(images), off[0]) and torch.equal(model.encode_text(tokens), off[1])


@torch.no_grad()
def test_only_the_first_layers_have_prompts(model, images):
    model.clip.double()
    layers = inject_key_values(model.tower("image"), length=2, depth=1)
    assert list(layers) == ["transformer.resblocks.0.attn"]
    pool = in_a_pool(model, named("image", layers), "t")
    visual, (part,) = model.clip.visual, pool.module("t").values()
    images = images.double()
    patches = visual.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(3, 1, -1), patches], 1) + visual.positional_embedding
    x = visual.ln_pre(x)
    first, *others = visual.transformer.resblocks
    ones = torch.ones(3, dtype=torch.float64)
    x = x + prompted(first.attn, first.ln_1(x), part.keys, part.values, ones, causal=False)
    x = x + first.mlp(first.ln_2(x))
    for block in others:
        x = block_by_hand(block, x, causal=False)
    expected = (visual.ln_post(x[:, 0]) @ visual.proj).float()
    torch.testing.assert_close(model.encode_image(images, normalize=False), expected, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_current_module_alone(model, images):
    pool = in_a_pool(model, both(model), "old", "new")
    (model.encode_image(images).sum() + model.encode_text(model.tokenize(TEXTS)).sum()).backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, _ in model.named_parameters() if ".bank.new." in name}
    assert all(p.grad.any() for p in pool.parameters("new"))


@torch.no_grad()
def test_modules_predict_alike_after_saving_copying_and_pickling(model, images, tmp_path):
    tokens = model.tokenize(TEXTS)
    pool = in_a_pool(model, both(model, length=2), "a", "b")
    pool.activate("a")
    expected = model.encode_image(images), model.encode_text(tokens)
    pool.save("a", tmp_path / "a")
    other = tiny_vlm("random").eval()
    other.clip.load_state_dict({k: v for k, v in model.clip.state_dict().items() if ".bank." not in k})
    again = ModulePool(both(other, length=2))
    again.load("a", tmp_path / "a")
    again.activate("a")
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.encode_image(images), expected[0])
        assert torch.equal(twin.encode_text(tokens), expected[1])
        for name, parameter in named_weights(twin):
            if ".bank.a." in name:
                nn.init.normal_(parameter)
        assert not torch.equal(twin.encode_image(images), expected[0])
    assert torch.equal(model.encode_image(images), expected[0])


@pytest.mark.parametrize("bf16", [False, True])
def test_autocast(bf16, images):
    model = tiny_vlm().freeze("image", "text").eval()
    sites = both(model)
    pool = in_a_pool(model, sites, "t", std=0.1)
    tokens = model.tokenize(TEXTS)
    weights = torch.tensor([0.1, 0.5, 0.9])
    with strength([site for where, site in sites.items() if where.startswith("image")], weights):
        with torch.no_grad():
            expected = model.encode_image(images), model.encode_text(tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            got = model.encode_image(images), model.encode_text(tokens)
            sum(features.sum() for features in got).backward()
    for features, exact in zip(got, expected, strict=True):
        torch.testing.assert_close(features, exact, atol=0.03 if bf16 else 1e-6, rtol=0)
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in pool.parameters("t"))


def test_what_has_no_fused_attention_is_named(model):
    with pytest.raises(InputError, match=r"need open_clip's attention or timm's, and trunk\.blocks\.0\.mlp is a Mlp"):
        inject_key_values(siglip().tower("image"), pattern=r"blocks\.\d+\.mlp$")
    with pytest.raises(InputError, match="a Attention with extra parts"):
        TimmKeyValueAttention(Attention(16, 4, gated=True), 2)
    with pytest.raises(InputError, match="length of key/value prompts is a whole number of 1 or more, not 0"):
        inject_key_values(model.tower("image"), length=0)
    with pytest.raises(InputError, match="depth of prompts is a whole number of 1 or more, not 0"):
        inject_key_values(model.tower("image"), depth=0)
    inject_key_values(model.tower("image"), depth=1)
    with pytest.raises(InputError, match=r"resblocks\.0\.attn is a KeyValueAttention"):
        inject_key_values(model.tower("image"))


class ByBrightness(GaussianRouter):
    """Light images belong to task 0, dark ones to task 1, those between to none; both are likely to various degrees."""

    def __len__(self) -> int:
        return 2

    def score(self, features: torch.Tensor) -> Route:
        light = self.light[: len(features)]
        return Route((light < 0).long(), torch.ones(len(light)), light.abs() < 0.5)

    def log_likelihood(self, features: torch.Tensor) -> torch.Tensor:
        light = self.light[: len(features)]
        return 128 * torch.stack([light, -light], 1)


@torch.no_grad()
def test_an_image_has_as_much_of_its_prompts_as_it_is_likely_to_belong_there(model, images):
    model.set_label_space(LabelSpace.from_names(["circle", "star"]))
    images = torch.randn(5, 3, 32, 32)
    sites = both(model)
    plain = model(images)
    pool = in_a_pool(model, sites, "light", "dark", std=1.0)
    layers = [site for where, site in sites.items() if where.startswith("image")]
    router = ByBrightness()
    router.light = torch.tensor([2.0, -3.0, 0.0, 0.6, -0.7])
    model.routed = CalibratedPool(pool, router, layers).eval()
    got = model(images)
    assert torch.equal(got[2], plain[2]) or (got[2] - plain[2]).abs().max() < 1e-5
    for row, (name, light) in enumerate(zip(("light", "dark", None, "light", "dark"), router.light, strict=True)):
        if name is None:
            continue
        weight = torch.sigmoid(light.abs() - 1)  # log-likelihood over the width, less one
        with pool.using(name):
            with strength(layers, float(weight)):
                image = F.normalize(model.encode_image_plain(images[row : row + 1]), dim=1)
            texts = model.prompt_features(torch.arange(2))
            torch.testing.assert_close(got[row : row + 1], model.similarity(image, texts), atol=1e-4, rtol=1e-4)
            full = model.similarity(F.normalize(model.encode_image_plain(images[row : row + 1]), dim=1), texts)
            assert (got[row] - full[0]).abs().max() > 1e-2
    assert all(layer.strength == 1.0 for layer in layers) and pool.active is None
    # Labels say where a sample belongs: the prompts count in full, and nothing of the last batch is left.
    model.routed.use_task_labels, model.routed.of_label = True, {0: "light", 1: "dark"}
    with pool.using("dark"):
        image = F.normalize(model.encode_image_plain(images[:2]), dim=1)
        full = model.similarity(image, model.prompt_features(torch.arange(2)))
    torch.testing.assert_close(model(images[:2], torch.tensor([1, 1])), full, atol=1e-4, rtol=1e-4)
    twin = pickle.loads(pickle.dumps(model.routed))
    assert len(twin.layers) == len(layers)
