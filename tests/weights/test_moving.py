"""Moving averages of weights."""

from __future__ import annotations

import pytest
import torch

from avalanche_vlm.weights import average
from avalanche_vlm.weights.moving import compatible_momentum, update_ema


def states(n: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"w": (3, 2), "b": (2,)}
    return [
        {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
        for _ in range(n)
    ]


def test_the_moving_average_weighs_the_past_geometrically():
    start, *news = states(6)
    mean = average.snapshot(start)
    for new in news:
        update_ema(mean, new, decay=0.7)
    for name in start:
        for index in range(start[name].numel()):
            expected = start[name].view(-1)[index].item()
            for new in news:
                expected = 0.7 * expected + 0.3 * new[name].view(-1)[index].item()
            assert mean[name].view(-1)[index].item() == pytest.approx(expected, rel=1e-12)


def test_compatible_momentum_is_the_papers_update_and_leaves_its_sources_alone():
    momentum, new, previous = states(3)
    before, kept = average.snapshot(momentum), [average.snapshot(new), average.snapshot(previous)]
    storage = {name: tensor.data_ptr() for name, tensor in momentum.items()}
    compatible_momentum(momentum, new, previous)
    for name in momentum:
        expected = 0.9 * before[name] + 0.05 * new[name] + 0.05 * previous[name]
        torch.testing.assert_close(momentum[name], expected, atol=1e-15, rtol=1e-12)
        assert momentum[name].data_ptr() == storage[name]
        assert torch.equal(new[name], kept[0][name]) and torch.equal(previous[name], kept[1][name])


def test_both_are_at_rest_where_all_agree_and_take_parameters():
    (state,) = states(1)
    moving = average.snapshot(state)
    parameters = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in state.items()}
    update_ema(moving, parameters, decay=0.9)
    compatible_momentum(moving, parameters, state)
    for name in state:
        torch.testing.assert_close(moving[name], state[name], atol=1e-15, rtol=1e-12)
        assert not moving[name].requires_grad


@pytest.mark.parametrize("decay", [-0.1, 1.5])
def test_a_decay_out_of_its_range(decay):
    with pytest.raises(ValueError, match=f"lies in .0, 1., not {decay}"):
        update_ema({}, {}, decay)
    with pytest.raises(ValueError, match=f"lies in .0, 1., not {decay}"):
        compatible_momentum({}, {}, {}, decay)
