"""What one process of several computes of a batch, looked at without the others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from avalanche_vlm import _ranks, _rows
from avalanche_vlm.errors import InputError


class Imagined(_ranks.Ranks):
    """One of several processes, of which the others are imagined: what they would send is known."""

    def __init__(self, rank, size, sent=()):
        self.rank, self.size, self.sent = rank, size, list(sent)

    def gather(self, own, counts):
        found = list(self.sent)
        found.insert(self.rank, own.detach())
        assert [len(rows) for rows in found] == list(counts)
        return found


def parts(total, size):
    return [_rows.RowShare(ranks := Imagined(rank, size), total, ranks.share(total)) for rank in range(size)]


@pytest.mark.parametrize(("n", "size"), [(7, 3), (2, 2), (8, 3), (1, 1), (0, 2)])
def test_rows_are_shared_evenly_without_gap_or_repeat(n, size):
    shares = [Imagined(rank, size).share(n) for rank in range(size)]
    assert [row for share in shares for row in range(n)[share]] == list(range(n))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_dropout_leaves_out_of_a_share_what_it_leaves_out_of_the_whole():
    x = torch.randn(7, 3, 5)
    torch.manual_seed(3)
    expected, after = F.dropout(x, 0.4, True), torch.get_rng_state()
    for part in parts(7, 3):
        torch.manual_seed(3)
        with _rows._within(part):
            found = _rows.dropout(x[part.own], 0.4, True)
        assert torch.equal(found, expected[part.own])
        assert torch.equal(torch.get_rng_state(), after)  # who draws next is where one process would be


def test_noise_of_a_share_is_that_of_the_whole():
    torch.manual_seed(3)
    expected = torch.randn(5, 2)
    for part in parts(5, 2):
        torch.manual_seed(3)
        with _rows._within(part):
            assert torch.equal(_rows.normal(torch.zeros(part.count, 2)), expected[part.own])


def test_some_rows_of_a_batch_are_a_batch_of_their_own():
    chosen = torch.tensor([True, False, True, True, False, True, True])
    torch.manual_seed(3)
    x = torch.randn(7, 2)
    expected = F.dropout(x[chosen], 0.5, True)
    start = 0
    for part in parts(7, 3):
        torch.manual_seed(3)
        torch.randn(7, 2)
        with _rows._within(part), _rows.among(chosen):
            own = x[part.own][chosen[part.own]]
            found = _rows.dropout(own, 0.5, True)
        assert torch.equal(found, expected[start : start + len(own)])
        start += len(own)
    assert start == 5


def test_activations_with_another_first_dimension_than_the_batch_are_refused():
    (part, _) = parts(6, 2)
    with _rows._within(part), pytest.raises(InputError, match="first dimension is not the batch"):
        _rows.dropout(torch.ones(4, 3), 0.5, True)


def test_gradients_come_back_to_the_own_rows_times_the_processes():
    weight = torch.randn(2, 4, requires_grad=True)
    x, target = torch.randn(5, 2), torch.randn(5, 4)

    def loss(features):
        return (F.normalize(features @ features.T) - target @ target.T).square().sum() + weight.square().sum()

    (expected,) = torch.autograd.grad(loss(x @ weight), weight)
    found = []
    for rank in range(2):
        ranks = Imagined(rank, 2)
        ranks.sent = [(x @ weight).detach()[Imagined(1 - rank, 2).share(5)]]
        with _ranks.training_together(ranks):
            features = _rows.share_out(lambda rows: rows @ weight, x)
        found.append(torch.autograd.grad(loss(features), weight)[0])
    # What every process computes for itself, as the last term, is not counted twice.
    torch.testing.assert_close(sum(found) / 2, expected)


def test_rows_that_join_on_the_way_stand_behind_the_batch():
    images, latents = torch.arange(5.0)[:, None], 10 + torch.arange(3.0)[:, None]
    weight = torch.ones(1, requires_grad=True)

    def encode(rows):
        return torch.cat([rows, _rows.append(latents)]) * weight

    for rank in range(2):
        other = Imagined(1 - rank, 2)
        ranks = Imagined(rank, 2, [torch.cat([images[other.share(5)], latents[other.share(3)]])])
        with _ranks.training_together(ranks):
            features = _rows.share_out(encode, images)
        assert torch.equal(features, torch.cat([images, latents]))
        (gradient,) = torch.autograd.grad((features * torch.arange(8.0)[:, None]).sum(), weight)
        by_hand = torch.cat([images * torch.arange(5.0)[:, None], latents * torch.arange(5.0, 8)[:, None]])
        rows = torch.cat([by_hand[:5][ranks.share(5)], by_hand[5:][ranks.share(3)]])
        assert float(gradient) == 2 * float(rows.sum())


def test_fewer_rows_than_processes_and_what_is_alone_are_not_shared():
    with _ranks.training_together(Imagined(0, 3)):
        assert torch.equal(_rows.share_out(lambda rows: rows + 1, torch.ones(2, 1)), torch.full((2, 1), 2.0))
        with _ranks.alone():
            assert torch.equal(_rows.share_out(lambda rows: rows + 1, torch.ones(5, 1)), torch.full((5, 1), 2.0))

    for rank in range(3):  # what all compute for themselves counts once
        with _ranks.training_together(Imagined(rank, 3)), _ranks.alone():
            assert _rows.counts_here() == (rank == 0)


def test_alone_everything_is_as_torch_has_it():
    x = torch.randn(4, 3)
    torch.manual_seed(1)
    expected = F.dropout(x, 0.3, True), torch.randn_like(x)
    torch.manual_seed(1)
    found = _rows.dropout(x, 0.3, True), _rows.normal(x)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert _rows.own_rows(x) is x
    assert _rows.summed(x) is x
    assert _rows.append(x) is x
