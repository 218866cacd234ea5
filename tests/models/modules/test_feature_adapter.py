"""The adapter on image features and its place in the image path."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.feature_adapter import AdapterPath, FeatureAdapter

FORMS = (None, 3)


def trained(width: int, bottleneck: int | None) -> FeatureAdapter:
    """An adapter that is no longer the identity."""
    adapter = FeatureAdapter(width, bottleneck=bottleneck)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return adapter


@pytest.mark.parametrize("bottleneck", FORMS)
def test_a_new_adapter_is_the_identity_and_learns_from_its_first_step(bottleneck):
    adapter, x = FeatureAdapter(8, bottleneck=bottleneck), torch.randn(5, 8)
    assert torch.equal(adapter(x), x)
    adapter(x).square().sum().backward()
    assert adapter.up.weight.grad.abs().max() > 0


@pytest.mark.parametrize("bottleneck", FORMS)
@torch.no_grad()
def test_the_adapter_adds_what_its_matrices_say(bottleneck):
    adapter, x = trained(8, bottleneck), torch.randn(5, 8)
    for row, out in zip(x.double(), adapter(x).double(), strict=True):
        inner = row if bottleneck is None else (adapter.down.weight.double() @ row).clamp(min=0)
        torch.testing.assert_close(out, row + adapter.up.weight.double() @ inner, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("bottleneck", "expected"), [(None, 8 * 8), (3, 2 * 8 * 3)])
def test_the_adapter_has_no_more_parameters_than_its_matrices(bottleneck, expected):
    assert sum(p.numel() for p in FeatureAdapter(8, bottleneck=bottleneck).parameters()) == expected


@torch.no_grad()
def test_the_path_adapts_features_of_unit_length():
    path, x = AdapterPath(trained(8, None)), torch.randn(5, 8)
    unit = F.normalize(x, dim=-1)
    adapted = path(lambda images: images, x)
    torch.testing.assert_close(adapted, path.adapt(unit) * x.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(7 * adapted, path(lambda images: 7 * images, x))
    assert (path.adapt(unit).norm(dim=-1) - 1).abs().min() > 1e-3


def test_a_path_that_has_learned_nothing_leaves_features_bit_for_bit():
    x = torch.randn(50, 8)
    for bottleneck in (None, 3):
        assert torch.equal(AdapterPath(FeatureAdapter(8, bottleneck=bottleneck))(lambda images: images, x), x)


@pytest.mark.parametrize(("width", "bottleneck", "culprit"), [(0, None, "width"), (8, 0, "bottleneck")])
def test_an_adapter_of_no_width(width, bottleneck, culprit):
    with pytest.raises(InputError, match=f"the {culprit} of a feature adapter is a whole number of 1 or more, not 0"):
        FeatureAdapter(width, bottleneck=bottleneck)
