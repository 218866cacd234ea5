"""What goes with towers in parts, and what is refused before a training: recipes, plugins, optimizers, weights."""

from __future__ import annotations

import pytest
import timm.optim
import torch
from avalanche.training.plugins import LwFPlugin
from mini import mini, shallow
from open_clip.model import CLIP
from sharded_runs import SHARDED
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.probes import InterferenceProbe
from avalanche_vlm.models import from_open_clip, tiny
from avalanche_vlm.training import recipes
from avalanche_vlm.training.plugins import ExemplarReplayPlugin
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.shardable import refuse_unshardable, units_to_shard


@pytest.mark.parametrize("name", recipes.list())
def test_recipes_go_with_it_whose_plugins_say_so(name, tiny_benchmark):
    resources = {n: getattr(tiny_benchmark, n) for n in recipes.get(name).takes}
    if name not in recipes.list(kind="classes") or any(resources[n] is None for n in recipes.get(name).needs):
        pytest.skip("its resources are not there")
    model = shallow()
    plugins = recipes.build(name, model=model, **resources)
    if name in SHARDED:
        refuse_unshardable("it", model, plugins)
        return
    with pytest.raises(InputError, match=r"it does not go with shard: .* does not say that it leaves the towers'"):
        refuse_unshardable("it", model, plugins)


class Silent(ExemplarReplayPlugin, supports_distributed=True):
    """A subclass of one that says so."""


def test_a_plugin_says_it_for_itself():
    assert ExemplarReplayPlugin.supports_sharding
    assert not Silent.supports_sharding
    assert not VLMPlugin.supports_sharding
    with pytest.raises(InputError, match="LwFPlugin does not say"):
        refuse_unshardable("the training", mini(), [LwFPlugin()])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"options": {"compile": True}}, "shard and compile together: torch compiles blocks"),
        ({"options": {"accumulate": True}}, "shard and accumulate together: towers in parts run once"),
        ({"options": {"grad_checkpointing": True}}, "shard and grad_checkpointing together"),
        ({"options": {"fp16": True}}, "shard and fp16 together: .* take bf16"),
        ({"metrics": [InterferenceProbe()]}, "InterferenceProbe reads weights"),
    ],
)
def test_what_would_take_a_part_for_the_whole_is_refused_by_name(given, why):
    with pytest.raises(InputError, match=why):
        refuse_unshardable("the training", mini(), [], **given)


ELEMENTWISE = ["SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Rprop", "ASGD"]


def stepped(name: str, start: torch.Tensor, gradients: list[torch.Tensor], rows: slice) -> torch.Tensor:
    weight = nn.Parameter(start[rows].clone())
    more = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    optimizer = getattr(torch.optim, name)([weight], lr=0.1, **more)
    for gradient in gradients:
        weight.grad = gradient[rows].clone()
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_optimizers_go_with_it_whose_steps_for_rows_are_those_for_the_whole(name):
    torch.manual_seed(0)
    start, *gradients = torch.randn(8, 4, 3).unbind()
    parts = [stepped(name, start, gradients, rows) for rows in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.cat(parts), stepped(name, start, gradients, slice(None)), rtol=0, atol=0)
    refuse_unshardable("the training", mini(), [], getattr(torch.optim, name)([nn.Parameter(torch.ones(2, 2))], lr=0.1))


class Momentum(torch.optim.SGD):
    """Somebody's own."""


class Vouched(Momentum):
    """One who knows."""

    elementwise = True


@pytest.mark.parametrize(
    "kind",
    [
        *(torch.optim.LBFGS, torch.optim.SparseAdam, Momentum),
        *(timm.optim.Lamb, timm.optim.SGDP, timm.optim.AdamP, timm.optim.NvNovoGrad, timm.optim.Lars),
        *([type("Mine", (torch.optim.Muon,), {})] if hasattr(torch.optim, "Muon") else []),
    ],
)
def test_optimizers_that_nobody_vouches_for_are_refused_by_name(kind):
    optimizer = kind([nn.Parameter(torch.ones(2, 2))], lr=0.1)
    with pytest.raises(InputError, match=rf"^the training does not go with shard: {kind.__name__} may .* elementwise"):
        refuse_unshardable("the training", mini(), [], optimizer)


def test_an_optimizer_says_itself_that_it_looks_at_single_numbers():
    refuse_unshardable("the training", mini(), [], Vouched([nn.Parameter(torch.ones(2, 2))], lr=0.1))


def with_weights_of_two_blocks(model) -> None:
    first, *_, last = model.clip.transformer.resblocks
    last.mlp.c_fc.weight = first.mlp.c_fc.weight


def with_weights_of_two_embeddings(model) -> None:
    model.clip.other = nn.Embedding(*model.clip.token_embedding.weight.shape)
    model.clip.other.weight = model.clip.token_embedding.weight


def with_weights_of_an_embedding_and_a_head(model) -> None:
    model.clip.other = nn.Linear(2, 2, bias=False)
    model.clip.other.weight = model.clip.token_embedding.weight


def with_one_block_twice(model) -> None:
    blocks = model.clip.transformer.resblocks
    blocks[1] = blocks[0]


@pytest.mark.parametrize(
    ("tie", "names"),
    [
        (
            with_weights_of_two_blocks,
            "clip.transformer.resblocks.0.mlp.c_fc.weight and clip.transformer.resblocks.1.mlp",
        ),
        (with_weights_of_two_embeddings, "clip.token_embedding.weight and clip.other.weight are one weight"),
        (with_weights_of_an_embedding_and_a_head, "clip.token_embedding.weight and clip.other.weight are one weight"),
        (with_one_block_twice, r"clip.transformer.resblocks.0.\S+ and clip.transformer.resblocks.1.\S+ are one weight"),
    ],
)
def test_a_weight_at_two_places_that_are_not_whole_together_is_refused_by_name(tie, names):
    model = shallow()
    tie(model)
    with pytest.raises(InputError, match=names):
        refuse_unshardable("the training", model, [])


def test_a_weight_at_two_places_of_one_block_is_no_matter():
    model = shallow()
    block = model.clip.transformer.resblocks[0]
    block.ln_2.weight = block.ln_1.weight
    refuse_unshardable("the training", model, [])


def test_towers_without_blocks_are_refused():
    tokenizer = tiny.build_tokenizer()
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    text = {"width": 32, "heads": 2, "layers": 1, "context_length": tokenizer.context_length}
    clip = CLIP(32, vision, {**text, "vocab_size": tokenizer.vocab_size})
    model = from_open_clip(clip, tokenizer, image_size=32, mean=tiny.MEAN, std=tiny.STD, name="odd")
    assert len(units_to_shard(model)) > 1  # the text tower has one
    del model.clip.transformer.resblocks
    with pytest.raises(InputError, match="odd has no blocks of a transformer that could be spread"):
        units_to_shard(model)
