"""What processes that train together say to one another."""

from __future__ import annotations

import pytest
import torch
from processes import together

from avalanche_vlm import _ranks
from avalanche_vlm.errors import ProcessLost


def all_at_once(rank):
    ranks = _ranks.found_ranks()
    rows = torch.arange(7.0)[ranks.share(7)] * 10
    gathered = torch.cat(ranks.gather(rows, [len(range(7)[ranks.share(7, r)]) for r in range(3)])).tolist()
    weights = [
        torch.nn.Parameter(torch.zeros(2)),
        torch.nn.Parameter(torch.zeros(3)),
        torch.nn.Parameter(torch.zeros(1)),
    ]
    weights[0].grad = torch.full((2,), float(rank))
    if rank == 1:
        weights[1].grad = torch.full((3,), 6.0)
    ranks.average_gradients(weights)
    return {
        "gathered": gathered,
        "sum": ranks.sum(torch.tensor([rank, 1])).tolist(),
        "gradients": [None if w.grad is None else w.grad.tolist() for w in weights],
        "averaged": ranks.averaged([torch.full((2, 2), float(rank)).T])[0].tolist(),
        "told": ranks.told({"rank": rank}),
        "first": ranks.from_first(f"word of {rank}"),
        "tensor": ranks.tensor_from_first(torch.tensor([rank])).tolist(),
        "leads": _ranks.leads(),
        "apart": _ranks.reads_apart(),
    }


def test_three_processes_tell_each_other_everything(tmp_path):
    for rank, found in enumerate(together(all_at_once, tmp_path / "meeting", processes=3)):
        assert found == {
            "gathered": [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0],
            "sum": [3, 3],
            "gradients": [[1.0, 1.0], [2.0, 2.0, 2.0], None],  # the second only one had, the third nobody
            "averaged": [[1.0, 1.0], [1.0, 1.0]],
            "told": [{"rank": 0}, {"rank": 1}, {"rank": 2}],
            "first": "word of 0",
            "tensor": [0],
            "leads": rank == 0,
            "apart": True,
        }


def gone(rank):
    ranks = _ranks.found_ranks()
    if rank == 1:
        return "gone"
    with pytest.raises(ProcessLost, match="has ended or does not answer"):
        ranks.sum(torch.ones(1))
    return "told"


def test_a_process_that_is_gone_is_a_sentence(tmp_path):
    assert together(gone, tmp_path / "meeting") == ["told", "gone"]


def test_one_process_trains_alone():
    assert _ranks.found_ranks() is None
    assert _ranks.leads()
    assert not _ranks.reads_apart()


def test_buckets_hold_all_tensors_once_and_not_too_much(monkeypatch):
    monkeypatch.setattr(_ranks, "BUCKET", 40)
    tensors = [torch.zeros(n, dtype=kind) for n, kind in [(4, torch.float32), (3, torch.float64), (5, torch.float32),
                                                          (2, torch.float32), (30, torch.float32)]]  # fmt: skip
    found = list(_ranks._buckets(tensors))
    assert {id(t) for bucket in found for t in bucket} == {id(t) for t in tensors}
    assert sum(map(len, found)) == len(tensors)
    assert all(len(bucket) == 1 or sum(t.nbytes for t in bucket) <= 40 for bucket in found)
    assert all(len({t.dtype for t in bucket}) == 1 for bucket in found)
