"""Null-space projection within a training run."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.training.criteria import criterion_for
from avalanche_vlm.training.plugins.projection import NullSpaceProjectionPlugin
from avalanche_vlm.training.strategies import VLMNaive
from avalanche_vlm.weights.average import snapshot
from avalanche_vlm.weights.subspaces import null_space

ONE_BLOCK = r"resblocks\.1\.mlp\.(c_fc|c_proj)$"


def run(model, plugins, lr=1e-2, strategy=Naive, kind="classes"):
    torch.manual_seed(1)  # two runs shuffle alike, or their sums would round differently
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EvaluationPlugin(loggers=[])
    return strategy(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1),
        criterion=criterion_for(kind, model),
        train_mb_size=64,
        plugins=plugins,
        evaluator=evaluator,
    )


@pytest.fixture(scope="module")
def few_pictures():
    """Two tasks of four pictures: fewer tokens than any layer is wide."""
    return picturebook.mtil_like(n_train=4, n_test=4, order=["sketches", "night"], n_held_out=4, n_reference=4)


def pictures(experience) -> torch.Tensor:
    return torch.stack([x for x, *_ in experience.dataset.eval()])


def inputs_of(model, layers, images) -> dict[str, torch.Tensor]:
    seen = {}
    handles = [
        layer.register_forward_hook(lambda _, inputs, __, name=name: seen.update({name: inputs[0]}))
        for name, layer in layers.items()
    ]
    with model.evaluating():
        model.encode_image(images)
    for handle in handles:
        handle.remove()
    return {name: x.reshape(-1, x.shape[-1]).double() for name, x in seen.items()}


def test_after_a_projected_adamw_step_protected_pictures_keep_their_features(random_model, few_pictures):
    first, second = few_pictures.train_stream
    moved = {}
    for projected in (True, False):
        model = copy.deepcopy(random_model)
        plugin = NullSpaceProjectionPlugin(model, tail_energy=0, dtype=torch.float64)
        kept = {id(p) for layer in plugin.layers.values() for p in layer.parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in kept)
        strategy = run(model, [plugin] if projected else [])
        strategy.train(first)
        with model.evaluating():
            before = model.encode_image(pictures(first), normalize=False)
            weights = snapshot(dict(model.clip.visual.named_parameters()))
        strategy.train(second)
        with model.evaluating():
            after = model.encode_image(pictures(first), normalize=False)
        moved[projected] = ((after - before).norm() / before.norm()).item()
        changed = {n for n, p in model.clip.visual.named_parameters() if not torch.equal(p, weights[n])}
        names = {f"{name}.weight" for name in plugin.layers} | (
            set() if projected else {f"{name}.bias" for name in plugin.layers}
        )
        assert changed == names  # the step was taken, and only where it was meant to be
    assert moved[True] < 1e-5
    assert moved[False] > 1e-2


def test_a_step_is_the_optimizers_own_step_projected(random_model, few_pictures):
    first, second = few_pictures.train_stream
    plugin = NullSpaceProjectionPlugin(random_model, pattern=ONE_BLOCK, hold_biases=False)
    run(random_model, [plugin]).train(first)
    free = copy.deepcopy(random_model)
    start = {name: layer.weight.detach().clone() for name, layer in plugin.layers.items()}
    # New optimizers, so that both runs take the same first step.
    run(free, []).train(second)
    bases = {name: null_space(covariance) for name, covariance in plugin.covariances.items()}
    run(random_model, [plugin]).train(second)
    for name, layer in plugin.layers.items():
        step = free.clip.visual.get_submodule(name).weight.detach() - start[name]
        expected = start[name] + step @ bases[name] @ bases[name].T
        torch.testing.assert_close(layer.weight.detach(), expected, atol=1e-6, rtol=0)
        assert (layer.weight - start[name]).norm() < 0.999 * step.norm()
        assert torch.equal(layer.bias, free.clip.visual.get_submodule(name).bias)


def test_covariances_are_of_the_layers_inputs_and_count_experiences_alike(random_model, few_pictures):
    first, second = few_pictures.train_stream
    plugin = NullSpaceProjectionPlugin(random_model, pattern=ONE_BLOCK, dtype=torch.float64)
    strategy = run(random_model, [plugin])
    expected = dict.fromkeys(plugin.layers, 0)
    for experience in (first, second):
        strategy.train(experience)
        for name, rows in inputs_of(random_model, plugin.layers, pictures(experience)).items():
            expected[name] = expected[name] + (rows.T @ rows) / (rows.T @ rows).norm()
    assert not any(layer._forward_pre_hooks for layer in plugin.layers.values())
    for name, covariance in plugin.covariances.items():
        torch.testing.assert_close(covariance, expected[name], atol=1e-6, rtol=1e-5)
    assert plugin.stored().ram == sum(8 * layer.in_features**2 for layer in plugin.layers.values())


def test_the_first_experience_is_free(random_model, few_pictures):
    free = copy.deepcopy(random_model)
    run(random_model, [NullSpaceProjectionPlugin(random_model)]).train(few_pictures.train_stream[0])
    run(free, []).train(few_pictures.train_stream[0])
    state = snapshot(free.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in snapshot(random_model.state_dict()).items())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [Naive, VLMNaive])
@pytest.mark.parametrize("stream", ["tiny_benchmark", "tiny_pairs"])
def test_it_runs_on_classes_and_pairs(random_model, strategy, stream, request):
    benchmark = request.getfixturevalue(stream)
    plugin = NullSpaceProjectionPlugin(random_model, pattern=ONE_BLOCK)
    kind = "classes" if stream == "tiny_benchmark" else "pairs"
    training = run(random_model, [plugin], lr=1e-3, strategy=strategy, kind=kind)
    training.train(benchmark.train_stream)
    training.eval(benchmark.test_stream[:1])
    assert all(torch.isfinite(p).all() for p in random_model.parameters())
    assert all((covariance != 0).any() for covariance in plugin.covariances.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "nothing"}, "no layer of the image tower, a VisionTransformer, that matches 'nothing'"),
        ({"pattern": r"0\.attn$"}, r"cannot hold transformer.resblocks.0.attn, a MultiheadAttention"),
        ({"pattern": r"0\.attn\.out_proj$"}, "linear layers outside attention"),
        ({"tail_energy": 1.5}, "a share in .0, 1., not 1.5"),
    ],
)
def test_layers_that_cannot_be_held(random_model, options, message):
    with pytest.raises(InputError, match=message):
        NullSpaceProjectionPlugin(random_model, **options)


def test_another_model_is_refused(random_model, few_pictures):
    plugin = NullSpaceProjectionPlugin(copy.deepcopy(random_model))
    with pytest.raises(InputError, match="another model than the one that is trained"):
        run(random_model, [plugin]).train(few_pictures.train_stream[0])
