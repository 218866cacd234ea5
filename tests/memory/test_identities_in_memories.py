"""Memories hold the identities of pairs whose image has several captions, and no wider rows where there are none."""

from __future__ import annotations

import pytest
import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.identity import pair_number
from avalanche_vlm.memory import ExemplarMemory, FeatureMemory, Memory, StoredBytes
from avalanche_vlm.memory.latents import LatentMemory

WIDE = [pair_number(image, caption) for image, caption in ((1, 0), (1, 1), (2, 1), (2**31 - 1, 2**32 - 1))]
PLAIN = [5, 6]
PICTURE = 3 * 4 * 4
KINDS = ("exemplars", "exemplars on disk", "png", "latents", "int8")


def made(kind: str, budget: int, folder) -> Memory:
    if kind in ("latents", "int8"):
        return LatentMemory(budget, "fp16" if kind == "latents" else "int8")
    where = folder / "pictures" if kind == "exemplars on disk" else None
    return ExemplarMemory(budget, codec="png" if kind == "png" else "uint8", folder=where)


def put(memory: Memory, y: list[int], step: int) -> None:
    ids = torch.tensor(y)
    tokens = torch.arange(3 * len(y)).view(len(y), 3)
    if isinstance(memory, LatentMemory):
        memory.add(torch.rand(len(y), 6), ids, torch.zeros_like(ids), tokens, step=step)
    else:
        memory.add(torch.zeros(len(y), 3, 4, 4, dtype=torch.uint8), ids, torch.zeros_like(ids), tokens, step=step)


@pytest.mark.parametrize("kind", KINDS)
def test_identities_above_four_bytes_come_back_and_so_do_those_kept_before(kind, tmp_path):
    memory = made(kind, 1 << 16, tmp_path)
    put(memory, PLAIN, 0)
    put(memory, WIDE, 1)
    put(memory, PLAIN[:1], 2)  # rows stay wide
    everything = sorted([*PLAIN, *WIDE, *PLAIN[:1]])
    assert sorted(memory.labels.tolist()) == sorted(memory.sample(99)["y"].tolist()) == everything
    memory.save(tmp_path / "saved")
    loaded = type(memory).load(tmp_path / "saved")
    assert sorted(loaded.labels.tolist()) == everything and loaded.stored().total == memory.stored().total
    assert loaded.sample(3)["y"].tolist() == memory.sample(3)["y"].tolist()
    narrow = made(kind, 1 << 16, tmp_path)
    put(narrow, PLAIN, 0)
    narrow.load_state_dict(memory.state_dict())  # in the place of what was there, whatever its width
    assert sorted(narrow.labels.tolist()) == everything
    memory.resize(memory.stored().total - 1)
    assert len(memory) == len(everything) - 1


@pytest.mark.parametrize("kind", ["exemplars", "latents"])
def test_a_row_is_four_bytes_wider_where_an_image_has_a_number_and_the_budget_holds(kind, tmp_path):
    each = (PICTURE + 20 if kind == "exemplars" else 12 + 12) + 3 * 2
    memory = made(kind, 10 * each, tmp_path)
    put(memory, list(range(20)), 0)
    assert memory.stored() == StoredBytes(ram=10 * each) and len(memory) == 10
    put(memory, [*WIDE, *PLAIN], 1)
    kept = 10 * each // (each + 4)
    assert len(memory) == kept and memory.stored() == StoredBytes(ram=kept * (each + 4))
    assert {0, 1} == set((memory.labels >> 32 > 0).int().tolist())


def test_statistics_of_one_pair_know_which(tmp_path):
    memory = FeatureMemory("prototype", by="task")
    memory.fit(torch.rand(4, 8), torch.tensor([3, 3, 3, 3]), torch.zeros(4))
    narrow = memory.stored().total
    memory.fit(torch.rand(4, 8), torch.tensor(WIDE[-1:] * 4), torch.ones(4), step=1)
    assert memory.labels.tolist() == [3, WIDE[-1]] and memory.task_labels.tolist() == [0, 1]
    assert memory.stored().total == 2 * narrow + 2 * 4 * 4  # four ids of each, four bytes wider
    memory.save(tmp_path)
    assert FeatureMemory.load(tmp_path).labels.tolist() == [3, WIDE[-1]]
    least = memory.stored().total - 2 * 8  # a value takes one byte in int8, two in fp16
    with pytest.raises(InputError, match=f"cannot hold 2 densities: even prototypes take {least} bytes"):
        memory.resize(least - 1)
    several = FeatureMemory("prototype", by="task")
    several.fit(torch.rand(4, 8), torch.tensor(WIDE), torch.zeros(4))
    assert several.labels.tolist() == [-1] and several.stored().total == narrow
