"""Digests of data: what changes them, and what does not."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_with_validation_stream
from avalanche.benchmarks.utils import (
    AvalancheDataset,
    ConstantSequence,
    DataAttribute,
    TaskAwareSupervisedClassificationDataset,
)
from avalanche.benchmarks.utils.data_attribute import TaskLabels
from made import tiny as tiny_vlm
from PIL import Image
from torch.utils.data import ConcatDataset, Subset

from avalanche_vlm import _content, benchmarks
from avalanche_vlm._content import digest, file_digest, folder_digest
from avalanche_vlm.benchmarks import fingerprint
from avalanche_vlm.benchmarks.fingerprint import data_of, label_space_of, reference_of
from avalanche_vlm.benchmarks.label_space import PHOTO, LabelSpace, PromptTemplates
from avalanche_vlm.benchmarks.places import located
from avalanche_vlm.benchmarks.scenario import ImageDataset, ReferencePairs, VLMBenchmark
from avalanche_vlm.benchmarks.sources.registry import read_reference, read_stream
from avalanche_vlm.compat.data_sets import source_datasets, transform_steps
from avalanche_vlm.errors import InputError

SMALL = {"n_train": 8, "n_test": 6, "n_held_out": 8, "n_reference": 8}


def pictures(root: Path, of: str = "ab", n: int = 6) -> Path:
    rng = np.random.default_rng(0)
    for task in ("one", "two"):
        for name in of:
            folder = root / task / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def model():
    return tiny_vlm()


def digests_of(dataset) -> list[str]:
    return [of.decode() for of in fingerprint._samples(dataset)]


def content(path: Path, model, **options) -> dict:
    return data_of(read_stream(path, model=model, **options))["content"]


# Files -------------------------------------------------------------------------------------------------------------


def test_a_file_is_what_it_holds_and_not_what_it_is_called(tmp_path, monkeypatch):
    first, second = tmp_path / "a.png", tmp_path / "deep" / "b.png"
    second.parent.mkdir()
    first.write_bytes(b"12345678")
    second.write_bytes(b"12345678")
    assert file_digest(first) == file_digest(second)
    second.write_bytes(b"12345679")  # of equal size, a moment later
    assert file_digest(first) != file_digest(second)
    # Of a large file both ends and the size count.
    monkeypatch.setattr(_content, "WHOLE", 6)
    monkeypatch.setattr(_content, "ENDS", 2)
    seen = set()
    for i, bytes_ in enumerate((b"12345678", b"02345678", b"12345670", b"123x45678")):
        path = tmp_path / str(i)
        path.write_bytes(bytes_)
        seen.add(file_digest(path))
    assert len(seen) == 4
    with pytest.raises(InputError, match=r"cannot read .*nowhere: No such file"):
        file_digest(tmp_path / "nowhere")


def test_a_folder_is_its_files_wherever_it_lies(tmp_path):
    first = pictures(tmp_path / "x")
    second = Path(shutil.copytree(first, tmp_path / "y" / "z"))
    assert folder_digest(first) == folder_digest(second)
    (second / ".cache").mkdir()
    (second / ".cache" / "log").write_text("seen")
    assert folder_digest(first) == folder_digest(second)
    (second / "one" / "a" / "0.png").rename(second / "one" / "a" / "9.png")
    assert folder_digest(first) != folder_digest(second)


# Streams -----------------------------------------------------------------------------------------------------------


def test_a_folder_that_was_moved_is_the_same_data_and_a_picture_that_was_replaced_is_not(tmp_path, model):
    there = pictures(tmp_path / "mine")
    moved = Path(shutil.copytree(there, tmp_path / "elsewhere" / "mine"))
    before = content(there, model)
    assert content(moved, model) == before
    picture = moved / "one" / "a" / "3.png"
    old = picture.stat()
    pixels = np.asarray(Image.open(picture)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(picture, compress_level=0)
    assert content(moved, model)["all"] != before["all"] and old.st_size != 0
    # A picture that changes its class changes the data, though the files are the same.
    other = Path(shutil.copytree(there, tmp_path / "labelled"))
    (other / "two" / "a" / "5.png").rename(other / "two" / "b" / "6.png")
    assert content(other, model)["all"] != before["all"]


def test_another_split_is_another_stream_of_the_same_data(tmp_path, model):
    there = pictures(tmp_path / "mine", n=12)
    first, second = (content(there, model, seed=seed) for seed in (0, 1))
    assert first["all"] == second["all"] and first["train"] != second["train"] and first["test"] != second["test"]
    table = tmp_path / "pairs.csv"
    rows = [f"mine/one/a/{i}.png,caption {i}" for i in range(12)]
    table.write_text("image,caption\n" + "\n".join(rows))
    first, second = (content(table, model, seed=seed) for seed in (0, 1))
    assert first["all"] == second["all"] and first["train"] != second["train"]
    table.write_text("image,caption\n" + "\n".join([*rows[:-1], rows[-1] + "x"]))
    assert content(table, model)["all"] != first["all"]


def test_reference_pairs_are_pictures_and_captions(tmp_path, model):
    pictures(tmp_path / "mine")
    table = tmp_path / "pairs.csv"
    table.write_text("image,caption\nmine/one/a/0.png,x\nmine/one/a/1.png,y\n")
    first = reference_of(read_reference(table, model=model))
    assert first["pairs"] == 2 and first["path"] == str(table)
    table.write_text("image,caption\nmine/one/a/0.png,x\nmine/one/a/2.png,y\n")
    assert reference_of(read_reference(table, model=model))["content"] != first["content"]
    table.write_text("image,caption\nmine/one/a/0.png,x\nmine/one/a/1.png,z\n")
    assert reference_of(read_reference(table, model=model))["content"] != first["content"]
    drawn = [reference_of(benchmarks.create("picturebook", seed=s, **SMALL).reference)["content"] for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_prompts_names_and_tasks_are_a_label_space():
    spaces = [
        LabelSpace.from_names(["cat", "dog"]),
        LabelSpace.from_names(["dog", "cat"]),
        LabelSpace.from_names(["cat", "dog"], PromptTemplates("photo", ("a picture of a {}.",))),
        LabelSpace(("cat", "dog"), ((0,), (1,)), "union", (PHOTO,)),
    ]
    assert len({label_space_of(space) for space in spaces}) == 4
    assert label_space_of(spaces[0].with_visible("task")) == label_space_of(spaces[0])


class OfOthers(torch.utils.data.Dataset):
    """A data set that says nothing of its samples and turns them at random."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.pixels, self.targets, self.reads = pixels, [i % 2 for i in range(len(pixels))], 0

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int):
        self.reads += 1
        noise = torch.rand(()) + random.random() + np.random.rand()
        return self.pixels[index].float() + noise, self.targets[index]


def test_data_sets_of_others_are_read_in_part_and_leave_the_random_numbers_alone():
    def made(pixels: torch.Tensor) -> tuple[OfOthers, VLMBenchmark]:
        own = OfOthers(pixels)
        labels = [DataAttribute(own.targets, "targets"), TaskLabels(ConstantSequence(0, len(own)))]
        parts = [TaskAwareSupervisedClassificationDataset([own], data_attributes=labels)]
        space = LabelSpace.from_names(["a", "b"])
        return own, VLMBenchmark("others", "classes", parts, parts, label_space=space, task_names=["all"])

    pixels = torch.arange(3000, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    own, benchmark = made(pixels)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = data_of(benchmark)["content"]
    assert torch.equal(torch.rand(2), expected) and own.reads == 2 * 1000
    assert data_of(made(pixels)[1])["content"] == first
    pixels = pixels.clone()
    pixels[0] += 1
    assert data_of(made(pixels)[1])["content"] != first


class Noisy:
    """A sequence of images that draws at random."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> torch.Tensor:
        return index + torch.rand(()) + random.random() + np.random.rand()


@pytest.mark.parametrize(
    "digests",
    [
        lambda: digests_of(ImageDataset(Noisy(3), [0, 1, 0])),
        lambda: reference_of(ReferencePairs(Noisy(3), ["a", "b", "c"], torch.as_tensor)),
    ],
)
def test_a_sequence_that_draws_at_random_has_one_digest_and_leaves_the_random_numbers_alone(digests):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = digests()
    assert torch.equal(torch.rand(2), expected) and digests() == first


class Unmeasured(torch.utils.data.Dataset):
    """A data set that does not say how long it is, of which torch makes subsets."""

    def __getitem__(self, index: int):
        return torch.tensor([index]), 0


@pytest.mark.parametrize("of", [Unmeasured(), Subset(Unmeasured(), range(5))])
def test_a_part_of_a_data_set_that_does_not_say_how_long_it_is(of):
    found = digests_of(Subset(of, [2, 0]))
    assert found == [digest(fingerprint._bytes(of[at])) for at in (2, 0)]


def test_places_that_count_from_the_end_are_the_samples_there():
    one, two = (ImageDataset(torch.arange(at, at + 4).reshape(4, 1, 1, 1), [0, 1, 0, 1]) for at in (0, 4))
    joined = ConcatDataset([one, two])
    whole = digests_of(joined)
    assert "" not in whole and len(set(whole)) == 8
    for places in ([0, -1], [-8, -5, -4, 3]):
        assert digests_of(Subset(joined, places)) == [whole[at] for at in places]
        assert digests_of(Subset(Subset(joined, range(8)), places)) == [whole[at] for at in places]
    assert digests_of(Subset(one, [0, -1])) == [whole[0], whole[3]]
    ((_, _, at),) = located(Subset(one, [0, -1]), np.arange(2))
    assert at.tolist() == [0, 3]


def test_a_benchmark_that_avalanche_has_divided_is_covered_whole(model, monkeypatch):
    ours = benchmarks.create("picturebook", order=["night"], **{**SMALL, "n_train": 40})
    monkeypatch.setattr(fingerprint, "MOST_READ", 1)

    def divided() -> dict:
        streams = benchmark_with_validation_stream(ours, validation_size=4)
        return data_of(benchmarks.from_avalanche(streams, model=model))["content"]

    first = divided()
    assert divided() == first
    pictures = next(source_datasets(ours.train_stream[0].dataset)).images
    for i in (1, 17, 30):  # each of them counts, beyond the number that is read of data sets of others
        pictures[i, 0, 0, 0] ^= 1
        assert divided() != first
        pictures[i, 0, 0, 0] ^= 1
    assert divided() == first


@pytest.mark.parametrize("digests", [[], ["0" * 16], ["0123456789abcdef", "f" * 16] * 3, ["", "0" * 16], [""]])
def test_digests_in_an_array_have_the_digest_of_texts(digests):
    assert fingerprint._of_digests(np.array(digests, "S16")) == digest(digests)


def test_digests_do_not_depend_on_how_many_are_made_together(tmp_path, model, monkeypatch):
    stream = read_stream(pictures(tmp_path), model=model)
    whole = data_of(stream)["content"]
    for together in (1, 5):
        monkeypatch.setattr(fingerprint, "_TOGETHER", together)
        assert data_of(stream)["content"] == whole
    dataset = stream.train_stream[0].dataset
    source = next(source_datasets(dataset))
    assert digests_of(dataset) == [digest([of]) for of in source.contents_of(range(len(dataset)))]


def test_digests_tell_where_parts_end():
    assert digest(["a", "bc"]) != digest(["ab", "c"]) != digest(["abc"])
    # The same on every machine and in every process, for results are compared that were obtained elsewhere.
    plain = b"".join(len(part).to_bytes(8, "little") + part for part in (b"a", b"bc"))
    assert digest(["a", "bc"]) == hashlib.blake2b(plain, digest_size=8).hexdigest()


@pytest.mark.parametrize(
    "texts", [["ab", "cd"], ["a", "", "a"], ["é", "a"], ["x" * 200, "y" * 200], ["\ud800", "b"], [""], []]
)
def test_texts_that_are_digested_together_have_the_digest_of_one_after_the_other(texts):
    assert digest(texts) == digest(iter(texts)) == digest(tuple(texts))


def test_a_sample_is_traced_to_its_data_set_however_that_was_joined(tiny_pairs):
    first, second = (experience.dataset for experience in tiny_pairs.train_stream)
    joined = ConcatDataset([first.eval().subset([2, 1]), Subset(second, [3])])
    places = {}
    for source, rows, at in located(joined, np.arange(3)):
        places |= {row: (source, place) for row, place in zip(rows.tolist(), at.tolist(), strict=True)}
    assert [places[row][1] for row in range(3)] == [2, 1, 3]
    of_first, of_second = (next(source_datasets(of)) for of in (first, second))
    assert [places[row][0] for row in range(3)] == [of_first, of_first, of_second]
    both: AvalancheDataset = first.concat(second)
    ((source, rows, at),) = located(both, np.array([len(first) + 1]))
    assert source is of_second and rows.tolist() == [0] and at.tolist() == [1]
    assert not list(located(both, np.arange(0)))
    assert [type(step).__name__ for step in transform_steps(first, "train")] == ["PairTransform"]
