"""Batches that several processes read together are those that one process reads, whatever their samples draw."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from processes import together
from torch.utils.data import DataLoader, Dataset, TensorDataset

from avalanche_vlm import _ranks
from avalanche_vlm._generators import generators_at, generators_kept, seed_generators
from avalanche_vlm.benchmarks import shares
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.passed_over import PassedOver
from avalanche_vlm.benchmarks.reading import ordered_batches, reading_by
from avalanche_vlm.benchmarks.scenario import ImageDataset
from avalanche_vlm.benchmarks.shares import ByPlace
from avalanche_vlm.errors import InputError
from avalanche_vlm.training.checkpoint.batches import END, EpochBatches


class Files:
    """Images that are decoded when they are read, of which some cannot be. Counts how often, in all processes."""

    def __init__(self, number: int, broken=(), error=InputError) -> None:
        self.number, self.broken, self.error = number, broken, error
        self.reads = torch.zeros(number, dtype=torch.int64).share_memory_()

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        self.reads[index] += 1
        if index in self.broken:
            raise self.error(f"{index}.png cannot be decoded")
        return torch.full((3, 2, 2), float(index))


class Drawing(Dataset):
    """Samples that draw from all generators, how much depends on the sample; or that draw nothing."""

    def __init__(self, number: int, draws: str = "all", **how) -> None:
        self.images, self.draws = Files(number, **how), draws

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        if self.draws == "all" or (self.draws == "some" and index % 3 == 2):
            image = image + torch.rand(1 + index % 2)[-1] + random.random() + float(np.random.rand())
        text = ImageText(image, torch.full((4,), index))
        return text, index, {"name": f"number {index}", "half": torch.tensor(index / 2, dtype=torch.float16)}


def plain(batches) -> list:
    """What can be sent by a pipe, and compared."""
    return [
        [x.image.tolist(), x.tokens.tolist(), y.tolist(), rest["name"], rest["half"].tolist()] for x, y, rest in batches
    ]


def read_by(processes: int, folder, read, seconds: float = 60) -> list:
    """What each of several processes reads."""

    def work(rank):
        torch.set_num_threads(1)
        with _ranks.training_together(_ranks.found_ranks()):
            return read()

    return together(work, folder / "meeting", processes, seconds, loads=True)


@pytest.mark.parametrize(
    ("processes", "batch", "workers", "draws"),
    [(2, 4, 0, "all"), (2, 5, 2, "some"), (3, 4, 1, "all"), (3, 2, 0, "all"), (2, 11, 0, "none")],
)
def test_a_share_and_the_shares_of_others_are_the_batch_of_one_process(tmp_path, processes, batch, workers, draws):
    def read():
        torch.manual_seed(3), random.seed(3), np.random.seed(3)
        data = Drawing(11, draws)
        batches = plain(ByPlace(DataLoader(data, batch, shuffle=True, num_workers=workers), True))
        return batches, torch.rand(1).item(), random.random(), int(data.images.reads.sum())

    (expected, *drawn, reads) = read()
    assert sorted(y for batch in expected for y in batch[2]) == list(range(11))
    found = read_by(processes, tmp_path, read)
    for batches, *after, _ in found:
        assert batches == expected
        assert after == drawn  # of the generators everybody else draws from, nothing is taken
    if batch >= processes:  # the last batch of one has fewer rows than processes, and is read by all
        assert sum(of for *_, of in found) <= reads + 2 * processes
        assert max(of for *_, of in found) <= reads / processes + 2 * processes


def test_draws_follow_from_the_epoch_and_the_place_whoever_reads():
    data = Drawing(8)
    torch.manual_seed(3)
    epochs = [plain(ByPlace(DataLoader(data, 4, num_workers=workers), True)) for workers in (0, 0)]
    torch.manual_seed(3)
    in_workers = [plain(ByPlace(DataLoader(data, 4, num_workers=workers), True)) for workers in (3, 1)]
    assert epochs == in_workers
    assert epochs[0] != epochs[1]
    drawn = [image[0][0][0] - index for image, index in zip(epochs[0][0][0], epochs[0][0][2], strict=True)]
    assert len(set(drawn)) == 4


def test_a_loader_with_a_generator_of_its_own_draws_anew_in_every_epoch():
    def epochs():
        torch.manual_seed(3)
        own = torch.Generator().manual_seed(1)
        loader = ByPlace(DataLoader(Drawing(4), 4, generator=own), True)
        return [plain(loader) for _ in range(3)], torch.rand(1).item()

    found, drawn = epochs()
    assert all(found[a] != found[b] for a, b in ((0, 1), (0, 2), (1, 2)))
    assert (found, drawn) == epochs()
    torch.manual_seed(3)
    assert torch.rand(1).item() == drawn


class AtOnce(Dataset):
    """Samples that are read by many numbers alone."""

    def __init__(self, draws: bool) -> None:
        self.draws, self.asked = draws, []

    def __len__(self):
        return 6

    def __getitems__(self, rows):
        self.asked.append(len(rows))
        return [torch.tensor([float(row)]) + (torch.rand(1) if self.draws else 0) for row in rows]


def test_data_that_are_read_at_once_are_read_so_and_one_by_one_where_they_draw():
    data, drawing = AtOnce(False), AtOnce(True)
    assert torch.cat(list(ByPlace(DataLoader(data, 3), True))).flatten().tolist() == list(range(6))
    assert data.asked == [1, 2, 3]
    torch.manual_seed(3)
    in_threes = torch.cat(list(ByPlace(DataLoader(drawing, 3), True)))
    torch.manual_seed(3)
    assert torch.equal(torch.cat(list(ByPlace(DataLoader(AtOnce(True), 4), True))), in_threes)
    assert drawing.asked == [1] * 6


def test_data_of_which_a_late_sample_draws_are_the_same_in_batches_of_any_size():
    found = []
    for size in (2, 5, 12):
        torch.manual_seed(3)
        batches = ByPlace(DataLoader(Drawing(12, "some"), size), True)
        found.append([image for x, *_ in batches for image in x.image[:, 0, 0, 0].tolist()])
    assert found[0] == found[1] == found[2]
    assert found[0][:2] == [0.0, 1.0] and found[0][2] != 2.0


def test_where_the_generators_are_is_asked_twice_for_a_batch_that_draws_nothing(monkeypatch):
    asked = []
    monkeypatch.setattr(shares, "generators_at", lambda: asked.append(1) or generators_at())
    list(ByPlace(DataLoader(Drawing(12, "none"), 3), True))
    assert len(asked) == 1 + 4 * 2  # and once for the first sample of all


def test_an_empty_batch_is_put_together_as_torch_does_it():
    def loader():
        return DataLoader(Drawing(2), batch_sampler=[[0, 1], []], collate_fn=len)

    assert list(ByPlace(loader(), True)) == list(loader()) == [2, 0]


class PathError(InputError):
    """A sentence that is made of two things, with something that cannot be sent."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.close = lambda: None


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sentence_of_a_kind_of_its_own_comes_out_of_a_worker(workers):
    def error(sentence):
        return PathError("folder", sentence)

    data = Drawing(4, broken=(3,), error=error)
    loader = DataLoader(data, 2, num_workers=workers, timeout=20 * workers)
    with pytest.raises(InputError, match=r"^folder: 3\.png cannot be decoded$"):
        list(ByPlace(loader, True))


def test_another_generator_of_numpy_is_seeded_and_seen_and_kept():
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        drawn = []
        for _ in range(2):
            seed_generators(2**60 + 5)
            at = generators_at()
            assert at == generators_at()
            with generators_kept():
                drawn.append(np.random.rand())
                assert generators_at() != at
            assert generators_at() == at
        assert drawn[0] == drawn[1]
        torch.manual_seed(3)
        one = plain(ByPlace(DataLoader(Drawing(4), 4), True))
        torch.manual_seed(3)
        assert one == plain(ByPlace(DataLoader(Drawing(4), 4, num_workers=1), True))
    finally:
        np.random.set_bit_generator(before)


def test_an_epoch_that_is_gone_on_with_draws_the_same():
    class Owner:
        def started(self):
            pass

        def between(self, trained):
            pass

        def load(self, batches):
            batch = next(batches, END)
            torch.rand(3)  # as a training draws between batches
            return batch

    def epoch(trained):
        torch.manual_seed(3)
        batches = EpochBatches(DataLoader(Drawing(11), 4, shuffle=True), Owner(), trained)
        batches.by_place = True
        return plain(batches)

    whole = epoch(0)
    assert [len(of[2]) for of in whole] == [4, 4, 3]
    for trained in (1, 2):
        assert epoch(trained) == whole[trained:]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [InputError, OSError])
def test_what_one_process_cannot_read_ends_all_with_its_sentence(tmp_path, workers, error):
    def read():
        # The sixth sample is the second one of the second process.
        data = Drawing(16, "none", broken=(5,), error=error)
        batches = iter(ByPlace(DataLoader(data, 8, num_workers=workers), True))
        try:
            next(batches)
        except Exception as failure:
            return type(failure).__name__, str(failure)

    (first, second) = read_by(2, tmp_path, read)
    if error is InputError:
        assert first == second == ("InputError", "5.png cannot be decoded")
    else:
        assert first[0] == "InputError" and "process 1 cannot read its share of a batch: OSError: " in first[1]
        assert second[0] == "OSError" and "5.png cannot be decoded" in second[1]


def test_samples_that_differ_are_a_sentence(tmp_path):
    class Uneven(Drawing):
        def __getitem__(self, index):
            return torch.zeros(3, 2 + index // 4)

    def read():
        with pytest.raises(InputError, match="differ and cannot be put together"):
            next(iter(ByPlace(DataLoader(Uneven(8), 8), True)))
        return "refused"

    assert read_by(2, tmp_path, read) == ["refused"] * 2


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_cannot_be_read_are_known_to_all(tmp_path, workers):
    def read():
        passed_over = PassedOver()
        images = Files(12, broken=(2, 9, 10))
        data = ImageDataset(images, [0, 1] * 6, passed_over.reader(images))
        with reading_by(workers):
            found = [[x[:, 0, 0, 0].tolist(), y.tolist()] for x, y in ordered_batches(data, 6)]
        return found, passed_over.places.tolist(), int(images.reads.sum())

    expected, places, _ = read()
    assert places == [2, 9, 10]
    for found, met, reads in read_by(2, tmp_path, read):
        assert found == expected and met == places
        assert reads <= 9


def test_tensors_in_memory_are_read_by_everybody_and_so_is_what_is_put_together_in_a_way_of_its_own(tmp_path):
    def own_way(samples):
        return torch.stack([image for image, _ in samples])

    def read():
        class Counting(TensorDataset):
            reads = 0

            def __getitem__(self, index):
                Counting.reads += 1
                return super().__getitem__(index)

        list(ordered_batches(Counting(torch.zeros(6, 1)), 2))
        files = ImageDataset(Files(6), [0] * 6)
        list(ByPlace(DataLoader(files, 2, collate_fn=own_way), True))
        return Counting.reads, int(files.images.reads.sum())

    assert read_by(2, tmp_path, read) == [(6, 6)] * 2


def test_within_a_block_of_its_own_every_process_reads_all(tmp_path):
    def read():
        data = Drawing(8, "none")
        with _ranks.alone():
            batches = plain(ordered_batches(data, 4))
        return len(batches), int(data.images.reads.sum())

    assert read_by(2, tmp_path, read) == [(2, 8)] * 2
