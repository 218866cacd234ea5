"""What can be gone on with, and what is refused in one sentence that names the difference."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import warnings
from types import SimpleNamespace

import pytest
import torch
from avalanche.training.supervised import Naive
from killed import Killed, Killer, Training, assert_same

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.storage import Lock, manifests, saving
from avalanche_vlm.training import CheckpointPlugin, resume
from avalanche_vlm.training.checkpoint import conditions, recorder, writing
from avalanche_vlm.training.checkpoint.conditions import differences
from avalanche_vlm.training.plugins import AnchorPenaltyPlugin
from avalanche_vlm.training.plugins.base import VLMPlugin

SIZES = {"n_train": 48, "n_test": 8, "n_held_out": 8, "n_reference": 8}


def stream_of(**sizes):
    return picturebook.mtil_like(order=["sketches", "night"], **SIZES | sizes)


@pytest.fixture(scope="module")
def stream():
    """Two experiences of 48 pictures: three minibatches each."""
    return stream_of()


@pytest.fixture(scope="module")
def killed(stream, tmp_path_factory):
    """The folder of a training that was killed in its second experience; nobody changes it."""
    folder = tmp_path_factory.mktemp("killed")
    assert Training(stream, minutes=9, evaluate=False).run(folder, "after_backward", 5, asks=4) is None
    return folder


OTHERS = {
    "batch size 16, and now 8": {"options": {"train_mb_size": 8}},
    "batch size of evaluations 32, and now 16": {"options": {"eval_mb_size": 16}},
    "number of epochs 1, and now 2": {"epochs": 2},
    "strategy VLMNaive, and now Naive": {"base": Naive},
    "optimizer's lr 0.001, and now 0.01": {"options": {"optimizer": lambda p: torch.optim.AdamW(p, lr=0.01)}},
    "precision none, and now bf16": {"options": {"amp": "bf16"}},
    "limit of the gradient's norm none, and now 1.0": {"options": {"max_grad_norm": 1.0}},
    "number of drawn negatives none, and now 2": {"options": {"negatives": 2}},
    "periodic evaluation -1, and now 1": {"options": {"eval_every": 1}},
    r"plugins \['WarmupCosinePlugin', 'Killer'\], and these are \['AnchorPenaltyPlugin'": {
        "make_plugins": lambda model: [AnchorPenaltyPlugin()]
    },
}


@pytest.mark.parametrize("said", OTHERS)
def test_another_training_is_refused(stream, killed, said):
    training = Training(stream, **{"minutes": 9, "evaluate": False} | OTHERS[said])
    with pytest.raises(InputError, match=f"the checkpoint in {killed} is of another training: .*{said}") as told:
        training.run(killed)
    assert "\n" not in str(told.value) and training.killer.heard == []


@pytest.mark.parametrize(
    ("sizes", "said"), [({"n_train": 40}, "experience 0 had 48 samples, and has 40"), ({"seed": 1}, None)]
)
def test_another_stream_is_refused(killed, sizes, said):
    training = Training(stream_of(**sizes), minutes=9, evaluate=False)
    if said is None:  # as many samples: the strategy cannot know that they are others
        return
    with pytest.raises(InputError, match=f"of another stream: {said}"):
        training.run(killed)


def test_another_order_of_experiences_is_refused(stream, killed):
    training = Training(stream, minutes=9, evaluate=False)
    from killed import Killer

    strategy = training.make(killed, Killer())
    assert resume(strategy, killed) == 1
    with pytest.raises(InputError, match="experience 1 with 48 samples comes next, not 0 with 48"):
        strategy.train(stream.train_stream[0])


def test_other_processes_that_load_are_refused(stream, killed):
    training = Training(stream, minutes=9, evaluate=False, training={"num_workers": 1})
    with pytest.raises(InputError, match="batches were loaded otherwise: num_workers 0, and now 1"):
        training.run(killed)


def test_another_machine_is_told_or_refused(stream, killed, monkeypatch):
    from killed import Killer

    found = conditions.machine_conditions(SimpleNamespace(device=torch.device("cpu")))
    for module in (recorder, __import__("avalanche_vlm.training.checkpoint.resuming", fromlist=["resuming"])):
        monkeypatch.setattr(module, "machine_conditions", lambda device: {**found, "version of torch": "9.9"})
    training = Training(stream, minutes=9, evaluate=False)
    strategy = training.make(killed, Killer())
    version = torch.__version__.partition("+")[0]
    with pytest.raises(InputError, match=f"under other conditions: version of torch {version}, and now 9.9"):
        resume(strategy, killed, exact=True)
    with pytest.warns(VLMWarning, match="the training goes on, and will not end with the same last digits"):
        assert resume(strategy, killed) == 1


def test_the_machine_is_told_by_what_decides_the_last_digits():
    found = conditions.machine_conditions(SimpleNamespace(device=torch.device("cpu")))
    assert found["number of threads"] == torch.get_num_threads() and found["device"] == "cpu"
    assert found["version of torch"] == torch.__version__.partition("+")[0]
    assert json.loads(json.dumps(found)) == found
    assert differences(found, found) == ""


def test_a_folder_that_nobody_has_looked_at_is_not_written_over(stream, killed):
    from killed import Killer

    strategy = Training(stream, minutes=9).make(killed, Killer())
    with pytest.raises(InputError, match=r"has checkpoints of a training already: call resume\(strategy"):
        strategy.train(stream.train_stream[0])


def test_a_second_strategy_of_a_plugin_does_not_write_over_the_first_ones_checkpoints(stream, tmp_path):
    training = Training(stream, minutes=None, evaluate=False)
    first = training.make(tmp_path, Killer())
    resume(first, tmp_path)
    first.train(stream.train_stream[0])
    plugin = next(p for p in first.plugins if isinstance(p, CheckpointPlugin))
    second = training.make(tmp_path / "other", Killer())
    second.plugins = [plugin if isinstance(p, CheckpointPlugin) else p for p in second.plugins]
    with pytest.raises(InputError, match=r"has checkpoints of a training already: call resume"):
        second.train(stream.train_stream[0])


def test_a_second_plugin_is_refused_by_its_folder(stream, tmp_path):
    training = Training(stream, lambda model: [CheckpointPlugin(tmp_path / "second")])
    strategy = training.make(tmp_path / "first", Killer())
    with pytest.raises(InputError, match=rf"take the one out that writes to {tmp_path}/first"):
        strategy.train(stream.train_stream[0])


def test_resume_needs_the_plugin_of_its_folder(stream, tmp_path):
    from killed import Killer

    strategy = Training(stream).make(tmp_path / "a", Killer())
    with pytest.raises(InputError, match=r"writes to .*a, not to .*b"):
        resume(strategy, tmp_path / "b")
    strategy.plugins = [p for p in strategy.plugins if not isinstance(p, CheckpointPlugin)]
    with pytest.raises(InputError, match="one CheckpointPlugin among its plugins, and this one has 0"):
        resume(strategy, tmp_path / "a")


@pytest.mark.parametrize("minutes", [-1, float("nan"), float("inf")])
def test_minutes_are_a_number(tmp_path, minutes):
    with pytest.raises(InputError, match="checkpoints are 0 minutes or more apart"):
        CheckpointPlugin(tmp_path, minutes)


def test_a_folder_is_one_trainings(stream, tmp_path):
    with Lock(tmp_path), pytest.raises(InputError, match="is in use by process"):
        Training(stream).run(tmp_path)


def test_checkpoints_come_as_often_as_is_said(stream, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(recorder.time, "monotonic", lambda: now[0])
    written: list[str] = []
    monkeypatch.setattr(writing, "write", lambda folder, state, position, *rest: written.append(str(position)) or "x")

    class Passes(VLMPlugin):
        states = {}  # noqa: RUF012

        def before_update(self, strategy, **kwargs):
            now[0] += 100.0

    training = Training(stream, lambda model: [Passes()], minutes=3, epochs=4, evaluate=False)
    training.run(tmp_path)
    within = ["epoch 0, iteration 2", "epoch 1, iteration 1", "epoch 1, iteration 3", "epoch 2, iteration 2"]
    within += ["epoch 3, iteration 1", "epoch 3, iteration 3"]
    assert written[:8] == [
        "the start of experience 0",
        *(f"experience 0, {place}" for place in within),
        "the end of experience 0",
    ]


# Files that are damaged ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_checkpoint_costs_no_more_than_it(stream, tmp_path, monkeypatch):
    training = Training(stream, evaluate=False)
    whole = training.run(tmp_path / "whole")
    moments = {(saving, "write_manifest"): (1, 6), (saving, "put"): (2, 8), (manifests, "written"): (1, 8)}
    for (module, name), numbers in {**moments, (saving, "_tidy"): (2, 6)}.items():
        for number in numbers:  # of ten states
            folder, left, real = tmp_path / f"{name}-{number}", [number], getattr(module, name)

            def dies(*args, left=left, real=real, **options):
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
                return real(*args, **options)

            gc.collect()  # what a killed training has left unfinished is finished now, and not in the next one's time
            with monkeypatch.context() as patch:
                patch.setattr(module, name, dies)
                assert training.run(folder) is None
            assert_same(whole, training.run(folder))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["0001-within-0000-0000003", "0001-within-0000-0000002", "0001-start"])
@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_damaged_checkpoint_is_told_of_and_the_one_before_is_taken(stream, tmp_path, what, damage):
    training = Training(stream)
    whole = training.run(tmp_path / "whole")
    assert training.run(tmp_path / "killed", "after_training_exp", 2) is None
    path = tmp_path / "killed" / f"{what}.json"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content.replace(b"0", b"1", 9))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", VLMWarning)
        assert_same(whole, training.run(tmp_path / "killed"))
    if what != "0001-within-0000-0000002" and damage != "gone":
        assert any(str(path) in str(warning.message) for warning in told)


SEALED_AGAIN = {
    "position": ("about", "position", {"experience": "1", "stage": "within", "epoch": 0, "iteration": 1}),
    "experiences": ("about", "experiences", []),
    "settings": ("about", "settings", None),
    "conditions": ("about", "conditions", 1.5),
    "place": ("state", "place.epoch", {"value": 7}),
    "optimizer": ("state", "optimizer.groups", {"value": -1}),
    "generators": ("state", "random", {"value": {"python": [3, [1], None]}}),
}


@pytest.mark.parametrize("what", SEALED_AGAIN)
def test_a_checkpoint_that_was_changed_and_sealed_again_is_refused_in_a_sentence(stream, killed, tmp_path, what):
    part, name, value = SEALED_AGAIN[what]
    folder = shutil.copytree(killed, tmp_path / "killed")
    path = max(folder.glob("*-within-*.json"))
    content = json.loads(path.read_bytes())
    del content["sha256"]
    content[part][name] = value
    body = json.dumps(content, separators=(",", ":")).encode()[1:] + b"\n"
    path.write_bytes(b'{"sha256":"%s",' % hashlib.sha256(body).hexdigest().encode() + body)
    with pytest.raises(InputError, match=r"checkpoint|damaged") as told:
        Training(stream, minutes=9, evaluate=False).run(folder)
    assert "\n" not in str(told.value)


def test_a_folder_of_which_nothing_can_be_read_is_no_new_training(stream, tmp_path):
    training = Training(stream, minutes=None, evaluate=False)
    assert training.run(tmp_path, "before_forward", 1) is None
    for path in tmp_path.glob("*.json"):
        path.write_text("{")
    with pytest.raises(InputError, match=r"no state in .* can be read"):
        training.run(tmp_path)


def test_a_difference_names_what_stands_for_a_condition_that_is_not_written():
    written = {"number of processes that train together": 2, "sharding of the towers": True, "precision": None}
    assert differences(written, {"precision": "bf16"}) == (
        "number of processes that train together 2, and now 1; sharding of the towers True, and now False; "
        "precision none, and now bf16"
    )
    assert differences({}, {"number of batches that a step takes": 4}) == (
        "number of batches that a step takes 1, and now 4"
    )
