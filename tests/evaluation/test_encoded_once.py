"""What an experiment's evaluation encodes: every test picture once, whatever is measured on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.evaluation.answers import TaskAnswers
from avalanche_vlm.evaluation.zero_shot import count_right, encode_pairs
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import VLMNaive
from avalanche_vlm.training.settings import TrainSettings

SIZES = {"n_train": 24, "n_test": 14, "n_held_out": 10, "n_reference": 8}
STREAMS = {
    "classes": lambda: picturebook.mtil_like(order=["sketches", "night"], **SIZES),
    "pairs": lambda: picturebook.pairs(domains=("sketch", "night"), **SIZES),
}


@contextmanager
def counting(model: VLM) -> Iterator[Counter[str]]:
    """Images and texts that go through the towers meanwhile."""
    counts: Counter[str] = Counter()
    towers = {model.tower(side): side for side in ("image", "text")}

    def passed(module, inputs, output):
        if side := towers.get(module):
            counts[side] += len(inputs[0])

    handle = register_module_forward_hook(passed)
    try:
        yield counts
    finally:
        handle.remove()


@pytest.fixture
def encoded(monkeypatch) -> list[Counter[str]]:
    """What each evaluation has sent through the towers."""
    rows: list[Counter[str]] = []
    evaluate = VLMNaive.eval

    def counted(self, *given, **options):
        with counting(self.model) as counts:
            found = evaluate(self, *given, **options)
        rows.append(counts)
        return found

    monkeypatch.setattr(VLMNaive, "eval", counted)
    return rows


@pytest.mark.parametrize("kind", STREAMS)
def test_every_picture_goes_through_the_tower_once_per_evaluation(encoded, kind):
    benchmark, model = STREAMS[kind](), create_vlm("tiny")
    settings = TrainSettings(lr=1e-4, epochs=1, batch_size=12)
    run_experiment(benchmark, "fine-tune", model=model, settings=settings, metrics=[TaskAnswers()])
    pictures = sum(len(e.dataset) for e in benchmark.test_stream) + sum(len(s.dataset) for s in benchmark.held_out)
    assert [row["image"] for row in encoded] == [pictures] * 3
    if kind == "pairs":  # each caption once as well, beside the prompts of held-out classes
        fresh = create_vlm("tiny")  # which has encoded none of them before
        with counting(fresh) as prompts:
            for held_out in benchmark.held_out:
                if held_out.label_space is not None:
                    count_right(fresh, held_out.dataset, held_out.label_space)
        captions = [*(e.dataset for e in benchmark.test_stream), benchmark.held_out[0].dataset]
        assert [row["text"] - prompts["text"] for row in encoded] == [sum(map(len, captions))] * 3


def test_features_of_the_forward_pass_are_those_of_the_pairs():
    benchmark, model = STREAMS["pairs"](), create_vlm("tiny")
    found, seen = [], []

    class Kept(TaskAnswers):
        def after_eval_iteration(self, strategy):
            found.append(self.pair_features(strategy))
            seen.append(encode_pairs(strategy.model, strategy.mb_x))
            super().after_eval_iteration(strategy)

    kept = Kept()
    settings = TrainSettings(lr=1e-4, epochs=1, batch_size=12)
    run_experiment(benchmark, "fine-tune", model=model, settings=settings, metrics=[kept])
    assert len(found) == 6 and not model.taps
    for ours, theirs in zip(found, seen, strict=True):
        for mine, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, their, rtol=0, atol=2e-6)
    with torch.no_grad():  # a strategy whose forward pass is none of the model's has them encoded
        (batch, *_), kept._tap.seen = next(iter(torch.utils.data.DataLoader(benchmark.test_stream[0].dataset, 4))), None

        class Strategy:
            def __init__(self) -> None:
                self.model, self.mb_x, self.mb_task_id = model, batch, None

        torch.testing.assert_close(kept.pair_features(Strategy()), encode_pairs(model, batch), rtol=0, atol=0)
