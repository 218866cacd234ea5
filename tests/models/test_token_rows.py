"""The gradient of an embedding as rows, beside torch's own, to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from avalanche_vlm.losses.penalty import quadratic_penalty
from avalanche_vlm.models import token_rows
from avalanche_vlm.models.token_rows import embedded

TOKENS = torch.randint(50, (9, 7), generator=torch.Generator().manual_seed(1)) ** 2 % 40
"""Some come often, and many never."""

Read = Callable[[nn.Module, torch.Tensor], torch.Tensor]


def plainly(embedding: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return embedding(tokens)


def loss_of(embedding: nn.Embedding, read: Read, *parts: str) -> torch.Tensor:
    """A loss by how a table is read: once, once more, and with a penalty on the table."""
    generator = torch.Generator().manual_seed(2)
    first, *others = (read(embedding, tokens) for tokens in (TOKENS, TOKENS[:3].flip(0))[: 1 + ("again" in parts)])
    loss = (torch.sin(first) * torch.randn(first.shape, generator=generator)).sum()
    loss = loss + sum((other.cos() * 3).sum() for other in others)
    if "penalty" in parts:
        anchor = {"w": torch.randn(embedding.weight.shape, generator=generator)}
        loss = loss + 0.3 * quadratic_penalty({"w": embedding.weight}, anchor)
    return loss


def table() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(60, 5)


def sparse_sent(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether what is sent back is rows, pass by pass."""
    found: list[bool] = []
    real = token_rows._ByRows.backward

    def seen(ctx, incoming):
        gradient, other = real(ctx, incoming)
        found.append(gradient.is_sparse)
        return gradient, other

    monkeypatch.setattr(token_rows._ByRows, "backward", staticmethod(seen))
    return found


@pytest.mark.parametrize(
    "parts, rows",
    [((), [False]), (("again",), [False, True]), (("penalty",), [True]), (("again", "penalty"), [True, True])],
)
def test_gradients_are_those_of_torch_to_the_last_bit(parts, rows, monkeypatch):
    ours, theirs = table(), table()
    sent = sparse_sent(monkeypatch)
    for _ in range(2):  # the second adds to what is there
        assert torch.equal(loss_of(ours, embedded, *parts), loss_of(theirs, plainly, *parts))
        sent.clear()
        loss_of(ours, embedded, *parts).backward()
        loss_of(theirs, plainly, *parts).backward()
        assert torch.equal(ours.weight.grad, theirs.weight.grad) and not ours.weight.grad.is_sparse
        assert sent == rows
    (asked,) = torch.autograd.grad(loss_of(ours, embedded, *parts), [ours.weight])
    (expected,) = torch.autograd.grad(loss_of(theirs, plainly, *parts), [theirs.weight])
    assert torch.equal(asked, expected) and not asked.is_sparse


def test_a_whole_gradient_of_an_earlier_pass_or_of_another_table_is_none(monkeypatch):
    first, second = table(), table()
    sent = sparse_sent(monkeypatch)
    quadratic_penalty({"w": first.weight}, {"w": torch.zeros(60, 5)}).backward()
    (embedded(first, TOKENS).sum() + quadratic_penalty({"w": second.weight}, {"w": torch.zeros(60, 5)})).backward()
    assert sent == [False] and not first.weight.grad.is_sparse


def test_a_penalty_on_what_does_not_train_sends_nothing(monkeypatch):
    embedding = table()
    frozen = embedding.weight.detach()
    sent = sparse_sent(monkeypatch)
    other = torch.ones(2, requires_grad=True)
    penalty = quadratic_penalty({"w": frozen, "o": other}, {"w": torch.zeros(60, 5), "o": torch.zeros(2)})
    (embedded(embedding, TOKENS).sum() + penalty).backward()
    assert sent == [False] and not embedding.weight.grad.is_sparse


def test_a_gradient_can_be_differentiated_again():
    ours, theirs = table(), table()
    seconds = []
    for embedding, read in ((ours, embedded), (theirs, plainly)):
        loss = loss_of(embedding, read, "again")
        (first,) = torch.autograd.grad(loss, [embedding.weight], create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), [embedding.weight])[0])
    torch.testing.assert_close(*seconds)


class Watched(nn.Embedding):
    """A table of another kind, which may do anything."""


@pytest.mark.parametrize(
    "change",
    [
        lambda of: of.requires_grad_(False),
        lambda of: (of.register_forward_hook(lambda _m, _i, y: y + 1), of)[1],
        lambda of: setattr(of, "padding_idx", 3) or of,
        lambda of: setattr(of, "scale_grad_by_freq", True) or of,
        lambda of: setattr(of, "__class__", Watched) or of,
    ],
    ids=["frozen", "hooked", "padding", "scaled", "another"],
)
def test_what_is_no_plain_table_that_trains_is_called(change):
    embedding = change(table())
    before = embedding(TOKENS)
    got = embedded(embedding, TOKENS)
    assert torch.equal(got, before) and "ByRows" not in str(got.grad_fn)


def test_without_a_graph_a_table_is_called_and_copies_stay_what_they_are():
    embedding = table()
    with torch.no_grad():
        assert embedded(embedding, TOKENS).grad_fn is None
    loss_of(embedding, embedded, "penalty").backward()
    twin = copy.deepcopy(embedding)
    twin.zero_grad()
    embedding.zero_grad()
    for of in (embedding, twin):
        loss_of(of, embedded, "penalty").backward()
    assert torch.equal(embedding.weight.grad, twin.weight.grad)
