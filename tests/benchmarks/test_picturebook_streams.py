"""The picturebook's streams as Avalanche benchmarks, and what the shipped model makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made import tiny as tiny_vlm
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks import ImageText, picturebook
from avalanche_vlm.benchmarks.picturebook import scenes
from avalanche_vlm.benchmarks.picturebook.held_out import held_out_sets, reference_pairs
from avalanche_vlm.benchmarks.picturebook.tasks import MTIL_LIKE, RealDigits
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.zero_shot import retrieval_scores, zero_shot_accuracy

SMALL = {"n_train": 24, "n_test": 12, "n_held_out": 20, "n_reference": 10}
STREAMS = ("mtil_like", "class_incremental", "domain_incremental", "time_incremental", "pairs")


def bytes_of(benchmark) -> bytes:
    parts = []
    for stream in (benchmark.train_stream, benchmark.test_stream):
        for experience in stream:
            for x, y, t in DataLoader(experience.dataset.eval(), batch_size=64):
                image = x.image if isinstance(x, ImageText) else x
                parts += [image.numpy().tobytes(), y.numpy().tobytes(), t.numpy().tobytes()]
    parts += [image.tobytes() for image in benchmark.reference.images.numpy()]
    return b"".join(parts)


@pytest.mark.parametrize("name", STREAMS)
def test_the_same_seed_gives_the_same_bytes(name):
    stream = getattr(picturebook, name)
    first = bytes_of(stream(5, **SMALL))
    assert first == bytes_of(stream(5, **SMALL))
    assert first != bytes_of(stream(6, **SMALL))


def test_mtil_like_has_eight_tasks_with_their_own_classes():
    benchmark = picturebook.mtil_like(**SMALL)
    space = benchmark.label_space
    assert len(benchmark.train_stream) == len(benchmark.test_stream) == 8
    for t, (train, test) in enumerate(zip(benchmark.train_stream, benchmark.test_stream, strict=True)):
        assert train.task_labels == test.task_labels == [t]
        assert set(train.classes_in_this_experience) <= set(space.tasks[t])
        assert len(train.dataset) == 24 and len(test.dataset) == 12
    assert len({c for task in space.tasks for c in task}) == len(space) == sum(map(len, space.tasks))


def test_the_union_merges_equal_names_and_keeps_the_task_labels():
    benchmark = picturebook.mtil_like(label_space="union", **SMALL)
    assert len(set(benchmark.label_space.class_names)) == len(benchmark.label_space)
    streams = benchmark, picturebook.pairs(**SMALL), picturebook.domain_incremental(**SMALL)
    for experience in (e for b in streams for stream in b.streams.values() for e in stream):
        assert experience.task_labels == [experience.current_experience]


def test_one_style_slowly_gives_way_to_the_next():
    stream = picturebook.time_incremental(n_experiences=5, styles=("sketch", "night"), **{**SMALL, "n_train": 400})
    assert all(set(e.classes_in_this_experience) == set(range(10)) for e in stream.train_stream)
    # Sketches have no colour but their paper's yellow; almost all of night is bluer than red.
    bluer = []
    for experience in stream.train_stream:
        pictures = torch.stack([experience.dataset.eval()[i][0] for i in range(400)])
        bluer.append((pictures[:, 2] > pictures[:, 0]).double().mean((1, 2)).gt(0.5).double().mean().item())
    assert bluer[0] == 0 and bluer[4] > 0.9
    assert bluer == pytest.approx([share * bluer[4] for share in (0, 0.25, 0.5, 0.75, 1)], abs=0.07)
    for wrong in ({"styles": ("night",)}, {"n_experiences": 1}):
        with pytest.raises(InputError, match="at least two experiences and two styles"):
            picturebook.time_incremental(**wrong, **SMALL)


def test_class_and_domain_incremental():
    classes = picturebook.class_incremental(n_experiences=4, **SMALL)
    seen = [set(e.classes_in_this_experience) for e in classes.train_stream]
    assert [len(s) for s in seen] == [5] * 4 and len(set.union(*seen)) == 20
    domains = picturebook.domain_incremental(domains=("night", "mosaic"), **SMALL)
    assert domains.task_names == ("night", "mosaic") and len(domains.label_space) == 10
    assert all(set(e.classes_in_this_experience) == set(range(10)) for e in domains.train_stream)
    with pytest.raises(InputError, match="20 classes cannot be split evenly into 3"):
        picturebook.class_incremental(n_experiences=3, **SMALL)
    with pytest.raises(InputError, match="no style is called 'cubism'"):
        picturebook.domain_incremental(domains=("cubism",), **SMALL)
    with pytest.raises(InputError, match="no task is called 'cars'"):
        picturebook.mtil_like(order=["cars"], **SMALL)
    with pytest.raises(InputError, match="the order names task 'toys' more than once"):
        picturebook.mtil_like(order=["toys", "night", "toys"])
    with pytest.raises(InputError, match="the order names style 'night' more than once"):
        picturebook.pairs(domains=["night", "night"])


def test_pairs_carry_tokens_and_test_captions_are_distinct():
    benchmark = picturebook.pairs(domains=("night",), **SMALL)
    batch, y, _ = next(iter(DataLoader(benchmark.test_stream[0].dataset, batch_size=12)))
    assert isinstance(batch, ImageText) and batch.tokens.shape == (12, 20)
    assert len(set(y.tolist())) == 12


def test_a_caption_has_one_identity_in_the_whole_benchmark():
    benchmark = picturebook.pairs(domains=("night", "mosaic"), **SMALL)
    identity: dict[tuple, int] = {}
    for stream in (benchmark.train_stream, benchmark.test_stream):
        for experience in stream:
            for x, y, _ in DataLoader(experience.dataset, batch_size=64):
                for tokens, caption in zip(x.tokens.tolist(), y.tolist(), strict=True):
                    assert identity.setdefault(tuple(tokens), caption) == caption
    assert len(set(identity.values())) == len(identity)


def test_the_real_digits_are_real_and_split_without_overlap():
    task = RealDigits()
    train, _ = task.draw(1397, 0, "train")
    test, labels = task.draw(400, 0, "test")
    assert set(labels) == set(range(10))
    seen = {image.tobytes() for image in train}
    assert sum(image.tobytes() in seen for image in test) == 0
    with pytest.raises(InputError, match="1397 pictures for train"):
        task.draw(1398, 0, "train")


def test_held_out_captions_are_in_no_training_or_reference_set():
    model = tiny_vlm("random")
    held_out = held_out_sets(0, 100, model.transforms.eval, model.tokenizer)[0].dataset.dataset
    reference = reference_pairs(0, 500, model.transforms.eval)
    assert len(set(held_out.captions)) == 100
    assert not set(held_out.captions) & set(reference.captions)
    rng = np.random.default_rng(0)
    drawn = scenes.sample_scenes(rng, 20_000)
    assert not drawn.held_out.any()


@pytest.fixture(scope="module")
def shipped():
    return tiny_vlm().eval()


def test_the_shipped_model_retrieves_held_out_captions(shipped):
    data = held_out_sets(0, 1000, shipped.transforms.eval, shipped.tokenizer)[0].dataset
    scores = retrieval_scores(shipped, data)
    assert scores["image_to_text_hit@1"] >= 0.95 and scores["text_to_image_hit@1"] >= 0.95


@pytest.mark.slow
def test_the_shipped_model_is_well_above_chance_on_every_task(shipped):
    benchmark = picturebook.mtil_like(n_train=24, n_test=250, n_held_out=20, n_reference=10)
    shipped.set_label_space(benchmark.label_space)
    for task, experience in zip(MTIL_LIKE, benchmark.test_stream, strict=True):
        with torch.no_grad():
            x, y, t = next(iter(DataLoader(experience.dataset.eval(), batch_size=250)))
            accuracy = (shipped(x, t).argmax(1) == y).float().mean().item()
        # Half again as good as chance, and then some: beyond what 250 pictures give by luck.
        assert accuracy > 1.5 / len(task.class_names) + 0.08, task.name


def test_zero_shot_accuracy_of_attributes_that_no_task_trains(shipped):
    for held_out in held_out_sets(1, 400, shipped.transforms.eval, shipped.tokenizer)[1:]:
        assert zero_shot_accuracy(shipped, held_out.dataset, held_out.label_space) > 0.9


@pytest.mark.parametrize("option", ["n_train", "n_test", "n_held_out", "n_reference"])
def test_more_than_memory_holds_is_refused_before_it_is_drawn(option):
    said = f"{option} of the picturebook: 1000000 is above 100,000: so many would take 71"
    with pytest.raises(InputError, match=said):
        picturebook.mtil_like(**{option: 10**6})
    with pytest.raises(InputError, match="is above 100,000"):
        picturebook.mtil_like(**{option: 10**400})
