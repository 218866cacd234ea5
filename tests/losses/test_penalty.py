"""Quadratic penalties and adaptive importances against loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.losses.penalty import adaptive_fisher, add_quadratic_penalty, consolidated, quadratic_penalty


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


def test_a_penalty_can_be_differentiated_twice():
    weights, anchor = tensors(5, (3, 4)), tensors(6, (3, 4))
    importance = adaptive_fisher(tensors(7, (3, 4)))
    weights["0"].requires_grad_()
    assert torch.autograd.gradgradcheck(lambda w: quadratic_penalty({"0": w}, anchor, importance), (weights["0"],))


SHAPES = (3, 4), (5,), (), (300, 401), (1100, 1000), (7, 3, 2, 2)


def in_another_order(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, which do not lie in the order in which they are counted."""
    return tensor.transpose(0, 1).contiguous().transpose(0, 1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("turned", ["none", "weights", "anchor", "gradients", "importance"])
def test_what_is_added_is_autograds_gradient(weighted, turned):
    weights, anchor, others, before = (tensors(seed, *SHAPES) for seed in (7, 8, 9, 10))
    importance = {name: f.clone() for name, f in adaptive_fisher(others).items()} if weighted else None
    for name in ("3", "5"):
        kinds = {"weights": weights, "anchor": anchor, "gradients": before, "importance": importance or {}}
        if name in kinds.get(turned, {}):
            kinds[turned][name] = in_another_order(kinds[turned][name])
    del anchor["1"]
    for name, weight in weights.items():
        weight.requires_grad_().grad = before[name].clone()
    memory = {name: weight.grad.data_ptr() for name, weight in weights.items()}
    wanted = 0.7 * quadratic_penalty(weights, anchor, importance)
    pulls = torch.autograd.grad(wanted, [weights[name] for name in anchor])
    found = add_quadratic_penalty(weights, anchor, importance, 0.7)
    torch.testing.assert_close(found, wanted.detach())
    assert not found.requires_grad
    for name, pull in zip(anchor, pulls, strict=True):
        torch.testing.assert_close(weights[name].grad, before[name] + pull)
    assert torch.equal(weights["1"].grad, before["1"])
    assert memory == {name: weight.grad.data_ptr() for name, weight in weights.items()}


def test_a_weight_without_a_gradient_gets_one_and_one_that_rests_gets_none():
    drawn = tensors(11, (4,), (400, 300))
    weights = {"0": drawn["0"].requires_grad_(), "1": drawn["1"].requires_grad_(), "rests": torch.ones(2).double()}
    anchor = {"0": torch.zeros(4).double(), "1": torch.zeros(400, 300).double(), "rests": torch.zeros(2).double()}
    value = add_quadratic_penalty(weights, anchor, factor=3.0)
    torch.testing.assert_close(value, 3 * (drawn["0"].square().sum() + drawn["1"].square().sum() + 2).detach())
    torch.testing.assert_close(weights["0"].grad, 6 * drawn["0"].detach())
    torch.testing.assert_close(weights["1"].grad, 6 * drawn["1"].detach())
    assert weights["rests"].grad is None


def test_importances_are_asked_for_once_and_before_the_gradient_that_they_are_made_of_is_added_to():
    weights, anchor, known = tensors(12, (3, 4), (500, 300)), tensors(13, (3, 4), (500, 300)), tensors(14, *SHAPES[:1])
    known["1"] = tensors(15, (500, 300))["0"]
    asked = []

    class Asked(dict):
        def __getitem__(self, name):
            asked.append(name)
            return adaptive_fisher({name: weights[name].grad})[name]

    for name, weight in weights.items():
        weight.requires_grad_().grad = known[name].clone()
    importance = {name: f.clone() for name, f in adaptive_fisher(known).items()}
    add_quadratic_penalty(weights, anchor, Asked(), 0.5)
    assert asked == ["0", "1"]
    for name, weight in weights.items():
        pull = importance[name] * (weight - anchor[name]).detach()
        torch.testing.assert_close(weight.grad, known[name] + pull)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision_are_pulled_to_anchors_of_single(kind):
    weight = torch.linspace(-1, 1, 8, dtype=kind).requires_grad_()
    value = add_quadratic_penalty({"w": weight}, {"w": torch.zeros(8)})
    assert weight.grad.dtype == kind
    torch.testing.assert_close(weight.grad, 2 * weight.detach())
    torch.testing.assert_close(value, weight.detach().float().square().sum())


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 5), max_size=3), st.floats(-3, 3), st.booleans(), st.integers(0, 2**31))
def test_whatever_the_shape_the_sum_of_losses_has_the_same_gradient(shape, factor, weighted, seed):
    weights, anchor, importance = (tensors(seed + k, tuple(shape)) for k in range(3))
    weight = weights["0"].requires_grad_()
    with_it = importance if weighted else None
    (weight.sin().sum() + factor * quadratic_penalty(weights, anchor, with_it)).backward()
    wanted, weight.grad = weight.grad, None
    weight.sin().sum().backward()
    add_quadratic_penalty(weights, anchor, with_it, factor)
    torch.testing.assert_close(weight.grad, wanted)


def test_nothing_to_stay_near_is_no_penalty():
    weight = torch.ones(2, requires_grad=True)
    assert quadratic_penalty({"w": weight}, {}).item() == 0
    assert add_quadratic_penalty({"w": weight}, {}).item() == 0
    assert weight.grad is None


def test_a_sparse_gradient_takes_up_the_penalty():
    table = torch.nn.Embedding(6, 3, sparse=True)
    table(torch.tensor([1, 1, 4])).sum().backward()
    wanted = table.weight.grad.to_dense() + 2 * table.weight.detach()
    add_quadratic_penalty({"w": table.weight}, {"w": torch.zeros(6, 3)})
    torch.testing.assert_close(table.weight.grad, wanted)


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
    assert loss.item() == 2.5
    torch.testing.assert_close(found, of_terms)
    return torch.autograd.grad(3 * loss + 0.7 * found, list(weights.values())), wanted


def test_a_known_gradient_and_its_penalty_are_those_of_both_terms():
    shapes = (3, 4), (5,), (), (1100, 1000)
    weights, gradients, anchor = tensors(10, *shapes), tensors(11, *shapes), tensors(12, *shapes)
    weights["3"] = weights["3"].T.contiguous().T  # not in the order of its numbers
    gradients["3"] = gradients["3"].T.contiguous().T
    for found, wanted in zip(*consolidated_and_apart(weights, gradients, anchor), strict=True):
        torch.testing.assert_close(found, wanted)


def test_known_gradients_that_share_their_memory_are_not_mixed_up():
    weights, anchor = tensors(13, (3, 4), (3, 4), (3, 4), (4,)), tensors(14, (3, 4), (3, 4), (3, 4), (4,))
    one = torch.randn(4, 4, dtype=torch.float64)
    gradients = {"0": one[:3], "1": one[1:], "2": torch.ones((), dtype=torch.float64).expand(3, 4), "3": one[0]}
    for found, wanted in zip(*consolidated_and_apart(weights, gradients, anchor), strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_known_gradient_becomes_the_weights_own_without_a_copy():
    weight, gradient = torch.ones(3, requires_grad=True), torch.tensor([1.0, 2.0, 3.0])
    memory = gradient.data_ptr()
    known = {"w": gradient}
    loss, penalty = consolidated(torch.tensor(0.0), {"w": weight}, known, {"w": torch.zeros(3)})
    del known, gradient
    (loss + penalty).backward()
    assert weight.grad.data_ptr() == memory
