"""Attention over one image and shared tokens, against attention over whole sequences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.heads.trained import CrossModalFusion


@torch.no_grad()
def test_it_is_self_attention_over_every_images_own_sequence():
    fusion = CrossModalFusion(16).double()
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    images, tokens = torch.randn(5, 16).double(), torch.randn(7, 16).double()
    fused, versions = fusion(images, tokens, 4)
    for image, of_image, of_tokens in zip(images, fused, versions, strict=True):
        x = torch.cat([image[None], tokens])[None]
        y = F.scaled_dot_product_attention(fusion.query(x), fusion.key(x), fusion.value(x))
        y = fusion.norm(x + fusion.out(y))[0]
        torch.testing.assert_close(of_image, y[0])
        torch.testing.assert_close(of_tokens, y[1:5])


@torch.no_grad()
def test_a_new_one_normalises_and_learns_from_its_first_step():
    fusion, images, tokens = CrossModalFusion(16), torch.randn(3, 16), torch.randn(4, 16)
    fused, versions = fusion(images, tokens, 4)
    torch.testing.assert_close(fused, F.layer_norm(images, (16,)))
    torch.testing.assert_close(versions, F.layer_norm(tokens, (16,)).expand(3, -1, -1))
    with torch.enable_grad():
        fusion(images, tokens, 4)[1].square().mul(torch.randn(16)).sum().backward()
    assert fusion.out.weight.grad.abs().max() > 0


def test_a_width_of_nothing_is_refused():
    with pytest.raises(InputError, match="the width of a fusion is a whole number of 1 or more, not 0"):
        CrossModalFusion(0)
