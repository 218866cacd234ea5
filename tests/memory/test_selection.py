"""Which samples stay: against brute force, on random inputs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import ExemplarMemory
from avalanche_vlm.memory.draws import Draws, Passes
from avalanche_vlm.memory.mixtures import sample_weights
from avalanche_vlm.memory.selection import herding_ranks, keep, random_keys, retrieval_margins

ROWS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9), st.integers(0, 4)), min_size=1, max_size=40)


def tensors(rows: list[tuple[int, int, int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    keys, sizes, groups = torch.tensor(rows).T
    return keys.float(), sizes, groups


def naive(rows, budget: int, grouped: bool, quotas: bool) -> list[int]:
    """The rules of ``keep``, one sample after another."""
    order = sorted((i for i in range(len(rows)) if rows[i][1] <= budget), key=lambda i: (rows[i][0], i))
    if not grouped:
        turns = order
    else:
        queues = {g: [i for i in order if rows[i][2] == g] for g in {rows[i][2] for i in order}}
        if quotas:
            kept = []
            for queue in queues.values():
                used = 0
                for i in queue:
                    used += rows[i][1]
                    if used > budget // len(queues):
                        break
                    kept.append(i)
            if kept:
                return sorted(kept)
        turns = [i for _, _, i in sorted((q.index(i), order.index(i), i) for q in queues.values() for i in q)]
    kept, used = [], 0
    for i in turns:
        used += rows[i][1]
        if used > budget:
            break
        kept.append(i)
    return sorted(kept)


@given(ROWS, st.integers(0, 120), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=300)
def test_what_stays_is_what_the_rules_say(rows, budget, grouped, quotas):
    keys, sizes, groups = tensors(rows)
    kept = keep(keys, sizes, budget, groups if grouped else None, quotas)
    assert kept.tolist() == naive(rows, budget, grouped, quotas)
    assert int(sizes[kept].sum()) <= budget


@given(ROWS, st.integers(1, 30), st.booleans(), st.integers(1, 5))
@settings(deadline=None, max_examples=150)
def test_a_stream_in_parts_leaves_what_the_whole_leaves(rows, budget, quotas, parts):
    keys, _, groups = tensors(rows)
    keys = keys + torch.arange(len(keys)) / 100  # ties would be broken by position, which parts change
    ones = torch.ones(len(keys), dtype=torch.long)
    if quotas and budget < len(groups.unique()):
        return  # less than one sample per group: shared by turns only while that is so
    held = torch.zeros(0, dtype=torch.long)
    for part in torch.arange(len(keys)).tensor_split(parts):
        offered = torch.cat([held, part])
        held = offered[keep(keys[offered], ones[offered], budget, groups[offered], quotas)]
    assert sorted(held.tolist()) == keep(keys, ones, budget, groups, quotas).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_herding_takes_what_icarls_loop_takes(seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(60, 8, generator=generator), dim=1)
    groups = torch.randint(3, (60,), generator=generator)
    ranks = herding_ranks(features, groups)
    x = features.double().numpy()
    for group in range(3):
        members = [i for i in range(60) if groups[i] == group]
        mean = np.mean(x[members], axis=0)
        chosen: list[int] = []
        while len(chosen) < len(members):
            rest = [i for i in members if i not in chosen]
            chosen.append(min(rest, key=lambda i: np.linalg.norm(mean - np.mean(x[[*chosen, i]], axis=0))))
        assert [int(ranks[i]) for i in chosen] == list(range(len(members)))
    limited = herding_ranks(features, groups, limit=4)
    assert torch.equal(limited[ranks < 4], ranks[ranks < 4]) and torch.isinf(limited[ranks >= 4]).all()


def test_herded_samples_stand_for_the_mean_better_than_random_ones():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 16, generator=generator)
    ranks = herding_ranks(x, torch.zeros(200))
    random = [(x[torch.randperm(200, generator=generator)[:10]].mean(0) - x.mean(0)).norm() for _ in range(50)]
    assert (x[ranks < 10].mean(0) - x.mean(0)).norm() < 0.5 * min(random)


def test_margins_against_a_loop_with_captions_that_repeat():
    generator = torch.Generator().manual_seed(0)
    similarities, y = torch.randn(12, 12, generator=generator), torch.arange(12) // 2
    margins = retrieval_margins(similarities, y[:, None] == y[None, :])
    for i in range(12):
        own = max(similarities[i, j] for j in range(12) if y[j] == y[i])
        other = max(similarities[i, j] for j in range(12) if y[j] != y[i])
        assert margins[i] == own - other
    assert torch.isinf(retrieval_margins(torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool))).all()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=50), st.sampled_from(["uniform", "equal", "exponential"]))
@settings(deadline=None)
def test_the_shares_of_a_mixture(steps, mixture):
    steps = torch.tensor(steps)
    weights = sample_weights(steps, mixture)
    assert weights.sum().item() == pytest.approx(1) and (weights > 0).all()
    share = [weights[steps == step].sum().item() for step in steps.unique()]
    for earlier, later in itertools.pairwise(share):
        if mixture == "equal":
            assert later == pytest.approx(earlier)
        if mixture == "exponential":
            assert later == pytest.approx(2 * earlier)
    if mixture == "uniform":
        assert weights.max().item() == pytest.approx(1 / len(steps))


def test_a_single_step_is_drawn_and_every_step_alike():
    steps, generator = torch.tensor([0] * 8 + [4] + [7] * 3), torch.Generator().manual_seed(0)
    drawn = [sample_weights(steps, "single", generator) for _ in range(600)]
    for weights in drawn:
        (step,) = steps[weights > 0].unique()
        torch.testing.assert_close(weights, (steps == step).double() / (steps == step).sum())
    chosen = torch.stack([(weights > 0)[[0, 8, 9]] for weights in drawn]).sum(0)
    assert chisquare(chosen.numpy()).pvalue > 1e-3


def test_a_single_step_may_hold_less_than_is_asked_for():
    memory = ExemplarMemory(max_samples=10)
    for step, n in enumerate((2, 5)):
        memory.add(torch.zeros(n, 3, 4, 4, dtype=torch.uint8), torch.full((n,), step), torch.zeros(n), step=step)
    assert {len(memory.sample(4, "single")["y"]) for _ in range(50)} == {2, 4}


def test_an_unknown_mixture():
    with pytest.raises(InputError, match="uniform, equal, exponential, single, not 'newest'"):
        sample_weights(torch.tensor([0]), "newest")


def test_keys_do_not_tie_where_it_matters():
    keys = random_keys(2_000_000, torch.Generator().manual_seed(0))
    assert keys.min() >= 0 and keys.max() <= 1 and abs(keys.mean() - 0.5) < 0.01
    smallest = keys.sort().values[:2000]
    assert len(smallest.unique()) == 2000
    plain = torch.rand(2_000_000, generator=torch.Generator().manual_seed(0))
    assert len(plain.sort().values[:2000].unique()) < 2000


def test_draws_differ_from_each_other_and_follow_from_seed_and_number():
    def numbers(draws: Draws) -> list[float]:
        return [torch.rand(1, generator=draws.next()).item() for _ in range(50)]

    first = numbers(Draws(1))
    assert first == numbers(Draws(1)) and len(set(first)) == 50
    assert first[20:] == numbers(Draws(1, 20))[:30]
    assert set(first).isdisjoint(numbers(Draws(2)))


def test_a_walk_takes_everything_once_and_only_what_there_is():
    passes = Passes(10, 3, seed=1)
    walked = [passes.next() for _ in range(6)]
    for whole_pass in (walked[:3], walked[3:]):  # the tenth is left out of each
        assert len(set(torch.cat(whole_pass).tolist())) == 9
    assert passes.nbytes > 5000
    for n, size in ((0, 1), (4, 0), (4, -1)):
        with pytest.raises(InputError, match="is a whole number of 1 or more"):
            Passes(n, size, seed=0)
