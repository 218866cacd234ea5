"""Low-rank changes that end in the weights, and the recipes made of them."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from avalanche.training.supervised import Naive
from made import tiny as tiny_vlm
from recording import Recorder
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.features import contrastive_knowledge_consolidation
from avalanche_vlm.memory import stored_bytes
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.lora import LoRAAttention, LoRALayer
from avalanche_vlm.models.modules.tail import TailLowRank
from avalanche_vlm.training import VLMNaive, criterion_for, recipes
from avalanche_vlm.training.plugins import DistillationPlugin
from avalanche_vlm.training.plugins.merged_lora import MergedLowRankPlugin
from avalanche_vlm.training.recipes.regularization import subspaces
from avalanche_vlm.training.reference import CurrentBatch
from avalanche_vlm.training.teachers import InitialTeacher
from avalanche_vlm.weights.average import snapshot

KINDS = ("classes", "pairs")


def strategy_for(model, plugins, kind="classes", base=Naive, lr=1e-3) -> Naive:
    return base(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1),
        criterion=criterion_for(kind, model),
        train_mb_size=32,
        plugins=plugins,
    )


@pytest.fixture
def stream(tiny_benchmark, tiny_pairs):
    return {"classes": tiny_benchmark.train_stream, "pairs": tiny_pairs.train_stream}


def features(model: VLM, experience) -> torch.Tensor:
    pictures = torch.stack([experience.dataset[i][0] for i in range(4)])
    texts = model.tokenize(["a red star", "a blue circle"])
    with model.evaluating():
        return torch.cat([model.encode_image_plain(pictures), model.encode_text(texts)])


def weights(layers: list[LoRALayer]) -> list[torch.Tensor]:
    """The adapted weights, q, k and v apart."""
    return [w.detach().clone() for layer in layers for w in layer.weights().values()]


def deltas(layers: list[LoRALayer]) -> list[torch.Tensor]:
    """The scaled changes that their active modules stand for, in the order of the weights."""
    return [m.delta(layer.weights()[part]) for layer in layers for part, m in layer.bank[layer.active].items()]


def at_the_end(function) -> Recorder:
    """What is there when training has ended and nothing is merged yet."""
    return Recorder("after_training_epoch", function)


@pytest.mark.parametrize("init", ["lora", "tail", "residual"])
def test_the_merged_model_says_what_the_unmerged_one_said(stream, init):
    model = tiny_vlm()
    experience = stream["classes"][0]
    start = features(model, experience)
    plugin = MergedLowRankPlugin(model, rank=4, alpha=8.0, init=init, tail_energy=1.0)
    unmerged = at_the_end(lambda s: features(s.model, experience))
    strategy_for(model, [plugin, unmerged]).train(experience)
    assert (unmerged.values[0] - start).abs().max() > 1e-4
    torch.testing.assert_close(features(model, experience), unmerged.values[0], atol=1e-5, rtol=0)


def test_half_of_a_change_is_merged(stream):
    model = tiny_vlm()
    plugin = MergedLowRankPlugin(model, rank=4, merge=0.5)
    changes = at_the_end(lambda s: [d.detach() for d in deltas(plugin.layers)])
    strategy = strategy_for(model, [plugin, changes])
    for task in range(2):
        before = weights(plugin.layers)
        strategy.train(stream["classes"][task])
        for old, new, change in zip(before, weights(plugin.layers), changes.values[task], strict=True):
            assert change.abs().max() > 1e-4
            torch.testing.assert_close(new, old + 0.5 * change, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("base", [Naive, VLMNaive])
@pytest.mark.parametrize(("init", "towers"), [("lora", ("image", "text")), ("tail", ("image",)), ("tail", ("text",))])
def test_nothing_else_trains_and_nothing_is_left(stream, base, init, towers):
    model = tiny_vlm("random")
    keys, start = list(model.state_dict()), snapshot(model.state_dict())
    parameters = [name for name, _ in model.named_parameters()]
    plugin = MergedLowRankPlugin(model, towers=towers, rank=4, init=init)
    trained = Recorder("before_update", lambda s: {n for n, p in s.model.named_parameters() if p.grad is not None})
    in_optimizer = Recorder(
        "before_training_epoch", lambda s: [id(p) for group in s.optimizer.param_groups for p in group["params"]]
    )
    held = Recorder("before_training_epoch", lambda s: {n: id(p) for n, p in s.model.trainable_parameters().items()})
    strategy = strategy_for(model, [plugin, trained, in_optimizer, held], base=base)
    for task in (0, 1, 0):
        strategy.train(stream["classes"][task])
        assert list(model.state_dict()) == keys and [n for n, _ in model.named_parameters()] == parameters
        assert not model.trainable_parameters() and plugin.stored().total == 0
    # Every task's own parameters reach the optimizer, and it does not grow with the tasks.
    for optimized, own in zip(in_optimizer.values, held.values, strict=True):
        assert set(own.values()) <= set(optimized) and len(optimized) == len(set(optimized))
    assert len({len(optimized) for optimized in in_optimizer.values}) == 1
    assert all(".bank.task." in name for names in trained.values for name in names)
    assert set().union(*trained.values) == set(held.values[0])
    adapted = re.compile(r"resblocks\.\d+\.(attn\.in_proj_weight|attn\.out_proj\.weight|mlp\.c_(fc|proj)\.weight)$")
    for name, value in snapshot(model.state_dict()).items():
        inside = adapted.search(name) and ("image" if "visual." in name else "text") in towers
        assert torch.equal(value, start[name]) != bool(inside), name


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_nusa_keeps_every_head_through_adamw_and_decay(stream, share):
    model = tiny_vlm()
    plugin = recipes.build("nusa", model=model, tail_energy=share)[0]
    ranks = Recorder("before_training_exp", lambda s: [m.V.shape[1] for m in tails(plugin)])
    strategy = strategy_for(model, [plugin, ranks], lr=1e-2)
    assert len(plugin.layers) == 2 * 7  # attention and its output in 4 + 3 blocks, and no MLP
    for task in range(2):
        before = weights(plugin.layers)
        strategy.train(stream["classes"][task])
        for old, new, rank in zip(before, weights(plugin.layers), ranks.values[task], strict=True):
            u, s, v = torch.linalg.svd(old)
            head = len(s) - rank
            assert 0 < head < len(s) and s[head:].square().sum() <= (share + 1e-4) * s.square().sum()
            change = new - old
            assert change.abs().max() > 1e-3
            assert (u[:, :head].T @ change).abs().max() < 1e-5
            assert (change @ v[:head].T).abs().max() < 1e-5
            # Singular values of the head are among those of the merged weight.
            after = torch.linalg.svdvals(new)
            assert (after[None, :] - s[:head, None]).abs().amin(1).max() < 1e-4
    assert all(layer.make.keywords["rank"] == 128 for layer in plugin.layers)


def test_nusas_first_step_is_the_rate_times_two_over_the_root_of_the_rank(stream):
    """AdamW's first step moves every entry of M by the rate, whatever the gradient; with rank 128 as published a weight
    moves 5.66 times less far than M itself."""
    model = tiny_vlm()
    plugin = recipes.build("nusa", model=model)[0]
    steps = Recorder(
        "after_update",
        lambda s: ([m.M.detach().clone() for m in tails(plugin)], [d.detach() for d in deltas(plugin.layers)]),
    )
    strategy_for(model, [plugin, steps]).train(stream["classes"][0])
    for m, change in zip(*steps.values[0], strict=True):
        assert m.abs().max() == pytest.approx(1e-3, rel=1e-3)
        assert change.norm() == pytest.approx(2 / len(m) ** 0.5 * m.norm().item(), rel=1e-4)
    wide = TailLowRank(torch.diag(torch.linspace(1, 0.01, 512)), rank=128, tail_energy=0.05, alpha=2.0)
    assert len(wide.M) == 128 and 1 / wide.scale == pytest.approx(5.657, abs=1e-3)


def test_nusa_leaves_out_layers_without_null_directions(stream):
    model = tiny_vlm()
    layers = [
        model.clip.visual.transformer.resblocks[0].attn.out_proj,
        model.clip.transformer.resblocks[1].attn.out_proj,
    ]
    for layer in layers:
        torch.nn.init.orthogonal_(layer.weight)  # all directions hold the same share
    start = [layer.weight.detach().clone() for layer in layers]
    plugin = recipes.build("nusa", model=model, tail_energy=0.005)[0]
    strategy_for(model, [plugin], base=VLMNaive).train(stream["classes"][0])
    now = [model.clip.visual.transformer.resblocks[0].attn.out_proj, model.clip.transformer.resblocks[1].attn.out_proj]
    assert all(torch.equal(old, layer.weight) for old, layer in zip(start, now, strict=True))
    flat = tiny_vlm("random")
    for layer in (m for m in flat.modules() if isinstance(m, nn.MultiheadAttention)):
        for part in (*layer.in_proj_weight.data.chunk(3), layer.out_proj.weight.data):
            torch.nn.init.orthogonal_(part)
    plugins = recipes.build("nusa", model=flat, tail_energy=0.005)
    with pytest.raises(InputError, match="no direction is left for its change, so raise tail_energy"):
        strategy_for(flat, plugins).train(stream["classes"][0])


def tails(plugin: MergedLowRankPlugin) -> list[nn.Module]:
    return [m for layer in plugin.layers for m in layer.bank["task"].values()]


def test_every_task_has_the_tail_of_the_merged_weight(stream):
    model = tiny_vlm("random")
    plugin = MergedLowRankPlugin(model, rank=8, init="tail", tail_energy=1.0)

    def largest_part_in_the_head(_):
        found = []
        for weight, tail in zip(weights(plugin.layers), tails(plugin), strict=True):
            u, _, v = torch.linalg.svd(weight)
            head = min(weight.shape) - 8
            found += [(u[:, :head].T @ tail.U).abs().max(), (v[:head] @ tail.V).abs().max()]
        return max(found)

    parts = Recorder("before_training_exp", largest_part_in_the_head)
    strategy = strategy_for(model, [plugin, parts], lr=1e-2)
    for experience in stream["classes"]:
        strategy.train(experience)
    assert max(parts.values) < 1e-4


def test_residual_holds_what_is_read_and_not_what_is_written(stream):
    model = tiny_vlm()
    plugin = MergedLowRankPlugin(model, rank=8, init="residual", tail_energy=1.0)
    before = weights(plugin.layers)
    strategy_for(model, [plugin]).train(stream["classes"][0])
    written = []
    for old, new in zip(before, weights(plugin.layers), strict=True):
        u, s, v = torch.linalg.svd(old, full_matrices=False)
        assert ((new - old) @ v[: len(s) - 8].T).abs().max() < 1e-5
        written.append((u[:, : len(s) - 8].T @ (new - old)).abs().max())
    assert min(written) > 1e-4


def test_an_initial_teacher_of_frozen_weights_does_not_move_with_the_merges(stream):
    model = tiny_vlm()
    experience = stream["classes"][0]
    start = features(model, experience)
    merged = MergedLowRankPlugin(model, rank=4)
    teacher = InitialTeacher()  # made after the towers were frozen: it shares their weights
    distilled = DistillationPlugin(
        model, lambda c: (c.student.images - c.teacher.images).sum(), CurrentBatch(), teacher
    )
    strategy = strategy_for(model, [merged, distilled], lr=1e-2)
    for experience_ in stream["classes"]:
        strategy.train(experience_)
    pictures = torch.stack([experience.dataset[i][0] for i in range(4)])
    torch.testing.assert_close(teacher._copy.encode_image(pictures), start[:4], atol=1e-6, rtol=0)
    assert (features(model, experience) - start).abs().max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("base", [Naive, VLMNaive])
@pytest.mark.parametrize("kind", KINDS)
def test_c_clip_trains_lora_and_its_projector_and_leaves_neither(stream, kind, base):
    model = tiny_vlm()
    keys = list(model.state_dict())
    plugins = recipes.build("c-clip", model=model)
    trained = Recorder("before_update", lambda s: {n for n, p in s.model.named_parameters() if p.grad is not None})
    projectors = at_the_end(lambda s: s.model.auxiliary["projector"].weight.detach().clone())
    fresh = Recorder("before_training_exp", lambda s: s.model.auxiliary["projector"].weight.detach().clone())
    copies = Recorder("before_training_epoch", lambda s: len(plugins[2].teachers[0]._copy._model.auxiliary))
    held = Recorder("before_training_epoch", lambda s: set(s.model.trainable_parameters()))
    optimized = Recorder("before_training_epoch", lambda s: sum(len(g["params"]) for g in s.optimizer.param_groups))
    watchers = [trained, projectors, fresh, copies, held, optimized]
    strategy = strategy_for(model, [*watchers, *plugins], kind, base)
    for task in (0, 1, 0):
        strategy.train(stream[kind][task])
        assert list(model.state_dict()) == keys and stored_bytes(plugins).total == 0
    names = set().union(*trained.values)
    assert names == held.values[0] and {n for n in names if ".bank.task." not in n} == {
        "auxiliary.projector.weight",
        "auxiliary.projector.bias",
    }
    assert all(re.search(r"(attn\.out_proj|mlp\.c_fc|mlp\.c_proj)\.bank\.", n) for n in names if "projector" not in n)
    assert all(torch.equal(p, torch.eye(len(p))) for p in fresh.values)  # in every task anew
    assert all(not torch.equal(p, torch.eye(len(p))) for p in projectors.values)
    assert not any(copies.values)  # no teacher has one
    assert len(set(optimized.values)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_c_clips_loss_is_the_consolidation_of_projected_features(stream, kind):
    model = tiny_vlm()
    previous = copy.deepcopy(model)
    plugins = recipes.build("c-clip", model=model, weight=3.0, temperature=0.2)
    seen = []

    def expect(strategy):
        x, y = strategy.mb_x, strategy.mb_y
        sides = []
        with torch.no_grad():
            for side in (strategy.model, previous):
                if kind == "pairs":
                    sides += [side.encode_image(x.image), side.encode_text(x.tokens)]
                else:
                    prompts = strategy.model.prompts(y.unique())
                    texts = prompts.encode(side.encode_text)
                    sides += [side.encode_image(x), texts[torch.searchsorted(y.unique(), y)]]
            projector = strategy.model.auxiliary["projector"]
            expected = 3.0 * contrastive_knowledge_consolidation(
                projector(sides[0]), projector(sides[1]), *sides[2:], 0.2
            )
        seen.append((strategy.loss.item(), expected.item()))

    before = Recorder("before_backward", expect)
    after = Recorder("before_backward", lambda s: s.loss.item())
    strategy = strategy_for(model, [before, *plugins, after], kind)
    # The first task is compared with the pretrained model, the second with what the first one left.
    for experience in stream[kind]:
        seen.clear(), after.values.clear()
        strategy.train(experience)
        for (task_loss, expected), total in zip(seen, after.values, strict=True):
            assert total - task_loss == pytest.approx(expected, abs=2e-4) and expected > 0.1
        previous = copy.deepcopy(model)


def test_the_published_layers_of_c_clip_have_its_published_size():
    """Table 6 of the paper, ViT-B/16: 27.6, 29.1, 32.0 and 37.9 million parameters at ranks 8, 16, 32 and 64."""

    def per_rank(width):
        return (width + width) + 2 * (width + 4 * width)

    slope = 12 * (per_rank(768) + per_rank(512))
    embeddings = 27.6e6 - 8 * slope
    assert [round((embeddings + r * slope) / 1e6, 1) for r in (16, 32, 64)] == [29.1, 32.0, 37.9]
    model = tiny_vlm("random")
    plugin = recipes.build("c-clip", model=model)[0]
    for layer in plugin.layers:
        layer.add("task")
    width = model.clip.visual.conv1.out_channels
    # Towers of 4 and 3 blocks, of one width.
    assert plugin.stored().ram == 4 * 16 * 7 * per_rank(width)
    assert all(not layer.parts for layer in plugin.layers if isinstance(layer, LoRAAttention))


def test_what_cannot_be_merged_is_named(random_model):
    for options, message in (
        ({"towers": ("image", "scale")}, "the towers image and text, not image, scale"),
        ({"towers": ()}, "the towers image and text, not none"),
        ({"merge": 0.0}, r"lies in \(0, 1\], not 0.0"),
        ({"init": "head"}, "starts as lora, tail, residual, not 'head'"),
        ({"init": "tail", "tail_energy": 0.0}, r"energy lies in \(0, 1\], not 0.0"),
        ({"parts": ("q", "o")}, "parts of attention are q, k, v, out, not 'o'"),
    ):
        with pytest.raises(InputError, match=message):
            MergedLowRankPlugin(random_model, **options)
    with pytest.raises(InputError, match="parts of attention are q, k, v, out, not 'in'"):
        recipes.build("c-clip", model=random_model, attention="in")
    assert subspaces.nusa.__doc__ and recipes.get("nusa").family == "CREG"
