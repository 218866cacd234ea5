"""Low-rank modules: exact, separate, and gone when switched off."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.lora import LoRAAttention, LoRALayer, LoRALinear, LowRank, inject_lora
from avalanche_vlm.models.modules.tail import TailLowRank
from avalanche_vlm.models.tiny import build_tiny

WIDTH, HEADS, LENGTH = 16, 4, 5


def of_rank(rank: int, alpha: float) -> partial:
    return partial(LowRank, rank=rank, alpha=alpha)


def randomise(layer: nn.Module, name: str) -> None:
    """Give the zero half of a module values, so that it does something."""
    for owner in layer.modules():
        if isinstance(owner, LoRALayer) and name in owner.bank:
            for parameter in owner.bank[name].parameters():
                nn.init.normal_(parameter, std=0.3)


def activate(module: nn.Module, name: str | None) -> None:
    for layer in module.modules():
        if isinstance(layer, LoRALayer):
            layer.active = name


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("parts", [("q", "v"), ("k",), ("q", "k", "v", "out")])
def test_attention_equals_attention_with_the_change_in_its_weights(batch_first, masked, parts):
    plain = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first).double()
    nn.init.normal_(plain.in_proj_bias)
    adapted = LoRAAttention(copy.deepcopy(plain), of_rank(3, 6.0), parts)
    for layer in (m for m in adapted.modules() if isinstance(m, LoRALayer)):
        layer.add("t")
    randomise(adapted, "t")
    x = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    x = x if batch_first else x.transpose(0, 1)
    mask = torch.full((LENGTH, LENGTH), float("-inf"), dtype=torch.float64).triu(1) if masked else None

    def run(module):
        return module(x, x, x, need_weights=False, attn_mask=mask)[0]

    torch.testing.assert_close(run(adapted), run(plain), atol=1e-10, rtol=0)
    activate(adapted, "t")
    with torch.no_grad():
        for row, part in enumerate("qkv"):
            if part in parts:
                rows = slice(row * WIDTH, (row + 1) * WIDTH)
                plain.in_proj_weight[rows] += 2.0 * adapted.bank["t"][part].B @ adapted.bank["t"][part].A
        if "out" in parts:
            low_rank = adapted.out_proj.bank["t"]["weight"]
            plain.out_proj.weight += 2.0 * low_rank.B @ low_rank.A
    unmerged = run(adapted)
    torch.testing.assert_close(unmerged, run(plain), atol=1e-10, rtol=0)
    for layer in [m for m in adapted.modules() if isinstance(m, LoRALayer)]:
        layer.merge("t")
    activate(adapted, None)
    torch.testing.assert_close(run(adapted), unmerged, atol=1e-10, rtol=0)


def test_linear_equals_linear_with_the_change_in_its_weight():
    linear = nn.Linear(6, 4).double()
    adapted = LoRALinear(copy.deepcopy(linear), of_rank(2, 1.0))
    adapted.add("t")
    x = torch.randn(3, 6, dtype=torch.float64)
    activate(adapted, "t")
    assert torch.equal(adapted(x), linear(x))  # B starts at zero
    randomise(adapted, "t")
    expected = x @ (linear.weight + adapted.bank["t"]["weight"].delta(linear.weight)).T + linear.bias
    torch.testing.assert_close(adapted(x), expected, atol=1e-12, rtol=0)
    adapted.merge("t")
    activate(adapted, None)
    torch.testing.assert_close(adapted(x), expected, atol=1e-12, rtol=0)


def test_a_merged_part_of_a_change_is_that_part_and_the_old_weight_stays():
    attention = LoRAAttention(nn.MultiheadAttention(WIDTH, HEADS).double(), of_rank(3, 6.0), ("q", "v", "out"))
    linear = LoRALinear(nn.Linear(6, 4).double(), of_rank(2, 1.0))
    for layer in (attention, attention.out_proj, linear):
        layer.add("t")
        layer.active = "t"
        randomise(layer, "t")
        change = {part: m.delta(layer.weights()[part]) for part, m in layer.bank["t"].items()}
        fused = "in_proj_weight" if layer is attention else "weight"
        old = getattr(layer, fused)
        before, keys = old.detach().clone(), [key for key in layer.state_dict() if "bank." not in key]
        layer.merge("t", 0.5)
        full = change.get("weight")
        if layer is attention:
            full = torch.cat([change["q"], torch.zeros_like(change["q"]), change["v"]])
        torch.testing.assert_close(getattr(layer, fused), before + 0.5 * full, atol=1e-12, rtol=0)
        assert torch.equal(old, before) and isinstance(getattr(layer, fused), nn.Parameter)
        assert layer.active is None and list(layer.state_dict()) == keys


def test_frozen_weights_are_frozen_after_a_merge():
    linear = nn.Linear(6, 4)
    linear.weight.requires_grad_(False)
    layer = LoRALinear(linear, of_rank(2, 1.0))
    layer.add("t")
    layer.merge("t")
    assert not layer.weight.requires_grad and layer.bias.requires_grad


@pytest.mark.parametrize(("out", "fan_in"), [(7, 12), (12, 7)])
@pytest.mark.parametrize("hold_outputs", [True, False])
def test_a_tail_module_is_a_change_outside_the_head(out, fan_in, hold_outputs):
    weight = torch.randn(out, fan_in, dtype=torch.float64).float()
    tail = TailLowRank(weight, rank=3, hold_outputs=hold_outputs)
    assert [name for name, _ in tail.named_parameters()] == ["M"] and not tail.M.any()
    nn.init.normal_(tail.M)
    x = torch.randn(5, 2, fan_in)
    torch.testing.assert_close(tail(x, weight), x @ tail.delta(weight).T, atol=1e-5, rtol=1e-5)
    u, s, v = torch.linalg.svd(weight)
    kept = min(out, fan_in) - 3
    assert (tail.delta(weight) @ v[:kept].T).abs().max() < 1e-5
    written = (u[:, :kept].T @ tail.delta(weight)).abs().max()
    assert written < 1e-5 if hold_outputs else written > 0.1
    # The head's singular values are among those of the sum.
    if hold_outputs:
        after = torch.linalg.svdvals(weight + tail.delta(weight))
        assert all((after - value).abs().min() < 1e-5 for value in s[:kept])


def test_a_tail_is_scaled_by_the_root_of_its_directions_and_drops_inputs_while_it_trains():
    weight, x = torch.randn(6, 8), torch.randn(4000, 8)
    plain, tail = TailLowRank(weight, rank=4), TailLowRank(weight, rank=4, alpha=2.0, dropout=0.25)
    tail.M.data = plain.M.data = torch.randn(4, 4)
    torch.testing.assert_close(tail.delta(weight), 2 / 4**0.5 * tail.U @ tail.M @ tail.V.T)
    torch.testing.assert_close(tail.delta(weight), plain.delta(weight))  # 2 over the root of 4
    expected = x @ tail.delta(weight).T
    torch.testing.assert_close(tail.eval()(x, weight), expected, atol=1e-5, rtol=1e-4)
    # In training a quarter of the inputs is missing and the others count for it: right on average.
    found = tail.train()(x, weight)
    assert (found - expected).abs().max() > 0.1
    ones = torch.ones(4000, 8)
    torch.testing.assert_close(tail(ones, weight).mean(0), (ones @ tail.delta(weight).T)[0], atol=0.1, rtol=0)
    mute = TailLowRank(torch.eye(5), rank=3, tail_energy=0.1, alpha=2.0)  # every direction holds a fifth
    assert not mute(torch.randn(2, 5), torch.eye(5)).any() and not mute.delta(torch.eye(5)).any()


def test_a_tail_takes_what_rank_and_energy_leave_it():
    def directions(rank, energy):
        weight = torch.diag(torch.tensor([9.0, 3.0, 1.0, 1.0, 0.5])) @ torch.linalg.qr(torch.randn(5, 5)).Q
        return TailLowRank(weight, rank, energy).V.shape[1]

    total = 81 + 9 + 1 + 1 + 0.25
    assert [directions(5, e / total) for e in (0.1, 0.25, 1.25, 2.24, 2.25, 11.25, total)] == [0, 1, 2, 2, 3, 4, 5]
    assert directions(2, 1.0) == 2 and directions(64, 1.0) == 5
    # As the head of a layer that is no wider than the rank is held only by its energy.
    assert TailLowRank(torch.randn(4, 9).half(), 128).M.shape == (4, 4)


@pytest.fixture
def towers():
    torch.manual_seed(0)
    clip, tokenizer = build_tiny()
    return clip.eval(), torch.randn(3, 3, 32, 32), tokenizer(["a red star", "a blue circle", "a fox"])


def test_both_towers_are_unchanged_until_a_module_works(towers):
    clip, images, tokens = towers
    keys = set(clip.state_dict())
    with torch.no_grad():
        before = clip.encode_image(images), clip.encode_text(tokens)
        layers = [*inject_lora(clip.visual, rank=2).values(), *inject_lora(clip.transformer, rank=2).values()]
        assert set(clip.state_dict()) == keys
        off = clip.encode_image(images), clip.encode_text(tokens)
        for layer in layers:
            layer.add("t")
            layer.active = "t"
        new = clip.encode_image(images), clip.encode_text(tokens)
        randomise(clip, "t")
        working = clip.encode_image(images), clip.encode_text(tokens)
    for a, b, c, d in zip(before, off, new, working, strict=True):
        torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(c, a, atol=1e-6, rtol=1e-5)
        assert (d - a).abs().max() > 1e-3
    # Attention, its output, and two layers of the MLP in each of 4 + 3 blocks.
    assert len(layers) == 4 * 7


@torch.no_grad()
def test_working_towers_equal_towers_with_the_change_in_their_weights(towers):
    clip, images, tokens = towers
    by_hand = copy.deepcopy(clip).double()
    rank, alpha = 2, 3.0
    for tower, twin in ((clip.visual, by_hand.visual), (clip.transformer, by_hand.transformer)):
        for layer in inject_lora(tower, rank=rank, alpha=alpha).values():
            layer.add("t")
            layer.active = "t"
        for name, layer in tower.named_modules():
            if not isinstance(layer, LoRALayer):
                continue
            for low_rank in layer.bank["t"].values():
                torch.nn.init.normal_(low_rank.B, std=0.1)
            target = twin.get_submodule(name)
            change = {p: alpha / rank * m.B.double() @ m.A.double() for p, m in layer.bank["t"].items()}
            if isinstance(layer, LoRAAttention):
                target.in_proj_weight += torch.cat([change["q"], change["k"], change["v"]])
            else:
                target.weight += change["weight"]
    expected = by_hand.visual(images.double()), by_hand.encode_text(tokens)
    got = clip.visual(images), clip.encode_text(tokens)
    plain_texts = copy.deepcopy(clip)
    activate(plain_texts, None)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.double(), b, atol=2e-5 * b.abs().max().item(), rtol=1e-4)
    assert (plain_texts.encode_text(tokens) - got[1]).abs().max() > 1e-3  # the change was worth checking


def test_only_the_active_module_gets_gradients_and_copies_are_independent(towers):
    clip, images, _ = towers
    clip.requires_grad_(False)
    layers = inject_lora(clip.visual, rank=2).values()
    for name in ("old", "new"):
        for layer in layers:
            layer.add(name)
    activate(clip, "new")
    randomise(clip, "new")
    clip.encode_image(images).sum().backward()
    with_gradient = {name for name, p in clip.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, _ in clip.named_parameters() if ".bank.new." in name}
    twin = copy.deepcopy(clip)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if ".bank.new." in name:
                parameter.zero_()
        assert (clip.encode_image(images) - twin.encode_image(images)).abs().max() > 1e-3


def test_injected_towers_pickle(towers):
    clip, images, _ = towers
    for layer in inject_lora(clip.visual, rank=2).values():
        layer.add("t")
        layer.active = "t"
    randomise(clip, "t")
    again = pickle.loads(pickle.dumps(clip.visual))
    with torch.no_grad():
        assert torch.equal(again(images), clip.visual(images))


def test_what_lora_cannot_adapt_is_named(towers):
    clip, _, _ = towers
    with pytest.raises(InputError, match="has a name that matches 'qkv'"):
        inject_lora(clip.visual, pattern="qkv")
    with pytest.raises(InputError, match="cannot adapt conv1, a Conv2d"):
        inject_lora(clip.visual, pattern="conv1")
    attention = LoRAAttention(nn.MultiheadAttention(WIDTH, HEADS), of_rank(2, 2.0), ("q",))
    with pytest.raises(InputError, match="rank of LoRA is a whole number of 1 or more, not 0"):
        inject_lora(nn.Sequential(nn.Linear(2, 2)), rank=0, pattern="0")
    with pytest.raises(InputError, match="parts of attention are q, k, v, out, not 'o'"):
        inject_lora(clip.visual, parts=("q", "o"))
    with pytest.raises(InputError, match="is self-attention: leave out blocks"):
        attention(torch.zeros(1, 1, WIDTH), torch.zeros(1, 1, WIDTH), torch.zeros(1, 1, WIDTH))


@pytest.mark.parametrize("bf16", [False, True])
def test_autocast(towers, bf16):
    clip, images, _ = towers
    for layer in inject_lora(clip.visual, rank=2).values():
        layer.add("t")
        layer.active = "t"
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16), torch.no_grad():
        assert torch.isfinite(clip.encode_image(images)).all()
