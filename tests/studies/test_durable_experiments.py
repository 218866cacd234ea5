"""A run that is interrupted and goes on comes to what it would have come to."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin
from mini import mini
from quick import LESS, one_each, slow_but_for_some

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.errors import InputError, Interrupted, VLMWarning
from avalanche_vlm.evaluation.probes import DriftProbe, ErosionProbe, InterferenceProbe
from avalanche_vlm.storage import saving
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.studies.outcome import Outcome
from avalanche_vlm.training import CheckpointPlugin
from avalanche_vlm.training.settings import TrainSettings

pytestmark = pytest.mark.usefixtures("narrow_tiny")

SIZES = {"n_train": 32, "n_test": 8, "n_held_out": 8, "n_reference": 32}
ITERATIONS = 4  # of an experience: two epochs of two


class Killed(BaseException):
    """Nobody catches it but the test."""


class Script:
    """A run that is made anew each time that it is started.

    :param recipe: name of the recipe.
    :param kind: kind of the stream.
    :param given: further arguments of the run.
    """

    def __init__(self, recipe: str = "fine-tune", kind: str = "classes", **given: Any) -> None:
        self.recipe, self.kind, self.given = recipe, kind, given
        self.rows: list[int] = []
        self.trained: list[tuple[int, int]] = []
        self.goes_on: list[str] = []
        self._last, self._again = (0, 0), False

    def start(self, folder: Path | None, kill: tuple[str, int, int] | None = None, **changed: Any) -> Outcome | None:
        """Run it, with checkpoints in a folder, until it ends or is killed.

        :param folder: folder of the checkpoints; None for a run without.
        :param kill: ``("step", experience, iteration)`` or ``("row", step, 0)``; None lets it end.
        """

        if folder is None or not any(folder.glob("*")):
            self._last, self._again = (0, 0), False

        def progress(experience: int, iteration: int, iterations: int) -> None:
            if (experience, iteration) <= self._last and not self._again:
                return  # an evaluation is told of as well, with the training's last iteration
            assert iterations == ITERATIONS
            self._last, self._again = (experience, iteration), False
            self.trained.append((experience, iteration))
            if kill == ("step", experience, iteration):
                self._again = True  # an iteration that was not over is done again
                raise Killed

        def on_row(step: int, matrix: np.ndarray) -> None:
            if kill == ("row", step, 0):
                raise Killed
            self.rows.append(step)
            assert len(matrix) == step + 1 and not np.isnan(matrix).any()

        make = picturebook.mtil_like if self.kind == "classes" else picturebook.pairs
        stream = {"order": ["sketches", "night"]} if self.kind == "classes" else {"domains": ("sketch", "night")}
        options = {"options": LESS.get(self.recipe), "seed": 0, **self.given, **changed}
        metrics = options.pop("metrics", list)
        settings = TrainSettings(**{"lr": 1e-3, "epochs": 2, "batch_size": 16, **options.pop("train", {})})
        torch.manual_seed(1)
        try:
            return run_experiment(
                make(**stream, **{**SIZES, **options.pop("sizes", {})}),
                options.pop("recipe", self.recipe),
                model=mini(),
                settings=settings,
                metrics=metrics(),
                progress=progress,
                on_row=on_row,
                checkpoint=None if folder is None else CheckpointPlugin(folder, options.pop("minutes", 0)),
                on_resume=lambda plugin: self.goes_on.append(str(plugin.resumed)),
                **options,
            )
        except Killed:
            return None


def assert_alike(first: Outcome | None, second: Outcome | None) -> None:
    """Results to the byte, weights to the bit, and all of the ledger that is not measured by a clock."""
    assert first is not None and second is not None
    assert json.dumps(first.result) == json.dumps(second.result)
    weights = second.strategy.model.state_dict()
    assert all(torch.equal(w, weights[n]) for n, w in first.strategy.model.state_dict().items() if torch.is_tensor(w))
    measured = ("train_seconds", "peak_memory_bytes")
    assert {**first.ledger, **dict.fromkeys(measured)} == {**second.ledger, **dict.fromkeys(measured)}


@pytest.fixture(scope="module")
def whole() -> Outcome:
    found = Script().start(None)
    assert found is not None
    return found


MOMENTS = {
    ("row", 0, 0): "",  # nothing is written before a training begins
    ("step", 0, 1): "experience 0, epoch 0, iteration 0",
    ("step", 0, 3): "experience 0, epoch 1, iteration 0",
    ("step", 0, 4): "experience 0, epoch 1, iteration 1",
    ("row", 1, 0): "the end of experience 0",
    ("step", 1, 1): "experience 1, epoch 0, iteration 0",
    ("step", 1, 4): "experience 1, epoch 1, iteration 1",
    ("row", 2, 0): "the end of experience 1",
}


@pytest.mark.parametrize("kill", slow_but_for_some([(kill,) for kill in MOMENTS], [("step", 0, 3), ("row", 1, 0)]))
def test_a_run_goes_on_where_it_was_killed(whole, tmp_path, kill):
    script = Script()
    assert script.start(tmp_path, kill) is None
    before = list(script.rows)
    assert_alike(whole, script.start(tmp_path))
    assert script.goes_on == ([MOMENTS[kill]] if MOMENTS[kill] else [])
    # Every row is reported once, that of the kill when it is complete; an iteration that was not over is done again.
    assert script.rows == [0, 1, 2] and before == [0, 1, 2][: len(before)]
    again = 1 if kill[0] == "step" else 0
    assert len(script.trained) == 2 * ITERATIONS + again


@pytest.mark.parametrize("kill", [("step", 1, 2), ("row", 1, 0)])
def test_a_run_of_so_many_iterations_goes_on(tmp_path, monkeypatch, kill):
    monkeypatch.setattr(sys.modules[__name__], "ITERATIONS", 3)  # an epoch and a half
    script = Script(train={"iterations": 3, "rates": {"night": 5e-4}})
    first = script.start(None)
    assert script.trained == [(task, k) for task in range(2) for k in (1, 2, 3)] and first is not None
    assert first.result["protocol"]["train"]["rates"] == {"night": 5e-4} and first.strategy.train_epochs == 2
    assert script.start(tmp_path, kill) is None
    assert_alike(first, script.start(tmp_path))
    other = tmp_path / "other"
    assert script.start(other, kill) is None
    with pytest.raises(InputError, match=r"train\.iterations 3, and now 4"):
        script.start(other, train={"iterations": 4})


def test_classes_that_are_drawn_to_stand_for_others_are_drawn_again(tmp_path):
    script = Script(train={"train_templates": "first", "negatives": 2})
    whole = script.start(None)
    assert script.start(tmp_path, ("step", 1, 4)) is None
    assert_alike(whole, script.start(tmp_path))
    assert script.goes_on == [MOMENTS["step", 1, 4]]


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_well(whole, tmp_path):
    script = Script()
    for kill in list(MOMENTS)[1:]:
        assert script.start(tmp_path, kill) is None
    assert_alike(whole, script.start(tmp_path))
    assert script.rows == [0, 1, 2]


FAMILIES = ["zscl", "replay", "lora", "moe-adapters", "ranpac", "wise-ft", "l2p"]


@pytest.mark.parametrize("recipe", one_each([(name,) for name in FAMILIES], ("zscl", "lora", "ranpac")))
def test_costs_and_results_of_every_family_are_those_of_one_process(tmp_path, recipe):
    script = Script(recipe)
    for kill in (("step", 1, 1), ("step", 1, 3), ("row", 2, 0)):
        script.start(tmp_path, kill)  # what takes no steps lives on until its row
    assert_alike(Script(recipe).start(None), script.start(tmp_path))


@pytest.mark.slow
def test_a_run_of_pairs_with_worker_processes_goes_on(tmp_path):
    script = Script("zscl", "pairs", train={"num_workers": 1})
    assert script.start(tmp_path, ("step", 1, 3)) is None
    assert_alike(Script("zscl", "pairs", train={"num_workers": 1}).start(None), script.start(tmp_path))


@pytest.mark.slow
def test_metrics_of_ones_own_go_on(tmp_path):
    held_out = picturebook.mtil_like(order=["sketches", "night"], **SIZES).held_out
    pairs = next(of.dataset for of in held_out if of.label_space is None)
    probes: list[list[Any]] = []

    def metrics() -> list[Any]:
        probes.append([DriftProbe(pairs, max_pairs=None), InterferenceProbe(samples=8), ErosionProbe(held_out)])
        return probes[-1]

    plain, script = Script(metrics=metrics), Script(metrics=metrics)
    first = plain.start(None)
    for kill in (("step", 0, 3), ("step", 1, 2), ("row", 2, 0)):
        assert script.start(tmp_path, kill) is None
    assert_alike(first, script.start(tmp_path))
    for one, other in zip(probes[0], probes[-1], strict=True):
        assert repr(one.result()) == repr(other.result())


@pytest.mark.slow
def test_a_failure_in_the_write_of_a_checkpoint_leaves_the_one_before(whole, tmp_path, monkeypatch):
    script, real, written = Script(), saving.write_manifest, []

    def failing(*given: Any, **options: Any) -> Path:
        written.append(given)
        if len(written) == 4:
            raise Killed
        return real(*given, **options)

    monkeypatch.setattr(saving, "write_manifest", failing)
    assert script.start(tmp_path) is None
    monkeypatch.setattr(saving, "write_manifest", real)
    assert_alike(whole, script.start(tmp_path))
    assert script.goes_on == ["experience 0, epoch 0, iteration 1"]


@pytest.mark.slow
def test_seconds_of_what_is_done_again_count_once(tmp_path, monkeypatch):
    """With a clock on which every iteration takes ten seconds, and everything else none."""
    from avalanche_vlm.studies import account

    class Tick(Script):
        now = 0.0

        def start(self, *given: Any, **options: Any) -> Outcome | None:
            found = super().start(*given, **options)
            Tick.now += 1000  # the process is gone for a while
            return found

    def stepped(plugin: Any, strategy: Any, **kwargs: Any) -> None:
        Tick.now += 10

    monkeypatch.setattr(account.time, "perf_counter", lambda: Tick.now)
    monkeypatch.setattr(account.RunAccount, "after_training_iteration", stepped)
    script = Tick()
    for kill in (("step", 0, 2), ("step", 0, 3), ("step", 1, 4), ("row", 2, 0)):
        assert script.start(tmp_path, kill) is None
    found = script.start(tmp_path)
    assert found is not None and found.timing["train_seconds"] == 10 * 2 * ITERATIONS
    assert found.timing["eval_seconds"] == 0 and found.seconds_before == 10 * 2 * ITERATIONS


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """The checkpoints of a run that was killed."""
    folder = tmp_path_factory.mktemp("begun")
    assert Script().start(folder, ("step", 0, 1)) is None
    return folder


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"recipe": "wise-ft"}, "recipe fine-tune, and now wise-ft"),
        ({"train": {"lr": 1e-4}}, r"train\.lr 0\.001, and now 0\.0001"),
        ({"sizes": {"n_test": 9}}, r"data\.n_test 8, and now 9"),
        ({"seed": 1}, "seed 0, and now 1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_the_difference(begun, changed, said):
    with pytest.raises(InputError, match=rf"the checkpoint in .* is of another training: {said}$"):
        Script().start(begun, **changed)


def test_a_run_that_is_told_to_end_says_where_it_goes_on(whole, tmp_path):
    script = Script()
    plugin = CheckpointPlugin(tmp_path, minutes=10)
    given = {"model": mini(), "settings": TrainSettings(lr=1e-3, epochs=2, batch_size=16)}
    with pytest.raises(Interrupted, match="goes on from experience 0, epoch 0, iteration 1"):
        run_experiment(
            picturebook.mtil_like(order=["sketches", "night"], **SIZES),
            "fine-tune",
            checkpoint=plugin,
            progress=lambda experience, iteration, _: plugin.request(stop=True) if iteration else None,
            **given,
        )
    script.rows.append(0)
    assert_alike(whole, script.start(tmp_path))
    assert script.goes_on == ["experience 0, epoch 0, iteration 1"]


class Unknown(SupervisedPlugin):
    """Tells nothing of what it keeps."""


@pytest.mark.slow
def test_a_run_that_no_checkpoint_could_have_has_none_if_it_may(tmp_path):
    script = Script(plugins=[Unknown()])
    with pytest.raises(InputError, match="Unknown"):
        script.start(tmp_path)
    given = {"model": mini(), "settings": TrainSettings(lr=1e-3, epochs=1, batch_size=16), "plugins": [Unknown()]}
    benchmark = picturebook.mtil_like(order=["sketches", "night"], **SIZES)
    with pytest.warns(VLMWarning, match="starts over if it is interrupted: nobody knows what the plugin Unknown keeps"):
        run_experiment(benchmark, "fine-tune", checkpoint=CheckpointPlugin(tmp_path / "x", strict=False), **given)
    assert not (tmp_path / "x").exists()


def test_a_finished_run_leaves_its_checkpoints_to_be_removed(tmp_path):
    plugin = CheckpointPlugin(tmp_path / "checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("error", VLMWarning)
        run_experiment(
            picturebook.mtil_like(order=["sketches", "night"], **SIZES),
            "zero-shot",
            model=mini(),
            settings=TrainSettings(lr=1e-3),
            checkpoint=plugin,
        )
    assert list((tmp_path / "checkpoint").glob("*.json"))
    plugin.remove()
    assert not list(tmp_path.iterdir())
    plugin.remove()
