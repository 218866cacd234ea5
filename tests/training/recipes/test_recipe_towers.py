"""Which image towers a recipe takes: what it declares is what it does."""

from __future__ import annotations

import warnings

import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.timm_model import TimmModel
from recording import naive
from timm.models.vision_transformer import VisionTransformer

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM, from_open_clip, tiny
from avalanche_vlm.training import recipes

NAMES = ("lora", "adapter-per-task", "moe-adapters", "coop", "maple", "s-prompts", "diki", "l2p", "dualprompt")
NAMES += ("coda-prompt", "ranpac", "lada", "proof", "rapf", "replay", "icarl", "prototype-replay")
NAMES += ("gnsp", "nusa", "c-clip", "keeplora", "zscl")
LESS = {"moe-adapters": {"experts": 2, "bottleneck": 4}, "l2p": {"length": 2, "chosen": 2}}


def timm_tower(width: int, pool: str) -> TimmModel:
    """A small tower of timm's: open_clip knows those of timm's list alone, which are large."""
    tower = TimmModel.__new__(TimmModel)
    torch.nn.Module.__init__(tower)
    tower.image_size = (32, 32)
    tower.trunk = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=0, global_pool=pool,
        class_token=pool == "token",
    )  # fmt: skip
    tower.head = torch.nn.Linear(32, width, bias=False)
    return tower


def model_with(tower: str) -> VLM:
    tokenizer = tiny.build_tokenizer()
    text = {"context_length": tokenizer.context_length, "vocab_size": tokenizer.vocab_size}
    text |= {"width": 16, "heads": 2, "layers": 2}
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16}
    if tower == "ResNet":
        clip = CLIP(24, {"image_size": 32, "layers": (1, 1, 1, 1), "width": 8, "head_width": 8}, text)
    elif tower == "timm":
        clip = CustomTextCLIP(24, vision, text)
        clip.visual = timm_tower(24, "token")
    else:
        bidirectional = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
        clip = CustomTextCLIP(24, vision, text | bidirectional, init_logit_bias=-10.0)
        clip.visual = timm_tower(24, "map")
    return from_open_clip(clip, tokenizer, image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module")
def benchmark():
    return picturebook.mtil_like(order=["sketches", "night"], n_train=16, n_test=8, n_held_out=8, n_reference=16)


@pytest.mark.parametrize("name", recipes.list())
def test_resnets_are_refused_where_the_declaration_says_so(name, benchmark):
    model = model_with("ResNet")
    resources = {what: getattr(benchmark, what) for what in recipes.get(name).takes}
    options = {"layer": "layer3"} if name == "latent-replay" else LESS.get(name, {})
    try:
        recipes.build(name, model=model, **resources, **options)
    except InputError as error:
        assert "ModifiedResNet" in str(error) and recipes.describe(name).image_tower == "transformer"
    else:
        assert recipes.describe(name).image_tower == "any"


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["timm", "SigLIP"])
@pytest.mark.parametrize("name", NAMES)
def test_towers_of_timm_are_trained(name, tower, benchmark):
    torch.manual_seed(0)
    model = model_with(tower)
    resources = {what: getattr(benchmark, what) for what in recipes.get(name).takes}
    images = torch.stack([x for x, *_ in benchmark.train_stream[0].dataset.eval()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plugins = recipes.build(name, model=model, **resources, **LESS.get(name, {}))
        naive(model, plugins, lr=1e-2, epochs=3).train(benchmark.train_stream[0])
    with torch.no_grad():
        logits = model.eval()(images, torch.zeros(len(images), dtype=torch.long))
    assert torch.isfinite(logits).all() and logits.shape == (16, len(benchmark.label_space))
