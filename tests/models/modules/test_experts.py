"""Mixtures of experts: gating against its equations, exact mixing, freezing by use."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm import _ranks, _rows
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import create_vlm
from avalanche_vlm.models.modules.adapter import Adapter
from avalanche_vlm.models.modules.experts import (
    ExpertChoice,
    ExpertSite,
    Gate,
    inject_experts,
    leave_alone,
    load_balance,
    mixture,
    noisy_top_k,
)
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import named, working_parameters
from avalanche_vlm.models.tiny import build_tiny

WIDTH, EXPERTS = 6, 5


def randomise(module: nn.Module, std: float = 0.3) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)


def site_on(host: nn.Module, k: int = 2, batch_first: bool = True, experts: int = EXPERTS) -> ExpertSite:
    """Random adapters beside a layer, and a random gate at work."""
    made = [Adapter(WIDTH, bottleneck=3, scale=0.5) for _ in range(experts)]
    site = ExpertSite(host, WIDTH, made, k, batch_first)
    site.add("t")
    site.active = "t"
    randomise(site)
    randomise(site.bank["t"], 1.0)
    return site


@pytest.mark.parametrize("k", [1, 2, 4])
def test_gating_follows_shazeer(k):
    logits = torch.randn(7, EXPERTS, dtype=torch.float64)
    deviation = torch.rand(7, EXPERTS, dtype=torch.float64) + 0.1
    torch.manual_seed(3)
    choice = noisy_top_k(logits, deviation, k)
    torch.manual_seed(3)
    noisy = (logits + deviation * torch.randn_like(logits)).numpy()
    for b in range(7):
        order = np.argsort(-noisy[b])[:k]
        assert choice.experts[b].tolist() == order.tolist()
        weights = np.exp(noisy[b][order]) / np.exp(noisy[b][order]).sum()
        np.testing.assert_allclose(choice.weights[b], weights, atol=1e-12)
        for i in range(EXPERTS):
            threshold = sorted(np.delete(noisy[b], i), reverse=True)[k - 1]
            z = (logits[b, i].item() - threshold) / deviation[b, i].item()
            assert choice.load[b, i].item() == pytest.approx(0.5 * (1 + math.erf(z / math.sqrt(2))), abs=1e-9)


def test_the_load_is_how_often_an_expert_would_be_chosen_under_another_draw_of_its_noise():
    logits, deviation = torch.randn(1, 4), torch.rand(1, 4) + 0.5
    torch.manual_seed(5)
    load = noisy_top_k(logits, deviation, 2).load[0]
    torch.manual_seed(5)
    noisy = (logits + deviation * torch.randn_like(logits))[0]
    for i in range(4):
        draws = noisy.repeat(20_000, 1)
        draws[:, i] = logits[0, i] + deviation[0, i] * torch.randn(20_000)
        often = (draws.topk(2, dim=1).indices == i).any(1).float().mean()
        assert abs(often - load[i]) < 0.02


def test_without_noise_or_with_every_expert_there_is_no_load():
    logits = torch.randn(3, 4)
    assert noisy_top_k(logits, None, 2).load is None
    everything = noisy_top_k(logits, torch.ones(3, 4), 4)
    assert everything.load is None and everything.experts.sort(1).values.tolist() == [[0, 1, 2, 3]] * 3


def test_load_balance_is_the_formula_and_its_gradient_reaches_the_gate():
    gate = Gate(WIDTH, EXPERTS, 2).double()
    randomise(gate, 1.0)
    x = torch.randn(9, WIDTH, dtype=torch.float64)
    choice = gate(x)
    importance, load = np.zeros(EXPERTS), choice.load.detach().numpy().sum(0)
    for b in range(9):
        for place in range(2):
            importance[choice.experts[b, place]] += choice.weights[b, place].item()
    expected = sum(np.std(v) ** 2 / np.mean(v) ** 2 for v in (importance, load))
    got = load_balance(choice, EXPERTS)
    assert got.item() == pytest.approx(expected, rel=1e-6)
    got.backward()
    assert gate.weight.grad.abs().max() > 1e-6 and gate.noise.grad.abs().max() > 1e-6
    equal = ExpertChoice(torch.tensor([[0, 1], [2, 3]]), torch.full((2, 2), 0.5), torch.full((2, 4), 0.5))
    assert load_balance(equal, 4).item() == 0
    # Descending it makes the gate's use of the experts more even.
    optimizer = torch.optim.SGD(gate.parameters(), lr=0.3)
    before = got.item()
    for _ in range(100):
        optimizer.zero_grad()
        torch.manual_seed(1)
        load_balance(gate(x), EXPERTS).backward()
        optimizer.step()
    torch.manual_seed(1)
    assert load_balance(gate(x), EXPERTS).item() < 0.5 * before


@torch.no_grad()
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("k", [1, 2, EXPERTS])
def test_the_mixture_equals_a_loop_over_samples_and_experts(batch_first, k):
    host = nn.Sequential(nn.Linear(WIDTH, 9), nn.GELU(), nn.Linear(9, WIDTH)).double()
    site = site_on(host, k, batch_first).double().eval()
    x = torch.randn(8, 4, WIDTH, dtype=torch.float64)
    expected = torch.empty_like(x)
    site.active = None
    for b in range(8):
        scores = (x[b, 0] @ site.bank["t"].weight).tolist()
        chosen = sorted(range(EXPERTS), key=lambda e: -scores[e])[:k]
        total = sum(math.exp(scores[e]) for e in chosen)
        expected[b] = host(x[b])
        for e in chosen:
            down, up = site.experts[e].down, site.experts[e].up
            part = F.linear(F.linear(x[b], down.weight, down.bias).relu(), up.weight, up.bias)
            expected[b] += math.exp(scores[e]) / total * 0.5 * part
    site.active = "t"
    got = host(x) if batch_first else host(x.transpose(0, 1)).transpose(0, 1)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def choice_of(*experts: list[int]) -> ExpertChoice:
    """These experts for each sample, with random weights that train."""
    return ExpertChoice(torch.tensor(experts), torch.rand(len(experts), len(experts[0]), requires_grad=True), None)


@pytest.mark.parametrize("samples", [[[1], [3], [1]], [[4, 1], [1, 0], [1, 4]], [[0, 3, 4], [4, 0, 1], [1, 3, 0]]])
def test_gradients_of_the_mixture_are_those_of_a_loop_over_samples_and_experts(samples):
    adapters = nn.ModuleList(Adapter(WIDTH, bottleneck=3) for _ in range(EXPERTS))
    randomise(adapters)
    x, choice = torch.randn(3, 4, WIDTH, requires_grad=True), choice_of(*samples)
    one_by_one = [
        sum(weight * adapters[e](x[b]) for e, weight in zip(samples[b], choice.weights[b], strict=True))
        for b in range(3)
    ]
    inputs = [x, choice.weights, *adapters.parameters()]
    factors = torch.randn_like(x)
    expected = torch.autograd.grad((torch.stack(one_by_one) * factors).sum(), inputs, allow_unused=True)
    found = torch.autograd.grad((mixture(x, choice, adapters, x) * factors).sum(), inputs, allow_unused=True)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs)
    assert expected[2 + 4 * 2] is None  # nobody has chosen expert 2


def test_a_batch_without_samples_gets_nothing():
    x, choice = torch.zeros(0, 4, WIDTH), ExpertChoice(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 2), None)
    assert mixture(x, choice, [Adapter(WIDTH)], x).shape == x.shape


class OneOf(_ranks.Ranks):
    """One of two processes; all rows are known."""

    def __init__(self, rank: int, rows: torch.Tensor) -> None:
        self.rank, self.size, self.rows = rank, 2, rows

    def gather(self, own: torch.Tensor, counts: list[int]) -> list[torch.Tensor]:
        return list(self.rows.split(list(counts)))


def test_a_share_of_a_batch_gets_what_the_whole_batch_gets_dropout_included():
    adapters = nn.ModuleList(Adapter(WIDTH, bottleneck=8, dropout=0.5) for _ in range(EXPERTS))
    randomise(adapters)
    # Expert 4 works for the first share alone, expert 0 for the second.
    x, choice = torch.randn(5, 4, WIDTH), choice_of([4, 1], [1, 3], [1, 4], [3, 0], [0, 1])
    torch.manual_seed(3)
    expected = mixture(x, choice, adapters, x)
    after = torch.get_rng_state()
    for rank in range(2):
        ranks = OneOf(rank, choice.experts)
        own = ranks.share(5)
        torch.manual_seed(3)
        with _rows._within(_rows.RowShare(ranks, 5, own)):
            part = ExpertChoice(choice.experts[own], choice.weights[own], None)
            found = mixture(x[own], part, adapters, x[own])
        torch.testing.assert_close(found, expected[own])
        assert torch.equal(torch.get_rng_state(), after)


@torch.no_grad()
def test_a_prediction_depends_on_its_own_sample_alone():
    host = nn.Linear(WIDTH, WIDTH)
    site = site_on(host).eval()
    x = torch.randn(20, 4, WIDTH)
    together = host(x)
    assert torch.equal(host(x), together)  # nothing is drawn
    order = torch.randperm(20)
    torch.testing.assert_close(host(x[order]), together[order], atol=1e-6, rtol=1e-5)
    for b in range(20):
        torch.testing.assert_close(host(x[b : b + 1])[0], together[b], atol=1e-6, rtol=1e-5)
    assert not site.usage.any()  # predictions are not counted
    site.train()
    assert not torch.allclose(host(x), together)


def test_experts_that_nobody_chose_do_not_run_and_have_no_gradient():
    host = nn.Linear(WIDTH, WIDTH)
    site = site_on(host, k=1)
    with torch.no_grad():  # every sample's first token decides for expert 1 or 3
        site.bank["t"].weight.zero_()[0, 1] = 100.0
        site.bank["t"].weight[0, 3] = -100.0
    calls = []
    for number, expert in enumerate(site.experts):
        expert.register_forward_hook(lambda _m, inputs, _out, number=number: calls.append((number, len(inputs[0]))))
    x = torch.randn(6, 3, WIDTH)
    x[:, 0, 0] = torch.tensor([2.0, -2.0, 2.0, 2.0, -2.0, 2.0])
    host(x).sum().backward()
    assert calls == [(1, 4), (3, 2)] and site.usage.tolist() == [0, 4, 0, 2, 0]
    for number, expert in enumerate(site.experts):
        assert all((p.grad is not None) == (number in (1, 3)) for p in expert.parameters())


def test_only_what_nobody_chose_loses_a_gradient_of_zeros():
    host = nn.Linear(WIDTH, WIDTH)
    site = site_on(host, k=1, experts=4)
    with torch.no_grad():  # every sample's first token decides for expert 0 or 1, and expert 1 reads zeros alone
        site.bank["t"].weight.zero_()[0, 0] = 100.0
        site.bank["t"].weight[0, 1] = -100.0
        for parameter in site.experts[1].parameters():
            parameter.zero_()
    x = torch.zeros(2, 3, WIDTH)
    x[:, 0, 0] = torch.tensor([2.0, -2.0])
    idle = sum(0 * p.sum() for p in site.experts[2].parameters())
    penalty = sum(p.square().sum() for p in site.experts[3].parameters())
    (0 * host(x).sum() + idle + penalty).backward()
    leave_alone([site])
    for number, expert in enumerate(site.experts):
        assert all((p.grad is None) == (number == 2) for p in expert.parameters()), number
    assert all(p.grad.any() for p in site.experts[3].parameters())
    assert not any(p.grad.any() for p in site.experts[1].parameters())
    leave_alone([site])  # nothing was chosen since, so nothing is known
    assert all(p.grad is not None for p in site.experts[1].parameters())


def test_the_most_used_experts_freeze_for_good_and_get_no_gradient():
    host = nn.Linear(WIDTH, WIDTH)
    site = site_on(host)
    site.start()
    site.usage[:] = torch.tensor([5, 1, 9, 0, 2])
    p = next(site.experts[2].parameters())
    p.grad = torch.ones_like(p)
    assert site.freeze_most_used(2) == [2, 0] and p.grad is None
    site.start()
    assert not site.usage.any() and site.frozen.tolist() == [True, False, True, False, False]
    host(torch.randn(50, 3, WIDTH)).square().sum().backward()
    assert (site.usage > 0).all()
    for frozen, expert in zip(site.frozen.tolist(), site.experts, strict=True):
        assert all((q.grad is None) == frozen for q in expert.parameters())
    assert site.bank["t"].weight.grad.abs().max() > 0
    site.usage[:] = torch.tensor([5, 1, 0, 0, 0])
    assert site.freeze_most_used(2) == [0, 1] and site.frozen.sum() == 3  # one was frozen already
    site.usage.zero_()
    assert site.freeze_most_used(2) == []  # what nobody used stays free


def adapted(**settings) -> tuple[nn.Module, ModulePool]:
    """Two towers with experts."""
    clip, _ = build_tiny()
    settings = {"experts": 4, "bottleneck": 3, "dropout": 0.0, **settings}
    sites = named("image", inject_experts(clip.visual, **settings))
    return clip.eval(), ModulePool(sites | named("text", inject_experts(clip.transformer, **settings)))


@torch.no_grad()
def test_towers_switched_off_are_bit_identical_and_new_experts_add_nothing():
    torch.manual_seed(0)
    plain, tokenizer = build_tiny()
    torch.manual_seed(0)
    clip, pool = adapted()
    images, tokens = torch.randn(3, 3, 32, 32), tokenizer(["a red star", "a fox", "a blue circle"])
    expected = plain.eval().encode_image(images), plain.encode_text(tokens)
    assert len(pool.sites) == 4 + 3 and set(plain.state_dict()) < set(clip.state_dict())

    def same() -> list[bool]:
        got = clip.encode_image(images), clip.encode_text(tokens)
        return [torch.equal(a, b) for a, b in zip(got, expected, strict=True)]

    pool.add("t")
    assert same() == [True, True]
    randomise(clip.visual.transformer.resblocks[0].mlp_experts.experts)
    randomise(clip.transformer.resblocks[0].mlp_experts.experts)
    assert same() == [False, False]
    pool.activate(None)
    assert same() == [True, True]


def test_gradients_reach_the_current_gate_and_free_experts_alone():
    clip, pool = adapted()
    clip.requires_grad_(False)
    pool.add("old")
    pool.add("new")
    for site in pool.sites.values():
        randomise(site.experts)
        site.frozen[1] = True
        site.start()
        site.bank.train()
    clip.encode_image(torch.randn(40, 3, 32, 32)).square().sum().backward()
    reached = {n for n, p in clip.named_parameters() if p.grad is not None}
    ours = {n for n, _ in clip.named_parameters() if n.startswith("visual.") and "mlp_experts" in n}
    assert reached == {n for n in ours if ".bank.new." in n or (".experts." in n and ".experts.1." not in n)}


@torch.no_grad()
def test_in_a_causal_text_tower_all_texts_get_the_same_experts():
    clip, pool = adapted()
    _, tokenizer = build_tiny()
    pool.add("t")
    for site in pool.sites.values():
        randomise(site.bank["t"], 1.0)
        randomise(site.experts)
    chosen = []
    for where, site in pool.sites.items():
        if where.startswith("text."):
            site.bank["t"].register_forward_hook(lambda _m, _i, choice: chosen.append(choice))
    clip.encode_text(tokenizer(["a red star", "two blue circles", "a fox"]))
    assert len(chosen) == 3
    for choice in chosen:
        assert (choice.experts == choice.experts[:1]).all()
        torch.testing.assert_close(choice.weights, choice.weights[:1].expand(3, -1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_gates_go_into_files_of_their_own_and_experts_with_the_model(tmp_path):
    clip, pool = adapted()
    pool.add("t")
    for site in pool.sites.values():
        randomise(site)
        site.frozen[2] = True
    images = torch.randn(5, 3, 32, 32)
    expected = clip.encode_image(images)
    pool.save("t", tmp_path / "t.safetensors")
    assert (tmp_path / "t.safetensors").stat().st_size < 7 * 2 * 128 * 4 * 4 + 5000
    pool.drop("t")
    other, again = adapted()
    other.load_state_dict(clip.state_dict())
    again.load("t", tmp_path / "t.safetensors")
    again.activate("t")
    assert torch.equal(other.encode_image(images), expected)
    assert all(site.frozen.tolist() == [False, False, True, False] for site in again.sites.values())


def test_experts_work_and_train_with_their_gates_alone():
    model = create_vlm("tiny", "random", freeze=("image", "text", "scale"))
    sites = inject_experts(model.tower("image"), experts=3, bottleneck=2)
    pool = ModulePool(named("image", sites))
    experts = {id(p) for site in sites.values() for p in site.experts.parameters()}
    pool.add("t")
    gate = {id(p) for p in pool.parameters("t")}
    assert {id(p) for p in model.working_parameters("image")} >= experts | gate
    pool.activate(None)
    assert not {id(p) for p in working_parameters(model.tower("image"))} & (experts | gate)
    # Towers that are frozen stay in eval mode, and the dropout of experts follows the model's mode.
    for mode in (True, False):
        model.train(mode)
        assert all(m.training is mode for site in sites.values() for m in (*site.experts, *site.bank.values()))
        assert not model.tower("image").transformer.resblocks[0].training


def test_copies_pickles_and_half_precision():
    clip, pool = adapted()
    pool.add("t")
    for site in pool.sites.values():
        randomise(site)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        for other in (copy.deepcopy(clip.visual), pickle.loads(pickle.dumps(clip.visual))):
            assert torch.equal(other(images), clip.visual(images))
    clip.visual.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        clip.encode_image(images).float().sum().backward()
    gates = [site.bank["t"] for where, site in pool.sites.items() if where.startswith("image.")]
    assert all(torch.isfinite(gate.weight.grad).all() for gate in gates)
    with torch.no_grad():
        assert clip.visual.bfloat16()(images.bfloat16()).dtype == torch.bfloat16


def test_what_does_not_fit_is_named():
    from open_clip.modified_resnet import ModifiedResNet

    tower = build_tiny()[0].visual
    with pytest.raises(InputError, match="number of experts is a whole number of 1 or more, not 0"):
        inject_experts(tower, experts=0)
    with pytest.raises(InputError, match="a sample cannot have 3 of 2 experts"):
        inject_experts(tower, experts=2, k=3)
    with pytest.raises(InputError, match="reads 128 numbers and gives 512: no adapter fits beside it"):
        inject_experts(tower, pattern=r"mlp\.c_fc$")
    with pytest.raises(InputError, match="no layer of the tower, a ModifiedResNet"):
        inject_experts(ModifiedResNet([1, 1, 1, 1], 16, 2, image_size=32, width=8))
    host = nn.Linear(WIDTH, WIDTH)
    site_on(host)
    with pytest.raises(InputError, match=r"by a sample's first token, and there are none in \[2, 6\]"):
        host(torch.randn(2, WIDTH))


@pytest.mark.slow
@torch.no_grad()
def test_compiled_towers_answer_as_before():
    clip, pool = adapted(experts=3)
    pool.add("t")
    for site in pool.sites.values():
        randomise(site)
    images = torch.randn(3, 3, 32, 32)
    compiled = torch.compile(clip.visual, backend="eager")
    torch.testing.assert_close(compiled(images), clip.visual(images), atol=1e-5, rtol=1e-5)
