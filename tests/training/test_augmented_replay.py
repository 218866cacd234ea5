"""Exemplars under the training transform, appended to minibatches or united with the new data."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch
from avalanche.benchmarks.utils import make_avalanche_dataset
from made import tiny as tiny_vlm
from quick import slow_but_for_some
from recording import Recorder, naive
from torchvision.transforms.functional import to_pil_image

from avalanche_vlm.benchmarks import ImageText, picturebook
from avalanche_vlm.benchmarks.scenario import ImageDataset, as_experience_data
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import ExemplarMemory, FeatureMemory, LatentMemory
from avalanche_vlm.training import ContrastiveCriterion, recipes
from avalanche_vlm.training.exemplar_views import TrainingView
from avalanche_vlm.training.plugins import ExemplarReplayPlugin

SMALL = {"n_train": 32, "n_test": 8, "n_held_out": 8, "n_reference": 8}
KEPT = {
    "uint8": {},
    "png": {"codec": "png"},
    "jpeg": {"codec": "jpeg"},
    "on disk": {"folder": True},
    "jpeg on disk": {"codec": "jpeg", "folder": True},
}


class Mirrored:
    """A training transform that mirrors every picture."""

    def __init__(self, transform) -> None:
        self.transform = transform

    def __call__(self, image) -> torch.Tensor:
        return self.transform(image).flip(-1)


class Shifted(Mirrored):
    """One that rolls every picture by a random number of pixels, of which each library draws a part."""

    def __call__(self, image) -> torch.Tensor:
        step = int(torch.randint(4, ())) + 4 * random.randrange(2) + 8 * np.random.randint(4)
        return self.transform(image).roll(step, -1)


def stream(model, kind: str = "classes", training=Mirrored):
    transforms = {"train_transform": training(model.transforms.eval), "eval_transform": model.transforms.eval}
    options = {"tokenizer": model.tokenizer, **transforms, **SMALL}
    if kind == "pairs":
        return picturebook.pairs(domains=("sketch", "night"), **options)
    return picturebook.mtil_like(order=["sketches", "night"], **options)


def train(model, plugins, experiences, kind: str = "classes", **options):
    strategy = naive(model, plugins, **options)
    if kind == "pairs":
        strategy._criterion = ContrastiveCriterion()
    for experience in experiences:
        strategy.train(experience)
    return strategy


def images(x) -> torch.Tensor:
    return x.image if isinstance(x, ImageText) else x


def replayed_under(mini_model, kept: str, kind: str, tmp_path, **options):
    settings = {**KEPT[kept]}
    if settings.pop("folder", False):
        settings["folder"] = tmp_path
    memory = ExemplarMemory(max_samples=32, **settings)
    plugin = ExemplarReplayPlugin(mini_model, memory, batch_size=20, **options)
    seen = Recorder("after_forward", lambda s: images(s.mb_x)[16:].clone())
    first, second = stream(mini_model, kind).train_stream[:2]
    train(mini_model, [plugin, seen], [first], kind)
    stored = mini_model.transforms.eval.from_uint8(memory.sample(32)["pixels"])
    train(mini_model, [plugin, seen], [second], kind)
    replayed = seen.values[-1]
    assert len(replayed) == 20
    known = {x.numpy().tobytes() for x in stored}
    return [sum(x.numpy().tobytes() in known for x in views.contiguous()) for views in (replayed, replayed.flip(-1))]


@pytest.mark.parametrize("kept", slow_but_for_some(KEPT, ["uint8", "jpeg on disk"]))
@pytest.mark.parametrize("kind", ["classes", "pairs"])
def test_exemplars_are_replayed_under_the_training_transform(mini_model, kept, kind, tmp_path):
    as_kept, mirrored = replayed_under(mini_model, kept, kind, tmp_path)
    assert mirrored == 20 and as_kept < 20


def test_without_augmentation_they_are_replayed_as_they_were_kept(mini_model, tmp_path):
    as_kept, mirrored = replayed_under(mini_model, "uint8", "classes", tmp_path, augment=False)
    assert as_kept == 20 and mirrored < 20


def test_augmentation_follows_the_memorys_seed_and_leaves_the_global_draws_alone():
    runs = []
    for seed, start in ((0, 1), (0, 2), (5, 1)):
        torch.manual_seed(start), random.seed(start), np.random.seed(start)
        model = tiny_vlm("random")
        data = stream(model, training=Shifted).train_stream[0].dataset
        plugin = ExemplarReplayPlugin(model, ExemplarMemory(max_samples=4, seed=seed))
        view = TrainingView(data, model.transforms.eval)
        pixels = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
        runs.append([view.images(pixels, plugin._augmentations.next()) for _ in range(2)])
        assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
        assert (np.random.get_state()[1] == before[2]).all()
    (first, second), again, other = runs
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])
    assert not torch.equal(first, second) and not torch.equal(first, other[0])


@pytest.mark.parametrize("raw", ["PIL image", "uint8", "model input", "unit interval"])
def test_a_kept_picture_reaches_the_transform_in_the_form_of_the_data(mini_model, raw):
    transform = mini_model.transforms.eval
    pixels = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.mean, transform.std))
    samples, evaluate = {
        "PIL image": ([to_pil_image(x) for x in pixels], transform),
        "uint8": (pixels, transform),
        "model input": (transform.from_uint8(pixels), lambda x: x),
        "unit interval": (pixels / 255, lambda x: (x - mean) / std),
    }[raw]
    expected = type(samples[0]), getattr(samples[0], "dtype", None)
    met = []

    def training(image) -> torch.Tensor:
        met.append((type(image), getattr(image, "dtype", None)))
        return evaluate(image).flip(-1)

    data = as_experience_data(ImageDataset(samples, [0, 1, 2]), training, evaluate)
    for dataset in (data, data.subset([2, 1]), data.freeze_transforms(), data.concat(data)):
        met.clear()
        found = TrainingView(dataset, transform).images(pixels)
        torch.testing.assert_close(found, transform.from_uint8(pixels).flip(-1), atol=1e-4, rtol=0)
        assert met == [expected] * 3


def test_data_without_transforms_are_replayed_as_they_are(mini_model):
    transform = mini_model.transforms.eval
    pixels = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    data = make_avalanche_dataset(ImageDataset(transform.from_uint8(pixels), [0, 1, 2]))
    assert torch.equal(TrainingView(data, transform).images(pixels), transform.from_uint8(pixels))


def test_transforms_that_take_no_picture_are_named_once(mini_model):
    def only_texts(raw):
        return transform(pixels[int(raw.removeprefix("picture "))])

    transform = mini_model.transforms.eval
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    data = as_experience_data(ImageDataset(["picture 0", "picture 1"], [0, 1]), only_texts, only_texts)
    with pytest.warns(UserWarning, match="take no kept picture") as caught:
        view = TrainingView(data, transform)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(view.images(pixels), transform.from_uint8(pixels))
    assert len(caught) == 1


@pytest.mark.parametrize("memory", [LatentMemory(1 << 16), FeatureMemory("prototype")])
def test_a_union_is_refused_with_a_memory_whose_samples_cannot_be_read_one_by_one(mini_model, memory):
    with pytest.raises(InputError, match=f"with read, labels and task_labels, which {type(memory).__name__} does not"):
        ExemplarReplayPlugin(mini_model, memory, share="union")
    with pytest.raises(InputError, match=f"{type(memory).__name__} has no samples that are read one by one"):
        memory.read([0])


@pytest.mark.parametrize("kind", ["classes", "pairs"])
def test_a_union_shows_every_new_sample_and_every_exemplar_once_an_epoch(mini_model, kind):
    memory = ExemplarMemory(max_samples=8)
    plugin = ExemplarReplayPlugin(mini_model, memory, share="union")
    seen = Recorder("after_forward", lambda s: (images(s.mb_x).clone(), s.mb_y.clone(), s.mb_task_id.clone()))
    first, second = stream(mini_model, kind).train_stream[:2]
    train(mini_model, [plugin, seen], [first], kind)
    stored = memory.read(range(8))
    seen.values.clear()
    train(mini_model, [plugin, seen], [second], kind, epochs=2)
    new = torch.stack([images(sample[0]) for sample in second.dataset.train()])
    old = mini_model.transforms.eval.from_uint8(stored["pixels"]).flip(-1)
    together = sorted(x.numpy().tobytes() for x in torch.cat([new, old]))
    assert len(seen.values) == 6  # 40 samples in batches of 16
    for epoch in (seen.values[:3], seen.values[3:]):
        x, y, task = (torch.cat(parts) for parts in zip(*epoch, strict=True))
        assert sorted(image.numpy().tobytes() for image in x) == together
        expected = sorted(zip(stored["y"].tolist(), stored["task"].tolist(), strict=True))
        rows = [bool((x[i] == old).flatten(1).all(1).any()) for i in range(len(x))]
        assert sorted((int(y[i]), int(task[i])) for i in range(len(x)) if rows[i]) == expected


def test_icarl_trains_on_the_new_data_united_with_its_exemplars(mini_model):
    first, second = stream(mini_model).train_stream
    plugins = recipes.build("icarl", model=mini_model, max_bytes=8 * 3200)
    old_ids = torch.tensor(sorted(first.classes_in_this_experience))
    seen = Recorder("after_forward", lambda s: torch.isin(s.mb_y, old_ids))
    train(mini_model, [*plugins, seen], [first])
    kept = len(plugins[0].memory)
    seen.values.clear()
    train(mini_model, [*plugins, seen], [second], epochs=2)
    old = torch.cat(seen.values)
    assert 0 < kept <= 8 and (len(old), int(old.sum())) == (2 * (32 + kept), 2 * kept)
