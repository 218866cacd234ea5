"""LwF and LwF-VR beside what ZSCL's code computes: the teacher's texts on both sides, images of a draw of their own."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mini import mini
from recording import Recorder, naive

from avalanche_vlm.benchmarks import ImageText, picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.draws import Passes
from avalanche_vlm.training import criterion_for, recipes
from avalanche_vlm.training.reference import CurrentTask, random_sentences

SIZES = {"n_train": 24, "n_test": 8, "n_held_out": 8, "n_reference": 16}
BATCH = 10


class Mirrored:
    """A training transform that mirrors every picture."""

    def __init__(self, transform) -> None:
        self.transform = transform

    def __call__(self, image) -> torch.Tensor:
        return self.transform(image).flip(-1)


@pytest.fixture(scope="module")
def streams():
    """Two tasks of 24 pictures whose training transform mirrors them."""
    model = mini()
    transforms = {"train_transform": Mirrored(model.transforms.eval), "eval_transform": model.transforms.eval}
    options = {"tokenizer": model.tokenizer, **transforms, **SIZES}
    return {
        "classes": picturebook.mtil_like(order=["sketches", "night"], **options),
        "pairs": picturebook.pairs(domains=("sketch", "night"), **options),
    }


class Step(NamedTuple):
    """An iteration: what the method added to the loss, the norms of its gradients by tower, and the student."""

    added: float
    gradients: dict[str, float]
    student: torch.nn.Module


def steps(model, benchmark, kind, plugins, epochs: int = 1) -> tuple[list[Step], list]:
    """All iterations of a stream, and the model as each task started."""
    before, found = [], []

    def look(strategy) -> None:
        added = strategy.loss - before[-1]
        parameters = strategy.model.trainable_parameters()
        all_of = torch.autograd.grad(added, list(parameters.values()), retain_graph=True, allow_unused=True)
        squares = {"image": 0.0, "text": 0.0}
        for name, gradient in zip(parameters, all_of, strict=True):
            if gradient is not None:
                squares["image" if "visual." in name else "text"] += gradient.square().sum().item()
        norms = {tower: square**0.5 for tower, square in squares.items()}
        found.append(Step(added.item(), norms, copy.deepcopy(strategy.model)))

    starts = Recorder("before_training_exp", lambda s: copy.deepcopy(s.model))
    first = Recorder("before_backward", lambda s: before.append(s.loss.clone()))
    strategy = naive(model, [starts, first, *plugins, Recorder("before_backward", look)], lr=1e-3, epochs=epochs)
    strategy._criterion = criterion_for(kind, model)
    strategy.train(benchmark.train_stream)
    return found, starts.values


def drawn(experience, number: int, iterations: int):
    """The draws of a task: pictures as they are evaluated, labels, and tokens where there are captions."""
    (seed,) = np.random.SeedSequence([0, number]).generate_state(1)
    data, passes = experience.dataset.eval(), Passes(len(experience.dataset), BATCH, int(seed))
    for _ in range(iterations):
        xs, ys, *_ = zip(*(data[i] for i in passes.next().tolist()), strict=True)
        if isinstance(xs[0], ImageText):
            yield torch.stack([x.image for x in xs]), ys, torch.stack([x.tokens for x in xs])
        else:
            yield torch.stack(xs), ys, None


@torch.no_grad()
def distilled(student, teacher, images, groups: list[torch.Tensor]) -> float:
    """Rows and columns at temperature 2, as cross-entropies of soft targets, the teacher's texts on both sides."""
    texts = torch.stack([F.normalize(teacher.encode_text(tokens).mean(0), dim=0) for tokens in groups])
    scale = teacher.clip.logit_scale.exp()
    said, taught = (scale * model.eval().encode_image(images) @ texts.T / 2 for model in (student, teacher))
    total = F.cross_entropy(said, taught.softmax(1)) + F.cross_entropy(said.T, taught.T.softmax(1))
    return 4 * total.item()


@pytest.mark.parametrize(
    ("name", "kind", "weight"),
    [
        ("lwf", "classes", 5.0),
        pytest.param("lwf", "classes", 1.0, marks=pytest.mark.slow),
        pytest.param("lwf", "pairs", 1.0, marks=pytest.mark.slow),
        pytest.param("lwf-vr", "classes", 1.0, marks=pytest.mark.slow),
    ],
)
def test_the_loss_is_that_of_zscls_code_and_holds_the_image_tower_alone(streams, name, kind, weight):
    benchmark, model = streams[kind], mini()
    options = {"sentences": 12} if name == "lwf-vr" else {}
    sentences = random_sentences(model, 12, 10, 0)
    plugins = recipes.build(name, model=model, weight=weight, batch_size=BATCH, **options)
    found, starts = steps(model, benchmark, kind, plugins, epochs=2)
    assert len(found) == 8
    for task, experience in enumerate(benchmark.train_stream):
        own = found[4 * task : 4 * task + 4]
        for step, (images, _, tokens) in zip(own, drawn(experience, task, 4), strict=True):
            if name == "lwf-vr":
                groups = list(sentences[:, None])
            elif kind == "pairs":
                groups = list(tokens.unique(dim=0)[:, None])
            else:
                prompts = benchmark.label_space.prompts()
                groups = [model.tokenize(prompts[c]) for c in benchmark.label_space.tasks[task]]
            expected = weight * distilled(step.student, starts[task], images, groups)
            assert step.added == pytest.approx(expected, rel=1e-4)
            assert step.gradients["text"] == 0
        assert own[1].gradients["image"] > 1e-3  # at its own start the student is the teacher


@pytest.mark.parametrize("name", ["lwf", pytest.param("lwf-vr", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("side", "image", "text"), [("image", True, False), ("text", False, True), ("both", True, True)]
)
@pytest.mark.parametrize("images", ["drawn", pytest.param("batch", marks=pytest.mark.slow)])
def test_the_side_decides_which_tower_is_held(streams, name, side, image, text, images):
    model = mini()
    options = {"sentences": 12} if name == "lwf-vr" else {}
    plugins = recipes.build(name, model=model, side=side, images=images, **options)
    found, _ = steps(model, streams["classes"], "classes", plugins)
    last = found[-1].gradients
    assert (last["image"] > 1e-3) == image and (last["text"] > 1e-3) == text
    assert image or last["image"] == 0
    assert text or last["text"] == 0


def test_draws_are_of_the_task_under_the_evaluation_transform_and_apart_from_the_minibatch(streams):
    benchmark, model = streams["classes"], mini()
    plugins = recipes.build("lwf", model=model, batch_size=8)
    given, inner = [], plugins[0].reference.next
    plugins[0].reference.next = lambda *where: given.append(inner(*where)) or given[-1]
    batches = Recorder("after_forward", lambda s: s.mb_x.clone())
    strategy = naive(model, [*plugins, batches], epochs=3)
    strategy.train(benchmark.train_stream)
    assert len(given) == 12 and all(len(inputs.images) == 8 for inputs in given)
    for task, experience in enumerate(benchmark.train_stream):
        shown = {x.numpy().tobytes(): number for number, (x, *_) in enumerate(experience.dataset.eval())}
        numbers = [[shown[x.numpy().tobytes()] for x in i.images] for i in given[6 * task : 6 * task + 6]]
        assert numbers == [i.image_rows.tolist() for i in given[6 * task : 6 * task + 6]]
        assert sorted(number for draw in numbers[:3] for number in draw) == list(range(24))  # a pass
        trained = {x.numpy().tobytes() for batch in batches.values[6 * task : 6 * task + 6] for x in batch}
        assert not trained & shown.keys()  # all of those are mirrored
    reference = plugins[0].reference
    assert reference._batches is None and reference._strategy is None


def test_a_task_of_pairs_numbers_its_captions_for_teachers_that_look_them_up(streams):
    model, experience = mini(), streams["pairs"].train_stream[0]
    strategy = naive(model, [])
    strategy.experience = experience
    reference = CurrentTask(batch_size=BATCH)
    reference.start(strategy)
    chunks = list(reference.chunks(7))
    assert sum(len(i.images) for i in chunks if i.images is not None) == 24
    listed = torch.cat([i.texts.tokens for i in chunks if i.texts is not None])
    texts = {x.tokens.numpy().tobytes() for x, *_ in experience.dataset.eval()}
    assert len(listed) == len(listed.unique(dim=0)) == len(texts)
    inputs = reference.next(strategy, None)
    assert torch.equal(listed[inputs.text_rows], inputs.texts.tokens)
    own = torch.stack([experience.dataset.eval()[i][0].tokens for i in inputs.image_rows.tolist()])
    assert torch.equal(inputs.texts.tokens[inputs.text_of_image], own)


def test_captions_that_change_from_reading_to_reading_are_refused(streams):
    model, experience = mini(), streams["pairs"].train_stream[0]
    strategy = naive(model, [])
    strategy.experience = experience
    reference = CurrentTask(batch_size=BATCH)
    reference.start(strategy)
    for _ in reference.chunks():
        pass
    # As if every caption had been another one then.
    reference._numbers = {bytes(text)[::-1]: number for text, number in reference._numbers.items()}
    with pytest.raises(InputError, match="a caption of the current task is another each time that it is read"):
        reference.next(strategy, None)


def test_what_a_draw_cannot_be_of_is_named():
    for options, sentence in (
        ({"texts": "batch"}, "the texts of the current task are task or a list, not 'batch'"),
        ({"texts": ["a"]}, "a list of texts needs the model's tokenizer"),
        ({"texts": "task", "texts_per_step": 2}, "texts_per_step is for a list of texts"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(InputError, match=sentence):
            CurrentTask(**options)
