"""Memory and processors that the control groups around a process leave to it, told by files made for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from avalanche_vlm import _allocations, _memory, _processors
from avalanche_vlm._allocations import within_memory
from avalanche_vlm.errors import InputError

FREE = 100 * 2**30


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A system of which nothing limits a process but what files of control groups say."""
    monkeypatch.setattr(_processors, "GROUP", tmp_path / "groups")
    monkeypatch.setattr(_processors, "OWN", tmp_path / "own")
    monkeypatch.setattr(_memory, "_meminfo", lambda name: [FREE])

    def write(own: str, files: dict[str, Any]) -> None:
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            path: Path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")

    return write


def second(folder: str, most: Any, used: int, stat: str = "anon 1\nfile 2") -> dict[str, Any]:
    prefix = f"{folder}/" if folder else ""
    return {f"{prefix}memory.max": most, f"{prefix}memory.current": used, f"{prefix}memory.stat": stat}


def first(folder: str, most: Any, used: int, stat: str = "cache 1") -> dict[str, Any]:
    return {
        f"memory{folder}/memory.limit_in_bytes": most,
        f"memory{folder}/memory.usage_in_bytes": used,
        f"memory{folder}/memory.stat": stat,
    }


def test_files_that_were_read_leave_memory_free(system):
    read = "anon 300\nfile 690\ninactive_file 500\nactive_file 150\nslab_reclaimable 40\nslab_unreclaimable 10"
    system("0::/\n", second("", 1000, 1000, read))
    assert _memory.free_memory() == 690 and _memory.memory() == 1000


def test_files_that_were_read_leave_memory_free_in_the_first_version(system):
    read = "inactive_file 1\nactive_file 1\ntotal_inactive_file 500\ntotal_active_file 150"
    system(
        "4:memory:/job/7\n2:cpu,cpuacct:/other\n0::/\n", first("/job/7", 1000, 900, read) | first("", 2**63 - 4096, 5)
    )
    assert _memory.free_memory() == 750 and _memory.memory() == 1000


@pytest.mark.parametrize("tight", ["", "a.slice", "a.slice/b.scope"])
def test_the_smallest_room_on_the_way_to_the_root_counts(system, tight):
    files: dict[str, Any] = {}
    for folder in ("", "a.slice", "a.slice/b.scope"):
        files |= second(folder, 1000 if folder == tight else 5000, 800 if folder == tight else 100)
    files |= second("a.slice/c.scope", 10, 10)  # a group beside it is none of ours
    system("0::/a.slice/b.scope\n", files)
    assert _memory.free_memory() == 200 and _memory.memory() == 1000


@pytest.mark.parametrize(
    "own", ["0::/docker/1f\n4:memory:/docker/1f\n", "0::/../b\n4:memory:/../b\n", "nonsense\n", ""]
)
def test_a_path_that_cannot_be_seen_from_here_leaves_the_root(system, own):
    system(own, second("", 1000, 700) | first("", 900, 500))
    assert _memory.free_memory() == 300 and _memory.memory() == 900


def test_what_is_not_told_limits_nothing(system, monkeypatch):
    system("0::/a\n", second("", "max", 700) | {"a/memory.max": 1000})
    assert _memory.free_memory() == FREE and _memory.memory() == 1000
    system("0::/b\n", {"b/memory.max": 1000, "b/memory.current": 1000})  # and how much of it are files?
    assert _memory.free_memory() == FREE
    monkeypatch.setattr(_memory, "_meminfo", lambda name: [])
    assert _memory.free_memory() is None
    with within_memory("a matrix"):
        assert torch.zeros(8).sum() == 0


def test_processors_are_as_few_as_a_group_around_has(system):
    system("0::/a/b\n", {"cpu.max": "max 100000", "a/cpu.max": "100000 100000", "a/b/cpu.max": "800000 100000"})
    assert _processors.cores() == 1


def test_only_what_is_held_at_the_same_time_counts(monkeypatch):
    monkeypatch.setattr(_allocations, "free_memory", lambda: 5000)
    with within_memory("what was made"):
        for _ in range(20):
            kept = torch.nn.Parameter(torch.zeros(500))  # 2000 bytes
    with within_memory("what is made next"):
        torch.zeros(1000)
    with (
        pytest.raises(InputError, match=r"many would take 5.9 KiB of memory or more, and 4.9 KiB are free"),
        within_memory("many"),
    ):
        held = [torch.nn.Parameter(torch.zeros(500)) for _ in range(20)]
        assert held
    assert len(kept) == 500
