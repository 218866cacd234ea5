"""Batches in parts: the gradient of the whole batch, by another way."""

from __future__ import annotations

import pytest
import torch
from mini import mini
from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.contrastive import multi_positive_contrastive
from avalanche_vlm.models.parts import in_parts
from avalanche_vlm.models.sparing import encoding_in, keeping_no_activations, refuse_unsparing


class Live:
    """Numbers that autograd keeps for the backward pass, at most at one time."""

    def __init__(self):
        self.now = self.most = 0

    def __enter__(self):
        class Kept:
            def __init__(self, live, tensor):
                self.live, self.tensor = live, tensor
                live.now += tensor.numel()
                live.most = max(live.most, live.now)

            def __del__(self):
                self.live.now -= self.tensor.numel()

        self.hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: Kept(self, x), lambda kept: kept.tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)


def towers(width=32):
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, 4)) for _ in range(2)]


def gradients(pairs, parts, width=32):
    """Loss and gradients of a contrastive loss over all pairs, and what was kept for them at most."""
    images, texts = towers(width)
    torch.manual_seed(1)
    x, tokens = torch.randn(pairs, 8), torch.randn(pairs, 8)
    with Live() as live:
        features = [nn.functional.normalize(in_parts(of, x, parts), dim=1) for of, x in ((images, x), (texts, tokens))]
        loss = multi_positive_contrastive(10 * features[0] @ features[1].T, torch.arange(pairs))
        loss.backward()
    return float(loss), [p.grad for tower in (images, texts) for p in tower.parameters()], live.most


@pytest.mark.parametrize("parts", [2, 3, 16, 40])
def test_a_loss_over_all_pairs_has_the_gradient_of_the_whole_batch(parts):
    torch.use_deterministic_algorithms(True)
    try:
        images, texts = (tower.eval() for tower in towers())
        x, tokens = torch.randn(16, 8), torch.randn(16, 8)
        found = []
        for n in (1, parts):
            features = [nn.functional.normalize(in_parts(of, x, n), dim=1) for of, x in ((images, x), (texts, tokens))]
            loss = multi_positive_contrastive(10 * features[0] @ features[1].T, torch.arange(16))
            weights = [*images.parameters(), *texts.parameters()]
            found.append([loss.detach(), *torch.autograd.grad(loss, weights)])
    finally:
        torch.use_deterministic_algorithms(False)
    for whole, in_many in zip(*found, strict=True):
        torch.testing.assert_close(in_many, whole, rtol=1e-6, atol=1e-6)


def test_small_batches_of_their_own_have_another_gradient():
    """What the parts are compared with tells: a mean of losses over parts is not the loss over all."""
    images, texts = (tower.eval() for tower in towers())
    x, tokens = torch.randn(16, 8), torch.randn(16, 8)

    def loss(x, tokens):
        features = [nn.functional.normalize(tower(of), dim=1) for tower, of in ((images, x), (texts, tokens))]
        return multi_positive_contrastive(10 * features[0] @ features[1].T, torch.arange(len(x)))

    parts = torch.stack([loss(*part) for part in zip(x.chunk(4), tokens.chunk(4), strict=True)]).mean()
    weight = images[0].weight
    one, other = (torch.autograd.grad(of, weight)[0] for of in (loss(x, tokens), parts))
    assert float((one - other).abs().max() / one.abs().max()) > 0.05


def test_what_is_kept_does_not_grow_with_the_number_of_parts():
    """By the activations: features, inputs and the matrix of similarities are of the whole batch in any case."""
    whole = {n: gradients(8 * n, 1, 4096)[2] for n in (1, 2, 4)}
    many = {n: gradients(8 * n, n, 4096)[2] for n in (2, 4)}
    assert whole[4] > 3 * whole[1]
    assert many[2] < 1.1 * whole[1] and many[4] < 1.1 * whole[1]


def test_what_is_dropped_is_the_same_forward_and_backward():
    (tower, _), x = towers(), torch.randn(6, 8)
    torch.manual_seed(3)
    parts = in_parts(tower, x, 3)
    (found,) = torch.autograd.grad(parts.sum(), tower[0].weight)
    torch.manual_seed(3)
    (expected,) = torch.autograd.grad(torch.cat([tower(part) for part in x.chunk(3)]).sum(), tower[0].weight)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("parts", "recomputed", "why"), [(2, False, "a batch in parts"), (1, True, "to run its blocks")]
)
def test_towers_that_normalise_by_the_batch_are_refused_while_they_train(parts, recomputed, why):
    model = mini()
    model.clip.visual.ln_post = nn.BatchNorm1d(model.clip.visual.ln_post.normalized_shape[0])
    sparing = encoding_in(model, parts) if parts > 1 else keeping_no_activations(model, recomputed)
    with pytest.raises(InputError, match=f"^the image tower of .* normalises by the batch .*, so that {why}"), sparing:
        pass
    model.eval()  # which the training ends
    with pytest.raises(InputError, match=why):
        refuse_unsparing(model, parts, recomputed)
    refuse_unsparing(model, 1, False)
    refuse_unsparing(model.freeze("image"), parts, recomputed)  # in eval mode for good


def test_towers_without_blocks_that_could_run_again_are_refused():
    model = mini()
    model.clip.visual = ModifiedResNet((1, 1, 1, 1), 8, 1, 32, 8)
    model.freeze("image")
    with pytest.raises(InputError, match="has no blocks that could run once more"):
        refuse_unsparing(model, 1, True)
