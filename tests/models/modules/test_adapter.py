"""Bottleneck adapters: what they compute, where they hang, and that they are gone when switched off."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.adapter import Adapter, AdapterSite, inject_adapters
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.tiny import build_tiny

HOULSBY = r"resblocks\.\d+\.(attn|mlp)$"


@pytest.fixture
def towers():
    clip, tokenizer = build_tiny()
    return clip.eval(), torch.randn(3, 3, 32, 32), tokenizer(["a red star", "a blue circle", "a fox"])


def pool_of(clip: nn.Module, *names: str, **settings) -> ModulePool:
    """Adapters in both towers with random modules."""
    sites = named("image", inject_adapters(clip.visual, **settings))
    sites |= named("text", inject_adapters(clip.transformer, **settings))
    pool = ModulePool(sites)
    for name in names:
        pool.add(name)
        for parameter in pool.parameters(name):
            nn.init.normal_(parameter, std=0.2)
    return pool


def test_an_adapter_is_two_layers_and_starts_as_nothing():
    adapter = Adapter(5, bottleneck=3, scale=0.25).double()
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    assert torch.equal(adapter(x), torch.zeros_like(x))
    assert adapter.down.weight.abs().max() > 0 and not adapter.down.bias.any()
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    inner = (x @ adapter.down.weight.T + adapter.down.bias).clamp(min=0)
    expected = 0.25 * (inner @ adapter.up.weight.T + adapter.up.bias)
    torch.testing.assert_close(adapter(x), expected, atol=1e-12, rtol=0)
    dropping = copy.deepcopy(adapter)
    dropping.dropout = 0.5
    assert not torch.allclose(dropping(x), expected)
    torch.testing.assert_close(dropping.eval()(x), expected, atol=1e-12, rtol=0)


class ByHand(nn.Module):
    """A layer and an adapter's matrices, without any hook."""

    def __init__(self, layer: nn.Module, adapter: Adapter, kind: str) -> None:
        super().__init__()
        self.layer, self.kind, self.scale = layer, kind, adapter.scale
        self.matrices = [p.detach().double() for p in adapter.parameters()]
        self.c_fc = getattr(layer, "c_fc", None)  # open_clip asks for its type

    def forward(self, *inputs, **named):
        output = self.layer(*inputs, **named)
        y = output[0] if isinstance(output, tuple) else output
        down, down_bias, up, up_bias = self.matrices
        inner = (inputs[0] if self.kind == "parallel" else y) @ down.T + down_bias
        y = y + self.scale * (inner.relu() @ up.T + up_bias)
        return (y, *output[1:]) if isinstance(output, tuple) else y


@torch.no_grad()
@pytest.mark.parametrize(("kind", "pattern"), [("parallel", None), ("sequential", None), ("sequential", HOULSBY)])
def test_towers_with_adapters_equal_towers_that_compute_them_by_hand(towers, kind, pattern):
    clip, images, tokens = towers
    by_hand = copy.deepcopy(clip).double()
    keys = set(clip.state_dict())
    plain = clip.encode_image(images), clip.encode_text(tokens)
    pool = pool_of(clip, bottleneck=6, scale=0.5, kind=kind, **({"pattern": pattern} if pattern else {}))
    assert set(clip.state_dict()) == keys
    assert len(pool.sites) == (4 + 3) * (2 if pattern else 1)

    def both():
        return clip.encode_image(images), clip.encode_text(tokens)

    pool.add("t")
    assert all(torch.equal(a, b) for a, b in zip(both(), plain, strict=True))  # a new one adds zero
    for parameter in pool.parameters("t"):
        nn.init.normal_(parameter, std=0.2)
    for where, site in pool.sites.items():
        tower, _, name = where.partition(".")
        root = by_hand.visual if tower == "image" else by_hand.transformer
        parent, _, last = name.rpartition(".")
        wrapped = ByHand(root.get_submodule(name), site.bank["t"], kind)
        setattr(root.get_submodule(parent), last, wrapped)
    expected = by_hand.encode_image(images.double()), by_hand.encode_text(tokens)
    for got, right, before in zip(both(), expected, plain, strict=True):
        torch.testing.assert_close(got.double(), right, atol=2e-5 * right.abs().max().item(), rtol=1e-4)
        assert (got - before).abs().max() > 1e-2
    with pool.using(None):
        assert all(torch.equal(a, b) for a, b in zip(both(), plain, strict=True))


def test_only_the_current_adapter_gets_gradients():
    clip, _ = build_tiny()
    clip.requires_grad_(False)
    pool = pool_of(clip, "old", "new", bottleneck=4)
    clip.encode_image(torch.randn(2, 3, 32, 32)).sum().backward()
    reached = {name for name, p in clip.named_parameters() if p.grad is not None}
    assert reached == {n for n, _ in clip.named_parameters() if ".bank.new." in n and n.startswith("visual.")}
    assert {id(p) for p in pool.parameters("new")} >= {id(dict(clip.named_parameters())[n]) for n in reached}


@torch.no_grad()
def test_one_module_in_a_file_copies_and_pickles(towers, tmp_path):
    clip, images, tokens = towers
    twin = copy.deepcopy(clip)
    pool = pool_of(clip, "a", bottleneck=4)
    expected = clip.encode_image(images), clip.encode_text(tokens)
    pool.save("a", tmp_path / "a.safetensors")
    again = pool_of(twin, "b", bottleneck=4)
    again.load("a", tmp_path / "a.safetensors")
    again.activate("a")
    assert torch.equal(twin.encode_image(images), expected[0]) and torch.equal(twin.encode_text(tokens), expected[1])
    loaded, copied = pickle.loads(pickle.dumps(clip.visual)), copy.deepcopy(clip.visual)
    for other in (loaded, copied):
        assert torch.equal(other(images), clip.visual(images))
        for site in (m for m in other.modules() if isinstance(m, AdapterSite)):
            site.active = None
        assert not torch.equal(other(images), clip.visual(images))  # its own switch, not the original's


def small_models() -> dict[str, nn.Module]:
    """A SigLIP on a timm tower, and a CoCa."""
    from open_clip.coca_model import CoCa
    from open_clip.model import CustomTextCLIP

    text = {"context_length": 8, "vocab_size": 30, "width": 16, "heads": 2, "layers": 2}
    timm = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none", "image_size": 224}
    vit = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16, "attentional_pool": True}
    return {
        "siglip": CustomTextCLIP(192, timm, {**text, "no_causal_mask": True}, init_logit_bias=-10.0),
        "coca": CoCa(16, {**text, "attn_pooler_heads": 2}, {**text, "embed_cls": True, "output_tokens": True}, vit),
    }


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("name", "places"), [("siglip", (12, 2)), ("coca", (2, 2))])
@pytest.mark.parametrize("kind", ["parallel", "sequential"])
def test_adapters_work_in_other_towers(name, places, kind):
    clip = small_models()[name].eval()
    size = 224 if name == "siglip" else 32
    inputs = {"visual": torch.randn(2, 3, size, size), "text": torch.randint(1, 29, (2, 7))}
    encode = {"visual": clip.encode_image, "text": clip.encode_text}
    for tower, count in zip(inputs, places, strict=True):
        before = encode[tower](inputs[tower])
        pool = ModulePool(named("image", inject_adapters(getattr(clip, tower), bottleneck=4, kind=kind)))
        assert len(pool.sites) == count
        pool.add("t")
        assert torch.equal(encode[tower](inputs[tower]), before)
        for parameter in pool.parameters("t"):
            nn.init.normal_(parameter, std=0.3)
        assert (encode[tower](inputs[tower]) - before).abs().max() > 1e-4


def test_adapters_hang_on_mlps_that_have_lora_too(towers):
    clip, images, _ = towers
    inject_lora(clip.visual, rank=2)
    sites = inject_adapters(clip.visual, bottleneck=4)
    assert {site.width for site in sites.values()} == {128}
    with pytest.raises(InputError, match=r"resblocks\.0\.mlp has a place for adapters already"):
        inject_adapters(clip.visual, bottleneck=4)
    assert torch.isfinite(clip.visual(images)).all()


def test_what_cannot_be_adapted_is_named(towers):
    from open_clip.modified_resnet import ModifiedResNet

    clip, _, _ = towers
    resnet = ModifiedResNet([1, 1, 1, 1], 16, 2, image_size=32, width=8)
    with pytest.raises(InputError, match="no layer of the tower, a ModifiedResNet, has a name that matches"):
        inject_adapters(resnet)
    with pytest.raises(InputError, match="conv2, a Conv2d, has no linear layer that tells its width: give"):
        inject_adapters(resnet, pattern=r"conv2$", kind="sequential")
    with pytest.raises(InputError, match="attnpool reads 256 numbers and gives 16: no adapter fits beside it"):
        inject_adapters(resnet, pattern="attnpool$")
    for tower, layer in ((resnet, "attnpool.c_proj"), (clip.visual, "attn.out_proj")):
        with pytest.raises(InputError, match=r"is never called, its .* reads its weight: match that instead"):
            inject_adapters(tower, pattern=f"{layer}$", kind="sequential")
    with pytest.raises(InputError, match="adapters are parallel or sequential, not 'beside'"):
        inject_adapters(clip.visual, kind="beside")
    with pytest.raises(InputError, match="bottleneck of an adapter is a whole number of 1 or more, not 0"):
        inject_adapters(clip.visual, bottleneck=0)
    with pytest.raises(InputError, match=r"dropout of an adapter is in \[0, 1\), not 1"):
        inject_adapters(clip.visual, dropout=1.0)
    assert not any(isinstance(m, AdapterSite) for m in clip.modules())
    assert not any(m._forward_hooks for m in clip.modules())  # nothing hangs after a refusal
    # A pool of features is no map: after it an adapter fits.
    after = inject_adapters(resnet, pattern="attnpool$", kind="sequential", bottleneck=2)
    assert resnet(torch.randn(2, 3, 32, 32)).shape == (2, 16) and len(after) == 1


def test_half_precision(towers):
    clip, images, tokens = towers
    pool_of(clip, "t", bottleneck=4)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert torch.isfinite(clip.encode_image(images)).all() and torch.isfinite(clip.encode_text(tokens)).all()
    clip.visual.bfloat16()
    assert clip.visual(images.bfloat16()).dtype == torch.bfloat16


@pytest.mark.slow
def test_compiled_towers_answer_as_before(towers):
    clip, images, _ = towers
    pool = pool_of(clip, "t", bottleneck=4)
    compiled = torch.compile(clip.visual, backend="eager")
    torch.testing.assert_close(compiled(images), clip.visual(images), atol=1e-5, rtol=1e-5)
    adapted = clip.visual(images)
    pool.activate(None)
    torch.testing.assert_close(compiled(images), clip.visual(images), atol=1e-5, rtol=1e-5)
    assert (clip.visual(images) - adapted).abs().max() > 1e-2
