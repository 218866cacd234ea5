"""The memory of latents: bounded, fair, close to what went in, the same after a round trip to disk."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import Memory, StoredBytes, stored_bytes
from avalanche_vlm.memory.files import load_memory, save_memory
from avalanche_vlm.memory.latents import LatentMemory

SHAPES = [(6,), (5, 8), (3, 4, 2)]


def batch(y: list[int], shape=(5, 8), start: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents whose first value is their number."""
    latents = torch.randn(len(y), *shape, generator=torch.Generator().manual_seed(start))
    latents.view(len(y), -1)[:, 0] = torch.arange(start, start + len(y))
    return latents, torch.tensor(y), torch.tensor(y) // 2


def numbers(memory: LatentMemory) -> list[int]:
    """The numbers of all that is kept."""
    return sorted(memory.sample(len(memory))["latents"].flatten(1)[:, 0].round().int().tolist())


def row_bytes(shape: tuple[int, ...], precision: str, length: int | None = None) -> int:
    """Label 4, task 2, step 2, key 4, tokens 2 each; latents; four for the scale of every row."""
    values = int(np.prod(shape))
    rows = shape[0] if len(shape) > 1 else 1
    return 12 + 2 * (length or 0) + (2 * values if precision == "fp16" else values + 4 * rows)


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=30), min_size=1, max_size=6),
    st.floats(1, 40),
    st.sampled_from(["fp16", "int8"]),
    st.sampled_from(SHAPES),
    st.sampled_from([None, 3]),
    st.floats(1, 20),
)
@settings(max_examples=80, deadline=None)
def test_the_budget_holds_and_the_account_is_true(batches, budget, precision, shape, length, later):
    each = row_bytes(shape, precision, length)
    memory = LatentMemory(int(budget * each), precision)
    offered: list[int] = []
    for step, y in enumerate(batches):
        memory.add(*batch(y, shape), torch.ones(len(y), length, dtype=torch.long) if length else None, step=step)
        offered += y
        assert len(memory) == min(len(offered), int(budget * each) // each)
        assert memory.stored() == StoredBytes(ram=len(memory) * each)
        held = memory._rows if memory._rows.base is None else memory._rows.base
        assert held.nbytes == memory.stored().ram
    drawn = memory.sample(1000)
    assert drawn["latents"].shape == (len(memory), *shape) and drawn["latents"].dtype == torch.float32
    if length is None:
        kept, seen = (torch.bincount(torch.as_tensor(v), minlength=6) for v in (drawn["y"], offered))
        # A class with samples to spare has at most one fewer than any other class.
        assert (kept <= seen).all()
        assert all(kept[c] >= kept.max() - 1 for c in range(6) if 0 < kept[c] < seen[c])
    memory.resize(int(later * each))
    assert 0 < memory.stored().ram <= int(later * each)
    assert len(memory) == min(len(drawn["y"]), int(later * each) // each)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_comes_out_is_what_went_in_within_the_precision(precision, shape):
    memory = LatentMemory(1 << 20, precision)
    latents = torch.randn(30, *shape) * 50
    y = torch.arange(30)
    memory.add(latents, y, y // 3)
    drawn = memory.sample(30)
    original = latents[drawn["y"]]
    if precision == "fp16":
        bound = original.abs() * 2**-11
    else:
        rows = original.view(30, 1, -1) if len(shape) == 1 else original.flatten(2)
        bound = (rows.abs().amax(-1, keepdim=True) / 254).expand_as(rows).reshape(original.shape)
    error = (drawn["latents"] - original).abs()
    assert (error <= bound * 1.001 + 1e-7).all() and error.max() > 0
    assert torch.equal(drawn["task"], drawn["y"] // 3)


def test_one_loud_row_does_not_drown_the_others():
    latents = torch.ones(1, 2, 4)
    latents[0, 1] = 10_000
    memory = LatentMemory(1 << 10, "int8")
    memory.add(latents, torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(memory.sample(1)["latents"], latents, atol=0, rtol=1e-6)


@pytest.mark.slow
def test_a_class_keeps_a_uniform_sample_of_what_it_offered():
    counts = np.zeros(60)
    for seed in range(400):
        memory = LatentMemory(10 * row_bytes((4,), "fp16"), seed=seed)
        for start in range(0, 60, 15):
            memory.add(*batch([0] * 15, (4,), start))
        counts[numbers(memory)] += 1
    assert counts.sum() == 4000
    assert chisquare(counts).pvalue > 0.01


def test_steps_share_the_budget_of_pairs_and_tokens_stay_with_their_latents():
    memory = LatentMemory(10 * row_bytes((4,), "int8", 3), "int8")
    for step in range(2):
        latents, y, task = batch(list(range(100 * step, 100 * step + 40)), (4,))
        memory.add(latents, y, task, torch.stack([y, y + 1, torch.full_like(y, 65_535)], 1), step=step)
    drawn = memory.sample(10)
    assert (drawn["y"] < 100).sum() == 5 and drawn["tokens"].dtype == torch.long
    assert torch.equal(drawn["tokens"][:, 0], drawn["y"]) and (drawn["tokens"][:, 2] == 65_535).all()


def test_a_larger_vocabulary_widens_the_tokens_within_the_budget():
    memory = LatentMemory(10 * row_bytes((4,), "fp16", 3))
    small, large = torch.full((12, 3), 7), torch.full((12, 3), 70_000)
    memory.add(*batch([0] * 12, (4,)), small)
    assert len(memory) == 10
    memory.add(*batch([0] * 12, (4,)), large, step=1)
    wide = row_bytes((4,), "fp16", 3) + 6
    assert len(memory) == memory.max_bytes // wide and memory.stored().ram == len(memory) * wide
    assert set(memory.sample(99)["tokens"][:, 0].tolist()) == {7, 70_000}


def test_samples_are_copies_without_repetition_and_follow_the_seed():
    first, second, other = (LatentMemory(1 << 16, seed=seed) for seed in (1, 1, 2))
    latents, y, task = batch([0, 1, 2, 3] * 5)
    for memory in (first, second, other):
        memory.add(latents, y, task)
    latents.fill_(99)
    drawn = first.sample(8)
    assert len(set(drawn["latents"][:, 0, 0].tolist())) == 8 and 99 not in drawn["latents"]
    assert torch.equal(drawn["latents"], second.sample(8)["latents"])
    assert not torch.equal(drawn["latents"], other.sample(8)["latents"])
    drawn["latents"].fill_(98)
    assert numbers(first) == list(range(20))


def test_latents_in_half_precision_and_on_a_graph_are_taken():
    memory = LatentMemory(1 << 16, "int8")
    latents, y, task = batch([0, 1])
    memory.add(latents.bfloat16().requires_grad_(), y, task)
    assert not memory.sample(2)["latents"].requires_grad


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("length", [None, 4])
def test_a_memory_comes_back_from_disk_bit_for_bit(tmp_path, precision, length):
    memory = LatentMemory(9 * row_bytes((5, 8), precision, length), precision, seed=5)
    tokens = torch.arange(30 * (length or 0)).view(30, -1) if length else None
    memory.add(*batch([0, 1, 2] * 10), tokens)
    memory.sample(3)
    memory.save(tmp_path / "m")
    again = LatentMemory.load(tmp_path / "m")
    assert len(again) == 9 and again.stored() == memory.stored() and isinstance(again, Memory)
    for _ in range(3):
        for one, two in zip(memory.sample(4).values(), again.sample(4).values(), strict=True):
            assert torch.equal(one, two)
        # What is kept from then on is the same as well.
        for each in (memory, again):
            each.add(*batch([3, 4] * 3, start=50), None if tokens is None else tokens[:6])
    assert memory._rows.tobytes() == again._rows.tobytes()


def test_an_empty_memory_comes_back_empty(tmp_path):
    LatentMemory(100).save(tmp_path)
    memory = LatentMemory.load(tmp_path)
    assert len(memory) == 0 and memory.stored() == StoredBytes() == stored_bytes([memory])
    with pytest.raises(InputError, match="empty"):
        memory.sample(3)


def test_changed_files_are_refused(tmp_path):
    memory = LatentMemory(1 << 16)
    memory.add(*batch([0, 1, 2]))
    memory.save(tmp_path)
    tensors, kept = load_memory(tmp_path, "latents")

    def refused(message: str, settings: dict | None = None, **state) -> None:
        content = {"settings": {**kept["settings"], **(settings or {})}, "state": {**kept["state"], **state}}
        save_memory(tmp_path, "latents", tensors, content)  # a forger knows the digest too
        with pytest.raises(InputError, match=message):
            LatentMemory.load(tmp_path)

    damaged = f"the memory in {tmp_path} is damaged"
    for shape in ([5, 9], [], [0, 8], [5, -8]):
        refused(damaged, _shape={"$": "tuple", "items": shape})
    refused(damaged, _shape=None)
    refused(damaged, {"precision": "int8"})
    refused(damaged, {"precision": "fp8"})
    rows = kept["state"]["_rows"]
    for wrong in ("|O", "<f4", [["y", "<i4", []]], [[*field[:2], [2]] for field in rows["dtype"]]):
        refused(damaged, _rows={**rows, "dtype": wrong})
    refused(damaged, _rows={**rows, "shape": [1, 3]})
    refused(damaged, max_bytes=10)
    refused(damaged, {"max_bytes": 0})
    refused(damaged, {"seed": "x"})
    refused(damaged, **{"_draws.count": "x"})
    refused(damaged, unheard_of=1)
    refused("damaged", **{"_draws.count": -1})
    memory.save(tmp_path)
    content = bytearray((tmp_path / "memory.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "memory.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="truncated or was changed"):
        LatentMemory.load(tmp_path)


def test_the_process_holds_the_arrays_of_the_account_and_no_others():
    budget = 16 * 1024
    tracemalloc.start()
    memory = LatentMemory(budget, "int8")
    for step in range(5):
        memory.add(*batch([step] * 64, (17, 16)), step=step)
    memory.sample(8)
    gc.collect()
    arrays = tracemalloc.take_snapshot().filter_traces([tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)])
    tracemalloc.stop()
    assert 0.9 * budget < memory.stored().ram <= budget
    assert sum(trace.size for trace in arrays.traces) == memory.stored().ram


def test_bad_input_is_refused_and_changes_nothing():
    with pytest.raises(InputError, match="fp16 or int8, not 'fp8'"):
        LatentMemory(100, "fp8")
    with pytest.raises(InputError, match="whole number of 1 or more, not 0"):
        LatentMemory(0)
    memory = LatentMemory(3 * row_bytes((5, 8), "fp16"))
    memory.add(*batch([0, 1, 2, 3]))
    before = memory._rows.tobytes()
    latents, y, task = batch([0, 1])
    for bad in ((latents[:, :4], y, task), (latents, y, task, torch.zeros(2, 3, dtype=torch.long))):
        with pytest.raises(InputError, match="cannot be mixed"):
            memory.add(*bad)
    with pytest.raises(InputError, match=r"holds task from -32768 to 32767, got 0 to 40000"):
        memory.add(latents, y, torch.tensor([0, 40000]))
    with pytest.raises(InputError, match="at least one value each"):
        LatentMemory(100).add(torch.zeros(2), y, task)
    small = LatentMemory(50)
    with pytest.raises(InputError, match="of 50 bytes cannot hold one sample of 92 bytes"):
        small.add(latents, y, task)
    with pytest.raises(InputError, match="of 91 bytes cannot hold one sample"):
        memory.resize(91)
    assert memory.max_bytes == 3 * 92 and memory._rows.tobytes() == before and len(small) == 0
    memory.add(latents[:0], y[:0], task[:0])
    full = LatentMemory(1 << 10)
    with pytest.raises(InputError, match="does not fit half precision"):
        full.add(latents * 1e6, y, task)
    assert len(full) == 0
