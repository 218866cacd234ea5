"""The last of all plugins: sees a training when everyone else is done, writes it, and leads it back to where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm._ranks import Ranks, together
from avalanche_vlm.compat.strategies import evaluated_within
from avalanche_vlm.errors import InputError, Interrupted
from avalanche_vlm.memory.packing import HasState, StateDict, pack, part_of
from avalanche_vlm.memory.unpacking import unpack
from avalanche_vlm.training.checkpoint.batches import (
    END,
    EpochBatches,
    Nothing,
    loader_settings,
    refuse_loader,
)
from avalanche_vlm.training.checkpoint.conditions import differences, machine_conditions, training_conditions
from avalanche_vlm.training.checkpoint.contents import OfCheckpoints, load_strategy_state, strategy_state
from avalanche_vlm.training.checkpoint.folder import Position, SavedTraining, taken
from avalanche_vlm.training.checkpoint.signals import BreakOffError
from avalanche_vlm.training.checkpoint.writing import CheckpointWriter
from avalanche_vlm.training.sharding import whole_weights
from avalanche_vlm.training.state import random_states, restore_random_states

Phase = Literal["outside", "between", "loading", "training", "writing"]


class Recorder(OfCheckpoints, SupervisedPlugin[Any], supports_distributed=True):  # type: ignore[call-arg]
    """Sees a strategy's training behind all of its other plugins, and has its checkpoints written when they are due.

    A training that is resumed within an experience goes through all that happens as the experience starts, from the
    state that it started from. The epochs that are over are passed over, without any plugin. Where the interrupted
    epoch begins, the generators are where they were then, so that the loader deals the same batches; behind those that
    were trained everything takes the state that it had.

    An experience that is trained already is passed over without any plugin when it is given to ``train`` again.

    :param strategy: the strategy whose plugins this one is put behind.
    :param folder: the folder of checkpoints.
    :param minutes: time between two checkpoints within an experience; None for none.
    :param also: further objects with a state, by name.
    :param strict: whether plugins that do not declare their state are refused.
    """

    supports_sharding = True

    def __init__(
        self, strategy: Any, folder: Path, minutes: float | None, also: Mapping[str, HasState], strict: bool
    ) -> None:
        super().__init__()
        self.strategy, self.folder, self.minutes, self.also, self.strict = strategy, folder, minutes, also, strict
        self.pending: SavedTraining | None = None
        """What the training is led back to."""
        self.phase: Phase = "outside"
        self.wanted = False
        """Whether a checkpoint is asked for now."""
        self.stop: str | None = None
        """Why the training is to end; None to let it go on."""
        self.signal: int | None = None
        self.watched = False
        """Whether a signal may break off the loading of a batch."""
        self.noted: Callable[[], Mapping[str, Any]] = dict
        """Gives further JSON values that stand beside every checkpoint."""
        self.writer = CheckpointWriter(folder)
        self._written = time.monotonic()
        self._settings: dict[str, Any] = {}
        self._machine: dict[str, Any] = {}
        self._loader: dict[str, Any] = {}
        self._seen: list[list[int]] = []
        self._evaluates: list[list[Any]] = []
        self._evaluated: list[list[Any]] = []
        self._resumed = False
        self._epoch = 0
        self._epoch_random: dict[str, Any] = {}
        self._batches: EpochBatches | None = None
        self._silenced: list[Any] | None = None
        strategy.plugins.append(self)

    # Callbacks of the strategy ---------------------------------------------------------------------------------------

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        self._let_all_speak()
        self._settings, self._machine = training_conditions(strategy), machine_conditions(strategy)
        pending = self.pending
        self._evaluates = evaluated_within(strategy) if strategy.eval_every > -1 else []
        self._evaluated = self._evaluates if pending is None else pending.about["evaluates"]
        if pending is None:
            self._write(Position(len(self._seen), "start"))
            return
        self._resumed = True
        self._seen = [list(entry) for entry in pending.about["experiences"]][: pending.position.experience]
        self._loader = dict(pending.about["loader"])
        self.writer.follow(pending)
        if pending.position.stage == "trained":
            self._silence()
            return
        self._load(pending.state)
        if pending.position.stage == "start":
            self.pending = None

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        number, length = strategy.experience.current_experience, len(strategy.experience.dataset)
        if self._silenced is None and self._evaluates != self._evaluated:
            raise InputError(
                f"the checkpoint in {self.folder} is of a training that evaluates by itself on other experiences: give "
                "train the same eval_streams as then"
            )
        if self._resumed:
            self._check_stream(number, length)
            self._resumed = self.pending is not None
        self._seen.append([number, length])
        self._epoch = 0

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        if self.pending is not None and self.pending.within is not None and self.pending.position.epoch > 0:
            self._silence()

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        pending = self.pending
        if pending is not None and pending.position.stage == "trained":
            strategy.stop_training()
            return
        if pending is not None and self._epoch < pending.position.epoch:
            strategy.dataloader = Nothing(strategy.dataloader)
            return
        settings = loader_settings(strategy.dataloader)
        if self._loader and (differing := differences(self._loader, settings)):
            raise InputError(
                f"the checkpoint in {self.folder} is of a training whose batches were loaded otherwise: {differing}"
            )
        self._loader = settings
        if self.minutes is not None:
            refuse_loader(strategy.dataloader)
        trained, drawn = 0, None
        if pending is not None:
            assert pending.within is not None
            with taken(self.folder):
                inside = unpack("epoch", None, part_of(pending.within, "place"), "a loader")
                restore_random_states(inside["random"])
                trained, drawn = pending.position.iteration, inside["drawn"]
        self._epoch_random = random_states()
        self._batches = EpochBatches(strategy.dataloader, self, trained, drawn)
        strategy.dataloader = self._batches

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self.phase = "outside"
        if isinstance(strategy.dataloader, EpochBatches | Nothing):
            strategy.dataloader = strategy.dataloader.loader
        self._batches = None
        self._epoch += 1
        if self.pending is not None and self._epoch == self.pending.position.epoch:
            self._let_all_speak()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        pending = self.pending
        if pending is None:
            self._write(Position(len(self._seen) - 1, "trained"))
            return
        self._let_all_speak()
        self._load(pending.state)
        self.pending = None

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        self.writer.settle(wait=False)
        if self.stop is not None:
            self.end()  # an evaluation within an iteration may take longer than a scheduler waits

    def after_eval(self, strategy: Any, **kwargs: Any) -> None:
        self.writer.settle(wait=False)

    # What the loader of an epoch says --------------------------------------------------------------------------------

    def started(self) -> None:
        pending, self.pending = self.pending, None
        if pending is not None:
            assert pending.within is not None  # of the others none is pending by now
            self._load(pending.within)
            self._written = time.monotonic()

    def between(self, trained: int) -> None:
        self.phase = "between"  # what ends a training from now on is looked at before the next batch
        here = Position(len(self._seen) - 1, "within", self._epoch, trained)
        self.writer.settle(wait=False)
        due = self.minutes is not None and time.monotonic() - self._written >= 60 * self.minutes
        ranks = None if self.minutes is None else self._in_parts()
        ends = ranks is None
        if ranks is not None:  # they write together, when the first one wants it: signals reach one, and clocks differ
            due, ends = ranks.from_first((due or self.wanted or self.stop is not None, self.stop is not None))
        if due or (self.wanted and ranks is None):
            self.wanted = False
            self._write_once(here)
        if self.stop is not None and ends:
            if ranks is None:  # the others are on their way by now
                self._write_once(here)
            self.end()

    def load(self, batches: Iterator[Any]) -> Any:
        if self._in_parts() is not None:  # the others would go on without the batch that this one breaks off
            self.phase = "training"
            return next(batches, END)
        before = random_states() if self.watched else None
        try:
            # A signal breaks this off wherever it is, so that the generators go back whenever the batch is not trained.
            self.phase = "loading"
            if self.stop is not None:
                raise BreakOffError
            batch = next(batches, END)
            self.phase = "training"
        except BreakOffError:
            if before is not None:  # the batch that is not trained has drawn nothing
                restore_random_states(before)
            raise
        return batch

    # Its own ---------------------------------------------------------------------------------------------------------

    def lead_back(self, checkpoint: SavedTraining) -> None:
        """Have the next training go on from a checkpoint, and the strategy take what it started from at once.

        :param checkpoint: what was read.
        """
        self.pending = checkpoint
        self.writer.follow(checkpoint)
        self._load(checkpoint.state)

    def end(self) -> None:
        """End the training as it was told to.

        :raises Interrupted: always, with the sentence on where the same script goes on.
        """
        self.writer.settle()
        last = self.writer.last_written
        where = "from the start, for nothing was written yet" if last is None else f"from {last}"
        raise Interrupted(f"{self.stop}: the same command or script goes on {where} ({self.folder})", self.signal)

    def _write_once(self, position: Position) -> None:
        """Write where the training is within an experience, if that is wanted at all and is not written yet."""
        if self.minutes is not None and position != self.writer.last_written:
            self._write(position)

    def _in_parts(self) -> Ranks | None:
        """The processes, where each has a part of the towers."""
        return together() if getattr(self.strategy, "shards", None) is not None else None

    def _write(self, position: Position) -> None:
        phase, self.phase = self.phase, "writing"
        try:
            with whole_weights(self.strategy):  # which all processes enter, and the first one writes
                self.writer.write(position, partial(self._contents, within=position.stage == "within"))
        finally:
            self.phase, self._written = phase, time.monotonic()
        if self.stop is not None and position.stage != "within":
            self.end()

    def _contents(self, *, within: bool) -> tuple[StateDict, dict[str, Any]]:
        """What a checkpoint consists of: everything that the training is, and what is noted beside it."""
        state = strategy_state(self.strategy, self.also, within=within, strict=self.strict)
        if within:
            assert self._batches is not None  # it is its loader that asks
            place = {"random": self._epoch_random, "drawn": self._batches.drawn}
            state |= {f"place.{name}": entry for name, entry in pack("epoch", place).items()}
        about = {
            "settings": self._settings,
            "machine": self._machine,
            "experiences": self._seen,
            "evaluates": self._evaluates,
            "loader": self._loader,
            **self.noted(),
        }
        return state, about

    def _load(self, state: Mapping[str, Any]) -> None:
        with taken(self.folder), whole_weights(self.strategy):
            load_strategy_state(self.strategy, state, self.also, strict=self.strict)

    def _silence(self) -> None:
        """Have nothing but this plugin hear of what happens until all speak again."""
        self._silenced, self.strategy.plugins = self.strategy.plugins, [self]

    def _let_all_speak(self) -> None:
        if self._silenced is not None:
            self.strategy.plugins, self._silenced = self._silenced, None

    def _check_stream(self, number: int, length: int) -> None:
        """Refuse another stream than that of the checkpoint, as far as the lengths of its experiences tell.

        :param number: number of the experience that is about to be trained.
        :param length: number of its samples.
        """
        stream = getattr(self.strategy.experience, "origin_stream", None)
        known = {} if stream is None else {e.current_experience: len(e.dataset) for e in self._among(stream)}
        for noted, samples in self._seen:
            if noted in known and known[noted] != samples:
                self._refuse_stream(f"experience {noted} had {samples} samples, and has {known[noted]}")
        if self.pending is not None:
            noted, samples = self.pending.about["experiences"][-1]
            if (noted, samples) != (number, length):
                self._refuse_stream(f"experience {noted} with {samples} samples comes next, not {number} with {length}")

    def _among(self, stream: Any) -> Iterator[Any]:
        for noted, _ in self._seen:
            if noted < len(stream):
                yield stream[noted]

    def _refuse_stream(self, why: str) -> None:
        raise InputError(f"the checkpoint in {self.folder} is of another stream: {why}")
