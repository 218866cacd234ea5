"""Feature memories: what they draw, how they score, that they keep to their budget and come back from disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import Memory, StoredBytes, stored_bytes
from avalanche_vlm.memory.density_levels import Level, density_bytes
from avalanche_vlm.memory.files import load_memory, save_memory
from avalanche_vlm.memory.statistics import FeatureMemory

KINDS = ["prototype", "diagonal", "full", "gmm", "kmeans"]
NUMBERS = 12 + 16  # scales and weight of a component; class, task label, step and count of a density


def features_of(y: torch.Tensor, dim: int = 8, seed: int = 0) -> torch.Tensor:
    """Unit-length features around one direction per class."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(100, dim, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(len(y), dim, generator=generator)
    return torch.nn.functional.normalize(directions[y] + 0.2 * noise, dim=1)


def experience(classes: list[int], per_class: int = 20, dim: int = 8, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Features, classes and task labels (the tens of the class)."""
    order = torch.randperm(len(classes) * per_class, generator=torch.Generator().manual_seed(seed))
    y = torch.tensor(classes).repeat_interleave(per_class)[order]
    return features_of(y, dim, seed), y, y // 10


def filled(kind: str = "full", **options) -> FeatureMemory:
    """Three experiences of three classes each."""
    memory = FeatureMemory(kind, **options)
    for step, classes in enumerate([[1, 2, 3], [11, 12, 13], [21, 22, 23]]):
        memory.fit(*experience(classes, seed=step), step=step)
    return memory


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_by_class_has_a_density_of_each_class_of_each_experience(kind):
    memory = FeatureMemory(kind, seed=1)
    assert isinstance(memory, Memory) and len(memory) == 0 and memory.stored() == StoredBytes()
    memory.fit(*experience([4, 2, 13], per_class=10), step=0)
    memory.fit(*experience([2, 5], per_class=20, seed=1), step=3)
    assert memory.labels.tolist() == [2, 4, 13, 2, 5] and len(memory) == 5
    assert memory.task_labels.tolist() == [0, 0, 1, 0, 0]
    assert memory.steps.tolist() == [0, 0, 0, 3, 3] and memory.counts.tolist() == [10, 10, 10, 20, 20]
    x, y, _ = experience([4, 2, 13], per_class=10)
    np.testing.assert_allclose(memory.means[1], x[y == 4].mean(0), atol=2e-3)


def test_a_memory_by_task_has_one_density_of_each_experience_and_knows_no_classes():
    memory = filled("full", by="task")
    memory.fit(*experience([7]), step=3)
    memory.fit(*experience([7, 17]), step=4)
    assert memory.counts.tolist() == [60, 60, 60, 20, 40]
    assert memory.labels.tolist() == [-1, -1, -1, 7, -1] and memory.task_labels.tolist() == [0, 1, 2, 0, -1]
    batch = memory.sample(10)
    for task, y in zip(batch["task"].tolist(), batch["y"].tolist(), strict=True):
        assert y == -1 or (y == 7 and task == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_share_the_densities_evenly_and_lie_where_their_class_does(kind):
    memory = filled(kind)
    for n in (0, 1, 5, 9, 31):
        batch = memory.sample(n)
        assert batch["features"].shape == (n, 8) and batch["features"].dtype == torch.float32
        assert batch["y"].dtype == batch["task"].dtype == torch.int64 and len(batch["y"]) == len(batch["task"]) == n
        counts = torch.bincount(batch["y"], minlength=24)[memory.labels]
        assert counts.sum() == n and counts.max() - counts.min() <= 1
        torch.testing.assert_close(batch["features"].norm(dim=1), torch.ones(n))
        assert torch.equal(batch["task"], batch["y"] // 10)
    batch = memory.sample(900)
    nearest = (batch["features"] @ torch.nn.functional.normalize(memory.means, dim=1).T).argmax(1)
    assert (memory.labels[nearest] == batch["y"]).float().mean() > 0.95
    # No density has a fixed place in the batch, not even among the few that get one sample more.
    firsts = {int(memory.sample(2)["y"][0]) for _ in range(60)}
    assert len(firsts) == 9


def test_samples_differ_from_draw_to_draw_and_not_from_seed_to_same_seed():
    first, again, other = filled(seed=3), filled(seed=3), filled(seed=4)
    drawn = first.sample(18)["features"]
    assert torch.equal(drawn, again.sample(18)["features"])
    assert not torch.equal(drawn, first.sample(18)["features"])
    assert not torch.equal(drawn, other.sample(18)["features"])


def test_the_fit_of_a_feature_is_that_of_scipy_and_scikit_learn():
    x, y, t = experience([0, 1, 2], per_class=100, dim=5)
    new = features_of(torch.tensor([0, 1, 2, 50]), 5, seed=8)
    full = FeatureMemory("full", shrinkage=0.2, precision="fp32", normalize=False)
    mixture = FeatureMemory("gmm", components=3, precision="fp32", seed=2)
    full.fit(x, y, t)
    mixture.fit(x, y, t)
    for c in range(3):
        mine = x[y == c].double().numpy()
        covariance = np.cov(mine.T, ddof=0)
        covariance = 0.8 * covariance + 0.2 * np.trace(covariance) / 5 * np.eye(5)
        expected = multivariate_normal(mine.mean(0), covariance).logpdf(new.double().numpy())
        np.testing.assert_allclose(full.log_prob(new)[:, c], expected, rtol=1e-4)
        reference = GaussianMixture(3, covariance_type="diag", random_state=2).fit(mine)
        np.testing.assert_allclose(mixture.log_prob(new)[:, c], reference.score_samples(new.double()), rtol=1e-3)


@pytest.mark.parametrize("by", ["class", "task"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_score_of_a_step_is_that_of_its_best_density(kind, by):
    memory = FeatureMemory(kind, by=by)
    for step, classes in [(5, [1, 2, 3]), (0, [11, 12]), (2, [21])]:  # in any order of steps
        memory.fit(*experience(classes, seed=step), step=step)
    x = features_of(torch.tensor([1, 12, 21, 3, 2, 11]), seed=10)
    fits, score = memory.log_prob(x), memory.score(x)
    assert fits.shape == (6, len(memory)) and score.shape == (6, 3)
    for column, step in enumerate([0, 2, 5]):
        assert score[:, column].tolist() == [max(row[memory.steps == step]) for row in fits]
    if by == "class" or kind != "prototype":
        assert score.argmax(1).tolist() == [2, 0, 1, 2, 2, 0]
    alone = torch.cat([memory.score(row) for row in x.split(1)])
    torch.testing.assert_close(score, alone, rtol=1e-5, atol=1e-5)


def test_drift_moves_the_stored_means_only():
    memory, still = filled(precision="fp32"), filled(precision="fp32")
    before = features_of(torch.arange(50), seed=5)
    drift = torch.tensor([0.1, 0, 0, 0, 0, 0, 0, -0.2])
    memory.compensate(before, before + drift)
    torch.testing.assert_close(memory.means, still.means + drift)
    assert memory.stored() == still.stored() and torch.equal(memory.counts, still.counts)
    memory.compensate(before * 1e4, before * 1e4 + drift)  # far from every mean
    torch.testing.assert_close(memory.means, still.means + 2 * drift, rtol=1e-4, atol=1e-3)


@given(
    st.sampled_from(KINDS),
    st.sampled_from(["class", "task"]),
    st.sampled_from(["fp16", "fp32"]),
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=4, unique=True), min_size=1, max_size=4),
    st.integers(16 * (2 * 8 + NUMBERS), 4000),
    st.integers(16 * (2 * 8 + NUMBERS), 4000),
)
@settings(max_examples=60, deadline=None)
def test_the_budget_holds_no_density_is_dropped_and_all_are_of_one_kind(kind, by, precision, classes, budget, later):
    memory = FeatureMemory(kind, by=by, precision=precision, components=3, max_bytes=budget)
    ranks = []
    for step, mine in enumerate(classes):
        memory.fit(*experience(mine, per_class=6, seed=step), step=step)
        assert len(memory) == (step + 1 if by == "task" else sum(map(len, classes[: step + 1])))
        assert 0 < memory.stored().total <= budget and stored_bytes([memory]) == memory.stored()
        now = Level(memory.kind, memory.precision, memory.components)
        assert memory.stored().ram == len(memory) * (density_bytes(now, 8) + 16)
        ranks.append((memory.precision == "fp32", memory.kind == kind, memory.kind != "prototype", memory.components))
    assert ranks == sorted(ranks, reverse=True)
    memory.resize(later)
    assert memory.max_bytes == later and 0 < memory.stored().total <= later
    batch = memory.sample(len(memory))
    assert batch["features"].isfinite().all() and memory.score(batch["features"]).isfinite().all()
    if by == "class":
        assert sorted(batch["y"].tolist()) == sorted(memory.labels.tolist())


def test_a_memory_over_its_budget_steps_down_in_order():
    memory = filled("full", precision="fp32")
    for kind, precision, each in [
        ("full", "fp32", 4 * 44),
        ("full", "fp16", 2 * 44),
        ("diagonal", "fp16", 2 * 16),
        ("prototype", "fp16", 2 * 8),
        ("prototype", "int8", 8),
    ]:
        assert (memory.kind, memory.precision) == (kind, precision)
        assert memory.stored() == StoredBytes(ram=9 * (each + NUMBERS))
        if precision != "int8":
            memory.resize(memory.stored().ram - 1)
    mixture = filled("gmm", components=5)
    seen = []
    while mixture.kind != "prototype":
        seen.append(mixture.components)
        mixture.resize(mixture.stored().ram - 1)
    assert seen == [5, 3, 2, 1]
    mixture.resize(10**9)
    assert mixture.kind == "prototype"  # what was given up does not come back
    mixture.fit(*experience([44]), step=4)
    assert mixture.kind == "prototype" and len(mixture) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_stepping_down_keeps_the_means(kind):
    memory = filled(kind, precision="fp32")
    means = memory.means
    memory.resize(9 * (2 * 8 + NUMBERS))
    assert (memory.kind, memory.precision) == ("prototype", "fp16")
    torch.testing.assert_close(memory.means, means, rtol=1e-3, atol=1e-6)
    memory.resize(9 * (8 + NUMBERS))
    assert memory.precision == "int8"
    assert ((memory.means - means).abs() <= means.abs().amax(1, keepdim=True) / 250).all()


def test_a_budget_that_holds_no_prototypes_is_refused_and_changes_nothing():
    each = 8 + NUMBERS
    memory = FeatureMemory("full", max_bytes=4 * each)
    memory.fit(*experience([1, 2, 3]))
    before, stored = memory.means, memory.stored()
    with pytest.raises(InputError, match=f"{4 * each} bytes cannot hold 5 densities: even prototypes take {5 * each}"):
        memory.fit(*experience([4, 5]), step=1)
    with pytest.raises(InputError, match="even prototypes"):
        memory.resize(3 * each - 1)
    assert len(memory) == 3 and memory.max_bytes == 4 * each and memory.stored() == stored
    assert torch.equal(memory.means, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_memory_draws_scores_and_grows_as_the_original(kind, tmp_path):
    memory = filled(kind, seed=5, max_bytes=100_000, spread=False, shrinkage="oas", normalize=False)
    memory.sample(3)
    memory.save(tmp_path)
    loaded = FeatureMemory.load(tmp_path)
    assert len(loaded) == 9 and loaded.stored() == memory.stored()
    x = features_of(torch.arange(20), seed=3)
    for _ in range(2):
        for one, other in zip(memory.sample(20).values(), loaded.sample(20).values(), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(memory.score(x), loaded.score(x))
        for each in (memory, loaded):
            each.fit(*experience([31, 32]), step=3)
            each.resize(2000)
    assert (loaded.kind, loaded.precision, loaded.components) == (memory.kind, memory.precision, memory.components)


def test_an_empty_memory_is_saved_and_loaded(tmp_path):
    FeatureMemory("gmm", components=3, seed=9).save(tmp_path)
    loaded = FeatureMemory.load(tmp_path)
    assert len(loaded) == 0 and loaded.components == 3
    for use in (lambda: loaded.sample(3), lambda: loaded.score(torch.zeros(1, 8)), lambda: loaded.means):
        with pytest.raises(InputError, match="empty"):
            use()
    loaded.fit(*experience([1]))
    assert len(loaded) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t, s: t.pop("_packed.1.values"),
        lambda t, s: t.update({"_packed.2.values": t["_packed.2.values"][:-1]}),
        lambda t, s: t.update({"_packed.0.values": t["_packed.0.values"].float()}),
        lambda t, s: t["_packed.1.values"].fill_(float("nan")),
        lambda t, s: s["state"].update(_dim=7),
        lambda t, s: s["state"]["_level"].update(items=["diagonal", "fp16", 1]),
        lambda t, s: s["state"]["_level"].update(items=["cubic", "fp16", 1]),
        lambda t, s: s["settings"].update(kind="cubic"),
        lambda t, s: s["state"].pop("_draws.count"),
        lambda t, s: s.pop("state"),
    ],
)
def test_a_damaged_memory_is_refused(spoil, tmp_path):
    filled().save(tmp_path)
    tensors, content = load_memory(tmp_path, "features")
    spoil(tensors, content)
    save_memory(tmp_path, "features", tensors, content)
    with pytest.raises(InputError, match=f"the memory in {tmp_path} is damaged: "):
        FeatureMemory.load(tmp_path)
    (tmp_path / "memory.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match="damaged"):
        FeatureMemory.load(tmp_path)


def test_bad_settings_and_bad_features_are_refused_in_plain_words():
    for options, message in [
        ({"kind": "cubic"}, "not 'cubic'"),
        ({"by": "sample"}, "not by 'sample'"),
        ({"shrinkage": 1.5}, r"not 1\.5"),
        ({"shrinkage": "auto"}, "not 'auto'"),
        ({"precision": "fp8"}, "not 'fp8'"),
        ({"kind": "gmm", "components": 0}, "not 0"),
        ({"seed": -1}, "not -1"),
    ]:
        with pytest.raises(InputError, match=message):
            FeatureMemory(**options)
    memory = filled()
    x, y, t = experience([1, 2])
    for bad, message in [
        ((x[:, :5], y, t), "have 8 dimensions in this memory, not 5"),
        ((x, y[1:], t), "40 features, 39 classes"),
        ((x * float("nan"), y, t), "finite"),
        ((x[:0], y[:0], t[:0]), "one or more rows"),
    ]:
        with pytest.raises(InputError, match=message):
            memory.fit(*bad, step=9)
    with pytest.raises(InputError, match="3 features before the update and 2 after"):
        memory.compensate(x[:3], x[:2])
    with pytest.raises(InputError, match="sigma"):
        memory.compensate(x, x, sigma=0.0)
    assert len(memory) == 9


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_features_on_a_gpu_are_fitted_scored_and_followed_there(kind):
    memory = filled(kind)
    x, y, t = experience([4, 14], seed=4)
    expected = memory.score(x)
    score = memory.score(x.cuda())
    assert score.is_cuda
    torch.testing.assert_close(score.cpu(), expected, rtol=1e-3, atol=1e-3)
    means = memory.means
    memory.compensate(x.cuda(), x.cuda() + 0.1)
    torch.testing.assert_close(memory.means, means + 0.1, rtol=1e-3, atol=1e-3)
    memory.fit(x.cuda(), y.cuda(), t.cuda(), step=3)
    assert len(memory) == 11 and not memory.sample(4)["features"].is_cuda


def test_nothing_that_is_kept_holds_more_alive_than_the_account_says(tmp_path):
    memory = FeatureMemory("gmm", max_bytes=2000)
    x, y, t = experience([1, 2, 3, 4])
    memory.fit(x.requires_grad_(), y, t)
    memory.resize(600)
    memory.compensate(x, x + 0.1)
    memory.save(tmp_path)
    for each in (memory, FeatureMemory.load(tmp_path)):
        tensors = [each._densities.values, each._densities.numbers, each._ids]
        assert sum(t.untyped_storage().nbytes() for t in tensors) == each.stored().ram
        assert not any(t.requires_grad for t in tensors)
