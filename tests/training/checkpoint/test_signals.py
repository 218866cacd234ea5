"""A training that is told to end by a signal writes where it is, says so in one sentence, and ends with its code."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
import traceback
from functools import partial
from pathlib import Path

import pytest
import torch
from killed import Training, assert_same
from mini import mini

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.errors import InputError, Interrupted
from avalanche_vlm.training import CheckpointPlugin
from avalanche_vlm.training.checkpoint.folder import Position
from avalanche_vlm.training.checkpoint.signals import handled

SIZES = {"n_train": 48, "n_test": 8, "n_held_out": 8, "n_reference": 8}


@pytest.fixture(scope="module")
def stream():
    """Two experiences of 48 pictures: three minibatches each."""
    return picturebook.mtil_like(order=["sketches", "night"], **SIZES)


@pytest.fixture(scope="module")
def whole(stream, tmp_path_factory):
    return Training(stream, minutes=9).run(tmp_path_factory.mktemp("whole"))


def told(number: int):
    """Signals the process itself, and lets the handler act before anything else happens."""

    def deed(strategy) -> None:
        os.kill(os.getpid(), number)
        time.sleep(0)

    return deed


def ends(training: Training, folder, event: str, number: int, by: int, capsys) -> Position:
    """The exit code and the sentence are right; where the training was."""
    with pytest.raises(SystemExit) as ended:
        training.run(folder, event, number, deed=told(by))
    assert ended.value.code == 128 + by
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"stopped by {signal.Signals(by).name}: the same command or script goes on from ")
    assert sentence.endswith(f"{training.plugin.position} ({folder})")
    return training.plugin.position


@pytest.mark.parametrize("by", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_an_iteration_is_finished_and_written(stream, whole, tmp_path, capsys, by):
    training = Training(stream, minutes=9, signals=True)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    position = ends(training, tmp_path, "before_backward", 5, by, capsys)
    assert position == Position(1, "within", 0, 2)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    assert_same(whole, training.run(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "number", "position"),
    [
        ("before_training_exp", 2, Position(1, "start")),
        ("after_training_exp", 2, Position(1, "start")),
        ("before_eval_iteration", 2, Position(0, "trained")),
    ],
)
def test_outside_of_iterations_it_ends_at_once(stream, whole, tmp_path, capsys, event, number, position):
    training = Training(stream, minutes=9, signals=True)
    assert ends(training, tmp_path, event, number, signal.SIGTERM, capsys) == position
    assert training.killer.heard[-1] == event
    assert_same(whole, training.run(tmp_path))


@pytest.mark.slow
def test_an_evaluation_within_an_iteration_is_not_waited_for(stream, tmp_path, capsys):
    options = {"eval_every": 1, "peval_mode": "iteration"}
    training = Training(stream, minutes=0, signals=True, options=options)
    # Two batches are evaluated before anything is trained, two within the first iteration.
    assert ends(training, tmp_path, "before_eval_iteration", 6, signal.SIGTERM, capsys).stage == "within"
    assert training.killer.heard[-1] == "before_eval_iteration"
    training = Training(stream, minutes=9, signals=True, options=options)
    ends(training, tmp_path / "flagged", "after_forward", 1, signal.SIGTERM, capsys)
    assert training.killer.heard[-1] == "before_eval" and "before_update" in training.killer.heard


class Trap:
    """A transform that signals its process at one of its calls, and draws before and after."""

    def __init__(self, at: int) -> None:
        self.left, self.transform = at, mini().transforms.eval

    def __call__(self, picture):
        noise = torch.randn(()) * 0.01
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.transform(picture) + noise + torch.randn(()) * 0.01


@pytest.mark.slow
def test_a_batch_that_is_being_loaded_is_not_waited_for(tmp_path, capsys):
    def training(at: int) -> Training:
        stream = picturebook.mtil_like(order=["sketches"], train_transform=Trap(at), **SIZES)
        return Training(stream, minutes=9, signals=True, evaluate=False)

    whole = training(0).run(tmp_path / "whole")
    trapped = training(20)
    with pytest.raises(SystemExit) as ended:
        trapped.run(tmp_path / "killed")
    assert ended.value.code == 143 and trapped.killer.heard.count("before_forward") == 1
    assert trapped.plugin.position == Position(0, "within", 0, 1)
    assert_same(whole, training(0).run(tmp_path / "killed"))


class Lines:
    """A tracer that signals the process at one line of the checkpoints' code between the second and third iteration.

    :param training: the training that it watches.
    :param at: which line, from 1 on.
    """

    def __init__(self, training: Training, at: int) -> None:
        self.training, self.left = training, at

    def begin(self, strategy) -> None:
        """What a training does after its second iteration: everything is slow that is traced."""
        sys.settrace(self)

    def __call__(self, frame, event, arg):
        if self.training.killer.heard[-1] != "after_training_iteration":
            sys.settrace(None)
            return None
        if Path(frame.f_code.co_filename).name not in ("batches.py", "recorder.py"):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        return self


@pytest.mark.slow
def test_a_signal_between_two_iterations_loses_neither_them_nor_a_draw(tmp_path):
    stream = picturebook.mtil_like(order=["sketches"], train_transform=Trap(0), **SIZES | {"n_train": 12})
    script = partial(Training, stream, minutes=9, evaluate=False, options={"train_mb_size": 4})
    whole = script().run(tmp_path / "whole")
    for at in range(1, 100):
        training, before = script(signals=True), sys.gettrace()
        try:
            training.run(tmp_path / str(at), "after_training_iteration", 2, deed=Lines(training, at).begin)
        except SystemExit:
            sys.settrace(before)
        else:
            break
        finally:
            sys.settrace(before)
        assert training.plugin.position in (Position(0, "within", 0, 2), Position(0, "within", 0, 3))
        assert_same(whole, script().run(tmp_path / str(at)))
    assert at > 15


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_processes_that_a_scheduler_signals_as_well_are_no_error(stream, tmp_path, number):
    def signal_all(strategy) -> None:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, number)
        os.kill(os.getpid(), number)
        time.sleep(0.5)  # the workers are gone before the iteration is over

    training = Training(stream, minutes=9, signals=True, evaluate=False, training={"num_workers": 2})
    whole = training.run(tmp_path / "whole")
    with pytest.raises(SystemExit) as ended:
        training.run(tmp_path / "killed", "before_backward", 4, deed=signal_all)
    assert ended.value.code == 128 + number and training.plugin.position == Position(1, "within", 0, 1)
    assert_same(whole, training.run(tmp_path / "killed"))


@pytest.mark.slow
def test_a_checkpoint_can_be_asked_for_by_a_signal(stream, whole, tmp_path):
    training = Training(stream, minutes=9, signals=True)
    assert_same(whole, training.run(tmp_path, "before_forward", 2, deed=told(signal.SIGUSR1)))
    assert (tmp_path / "0000-within-0000-0000002.json").exists()


def test_a_training_can_be_told_to_end_by_its_script(stream, tmp_path):
    training = Training(stream, minutes=9)
    with pytest.raises(Interrupted, match=r"stopped as asked: .* from experience 0, epoch 0, iteration 1") as told:
        training.run(tmp_path, "before_forward", 1, deed=lambda strategy: training.plugin.request(stop=True))
    assert told.value.exit_code == 1


def in_a_copy(do) -> int:
    """The exit code of a copy of this process that does something."""
    child = os.fork()
    if child == 0:
        try:
            do()
        finally:
            os._exit(77)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Deaf:
    """Does nothing as signals say."""

    def listens(self, listens):
        pass

    def request(self):
        pass

    def request_end(self, number):
        pass


def test_a_second_signal_ends_at_once():
    def twice() -> None:
        with handled(Deaf()):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    assert in_a_copy(twice) == 143


def test_what_a_process_has_forked_does_not_act_on_signals():
    def forked() -> None:
        with handled(Deaf()):
            code = in_a_copy(lambda: (os.kill(os.getpid(), signal.SIGINT), os.kill(os.getpid(), signal.SIGINT)))
            os._exit(code)

    assert in_a_copy(forked) == 77


def test_handlers_are_put_back_though_python_did_not_install_them(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: None)  # as for one of a C library's
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN), signal.signal(signal.SIGTERM, signal.SIG_IGN)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with handled(Deaf()):
            pass
        monkeypatch.undo()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in zip((signal.SIGUSR1, signal.SIGTERM, signal.SIGINT), (*before, interrupt), strict=True):
            signal.signal(number, handler)


@pytest.mark.slow
def test_a_process_that_was_forked_meanwhile_can_be_terminated():
    def terminated() -> None:
        with handled(Deaf()):
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            child.start()
            time.sleep(0.2)
            child.terminate()
            child.join(10)
            os._exit(5 if child.exitcode == -signal.SIGTERM else 6)

    assert in_a_copy(terminated) == 5


class Ends(Deaf):
    """What is told to end and does so at once."""

    def request_end(self, number):
        raise Interrupted("ended", number)


@pytest.mark.slow
def test_a_signal_within_a_finalizer_ends_all_the_same():
    class Last:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)

    def finalized() -> None:
        try:
            with handled(Ends()):
                last = Last()
                del last
                time.sleep(100)
        except SystemExit as ended:
            os._exit(ended.code)

    begun = time.monotonic()
    assert in_a_copy(finalized) == 143 and time.monotonic() - begun < 90


def test_signals_are_for_the_main_thread(tmp_path):
    caught: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with CheckpointPlugin(tmp_path).on_signals():
                pass
        except InputError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start(), thread.join()
    assert "main thread" in str(caught[0])


SCRIPT = """
import sys
import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from mini import mini

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.training import CheckpointPlugin, criterion_for, resume
from avalanche_vlm.training.plugins import RunningMeanPlugin

torch.set_num_threads(1)
stream = picturebook.mtil_like(order=["sketches", "night"], n_train=48, n_test=8, n_held_out=8, n_reference=8)
for folder in sys.argv[1:]:
    torch.manual_seed(0)
    model = mini()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        criterion=criterion_for("classes", model),
        train_mb_size=8,
        train_epochs=6,
        evaluator=EvaluationPlugin(loggers=[]),
        plugins=[RunningMeanPlugin(5), checkpoints := CheckpointPlugin(folder)],
    )
    with checkpoints.on_signals():
        for experience in stream.train_stream[resume(strategy, folder) :]:
            strategy.train(experience)
    torch.save(model.state_dict(), folder + ".pt")
"""


def start(script: Path, *folders: Path) -> int:
    """Run a script in a copy of this process, in which what it imports is there already.

    :return: number of the process; what it says is in files beside the script.
    """
    if child := os.fork():
        return child
    code: object = 99
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(script.with_name(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        sys.argv = [str(script), *map(str, folders)]
        runpy.run_path(str(script), run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 98)
    raise AssertionError


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes of this system cannot be copied")
def test_a_script_under_a_scheduler_ends_with_what_it_would_have(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = start(script, tmp_path / "killed")
    limit = time.monotonic() + 600
    while time.monotonic() < limit and not list((tmp_path / "killed").glob("*.json")):
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(process, signal.SIGTERM)
    told = time.monotonic()
    code, said = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), (tmp_path / "err").read_text()
    assert code == 143 and time.monotonic() - told < 300, said
    assert said.splitlines()[-1].startswith("stopped by SIGTERM: "), said
    assert not (tmp_path / "killed.pt").exists()
    # One process goes on with it, and trains another one that nobody interrupts.
    ended = os.waitpid(start(script, tmp_path / "killed", tmp_path / "whole"), 0)[1]
    assert ended == 0, (tmp_path / "err").read_text()
    assert_same(*(torch.load(tmp_path / f"{name}.pt") for name in ("whole", "killed")))
