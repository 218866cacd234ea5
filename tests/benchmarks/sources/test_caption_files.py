"""Captions as other tools store them: COCO's JSON, Karpathy's splits, token lists, folders with a table of metadata."""

from __future__ import annotations

import json

import pytest
from real_files import picture, raw, save, transform

from avalanche_vlm.benchmarks import reference_table
from avalanche_vlm.benchmarks.sources.registry import format_of, read_stream
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.tiny import build_tokenizer

PAIRS = {"train_transform": transform, "eval_transform": transform, "tokenizer": build_tokenizer()}


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        save(tmp_path / "img" / f"{i}.jpg", picture(i))
    return tmp_path


def pairs(stream) -> set[tuple[str, str]]:
    """Picture and caption of every sample."""
    found = set()
    for experience in stream:
        data = raw(experience.dataset)
        found |= {(path.name, caption) for path, caption in zip(data.images.paths, data.captions, strict=True)}
    return found


WANTED = {(f"{i}.jpg", f"text {i} {k}") for i in range(6) for k in range(2)}


def every(benchmark):
    return pairs(benchmark.train_stream) | pairs(benchmark.test_stream)


def test_cocos_captions(folder):
    coco = {
        "images": [{"id": 10 + i, "file_name": f"{i}.jpg"} for i in range(6)] + [{"id": 99, "file_name": "no.jpg"}],
        "annotations": [
            {"id": n, "image_id": 10 + i, "caption": f"text {i} {k}"}
            for n, (i, k) in enumerate((i, k) for i in range(6) for k in range(2))
        ],
    }
    (folder / "captions.json").write_text(json.dumps(coco))
    benchmark = read_stream(folder / "captions.json", image_root=folder / "img", **PAIRS)
    assert benchmark.kind == "pairs" and every(benchmark) == WANTED
    assert any("1 images without a caption" in note for note in benchmark.data.notes)
    sides = [{name for name, _ in pairs(s)} for s in (benchmark.train_stream, benchmark.test_stream)]
    assert not sides[0] & sides[1]  # all captions of a picture on one side
    assert len(reference_table(folder / "captions.json", transform=transform, image_root=folder / "img")) == 12
    coco["annotations"].append({"image_id": 5, "caption": "lost"})
    (folder / "captions.json").write_text(json.dumps(coco))
    with pytest.raises(InputError, match=r"captions\.json, row 13: there is no image with the id 5"):
        read_stream(folder / "captions.json", image_root=folder / "img", **PAIRS)
    coco["annotations"] = [{"image_id": 10, "category_id": 3}]
    (folder / "instances.json").write_text(json.dumps(coco))
    with pytest.raises(InputError, match="has annotations without captions"):
        read_stream(folder / "instances.json", image_root=folder / "img", **PAIRS)


def test_karpathys_splits_and_lists_of_objects(folder):
    split = ("train", "restval", "train", "val", "test", "test")
    images = [
        {
            "filepath": "img",
            "filename": f"{i}.jpg",
            "split": split[i],
            "sentences": [{"raw": f"text {i} {k}"} for k in (0, 1)],
        }
        for i in range(6)
    ]
    (folder / "dataset.json").write_text(json.dumps({"images": images}))
    benchmark = read_stream(folder / "dataset.json", **PAIRS)
    assert [benchmark.protocol[f"n_{s}"] for s in ("train", "valid", "test")] == [[6], [2], [4]]
    objects = [{"image": f"img/{i}.jpg", "caption": [f"text {i} {k}" for k in range(2)]} for i in range(6)]
    (folder / "list.json").write_text(json.dumps(objects))
    assert every(read_stream(folder / "list.json", **PAIRS)) == WANTED
    (folder / "other.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match=r"other\.json holds no captions"):
        read_stream(folder / "other.json", **PAIRS)
    (folder / "other.json").write_text("{")
    with pytest.raises(InputError, match=r"other\.json is not JSON"):
        read_stream(folder / "other.json", **PAIRS)


LISTS = {
    "Flickr8k.token.txt": "\n".join(f"{i}.jpg#{k}\ttext {i} {k}" for i in range(6) for k in range(2)),
    "results.token": "\n".join(f"{i}.jpg#{k}\ttext {i} {k}" for i in range(6) for k in range(2)),
    "bare.txt": "\n".join(f"{i}.jpg\ttext {i} {k}" for i in range(6) for k in range(2)),
    "captions.txt": "image,caption\n" + "\n".join(f"{i}.jpg,text {i} {k}" for i in range(6) for k in range(2)),
    "results.csv": "image_name| comment_number| comment\n"
    + "\n".join(f"{i}.jpg| {k}| text {i} {k}" for i in range(6) for k in range(2)),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_captions(name, folder):
    (folder / name).write_text(LISTS[name])
    assert every(read_stream(folder / name, image_root=folder / "img", **PAIRS)) == WANTED


def test_lists_with_odd_lines(folder):
    (folder / "a.txt").write_text("0.jpg#0\ttext\n1.jpg\n")
    with pytest.raises(InputError, match=r"a\.txt, row 2: there is no tab between image and caption"):
        read_stream(folder / "a.txt", image_root=folder / "img", **PAIRS)
    (folder / "b.txt").write_text("nothing of the kind\n")
    with pytest.raises(InputError, match=r"b\.txt is no list of captions"):
        read_stream(folder / "b.txt", **PAIRS)
    quoted = 'image|caption\nimg/0.jpg|a sign "stop\nimg/1.jpg|two\nimg/2.jpg|three\n'
    (folder / "c.csv").write_text(quoted)  # as in Flickr30k, whose quotes are no quotes
    assert ("0.jpg", 'a sign "stop') in every(read_stream(folder / "c.csv", **PAIRS))


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_folder_with_a_table_of_metadata(name, folder):
    rows = [{"file_name": f"{i}.jpg", "text": f"text {i} {k}"} for i in range(6) for k in range(2)]
    lines = (
        ["file_name,text", *(",".join(row.values()) for row in rows)] if name.endswith("csv") else map(json.dumps, rows)
    )
    (folder / "img" / name).write_text("\n".join(lines))
    assert format_of(folder / "img").name == "described-folder"
    assert every(read_stream(folder / "img", **PAIRS)) == WANTED
    assert every(read_stream(folder / "img" / name, **PAIRS)) == WANTED


def test_a_folder_with_metadata_in_its_splits(tmp_path):
    for split, n in (("train", 3), ("test", 2)):
        for i in range(n):
            save(tmp_path / split / f"{i}.png", picture(i))
        rows = [json.dumps({"file_name": f"{i}.png", "label": "cat" if i % 2 else "dog"}) for i in range(n)]
        (tmp_path / split / "metadata.jsonl").write_text("\n".join(rows))
    benchmark = read_stream(tmp_path, **PAIRS)
    assert benchmark.kind == "classes" and benchmark.label_space.class_names == ("cat", "dog")
    assert (benchmark.protocol["n_train"], benchmark.protocol["n_test"]) == ([3], [2])


@pytest.mark.parametrize("facts", [{"split": {}}, {"split": ["train"]}, {"filepath": {"a": 1}}, {"filename": [1]}])
def test_a_split_or_a_name_that_is_no_text_is_said_of_its_row(folder, facts):
    image = {"filename": "0.jpg", "split": "train", "sentences": [{"raw": "a"}], **facts}
    (folder / "dataset.json").write_text(json.dumps({"images": [image]}))
    with pytest.raises(InputError, match=r"row 1: the split or the name of its image is not text"):
        read_stream(folder / "dataset.json", **PAIRS)
