"""Tars of samples: read where they lie, by name, in bounded memory, whatever they hold."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import real_formats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from real_files import picture, raw, save, transform
from real_formats import tar

from avalanche_vlm.benchmarks.aside import open_aside
from avalanche_vlm.benchmarks.sources import tars
from avalanche_vlm.benchmarks.sources.aside import AsideReading
from avalanche_vlm.benchmarks.sources.images import ImageFiles, read_image
from avalanche_vlm.benchmarks.sources.inside import content_inside
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import format_of, read_stream
from avalanche_vlm.benchmarks.sources.same_images import same_images
from avalanche_vlm.benchmarks.sources.webdataset import tar_rows
from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.identity import images_of_rows
from avalanche_vlm.models.tiny import build_tokenizer

TRANSFORMS = {"train_transform": transform, "eval_transform": transform}
MODEL = SimpleNamespace(transforms=SimpleNamespace(train=transform, eval=transform), tokenizer=build_tokenizer())


def jpeg(seed: int, form: str = "JPEG") -> bytes:
    """A small picture as bytes."""
    out = io.BytesIO()
    picture(seed).save(out, form)
    return out.getvalue()


def sample(number: int, **texts: str) -> dict[str, bytes]:
    """The files of one sample."""
    return {f"{number:06d}.jpg": jpeg(number), **{f"{number:06d}.{end}": of.encode() for end, of in texts.items()}}


def joined(*parts: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for part in parts for name, content in part.items()}


def clip_layout(folder: Path, shards: int = 2, each: int = 3) -> Path:
    """CLIP_benchmark's layout with three classes."""
    real_formats.write(folder / "classnames.txt", "red fox\ngrey wolf\nbrown bear\n")
    real_formats.write(folder / "zeroshot_classification_templates.txt", "a photo of a {c}.\na drawing of a {c}.\n")
    real_formats.write(folder / "dataset_type.txt", "classification\n")
    for part, first in (("train", 0), ("test", 100)):
        real_formats.write(folder / part / "nshards.txt", f"{shards}\n")
        for shard in range(shards):
            numbers = range(first + shard * each, first + (shard + 1) * each)
            tar(folder / part / f"{shard}.tar", joined(*(sample(n, cls=str(n % 3)) for n in numbers)))
    return folder


def rows_of(path: Path) -> list[dict]:
    return [fields for _, fields in tar_rows(path, Problems("raise"))]


def test_samples_are_files_of_one_name(tmp_path):
    files = {
        **{f"a/{name}": content for name, content in sample(1, cls="7\n", txt="one\n\ntwo ").items()},
        "a/000001.seg.png": b"mask",
        ".hidden": b"x",
        **sample(2, json=json.dumps({"caption": "said", "year": 2014, "nested": [1]})),
    }
    rows = rows_of(tar(tmp_path / "s.tar", files))
    assert rows == [
        {"label": "7", "caption": ["one", "two"], "image": "s.tar/a/000001.jpg"},
        {"caption": "said", "year": 2014, "image": "s.tar/000002.jpg"},
    ]
    assert format_of(tmp_path / "s.tar").name == "tar" and format_of(tmp_path).name == "tar-folder"


def test_a_stream_of_tars_is_that_of_the_same_files_on_the_disk(tmp_path):
    numbers = range(6)
    tar(tmp_path / "tars/train/10.tar", joined(*(sample(n, cls=str(n % 2)) for n in numbers[4:])))
    tar(tmp_path / "tars/train/2.tar", joined(*(sample(n, cls=str(n % 2)) for n in numbers[:4])))
    tar(tmp_path / "tars/test/0.tar", joined(*(sample(10 + n, cls=str(n % 2)) for n in range(2))))
    lines = ["image,label,split"]
    for n in [*numbers, 10, 11]:
        (tmp_path / f"{n}.jpg").write_bytes(jpeg(n))
        lines.append(f"{n}.jpg,{n % 2},{'train' if n < 10 else 'test'}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    of_tars, of_table = (read_stream(tmp_path / name, **TRANSFORMS) for name in ("tars", "table.csv"))
    for here, there in zip((of_tars.train_stream, of_tars.test_stream), (of_table.train_stream, of_table.test_stream),
                           strict=True):  # fmt: skip
        a, b = here[0].dataset, there[0].dataset
        assert list(a.targets) == list(b.targets)  # shard 2 before shard 10
        for row in range(len(b)):
            torch.testing.assert_close(a[row][0], b[row][0], rtol=0, atol=0)
        every = range(len(b))  # so that results on both may be compared
        assert list(raw(a).contents_of(every)) == list(raw(b).contents_of(every))


def test_captions_of_one_picture_in_a_tar_are_of_one_image(tmp_path):
    tar(tmp_path / "pairs.tar", joined(*(sample(n, txt=f"first {n}\nsecond {n}") for n in range(5))))
    found = read_stream(tmp_path / "pairs.tar", tokenizer=build_tokenizer(), **TRANSFORMS)
    y = torch.tensor([*found.train_stream[0].dataset.targets, *found.test_stream[0].dataset.targets])
    assert found.kind == "pairs" and len(y) == 10 and images_of_rows(y).unique().numel() == 5


def test_a_read_that_goes_on_within_a_shard_gets_the_same_samples(tmp_path):
    path = tar(tmp_path / "s.tar", joined(*(sample(n, cls="0") for n in range(8))))
    images = ImageFiles([tmp_path / row["image"] for row in rows_of(path)])
    whole = [np.asarray(image) for image in images]
    tars._INDICES.clear()  # as in another process
    again = pickle.loads(pickle.dumps(images))
    assert all((np.asarray(again[row]) == whole[row]).all() for row in range(5, 8))
    tar(path, joined(*(sample(n, cls="0") for n in reversed(range(8)))))
    os.utime(path, ns=(1, 1))
    assert all((np.asarray(again[row]) == whole[row]).all() for row in range(8))  # found by name, not by place


def test_clip_benchmarks_layout_brings_names_and_prompts(tmp_path):
    folder = clip_layout(tmp_path / "wds_animals")
    reading = AsideReading(MODEL)
    (found,) = open_aside([str(folder)], None, reading)
    assert found.name == "wds_animals" and found.dataset.targets == [n % 3 for n in range(100, 106)]
    assert found.label_space.class_names == ("red fox", "grey wolf", "brown bear")
    assert found.label_space.templates[0].templates == ("a photo of a {}.", "a drawing of a {}.")
    stream = read_stream(folder, **TRANSFORMS)
    assert stream.label_space.class_names == found.label_space.class_names
    assert stream.label_space.templates[0].templates == found.label_space.templates[0].templates
    assert (stream.protocol["n_train"], stream.protocol["n_test"], stream.protocol["split"]) == ([6], [6], "column")


def test_clip_benchmarks_captions_are_a_retrieval_set(tmp_path):
    real_formats.write(tmp_path / "coco/test/nshards.txt", "1")
    tar(tmp_path / "coco/test/0.tar", joined(*(sample(n, txt=f"a {n}\nb {n}\nc {n}") for n in range(2))))
    (found,) = open_aside([str(tmp_path / "coco")], None, AsideReading(MODEL))
    assert found.label_space is None and len(found.dataset) == 6
    assert images_of_rows(torch.tensor(found.dataset.targets)).unique().numel() == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: (f / "test/1.tar").unlink(), "test has no 1.tar: nshards.txt says 2 tars, from 0.tar to 1.tar"),
        (lambda f: (f / "test/nshards.txt").write_text("many"), "nshards.txt should hold the number of tars beside it"),
        (lambda f: (f / "test/nshards.txt").write_text("9" * 5000), "nshards.txt should hold the number of tars"),
        (lambda f: (f / "classnames.txt").write_text("red fox\n"), "has the class id 1, and there are 1 classes"),
        (lambda f: (f / "zeroshot_classification_templates.txt").write_text("a photo"), "class name"),
        (lambda f: tar(f / "test/0.tar", sample(1, cls="red")), "the class is a whole number from 0, not 'red'"),
        (lambda f: tar(f / "test/0.tar", {**sample(1), "000001.npy": b"\x80\x04."}), "its classes lie in a .npy"),
        (lambda f: tar(f / "test/0.tar", {"1.cls": b"0"}), "row 1 (1 in test/0.tar): there is no image"),
        (lambda f: tar(f / "test/0.tar", sample(1, json="{")), "a text of it is neither UTF-8 nor JSON"),
    ],
)  # fmt: skip
def test_a_layout_that_is_wrong_is_one_sentence(tmp_path, change, sentence):
    folder = clip_layout(tmp_path / "set")
    change(folder)
    with pytest.raises(InputError) as caught:
        open_aside([str(folder)], None, AsideReading(MODEL, Problems("raise")))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_names_that_lead_out_of_a_tar_and_links_are_passed_over(tmp_path):
    secret = save(tmp_path / "secret.jpg", picture(3))
    path = tmp_path / "in/s.tar"
    tar(path, {str(secret): b"x", "../secret.jpg": b"x", **sample(1, cls="0")})
    with tarfile.open(path, "a") as to:
        link = tarfile.TarInfo("2.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        to.addfile(link)
        pipe = tarfile.TarInfo("3.jpg")
        pipe.type = tarfile.FIFOTYPE
        to.addfile(pipe)
    assert [row["image"] for row in rows_of(path)] == ["s.tar/000001.jpg"]
    for name in ("2.jpg", "3.jpg", "4.jpg"):
        with pytest.raises(InputError, match=f"s.tar has no {name}$"):
            read_image(path / name)
    assert sorted(of.name for of in tmp_path.rglob("*")) == ["in", "s.tar", "secret.jpg"]  # nothing was unpacked


def test_a_table_may_name_members_of_a_tar(tmp_path):
    tar(tmp_path / "pictures.tar", joined(*(sample(n) for n in range(4))))
    rows = [f"pictures.tar/{n:06d}.jpg,{n % 2},{split}" for n, split in enumerate(("train", "train", "test", "test"))]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,split", *rows]))
    found = read_stream(tmp_path / "t.csv", **TRANSFORMS)
    assert list(found.test_stream[0].dataset.targets) == [0, 1]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,split", *rows, "pictures.tar/9.jpg,0,test"]))
    with pytest.raises(InputError, match=r"row 6: .*pictures\.tar has no 9\.jpg"):
        read_stream(tmp_path / "t.csv", **TRANSFORMS)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header that says what no honest tar does."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def test_a_nominal_size_is_neither_read_nor_held(tmp_path):
    path, large = tmp_path / "large.tar", 10 * 2**30
    with path.open("wb") as file:
        file.write(header("0.jpg", large))
        file.seek(large, os.SEEK_CUR)  # a hole, which takes no room on the disk
        file.write(tar(tmp_path / "small.tar", sample(1, cls="0")).read_bytes())
    tracemalloc.start()
    try:
        rows = rows_of(path)
        assert [row["image"] for row in rows] == ["large.tar/0.jpg", "large.tar/000001.jpg"]
        assert (np.asarray(read_image(tmp_path / rows[1]["image"])) == np.asarray(read_image(
            tmp_path / "small.tar/000001.jpg"))).all()  # fmt: skip
        with pytest.raises(InputError, match=r"0\.jpg has 10\.0 GiB, and what lies in another file is read up to 256"):
            read_image(path / "0.jpg")
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (header("x", 2**30, tarfile.XHDTYPE) + bytes(512), "has headers of more than 1.0 MiB for one member"),
        (header("x", 2**40, tarfile.GNUTYPE_LONGNAME) + bytes(512), "has headers of more than 1.0 MiB"),
        (header("1.jpg", 4096) + bytes(512), "ends in the middle of 1.jpg"),
        (b"\x1f\x8b" + bytes(600), "is compressed: a plain tar is read"),
        (b"no tar" * 200, "is no tar that can be read"),
        (header("1.jpg", 512)[:100] + bytes(24) + struct.pack(">Bq", 255, -1)[:9].rjust(12, b"\xff") + bytes(376), ""),
        (header("././@LongLink", 512, tarfile.GNUTYPE_LONGNAME) * 3000, ""),
    ],
)
def test_a_tar_that_lies_ends_in_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "s.tar"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        rows_of(path)
        read_image(path / "1.jpg")
    assert str(caught.value).startswith(str(path)) and sentence in str(caught.value) and "\n" not in str(caught.value)


def test_headers_of_a_whole_tar_are_not_gone_through_for_each_member(tmp_path):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={f"k{i}": "v" for i in range(2000)}) as out:
        for number in range(3):
            out.addfile(tarfile.TarInfo(f"{number}.txt"))
    with path.open("rb") as file:
        found = list(tars._headers(path, file))
    assert [info.name for info in found] == ["0.txt", "1.txt", "2.txt"]
    assert [len(info.pax_headers) for info in found[1:]] == [0, 0]


def test_a_tar_that_is_a_link_is_read(tmp_path):
    """As the cache of a hub lays data sets out."""
    (tmp_path / "blobs").mkdir()
    tar(tmp_path / "blobs/0.tar", joined(sample(0, cls="0"), sample(1, cls="1"))).rename(tmp_path / "blobs/5feceb66")
    (link := tmp_path / "0.tar").symlink_to("blobs/5feceb66")
    (other := tmp_path / "again.tar").symlink_to("blobs/5feceb66")
    first, second = link / "000000.jpg", link / "000001.jpg"
    assert same_images([first, second, other / "000000.jpg"]) == {str(other / "000000.jpg"): str(first)}


def test_two_files_of_one_name_are_refused(tmp_path):
    path = tar(tmp_path / "s.tar", sample(1, cls="0"))
    with tarfile.open(path, "a") as to:
        to.addfile(tarfile.TarInfo("000001.jpg"))
    with pytest.raises(InputError, match=r"s\.tar has two files"):
        rows_of(path)
    with pytest.raises(InputError, match="has two files of one name"):
        read_image(path / "000001.jpg")


def test_texts_are_read_up_to_a_size(tmp_path):
    path = tar(tmp_path / "s.tar", sample(1, txt="a" * (2**20 + 1)))
    with pytest.raises(InputError, match=r"000001\.txt has 1\.0 MiB, and texts are read up to 1\.0 MiB"):
        rows_of(path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_bytes_a_tar_has_it_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "s.tar"
    content = bytearray(tar(path, joined(sample(1, cls="0"), sample(2, txt="a"))).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        for row in rows_of(path):
            read_image(path.parent / row["image"])
    except InputError as error:
        assert "\n" not in str(error)


def test_webdatasets_own_reader_finds_the_same(tmp_path):
    wds = pytest.importorskip("webdataset")
    path = tar(tmp_path / "s.tar", joined(*(sample(n, cls=str(n), txt=f"a {n}") for n in range(4))))
    theirs = list(wds.WebDataset(str(path), shardshuffle=False, nodesplitter=wds.single_node_only))
    ours = rows_of(path)
    assert [of["__key__"] for of in theirs] == [Path(row["image"]).stem for row in ours]
    for of, row in zip(theirs, ours, strict=True):
        assert of["jpg"] == content_inside(tmp_path / row["image"])
        assert (of["cls"].decode(), of["txt"].decode()) == (row["label"], row["caption"][0])
