"""Quadratic penalties and adaptive importances against loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.losses import penalty as penalty_module
from avalanche_vlm.losses.penalty import _pull, adaptive_fisher, consolidated, quadratic_penalty


def tensors(seed: int, *shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {str(i): torch.randn(shape, dtype=torch.float64, generator=generator) for i, shape in enumerate(shapes)}


def test_importances_equal_the_loop():
    gradients = tensors(1, (3, 4), (5,), ())
    for name, importance in adaptive_fisher(gradients).items():
        flat = gradients[name].flatten().tolist()
        mean = sum(g**2 for g in flat) / len(flat)
        assert importance.flatten().tolist() == pytest.approx([g**2 / mean for g in flat], abs=1e-12)
        assert importance.shape == gradients[name].shape


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-1e3, 1e3).filter(lambda g: g == 0 or abs(g) > 1e-3), min_size=1, max_size=20),
    st.sampled_from([1e-25, 1e-10, 1.0, 1e20]),
)
def test_importances_are_one_on_average_whatever_the_losss_scale(gradient, scale):
    gradient = torch.tensor(gradient)
    importance = adaptive_fisher({"w": gradient * scale})["w"]
    mean = 1.0 if (gradient != 0).any() else 0.0
    assert importance.mean().item() == pytest.approx(mean, abs=1e-5)
    torch.testing.assert_close(importance, adaptive_fisher({"w": gradient})["w"], rtol=1e-4, atol=1e-6)


def test_a_tensor_without_a_gradient_weighs_nothing():
    importance = adaptive_fisher({"w": torch.zeros(3, 2), "b": torch.ones(2, requires_grad=True)})
    assert (importance["w"] == 0).all() and (importance["b"] == 1).all()
    assert not importance["b"].requires_grad


def test_the_penalty_equals_the_loop_and_its_gradient_is_right():
    weights, anchor = tensors(2, (3, 4), (5,)), tensors(3, (3, 4), (5,))
    importance = adaptive_fisher(tensors(4, (3, 4), (5,)))
    expected = 0.0
    for name, weight in weights.items():
        for w, a, f in zip(*(x[name].flatten().tolist() for x in (weights, anchor, importance)), strict=True):
            expected += f * (w - a) ** 2
        weight.requires_grad_()
    loss = quadratic_penalty(weights, anchor, importance)
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    loss.backward()
    for name, weight in weights.items():
        torch.testing.assert_close(weight.grad, 2 * importance[name] * (weight - anchor[name]).detach())
    assert torch.autograd.gradcheck(
        lambda a, b: quadratic_penalty({"0": a, "1": b}, anchor, importance), (weights["0"], weights["1"])
    )


def test_equal_importances_give_the_plain_penalty():
    weights, anchor = tensors(5, (3, 4)), tensors(6, (3, 4))
    ones = {"0": torch.ones(3, 4, dtype=torch.float64)}
    torch.testing.assert_close(quadratic_penalty(weights, anchor, ones), quadratic_penalty(weights, anchor))


def test_no_gradient_flows_into_the_importances():
    importance = torch.ones(2, requires_grad=True)
    weight = torch.ones(2, requires_grad=True)
    quadratic_penalty({"w": weight}, {"w": torch.zeros(2)}, {"w": importance}).backward()
    assert importance.grad is None and weight.grad is not None


def test_l2_is_the_sum_of_squares_and_pulls_back():
    weights = {"a": torch.randn(3, 2, dtype=torch.float64, requires_grad=True), "b": torch.ones(2, dtype=torch.float64)}
    anchor = {"a": torch.randn(3, 2, dtype=torch.float64)}
    loss = quadratic_penalty(weights, anchor)
    expected = sum((w - a) ** 2 for w, a in zip(weights["a"].flatten(), anchor["a"].flatten(), strict=True))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    torch.testing.assert_close(weights["a"].grad, 2 * (weights["a"] - anchor["a"]).detach())


@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_autograds_whatever_the_sizes(weighted):
    shapes = (3, 4), (5,), (2,), (300, 401), (1100, 1000)
    weights, anchor, others = tensors(7, *shapes), tensors(8, *shapes), tensors(9, *shapes)
    del anchor["2"]
    weights["3"] = weights["3"].T.contiguous().T  # not in the order of its numbers
    importance = adaptive_fisher(others) if weighted else None
    for weight in weights.values():
        weight.requires_grad_()
    wanted = sum(((weights[n] - anchor[n]).square() * (importance[n] if importance else 1)).sum() for n in anchor)
    found = quadratic_penalty(weights, anchor, importance)
    torch.testing.assert_close(found, wanted)
    chosen = [weights[name] for name in anchor]
    for one, other in zip(
        torch.autograd.grad(0.7 * found, chosen), torch.autograd.grad(0.7 * wanted, chosen), strict=True
    ):
        torch.testing.assert_close(one, other)
    if importance:
        assert torch.equal(quadratic_penalty(weights, anchor, dict(importance)), found)


def consolidated_and_apart(weights, gradients, anchor):
    """Gradients of 3 times a known loss and 0.7 times its penalty: by :func:`consolidated`, and term by term."""
    for weight in weights.values():
        weight.requires_grad_()
    importance = {name: gradient.clone() for name, gradient in adaptive_fisher(gradients).items()}
    of_terms = quadratic_penalty(weights, anchor, importance)
    wanted = torch.autograd.grad(0.7 * of_terms, list(weights.values()))
    wanted = [of_penalty + 3 * gradients[name] for of_penalty, name in zip(wanted, weights, strict=True)]
    value = torch.tensor(2.5, dtype=torch.float64)
    loss, found = consolidated(value, weights, gradients, anchor)
    assert loss.item() == 2.5 and torch.equal(found, of_terms)
    return torch.autograd.grad(3 * loss + 0.7 * found, list(weights.values())), wanted


@pytest.mark.parametrize("weighted", [False, True])
def test_who_goes_back_twice_gets_the_same_gradient_twice_and_nobody_elses_changes(weighted):
    drawn = torch.Generator().manual_seed(3)
    weights = {"small": torch.randn(5, generator=drawn), "large": torch.randn(300, 301, generator=drawn)}
    weights = {name: w.requires_grad_() for name, w in weights.items()}
    anchor = {name: torch.zeros_like(w) for name, w in weights.items()}
    importance = {name: torch.rand(w.shape, generator=drawn) for name, w in weights.items()} if weighted else None
    value = quadratic_penalty(weights, anchor, importance)
    first = torch.autograd.grad(value, list(weights.values()), torch.tensor(3.0), retain_graph=True)
    kept = [of.clone() for of in first]
    second = torch.autograd.grad(value, list(weights.values()))
    for w, f, one, other, was in zip(
        weights.values(), (importance or anchor).values(), first, second, kept, strict=True
    ):
        expected = 2 * w.detach() * (f if weighted else 1)
        torch.testing.assert_close(other, expected)
        torch.testing.assert_close(one, 3 * expected)
        assert torch.equal(one, was)


@pytest.mark.parametrize("shape", [(250, 250), (300, 301)])
def test_a_value_without_a_graph_keeps_nothing_for_a_backward_pass(shape, monkeypatch):
    asked = []
    of_one = penalty_module._weighted_square
    monkeypatch.setattr(penalty_module, "_weighted_square", lambda *given: asked.append(given[3]) or of_one(*given))
    weights, anchor = {"w": torch.ones(shape, requires_grad=True)}, {"w": torch.zeros(shape)}
    with torch.no_grad():
        assert quadratic_penalty(weights, anchor, anchor).item() == 0
        assert quadratic_penalty(weights, anchor).item() == weights["w"].numel()
    consolidated(torch.tensor(1.0), weights, {"w": torch.ones(shape)}, anchor)
    assert asked == [False] * 3
    quadratic_penalty(weights, anchor)
    assert asked[3:] == [True]


@pytest.mark.parametrize("rows", [5, 300])
def test_what_is_kept_takes_up_the_other_gradients_where_it_lies(rows, monkeypatch):
    weight, made = torch.ones(rows, 301, requires_grad=True), []

    def told(*given):
        made.append((pull := _pull(*given)).data_ptr())
        return pull

    monkeypatch.setattr(penalty_module, "_pull", told)
    loss = weight.sin().sum()
    loss = loss + quadratic_penalty({"w": weight}, {"w": torch.zeros(rows, 301)}, {"w": torch.ones(rows, 301)})
    loss.backward()
    torch.testing.assert_close(weight.grad, (weight.cos() + 2 * weight).detach())
    assert made == [weight.grad.data_ptr()]


def test_weights_that_have_changed_since_are_told():
    weight = torch.ones(3, requires_grad=True)
    value = quadratic_penalty({"w": weight}, {"w": torch.zeros(3)})
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_a_known_gradient_and_its_penalty_are_those_of_both_terms():
    shapes = (3, 4), (5,), (), (1100, 1000)
    weights, gradients, anchor = tensors(10, *shapes), tensors(11, *shapes), tensors(12, *shapes)
    weights["3"] = weights["3"].T.contiguous().T  # not in the order of its numbers
    gradients["3"] = gradients["3"].T.contiguous().T
    for found, wanted in zip(*consolidated_and_apart(weights, gradients, anchor), strict=True):
        assert torch.equal(found, wanted)


def test_known_gradients_that_share_their_memory_are_not_mixed_up():
    weights, anchor = tensors(13, (3, 4), (3, 4), (3, 4), (4,)), tensors(14, (3, 4), (3, 4), (3, 4), (4,))
    one = torch.randn(4, 4, dtype=torch.float64)
    gradients = {"0": one[:3], "1": one[1:], "2": torch.ones((), dtype=torch.float64).expand(3, 4), "3": one[0]}
    for found, wanted in zip(*consolidated_and_apart(weights, gradients, anchor), strict=True):
        assert torch.equal(found, wanted)


def test_the_known_gradient_becomes_the_weights_own_without_a_copy():
    weight, gradient = torch.ones(3, requires_grad=True), torch.tensor([1.0, 2.0, 3.0])
    memory = gradient.data_ptr()
    known = {"w": gradient}
    loss, penalty = consolidated(torch.tensor(0.0), {"w": weight}, known, {"w": torch.zeros(3)})
    del known, gradient
    (loss + penalty).backward()
    assert weight.grad.data_ptr() == memory
