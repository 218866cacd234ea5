"""COCO, Flickr30k and the streams of captions made of them, on miniature files."""

from __future__ import annotations

import json

import pytest
import real_formats
import torch

from avalanche_vlm import benchmarks
from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.identity import alike, captions_of, images_of_rows
from avalanche_vlm.models.tiny import build_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:figures are not comparable", "ignore:.*caption.* longer than")

TOKENIZER = build_tokenizer()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    real_formats.coco_karpathy(root)
    real_formats.c_clip(root)
    return root


def create(name: str, root, **options):
    return benchmarks.create(name, root=str(root), tokenizer=TOKENIZER, **options)


def raw(experience):
    """The pairs beneath a task's data set."""
    dataset = experience.dataset
    while not hasattr(dataset, "captions"):
        (dataset,) = dataset._datasets
    return dataset


def files(experience) -> list[str]:
    """Names of the image files of a task, each once, in the order of the task."""
    return list(dict.fromkeys(path.name for path in raw(experience).images.paths))


def test_coco_has_karpathys_parts_and_five_captions_an_image(root):
    found = create("coco-karpathy", root)
    assert found.kind == "pairs" and found.task_names == ("COCO",) and found.label_space is None
    assert (found.protocol["n_train"], found.protocol["n_valid"], found.protocol["n_test"]) == ([30], [10], [15])
    listed = json.loads((root / "coco/dataset_coco.json").read_text())["images"]
    for stream, splits in ((found.train_stream, ("train", "restval")), (found.streams["valid"], ("val",)),
                           (found.test_stream, ("test",))):  # fmt: skip
        wanted = [of for of in listed if of["split"] in splits]
        assert files(stream[0]) == [of["filename"] for of in wanted]
        assert raw(stream[0]).captions == [said["raw"] for of in wanted for said in of["sentences"]]
    assert {path.parent.name for path in raw(found.train_stream[0]).images.paths} == {"train2014", "val2014"}


def test_captions_of_one_image_are_no_negatives_of_each_other(root):
    y = torch.tensor(list(create("coco-karpathy", root).test_stream[0].dataset.targets))
    assert images_of_rows(y).unique().numel() == 3 and captions_of(y).unique().numel() == 15
    same_image = torch.arange(15)[:, None] // 5 == torch.arange(15)[None] // 5
    assert torch.equal(alike(y, y), same_image)


def test_other_numbers_than_published_are_told(root):
    with pytest.warns(
        match="COCO with Karpathy's split has 6 images .train., not 113,287, and 2 images .valid., not 5"
    ):
        found = create("coco-karpathy", root)
    assert any("15 captions (test), not 25,010" in note for note in found.data.notes)
    told = benchmarks.describe("coco-karpathy")["data_sets"]["coco-karpathy"]
    assert told["images"] == {"train": 113_287, "valid": 5000, "test": 5000}
    assert told["captions"] == {"train": 566_747, "valid": 25_010, "test": 25_010}


def test_cocos_own_form_of_the_split_reads_the_same(tmp_path):
    for part, numbers in (("train", range(3)), ("val", range(3, 5)), ("test", range(5, 8))):
        year = "train2014" if part == "train" else "val2014"
        real_formats.coco_captions(tmp_path, f"coco/coco_{part}_karpathy.json", f"coco/{year}", numbers, year=year)
    found = create("coco-karpathy", tmp_path)
    assert (found.protocol["n_train"], found.protocol["n_valid"], found.protocol["n_test"]) == ([15], [10], [15])
    y = torch.tensor(list(found.test_stream[0].dataset.targets))
    assert images_of_rows(y).unique().numel() == 3
    (tmp_path / "coco/coco_val_karpathy.json").unlink()
    with pytest.raises(InputError, match=r"has neither coco/dataset_coco.json nor coco/coco_val_k"):
        create("coco-karpathy", tmp_path)


def test_modx_cuts_flickr_into_five_consecutive_phases(root):
    found = create("modx-coco-flickr", root)
    phases = [f"Flickr30k {n}" for n in range(1, 6)]
    assert found.task_names == ("COCO", *phases)
    listed = json.loads((root / "flickr30k/dataset_flickr30k.json").read_text())["images"]
    trained = [of["filename"] for of in listed if of["split"] in ("train", "val")]
    # 11 images: the file's order, validation images among the others, cut where k/5 of them are reached.
    assert [files(of) for of in list(found.train_stream)[1:]] == [
        trained[a:b] for a, b in ((0, 2), (2, 4), (4, 6), (6, 8), (8, 11))
    ]
    assert {tuple(files(of)) for of in list(found.test_stream)[1:]} == {
        tuple(of["filename"] for of in listed if of["split"] == "test")
    }
    alone = create("modx-coco-flickr", root, order="phases")
    assert list(alone.task_names) == phases and alone.protocol["sets"] == ["flickr30k-modx"]


def test_phases_of_the_true_length():
    from pathlib import Path

    from avalanche_vlm.benchmarks.families.image_text import PairStream
    from avalanche_vlm.benchmarks.registry import get_benchmark
    from avalanche_vlm.benchmarks.sources.captioned import CaptionedPart, CaptionedSet

    paths = [Path(f"{n}.jpg") for n in range(30_014)]
    whole = CaptionedPart(tuple(path for path in paths for _ in range(2)), ("a",) * 60_028)
    declared = PairStream(name="x", summary="", source="", members=("flickr30k-modx",), phases={"Flickr30k": 5})
    plans = declared.plans([CaptionedSet({"train": whole, "test": whole.at([0])})], {"captions": None, "seed": 0})
    assert [len(plan.train.files()) for plan in plans] == [6002, 6003, 6003, 6003, 6003]
    assert [path for plan in plans for path in plan.train.files()] == paths
    assert get_benchmark("modx-coco-flickr").kind == "pairs"


def test_some_captions_of_each_image_are_drawn_from_the_seed(root):
    def drawn(seed):
        return raw(create("flickr30k", root, captions=2, seed=seed).train_stream[0]).captions

    one = drawn(0)
    assert len(one) == 16 and {words.split()[1] for words in one} == {words.split()[1] for words in drawn(1)}
    assert one == drawn(0) != drawn(1)
    found = create("flickr30k", root, captions=2)
    assert found.protocol["split_seed"] == 0 and found.protocol["n_test"] == [10]


def test_c_clip_has_eight_sets_in_their_order(root):
    found = create("c-clip-8", root)
    assert list(found.task_names) == ["Flickr30k", "COCO", "Pets", "Lexica", "Simpsons", "WikiArt", "Kream", "Sketch"]
    assert found.protocol["n_train"] == [40, 20, 4, 4, 3, 4, 4, 4]
    assert found.protocol["n_test"] == [10, 10, 1, 1, 2, 1, 1, 1]  # 80 percent of five, but for a split of its own
    last = torch.randperm(5, generator=torch.Generator().manual_seed(42)).tolist()[-1]
    assert files(found.test_stream[2]) == [f"{last}.png"]
    some = create("c-clip-8", root, order=["Kream", "pets"])
    assert list(some.task_names) == ["Kream", "Pets"]


@pytest.mark.parametrize(
    ("change", "name", "sentence"),
    [
        (
            "coco/train2014",
            "coco-karpathy",
            "has no coco/train2014: it should be the folder of 82,783 images (COCO with",
        ),
        (
            "coco/dataset_coco.json",
            "coco-karpathy",
            "has no coco/dataset_coco.json or coco/coco_test_karpathy.json: it ",
        ),
        (
            "flickr30k/images",
            "flickr30k",
            "has no flickr30k/images or flickr30k/flickr30k-images: it should be the fold",
        ),
        ("flickr30k", "modx-coco-flickr", "Flickr30k with Karpathy's training"),
        ("kream", "c-clip-8", "has no kream: it should be the folder of images with captions (captions of products"),
        ("kream/metadata.jsonl", "c-clip-8", "has no kream/metadata.jsonl or kream/train/metadata.jsonl"),
    ],
)
def test_what_is_missing_is_named_with_what_it_should_hold(root, change, name, sentence):
    aside = root / "aside"
    (root / change).rename(aside)
    try:
        with pytest.raises(InputError) as caught:
            create(name, root)
    finally:
        aside.rename(root / change)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_split_file_that_is_wrong_is_one_sentence(tmp_path):
    images = real_formats.flickr30k(tmp_path)
    file = tmp_path / "flickr30k/dataset_flickr30k.json"

    def with_images(changed):
        file.write_text(json.dumps({"images": changed}))
        return pytest.raises(InputError)

    with with_images([{**images[0], "split": "training data?"}, *images[1:]]) as caught:
        create("flickr30k", tmp_path)
    assert "0.jpg belongs to no split" in str(caught.value)
    with with_images([of for of in images if of["split"] != "test"]) as caught:
        create("flickr30k", tmp_path)
    assert str(caught.value) == f"{file} has no images of the split test"
    with with_images([{**images[0], "filename": "gone.jpg"}, *images[1:]]) as caught:
        create("flickr30k", tmp_path)
    assert str(tmp_path / "flickr30k/images/gone.jpg") in str(caught.value)
    left_out = create("flickr30k", tmp_path, on_error="skip")
    assert len(left_out.data.skipped) == 1 and left_out.protocol["n_train"] == [35]
    with with_images([{**images[0], "sentences": [{"raw": " "}, {"raw": "told"}]}, *images[1:]]) as caught:
        create("flickr30k", tmp_path)
    assert "row 1: the caption is empty" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"order": "COCO,X"},
            "benchmark c-clip-8 has no data set called 'COCO,X' (did you mean COCO?); it has Flickr30k, COCO",
        ),
        ({"order": ["Pets", "Pets"]}, "benchmark c-clip-8: order names 'Pets' more than once"),
        ({"captions": 0}, "benchmark c-clip-8: captions is a whole number from 1, or none, not 0"),
        ({"label_space": "union"}, "benchmark c-clip-8 has no option 'label_space'; it has root, order, captions"),
        ({"tokenizer": None}, "benchmark c-clip-8 is a stream of captions: give the model's tokenizer"),
    ],
)
def test_options_that_cannot_be_meant(root, options, sentence):
    with pytest.raises(InputError) as caught:
        benchmarks.create("c-clip-8", **{"root": str(root), "tokenizer": TOKENIZER, **options})
    assert sentence in str(caught.value)
