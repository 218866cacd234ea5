"""What a VLM needs of an Avalanche strategy, as a mixin for any of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from avalanche.models.dynamic_optimizers import update_optimizer
from avalanche.training.supervised import Naive

from avalanche_vlm._generators import generators_kept
from avalanche_vlm._memory import give_back
from avalanche_vlm._numbers import NUMBERS
from avalanche_vlm._ranks import together
from avalanche_vlm.benchmarks.reading import reading_by
from avalanche_vlm.compat import UnpacksContainers, set_stops_training
from avalanche_vlm.errors import InputError, NotFinite
from avalanche_vlm.losses.sampled import sampled_negatives
from avalanche_vlm.models.fitness import not_finite
from avalanche_vlm.training.distributed import in_ranks
from avalanche_vlm.training.plugins.base import no_full_batch, refuse_some_classes
from avalanche_vlm.training.protocol import Strategy, refuse_pairs

if TYPE_CHECKING:
    from avalanche.training.templates import SupervisedTemplate as _Template
else:
    _Template = object

_AMP = {"bf16": torch.bfloat16}


class VLMMixin(UnpacksContainers, _Template):
    """Put it before an Avalanche strategy: ``class VLMReplay(VLMMixin, Replay): ...``.

    It keeps the optimizer to the trainable parameters, starts every experience with fresh optimizer state (as all
    published continual fine-tuning of CLIP does), and stops on a loss that is not finite. Our recipes do not depend on
    it: they run in Avalanche's own strategies as well, but not in several processes
    (:mod:`~avalanche_vlm.training.distributed`).

    :param amp: ``"bf16"`` runs forward and criterion under autocast; None does not.
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

    optimized_param_id: dict[str, torch.nn.Parameter] | None

    def __init__(
        self,
        *,
        amp: str | None = None,
        max_grad_norm: float | None = None,
        keep_optimizer_state: bool = False,
        negatives: int | None = None,
        iterations: int | None = None,
        **kwargs: Any,
    ) -> None:
        if amp is not None and amp not in _AMP:
            raise InputError(f"amp is None or 'bf16', not {amp!r}")
        for name, value in (("max_grad_norm", max_grad_norm), ("negatives", negatives), ("iterations", iterations)):
            if value is not None:
                NUMBERS[name].checked(value)
        super().__init__(**kwargs)
        self.iterations = iterations
        self.negatives = negatives
        self.amp = amp
        self.max_grad_norm = max_grad_norm
        self.keep_optimizer_state = keep_optimizer_state

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision context of this strategy; plugins that run the model on data of their own enter it too."""
        if self.amp is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_AMP[self.amp])

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
        super().training_epoch(**kwargs)
        if self._has_all_iterations():
            set_stops_training(self, False)  # it was this epoch that was cut
        # Nobody reads the last step's gradients, and what happens to the weights between epochs needs the room.
        self.optimizer.zero_grad()

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
        if not self.loss.requires_grad:
            raise InputError(
                f"nothing that trains takes part in the loss of experience {self.experience.current_experience}: the "
                "model is frozen, and no method has added what would train; unfreeze a tower"
            )
        if not torch.isfinite(self.loss).all():
            raise NotFinite(
                f"the loss became {self.loss.item()} at experience {self.experience.current_experience}, epoch "
                f"{self.clock.train_exp_epochs}, iteration {self.clock.train_epoch_iterations}: lower the learning "
                f"rate (now {self.optimizer.param_groups[0]['lr']:g}) or clip gradients with max_grad_norm"
            )
        super().backward()
        if (ranks := together()) is not None:
            ranks.average_gradients(self.model.parameters())

    def optimizer_step(self) -> None:
        if self.max_grad_norm is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm, foreach=True)
        super().optimizer_step()
        if self._has_all_iterations(1):
            self.stop_training()

    def _has_all_iterations(self, more: int = 0) -> bool:
        """Whether an experience has the iterations that it should, with so many more than are over."""
        return self.iterations is not None and self.clock.train_exp_iterations + more >= self.iterations

    def eval(self, *args: Any, **kwargs: Any) -> Any:
        """Avalanche's evaluation, which draws nothing from what training draws from: Avalanche's loaders take a seed
        from the global generator, so that a model trained otherwise where it was looked at in between. What metrics
        read is read by the evaluation's ``num_workers`` as well."""
        with in_ranks(self), generators_kept(self.device), reading_by(kwargs.get("num_workers", 0)):
            return super().eval(*args, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Avalanche's training, of which plugins read by its ``num_workers`` what they read. After it the weights are
        looked at: no loss is computed of those that the last step has left, and of what plugins make of them at the
        end.

        :raises NotFinite: if one is NaN or infinite.
        """
        with in_ranks(self), reading_by(kwargs.get("num_workers", 0)):
            found = super().train(*args, **kwargs)
        give_back()
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if broken := not_finite(trained):
            raise NotFinite(
                f"after experience {self.clock.train_exp_counter - 1} {len(broken)} of {len(trained)} weights that "
                f"train are NaN or infinite, the first {broken[0]}: lower the learning rate, or clip gradients with "
                "max_grad_norm"
            )
        return found

    def make_optimizer(self, reset_optimizer_state: bool = False, **kwargs: Any) -> None:
        """Keep the optimizer to what trains now: new modules enter, frozen parameters leave."""
        trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
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


def make_room(strategy: Strategy) -> None:
    """Have a strategy drop what its optimizer has gathered (:meth:`VLMMixin.make_room`); Avalanche's own keep it.

    :param strategy: the strategy, after an experience's last step.
    """
    if isinstance(strategy, VLMMixin):
        strategy.make_room()
