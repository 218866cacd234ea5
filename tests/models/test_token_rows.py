"""The gradient of an embedding with a penalty's in it, beside torch's own, to the last bit."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

from avalanche_vlm._gradients import Pull
from avalanche_vlm.losses.penalty import quadratic_penalty
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
        anchor, importance = ({"w": torch.randn(embedding.weight.shape, generator=generator)} for _ in range(2))
        with_it = importance if "importance" in parts else None
        loss = loss + 0.3 * quadratic_penalty({"w": embedding.weight}, anchor, with_it)
    return loss


def table() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(60, 5)


@pytest.fixture
def hung(monkeypatch) -> list[torch.Size]:
    """The shapes of tables whose reading has added a penalty's gradient to its own."""
    found: list[torch.Size] = []
    add = Pull.add_to

    def seen(pull, gradient, weight, factor):
        found.append(weight.shape)
        return add(pull, gradient, weight, factor)

    monkeypatch.setattr(Pull, "add_to", seen)
    return found


@pytest.mark.parametrize("parts", [(), ("again",), ("penalty",), ("again", "penalty"), ("importance", "penalty")])
def test_gradients_are_those_of_torch_to_the_last_bit(parts, hung):
    ours, theirs = table(), table()
    for _ in range(2):  # the second adds to what is there
        assert torch.equal(loss_of(ours, embedded, *parts), loss_of(theirs, plainly, *parts))
        hung.clear()
        loss_of(ours, embedded, *parts).backward()
        loss_of(theirs, plainly, *parts).backward()
        assert torch.equal(ours.weight.grad, theirs.weight.grad)
        assert len(hung) == ("penalty" in parts)
    (asked,) = torch.autograd.grad(loss_of(ours, embedded, *parts), [ours.weight])
    (expected,) = torch.autograd.grad(loss_of(theirs, plainly, *parts), [theirs.weight])
    assert torch.equal(asked, expected)


def pull(embedding: nn.Embedding, anchor: float = 0.0) -> torch.Tensor:
    return quadratic_penalty({"w": embedding.weight}, {"w": torch.full_like(embedding.weight, anchor)})


def test_a_penalty_hangs_by_no_reading_that_is_over_or_gone(hung):
    ours = table()
    pull(ours).backward()  # nothing was read
    expected = ours.weight.grad.clone()
    embedded(ours, TOKENS).sum().backward()
    ours.weight.grad = None
    pull(ours).backward()  # its reading has had its backward pass
    assert torch.equal(ours.weight.grad, expected) and not hung
    embedded(ours, TOKENS)  # of which nothing is kept
    ours.weight.grad = None
    pull(ours).backward()
    assert torch.equal(ours.weight.grad, expected) and not hung


def test_a_penalty_counts_where_what_was_read_does_not(hung):
    ours, theirs = table(), table()
    read = embedded(ours, TOKENS)
    pull(ours).backward()  # by the thread of a reading that no loss asks for
    pull(theirs).backward()
    assert torch.equal(ours.weight.grad, theirs.weight.grad) and len(hung) == 1
    assert read.requires_grad


def test_of_two_penalties_one_hangs_and_both_count(hung):
    gradients = []
    for read in (embedded, plainly):
        of = table()
        found = read(of, TOKENS).sum()
        (found + pull(of, 1.0) + 3 * pull(of, 2.0)).backward()
        gradients.append(of.weight.grad)
    torch.testing.assert_close(*gradients)
    assert len(hung) == 1


@pytest.mark.parametrize("order", ["loss first", "penalty first", "loss asked", "penalty asked"])
def test_a_loss_and_a_penalty_have_their_gradients_apart(order, hung):
    gradients = []
    for read in (embedded, plainly):
        of = table()
        both = [read(of, TOKENS).square().sum(), pull(of, 1.0)]
        if order.startswith("penalty"):
            both.reverse()
        if order.endswith("first"):
            for one in both:
                one.backward()
            gradients.append([of.weight.grad])
        else:
            gradients.append([torch.autograd.grad(one, of.weight)[0] for one in both])
    assert all(map(torch.equal, *gradients)) and len(hung) == 1


def test_many_gradients_at_a_time(hung):
    found = []
    for read in (embedded, plainly):
        of = table()
        both = torch.stack([read(of, TOKENS).square().sum(), pull(of, 1.0) + 2 * pull(of, 3.0)])
        found.append(torch.autograd.grad(both, of.weight, torch.eye(2), is_grads_batched=True)[0])
    torch.testing.assert_close(*found)
    assert len(hung) == 1


class Reads(nn.Module):
    def __init__(self, read: Read) -> None:
        super().__init__()
        self.table, self.read = table(), read

    def forward(self, tokens):
        return self.read(self.table, tokens).sin().sum()


def test_transforms_of_torch_func_go_through_a_table():
    found = []
    for read in (embedded, plainly):
        of = Reads(read)
        weights = dict(of.named_parameters())  # which train
        ones = {name: torch.ones_like(w) for name, w in weights.items()}

        def loss(weights, tokens, of=of):
            return torch.func.functional_call(of, weights, (tokens,))

        each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, TOKENS)
        along = torch.func.jvp(lambda given, loss=loss: loss(given, TOKENS), (weights,), (ones,))[1]
        found.append([torch.func.grad(loss)(weights, TOKENS)["table.weight"], each["table.weight"], along])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_gradients_in_half_precision_are_those_of_torch(kind):
    ours, theirs = (table().to(kind) for _ in range(2))
    for of, read in ((ours, embedded), (theirs, plainly)):
        read(of, TOKENS).cos().sum().backward()
    assert torch.equal(ours.weight.grad, theirs.weight.grad)


def test_a_penalty_on_another_table_or_on_numbers_hangs_by_nothing(hung):
    first, second = table(), table()
    (embedded(first, TOKENS).sum() + pull(second)).backward()
    numbers = first.weight.detach()
    other = torch.ones(2, requires_grad=True)
    penalty = quadratic_penalty({"w": numbers, "o": other}, {"w": torch.zeros(60, 5), "o": torch.zeros(2)})
    (embedded(first, TOKENS).sum() + penalty).backward()
    assert not hung and other.grad is not None


def test_nothing_is_kept_alive_by_a_reading():
    ours = table()
    weight, read = weakref.ref(ours.weight), embedded(ours, TOKENS)
    pull(ours)
    del read, ours
    gc.collect()
    assert weight() is None


def test_a_gradient_can_be_differentiated_again():
    ours, theirs = table(), table()
    seconds = []
    for embedding, read in ((ours, embedded), (theirs, plainly)):
        loss = loss_of(embedding, read, "again")  # a penalty of its own is differentiated once
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
    assert torch.equal(got, before) and "_Hold" not in str(got.grad_fn)


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
