"""The probes in Avalanche's own strategy: right numbers, no trace in training, any recipe, either kind of stream."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from made import tiny as tiny_vlm
from mini import mini
from several import several_captions
from torch import nn
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.benchmarks.label_space import PHOTO, LabelSpace
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.blocks import blocks
from avalanche_vlm.evaluation.held_out import HeldOutScores
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.evaluation.probes import DriftProbe, ErosionProbe, InterferenceProbe, interference
from avalanche_vlm.evaluation.probes.curvature import fisher_of
from avalanche_vlm.evaluation.probes.drift import encode_probe
from avalanche_vlm.evaluation.probes.kept import KeptTask, loss_gradients
from avalanche_vlm.evaluation.probes.layers import block_modules
from avalanche_vlm.evaluation.probes.similarity import linear_cka
from avalanche_vlm.evaluation.zero_shot import retrieval_scores
from avalanche_vlm.losses.fisher import squared_gradients
from avalanche_vlm.models.factory import from_open_clip
from avalanche_vlm.training import VLMNaive, criterion_for, recipes
from avalanche_vlm.training.plugins import AnchorPenaltyPlugin


def naive(model, metrics: Sequence, kind: str = "classes", plugins: Sequence = (), cls=Naive, **options) -> Naive:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EvaluationPlugin(*metrics, loggers=[])
    return cls(
        model=model,
        optimizer=torch.optim.AdamW([p for p in model.parameters() if p.requires_grad] or model.parameters(), lr=1e-3),
        criterion=criterion_for(kind, model),
        train_mb_size=32,
        eval_mb_size=16,
        plugins=list(plugins),
        evaluator=evaluator,
        **options,
    )


def run(strategy, benchmark, evaluate: bool = True) -> dict:
    metrics: dict = strategy.eval(benchmark.test_stream) if evaluate else {}
    for experience in benchmark.train_stream:
        metrics = strategy.train(experience)
        if evaluate:
            metrics = strategy.eval(benchmark.test_stream)
    return metrics


def resnet_clip():
    """CLIP with batch norm in its image tower and dropout beside it."""
    tiny = tiny_vlm("random")
    clip = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": (1, 1, 1, 1), "width": 8, "head_width": 16},
        text_cfg={"context_length": 20, "vocab_size": 400, "width": 16, "heads": 2, "layers": 2},
    )
    clip.visual.layer2.add_module("dropout", nn.Dropout(0.2))
    transform = tiny.transforms.eval
    return from_open_clip(clip, tiny.tokenizer, image_size=32, mean=transform.mean, std=transform.std, name="resnet")


# Nothing is disturbed ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: tiny_vlm("random"), resnet_clip], ids=["vit", "resnet"])
@pytest.mark.parametrize("kind", ["classes", "pairs"])
def test_training_goes_on_bit_by_bit(make, kind, tiny_benchmark, tiny_pairs):
    benchmark = tiny_benchmark if kind == "classes" else tiny_pairs

    def trained(probed: bool) -> tuple[dict, torch.Tensor, list]:
        torch.manual_seed(0)
        model = make()
        probes = [
            DriftProbe(tiny_benchmark.held_out[0]),
            InterferenceProbe(samples=8, per_experience=2),
            ErosionProbe(benchmark.held_out),
        ]
        torch.manual_seed(1)
        strategy = naive(model, probes if probed else [], kind, train_epochs=2)
        for experience in benchmark.train_stream:
            strategy.train(experience)
        state = strategy.optimizer.state.values()
        return dict(model.state_dict()), torch.get_rng_state(), [m for s in state for m in s.values()]

    (plain, random, moments), (probed, random_too, moments_too) = trained(False), trained(True)
    extra = [
        {name: state.pop(name) for name in list(state) if name.endswith("_extra_state")} for state in (plain, probed)
    ]
    assert extra[0] == extra[1]
    assert plain.keys() == probed.keys() and all(torch.equal(plain[name], probed[name]) for name in plain)
    assert torch.equal(random, random_too)
    assert all(torch.equal(a, b) for a, b in zip(moments, moments_too, strict=True))


class Spy(SupervisedPlugin):
    """Gradients and modes before and after the evaluator has seen them."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Any] = []

    @staticmethod
    def look(model) -> tuple[dict, list[bool]]:
        grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
        return grads, [module.training for module in model.modules()]

    def before_training_epoch(self, strategy, **kwargs):
        strategy.model.clip.visual.ln_post.eval()  # somebody's own wish

    def after_backward(self, strategy, **kwargs):
        self.before.append(self.look(strategy.model))

    def before_update(self, strategy, **kwargs):
        grads, modes = self.look(strategy.model)
        expected, expected_modes = self.before[-1]
        assert modes == expected_modes and not strategy.model.clip.visual.ln_post.training
        assert all(grads[name] is None if g is None else torch.equal(grads[name], g) for name, g in expected.items())


def test_gradients_and_modes_are_left_alone(random_model, tiny_benchmark):
    spy, probe = Spy(), InterferenceProbe(samples=8, interval=1)
    for experience in tiny_benchmark.train_stream:
        naive(random_model, [probe], plugins=[spy]).train(experience)
    assert len(probe.conflicts[2]) == len(spy.before) / 2 > 0


# Drift ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_drift_is_that_of_the_features_from_row_0(random_model, tiny_benchmark):
    captions = tiny_benchmark.held_out[0]
    probe, matrix, scores = DriftProbe(captions), PerformanceMatrix(), HeldOutScores(tiny_benchmark.held_out)
    before = copy.deepcopy(random_model)
    metrics = run(naive(random_model, [probe, matrix, scores]), tiny_benchmark)
    result = probe.result()
    curves, layers = result["curves"], result["layers"]
    assert all(len(values) == 3 for values in curves.values()) and len(layers["CKA"]) == 3
    for name in ("image CKA", "text CKA", "RSA", "image RSA", "text RSA"):
        assert curves[name][0] == pytest.approx(1) and curves[name][2] < 0.9999
    assert layers["CKA"][0] == pytest.approx([1] * 7)
    # The same figures from elsewhere.
    assert curves["hit@1"] == pytest.approx(scores.result()["captions R@1"])
    assert curves["paired cosine"] == pytest.approx(scores.alignment()["captions paired cosine"], abs=1e-6)
    assert curves["modality gap"] == pytest.approx(scores.alignment()["captions modality gap"], abs=1e-6)
    assert curves["alignment"] == pytest.approx([2 - 2 * c for c in curves["paired cosine"]], abs=1e-6)
    assert [probe.hits()[step].mean() for step in range(3)] == pytest.approx(curves["hit@1"])
    assert metrics["Drift/RSA"] == curves["RSA"][2] and metrics["Drift/CKA/text.1"] == layers["CKA"][2][5]
    with torch.no_grad():
        x, _ = next(iter(DataLoader(captions.dataset, 1000)))
        images = [model.eval().encode_image(x.image) for model in (before, random_model)]
        hidden: dict = {}
        for model in (before, random_model):
            model.clip.visual.transformer.resblocks[2].register_forward_hook(
                lambda m, i, o, of=model: hidden.__setitem__(of, o.mean(1))
            )
            model.encode_image(x.image)
    assert curves["image CKA"][2] == pytest.approx(linear_cka(*images, debiased=True), abs=1e-6)
    of_layer = linear_cka(hidden[before], hidden[random_model], debiased=True)
    assert layers["CKA"][2][layers["names"].index("image.2")] == pytest.approx(of_layer, abs=1e-5)
    features = (2 + 7) * 40 * random_model.width
    assert probe.stored().ram == 4 * features


def test_an_image_with_several_captions_counts_once():
    model = mini()
    stream = several_captions(model)
    (captions,) = stream.held_out
    drift, erosion = DriftProbe(captions), ErosionProbe([captions])
    naive(model, [drift, erosion], "pairs").train(stream.train_stream[0])
    found = retrieval_scores(model, captions.dataset)
    expected = (found["image_to_text_hit@1"] + found["text_to_image_hit@1"]) / 2
    assert drift.result()["curves"]["hit@1"][1] == pytest.approx(expected)
    assert drift.hits()[1].mean() == pytest.approx(expected)
    assert erosion.result()["sets"]["captions"]["score"][1] == pytest.approx(expected)


@pytest.mark.slow
def test_row_0_needs_no_evaluation_and_periodic_ones_add_no_row(random_model, tiny_benchmark):
    probe, erosion = DriftProbe(tiny_benchmark.reference, layers=False), ErosionProbe(tiny_benchmark.held_out)
    strategy = naive(random_model, [probe, erosion], eval_every=1)
    for experience in tiny_benchmark.train_stream:
        strategy.train(experience, eval_streams=[tiny_benchmark.test_stream])
    assert probe.result()["curves"]["RSA"][0] == pytest.approx(1)
    assert [len(v) for v in probe.result()["curves"].values()] == [3] * 11
    assert not np.isnan(erosion.result()["sets"]["captions"]["score"]).any()
    assert np.isnan(erosion.result()["sets"]["task night"]["score"]).tolist() == [False, False, True]


def test_reference_pairs_are_read_like_a_data_set(random_model, tiny_pairs):
    reference = tiny_pairs.reference
    features = encode_probe(random_model, reference, range(50), batch_size=16)
    with random_model.evaluating():
        texts = random_model.encode_text(random_model.tokenizer(list(reference.captions[:50])))
        images = random_model.encode_image(reference.batch(range(50)))
    torch.testing.assert_close(features.texts, texts)
    torch.testing.assert_close(features.images, images)
    same = [[a == b for b in reference.captions[:50]] for a in reference.captions[:50]]
    assert (features.ids[:, None] == features.ids).tolist() == same
    stream = tiny_pairs.test_stream[0].dataset.eval()
    assert len(encode_probe(random_model, stream, range(20)).images) == 20


def test_pairs_that_are_none_are_refused(random_model, tiny_benchmark):
    size = tiny_benchmark.held_out[1]
    with pytest.raises(InputError, match="size has class-labelled images"):
        DriftProbe(size)
    with pytest.raises(InputError, match="gives Tensor"):
        naive(random_model, [DriftProbe(size.dataset)]).eval(tiny_benchmark.test_stream)
    with pytest.raises(InputError, match="4 or more"):
        DriftProbe([1, 2, 3])
    with pytest.raises(InputError, match="the strategy trains a Linear"):
        naive(nn.Linear(2, 2), [DriftProbe(tiny_benchmark.held_out[0])]).train(tiny_benchmark.train_stream[0])


@pytest.mark.parametrize("tower", ["resnet", "timm"])
def test_other_towers_have_layers_too(tower, tiny_benchmark):
    if tower == "resnet":
        model = resnet_clip()
        expected = ["image.0", "image.1", "image.2", "image.3", "text.0", "text.1"]
    else:
        tiny = tiny_vlm("random")
        clip = open_clip.CustomTextCLIP(
            embed_dim=16,
            vision_cfg={"timm_model_name": "test_vit", "timm_model_pretrained": False, "image_size": 32},
            text_cfg={"context_length": 20, "vocab_size": 400, "width": 16, "heads": 2, "layers": 2},
        )
        transform = tiny.transforms.eval
        model = from_open_clip(clip, tiny.tokenizer, image_size=32, mean=transform.mean, std=transform.std)
        depth = len(clip.visual.trunk.blocks)
        expected = [*(f"image.{i}" for i in range(depth)), "text.0", "text.1"]
    assert list(block_modules(model)) == expected
    probe = DriftProbe(tiny_benchmark.held_out[0], batch_size=16)
    strategy = naive(model, [probe])
    strategy.train(tiny_benchmark.train_stream[0])
    layers = probe.result()["layers"]
    assert layers["names"] == expected and layers["CKA"][0] == pytest.approx([1] * len(expected))
    assert all(value < 1 for value in layers["CKA"][1])


# Interference --------------------------------------------------------------------------------------------------------


class Record(SupervisedPlugin):
    """The model and minibatch of an iteration, after the backward pass."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.n = at, 0

    def after_backward(self, strategy, **kwargs):
        if strategy.clock.train_exp_counter == 1:
            if self.n == self.at:
                taps, strategy.model.taps = strategy.model.taps, []
                self.model, self.batch = copy.deepcopy(strategy.model), [part.clone() for part in strategy.mbatch]
                strategy.model.taps = taps
            self.n += 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "pairs"])
def test_conflict_is_the_cosine_of_two_plain_gradients(random_model, tiny_benchmark, tiny_pairs, kind):
    benchmark = tiny_benchmark if kind == "classes" else tiny_pairs
    probe, record = InterferenceProbe(samples=8, per_experience=1), Record(at=1)
    run(naive(random_model, [probe], kind, [record]), benchmark, evaluate=False)
    (entry,) = probe.conflicts[2]
    assert (entry["iteration"], entry["task"]) == (1, 1)
    criterion, model = criterion_for(kind, record.model), record.model

    def gradient(x, y, t):
        model.zero_grad()
        criterion(model.train()(x, t), y).backward()
        return {name: p.grad.clone() for name, p in model.clip.named_parameters() if p.grad is not None}

    now, old = gradient(*record.batch), gradient(*probe.kept[0].batch(model, torch.device("cpu")))
    for block, names in blocks(model).items():
        flat = [torch.cat([g[name].flatten() for name in names if name in now]) for g in (now, old)]
        expected = torch.cosine_similarity(*flat, dim=0).item()
        assert entry["cosine"][block] == pytest.approx(expected, abs=1e-4), block
    result = probe.result()
    assert result["blocks"] == list(blocks(model))
    assert np.isnan(result["conflict"]["cosine"][0]).all() and np.isnan(result["update"][0]).all()
    assert result["conflict"]["cosine"][1] == [entry["cosine"][block] for block in result["blocks"]]
    assert result["conflict"]["negative share"][1] == [float(c < 0) for c in result["conflict"]["cosine"][1]]


def test_what_is_compared_is_the_gradient_that_the_step_takes(random_model, tiny_benchmark, monkeypatch):
    """A penalty on weights joins the gradients after the backward pass, and the probe looks after it."""
    compared, taken, cosines = [], [], interference.gradient_cosines

    def seen(now, *rest):
        compared.append({name: gradient.clone() for name, gradient in now.items()})
        return cosines(now, *rest)

    class Taken(SupervisedPlugin):
        def before_update(self, strategy, **kwargs):
            weights = strategy.model.clip.named_parameters()
            gradients = {name: p.grad.clone() for name, p in weights if p.grad is not None}
            taken.append((strategy.experience.current_experience, gradients))

    monkeypatch.setattr(interference, "gradient_cosines", seen)
    probe = InterferenceProbe(samples=8, per_experience=1)
    plugins = [AnchorPenaltyPlugin(weight=50.0), Taken()]
    run(naive(random_model, [probe], "classes", plugins), tiny_benchmark, evaluate=False)
    (entry,), (now,) = probe.conflicts[2], compared
    assert entry["iteration"] == 1  # where the weights are no longer those of the anchor
    step = [gradients for experience, gradients in taken if experience == 1][1]
    assert now and all(torch.equal(gradient, step[name]) for name, gradient in now.items())


def test_gradients_that_stand_for_training_are_taken_among_the_classes_of_training(tiny_benchmark):
    """In eval mode all classes compete under the label space ``union``, also those of tasks to come."""
    model = mini()
    model.set_label_space(tiny_benchmark.label_space.with_visible("union"))
    strategy = naive(model, [])
    model.train()
    model.competing.meet(tiny_benchmark.train_stream[0])
    strategy.experience = tiny_benchmark.train_stream[0]
    task = KeptTask.of(strategy, model, 1, 8, torch.Generator().manual_seed(0))
    weights = {name: p for name, p in model.clip.named_parameters() if name.startswith("visual.transformer")}
    x, y, _ = task.batch(model, model.device)
    own = sorted(tiny_benchmark.label_space.tasks[0])
    of_class = torch.tensor([own.index(int(c)) for c in y])

    def losses() -> torch.Tensor:
        texts = torch.cat([model.prompts(torch.tensor([c])).encode(model.encode_text) for c in own])
        return torch.nn.functional.cross_entropy(
            model.similarity(model.encode_image(x), texts), of_class, reduction="none"
        )

    model.eval()
    expected = torch.autograd.grad(losses().mean(), list(weights.values()))
    found = loss_gradients(strategy, model, task, weights)
    for (name, gradient), by_hand in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(gradient, by_hand, atol=1e-6, rtol=1e-3, msg=name)
    squares = squared_gradients(losses(), weights)
    fisher = fisher_of(strategy, model, task, weights, "empirical", 400, torch.Generator().manual_seed(0))
    total, exact = (sum(float(f.sum()) for f in of.values()) for of in (fisher, squares))
    assert total == pytest.approx(exact, rel=0.1)
    assert not model.training and not model.competing.training


def test_kept_pictures_are_the_experiences_own(random_model, tiny_benchmark):
    probe = InterferenceProbe(samples=16, max_tasks=1)
    run(naive(random_model, [probe]), tiny_benchmark, evaluate=False)
    (task,) = probe.kept
    assert task.step == 2
    x, y, t = task.batch(random_model, torch.device("cpu"))
    all_x, all_y, _ = next(iter(DataLoader(tiny_benchmark.train_stream[1].dataset.eval(), 1000)))
    # By differences: the matrix product of the faster way misses small distances in float32.
    nearest = torch.cdist(x.flatten(1), all_x.flatten(1), compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert nearest.values.max() < 1e-3 and len(nearest.indices.unique()) == 16
    assert torch.equal(all_y[nearest.indices], y) and t.unique().tolist() == [1]
    trained = sum(p.numel() for name, p in random_model.clip.named_parameters() if not name.startswith("logit_"))
    assert probe.stored().ram == 16 * (3 * 32 * 32 + 8 + 8) + 4 * trained


def test_the_update_is_weighed_by_the_fisher_of_where_earlier_tasks_ended(random_model, tiny_benchmark):
    # Of one sample the estimate is exact, whatever the signs.
    probe = InterferenceProbe(samples=1, per_experience=0, fisher="empirical")
    strategy = naive(random_model, [probe])
    random_model.freeze("text")
    strategy.train(tiny_benchmark.train_stream[0])
    middle = copy.deepcopy(random_model).eval()
    x, y, t = probe.kept[0].batch(middle, torch.device("cpu"))
    middle.zero_grad()
    nn.functional.cross_entropy(middle(x, t), y).backward()
    fisher = {name: p.grad**2 for name, p in middle.clip.named_parameters() if p.grad is not None}
    strategy.train(tiny_benchmark.train_stream[1])
    assert probe.conflicts == {}
    end = dict(random_model.clip.named_parameters())
    found = dict(zip(probe.result()["blocks"], probe.result()["update"][1], strict=True))
    for block, names in blocks(random_model).items():
        if block.startswith("text."):
            assert math.isnan(found[block])
            continue
        start = dict(middle.clip.named_parameters())
        expected = sum((fisher[name] * (end[name] - start[name]) ** 2).sum().item() for name in names)
        assert found[block] == pytest.approx(expected, rel=1e-4), block


@pytest.mark.slow
def test_comparisons_are_bounded_and_take_tasks_in_turn(random_model):
    benchmark = picturebook.mtil_like(n_train=32, n_test=4, n_held_out=4, n_reference=4)
    probe = InterferenceProbe(samples=4, per_experience=2, tasks_at_once=2, max_tasks=3, draws=0)
    strategy = naive(random_model.freeze("text"), [probe], train_epochs=4)
    for experience in list(benchmark.train_stream)[:6]:
        strategy.train(experience)
    assert [len(probe.conflicts.get(step, [])) for step in range(1, 7)] == [0, 2, 4, 4, 4, 4]
    assert {entry["task"] for entry in probe.conflicts[6]} == {3, 4, 5}
    assert [entry["iteration"] for entry in probe.conflicts[6]] == [1, 1, 3, 3]
    assert len(probe.kept) == 3 and probe.fisher == {} and np.isnan(probe.result()["update"]).all()


@pytest.mark.parametrize("options", [{"samples": 0}, {"interval": 0}, {"fisher": "exact"}, {"tasks_at_once": 0}])
def test_settings_out_of_range_are_named(options):
    with pytest.raises(InputError, match=str(next(iter(options))).split("_")[0][:6] + "|Fisher"):
        InterferenceProbe(**options)


# Erosion -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_erosion_is_what_matrix_and_held_out_scores_say(random_model, tiny_benchmark):
    probe = ErosionProbe(tiny_benchmark.held_out, max_samples=None)
    matrix, scores = PerformanceMatrix(), HeldOutScores(tiny_benchmark.held_out)
    metrics = run(naive(random_model, [probe, matrix, scores]), tiny_benchmark)
    sets, rows = probe.result()["sets"], matrix.rows()
    assert sets["task night"]["score"][:2] == pytest.approx(rows[:2, 1].tolist())
    assert np.isnan(sets["task night"]["score"][2]) and np.isnan(sets["task sketches"]["score"][1:]).all()
    expected = scores.result()
    for name, column in (("captions", "captions R@1"), ("size", "size"), ("position", "position")):
        assert sets[name]["score"] == pytest.approx(expected[column])
        assert metrics[f"Erosion/{name}"] == pytest.approx(expected[column][0] - expected[column][-1])
        assert all(0 <= e <= 1 for e in sets[name]["calibration error"])
    right = probe.right()
    assert right["captions"][2].shape == (2, 40) and right["size"][2].shape == (
        len(tiny_benchmark.held_out[1].dataset),
    )
    assert right["size"][2].mean() == pytest.approx(sets["size"]["score"][2])
    classes = probe.result()["classes"]
    losses = [entry["before"] - entry["after"] for entry in classes]
    assert losses == sorted(losses, reverse=True)
    names = {entry["class"] for entry in classes if entry["set"] == "size"}
    assert names <= set(tiny_benchmark.held_out[1].label_space.class_names)
    # By hand: one class of one set, now.
    size = tiny_benchmark.held_out[1]
    x, y = next(iter(DataLoader(size.dataset, 1000)))
    with torch.no_grad():
        logits = random_model.encode_image(x) @ random_model.class_features(size.label_space).T
    for entry in (e for e in classes if e["set"] == "size"):
        of = y == size.label_space.class_names.index(entry["class"])
        assert entry["after"] == pytest.approx((logits.argmax(1)[of] == y[of]).float().mean().item())


def test_untrained_tasks_of_pairs_are_scored_from_the_evaluations_own_features(random_model, tiny_pairs):
    probe, matrix = ErosionProbe(), PerformanceMatrix()
    run(naive(random_model, [probe, matrix], "pairs"), tiny_pairs)
    sets = probe.result()["sets"]
    assert set(sets) == {"task sketch", "task night"} and not random_model.taps
    assert sets["task night"]["score"][:2] == pytest.approx(matrix.rows()[:2, 1].tolist())
    assert probe.right()["task night"][1].shape == (2, 20)


# Everything together -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classes", "pairs"])
@pytest.mark.parametrize("recipe", ["fine-tune", "lora", "zscl", "c-clip"])
@pytest.mark.slow
def test_with_recipes(recipe, kind, tiny_benchmark, tiny_pairs):
    benchmark = tiny_benchmark if kind == "classes" else tiny_pairs
    torch.manual_seed(0)
    model = tiny_vlm()
    resources = {name: getattr(benchmark, name) for name in recipes.get(recipe).takes}
    plugins = recipes.build(recipe, model=model, **resources)
    drift = DriftProbe(tiny_benchmark.held_out[0])
    interference, erosion = InterferenceProbe(samples=8, interval=1), ErosionProbe(benchmark.held_out, max_samples=20)
    run(naive(model, [drift, interference, erosion], kind, plugins), benchmark)
    result, rsa = interference.result(), drift.result()["curves"]["RSA"]
    cosine, update = np.array(result["conflict"]["cosine"][1]), np.array(result["update"][1])
    attention = [result["blocks"].index(f"image.{i}") for i in range(4)]
    if recipe == "lora":
        # Each task has a module of its own, and the router is right: nothing that is shared trains.
        assert kind == "pairs" or (np.isnan(cosine).all() and rsa == pytest.approx([1] * 3))
        assert (update[attention] == 0).all()
    else:
        assert not np.isnan(cosine[attention]).any() and (update[attention] > 0).all() and rsa[2] < 1
    if recipe == "c-clip":  # frozen but for the blocks' projections
        assert np.isnan(update[result["blocks"].index("image.in")])
    assert not np.isnan(erosion.result()["sets"]["captions"]["score"]).any()


def test_in_our_strategy_with_half_precision(tiny_benchmark):
    model = tiny_vlm()
    probe = InterferenceProbe(samples=4, per_experience=1)
    strategy = naive(model.freeze("text"), [probe], cls=VLMNaive, amp="bf16", max_grad_norm=1.0)
    metrics = run(strategy, tiny_benchmark, evaluate=False)
    assert not np.isnan(probe.result()["conflict"]["cosine"][1][:6]).any()
    assert metrics["FisherUpdate/image.0"] > 0


@pytest.mark.gpu
def test_on_cuda(tiny_benchmark):
    model = tiny_vlm()
    captions = tiny_benchmark.held_out[0]
    probes = [DriftProbe(captions), InterferenceProbe(samples=4, interval=1), ErosionProbe(tiny_benchmark.held_out)]
    run(naive(model, probes, device=torch.device("cuda")), tiny_benchmark)
    drift, interference, erosion = (probe.result() for probe in probes)
    assert drift["curves"]["RSA"][0] == pytest.approx(1) and not np.isnan(drift["layers"]["CKA"]).any()
    assert not np.isnan(interference["update"][1]).any() and not np.isnan(interference["conflict"]["cosine"][1]).any()
    assert not np.isnan(erosion["sets"]["captions"]["score"]).any()


def test_on_a_stock_benchmark(random_model):
    from avalanche.benchmarks import nc_benchmark
    from torch.utils.data import TensorDataset

    def data() -> TensorDataset:
        y = torch.arange(4).repeat(16)
        dataset = TensorDataset(torch.rand(len(y), 3, 32, 32), y)
        dataset.targets = y.tolist()
        return dataset

    benchmark = nc_benchmark(data(), data(), n_experiences=2, task_labels=False, seed=0)
    random_model.set_label_space(LabelSpace.from_names(["red", "green", "blue", "white"], PHOTO))
    probe, erosion = InterferenceProbe(samples=4, interval=1), ErosionProbe()
    run(naive(random_model, [probe, erosion]), benchmark)
    assert not np.isnan(probe.result()["conflict"]["cosine"][1]).any()
    assert len(erosion.result()["sets"]["task 1"]["score"]) == 3
    assert {entry["class"] for entry in erosion.result()["classes"]} <= {"red", "green", "blue", "white"}
