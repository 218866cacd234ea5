"""Attention that was taken over, when nothing changes it."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from made import tiny as tiny_vlm

from avalanche_vlm.models.modules.key_value import inject_key_values
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import named

KINDS = {
    "lora": partial(inject_lora, rank=2),
    "lora without out": partial(inject_lora, rank=2, parts=("q", "v")),
    "key/values": partial(inject_key_values, length=3),
}


@pytest.fixture(params=KINDS.values(), ids=list(KINDS))
def inject(request):
    return request.param


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_tower_with_nothing_active_is_the_pretrained_one_to_the_last_bit(inject, training, gradients):
    tower = tiny_vlm().train(training).tower("image")
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(gradients):
        before = tower(images)
        pool = ModulePool(named("image", inject(tower)))
        assert torch.equal(tower(images), before)
        pool.add("a")
        for parameter in pool.parameters("a"):
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
        assert not torch.allclose(tower(images), before, atol=1e-3)
        pool.activate(None)
        assert torch.equal(tower(images), before)
        twin = copy.deepcopy(tower)
        assert torch.equal(twin(images), before)


@torch.no_grad()
def test_what_was_merged_counts_with_nothing_active():
    tower = tiny_vlm().eval().tower("image")
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pool = ModulePool(named("image", inject_lora(tower, rank=2)))
    pool.add("a")
    for parameter in pool.parameters("a"):
        parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    active = tower(images)
    pool.merge("a")
    torch.testing.assert_close(tower(images), active, atol=1e-4, rtol=1e-4)
    twin = copy.deepcopy(tower)
    assert torch.equal(twin(images), tower(images))
    # Nothing is there twice: the state has the keys and the storages of a tower without modules.
    assert tower.state_dict().keys() == tiny_vlm().tower("image").state_dict().keys()


def test_the_parameters_are_counted_once():
    model = tiny_vlm()
    before = [name for name, _ in model.named_parameters()]
    inject_key_values(model.tower("image"))
    assert [name for name, _ in model.named_parameters()] == before
