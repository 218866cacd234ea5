"""The container stands where Avalanche expects a tensor."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks.image_text import ImageText


def batch(n: int = 5) -> ImageText:
    return ImageText(torch.randn(n, 3, 4, 4), torch.arange(2 * n).view(n, 2))


@pytest.mark.parametrize("workers", [0, 1])
def test_loaders_collate_it_with_and_without_workers(workers):
    whole = batch(6)
    samples = [(whole[i], i) for i in range(6)]
    loaded = list(DataLoader(samples, batch_size=4, num_workers=workers))
    assert [len(x) for x, _ in loaded] == [4, 2]
    joined = torch.cat([x for x, _ in loaded])
    assert torch.equal(joined.image, whole.image) and torch.equal(joined.tokens, whole.tokens)


def test_it_moves_clones_and_measures_like_a_tensor():
    x = batch()
    moved = x.to(torch.device("cpu"), non_blocking=True)
    assert torch.equal(moved.image, x.image) and moved.device.type == "cpu"
    half = x.to(torch.float16)
    assert half.dtype == torch.float16 and half.tokens.dtype == torch.long
    assert x.size() == x.shape == (5, 3, 4, 4) and x.size(0) == len(x) == 5
    twin = x.clone()
    twin.image.zero_()
    assert x.image.abs().sum() > 0
    assert not ImageText(x.image.requires_grad_(), x.tokens).detach().image.requires_grad


def test_it_indexes_like_a_tensor():
    x = batch()
    mask = torch.tensor([True, False, False, True, False])
    for index, rows in ((mask, [0, 3]), (torch.tensor([4, 1]), [4, 1]), (slice(1, 3), [1, 2])):
        assert x[index].tokens[:, 0].tolist() == [2 * r for r in rows]
        assert torch.equal(x[index].image, x.image[rows])
    assert x[2].image.shape == (3, 4, 4)


def test_cat_and_stack():
    a, b = batch(2), batch(3)
    assert len(torch.cat([a, b])) == len(torch.cat((a, b), dim=0)) == 5
    assert torch.stack([a[0], a[1]]).tokens.tolist() == a.tokens.tolist()
    with pytest.raises(TypeError):
        torch.cat([a, torch.zeros(2, 3, 4, 4)])
    with pytest.raises(TypeError):
        torch.cat([a, b], dim=1)


@pytest.mark.parametrize("join", [torch.cat, torch.concat, torch.concatenate])
def test_it_is_joined_however_torch_is_called(join):
    a, b = batch(2), batch(3)
    both = torch.cat([a.tokens, b.tokens])
    calls = [{"tensors": [a, b]}, {"tensors": (a, b), "dim": 0}, {"tensors": [a, b], "axis": 0}]
    for joined in (*(join(**call) for call in calls), join([a, b], 0), join([a, b], axis=0)):
        assert torch.equal(joined.tokens, both) and len(joined.image) == 5
    for refused in ({"tensors": [a, b], "dim": 1}, {"tensors": [a, b], "out": a}):
        with pytest.raises(TypeError, match="NotImplemented"):
            join(**refused)
    assert torch.stack(tensors=[a[0], a[1]], dim=0).tokens.tolist() == a.tokens.tolist()


@pytest.mark.gpu
def test_it_pins_and_moves_to_cuda():
    x = batch().pin_memory().to("cuda", non_blocking=True)
    assert x.image.is_cuda and x.tokens.is_cuda
