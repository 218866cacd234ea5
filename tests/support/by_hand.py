"""Towers with prompts among their tokens, computed by hand."""

from __future__ import annotations

import math

import torch
from torch import nn

from avalanche_vlm.benchmarks.picturebook.tokenizer import WordTokenizer
from avalanche_vlm.models import VLM
from avalanche_vlm.models.factory import from_open_clip
from avalanche_vlm.models.modules.pool import ModulePool

TEXTS = ["a red star", "a fox", "a small blue circle on the left"]


def in_a_pool(model: VLM, sites: dict, *names: str, std: float = 0.5) -> ModulePool:
    """Modules that do something, the last one active."""
    pool = ModulePool(sites)
    for name in names:
        pool.add(name)
        for parameter in pool.parameters(name):
            nn.init.normal_(parameter, std=std)
    return pool


def block_by_hand(block: nn.Module, x: torch.Tensor, causal: bool) -> torch.Tensor:
    """A residual attention block in plain matrix products."""
    heads, (batch, length, width) = block.attn.num_heads, x.shape
    qkv = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    q, k, v = (part.view(batch, length, heads, -1).transpose(1, 2) for part in qkv.chunk(3, -1))
    scores = q @ k.transpose(2, 3) / math.sqrt(width // heads)
    if causal:
        later = torch.ones(length, length).triu(1).bool()
        scores = scores.masked_fill(later, -torch.inf)
    gathered = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
    x = x + block.attn.out_proj(gathered)
    return x + block.mlp(block.ln_2(x))


def images_by_hand(model: VLM, images: torch.Tensor, prompts: list[torch.Tensor]) -> torch.Tensor:
    """Features with prompts ``[n, D]`` appended before the first block, and written anew before the next ones."""
    visual = model.clip.visual
    patches = visual.conv1(images).flatten(2).transpose(1, 2)
    tokens = [visual.class_embedding.expand(len(images), 1, -1), patches]
    x = visual.ln_pre(torch.cat(tokens, 1) + visual.positional_embedding)
    own = x.shape[1]
    for number, block in enumerate(visual.transformer.resblocks):
        if number < len(prompts):
            x = torch.cat([x[:, :own], prompts[number].expand(len(images), -1, -1)], 1)
        x = block_by_hand(block, x, causal=False)
    return visual.ln_post(x[:, 0]) @ visual.proj


def text_by_hand(model: VLM, text: str, prompts: list[torch.Tensor]) -> torch.Tensor:
    """Features ``[1, D]`` of start token, context, words and end token, without any padding."""
    clip, tokenizer = model.clip, model.tokenizer
    ids = torch.tensor([tokenizer.start, *tokenizer.encode(text), tokenizer.end])
    start, rest = clip.token_embedding(ids)[None].split([1, len(ids) - 1], 1)
    x = torch.cat([start, prompts[0][None], rest], 1)
    x = x + clip.positional_embedding[: x.shape[1]]
    for number, block in enumerate(clip.transformer.resblocks):
        if 0 < number < len(prompts):
            x = torch.cat([x[:, :1], prompts[number][None], x[:, 1 + len(prompts[0]) :]], 1)
        x = block_by_hand(block, x, causal=True)
    return clip.ln_final(x)[:, -1] @ clip.text_projection


def in_order(model: VLM, batch_first: bool) -> None:
    """Let the blocks pass on ``[B, L, D]``, or ``[L, B, D]``."""
    for transformer in (model.clip.visual.transformer, model.clip.transformer):
        transformer.batch_first = batch_first
        for block in transformer.resblocks:
            block.attn.batch_first = batch_first


def siglip() -> VLM:
    """Bidirectional texts without a start token, pooled at the last position, and a timm tower that pools patches."""
    from open_clip.model import CustomTextCLIP

    class Plain(WordTokenizer):
        def __call__(self, texts, context_length=None):
            ids = super().__call__(texts, self.context_length + 1)[:, 1:]
            return torch.where(ids == self.end, self.pad, ids)

    tokenizer = Plain(["a", "red", "star", "fox", "of"], 12)
    text = {"context_length": 12, "vocab_size": 60, "width": 32, "heads": 2, "layers": 3}
    text |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    vision = {"image_size": 160, "timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"}
    clip = CustomTextCLIP(96, vision, text, init_logit_bias=-10)
    for block in clip.visual.trunk.blocks:
        nn.init.ones_(block.ls1.gamma)  # layer scales start so small that nothing would show
    return from_open_clip(clip, tokenizer, image_size=160, mean=[0.5] * 3, std=[0.5] * 3, name="siglip").eval()


def coca() -> VLM:
    """A class token behind the texts, with a mask for padding, and attentional pooling of patches."""
    from open_clip.coca_model import CoCa

    tokenizer = WordTokenizer(["a", "red", "star", "fox", "of"], 12)
    text = {"context_length": 12, "vocab_size": tokenizer.vocab_size, "width": 32, "heads": 2, "layers": 2}
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16}
    vision |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    clip = CoCa(32, dict(text, attn_pooler_heads=2), dict(text, embed_cls=True, output_tokens=True), vision)
    return from_open_clip(clip, tokenizer, image_size=32, mean=[0.5] * 3, std=[0.5] * 3, name="coca").eval()
