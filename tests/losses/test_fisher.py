"""True and empirical Fisher diagonals against formulas and loops."""

from __future__ import annotations

import pytest
import torch

from avalanche_vlm.losses.fisher import (
    accumulate,
    empirical_fisher,
    fisher_losses,
    squared_gradients,
    true_fisher,
    true_fisher_losses,
)


def linear(b: int = 4, c: int = 3, d: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, weights with a gradient, and data labels of a linear softmax model."""
    generator = torch.Generator().manual_seed(10)
    x, w = (torch.randn(n, d, dtype=torch.float64, generator=generator) for n in (b, c))
    return x, w.requires_grad_(), torch.tensor([0, 2, 0, 1])[:b]


def by_formula(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
    """Mean over samples of x_d^2 times p_c (1 - p_c), or (p_c - [c = y])^2 with labels of the data."""
    p = (x @ w.detach().T).softmax(1)
    total = torch.zeros_like(w)
    for b in range(len(x)):
        for c in range(len(w)):
            factor = p[b, c] * (1 - p[b, c]) if y is None else (p[b, c] - float(c == y[b])) ** 2
            total[c] = total[c] + factor * x[b] ** 2
    return total.detach() / len(x)


def test_squared_gradients_equal_the_loop_and_are_not_the_square_of_the_mean():
    x, w, y = linear()
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    unused = torch.ones(2, requires_grad=True)
    losses = torch.nn.functional.cross_entropy(x @ w.T + bias, y, reduction="none")
    got = squared_gradients(losses, {"w": w, "b": bias, "unused": unused})
    expected = {"w": torch.zeros_like(w), "b": torch.zeros_like(bias)}
    for i in range(4):
        one = torch.nn.functional.cross_entropy(x[i : i + 1] @ w.T + bias, y[i : i + 1])
        for name, gradient in zip(expected, torch.autograd.grad(one, (w, bias)), strict=True):
            expected[name] = expected[name] + gradient**2 / 4
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value.detach())
        assert not got[name].requires_grad
    assert (got["unused"] == 0).all()
    mean = torch.nn.functional.cross_entropy(x @ w.T + bias, y)
    assert (got["w"].sum() / torch.autograd.grad(mean, w)[0].square().sum()).item() > 1.5


def test_the_exact_fisher_of_a_linear_softmax_is_the_formula():
    x, w, _ = linear()
    got = true_fisher(x @ w.T, {"w": w}, exact=True)["w"]
    torch.testing.assert_close(got, by_formula(x, w, None))


def test_it_is_the_curvature_of_the_divergence():
    x, w, _ = linear()
    start = (x @ w.T).log_softmax(1).detach()

    def divergence(v):
        return (start.exp() * (start - (x @ v.T).log_softmax(1))).sum(1).mean()

    hessian = torch.autograd.functional.hessian(divergence, w.detach()).reshape(6, 6)
    got = true_fisher(x @ w.T, {"w": w}, exact=True)["w"]
    torch.testing.assert_close(got.flatten(), hessian.diagonal())


def test_drawn_labels_converge_to_the_exact_fisher_and_data_labels_do_not():
    x, w, y = linear()
    exact = by_formula(x, w, None)
    empirical = empirical_fisher(x @ w.T, y, {"w": w})["w"]
    torch.testing.assert_close(empirical, by_formula(x, w, y))

    def error(draws: int) -> float:
        generator = torch.Generator().manual_seed(1)
        drawn = sum(true_fisher(x @ w.T, {"w": w}, generator)["w"] for _ in range(draws)) / draws
        return ((drawn - exact).norm() / exact.norm()).item()

    assert error(500) < 0.08 < error(2)
    assert ((empirical - exact).norm() / exact.norm()).item() > 0.3


def test_where_the_data_are_fitted_only_the_empirical_fisher_forgets_what_is_uncertain():
    # One sample in a tie that the data decide, one beyond doubt.
    logits = torch.tensor([[0.0, 0.0], [9.0, -9.0]], dtype=torch.float64, requires_grad=True)
    true = true_fisher(logits * 1, {"l": logits}, exact=True)["l"]
    sure, wrong = (empirical_fisher(logits * 1, torch.tensor(y), {"l": logits})["l"] for y in ([0, 0], [0, 1]))
    assert true[0, 0].item() == pytest.approx(0.125) and true[1, 0] < 1e-6
    assert sure[1, 0] < 1e-6 and wrong[1, 0].item() == pytest.approx(0.5, abs=1e-6)


def test_drawn_losses_are_those_of_labels_of_the_model():
    logits = torch.tensor([[2.0, 0.0, -1.0]]).repeat(3000, 1)
    p = logits[0].softmax(0)
    losses = true_fisher_losses(logits, torch.Generator().manual_seed(2))
    for c in range(3):
        share = torch.isclose(losses, -p[c].log()).double().mean().item()
        assert share == pytest.approx(p[c].item(), abs=0.03)
    again = true_fisher_losses(logits, torch.Generator().manual_seed(2))
    assert torch.equal(losses, again)


def test_the_order_of_the_samples_does_not_matter():
    x, w, y = linear()
    order = torch.tensor([2, 0, 3, 1])
    for fisher in (
        lambda i: true_fisher(x[i] @ w.T, {"w": w}, exact=True)["w"],
        lambda i: empirical_fisher(x[i] @ w.T, y[i], {"w": w})["w"],
    ):
        torch.testing.assert_close(fisher(order), fisher(torch.arange(4)))


def test_exact_losses_have_a_right_gradient_with_constant_weights():
    logits = torch.tensor([[0.3, -0.2, 1.0]], dtype=torch.float64, requires_grad=True)
    weights = (3 * logits.detach().softmax(1)).sqrt().flatten()
    expected = torch.autograd.functional.jacobian(lambda z: -(weights * z.log_softmax(1).flatten()), logits)
    got = torch.autograd.functional.jacobian(lambda z: true_fisher_losses(z, exact=True), logits)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kind", ["true", "empirical", "predicted"])
def test_classes_without_a_probability_decide_no_draw_and_no_rounding(kind):
    logits, y = 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 4, 2, 1, 1, 3])
    apart = [0, 3, 7, 8, 30]
    wide = torch.full((6, 40), torch.finfo(torch.float32).min)
    wide[:, apart] = logits
    found = [
        fisher_losses(rows, labels, kind, torch.Generator().manual_seed(1))
        for rows, labels in ((logits, y), (wide, torch.tensor(apart)[y]))
    ]
    assert torch.equal(*found)


def test_a_broken_logit_reaches_the_losses():
    logits, y = torch.full((2, 3), torch.nan), torch.tensor([0, 1])
    assert all(fisher_losses(logits, y, kind).isnan().all() for kind in ("empirical", "predicted"))


def test_importances_accumulate_with_decay_and_leave_their_sources():
    fisher = {}
    tasks = [{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 0.0]), "new": torch.tensor([5.0])}, {}]
    for task in tasks:
        fisher = accumulate(fisher, task, decay=0.5)
    assert fisher["w"].tolist() == [0.5 * (0.5 * 1 + 3), 0.5 * 0.5 * 2] and fisher["new"].tolist() == [2.5]
    first = accumulate({}, tasks[0])
    first["w"].zero_()
    assert tasks[0]["w"].tolist() == [1.0, 2.0]
    assert accumulate(tasks[0], tasks[0])["w"].tolist() == [2.0, 4.0]


def test_what_is_not_a_sample_loss_or_a_decay_is_refused():
    for losses in (torch.tensor(1.0), torch.zeros(0)):
        with pytest.raises(ValueError, match="losses of some samples"):
            squared_gradients(losses, {})
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 1.5"):
        accumulate({}, {}, decay=1.5)
