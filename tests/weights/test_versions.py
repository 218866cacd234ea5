"""Steps of every optimizer are seen, those that torch does not count too."""

from __future__ import annotations

import pytest
import torch

from avalanche_vlm.weights.versions import tensor_versions


class Foreign(torch.optim.Optimizer):
    """Writes where torch's counters do not look, as kernels of other packages do."""

    def __init__(self, params):
        super().__init__(params, {})

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data.sub_(p.grad)


OPTIMIZERS = {
    **{
        f"{kind.__name__} {how}": lambda p, kind=kind, how=how: kind(p, lr=0.1, **{how: True})
        for kind in (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)
        for how in ("fused", "foreach")
    },
    "foreign": Foreign,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_of_any_optimizer_raises_the_counters_of_what_had_a_gradient(name):
    still, moved = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    optimizer = OPTIMIZERS[name]([{"params": [still]}, {"params": [moved]}])
    moved.sum().backward()
    before = tensor_versions([still]), tensor_versions([moved])
    optimizer.step()
    assert (moved != 0).all()
    assert tensor_versions([still]) == before[0] and tensor_versions([moved]) != before[1]


def test_autograd_refuses_a_graph_whose_weights_a_fused_step_has_changed():
    weight = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1, fused=True)
    loss = weight.square().sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
