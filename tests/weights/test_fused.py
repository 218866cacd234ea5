"""Fused steps: where they can be, that they are those of the plain loop, and that nobody misses them."""

from __future__ import annotations

import pytest
import torch
from mini import mini

from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.weights.fused import can_be_fused


@pytest.mark.parametrize(
    ("weights", "can"),
    [
        ([], True),
        ([torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)], True),
        ([torch.zeros(2), torch.zeros(2, dtype=torch.cfloat)], False),
        ([torch.zeros(2, device="meta")], False),
    ],
)
def test_where_steps_can_be_fused(weights, can):
    assert can_be_fused(weights) == can


def test_a_fused_step_is_the_plain_one_and_prompts_are_encoded_again_after_it():
    space = LabelSpace.from_names(["star", "heart"])
    models = [mini().set_label_space(space) for _ in range(2)]
    images = torch.randn(4, 3, 32, 32)
    before, after = [], []
    for model, fused in zip(models, (True, None), strict=True):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
        with model.evaluating():
            before.append(model.prompt_features(torch.arange(2)))
        for _ in range(3):
            optimizer.zero_grad()
            model(images)[:, 0].sum().backward()
            optimizer.step()
            with model.evaluating():
                model.prompt_features(torch.arange(2))  # what is kept is another one after every step
        with model.evaluating():
            after.append(model.prompt_features(torch.arange(2)))
    assert (after[0] - before[0]).abs().max() > 1e-2
    torch.testing.assert_close(after[0], after[1], atol=1e-4, rtol=0)
