"""LoRA in every kind of tower that open_clip has: exact, separate, in half precision and compiled, or refused."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.factory import from_open_clip
from avalanche_vlm.models.modules.dora import DoRA
from avalanche_vlm.models.modules.lora import ATTENTION_PATTERN, LoRALayer, inject_lora
from avalanche_vlm.models.modules.low_rank import LowRank
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import named

SIZE, LENGTH, WORDS = 32, 8, 20
VISION = {"image_size": SIZE, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": LENGTH, "vocab_size": WORDS, "width": 32, "heads": 2, "layers": 2}
PER_BLOCK = {"open_clip": ("q", "k", "v", "out", "c_fc", "c_proj"), "timm": ("qkv", "proj", "fc1", "fc2")}


def clip() -> nn.Module:
    return CLIP(24, dict(VISION), dict(TEXT))


def siglip(pool: str = "map") -> nn.Module:
    """SigLIP's shape: timm's tower with its attention pool, a text tower without a mask that pools the last token."""
    vision = {
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "timm_proj": "none" if pool == "map" else "linear",
        "image_size": SIZE,
    }
    text = dict(TEXT) | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
    model = CustomTextCLIP(192 if pool == "map" else 24, vision, text, init_logit_bias=-10.0)
    model.visual.trunk.set_input_size(img_size=SIZE)  # open_clip leaves it at timm's own
    # Two blocks show what twelve would.
    model.visual.trunk.blocks = model.visual.trunk.blocks[:2]
    return model


def coca() -> nn.Module:
    """With a class token in the text tower, and thereby masks ``[B * heads, L, L]``."""
    vision = dict(VISION) | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    text = dict(TEXT) | {"context_length": LENGTH - 1, "embed_cls": True, "output_tokens": True}
    decoder = dict(TEXT) | {"layers": 1, "attn_pooler_heads": 2, "dim_head": 16}
    model = CoCa(24, multimodal_cfg=decoder, text_cfg=text, vision_cfg=vision)
    # Both are left as the memory was, which may be no number.
    nn.init.normal_(model.text.cls_emb), nn.init.normal_(model.text_decoder.text_projection)
    return model


def resnet() -> nn.Module:
    return CLIP(24, {"image_size": SIZE, "layers": (1, 1, 1, 1), "width": 8, "head_width": 16}, dict(TEXT))


MODELS = {"clip": clip, "siglip": siglip, "timm linear": partial(siglip, "avg"), "coca": coca, "resnet": resnet}


def build(name: str, make=None, dtype: torch.dtype = torch.float32) -> tuple[VLM, ModulePool]:
    """A wrapped model with random weights, and a pool over both towers (a ResNet's: over the text tower)."""
    model = wrapped(name, dtype)
    return model, pool_over(model, make)


def wrapped(name: str, dtype: torch.dtype = torch.float32) -> VLM:
    torch.manual_seed(0)
    clip = MODELS[name]().to(dtype).eval()
    for parameter_name, parameter in clip.named_parameters():
        if parameter_name.endswith("bias") and not parameter_name.startswith("logit"):
            nn.init.normal_(parameter, std=0.1)
    model = from_open_clip(clip, None, image_size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3, name=name)
    return model.freeze("image", "text", "scale")


def pool_over(model: VLM, make=None) -> ModulePool:
    sites = {}
    for tower in ("text",) if model.name == "resnet" else ("image", "text"):
        make_of_tower = make or partial(LowRank, rank=3, alpha=6.0)
        sites |= named(tower, inject_lora(model.tower(tower), make=make_of_tower))
    return ModulePool(sites)


def inputs(name: str, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, WORDS, (4, LENGTH - (name == "coca")), generator=generator)
    tokens[1, 4:] = 0
    return torch.randn(4, 3, SIZE, SIZE, generator=generator, dtype=torch.float64).to(dtype), tokens


def features(clip: nn.Module, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """From open_clip's own encoders, in the precision of the weights."""
    images, tokens = inputs(name, clip.logit_scale.dtype)
    return clip.encode_image(images, normalize=False), clip.encode_text(tokens, normalize=False)


def randomise(pool: ModulePool, name: str) -> None:
    with torch.no_grad():
        for parameter in pool.parameters(name):
            parameter += 0.2 * torch.randn_like(parameter)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_towers_without_an_active_module_are_bit_for_bit_what_they_were(name):
    model = wrapped(name)
    # Of the very same tensors: on some CPUs a matrix product's rounding depends on where its operands lie in memory.
    expected = features(model.clip, name)
    pool = pool_over(model)
    pool.add("a")
    randomise(pool, "a")
    with pool.using(None):
        off = features(model.clip, name)
    working = features(model.clip, name)
    for a, b, c, adapted in zip(off, expected, working, (name != "resnet", True), strict=True):
        assert torch.equal(a, b)
        assert ((c - a).abs().max() > 1e-2) == adapted


@pytest.mark.parametrize("make", [LowRank, DoRA])
@pytest.mark.parametrize("name", MODELS)
def test_a_step_trains_the_active_module_alone_and_merging_it_keeps_what_it_says(name, make):
    model, pool = build(name, partial(make, rank=3, alpha=6.0), torch.float64)
    model.train()
    for module in ("old", "new"):
        pool.add(module)
    if make is LowRank:
        layers = sum(len(site.weights()) for site in pool.sites.values())
        kinds = ["open_clip" if name in ("clip", "coca") else "timm"] * (name != "resnet") + ["open_clip"]
        assert layers == sum(2 * len(PER_BLOCK[kind]) for kind in kinds)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(2):  # B is zero at first, and so is A's gradient
        images, texts = (F.normalize(f, dim=-1) for f in features(model.clip, name))
        optimizer.zero_grad()
        F.cross_entropy(10 * images @ texts.T, torch.arange(4)).backward()
        optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n, _ in model.named_parameters() if ".bank.new." in n}
    model.eval()
    with torch.no_grad():
        unmerged = features(model.clip, name)
        pool.merge("new")
        for site in pool.sites.values():
            assert "new" not in site.bank and site.active is None
        for a, b in zip(features(model.clip, name), unmerged, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("make", [LowRank, DoRA])
@pytest.mark.parametrize("name", MODELS)
def test_half_precision_by_autocast(name, make):
    model, pool = build(name, partial(make, rank=3))
    model.train()
    pool.add("a")
    images, tokens = inputs(name)
    full = model.encode_image(images).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, texts = model.encode_image(images), model.encode_text(tokens)
        loss = F.cross_entropy(model.similarity(half, texts), torch.arange(4))
    torch.testing.assert_close(half.detach(), full, atol=0.05, rtol=0)
    loss.backward()
    gradients = [p.grad for p in pool.parameters("a")]
    assert all(g is not None and g.dtype == torch.float32 and torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize("name", MODELS)
def test_the_wrapper_encodes_with_the_module_that_works(name):
    model, pool = build(name)
    pool.add("a")
    images, tokens = inputs(name)
    new = model.encode_image(images).detach(), model.encode_text(tokens).detach()
    randomise(pool, "a")
    for encode, x, start, adapted in (
        (model.encode_image, images, new[0], name != "resnet"),
        (model.encode_text, tokens, new[1], True),
    ):
        found = encode(x)
        assert found.shape[0] == 4 and found.dtype == torch.float32
        torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
        assert ((found - start).abs().max() > 1e-2) == adapted
        torch.testing.assert_close(encode(x[2:3]), found[2:3], atol=1e-5, rtol=0)  # alone as in the batch


@pytest.mark.slow
@torch.no_grad()
def test_a_traced_tower_follows_the_active_module():
    model, pool = build("clip")
    for module in ("a", "b"):
        pool.add(module)
        randomise(pool, module)
    torch._dynamo.reset()
    tower = model.clip.visual
    # In one piece, without generating code.
    compiled = torch.compile(tower, backend="eager", fullgraph=True)
    images, _ = inputs("clip")
    found = {}
    for active in ("a", None, "b"):
        pool.activate(active)
        found[active] = compiled(images)
        torch.testing.assert_close(found[active], tower(images), atol=1e-6, rtol=1e-6)
    assert all((found["a"] - found[other]).abs().max() > 1e-2 for other in (None, "b"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "make"), [("clip", LowRank), ("clip", DoRA), ("siglip", LowRank), ("coca", LowRank)])
def test_a_differentiated_trace_has_the_outputs_and_gradients_of_the_tower(name, make):
    model, pool = build(name, partial(make, rank=3))
    pool.add("a")
    randomise(pool, "a")
    torch._dynamo.reset()
    tower = model.clip.visual
    images, _ = inputs(name)
    parameters = [
        p for where, part in pool.module("a").items() if where.startswith("image.") for p in part.parameters()
    ]
    found = []
    for run in (tower, torch.compile(tower, backend="aot_eager", fullgraph=True)):
        y = run(images)
        y = y[0] if isinstance(y, tuple) else y
        found.append([y, *torch.autograd.grad(y.square().sum(), parameters)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, atol=1e-4 * a.abs().max().item(), rtol=1e-4)


def test_the_default_patterns_find_the_blocks_and_nothing_else():
    for name, build_model in MODELS.items():
        model = build_model()
        towers = {"image": model.visual, "text": getattr(model, "text", None) or model.transformer}
        if name == "resnet":
            del towers["image"]
        for tower in towers.values():
            found = inject_lora(copy.deepcopy(tower))
            assert all("blocks." in layer and "attn_pool" not in layer for layer in found)
            attention = inject_lora(copy.deepcopy(tower), pattern=ATTENTION_PATTERN)
            assert set(attention) < set(found) and not any("mlp" in layer for layer in attention)


def test_parts_of_timms_attention():
    names = lambda parts: set(inject_lora(siglip().visual, pattern=ATTENTION_PATTERN, parts=parts))  # noqa: E731
    prefix = "trunk.blocks.{}.attn.{}".format
    assert names(("q", "k", "v")) == {prefix(i, "qkv") for i in (0, 1)}
    assert names(("out",)) == {prefix(i, "proj") for i in (0, 1)}
    with pytest.raises(InputError, match=r"q, k, v are one layer, trunk\S+qkv: LoRA adapts all of them, not q alone"):
        names(("q",))


def test_a_resnet_is_refused_and_so_are_weights_that_are_read_past_their_layer():
    tower = resnet().visual
    before = [type(m) for m in tower.modules()]
    with pytest.raises(InputError, match="no layer of the tower, a ModifiedResNet, has a name that matches"):
        inject_lora(tower)
    for leaf in ("q_proj", "c_proj"):
        with pytest.raises(InputError, match=f"attnpool.{leaf}: its AttentionPool2d reads the weight and calls no"):
            inject_lora(tower, pattern=rf"attnpool\.{leaf}$")
    with pytest.raises(InputError, match="cannot adapt conv1, a Conv2d"):
        inject_lora(tower, pattern=r"^(attnpool\.nothing|conv1)$")
    assert [type(m) for m in tower.modules()] == before
    with pytest.raises(InputError, match=r"out_proj by itself: match its attention, and choose its parts"):
        inject_lora(clip().visual, pattern="out_proj")


def test_timms_attention_with_biases_of_its_own_is_refused_where_it_reads_the_weight():
    from timm.models.beit import Attention

    class Block(nn.Module):
        def __init__(self, **options) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.ModuleDict({"attn": Attention(16, num_heads=2, **options)})])

    with pytest.raises(InputError, match=r"blocks.0.attn.qkv: its Attention reads the weight and calls no layer"):
        inject_lora(Block(qkv_bias=True))
    tower = Block(qkv_bias=False)
    layers = inject_lora(tower)
    assert set(layers) == {"blocks.0.attn.qkv", "blocks.0.attn.proj"}
    attention, x = tower.blocks[0]["attn"], torch.randn(2, 5, 16)
    before = attention(x)
    for layer in layers.values():
        layer.add("a")
        layer.active = "a"
        nn.init.normal_(layer.bank["a"]["weight"].B)
    # A layer that is not called is no LoRA: this one is.
    assert isinstance(attention.qkv, LoRALayer)
    assert (attention(x) - before).abs().max() > 1e-2


def test_a_tower_that_gives_tokens_as_well_is_refused_in_a_sentence():
    model = from_open_clip(
        CLIP(24, {**VISION, "output_tokens": True}, dict(TEXT)),
        lambda texts: torch.zeros(len(texts), LENGTH, dtype=torch.long),
        image_size=SIZE,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    with pytest.raises(InputError, match="gives tokens beside features: leave output_tokens out of its configuration"):
        model.encode_image(torch.zeros(1, 3, SIZE, SIZE))
