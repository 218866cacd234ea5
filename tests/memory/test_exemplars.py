"""Exemplar memories: bounded, fair, independent of the stream's data, the same wherever and however they are kept."""

from __future__ import annotations

import io
import mmap
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import chisquare

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import ExemplarMemory, Memory, StoredBytes, stored_bytes

PER_SAMPLE = 3 * 4 * 4 + 20  # pixels; class id, task label, step, key, slot and size


def batch(y: list[int], start: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures whose first pixel is their number."""
    pixels = torch.zeros(len(y), 3, 4, 4, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(start, start + len(y)) % 256
    return pixels, torch.tensor(y), torch.tensor(y) // 2


def noise(n: int, side: int = 16, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures, such as JPEG is made for."""
    small = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(small, side, mode="bilinear") * 255).to(torch.uint8)


def numbers(memory: ExemplarMemory) -> list[int]:
    """The numbers of all pictures that are kept."""
    return sorted(memory.sample(len(memory))["pixels"][:, 0, 0, 0].tolist())


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=30), min_size=1, max_size=6),
    st.integers(PER_SAMPLE, 40 * PER_SAMPLE),
    st.sampled_from(["class-balanced", "reservoir"]),
    st.sampled_from([None, 3]),
)
@settings(max_examples=60, deadline=None)
def test_the_budget_holds_and_the_account_is_true(batches, budget, policy, length):
    per_sample = PER_SAMPLE + 2 * (length or 0)  # two bytes per token
    budget += per_sample - PER_SAMPLE
    memory = ExemplarMemory(budget, policy)
    offered: list[int] = []
    for step, y in enumerate(batches):
        memory.add(*batch(y), torch.zeros(len(y), length, dtype=torch.long) if length else None, step=step)
        offered += y
        assert memory.stored() == StoredBytes(ram=len(memory) * per_sample) and memory.stored().ram <= budget
        assert len(memory) == min(len(offered), budget // per_sample)
    if policy == "class-balanced" and not length:
        kept = torch.bincount(memory.labels, minlength=6)
        seen = torch.bincount(torch.tensor(offered), minlength=6)
        # A class with samples to spare has at most one fewer than any other class.
        assert (kept <= seen).all()
        for c in range(6):
            if 0 < kept[c] < seen[c]:
                assert kept[c] >= kept.max() - 1


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
    st.sampled_from(["png", "jpeg"]),
    st.booleans(),
    st.integers(2000, 9000),
    st.integers(1500, 9000),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_encoded_pictures_of_any_length_stay_within_the_budget(tmp_path_factory, sizes, codec, on_disk, budget, later):
    folder = tmp_path_factory.mktemp("pictures") if on_disk else None
    memory = ExemplarMemory(budget, codec=codec, folder=folder)
    for step, n in enumerate(sizes):
        memory.add(noise(n, seed=step), torch.arange(n) % 3, torch.zeros(n), step=step)
        assert 0 < memory.stored().total <= budget
    memory.resize(later)
    assert 0 < memory.stored().total <= later and len(memory.sample(99)["y"]) == len(memory)
    if folder:
        files = list(Path(folder).rglob(f"*.{codec}"))
        assert len(files) == len(memory) and sum(f.stat().st_size for f in files) == memory.stored().disk
        assert Image.open(io.BytesIO(files[0].read_bytes())).size == (16, 16)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["reservoir", "class-balanced"])
def test_a_reservoir_is_uniform_over_the_stream(policy):
    counts = np.zeros(60)
    for seed in range(400):
        memory = ExemplarMemory(10 * PER_SAMPLE, policy, seed)
        for start in range(0, 60, 15):
            memory.add(*batch([0] * 15, start))
        counts[numbers(memory)] += 1
    assert counts.sum() == 4000
    assert chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("on_disk", [False, True])
def test_quotas_of_herding_are_those_of_icarl_whatever_the_order_of_arrival(tmp_path, on_disk):
    generator = torch.Generator().manual_seed(0)
    memory = ExemplarMemory(max_samples=20, policy="herding", folder=tmp_path if on_disk else None)
    for step, classes in enumerate([(0, 1), (2, 3, 4), (5,)]):
        for group in classes:
            order = torch.randperm(30, generator=generator)
            for part in order.split(7):  # ranks arrive in any order and in parts
                memory.add(*batch([group] * len(part), group * 30), step=step, keys=part.float())
        seen = classes[-1] + 1
        assert torch.bincount(memory.labels).tolist() == [20 // seen] * seen
    assert sorted(memory._rows["key"].tolist()) == sorted([0.0, 1.0, 2.0] * 6)


def test_the_hardest_stay_and_steps_share_evenly():
    memory = ExemplarMemory(max_samples=6, policy="hardest")
    memory.add(*batch([0] * 10), step=0, keys=torch.arange(10).flip(0).float())
    assert numbers(memory) == [4, 5, 6, 7, 8, 9]
    memory.add(*batch([1] * 10, 100), step=1, keys=torch.arange(10).float() + 50)
    assert numbers(memory) == [7, 8, 9, 100, 101, 102]


def test_quotas_that_shrink_give_their_pages_back():
    memory = ExemplarMemory(max_samples=64, policy="herding")
    memory.add(*batch([0] * 64), keys=torch.arange(64).float())
    array = memory._store._rows
    for group in range(1, 40):  # one of each: quotas of 1, and 40 of 64 places in use
        memory.add(*batch([group], group), keys=torch.zeros(1))
    assert memory._store._rows is not array and memory._store._used == len(memory) == 40
    assert numbers(memory) == list(range(40))


def test_a_picture_beyond_the_whole_budget_is_passed_over(tmp_path):
    # Noise does not fit into 400 bytes of PNG, a flat picture does.
    memory = ExemplarMemory(400, codec="png")
    flat, rough = torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.randint(256, (9, 3, 16, 16), dtype=torch.uint8)
    memory.add(flat, torch.zeros(1), torch.zeros(1))
    memory.add(torch.cat([rough, flat]), torch.arange(10), torch.zeros(10))
    assert len(memory) > 0 and (memory.sample(9)["pixels"] == 0).all()
    with pytest.raises(InputError, match="400 bytes cannot hold one exemplar"):
        ExemplarMemory(400, codec="png").add(rough, torch.arange(9), torch.zeros(9))


def test_two_memories_under_one_roof_do_not_meet_and_take_their_files_along(tmp_path):
    (tmp_path / "000000000.png").write_text("mine")
    for codec in ("uint8", "png"):
        first, second = (ExemplarMemory(9000, codec=codec, folder=tmp_path) for _ in range(2))
        first.add(torch.full((3, 3, 16, 16), 7, dtype=torch.uint8), torch.arange(3), torch.zeros(3))
        second.add(torch.full((3, 3, 16, 16), 99, dtype=torch.uint8), torch.arange(3), torch.zeros(3))
        assert (first.sample(3)["pixels"] == 7).all() and (second.sample(3)["pixels"] == 99).all()
        del first, second
    assert [p.name for p in tmp_path.iterdir()] == ["000000000.png"] and (
        tmp_path / "000000000.png"
    ).stat().st_size == 4


def test_a_loaded_memory_holds_what_was_saved_and_does_not_choose_again(tmp_path):
    # Encoded, herded pictures of very different length: chosen again among themselves, fewer would stay.
    memory = ExemplarMemory(4000, "herding", codec="png")
    sides = torch.cat([noise(2, seed=s) * s for s in range(6)])
    memory.add(sides, torch.arange(12) // 2, torch.zeros(12), keys=torch.arange(12).float() % 2)
    memory.save(tmp_path)
    loaded = ExemplarMemory.load(tmp_path)
    assert loaded.labels.tolist() == memory.labels.tolist() and loaded.stored() == memory.stored()


def test_what_does_not_belong_together_is_refused():
    memory = ExemplarMemory(20 * PER_SAMPLE)
    pixels, y, tasks = batch([0, 1])
    memory.add(pixels, y, tasks)
    for wrong in (pixels.float() / 255, pixels[0], pixels[:, :1]):
        with pytest.raises(InputError, match=r"exemplars are uint8 \[B, 3, H, W\], not"):
            memory.add(wrong, y, tasks)
    with pytest.raises(InputError, match=r"holds pictures \[3, 4, 4\] with 0 tokens .* mixed with \[3, 2, 8\] and 0"):
        memory.add(pixels.view(2, 3, 2, 8), y, tasks)
    with pytest.raises(InputError, match=r"with 0 tokens each, which cannot be mixed with .* and 5 tokens"):
        memory.add(pixels, y, tasks, torch.zeros(2, 5, dtype=torch.long))
    assert len(memory) == 2


def test_everything_comes_in_chunks_without_a_draw():
    memory, again = ExemplarMemory(20 * PER_SAMPLE), ExemplarMemory(20 * PER_SAMPLE)
    for each in (memory, again):
        each.add(*batch([0, 1, 2, 3] * 5))
    parts = list(memory.chunks(8))
    assert [len(part["y"]) for part in parts] == [8, 8, 4]
    assert sorted(torch.cat([part["pixels"][:, 0, 0, 0] for part in parts]).tolist()) == list(range(20))
    assert torch.equal(memory.sample(9)["pixels"], again.sample(9)["pixels"])


def test_samples_are_copies_without_repetition():
    memory = ExemplarMemory(20 * PER_SAMPLE)
    pixels, y, tasks = batch([0, 1, 2, 3] * 5)
    memory.add(pixels, y, tasks)
    pixels.fill_(99)
    drawn = memory.sample(8)
    kept = drawn["pixels"][:, 0, 0, 0]
    assert 99 not in kept and len(set(kept.tolist())) == 8
    drawn["pixels"].fill_(98)
    assert numbers(memory) == list(range(20))
    assert torch.equal(drawn["task"], drawn["y"] // 2) and drawn["y"].dtype == torch.long
    assert len(memory.sample(100)["y"]) == 20


def test_mixtures_decide_which_step_is_drawn():
    memory = ExemplarMemory(max_samples=90, policy="reservoir")
    for step, n in enumerate((10, 20, 60)):
        memory.add(*batch([step] * n), step=step)
    share = {
        mixture: torch.stack([torch.bincount(memory.sample(7, mixture)["y"], minlength=3) for _ in range(300)])
        .double()
        .mean(0)
        / 7
        for mixture in ("uniform", "equal", "exponential")
    }
    # Drawing without replacement flattens the shares a little where a step has few samples.
    assert torch.allclose(share["uniform"], torch.tensor([10, 20, 60]).double() / 90, atol=0.04)
    assert torch.allclose(share["equal"], torch.ones(3).double() / 3, atol=0.06)
    assert torch.allclose(share["exponential"], torch.tensor([1, 2, 4]).double() / 7, atol=0.06)


@pytest.mark.parametrize("codec", ["uint8", "png", "jpeg"])
@pytest.mark.parametrize("length", [None, 4])
def test_ram_disk_and_a_saved_copy_draw_the_same(tmp_path, codec, length):
    def filled(folder):
        memory = ExemplarMemory(8000, seed=3, codec=codec, folder=folder)
        for step in range(3):
            y = torch.arange(12) + step
            tokens = None if length is None else y[:, None].expand(12, length)
            memory.add(noise(12, seed=step), y, y % 2, tokens, step=step)
        return memory

    ram, disk = filled(None), filled(tmp_path / "pictures")
    assert isinstance(ram, Memory)
    ram.save(tmp_path / "saved")
    loaded = ExemplarMemory.load(tmp_path / "saved")
    elsewhere = ExemplarMemory.load(tmp_path / "saved", keep_in=tmp_path / "elsewhere")
    assert loaded.stored() == ram.stored() and disk.stored().disk > 0.6 * ram.stored().ram
    for _ in range(2):
        drawn = ram.sample(5)
        for other in (disk, loaded, elsewhere):
            again = other.sample(5)
            assert drawn.keys() == again.keys() and all(torch.equal(drawn[name], again[name]) for name in drawn)
        # What follows is the same as well: the saved copy goes on as the original does.
        for memory in (ram, disk, loaded, elsewhere):
            y = torch.arange(12)
            memory.add(
                noise(12, seed=9), y, y, None if length is None else y[:, None].expand(12, length) + 70_000, step=4
            )
    if codec != "jpeg":
        fresh = ExemplarMemory(max_samples=12, codec=codec)
        fresh.add(noise(12), torch.arange(12), torch.zeros(12))
        drawn = fresh.sample(12)
        assert torch.equal(drawn["pixels"], noise(12)[drawn["y"]])


def test_jpeg_stays_close_and_small():
    pixels = noise(40, side=32)
    raw, packed = ExemplarMemory(max_samples=40), ExemplarMemory(max_samples=40, codec="jpeg", quality=95)
    for memory in (raw, packed):
        memory.add(pixels, torch.arange(40), torch.zeros(40))
    drawn = packed.sample(40)
    error = (drawn["pixels"].float() - pixels[drawn["y"]].float()).abs()
    assert error.mean() < 3 and packed.stored().ram < 0.5 * raw.stored().ram


def test_an_empty_memory_can_be_saved(tmp_path):
    ExemplarMemory(1000, seed=5).save(tmp_path)
    assert len(ExemplarMemory.load(tmp_path)) == 0


def test_bad_settings(tmp_path):
    with pytest.raises(InputError, match="is class-balanced, reservoir, herding, hardest, not 'random'"):
        ExemplarMemory(100, "random")
    with pytest.raises(InputError, match="10 bytes cannot hold one exemplar of 68 bytes"):
        ExemplarMemory(10).add(*batch([0]))
    for wrong in (-1, 0, 1e6, True):
        with pytest.raises(InputError, match=f"max_bytes is a whole number of 1 or more, not {wrong}"):
            ExemplarMemory(wrong)
    with pytest.raises(InputError, match="max_samples is a whole number of 1 or more, not 0"):
        ExemplarMemory(max_samples=0)
    with pytest.raises(InputError, match="a seed is a whole number of 0 or more, not -1"):
        ExemplarMemory(1000, seed=-1)
    memory = ExemplarMemory(1000)
    memory.add(*batch([0]))
    with pytest.raises(InputError, match="the number of samples is a whole number of 0 or more, not -1"):
        memory.sample(-1)
    with pytest.raises(InputError, match="a memory holds task from -32768 to 32767, got 40000 to 40000"):
        memory.add(batch([0])[0], torch.tensor([0]), torch.tensor([40_000]))
    with pytest.raises(InputError, match="kept as uint8, png, jpeg, not 'gif'"):
        ExemplarMemory(100, codec="gif")
    with pytest.raises(InputError, match="quality of JPEG is 1 to 100, not 0"):
        ExemplarMemory(100, codec="jpeg", quality=0)
    for budgets in ({}, {"max_bytes": 1, "max_samples": 1}):
        with pytest.raises(InputError, match="either by max_bytes or by max_samples"):
            ExemplarMemory(**budgets)
    with pytest.raises(InputError, match="policy herding needs keys"):
        ExemplarMemory(1000, "herding").add(*batch([0]))
    with pytest.raises(InputError, match="policy reservoir draws its own keys"):
        ExemplarMemory(1000, "reservoir").add(*batch([0]), keys=torch.zeros(1))
    with pytest.raises(InputError, match="empty"):
        ExemplarMemory(1000).sample(1)
    (tmp_path / "file").write_text("")
    for codec in ("uint8", "png"):
        with pytest.raises(InputError, match=r"cannot keep exemplars in .*file"):
            ExemplarMemory(9000, codec=codec, folder=tmp_path / "file").add(noise(1), torch.zeros(1), torch.zeros(1))


def test_a_budget_that_is_refused_changes_nothing():
    memory = ExemplarMemory(10 * PER_SAMPLE)
    memory.add(*batch([0] * 10))
    with pytest.raises(InputError, match="cannot hold one"):
        memory.resize(5)
    assert memory.max_bytes == 10 * PER_SAMPLE and numbers(memory) == list(range(10))


def test_damaged_pictures_on_disk_are_named(tmp_path):
    memory = ExemplarMemory(9000, codec="png", folder=tmp_path)
    memory.add(noise(3), torch.arange(3), torch.zeros(3))
    file = sorted(tmp_path.rglob("*.png"))[0]
    file.write_bytes(b"not a picture")
    with pytest.raises(InputError, match="a stored png exemplar is damaged"):
        memory.sample(3)
    file.unlink()
    with pytest.raises(InputError, match=r"an exemplar file is gone: .*png"):
        memory.sample(3)


def test_the_account_adds_up_over_parts():
    memory, other = ExemplarMemory(1000), ExemplarMemory(1000)
    memory.add(*batch([0, 1]))
    other.add(*batch([0, 1, 2]))
    # What two of them share is there once.
    assert stored_bytes([memory, object(), other, memory]) == StoredBytes(ram=5 * PER_SAMPLE)
    assert (StoredBytes(1, 2) + StoredBytes(3, 4)).total == 10


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("on_disk", [False, True])
def test_fifty_experiences_of_33_mb_leave_no_trace_but_the_budget(tmp_path, on_disk):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    memory = ExemplarMemory(1 << 20, folder=tmp_path if on_disk else None)
    sizes = []
    for step in range(51):
        # Pages of their own: they go back to the system with the last reference, which an allocator need not do.
        pixels = torch.frombuffer(mmap.mmap(-1, 33_000_000 // 3072 * 3072), dtype=torch.uint8).view(-1, 3, 32, 32)
        pixels.fill_(step)
        memory.add(pixels, torch.arange(len(pixels)) % 50, torch.zeros(len(pixels)), step=step)
        del pixels
        sizes.append(resident())
    # What the first one brings in, any would: code, and the allocator's own room.
    assert max(sizes) - sizes[0] < 30e6
    assert memory.stored().total <= 1 << 20 and len(set(memory.steps.tolist())) > 30
