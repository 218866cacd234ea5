"""GNSP as a whole: what it adds to the loss, and what its projection leaves as it was."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from made import tiny

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.training.criteria import criterion_for
from avalanche_vlm.training.recipes.regularization.subspaces import gnsp
from avalanche_vlm.training.reference import ReferenceSet
from avalanche_vlm.weights.average import snapshot
from avalanche_vlm.weights.subspaces import null_space


def run(model, plugins, kind="classes", batch=16, lr=1e-3, epochs=1) -> Naive:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EvaluationPlugin(loggers=[])
    return Naive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1),
        criterion=criterion_for(kind, model),
        train_mb_size=batch,
        train_epochs=epochs,
        plugins=plugins,
        evaluator=evaluator,
    )


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp((value - max(row)) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def cross_entropy(target: list[float], row: list[float], temperature: float = 1.0) -> float:
    return -sum(p * math.log(q) for p, q in zip(target, softmax(row, temperature), strict=True))


def transposed(matrix: list[list]) -> list[list]:
    return [list(column) for column in zip(*matrix, strict=True)]


def by_hand(new: list[list], old: list[list], right: list[list], weight, alignment, smoothing) -> float:
    """Both losses of one direction, with the temperature 2."""
    total = 0.0
    for student, teacher, hits in zip(new, old, right, strict=True):
        target = [(1 - smoothing) * hit / sum(hits) + smoothing / len(hits) for hit in hits]
        total += weight * 4 * cross_entropy(softmax(teacher, 2.0), student, 2.0)
        total += alignment * cross_entropy(target, student)
    return total / len(new)


class Expected(SupervisedPlugin):
    """Stands before the recipe, with its own draw of the reference pairs and its own initial model: the loss."""

    def __init__(self, model, reference, **weights) -> None:
        super().__init__()
        self.initial = copy.deepcopy(model).eval()
        self.pairs = ReferenceSet(model, reference, batch_size=12, seed=3)
        self.weights, self.values = weights, []

    def before_backward(self, strategy, **kwargs) -> None:
        inputs = self.pairs.next(strategy, None)
        with torch.no_grad():
            # Both towers of the student, whether they train or not.
            new, old = (
                m.similarity(m.encode_image(inputs.images), inputs.texts.encode(m.encode_text)).double().tolist()
                for m in (strategy.model, self.initial)
            )
        right = [[n == text for n in range(len(new[0]))] for text in inputs.text_of_image.tolist()]
        rows = by_hand(new, old, right, **self.weights)
        columns = by_hand(*(transposed(m) for m in (new, old, right)), **self.weights)
        self.values.append(strategy.loss.item() + rows + columns)


class Loss(SupervisedPlugin):
    """Stands behind it: the loss that there was."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def before_backward(self, strategy, **kwargs) -> None:
        self.values.append(strategy.loss.item())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, {"weight": 1.0, "alignment": 0.75, "smoothing": 0.2}),
        (
            {"weight": 0.5, "alignment": 2.0, "label_smoothing": 0.0},
            {"weight": 0.5, "alignment": 2.0, "smoothing": 0.0},
        ),
    ],
    ids=["published", "others"],
)
@pytest.mark.parametrize("stream", ["tiny_benchmark", "tiny_pairs"])
def test_what_it_adds_to_the_loss(mini_model, stream, options, weights, request):
    benchmark = request.getfixturevalue(stream)
    expected = Expected(mini_model, benchmark.reference, **weights)
    plugins = gnsp(mini_model, reference=benchmark.reference, batch_size=12, seed=3, **options)
    found = Loss()
    kind = "classes" if benchmark.label_space else "pairs"
    run(mini_model, [expected, *plugins, found], kind).train(benchmark.train_stream)
    assert len(found.values) == 8 and found.values == pytest.approx(expected.values, rel=1e-5)
    # The initial teacher is the features that it gave: no weights are kept for it.
    features = (len(benchmark.reference) + len(set(benchmark.reference.captions))) * 4 * expected_width(mini_model)
    places = plugins[0].teachers[0].stored().ram - features
    assert 0 <= places <= 2 * 8 * len(benchmark.reference)


def expected_width(model) -> int:
    with model.evaluating():
        return model.encode_text(model.tokenize(["a red circle"])).shape[1]


@pytest.fixture(scope="module")
def few_pictures():
    """Two tasks of four pictures: fewer tokens than any layer is wide."""
    return picturebook.mtil_like(n_train=4, n_test=4, order=["sketches", "night"], n_held_out=4, n_reference=16)


def outputs(model, layers, images) -> dict[str, torch.Tensor]:
    """What the layers give for these pictures, and the tower as a whole."""
    found = {}
    handles = [
        layer.register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
        for name, layer in layers.items()
    ]
    with model.evaluating():
        found["tower"] = model.encode_image(images, normalize=False)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("projected", [True, False])
def test_protected_layers_answer_old_pictures_as_before(few_pictures, projected):
    # As wide as the shipped model: fewer tokens than the layer is wide leave a null space.
    model = tiny("random").unfreeze("image", "text")
    first, second = few_pictures.train_stream
    distillation, projection = gnsp(model, reference=few_pictures.reference, batch_size=8, tail_energy=0)
    strategy = run(model, [distillation, projection] if projected else [distillation], lr=1e-2, epochs=3)
    strategy.train(first)
    images = torch.stack([x for x, *_ in first.dataset.eval()])
    before, weights = outputs(model, projection.layers, images), snapshot(model.state_dict())
    strategy.train(second)
    after = outputs(model, projection.layers, images)
    assert len(after) == len(projection.layers) + 1 > 1
    moved = [((after[name] - output).norm() / output.norm()).item() for name, output in before.items()]
    assert max(moved) < 1e-5 if projected else min(moved) > 1e-2
    changed = {name for name, w in snapshot(model.state_dict()).items() if not torch.equal(w, weights[name])}
    ends = (".mlp.c_fc.weight", ".mlp.c_proj.weight")
    layers = {n for n in weights if n.startswith("clip.visual.") and n.endswith(ends)}
    # The task is learned all the same, by these layers and no other weight.
    assert changed == layers if projected else changed > layers


@pytest.mark.slow
def test_the_whole_step_of_the_optimizer_is_projected(random_model, tiny_benchmark):
    first, second = tiny_benchmark.train_stream
    plugins = gnsp(random_model, reference=tiny_benchmark.reference, batch_size=8)
    projection = plugins[-1]
    strategy = run(random_model, plugins, lr=1e-2)
    strategy.train(first)
    start = {name: layer.weight.detach().clone() for name, layer in projection.layers.items()}
    free = {name: null_space(covariance, 0.15) for name, covariance in projection.covariances.items()}
    strategy.train(second)
    for name, layer in projection.layers.items():
        change, basis = (layer.weight.detach() - start[name]).double(), free[name]
        assert 0 < basis.shape[1] < basis.shape[0] and change.norm() > 1e-3 * start[name].norm()
        assert (change - change @ basis @ basis.T).norm() < 1e-4 * change.norm()
