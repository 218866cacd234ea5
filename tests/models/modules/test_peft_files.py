"""Modules in peft's files: the real peft computes from them what we compute, on the same towers unfused."""

from __future__ import annotations

import copy
import json
from functools import partial

import peft
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import load_file, save_file
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.factory import from_open_clip
from avalanche_vlm.models.modules.dora import DoRA
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.low_rank import LowRank
from avalanche_vlm.models.modules.peft_files import CONFIG, WEIGHTS, export_peft, import_peft
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.modules.tail import TailLowRank

VISION = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": 6, "vocab_size": 20, "width": 32, "heads": 2, "layers": 2}
KINDS = {"lora": LowRank, "dora": DoRA}


class Unfused(nn.Module):
    """Self-attention written out with one linear layer per projection."""

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, d = fused.num_heads, fused.embed_dim
        for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
            layer = nn.Linear(d, d)
            rows = slice(i * d, (i + 1) * d)
            layer.load_state_dict({"weight": fused.in_proj_weight[rows], "bias": fused.in_proj_bias[rows]})
            setattr(self, name, layer)
        self.out_proj = nn.Linear(d, d)
        self.out_proj.load_state_dict(fused.out_proj.state_dict())

    def forward(self, query, key, value, need_weights=False, attn_mask=None):
        b, n, d = query.shape
        heads = [
            layer(x).view(b, n, self.heads, d // self.heads).transpose(1, 2)
            for layer, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        ]
        scores = heads[0] @ heads[1].transpose(2, 3) / (d // self.heads) ** 0.5
        if attn_mask is not None:
            scores = scores + attn_mask
        return self.out_proj((scores.softmax(-1) @ heads[2]).transpose(1, 2).reshape(b, n, d)), None


def build(
    kind: str = "lora", *, custom: bool = False, rank: int = 3, dtype=torch.float64, parts=("q", "k", "v", "out")
):
    """A wrapped model with a pool over both towers, and the same model unfused."""
    torch.manual_seed(0)
    clip = (CustomTextCLIP if custom else CLIP)(24, dict(VISION), dict(TEXT)).to(dtype).eval()
    for name, parameter in clip.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    unfused = copy.deepcopy(clip)
    for name, module in list(unfused.named_modules()):
        if isinstance(module, nn.MultiheadAttention):
            parent, _, last = name.rpartition(".")
            setattr(unfused.get_submodule(parent), last, Unfused(module).to(dtype))
    model = from_open_clip(clip, None, image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3, name="small")
    model.freeze("image", "text")
    make = partial(KINDS[kind], rank=rank, alpha=2.0 * rank)
    sites = {}
    for tower in ("image", "text"):
        sites |= named(tower, inject_lora(model.tower(tower), make=make, parts=parts))
    return model, ModulePool(sites), unfused.requires_grad_(False)


def randomise(pool: ModulePool, name: str) -> None:
    with torch.no_grad():
        for parameter in pool.parameters(name):
            # Magnitudes move by a share of what they are.
            parameter += 0.2 * torch.randn_like(parameter) * (1 if parameter.ndim > 1 else parameter)


def answers(clip: nn.Module, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=generator).to(dtype)
    tokens = torch.randint(1, 20, (4, 6), generator=generator)
    return torch.cat([clip.encode_image(images), clip.encode_text(tokens)])


def gradients(clip: nn.Module, dtype: torch.dtype) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    features = answers(clip, dtype)
    F.normalize(features, dim=-1)[:, ::2].square().sum().backward()
    return features.detach(), {name: p.grad for name, p in clip.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_peft_computes_our_outputs_and_gradients_from_our_file(tmp_path, kind, custom, dtype):
    tolerance = 1e-6 if dtype == torch.float64 else 1e-5
    model, pool, unfused = build(kind, custom=custom, dtype=dtype)
    plain = answers(unfused, dtype)
    pool.add("a")
    randomise(pool, "a")
    export_peft(model, pool, "a", tmp_path)
    theirs = peft.PeftModel.from_pretrained(unfused, tmp_path, is_trainable=True)
    # As many adapted layers as there are: four of attention and two of the MLP, in 2 + 2 blocks.
    assert sum(name.endswith("lora_A") for name, _ in theirs.named_modules()) == 24
    ours, our_gradients = gradients(model.clip, dtype)
    expected, their_gradients = gradients(theirs.base_model.model, dtype)
    torch.testing.assert_close(ours, expected, atol=tolerance, rtol=tolerance)
    assert (ours - plain).abs().max() > 1e-2
    assert len(our_gradients) == len(their_gradients) == 24 * (3 if kind == "dora" else 2)
    for name, gradient in our_gradients.items():
        layer, part, tensor = name.replace(".bank.a", "").rsplit(".", 2)
        layer = layer if part == "weight" else f"{layer}.{part}_proj"
        tail = "magnitude_vector.default.weight" if tensor == "magnitude" else f"{tensor}.default.weight"
        other = their_gradients[f"{layer}.lora_{tail}"]
        torch.testing.assert_close(gradient, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_writes_is_read_and_predicts_the_same(tmp_path, kind):
    model, pool, unfused = build(kind)
    config = peft.LoraConfig(
        r=3,
        lora_alpha=5,
        use_rslora=kind == "lora",
        use_dora=kind == "dora",
        init_lora_weights=False,
        target_modules=["q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"],
    )
    theirs = peft.get_peft_model(unfused, config)
    theirs.save_pretrained(tmp_path)
    pool.add("mine")
    import_peft(model, pool, "theirs", tmp_path)
    assert pool.names == ["mine", "theirs"] and pool.active == pool.current == "mine"
    assert not any(p.requires_grad for p in pool.parameters("theirs"))
    assert all(p.requires_grad for p in pool.parameters("mine"))
    with pool.using("theirs"):
        ours = answers(model.clip, torch.float64)
    torch.testing.assert_close(ours, answers(theirs.base_model.model, torch.float64), atol=1e-6, rtol=1e-6)
    # And back again, under our scale.
    export_peft(model, pool, "theirs", tmp_path / "again")
    import_peft(model, pool, "again", tmp_path / "again")
    assert all(torch.equal(pool.state("again")[key], t) for key, t in pool.state("theirs").items())


def test_files_have_the_names_and_settings_that_peft_gives(tmp_path):
    model, pool, unfused = build("dora", custom=True, parts=("q", "out"))
    pool.add("a")
    export_peft(model, pool, "a", tmp_path / "ours")
    names = ["q_proj", "out_proj", "c_fc", "c_proj"]
    config = peft.LoraConfig(r=3, lora_alpha=6, use_dora=True, target_modules=names)
    peft.get_peft_model(unfused, config).save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / who / WEIGHTS) for who in ("ours", "theirs"))
    assert {k: t.shape for k, t in ours.items()} == {k: t.shape for k, t in theirs.items()}
    written, expected = (json.loads((tmp_path / who / CONFIG).read_text()) for who in ("ours", "theirs"))
    for key in written.keys() - {"target_modules", "base_model_name_or_path"}:
        assert written[key] == expected[key], key
    # Kilobytes: the towers are not in it.
    assert (tmp_path / "ours" / WEIGHTS).stat().st_size < 1.2 * sum(t.nbytes for t in pool.state("a").values())


def test_a_file_for_one_tower_leaves_the_other_alone_in_peft(tmp_path):
    model, _, unfused = build()
    # The names of the text tower's layers are endings of the image tower's.
    pool = ModulePool({f"text.{n}": m for n, m in model.clip.transformer.named_modules() if hasattr(m, "bank")})
    pool.add("a")
    export_peft(model, pool, "a", tmp_path)
    theirs = peft.PeftModel.from_pretrained(unfused, tmp_path)
    adapted = [name for name, _ in theirs.named_modules() if name.endswith("lora_A")]
    assert len(adapted) == 12 and not any("visual" in name for name in adapted)


def test_what_a_file_cannot_hold_is_named(tmp_path):
    model, pool, _ = build()
    pool.add("a")
    other, other_pool, _ = build()
    with pytest.raises(InputError, match="no module called 'b'"):
        export_peft(model, pool, "b", tmp_path)
    with pytest.raises(InputError, match=r"adapts another model than small: image\.\S+ is not in it"):
        export_peft(other, pool, "a", tmp_path)
    next(iter(pool.module("a").values()))["q"].scale = 0.5
    with pytest.raises(InputError, match="the parts of a differ in kind, rank or scale"):
        export_peft(model, pool, "a", tmp_path)
    for site in other_pool.sites.values():
        site.make = partial(TailLowRank, rank=2)
    other_pool.add("a")
    with pytest.raises(InputError, match="hold LoRA and DoRA, and a is a TailLowRank"):
        export_peft(other, other_pool, "a", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"peft_type": "IA3"}, "describes no LoRA with a rank and an alpha, but IA3"),
        ({"r": 0}, "describes no LoRA"),
        ({"rank_pattern": {"q_proj": 2}}, "sets rank_pattern to"),
        ({"bias": "all"}, "sets bias to 'all', which has no counterpart"),
        ({"use_dora": True}, "has no base_model.model.visual.*lora_magnitude_vector"),
    ],
)
def test_settings_that_we_have_not_are_refused_and_the_pool_stays(tmp_path, setting, message):
    model, pool, _ = build()
    pool.add("a")
    export_peft(model, pool, "a", tmp_path)
    path = tmp_path / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | setting))
    with pytest.raises(InputError, match=message):
        import_peft(model, pool, "b", tmp_path)
    assert pool.names == ["a"] and pool.active == pool.current == "a"


def test_files_of_other_layers_or_ranks_are_refused(tmp_path):
    model, pool, _ = build()
    pool.add("a")
    export_peft(model, pool, "a", tmp_path)
    narrow, narrow_pool, _ = build(rank=2)
    with pytest.raises(InputError, match=r"of shape \[3, 32\], not \[2, 32\]"):
        import_peft(narrow, narrow_pool, "b", tmp_path)
    fewer, fewer_pool, _ = build(parts=("q",))
    with pytest.raises(InputError, match="which is no layer that the pool adapts"):
        import_peft(fewer, fewer_pool, "b", tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    state.popitem()
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(InputError, match="a layer that the pool adapts"):
        import_peft(model, pool, "b", tmp_path)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(InputError, match="cannot be read as the settings"):
        import_peft(model, pool, "b", tmp_path)
    assert narrow_pool.names == fewer_pool.names == [] and pool.names == ["a"]
