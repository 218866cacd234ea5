"""What samples draw follows from the epoch and their place in it, and what is shared out is read once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawing import Drawing, Files, plain, read_by
from torch.utils.data import DataLoader, Dataset, TensorDataset

from avalanche_vlm import _ranks
from avalanche_vlm._generators import generators_at, generators_kept, seed_generators
from avalanche_vlm.benchmarks import shares
from avalanche_vlm.benchmarks.reading import ordered_batches
from avalanche_vlm.benchmarks.scenario import ImageDataset
from avalanche_vlm.benchmarks.shares import ByPlace
from avalanche_vlm.errors import InputError
from avalanche_vlm.training.checkpoint.batches import END, EpochBatches


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
