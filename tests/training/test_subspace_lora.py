"""KeepLoRA: what is protected, what is left to learn in, and that nothing else moves."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from avalanche.training.supervised import Naive
from made import tiny as tiny_vlm
from recording import Recorder

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import stored_bytes
from avalanche_vlm.models.modules.lora import LoRAAttention
from avalanche_vlm.models.modules.low_rank import SubspaceLowRank
from avalanche_vlm.training import VLMNaive, criterion_for, recipes
from avalanche_vlm.training.plugins.subspace_lora import SubspaceLoRAPlugin
from avalanche_vlm.weights.subspaces import grow_basis, steepest_directions

KINDS = ("classes", "pairs")


@pytest.fixture
def stream(tiny_benchmark, tiny_pairs):
    return {"classes": tiny_benchmark.train_stream, "pairs": tiny_pairs.train_stream}


def strategy_for(model, plugins, kind="classes", base=Naive, **settings):
    return base(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01),
        criterion=criterion_for(kind, model),
        train_mb_size=32,
        plugins=plugins,
        **settings,
    )


def weights(plugin) -> dict:
    """Of all adapted layers, as they are."""
    return {weight.name: weight.value.detach().clone() for weight in plugin._weights()}


def test_a_basis_grows_by_the_fewest_directions_that_hold_the_share():
    samples = torch.randn(200, 6, dtype=torch.float64) * torch.tensor([9.0, 5.0, 3.0, 2.0, 1.0, 0.5])
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    samples = samples @ rotation
    basis = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64)).Q
    covariance = samples.T @ samples
    for share in (0.0, 0.3, 0.8, 0.95, 0.999, 1.0):
        more = grow_basis(basis, covariance, share)
        k = more.shape[1]
        torch.testing.assert_close(more.T @ more, torch.eye(k, dtype=torch.float64), atol=1e-12, rtol=0)
        assert (basis - more @ (more.T @ basis)).abs().max() < 1e-12  # what was protected still is
        held = (samples @ more).square().sum() / samples.square().sum()
        assert held >= share - 1e-9
        # By hand: singular vectors of what the basis leaves of the samples, one by one until there is enough.
        _, s, v = torch.linalg.svd(samples - samples @ basis @ basis.T)
        have, count = (samples @ basis).square().sum(), 0
        while have < share * samples.square().sum() * (1 - 1e-12):
            have, count = have + s[count] ** 2, count + 1
        assert k == 2 + count
        projector = basis @ basis.T + v[:count].T @ v[:count]
        torch.testing.assert_close(more @ more.T, projector, atol=1e-10, rtol=0)


def test_directions_are_the_first_of_the_projected_gradient_and_no_others():
    gradient, basis = torch.randn(7, 5), torch.linalg.qr(torch.randn(5, 2)).Q
    found = steepest_directions(gradient, basis, 2)
    v = torch.linalg.svd(gradient.double() @ (torch.eye(5) - basis @ basis.T).double()).Vh[:2].float()
    torch.testing.assert_close(found.T @ found, v.T @ v, atol=1e-5, rtol=0)
    # Three inputs are free, whatever the rank; a gradient of rank one has one direction; none, if all is protected.
    assert steepest_directions(gradient, basis, 5).shape == (3, 5)
    assert (steepest_directions(gradient, basis, 5) @ basis).abs().max() < 1e-6
    assert steepest_directions(torch.outer(torch.randn(7), torch.randn(5)), basis, 3).shape == (1, 5)
    assert steepest_directions(gradient, torch.eye(5), 3).shape == (0, 5)
    assert steepest_directions(torch.zeros(7, 5), basis, 3).shape == (0, 5)


def test_training_b_from_zero_is_training_the_papers_reparametrised_weight():
    """Their ``W - s B0 A + s B A`` with ``B`` from ``B0``, under AdamW without decay: proposition 3.1 and our start."""
    weight, target = torch.randn(5, 4, dtype=torch.float64), torch.randn(30, 5, dtype=torch.float64)
    x, a = torch.randn(30, 4, dtype=torch.float64), torch.linalg.qr(torch.randn(4, 2, dtype=torch.float64)).Q.T
    start = torch.randn(5, 2, dtype=torch.float64)
    ours = SubspaceLowRank(weight, rank=2, alpha=1.0).double()
    ours.read(a)
    theirs = start.clone().requires_grad_()
    optimizers = [torch.optim.AdamW([p], lr=0.1, weight_decay=0.0) for p in (ours.B, theirs)]
    for _ in range(20):
        first = F.mse_loss(x @ weight.T + ours(x, weight), target)
        second = F.mse_loss(x @ (weight - 0.5 * start @ a + 0.5 * theirs @ a).T, target)
        torch.testing.assert_close(first, second, atol=1e-9, rtol=0)
        for loss, optimizer in zip((first, second), optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.testing.assert_close(ours.delta(weight), 0.5 * (theirs - start) @ a, atol=1e-9, rtol=0)
    assert ours.delta(weight).abs().max() > 0.1
    # One step of gradient descent is one projected onto the span of A.
    fresh = SubspaceLowRank(weight, rank=2, alpha=2.0).double()
    fresh.read(a)
    F.mse_loss(x @ weight.T + fresh(x, weight), target).backward()
    full = weight.clone().requires_grad_()
    F.mse_loss(x @ full.T, target).backward()
    torch.testing.assert_close(fresh.B.grad @ a, full.grad @ a.T @ a, atol=1e-12, rtol=0)


def test_the_first_bases_hold_the_share_of_the_pretrained_weights():
    model = tiny_vlm()
    plugin = SubspaceLoRAPlugin(model, weight_energy={"image": 0.85, "text": 0.2})
    assert len(plugin.bases) == 4 * 7  # q, k, v, out in 4 + 3 blocks
    for where, weight in weights(plugin).items():
        basis, share = plugin.bases[where], 0.85 if where.startswith("image.") else 0.2
        total = weight.square().sum()
        assert (weight @ basis).square().sum() >= share * total * (1 - 1e-5)
        assert (weight @ basis[:, :-1]).square().sum() < share * total
        # Input directions: right singular vectors of torch's [out, in].
        v = torch.linalg.svd(weight).Vh[: basis.shape[1]].T
        torch.testing.assert_close(basis @ basis.T, v @ v.T, atol=2e-3, rtol=0)
    wide = SubspaceLoRAPlugin(tiny_vlm(), weight_energy=0.0)
    assert all(basis.shape[1] == 0 for basis in wide.bases.values())


@pytest.mark.slow
@pytest.mark.parametrize("base", [Naive, VLMNaive])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_task_changes_reads_nothing_that_is_protected(stream, kind, base):
    model = tiny_vlm()
    plugin = SubspaceLoRAPlugin(model, rank=4, alpha=4.0, weight_energy={"image": 0.6, "text": 0.2}, feature_energy=0.9)
    keys = list(model.state_dict())
    trained = Recorder("before_update", lambda s: {n for n, p in s.model.named_parameters() if p.grad is not None})
    strategy = strategy_for(model, [plugin, trained], kind, base)
    rest = {n: p.detach().clone() for n, p in model.named_parameters() if ".attn." not in n}
    seen = []
    for experience in stream[kind]:
        before, protected = weights(plugin), {name: basis.clone() for name, basis in plugin.bases.items()}
        strategy.train(experience)
        for name, weight in weights(plugin).items():
            change = weight - before[name]
            assert change.abs().max() > 1e-5, name
            assert (change @ protected[name]).abs().max() < 1e-5 * max(1.0, weight.abs().max()), name
            assert torch.linalg.matrix_rank(change.double(), atol=1e-4) <= 4
            new, old = plugin.bases[name], protected[name]
            assert (old - new @ (new.T @ old)).abs().max() < 1e-4
            torch.testing.assert_close(new.T @ new, torch.eye(new.shape[1]), atol=1e-4, rtol=0)
        seen.append(sum(basis.shape[1] for basis in plugin.bases.values()))
        assert list(model.state_dict()) == keys
        assert stored_bytes([plugin]).total == sum(b.nbytes for b in plugin.bases.values())
    assert seen[0] < seen[1]
    assert set().union(*trained.values) == {
        f"clip.{'visual.' if where.startswith('image.') else ''}{tail(where)}.bank.task.{part}.B"
        for where, _, part in (name.rpartition(".") for name in plugin.bases)
    }
    assert all(torch.equal(p, rest[n]) for n, p in model.named_parameters() if n in rest)


def tail(where: str) -> str:
    """The name of a layer below the model: the text tower of a CLIP is its transformer."""
    tower, _, name = where.partition(".")
    return name if tower == "image" else f"transformer.{name}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_directions_come_from_the_gradient_of_the_whole_task(stream, kind):
    model = tiny_vlm()
    twin = copy.deepcopy(model)
    plugin = SubspaceLoRAPlugin(model, rank=3, weight_energy=0.5)
    read = Recorder(
        "before_training_epoch",
        lambda s: {
            f"{w}.{p}": plugin.layers[w].bank["task"][p].A.clone()
            for w, _, p in (name.rpartition(".") for name in plugin.bases)
            if w.startswith("image.")
        },
    )
    held = {name: basis.clone() for name, basis in plugin.bases.items()}
    strategy = strategy_for(model, [plugin, read], kind)
    # All 64 samples in one batch, so that the order is of no consequence.
    strategy.train_mb_size = 64
    strategy.train(stream[kind][0])
    twin.unfreeze("image", "text")
    images, texts, owner = whole(twin, stream[kind][0], kind)
    logits = twin.similarity(twin.encode_image(images), F.normalize(texts, dim=-1))
    criterion_for(kind, twin)(logits if kind == "classes" else logits[:, owner], owner).backward()
    for name, a in read.values[0].items():
        where, _, part = name.rpartition(".")
        layer = twin.clip.visual.get_submodule(where.removeprefix("image."))
        fused = part != "weight"
        gradient = layer.in_proj_weight.grad.chunk(3)["qkv".index(part)] if fused else layer.weight.grad
        basis = held[name]
        _, s, v = torch.linalg.svd(gradient - gradient @ basis @ basis.T)
        if s[2] > 1.05 * s[3]:  # else the third direction is as good as the fourth
            torch.testing.assert_close(a.T @ a, v[:3].T @ v[:3], atol=2e-2, rtol=0)
        torch.testing.assert_close(a @ a.T, torch.eye(3), atol=1e-5, rtol=0)


def whole(model, experience, kind):
    """The pictures of an experience, its texts' features, and which text each picture has."""
    samples = [experience.dataset[i] for i in range(len(experience.dataset))]
    if kind == "classes":
        model.set_label_space(experience.label_space)
        classes = torch.tensor(sorted(experience.classes_in_this_experience))
        labels = torch.tensor([s[1] for s in samples])
        texts = model.prompts(classes).encode(model.encode_text)
        return torch.stack([s[0] for s in samples]), texts, torch.searchsorted(classes, labels)
    tokens = torch.stack([s[0].tokens for s in samples])
    distinct, owner = torch.unique(tokens, dim=0, return_inverse=True)
    return torch.stack([s[0].image for s in samples]), model.encode_text(distinct), owner


def test_what_lies_in_the_features_of_a_past_task_is_answered_as_before(stream):
    """With all of their energy protected, the layers' outputs for past inputs stay what they were."""
    model = tiny_vlm()
    plugin = SubspaceLoRAPlugin(model, towers=("image",), rank=4, alpha=4.0, weight_energy=0.0, feature_energy=0.999)
    strategy = strategy_for(model, [plugin])
    strategy.train(stream["classes"][0])
    inputs = []
    layer = next(m for m in plugin.layers.values() if isinstance(m, LoRAAttention))
    handle = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    pictures = torch.stack([stream["classes"][0].dataset[i][0] for i in range(8)])
    with model.evaluating():
        model.encode_image_plain(pictures)
    handle.remove()
    before = layer.in_proj_weight.detach().clone()
    strategy.train(stream["classes"][1])
    change = layer.in_proj_weight - before
    x = inputs[0].flatten(0, 1)
    moved = (x @ change.T).square().sum() / (x.square().sum() * torch.linalg.matrix_norm(change, 2) ** 2)
    assert change.abs().max() > 1e-4 and moved < 0.01


def test_the_merged_model_says_what_the_unmerged_one_said(stream):
    model = tiny_vlm()
    experience = stream["classes"][0]

    def features(strategy):
        pictures = torch.stack([experience.dataset[i][0] for i in range(4)])
        with model.evaluating():
            return torch.cat([model.encode_image_plain(pictures), model.encode_text(model.tokenize(["a red star"]))])

    plugins = recipes.build("keeplora", model=model, rank=4, alpha=8.0)
    before = features(None)
    unmerged = Recorder("after_training_epoch", features)
    strategy_for(model, [*plugins, unmerged]).train(experience)
    torch.testing.assert_close(features(None), unmerged.values[-1], atol=1e-5, rtol=0)
    assert (features(None) - before).abs().max() > 1e-4


def test_what_cannot_be_protected_is_named(random_model):
    for options, message in (
        ({"towers": ("scale",)}, "the towers image and text, not scale"),
        ({"weight_energy": 1.5}, r"weights \(image\) lies in \[0, 1\], not 1.5"),
        ({"weight_energy": {"text": -0.1}}, r"weights \(text\) lies in \[0, 1\], not -0.1"),
        ({"feature_energy": 2.0}, r"of features lies in \[0, 1\], not 2.0"),
        ({"rank": 0}, "rank of LoRA is a whole number of 1 or more"),
    ):
        with pytest.raises(InputError, match=message):
            SubspaceLoRAPlugin(random_model, **options)
    entry = recipes.get("keeplora")
    assert entry.family == "PEA" and entry.kinds == KINDS and not entry.needs
