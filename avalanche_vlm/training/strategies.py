"""What a VLM needs of an Avalanche strategy, as a mixin for any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from avalanche.models.dynamic_optimizers import update_optimizer
from avalanche.training.supervised import Naive

from avalanche_vlm._generators import generators_kept
from avalanche_vlm._host import to_device
from avalanche_vlm._memory import give_back
from avalanche_vlm._numbers import NUMBERS
from avalanche_vlm._ranks import together
from avalanche_vlm.benchmarks.reading import reading_by
from avalanche_vlm.benchmarks.shares import ByPlace
from avalanche_vlm.compat.strategies import UnpacksContainers, set_stops_training
from avalanche_vlm.errors import InputError, NotFinite
from avalanche_vlm.losses.sampled import sampled_negatives
from avalanche_vlm.models.compiling import compiling_blocks
from avalanche_vlm.models.fitness import not_finite
from avalanche_vlm.models.sparing import encoding_in, keeping_no_activations
from avalanche_vlm.training.distributed import in_ranks
from avalanche_vlm.training.finite import FiniteLosses
from avalanche_vlm.training.plugins.base import no_full_batch, refuse_options, refuse_some_classes
from avalanche_vlm.training.precision import TrainPrecision
from avalanche_vlm.training.protocol import Strategy, model_of, refuse_pairs
from avalanche_vlm.training.sharding import ShardedTowers

if TYPE_CHECKING:
    from avalanche.training.templates import SupervisedTemplate as _Template
else:
    _Template = object


class VLMMixin(UnpacksContainers, _Template):
    """Put it before an Avalanche strategy: ``class VLMReplay(VLMMixin, Replay): ...``.

    It keeps the optimizer to the trainable parameters, starts every experience with fresh optimizer state (as all
    published continual fine-tuning of CLIP does), and stops on a loss that is not finite. Our recipes do not depend on
    it: they run in Avalanche's own strategies as well, but not in several processes
    (:mod:`~avalanche_vlm.training.distributed`).

    :param amp: ``"bf16"`` or ``"fp16"`` runs forward and criterion under autocast, the latter with a scaled loss
        (:class:`~avalanche_vlm.training.precision.TrainPrecision`); None does not.
    :param accumulate: number of parts in which the towers encode a minibatch, so that it takes the memory of a part:
        losses see all of it, and its gradient is the same (:func:`~avalanche_vlm.models.parts.in_parts`).
    :param grad_checkpointing: whether the blocks of the towers keep no activations and run once more backward, for less
        memory.
    :param compile: whether torch compiles the blocks of the towers for an epoch's steps
        (:func:`~avalanche_vlm.models.compiling.compiling_blocks`).
    :param shard: whether each of several processes keeps a part of the towers' weights, of their gradients and moments
        (:mod:`~avalanche_vlm.training.sharding`).
    :param max_grad_norm: clip the gradient's global norm to this; None does not.
    :param keep_optimizer_state: carry moments over from one experience to the next, as stock Avalanche does. Without,
        they stay until the next experience begins, or until a plugin merges weights or takes their Fisher information
        when an experience ends (:meth:`make_room`); a checkpoint between experiences has none.
    :param negatives: number of classes that are drawn in a training step, from torch's global generator, to stand for
        all that compete and are not the batch's (:func:`~avalanche_vlm.losses.sampled.sampled_negatives`); None takes
        all.
    :param iterations: iterations after which an experience is over, wherever in an epoch that is; the strategy's
        ``train_epochs`` are then as many as these take. None for ``train_epochs`` as they are given.
    """

    loss: torch.Tensor
    dataloader: Any
    optimized_param_id: dict[str, torch.nn.Parameter] | None

    def __init__(
        self,
        *,
        amp: str | None = None,
        accumulate: int = 1,
        grad_checkpointing: bool = False,
        compile: bool = False,
        shard: bool = False,
        max_grad_norm: float | None = None,
        keep_optimizer_state: bool = False,
        negatives: int | None = None,
        iterations: int | None = None,
        **kwargs: Any,
    ) -> None:
        numbers = {"max_grad_norm": max_grad_norm, "negatives": negatives, "iterations": iterations}
        for name, value in {**numbers, "accumulate": accumulate}.items():
            if value is not None:
                NUMBERS[name].checked(value)
        super().__init__(**kwargs)
        self.precision = TrainPrecision(amp, self.device)
        self.accumulate, self.grad_checkpointing, self.compile = accumulate, grad_checkpointing, compile
        self.shard = shard
        self.shards: ShardedTowers | None = None
        """The towers in parts, while the strategy trains or evaluates and was asked to."""
        self.iterations = iterations
        self.negatives = negatives
        self.amp = amp
        self.max_grad_norm = max_grad_norm
        self.keep_optimizer_state = keep_optimizer_state
        self.losses = FiniteLosses()
        self.joining: list[Callable[[], torch.Tensor]] = []
        """Terms of the loss at hand that add their own gradients and give their value, when the backward pass of the
        others is over."""

    def on_device(self, part: Any) -> Any:
        """A part of a minibatch on the strategy's device: of labels the host knows afterwards what it has sent."""
        if isinstance(part, torch.Tensor) and not part.is_floating_point():
            return to_device(part, self.device)
        return part.to(self.device, non_blocking=True)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision context of this strategy; plugins that run the model on data of their own enter it too."""
        return self.precision.autocast()

    def training_epoch(self, **kwargs: Any) -> None:
        """Avalanche's epoch, unless there is no batch: Avalanche would train nothing, and say nothing.

        :raises InputError: if ``drop_last`` has left out the only batch, or if negatives are drawn where something
            needs all classes, or where there are pairs and no classes.
        """
        if len(self.dataloader) == 0:
            raise InputError(no_full_batch(self))
        if self.negatives is not None:
            refuse_pairs(self, "negatives")
            refuse_some_classes(self)
        # What plugins read of layers between epochs, they read of layers as they are.
        with compiling_blocks(model_of(self)) if self.compile else nullcontext(), self._placed(True):
            super().training_epoch(**kwargs)
        self.losses.settle()  # before plugins make something of the weights
        if self._has_all_iterations():
            set_stops_training(self, False)  # it was this epoch that was cut
        # Nobody reads the last step's gradients, and what happens to the weights between epochs needs the room.
        self.optimizer.zero_grad()

    def eval_epoch(self, **kwargs: Any) -> None:
        """Avalanche's loop over a test set, of which each of several processes reads its share."""
        with self._placed(False):
            super().eval_epoch(**kwargs)

    @contextmanager
    def _placed(self, draws: bool) -> Iterator[None]:
        """Within a block each of several processes reads its share of the loader's batches, and what samples draw, if
        they do, follows from their places in the epoch."""
        loader = self.dataloader
        if hasattr(loader, "by_place"):  # it tells of every batch
            loader.by_place = draws
        else:
            self.dataloader = ByPlace(loader, draws)
        try:
            yield
        finally:
            self.dataloader = loader

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """Avalanche's loader; where so many iterations are asked for, an experience has the epochs that these take."""
        super().make_train_dataloader(**kwargs)
        self.plan_epochs()

    def plan_epochs(self) -> None:
        """Where so many iterations are asked for, have as many epochs as they take with the loader of now: to be called
        again by a plugin that puts another one in its place."""
        if self.iterations is not None:
            self.train_epochs = max(1, -(-self.iterations // max(1, len(self.dataloader))))

    def forward(self) -> Any:
        with self.autocast(), self._among_some():
            return super().forward()

    def _among_some(self) -> AbstractContextManager[Any]:
        """The classes that compete in the step at hand, where some stand for the others."""
        if self.negatives is None or not self.is_training:
            return nullcontext()
        competing = self.model.competing
        found = competing.while_training(self.mb_task_id)
        return competing.sampled(*sampled_negatives(found, self.mb_y, self.negatives))

    def make_room(self) -> None:
        """Drop what the optimizer has gathered, where the next experience starts without it: called by plugins of ours
        when an experience's last step is over and before they take memory as large as the weights. Whoever reads
        moments in ``after_training_exp`` stands before such a plugin. With ``keep_optimizer_state`` nothing happens."""
        if not self.keep_optimizer_state:
            self.optimizer.state.clear()

    def criterion(self) -> torch.Tensor:
        with self.autocast():
            return super().criterion()

    def backward(self) -> None:
        if not torch.is_grad_enabled():
            raise InputError("without gradients nothing is trained: call train outside of no_grad and inference_mode")
        joining, self.joining = self.joining, []
        loss: torch.Tensor = self.loss
        if not loss.requires_grad and not joining:
            raise InputError(
                f"nothing that trains takes part in the loss of experience {self.experience.current_experience}: the "
                "model is frozen, and no method has added what would train; unfreeze a tower"
            )
        where = (
            f"at experience {self.experience.current_experience}, epoch {self.clock.train_exp_epochs}, iteration "
            f"{self.clock.train_epoch_iterations}: lower the learning rate (now "
            f"{self.optimizer.param_groups[0]['lr']:g}) or clip gradients with max_grad_norm"
        )

        def sentence(value: float) -> str:
            return f"the loss became {value} {where}"

        if not joining or loss.device.type == "cpu":  # elsewhere one look a step is waited for
            self.losses.see(loss, sentence)
        self.loss = self.precision.scaled(loss)
        if loss.requires_grad:
            super().backward()
        if self.shards is not None:
            self.shards.settle_gradients()
        elif (ranks := together()) is not None:
            ranks.average_gradients(self.model.parameters())
        self.loss = loss
        self.precision.unscale(self.optimizer)
        for term in joining:
            self.loss = self.loss + term()
        if joining:
            self.losses.see(self.loss, sentence)

    def optimizer_step(self) -> None:
        if self.max_grad_norm is not None and self.shards is not None:
            self.shards.clip(self.max_grad_norm)
        elif self.max_grad_norm is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm, foreach=True)
        if self.precision.scaler.is_enabled():
            self.precision.step(self.optimizer)
        else:
            super().optimizer_step()
        if self.shards is not None:
            self.shards.stepped()
        if self._has_all_iterations(1):
            self.stop_training()

    def _has_all_iterations(self, more: int = 0) -> bool:
        """Whether an experience has the iterations that it should, with so many more than are over."""
        return self.iterations is not None and self.clock.train_exp_iterations + more >= self.iterations

    def eval(self, *args: Any, **kwargs: Any) -> Any:
        """Avalanche's evaluation, which draws nothing from what training draws from: Avalanche's loaders take a seed
        from the global generator, so that a model trained otherwise where it was looked at in between. What metrics
        read is read by the evaluation's ``num_workers`` as well."""
        self.losses.settle()
        with in_ranks(self, trains=False), generators_kept(self.device), self._reading(kwargs):
            return super().eval(*args, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Avalanche's training, of which plugins read by its ``num_workers`` what they read. After it the weights are
        looked at: no loss is computed of those that the last step has left, and of what plugins make of them at the
        end.

        :raises NotFinite: if one is NaN or infinite.
        """
        self.precision.begin()
        self.joining = []  # of a training that broke off
        with in_ranks(self, trains=True), self._reading(kwargs), self._as_asked():
            found = super().train(*args, **kwargs)
        self.losses.settle()
        give_back()
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if broken := not_finite(trained):
            raise NotFinite(
                f"after experience {self.clock.train_exp_counter - 1} {len(broken)} of {len(trained)} weights that "
                f"train are NaN or infinite, the first {broken[0]}: lower the learning rate, or clip gradients with "
                "max_grad_norm"
            )
        return found

    def _reading(self, options: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Plugins and metrics read by as many processes as the loop, and from pinned memory where it does."""
        return reading_by(options.get("num_workers", 0), self.device.type == "cuda")

    @contextmanager
    def _as_asked(self) -> Iterator[None]:
        """The model as it encodes in a training of these settings."""
        options = {"accumulate": self.accumulate, "grad_checkpointing": self.grad_checkpointing}
        options |= {"fp16": self.amp == "fp16", "compile": self.compile}
        if self.accumulate == 1 and not any(value for name, value in options.items() if name != "accumulate"):
            yield
            return
        model = model_of(self)
        refuse_options("the training", model, self.plugins, options)
        with encoding_in(model, self.accumulate), keeping_no_activations(model, self.grad_checkpointing):
            yield

    def make_optimizer(self, reset_optimizer_state: bool = False, **kwargs: Any) -> None:
        """Keep the optimizer to what trains now: new modules enter, frozen parameters leave."""
        trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if self.shards is not None:
            trainable = self.shards.trained(trainable)
        self.optimized_param_id = update_optimizer(
            self.optimizer,
            trainable,
            self.optimized_param_id,
            reset_state=reset_optimizer_state or not self.keep_optimizer_state,
            remove_params=True,
        )


class VLMNaive(VLMMixin, Naive):
    """Avalanche's ``Naive`` with :class:`VLMMixin`: plain fine-tuning, to which recipes add their plugins."""


def autocast_of(strategy: Strategy) -> AbstractContextManager[Any]:
    """The strategy's precision context; none for Avalanche's own strategies.

    :param strategy: the strategy whose precision a plugin's own passes take.
    """
    return strategy.autocast() if isinstance(strategy, VLMMixin) else nullcontext()


def took_step(strategy: Strategy) -> bool:
    """Whether a strategy's last step was taken: in fp16 one whose gradients overflow is not.

    :param strategy: the strategy, after an update.
    """
    return not (isinstance(strategy, VLMMixin) and strategy.precision.skipped)


def make_room(strategy: Strategy) -> None:
    """Have a strategy drop what its optimizer has gathered (:meth:`VLMMixin.make_room`); Avalanche's own keep it.

    :param strategy: the strategy, after an experience's last step.
    """
    if isinstance(strategy, VLMMixin):
        strategy.make_room()
