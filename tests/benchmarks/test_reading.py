"""Who reads data apart from the minibatches: nobody but those that were asked for, and the same whoever does."""

from __future__ import annotations

import pytest
import torch
from mini import mini

from avalanche_vlm.benchmarks import picturebook, reading
from avalanche_vlm.benchmarks.reading import ordered_batches, reading_by
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training.settings import TrainSettings


def test_batches_are_the_same_whoever_reads_them():
    data = torch.arange(10)
    alone = [batch.tolist() for batch in ordered_batches(data, 4)]
    before = torch.get_rng_state()
    with reading_by(2):
        loader = ordered_batches(data, 4)
        assert loader.num_workers == 2 and [batch.tolist() for batch in loader] == alone == [
            [*range(4)],
            [*range(4, 8)],
            [8, 9],
        ]
        assert ordered_batches(data, 10).num_workers == 0  # one minibatch is read here
        with reading_by(0):
            assert ordered_batches(data, 4).num_workers == 0
    assert ordered_batches(data, 4).num_workers == 0 and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("recipe", ["replay", "lora"])
def test_an_experiment_reads_everything_by_its_processes(monkeypatch, recipe):
    asked: list[int] = []
    real = reading._Ordered

    def here(dataset, batch_size, *, num_workers, generator, pin_memory):
        asked.append(num_workers)
        return real(dataset, batch_size, generator=generator)

    monkeypatch.setattr(reading, "_Ordered", here)
    monkeypatch.setattr(reading, "len", lambda data: 10**6, raising=False)  # all are worth processes
    for loaded in ("avalanche_vlm.training.strategies.Naive.train", "avalanche_vlm.training.strategies.Naive.eval"):
        name = loaded.rpartition(".")[2]
        plain = getattr(__import__("avalanche.training.supervised", fromlist=["Naive"]).Naive, name)
        monkeypatch.setattr(loaded, lambda self, *of, plain=plain, num_workers, **more: plain(self, *of, **more))
    run_experiment(
        picturebook.mtil_like(order=["sketches", "night"], n_train=16, n_test=6, n_held_out=6, n_reference=8),
        recipe,
        model=mini(),
        settings=TrainSettings(epochs=1, batch_size=16, num_workers=3),
    )
    # Three held-out sets at three steps, and what the recipe reads; the ledger looks at one minibatch.
    assert asked.count(3) >= 9 and asked.count(0) == 1 and set(asked) == {0, 3}
