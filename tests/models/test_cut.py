"""A cut tower computes what the whole one does, on towers of every order."""

from __future__ import annotations

import copy

import pytest
import torch
from small_towers import pictures, resnet, sequence_first, transformer

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.cut import TowerCut, default_cut
from avalanche_vlm.weights.average import snapshot

TOWERS = [
    (transformer, "transformer.resblocks.1"),
    (transformer, "transformer.resblocks.0"),
    (transformer, "ln_post"),
    (transformer, "conv1"),
    (sequence_first, "transformer.resblocks.2"),
    (resnet, "layer3"),
    (resnet, "act2"),
    (resnet, "attnpool"),
]


@pytest.fixture(params=TOWERS, ids=[f"{build.__name__}-{layer}" for build, layer in TOWERS])
def tower(request) -> tuple[VLM, str]:
    build, layer = request.param
    return build(), layer


def test_appended_latents_give_the_features_of_their_images(tower):
    model, layer = tower
    model.eval()
    cut = TowerCut(model, layer)
    images = pictures(9)
    before = images.clone()
    latents = cut.capture(images[4:])
    with torch.no_grad():
        whole = model.encode_image(images)
        with cut.appending(latents):
            assert cut.armed
            joint = model.encode_image(images[:4])
        assert not cut.armed
        torch.testing.assert_close(joint, whole, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.encode_image(images[:4]), whole[:4], atol=1e-5, rtol=1e-5)
    assert (whole[0] - whole[5]).abs().max() > 1e-3 and torch.equal(images, before)
    assert len(latents) == 5 and latents.is_contiguous() and not latents.requires_grad


@pytest.mark.slow
def test_what_is_frozen_is_what_the_latents_depend_on_and_the_rest_learns(tower):
    model, layer = tower
    cut = TowerCut(model, layer)
    below = set(cut.freeze_below())
    parameters = dict(model.clip.visual.named_parameters())
    assert {name for name, p in parameters.items() if not p.requires_grad} == below
    images, start = pictures(4), {name: p.detach().clone() for name, p in parameters.items()}
    latents = cut.capture(images)
    # Parameters below change the latents; parameters above do not.
    for name, parameter in parameters.items():
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter))
            changed = not torch.equal(cut.capture(images), latents)
            parameter.copy_(start[name])
        assert changed == (name in below), name
    model.train()
    cut.settle()
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1, weight_decay=0.1)
    with cut.appending(latents):
        model.encode_image(pictures(4)).square()[:, 0].sum().backward()
    optimizer.step()
    assert all(parameters[name].grad is None and torch.equal(parameters[name], start[name]) for name in below)
    moved = {name for name in parameters if not torch.equal(parameters[name], start[name])}
    assert moved == set(parameters) - below and moved
    assert torch.equal(cut.capture(images), latents)


def test_gradients_above_the_cut_are_those_of_the_whole_batch():
    model = transformer()
    whole = copy.deepcopy(model)
    cut = TowerCut(model, "transformer.resblocks.1")
    cut.freeze_below()
    images, weights = pictures(6), torch.randn(6, 24)
    (whole.encode_image(images) * weights).sum().backward()
    with cut.appending(cut.capture(images[2:])):
        (model.encode_image(images[:2]) * weights).sum().backward()
    joint = dict(whole.clip.visual.named_parameters())
    compared = 0
    for name, parameter in model.clip.visual.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, joint[name].grad, atol=1e-5, rtol=1e-4)
            compared += 1
    assert compared > 10


def test_frozen_layers_keep_their_statistics_and_drop_nothing():
    model = resnet().train()
    cut = TowerCut(model, "layer3")
    cut.freeze_below()
    visual = model.clip.visual
    start = {name: b.clone() for name, b in visual.named_buffers()}
    model.train()
    cut.settle()
    model.encode_image(pictures(4))
    moved = {name for name, b in visual.named_buffers() if not torch.equal(b, start[name])}
    assert moved and all(name.startswith(("layer3", "layer4")) for name in moved)
    assert not visual.layer2[0].bn1.training and visual.layer3[0].bn1.training and visual.training
    # Dropped patches would make activations of another length than the stored ones.
    model = transformer(patch_dropout=0.5)
    cut = TowerCut(model, "transformer.resblocks.1")
    cut.freeze_below()
    model.train()
    cut.settle()
    with cut.appending(cut.capture(pictures(2))):
        cut.settle()
        assert model.encode_image(pictures(3)).shape == (5, 24)


def test_a_cut_changes_nothing_by_itself_and_a_frozen_tower_stays_frozen(random_model):
    images = pictures(2)
    state = snapshot(random_model.state_dict())
    grads = {name: p.requires_grad for name, p in random_model.named_parameters()}
    modes = [m.training for m in random_model.modules()]
    generator = torch.random.get_rng_state()
    cut = TowerCut(random_model, default_cut(random_model))
    assert cut.layer == "transformer.resblocks.2" and cut.capture(images).shape == (2, 17, 32)
    assert all(torch.equal(value, state[name]) for name, value in snapshot(random_model.state_dict()).items())
    assert grads == {name: p.requires_grad for name, p in random_model.named_parameters()}
    assert modes == [m.training for m in random_model.modules()]
    assert torch.equal(generator, torch.random.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in random_model.modules())
    random_model.freeze("image")
    cut.freeze_below()
    assert not any(p.requires_grad for _, p in random_model.tower_parameters("image"))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in random_model.modules())


def test_only_one_pass_gets_the_latents_and_a_failed_one_leaves_none_behind(random_model):
    cut = TowerCut(random_model, "transformer.resblocks.1")
    latents = cut.capture(pictures(3))
    with cut.appending(latents):
        assert len(random_model.encode_image(pictures(2))) == 5
        assert len(random_model.encode_image(pictures(2))) == 2
    with pytest.raises(InputError, match="takes images"), cut.appending(latents):
        random_model.encode_image(torch.zeros(2, 3, 16, 16))
    assert len(random_model.encode_image(pictures(2))) == 2
    # Arming again replaces what waited.
    cut.arm(latents)
    cut.arm(latents[:1])
    assert len(random_model.encode_image(pictures(2))) == 3 and not cut.armed
    copied = copy.deepcopy(random_model)
    assert len(copied.encode_image(pictures(2))) == 2


def test_latents_take_the_type_of_the_activations(random_model):
    random_model.eval()
    cut = TowerCut(random_model, "transformer.resblocks.2")
    images = pictures(4)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        whole = random_model.encode_image(images)
        with cut.appending(cut.capture(images[2:]).double()):
            joint = random_model.encode_image(images[:2])
    assert joint.dtype == torch.float32
    torch.testing.assert_close(joint, whole, atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("resblocks.9", "no layer 'resblocks.9'; it has transformer.resblocks.0, transformer.resblocks.1"),
        ("", "no layer ''"),
        ("transformer.resblocks", "before 'transformer.resblocks': it is not called"),
        ("transformer.resblocks.1.attn.out_proj", "it is not called"),
        ("transformer.resblocks.1.mlp", "before 'transformer.resblocks.1.mlp': a path goes around it"),
        ("transformer.resblocks.1.ln_1", "a path goes around it"),
    ],
)
def test_what_is_no_cut_is_refused_by_name(random_model, layer, message):
    with pytest.raises(InputError, match=message):
        TowerCut(random_model, layer)
    assert not any(m._forward_pre_hooks for m in random_model.modules())


def test_towers_that_cannot_be_cut_without_a_name_or_at_all(random_model):
    assert default_cut(transformer()) == "transformer.resblocks.1"
    with pytest.raises(
        InputError, match=r"no residual blocks to cut between: name a layer, such as [a-z0-9, ]+, layer4"
    ):
        default_cut(resnet())
    random_model.clip.visual.set_grad_checkpointing(True)
    with pytest.raises(InputError, match="checkpoints its activations"):
        TowerCut(random_model, "transformer.resblocks.1")
