"""Every weight in exactly one block, whatever the towers are made of."""

from __future__ import annotations

import pytest
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from avalanche_vlm.evaluation.blocks import blocks, group_by_block, tower_of
from avalanche_vlm.models.factory import from_open_clip
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.modules.tokens import inject_image_prompts

VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": 8, "vocab_size": 20, "width": 32, "heads": 2, "layers": 3}


def vit() -> nn.Module:
    return CLIP(24, VISION, TEXT)


def resnet() -> nn.Module:
    return CLIP(24, {"image_size": 32, "layers": (1, 2, 1, 1), "width": 8, "head_width": 16}, TEXT)


def timm(name: str) -> nn.Module:
    vision = {"timm_model_name": name, "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "linear"}
    return CustomTextCLIP(24, vision | {"image_size": 32}, TEXT, init_logit_bias=-10.0)


def coca() -> nn.Module:
    vision = VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    text = TEXT | {"context_length": 7, "embed_cls": True, "output_tokens": True}
    decoder = TEXT | {"layers": 1, "attn_pooler_heads": 2, "dim_head": 16}
    return CoCa(24, multimodal_cfg=decoder, text_cfg=text, vision_cfg=vision)


KINDS = {
    "vit": (vit, 2),
    "resnet": (resnet, 4),
    "timm vit": (lambda: timm("vit_tiny_patch16_224"), 12),
    "timm convnext": (lambda: timm("convnext_atto"), 4),
    "timm resnet": (lambda: timm("resnet10t"), 4),
    "coca": (coca, 2),
}


def wrap(clip: nn.Module):
    return from_open_clip(clip, None, image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3, name="random")


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_in_exactly_one_block_and_each_tower_has_its_ends(kind):
    make, depth = KINDS[kind]
    model = wrap(make())
    grouped = blocks(model)
    listed = [name for names in grouped.values() for name in names]
    assert sorted(listed) == sorted(n for n, _ in model.clip.named_parameters() if not n.startswith("logit_"))
    inner = {"image": depth, "text": 3}
    assert list(grouped) == [f"{t}.{b}" for t, n in inner.items() for b in ["in", *range(n), "out"]]
    for block, names in grouped.items():
        assert all(name.startswith("visual.") == (tower_of(block) == "image") for name in names)


def test_the_ends_of_the_tiny_model_are_what_one_expects(random_model):
    grouped = blocks(random_model)
    assert list(grouped) == [f"{t}.{b}" for t, n in (("image", 4), ("text", 3)) for b in ["in", *range(n), "out"]]
    ends = {block: {name.split(".")[-1 if name.count(".") < 2 else -2] for name in grouped[block]} for block in grouped}
    assert ends["image.in"] == {"class_embedding", "positional_embedding", "conv1", "ln_pre"}
    assert ends["image.out"] == {"ln_post", "proj"}
    assert any("token_embedding" in name for name in grouped["text.in"])
    assert any("text_projection" in name for name in grouped["text.out"])


def test_modules_that_hang_in_a_block_belong_to_it_and_prompts_to_the_entrance():
    model = wrap(vit())
    pool = ModulePool(named("image", inject_lora(model.tower("image"))))
    pool.add("task")
    images = ModulePool(inject_image_prompts(model.tower("image")))
    images.add("task")
    grouped = blocks(model)
    assert sum("bank.task" in name for name in grouped["image.1"]) > 0
    assert any("prompts" in name for name in grouped["image.in"])
    assert not any("bank" in name for name in grouped["image.out"])


def test_buffers_join_the_block_of_their_layer():
    grouped = blocks(wrap(resnet()), buffers=True)
    assert any(name.endswith("layer2.0.bn1.running_mean") for name in grouped["image.1"])
    assert any(name.endswith("visual.bn1.running_var") for name in grouped["image.in"])


def test_names_of_text_encoders_from_elsewhere():
    names = [
        "text.transformer.embeddings.word_embeddings.weight",
        "text.transformer.encoder.layer.1.x",
        "text.proj.weight",
    ]
    assert group_by_block(names) == {"text.in": names[:1], "text.0": names[1:2], "text.out": names[2:]}
