"""Image files that are found corrupt when they are met: others take their places, the same ones whoever reads them."""

from __future__ import annotations

import errno
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import real_formats
import torch
from real_files import picture, raw, save, transform, truncate
from torch.utils.data import DataLoader

from avalanche_vlm import benchmarks
from avalanche_vlm.benchmarks import from_avalanche, image_folder_stream, pairs_stream
from avalanche_vlm.benchmarks.aside import open_aside
from avalanche_vlm.benchmarks.identities import Identities
from avalanche_vlm.benchmarks.passed_over import TOLD, PassedOver, StandIns
from avalanche_vlm.benchmarks.reading import ordered_batches, reading_by
from avalanche_vlm.benchmarks.scenario import ImageDataset
from avalanche_vlm.benchmarks.sources.aside import AsideReading
from avalanche_vlm.benchmarks.sources.images import ImageFiles
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import read_stream
from avalanche_vlm.benchmarks.transforms import ImageTransform
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.packing import pack
from avalanche_vlm.memory.unpacking import unpack
from avalanche_vlm.models.tiny import build_tokenizer
from avalanche_vlm.studies.living.growth import continued

TOKENIZER = build_tokenizer()
EVAL = ImageTransform(32, (0.5,) * 3, (0.5,) * 3)
MODEL = SimpleNamespace(transforms=SimpleNamespace(train=EVAL, eval=EVAL), tokenizer=TOKENIZER)
SKIP = {"on_error": "skip", "check": "none", "check_workers": 0}

pytestmark = pytest.mark.filterwarnings("ignore:figures are not comparable", "ignore:.*caption.* longer than")


def folder(root: Path, each: int = 6) -> Path:
    """Two classes whose pictures all differ."""
    for c, name in enumerate(("cat", "dog")):
        for i in range(each):
            save(root / "train" / name / f"{i}.png", picture(50 * c + i, 32, 32))
            save(root / "test" / name / f"{i}.png", picture(1000 + 50 * c + i, 32, 32))
    return root


def of_folder(root: Path, **options):
    return image_folder_stream(root, train_transform=transform, eval_transform=transform, **{**SKIP, **options})


def pairs(root: Path, rows: int = 6, test: int = 2, **options):
    lines = ["image,caption,split"]
    for i in range(rows + test):
        save(root / f"{i}.png", picture(i, 32, 32))
        lines.append(f"{i}.png,a picture number {i},{'train' if i < rows else 'test'}")
    (root / "pairs.csv").write_text("\n".join(lines))
    shown = {"train_transform": transform, "eval_transform": transform, "tokenizer": TOKENIZER}
    return pairs_stream(root / "pairs.csv", **{**shown, **SKIP, **options})


def whole(path: Path) -> torch.Tensor:
    """What a file that can be read looks like."""
    return transform(ImageFiles([path])[0])


def files_met(benchmark) -> list[str]:
    """Names of the files of which the report says something."""
    found = benchmark.data.as_json().get("passed_over", {"count": 0, "files": []})
    assert found["count"] == len(found["files"])
    return [sentence.partition(" ")[0].rpartition("/")[2] for sentence in found["files"]]


def test_the_next_image_of_the_class_takes_the_place_and_is_said_with_the_reason(tmp_path):
    benchmark = of_folder(folder(tmp_path))
    assert "passed_over" not in benchmark.data.as_json()
    data = benchmark.train_stream[0].dataset
    paths, targets = raw(data).images.paths, list(raw(data).targets)
    bad = [tmp_path / "train" / "cat" / name for name in ("2.png", "3.png", "5.png")]
    for path in bad:
        truncate(path)
    places = {"2.png": "4.png", "3.png": "4.png", "5.png": "0.png"}  # behind the last one comes the first
    for row, path in enumerate(paths):
        x, y, _ = data[row]
        stands = path.with_name(places[path.name]) if path in bad else path
        assert torch.equal(x, whole(stands)) and y == targets[row]
    found = benchmark.data.as_json()["passed_over"]
    assert found["count"] == 3
    assert all(said.startswith(f"{path} cannot be decoded: ") for path, said in zip(bad, found["files"], strict=True))
    assert not benchmark.data.skipped and len(data) == 12 and list(data.targets) == targets


def test_a_corrupt_image_stops_as_before_where_nothing_else_is_asked_for(tmp_path):
    benchmark = of_folder(folder(tmp_path), on_error="raise")
    bad = truncate(tmp_path / "train" / "cat" / "2.png")
    with pytest.raises(InputError, match=str(bad)):
        list(DataLoader(benchmark.train_stream[0].dataset, 4))
    assert raw(benchmark.train_stream[0].dataset).stand_ins is None


def test_processes_that_load_find_the_same_and_say_so(tmp_path):
    found = []
    folder(tmp_path)
    for path in ("train/cat/1.png", "train/cat/2.png", "train/dog/5.png", "test/dog/0.png"):
        truncate(tmp_path / path)
    for workers in (0, 2):
        benchmark = of_folder(tmp_path)
        batches = []
        torch.manual_seed(0)
        for experience in (*benchmark.train_stream, *benchmark.test_stream):
            loader = DataLoader(experience.dataset, 2, shuffle=True, num_workers=workers)
            batches += [part for batch in loader for part in batch]
        found.append((batches, benchmark.data.as_json()))
    assert all(torch.equal(a, b) for a, b in zip(found[0][0], found[1][0], strict=True))
    assert found[0][1] == found[1][1] and found[0][1]["passed_over"]["count"] == 4


def test_the_next_pair_takes_the_place_with_its_own_caption_and_identity(tmp_path):
    benchmark = pairs(tmp_path)
    source = raw(benchmark.train_stream[0].dataset)
    bad = truncate(tmp_path / "5.png")
    pair, y, _ = benchmark.train_stream[0].dataset[5]
    assert torch.equal(pair.image, whole(tmp_path / "0.png")) and y == source.targets[0] != source.targets[5]
    assert torch.equal(pair.tokens, TOKENIZER(["a picture number 0"])[0])
    assert str(bad) in benchmark.data.as_json()["passed_over"]["files"][0]


def test_a_class_of_which_no_image_is_left_stops_with_a_sentence(tmp_path):
    benchmark = of_folder(folder(tmp_path, each=2))
    for number in range(2):
        truncate(tmp_path / "train" / "dog" / f"{number}.png")
    data = benchmark.train_stream[0].dataset
    assert data[0][1] == 0
    with pytest.raises(InputError, match=r"dog/1.png cannot .*; nor can any other image of its class be read"):
        data[3]
    one = pairs(tmp_path / "pairs", rows=2)
    for number in range(2):
        truncate(tmp_path / "pairs" / f"{number}.png")
    with pytest.raises(InputError, match=r"0.png cannot .*; nor can any other image of its data set be read"):
        one.train_stream[0].dataset[0]


def test_images_end_where_they_end(tmp_path):
    paths = [save(tmp_path / f"{i}.png") for i in range(2)]
    data = ImageDataset(ImageFiles(paths), [0, 0], PassedOver().reader(ImageFiles(paths)))
    assert len(list(data)) == 2  # by the error of the third
    assert len(list(ImageDataset(ImageFiles([]), [], PassedOver().reader(ImageFiles([]))))) == 0


def test_what_the_system_lacks_is_no_fault_of_a_file():
    class Scarce(ImageFiles):
        def __getitem__(self, index):
            raise InputError("it cannot be read: too many open files") from OSError(errno.EMFILE, "too many")

    images = Scarce(["a.png", "b.png"])
    reader = StandIns(images)
    with pytest.raises(InputError, match=r"too many open files$"):
        reader.read(0)
    assert not reader.met.any()


def test_an_interrupted_run_knows_what_it_has_met_and_a_new_one_nothing(tmp_path):
    folder(tmp_path)
    truncate(tmp_path / "train/cat/0.png"), truncate(tmp_path / "test/cat/1.png")
    first, second = of_folder(tmp_path), of_folder(tmp_path)
    list(DataLoader(first.train_stream[0].dataset, 4))
    list(DataLoader(second.test_stream[0].dataset, 4))
    state = pack("also", first.data.passed_over)
    unpack("also", second.data.passed_over, state, "a checkpoint")
    assert files_met(first) == ["0.png"] and files_met(second) == ["0.png", "1.png"]
    # Processes that were started before note it in the same memory.
    assert raw(second.train_stream[0].dataset).stand_ins.met.is_shared()
    second.data.passed_over.forget()
    assert files_met(second) == [] and "passed_over" not in second.data.as_json()
    with pytest.raises(InputError, match="none of the 24 there are"):
        first.data.passed_over.load_state_dict({"places": torch.tensor([24])})


def test_a_file_in_several_places_counts_once_and_the_first_hundred_are_said(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(TOLD + 5)]
    record = PassedOver()
    reader = record.reader(ImageFiles([*paths, *paths]))
    with pytest.raises(InputError, match="there is no image file"):
        reader.read(0)
    found = record.as_json()
    assert (
        found["count"] == TOLD + 5
        and [str(p) in s for p, s in zip(paths, found["files"], strict=False)] == [True] * TOLD
    )
    for path in paths:
        save(path)
    assert record.as_json()["files"][0] == f"{paths[0]} could not be read when it was met, and can be read now"


def test_images_in_tars_are_passed_over_as_well(tmp_path):
    for number in range(4):
        save(tmp_path / "files" / f"{number}.png", picture(number, 32, 32))
        (tmp_path / "files" / f"{number}.cls").write_text(str(number % 2))
    truncate(tmp_path / "files" / "0.png")
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        with tarfile.open(tmp_path / "data" / split / "0.tar", "w") as tar:
            for path in sorted((tmp_path / "files").iterdir()):
                tar.add(path, path.name)
    benchmark = read_stream(tmp_path / "data", model=MODEL, **SKIP)
    stand_in = EVAL(ImageFiles([tmp_path / "files" / "2.png"])[0])
    assert torch.equal(benchmark.train_stream[0].dataset[0][0], stand_in) and files_met(benchmark) == ["0.png"]


def test_a_published_benchmark_passes_over_what_it_meets(tmp_path):
    real_formats.food101(tmp_path), real_formats.coco_karpathy(tmp_path)
    own = {"root": str(tmp_path), **SKIP}
    food = benchmarks.create("mtil", order=["Food"], **own)
    coco = benchmarks.create("coco-karpathy", tokenizer=TOKENIZER, **own)
    for benchmark in (food, coco):
        source = raw(benchmark.test_stream[0].dataset)
        bad = truncate(source.images.paths[0])
        y = benchmark.test_stream[0].dataset[0][1]
        rows = [row for row, path in enumerate(source.images.paths) if path != bad]
        assert y == source.targets[0 if benchmark is food else rows[0]]
        assert files_met(benchmark) == [bad.name]


def test_a_held_out_set_notes_what_it_meets_with_the_rest(tmp_path):
    benchmark = of_folder(folder(tmp_path / "mine"))
    real_formats.food101(tmp_path)
    (tmp_path / "own.jsonl").write_text(
        "".join(json.dumps({"image": save(tmp_path / f"{i}.png", picture(i)).name, "text": f"number {i}"}) + "\n"
                for i in range(3))
    )  # fmt: skip
    reading = AsideReading(MODEL, Problems("skip", benchmark.data.passed_over), "none", 0)
    food, own = open_aside(["food101", str(tmp_path / "own.jsonl")], tmp_path, reading)
    truncate(food.dataset.dataset.images.paths[1]), truncate(tmp_path / "2.png")
    truncate(tmp_path / "mine/train/cat/0.png")
    with reading_by(2):
        for data in (food.dataset, own.dataset, benchmark.train_stream[0].dataset):
            list(ordered_batches(data, 2))
    assert files_met(benchmark) == ["0.png", food.dataset.dataset.images.paths[1].name, "2.png"]


def test_whether_images_are_files_is_asked_without_making_their_paths(tmp_path):
    class Asked(ImageFiles):
        @property
        def paths(self):
            raise AssertionError("these would be a million paths")

    class Theirs(list):
        pass

    theirs = Theirs("ab")
    assert Problems("skip").stand_ins(Asked([tmp_path / "a.png"])) is not None
    assert Problems("raise").stand_ins(Asked([])) is None is Problems("skip").stand_ins(theirs)
    theirs.paths = [tmp_path / "a.png", tmp_path / "b.png"]
    assert Problems("skip").stand_ins(theirs) is not None


def test_a_month_of_pairs_gives_the_stand_in_its_own_new_identity(tmp_path):
    identities = Identities()
    identities.number(ImageFiles([tmp_path / "earlier.png"]), ["a picture of long ago"])
    month = pairs(tmp_path)
    stream = continued(None, ["before"], month, identities=identities)
    truncate(tmp_path / "3.png")
    data = stream.train_stream[1].dataset
    ids = [data[row][1] for row in range(6)]
    assert ids[3] == ids[4] == data.targets[4] != data.targets[3] and ids[:3] == list(data.targets)[:3]
    assert files_met(stream) == ["3.png"]


def test_a_benchmark_that_avalanche_has_made_of_ours_says_it_too(tmp_path):
    ours = of_folder(folder(tmp_path))
    theirs = from_avalanche(ours, model=MODEL)
    truncate(tmp_path / "train/dog/0.png")
    list(ordered_batches(theirs.train_stream[0].dataset, 4))
    assert files_met(theirs) == ["0.png"]
