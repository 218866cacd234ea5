"""DoRA: magnitudes and directions apart, exact beside the weights and merged into them."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.dora import DoRA
from avalanche_vlm.models.modules.lora import LoRAAttention, LoRALinear
from avalanche_vlm.models.modules.low_rank import LowRank, SubspaceLowRank, changed_linear
from avalanche_vlm.models.modules.tail import TailLowRank

WIDTH, HEADS = 16, 4


def by_definition(weight: torch.Tensor, dora: DoRA, detach: bool) -> torch.Tensor:
    """Equation 5 with the whole matrices."""
    moved = weight + dora.scale * dora.B @ dora.A
    norm = moved.norm(dim=1, keepdim=True)
    return dora.magnitude[:, None] * moved / (norm.detach() if detach else norm)


def working(weight: torch.Tensor, **options) -> DoRA:
    dora = DoRA(weight, rank=3, alpha=6.0, **options).to(weight.dtype)
    nn.init.normal_(dora.B, std=0.5)
    with torch.no_grad():
        dora.magnitude *= torch.rand_like(dora.magnitude) + 0.5
    return dora


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("detach", [True, False])
def test_outputs_and_gradients_are_those_of_equation_5(detach, bias):
    linear = nn.Linear(6, 5, bias=bias).double()
    dora = working(linear.weight.detach(), detach_norm=detach)
    layer = LoRALinear(copy.deepcopy(linear), partial(DoRA, rank=3))
    layer.add("t", nn.ModuleDict({"weight": dora}))
    layer.active = "t"
    x = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 7, 5, dtype=torch.float64)
    tensors = [x, dora.A, dora.B, dora.magnitude]
    y = layer(x)
    got = torch.autograd.grad((y * target).sum(), tensors)
    expected = x @ by_definition(linear.weight, dora, detach).T + (linear.bias if bias else 0)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)
    for a, b in zip(got, torch.autograd.grad((expected * target).sum(), tensors), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
    # What a mixture of modules calls gives the same.
    change = dora(x, linear.weight)
    torch.testing.assert_close(linear(x) + change, expected, atol=1e-12, rtol=0)
    layer.merge("t")
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


def test_a_detached_norm_changes_gradients_and_nothing_else():
    weight = torch.randn(5, 6, dtype=torch.float64)
    held, free = working(weight), DoRA(weight, rank=3, alpha=6.0, detach_norm=False).double()
    free.load_state_dict(held.state_dict())
    x = torch.randn(4, 6, dtype=torch.float64)
    a, b = held(x, weight), free(x, weight)
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    a.square().sum().backward(), b.square().sum().backward()
    torch.testing.assert_close(held.magnitude.grad, free.magnitude.grad, atol=1e-10, rtol=0)
    assert (held.B.grad - free.B.grad).abs().max() > 1e-3


def test_a_new_module_changes_nothing_up_to_rounding():
    linear = nn.Linear(48, 32)
    layer = LoRALinear(linear, partial(DoRA, rank=4))
    x = torch.randn(5, 48)
    before = layer(x)
    layer.add("t")
    assert torch.equal(layer(x), before)  # bit for bit while it is not active
    layer.active = "t"
    _, _, scale = layer.bank["t"]["weight"].factors(layer.weight)
    assert torch.equal(scale, torch.ones(32))
    torch.testing.assert_close(layer(x), before, atol=1e-6, rtol=0)


@pytest.mark.parametrize("parts", [("q", "v"), ("k",), ("q", "k", "v", "out")])
def test_attention_with_dora_equals_attention_with_the_change_in_its_weights(parts):
    plain = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    nn.init.normal_(plain.in_proj_bias)
    adapted = LoRAAttention(copy.deepcopy(plain), partial(DoRA, rank=3), parts)
    places = [adapted, adapted.out_proj] if "out" in parts else [adapted]
    for place in places:
        weights = {part: weight.detach() for part, weight in place.weights().items()}
        place.add("t", nn.ModuleDict({part: working(weight) for part, weight in weights.items()}))
        place.active = "t"
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    unmerged = adapted(x, x, x)[0]
    with torch.no_grad():
        for row, part in enumerate("qkv"):
            if part in parts:
                rows = slice(row * WIDTH, (row + 1) * WIDTH)
                changed = by_definition(plain.in_proj_weight[rows], adapted.bank["t"][part], True)
                plain.in_proj_weight[rows] = changed
        if "out" in parts:
            changed = by_definition(plain.out_proj.weight, adapted.out_proj.bank["t"]["weight"], True)
            plain.out_proj.weight.copy_(changed)
    torch.testing.assert_close(unmerged, plain(x, x, x)[0], atol=1e-10, rtol=0)
    for place in places:
        place.merge("t")
    torch.testing.assert_close(adapted(x, x, x)[0], unmerged, atol=1e-10, rtol=0)


def kinds(weights: list[torch.Tensor]) -> dict[str, list[nn.Module | None]]:
    """Modules of several kinds and ranks for three shares of a weight's rows."""
    subspace = SubspaceLowRank(weights[0], rank=2).double()
    subspace.read(torch.randn(1, 6))
    low = [LowRank(w, rank=r, alpha=3.0).double() for w, r in zip(weights, (1, 3, 2), strict=True)]
    return {
        "lora": low,
        "some": [None, low[1], None],
        "mixed": [working(weights[0]), None, low[2]],
        "fixed": [subspace, low[1], low[2]],
        "without factors": [TailLowRank(weights[0], rank=2).double(), None, low[2]],
    }


@pytest.mark.parametrize("kind", ["lora", "some", "mixed", "fixed", "without factors"])
def test_modules_of_shares_of_the_rows_add_up(kind):
    weight, bias = torch.randn(12, 6, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    shares = list(weight.chunk(3))
    modules = kinds(shares)[kind]
    parameters = [p for m in modules if m is not None for p in m.parameters()]
    for parameter in parameters:
        nn.init.normal_(parameter)
    x = torch.randn(3, 2, 6, dtype=torch.float64).transpose(0, 1).requires_grad_()
    y = changed_linear(x, weight, bias, modules)
    changed = torch.cat([w if m is None else w + m.delta(w) for m, w in zip(modules, shares, strict=True)])
    expected = x @ changed.T + bias
    torch.testing.assert_close(y, expected, atol=1e-10, rtol=0)
    weighing = torch.randn_like(y)
    tensors = [x, *(p for p in parameters)]
    got = torch.autograd.grad((y * weighing).sum(), tensors)
    if kind == "mixed":  # delta has the norm in its graph as a constant too
        assert len(got) == 6
    for a, b in zip(got, torch.autograd.grad((expected * weighing).sum(), tensors), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_gradients_of_gradients_and_of_many_losses_at_once():
    weight, bias = torch.randn(4, 6, dtype=torch.float64, requires_grad=True), torch.randn(4, dtype=torch.float64)
    bias.requires_grad_()
    low = LowRank(weight, rank=2).double()
    nn.init.normal_(low.B)
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    tensors = [x, weight, bias, low.A, low.B]
    found = []
    for y in (changed_linear(x, weight, bias, [low]), F.linear(x, weight + low.delta(weight), bias)):
        losses = y.square().sum(1)
        batched = torch.autograd.grad(
            losses, tensors, torch.eye(3, dtype=torch.float64), is_grads_batched=True, retain_graph=True
        )
        first = torch.autograd.grad(losses.sum(), tensors, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), tensors)
        found.append([*batched, *first, *second])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)
    assert changed_linear(x[:0], weight, bias, [low]).shape == (0, 4)


@pytest.mark.parametrize("detach", [True, False])
def test_half_precision_does_not_reach_the_norms(detach):
    linear = nn.Linear(64, 32)
    layer = LoRALinear(copy.deepcopy(linear), partial(DoRA, rank=4, detach_norm=detach))
    layer.add("t")
    layer.active = "t"
    x = torch.randn(3, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        _, _, scale = layer.bank["t"]["weight"].factors(layer.weight)
    assert torch.equal(scale, torch.ones(32))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), linear(x), atol=0.02, rtol=0.02)
    y.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.bank["t"]["weight"].parameters())
    half = LoRALinear(copy.deepcopy(linear).bfloat16(), partial(DoRA, rank=4))
    half.add("t")
    half.active = "t"
    assert half(x.bfloat16()).dtype == torch.bfloat16


def test_copies_and_pickles_are_independent_and_equal():
    layer = LoRALinear(nn.Linear(6, 5), partial(DoRA, rank=2))
    layer.add("t")
    layer.active = "t"
    nn.init.normal_(layer.bank["t"]["weight"].B)
    x = torch.randn(3, 6)
    again = pickle.loads(pickle.dumps(layer))
    assert torch.equal(again(x), layer(x))
    twin = copy.deepcopy(layer)
    nn.init.zeros_(twin.bank["t"]["weight"].B)
    assert (twin(x) - layer(x)).abs().max() > 1e-3


def test_a_row_without_direction_is_refused():
    weight = torch.ones(3, 4)
    weight[1] = 0
    with pytest.raises(InputError, match="a row of zeros: it has no direction"):
        DoRA(weight, rank=1)
