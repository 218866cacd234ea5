from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from made import tiny as tiny_vlm

from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.evaluation.zero_shot import retrieval_scores, zero_shot_accuracy
from avalanche_vlm.studies.advice.pilot import (
    BEFORE,
    Pilot,
    Scores,
    run_pilot,
    scaled,
    training_cost,
)
from avalanche_vlm.training.settings import TrainSettings

SETTINGS = TrainSettings(lr=5e-4, epochs=1, batch_size=16)


def test_batches_shrink_with_the_data_so_that_steps_stay():
    settings = TrainSettings(batch_size=64)
    train, options = scaled(settings, "replay", {"max_bytes": 5}, 0.5)
    assert train.batch_size == 32 and options == {"max_bytes": 5, "batch_size": 32}
    train, options = scaled(settings, "zscl", {"batch_size": 128}, 1 / 16)
    assert train.batch_size == 16 and options["batch_size"] == 32  # not below 16, and in proportion
    assert scaled(settings, "fine-tune", {}, 1.0) == (settings, {})
    warm = TrainSettings(batch_size=64, warmup=8)
    assert [scaled(warm, "fine-tune", {}, share)[0].warmup for share in (1.0, 0.25, 1 / 16)] == [8, 8, 2]


def test_scores_are_those_of_the_metrics(tiny_benchmark, tiny_pairs):
    model = tiny_vlm()
    scores = Scores(model, tiny_benchmark)
    for part in tiny_benchmark.held_out:
        if part.label_space is None:
            expected = retrieval_scores(model, part.dataset)
            expected = (expected["image_to_text_hit@1"] + expected["text_to_image_hit@1"]) / 2
        else:
            expected = zero_shot_accuracy(model, part.dataset, part.label_space)
        assert scores.held_out[part.name].mean() == pytest.approx(expected)
    pairs = Scores(tiny_vlm(), tiny_pairs)
    assert [len(hits) for hits in pairs.tasks] == [20, 20] and set(np.unique(pairs.tasks[0])) <= {0.0, 0.5, 1.0}


@pytest.mark.slow
def test_scores_of_classes_that_are_met_one_task_after_the_other_are_those_of_avalanches_evaluation():
    from avalanche_vlm.benchmarks import picturebook
    from avalanche_vlm.studies.experiment import run_experiment

    benchmark = picturebook.class_incremental(0, n_train=8, n_test=12, n_held_out=8, label_space="seen")
    model = tiny_vlm()
    model.set_label_space(picturebook.mtil_like(0, n_train=8, n_test=8, order=["night"]).label_space)
    before = Scores(model, benchmark)
    outcome = run_experiment(benchmark, "zero-shot", model=model, settings=SETTINGS)
    after = Scores(model, benchmark)
    for scores, row in ((before, outcome.result["matrix"][0]), (after, outcome.result["matrix"][-1])):
        assert [100 * hits.mean() for hits in scores.tasks] == pytest.approx(row, abs=1e-4)
    assert before.tasks[0].mean() > 0.3  # among its own classes, and not the first class for everything


def test_a_pilot_says_what_a_run_on_all_data_would_store(tiny_benchmark, tmp_path):
    model = tiny_vlm()
    pretrained = Scores(copy.deepcopy(model), tiny_benchmark)
    pilot = run_pilot(
        tiny_benchmark,
        "replay",
        0.5,
        pretrained=pretrained,
        model=model,
        settings=SETTINGS,
        options={"max_bytes": 1 << 20},
    )
    size = 3 * 32 * 32 + 20
    assert pilot.ledger["stored_ram_bytes"] == 64 * size and pilot.full_bytes == 128 * size
    assert pilot.n_test == 20 and set(pilot.kept) == {"captions", "size", "position"}
    again = Pilot.from_json(json.loads(json.dumps(pilot.as_json())))
    assert again.last == pilot.last and again.zero_shot_kept == pilot.zero_shot_kept


def test_without_held_out_sets_tasks_before_their_turn_stand_in(tiny_benchmark):
    parts = ([e.dataset for e in stream] for stream in (tiny_benchmark.train_stream, tiny_benchmark.test_stream))
    bare = VLMBenchmark(
        "bare", "classes", *parts, label_space=tiny_benchmark.label_space, task_names=tiny_benchmark.task_names
    )
    model = tiny_vlm()
    pilot = run_pilot(
        bare,
        "zero-shot",
        0.5,
        pretrained=Scores(copy.deepcopy(model), bare),
        model=model,
        settings=SETTINGS,
    )
    assert pilot.ledger["raw_user_data_kept"] is False  # what the scores are made of is nothing that the recipe keeps
    assert list(pilot.kept) == [BEFORE] and len(pilot.kept[BEFORE]) == 20 and pilot.zero_shot_kept == 0


def test_the_cost_of_a_share_counts_the_steps_that_the_optimizer_takes():
    # 640 samples, batches of 64: 10 steps; on a quarter 10 of 16; on a sixteenth 3 of 16.
    whole, quarter, sixteenth = (training_cost([640], 64, share) for share in (1.0, 1 / 4, 1 / 16))
    assert quarter / sixteenth == pytest.approx(10 / 3) and whole / quarter == pytest.approx(4 ** (1 / 3))
    assert training_cost([640, 320], 64, 1.0) == pytest.approx(1.5 * whole)
