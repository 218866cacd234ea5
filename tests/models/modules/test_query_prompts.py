"""Prompts by query: what a sample selects or weighs, and that it alone gets it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from made import tiny as tiny_vlm
from open_clip.model import CLIP
from small_towers import TEXT, resnet, sequence_first, wrap
from timm.layers import Attention
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.query_prompts import (
    CodaPromptPool,
    DualPromptPool,
    L2PPool,
    QueryPromptPath,
    QueryPromptPool,
)
from avalanche_vlm.models.modules.query_prompts.coda import from_orthonormal, orthonormal_rows
from avalanche_vlm.models.modules.query_prompts.places import PrefixAttention, TimmPrefixAttention

WIDTH = 128
"""Of the tiny tower, and of its features."""
OPTIONS: dict[type, dict[str, Any]] = {
    L2PPool: {"size": 5, "length": 3, "chosen": 2},
    DualPromptPool: {"shared_blocks": 1, "task_blocks": 2, "shared_length": 2, "task_length": 3},
    CodaPromptPool: {"components": 3, "length": 4, "blocks": 2},
}
POOLS = list(OPTIONS)


@pytest.fixture
def tower() -> nn.Module:
    return tiny_vlm("random").tower("image")


def begun(kind: type, tower: nn.Module, tasks: int, query: int = WIDTH, **options: Any) -> QueryPromptPool:
    """A pool after so many tasks, with numbers in it that tell samples apart."""
    pool = kind(tower, query, **{**OPTIONS[kind], **options})
    for _ in range(tasks):
        pool.begin_task()
    randomise(pool)
    return pool


@torch.no_grad()
def randomise(pool: QueryPromptPool) -> None:
    for parameter in pool.parameters():
        nn.init.normal_(parameter)


def prompted(kind: type, tasks: int = 2, **options: Any) -> VLM:
    """A VLM whose images go through such a pool."""
    model = tiny_vlm("random").freeze("image", "text")
    pool = begun(kind, model.tower("image"), tasks, model.width, **options)
    model.image_path = QueryPromptPath(pool, model.tower("image")).eval()
    return model.eval()


def queries(n: int = 6) -> torch.Tensor:
    return F.normalize(torch.randn(n, WIDTH), dim=1)


def pictures(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt()))


# Selection and weighing ----------------------------------------------------------------------------------------------


def test_l2p_gives_every_sample_the_prompts_of_its_nearest_keys(tower):
    pool, query = begun(L2PPool, tower, 1), queries()
    (prompts,) = pool.eval()(query)
    assert prompts.shape == (6, 2 * 3, WIDTH)
    total = 0.0
    for q, got in zip(query, prompts, strict=True):
        ranked = sorted((1 - cosine(q, key), m) for m, key in enumerate(pool.keys))[:2]
        assert torch.equal(got, torch.cat([pool.prompts[m] for _, m in ranked]))
        total += sum(distance for distance, _ in ranked)
    assert pool.penalty(query).item() == pytest.approx(total / 6, abs=1e-5)
    assert len({tuple(row) for row in pool.select(query).tolist()}) > 1  # samples did choose differently


def test_l2p_can_hold_what_earlier_tasks_have_used_against_a_prompt(tower):
    pool, query = begun(L2PPool, tower, 1, selection="diverse"), queries(40)
    nearest = pool.select(query)
    pool.observe(query[:10])
    assert torch.equal(pool.select(query), nearest)  # the first task counts, and does not yet know
    counts = [sum(m in row for row in nearest[:10].tolist()) for m in range(5)]
    pool.begin_task()
    assert pool.used.tolist() == counts and not pool.using.any()
    pool.used[3] = 0
    share = [int(c) / int(pool.used.sum()) for c in pool.used]
    for q, row in zip(query, pool.select(query).tolist(), strict=True):
        ranked = sorted(((1 - cosine(q, key)) * (share[m] + 1e-6), m) for m, key in enumerate(pool.keys))
        assert row == [m for _, m in ranked[:2]] and row[0] == 3
    assert torch.equal(pool.eval().select(query), nearest)
    # Of several that were never used the nearest goes first.
    pool.train().used.copy_(torch.tensor([0, 4, 0, 0, 0]))
    for q, row in zip(query, pool.select(query).tolist(), strict=True):
        assert row == [m for _, m in sorted((1 - cosine(q, pool.keys[m]), m) for m in (0, 2, 3, 4))[:2]]


def test_dualprompt_gives_the_current_tasks_prompt_in_training_and_that_of_the_nearest_key_at_prediction(tower):
    pool, query = begun(DualPromptPool, tower, 3), queries(12)
    shared, *own = pool.train()(query)
    assert shared.shape == (12, 2, 2, WIDTH) and all(part.shape == (12, 2, 3, WIDTH) for part in own)
    for row in range(12):
        assert torch.equal(shared[row], pool.shared[0])
        assert all(torch.equal(own[block][row], pool.prompts[2][block]) for block in range(2))
    expected = sum(1 - cosine(q, pool.keys[2]) for q in query) / 12
    assert pool.penalty(query).item() == pytest.approx(expected, abs=1e-5)
    chosen = set()
    shared, *own = pool.eval()(query)
    for row, q in enumerate(query):
        task = max(range(3), key=lambda t, q=q: cosine(q, pool.keys[t]))
        chosen.add(task)
        assert torch.equal(shared[row], pool.shared[0])
        assert all(torch.equal(own[block][row], pool.prompts[task][block]) for block in range(2))
    assert len(chosen) > 1


def test_a_new_task_prompt_starts_as_the_last_and_its_key_anew(tower):
    pool = begun(DualPromptPool, tower, 1)
    pool.begin_task()
    assert torch.equal(pool.prompts[1], pool.prompts[0]) and not torch.equal(pool.keys[1], pool.keys[0])
    assert pool.prompts[1].data_ptr() != pool.prompts[0].data_ptr()
    assert 0 <= pool.keys[1].min() < pool.keys[1].max() < 0.01


def test_coda_sums_components_by_attended_similarity(tower):
    pool, query = begun(CodaPromptPool, tower, 2), queries()
    weights, prompts = pool.weights(query), pool(query)
    assert len(prompts) == 2 and prompts[0].shape == (6, 2, 2, WIDTH)
    for block in range(2):
        keys, attention, parts = (torch.cat([p[block] for p in of]) for of in (pool.keys, pool.attention, pool.prompts))
        assert len(keys) == 6  # those of both tasks
        for row, q in enumerate(query):
            alphas = [cosine(q.double() * a.double(), k) for a, k in zip(attention, keys, strict=True)]
            torch.testing.assert_close(weights[block, row].double(), torch.tensor(alphas).double(), atol=1e-5, rtol=0)
            expected = sum(alpha * part.double() for alpha, part in zip(alphas, parts, strict=True))
            torch.testing.assert_close(prompts[block][row].double(), expected, atol=1e-4, rtol=0)


def test_codas_penalty_is_the_distance_from_orthonormality(tower):
    pool, expected = begun(CodaPromptPool, tower, 2), 0.0
    for of in (pool.prompts, pool.keys, pool.attention):
        for block in range(2):
            rows = [row.flatten().double() for p in of for row in p[block]]
            entries = [((a @ b).item() - (i == j)) ** 2 for i, a in enumerate(rows) for j, b in enumerate(rows)]
            expected += sum(entries) / 36
    assert pool.penalty(queries()).item() == pytest.approx(expected, rel=1e-5)
    fresh = CodaPromptPool(tower, WIDTH, **OPTIONS[CodaPromptPool])
    fresh.begin_task()
    fresh.begin_task()
    assert fresh.penalty(queries()).item() < 1e-8


@pytest.mark.parametrize("m", [3, 4, 5, 40])
def test_rows_are_as_far_from_orthonormal_whichever_way_it_is_computed(m):
    rows = torch.randn(2, m, 4, dtype=torch.float64, requires_grad=True)
    far = (rows @ rows.mT - torch.eye(m)).square().mean((1, 2))
    found = from_orthonormal(rows)
    torch.testing.assert_close(found, far)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), rows), torch.autograd.grad(far.sum(), rows))


def test_new_components_are_orthonormal_while_there_is_room():
    old = torch.randn(4, 9) @ torch.diag(torch.arange(1.0, 10))
    new = orthonormal_rows(3, old)
    torch.testing.assert_close(new @ new.T, torch.eye(3), atol=1e-6, rtol=0)
    assert (new @ old.T).abs().max() < 1e-5
    crowded = orthonormal_rows(7, old)
    assert (crowded[:5] @ old.T).abs().max() < 1e-5
    torch.testing.assert_close(crowded[:5] @ crowded[:5].T, torch.eye(5), atol=1e-6, rtol=0)
    for rows in (crowded, orthonormal_rows(2, torch.randn(12, 9))):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))


# Places --------------------------------------------------------------------------------------------------------------


def gathered(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, prompts: torch.Tensor, heads: int) -> torch.Tensor:
    """Attention of one sample, head by head: ``[L, D]`` each, prompts ``[2, n, D]``."""
    k, v = torch.cat([prompts[0], k]), torch.cat([prompts[1], v])
    out = []
    for a, b, c in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
        out.append((a @ b.T / a.shape[1] ** 0.5).softmax(1) @ c)
    return torch.cat(out, 1)


@pytest.mark.parametrize("batch_first", [True, False])
def test_prefix_attention_is_attention_with_more_keys_and_values(batch_first):
    plain = nn.MultiheadAttention(16, 4, batch_first=batch_first).double()
    nn.init.normal_(plain.in_proj_bias)
    layer = PrefixAttention(copy.deepcopy(plain))
    assert list(layer.state_dict()) == list(plain.state_dict())
    x, prompts = torch.randn(3, 5, 16, dtype=torch.float64), torch.randn(3, 2, 2, 16, dtype=torch.float64)
    given = x if batch_first else x.transpose(0, 1)
    expected = plain(given, given, given, need_weights=False)[0]
    torch.testing.assert_close(layer(given, given, given)[0], expected, atol=1e-12, rtol=0)
    layer.prompts = prompts
    got = layer(given, given, given)[0]
    for sample, own, y in zip(x, prompts, got if batch_first else got.transpose(0, 1), strict=True):
        q, k, v = (sample @ plain.in_proj_weight.T + plain.in_proj_bias).chunk(3, 1)
        by_hand = gathered(q, k, v, own, 4) @ plain.out_proj.weight.T + plain.out_proj.bias
        torch.testing.assert_close(y, by_hand, atol=1e-12, rtol=0)
    with pytest.raises(InputError, match="without a mask"):
        layer(given, given, given, attn_mask=torch.zeros(5, 5))


@pytest.mark.parametrize("qk_norm", [True, False])
def test_so_is_timms(qk_norm):
    plain = Attention(16, 4, qkv_bias=True, qk_norm=qk_norm, norm_layer=nn.LayerNorm).double()
    layer = TimmPrefixAttention(copy.deepcopy(plain))
    assert list(layer.state_dict()) == list(plain.state_dict())
    x, prompts = torch.randn(3, 5, 16, dtype=torch.float64), torch.randn(3, 2, 2, 16, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(x), atol=1e-12, rtol=0)
    layer.prompts = prompts
    for sample, own, y in zip(x, prompts, layer(x), strict=True):
        q, k, v = plain.qkv(sample).chunk(3, 1)
        if qk_norm:
            q, k = (norm(part.view(5, 4, 4)).view(5, 16) for norm, part in ((plain.q_norm, q), (plain.k_norm, k)))
        torch.testing.assert_close(y, plain.proj(gathered(q, k, v, own, 4)), atol=1e-12, rtol=0)
    with pytest.raises(InputError, match="Attention with extra parts"):
        TimmPrefixAttention(Attention(16, 4, gated=True))


def timm_tower() -> VLM:
    vision = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 32}
    return wrap(CLIP(24, vision, TEXT))


@pytest.mark.parametrize("build", [sequence_first, timm_tower, lambda: tiny_vlm("random")])
@torch.no_grad()
def test_tokens_stand_in_front_of_the_others_from_the_first_block_to_the_last(build):
    model = build().freeze("image").eval()
    tower, images = model.tower("image"), pictures()
    pool = begun(L2PPool, tower, 1, model.width)
    plain = model.encode_image_plain(images, normalize=False)
    model.image_path = QueryPromptPath(pool, tower).eval()
    got = model.encode_image(images, normalize=False)
    (prompts,) = pool(F.normalize(plain, dim=1))
    blocks = (tower.transformer if hasattr(tower, "transformer") else tower.trunk.blocks).register_forward_hook(
        lambda module, args, _: run_by_hand(module, args[0], prompts)
    )
    expected = model.encode_image_plain(images, normalize=False)
    blocks.remove()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert (got - plain).abs().max() > 1e-3


def run_by_hand(stack: nn.Module, x: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
    """What a stack of blocks makes of ``[B, L, D]`` behind prompts, without them."""
    batch_first = getattr(stack, "batch_first", True)
    x = torch.cat([prompts, x], 1)
    for block in getattr(stack, "resblocks", stack):
        x = block(x) if batch_first else block(x.transpose(0, 1)).transpose(0, 1)
    return x[:, prompts.shape[1] :]


@pytest.mark.parametrize("build", [sequence_first, timm_tower])
@pytest.mark.parametrize("kind", [DualPromptPool, CodaPromptPool])
@torch.no_grad()
def test_prefixes_enter_towers_of_either_kind(build, kind):
    model = build().freeze("image").eval()
    images, keys = pictures(), list(model.state_dict())
    plain = model.encode_image(images)
    model.image_path = QueryPromptPath(kind(model.tower("image"), model.width), model.tower("image")).eval()
    assert list(model.clip.state_dict()) == [key.removeprefix("clip.") for key in keys if key.startswith("clip.")]
    torch.testing.assert_close(model.encode_image(images), plain, atol=1e-5, rtol=0)
    model.image_path.pool.begin_task()
    randomise(model.image_path.pool)
    assert (model.encode_image(images) - plain).abs().max() > 1e-2


def test_a_small_tower_gets_as_many_prompts_as_it_has_blocks(tower):
    assert len(CodaPromptPool(copy.deepcopy(tower), WIDTH).install(tower)) == 4
    tower = tiny_vlm("random").tower("image")
    assert len(DualPromptPool(tower, WIDTH).install(tower)) == 4  # two shared, and of three the two that are left
    with pytest.raises(InputError, match="need blocks after the 4 with the shared prompt, but this tower has 4"):
        DualPromptPool(tower, WIDTH, shared_blocks=4)


def test_towers_and_numbers_that_do_not_fit_are_named(tower):
    with pytest.raises(InputError, match="a ModifiedResNet is none"):
        L2PPool(resnet().tower("image"), WIDTH)
    with pytest.raises(InputError, match="cannot get 6 prompts of a pool of 5"):
        L2PPool(tower, WIDTH, size=5, chosen=6)
    with pytest.raises(InputError, match="selected as nearest or diverse, not 'best'"):
        L2PPool(tower, WIDTH, selection="best")
    with pytest.raises(InputError, match="its length is even, not 5"):
        CodaPromptPool(tower, WIDTH, length=5)
    with pytest.raises(InputError, match="the length of the shared prompt is a whole number of 1 or more, not 0"):
        DualPromptPool(tower, WIDTH, shared_length=0)
    inject_lora(tower, rank=1, pattern=r"resblocks\.1\.attn$")
    pool = CodaPromptPool(tower, WIDTH, blocks=2)
    with pytest.raises(InputError, match="cannot enter attention that is a LoRAAttention"):
        QueryPromptPath(pool, tower)
    assert type(tower.transformer.resblocks[0].attn) is nn.MultiheadAttention
    tower.set_grad_checkpointing(True)
    with pytest.raises(InputError, match="checkpoints its activations"):
        QueryPromptPath(pool, tower)


# The way of images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", POOLS)
def test_the_query_is_the_plain_feature_and_has_no_gradient(kind):
    model, images, seen = prompted(kind), pictures(), []
    model.image_path.taps.append(seen.append)
    features = model.train().encode_image(images)
    (query,) = seen
    assert not query.requires_grad and features.requires_grad
    assert torch.equal(query, model.encode_image_plain(images))
    assert (features - query).abs().max() > 1e-3
    features.square().sum().backward()
    assert not any(p.grad is not None for p in model.clip.parameters())


@pytest.mark.parametrize("kind", POOLS)
@torch.no_grad()
def test_the_pretrained_model_answers_before_the_first_task_and_after_a_pass_that_failed(kind):
    model, images = prompted(kind, tasks=0), pictures()
    plain = model.encode_image_plain(images)
    assert torch.equal(model.encode_image(images), plain)
    model.image_path.pool.begin_task()
    calls = []

    def fail_with_prompts(x: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return model.encode_image_plain(x, normalize=False)

    with pytest.raises(RuntimeError, match="out of memory"):
        model.image_path(fail_with_prompts, images)
    assert torch.equal(model.encode_image_plain(images), plain)


@pytest.mark.parametrize("kind", POOLS)
@torch.no_grad()
def test_a_sample_is_prompted_for_itself(kind):
    model, images = prompted(kind), pictures(12)
    together = model.encode_image(images)
    for rows in ([5], [11, 0, 3], [2, 2, 7, 7, 7]):
        torch.testing.assert_close(model.encode_image(images[rows]), together[rows], atol=1e-5, rtol=0)
    if kind is not CodaPromptPool:  # otherwise the batch would have had nothing to vote on
        query = model.encode_image_plain(images)
        chosen = model.image_path.pool.distances(query).argmin(1)
        assert len(chosen.unique()) > 1


@pytest.mark.parametrize("kind", POOLS)
@torch.no_grad()
def test_copies_and_reloaded_models_answer_the_same_and_are_their_own(kind):
    model, images = prompted(kind, tasks=3), pictures()
    expected = model.encode_image(images)
    other = prompted(kind, tasks=0)
    other.load_state_dict(model.state_dict())
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), other):
        assert torch.equal(again.encode_image(images), expected)
        assert again.image_path.pool.tasks == 3
        randomise(again.image_path.pool)
        assert (again.encode_image(images) - expected).abs().max() > 1e-3
        assert torch.equal(model.encode_image(images), expected)
    trains = [[p.requires_grad for p in m.image_path.pool.parameters()] for m in (model, other)]
    assert trains[0] == trains[1]


@pytest.mark.parametrize("kind", POOLS)
def test_half_precision_is_the_towers_and_not_the_choices(kind):
    model, images = prompted(kind, tasks=1), pictures()
    path, queries, entered = model.image_path, [], []
    full = model.encode_image(images)
    path.taps.append(queries.append)
    path.pool.register_forward_hook(lambda _module, _args, prompts: entered.append(prompts))
    with torch.autocast("cpu", torch.bfloat16):
        half = model.encode_image(images)
        penalty = path.penalty(queries[0])
    assert torch.equal(penalty, path.pool.penalty(queries[0]))
    for inside, outside in zip(entered[0], path.pool(queries[0]), strict=True):
        assert torch.equal(inside, outside)
    assert half.dtype == torch.float32 and F.cosine_similarity(half, full).min() > 0.98
    (half.sum() + penalty).backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in path.pool.parameters())


# Training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", POOLS)
def test_what_earlier_tasks_learned_does_not_move(kind):
    model, images = prompted(kind, tasks=1), pictures()
    pool = model.train().image_path.pool
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)

    def step() -> None:
        loss = model.encode_image(images).sum() + pool.penalty(model.encode_image_plain(images))
        loss.backward()
        optimizer.step()

    step()  # leaves gradients, and moments in the optimizer
    pool.begin_task()
    new = [p for p in pool.parameters() if p not in set(optimizer.param_groups[0]["params"])]
    optimizer.add_param_group({"params": new})
    old = {name: p.detach().clone() for name, p in pool.named_parameters()}
    frozen = {name for name, p in pool.named_parameters() if not p.requires_grad}
    assert frozen == {name for name in old if name.endswith(".0")}
    assert bool(frozen) == (kind is not L2PPool)
    step()
    for name, parameter in pool.named_parameters():
        assert torch.equal(parameter, old[name]) == (name in frozen), name
        assert (parameter.grad is None) == (name in frozen), name
