"""Every touch of a private API of our dependencies, each with its reason. ``tests/test_compat.py`` holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import ConcatDataset, DataLoader, Subset
from torch.utils.data._utils.collate import default_collate_fn_map
from torchmetrics import Metric

OperatorMode = TorchDispatchMode
"""Base of modes that see every operator, forward and backward: torch documents it and builds its counters on it, but
keeps it in a module with an underscore."""


def register_collate(kind: type, collate: Callable) -> None:
    """Teach torch's default collate function a container.

    Torch documents the map as extensible but offers no public name for the default one, and Avalanche's plugins build
    loaders with the default collate over their buffers, where no ``collate_fn`` of ours would reach.

    :param kind: the container's class.
    :param collate: ``(samples, *, collate_fn_map) -> batch``.
    """
    default_collate_fn_map[kind] = collate


def source_datasets(dataset: Any) -> Iterator[Any]:
    """The data sets that an Avalanche data set was made of, however it was joined and split.

    Avalanche has no public way to them, and to read what they know besides samples through the samples would decode
    every image.

    :param dataset: an experience's, torch's ``ConcatDataset`` or ``Subset``, or one that stands on nothing else.
    """
    parts = [*getattr(dataset, "_datasets", ()), *getattr(dataset, "datasets", ())]
    if hasattr(dataset, "dataset"):  # torch's Subset
        parts.append(dataset.dataset)
    if not parts:
        yield dataset
    for part in parts:
        yield from source_datasets(part)


def transform_of(dataset: Any, group: str) -> Callable[[Any], Any]:
    """What an Avalanche data set does to the raw input of a sample under one of its transform groups.

    Avalanche applies its groups to samples that it holds, and has no public way to apply them to another input. Where
    several data sets were joined, those of the first one are taken.

    :param dataset: an Avalanche data set; anything else has no transforms.
    :param group: name of the group, ``"train"`` or ``"eval"``.
    :return: the function of a raw input; it gives the input itself where there are no transforms.
    """
    steps: list[Any] = []
    part: Any = getattr(dataset, "_flat_data", None)
    while hasattr(part, "_transform_groups"):
        steps += [part._transform_groups, part._frozen_transform_groups]  # from the outermost in, the last to act first
        part = part._datasets[0] if part._datasets else None

    return partial(_transformed, tuple(reversed(steps)), group)


def _transformed(steps: tuple[Any, ...], group: str, x: Any) -> Any:
    sample: Any = [x, 0]
    for groups in steps:
        sample = groups(sample, group_name=group)
    return sample[0]


def stands_on(dataset: Any) -> tuple[Sequence[Any], Sequence[int] | None]:
    """The data sets that an Avalanche data set was made of, one behind the other, and which of their samples it has in
    which order: None for all of them. Both are private there.

    :param dataset: an experience's, torch's ``ConcatDataset`` or ``Subset``; one that stands on nothing else has none.
    """
    data = getattr(dataset, "_flat_data", dataset)
    if isinstance(dataset, Subset):
        return [dataset.dataset], dataset.indices
    if isinstance(dataset, ConcatDataset):
        return dataset.datasets, None
    return (data._datasets, data._indices) if hasattr(data, "_get_idx") else ([], None)


def transform_steps(dataset: Any, group: str) -> Iterator[Callable[..., Any]]:
    """What an Avalanche data set does to its first samples, innermost first.

    :param dataset: an experience's; one that has no transforms of Avalanche's kind gives none.
    :param group: ``"train"`` or ``"eval"``.
    """
    data = getattr(dataset, "_flat_data", dataset)
    inner = getattr(dataset, "dataset", None)  # torch's Subset, and what stands around another data set
    for part in [*getattr(data, "_datasets", ())[:1], *([] if inner is None else [inner])]:
        yield from transform_steps(part, group)
    for name in ("_frozen_transform_groups", "_transform_groups"):
        groups = getattr(getattr(data, name, None), "transform_groups", {})
        if groups.get(group) is not None:
            yield from groups[group].flat_transforms(0)


def untransformed(dataset: Any) -> Any:
    """An Avalanche data set without its transforms, in every group and at every depth; frozen ones stay, since they are
    part of the data (the permutation of a permuted MNIST).

    Avalanche's public methods remove one group at a time, and beneath the top only where it happens to be current.

    :param dataset: an Avalanche data set, which stays as it is.
    """
    from avalanche.benchmarks.utils.transform_groups import EmptyTransformGroups

    def bare(data: Any) -> Any:
        if not hasattr(data, "_transform_groups"):
            return data
        clone = data._shallow_clone_dataset()
        clone._transform_groups = EmptyTransformGroups()
        clone._datasets = [bare(part) for part in data._datasets]
        return clone

    clone = dataset._shallow_clone_dataset()
    clone._flat_data = bare(dataset._flat_data)
    return clone


def criterion_of(strategy: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss function of an Avalanche strategy, to be called on other outputs than those of the minibatch.

    ``strategy.criterion()`` is its loss on the minibatch; the function itself has no public name.

    :param strategy: any of Avalanche's, or one of ours.
    """
    return strategy._criterion


STRATEGY_ATTRIBUTES = frozenset(
    (
        *("model", "device", "plugins", "experience", "is_training", "current_eval_stream", "_distributed_check"),
        *("_eval_streams", "optimizer", "_criterion", "train_epochs", "train_mb_size", "eval_mb_size", "retain_graph"),
        *("evaluator", "eval_every", "clock", "adapted_dataset", "dataloader", "mbatch", "mb_output", "loss"),
        *("_stop_training", "optimized_param_id"),
    )
)
"""What every supervised strategy of Avalanche's has. One that has more keeps more, which a checkpoint has to know."""


def stops_training(strategy: Any) -> bool:
    """Whether someone has called ``strategy.stop_training()`` and the strategy has not stopped yet.

    Avalanche has a public way to ask for it, and none to see it or to take it back.

    :param strategy: any of Avalanche's.
    """
    return bool(strategy._stop_training)


def set_stops_training(strategy: Any, stops: bool) -> None:
    """Have a strategy stop at its next minibatch or epoch, or go on.

    :param strategy: any of Avalanche's.
    :param stops: whether it stops.
    """
    strategy._stop_training = stops


def evaluated_within(strategy: Any) -> list[list[Any]]:
    """The experiences on which a strategy evaluates by itself while it trains: stream and number of each.

    ``train`` takes them from its arguments and keeps them under a private name.

    :param strategy: any of Avalanche's, within ``train``.
    """
    streams = strategy._eval_streams or []
    return [[experience.origin_stream.name, experience.current_experience] for of in streams for experience in of]


def loader_of_epoch(loader: Any) -> DataLoader:
    """The torch loader that one of Avalanche's loaders makes for every epoch and walks through.

    Avalanche gives no way to start an epoch at another batch than the first; torch's loader has its samplers in public.

    :param loader: one of Avalanche's own, a ``MultiDatasetDataLoader``.
    """
    return loader._get_loader()


class UnpacksContainers:
    """Mixin for Avalanche's strategies: minibatches may hold containers that move themselves.

    Avalanche's master accepts only tensors and dicts when it moves a minibatch, and its hook for that has no public
    name. Put it before the strategy's class.
    """

    mbatch: Any
    on_device: Callable[[Any], Any]

    def _unpack_minibatch(self) -> None:
        self.mbatch = [self.on_device(part) for part in self.mbatch]


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor was written to in place: autograd's counter, which torch documents for its error messages."""
    return tensor._version


def has_hooks(module: nn.Module | None) -> bool:
    """Whether anything is called around a module's passes, or (None) around those of all: torch has no public list."""
    kinds = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
    there, mark = (vars(nn.modules.module), "_global_") if module is None else (vars(module), "_")
    return any(there[f"{mark}{kind}"] for kind in kinds)


def add_each_(tensors: list[torch.Tensor], others: list[torch.Tensor], alpha: float) -> None:
    """Add ``alpha`` times another tensor to each tensor, in one call, and on CUDA in few kernels: what ``torch.optim``
    is made of, which torch documents under this name alone."""
    if tensors:
        torch._foreach_add_(tensors, others, alpha=alpha)


def copy_each_(tensors: list[torch.Tensor], others: list[torch.Tensor]) -> None:
    """Copy another tensor into each tensor, as :func:`add_each_` does it."""
    if tensors:
        torch._foreach_copy_(tensors, others)


def lerp_each_(tensors: list[torch.Tensor], others: list[torch.Tensor], weight: float) -> None:
    """Move each tensor this share of the way to another one, as :func:`add_each_` does it."""
    if tensors:
        torch._foreach_lerp_(tensors, others, weight)


def mul_each_(tensors: list[torch.Tensor], factor: float) -> None:
    """Multiply each tensor by a number, as :func:`add_each_` does it."""
    if tensors:
        torch._foreach_mul_(tensors, factor)


class ResizesOnLoad(nn.Module):
    """Base of modules whose parts grow while they learn: before a state is loaded, :meth:`prepare_load` makes room.

    torch offers a public hook for that from version 2.5 on only, and hooks do not survive a deep copy. It also takes a
    state without the entry of ``get_extra_state`` for a damaged one; here it is one that says less.
    """

    def prepare_load(self, state: Mapping[str, Any]) -> None:
        """Take the shape of a state that is about to be loaded. By default every buffer takes that of its entry.

        Whatever it draws does not move the global random state.

        :param state: the entries of this module, without the prefix that they have in a larger model; it must not be
            changed.
        """
        for name, buffer in list(self.named_buffers(recurse=False)):
            if name in state:
                setattr(self, name, torch.empty_like(state[name], device=buffer.device))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        try:
            with torch.random.fork_rng(devices=[]):
                self.prepare_load({k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)})
            super()._load_from_state_dict(
                state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, ValueError) and type(error) is not ValueError:
                raise  # a sentence of our own, which names the entry
            error_msgs.append(f"the entries of {prefix or 'the model'} are damaged: {type(error).__name__}: {error}")
            return
        if prefix + EXTRA in missing_keys:
            missing_keys.remove(prefix + EXTRA)


EXTRA = "_extra_state"
"""What torch calls the entry of ``get_extra_state``; the name is documented, its constant is private."""


@contextmanager
def code_of_models(trusted: bool = False) -> Iterator[None]:
    """Decide whether transformers runs code that comes with a model, where it would ask on the terminal.

    Open_clip builds tokenizers and text towers without a word on trust. Transformers' only switch for all of them is
    how many seconds it waits for the answer: with 0 it does not ask and raises ``ValueError``. There is none for yes,
    so that the classes which open_clip calls are given the word.

    :param trusted: whether such code may run.
    """
    try:
        from open_clip import hf_model
        from transformers import AutoTokenizer, dynamic_module_utils
    except ImportError:
        yield
        return
    with ExitStack() as changed:
        before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
        changed.callback(setattr, dynamic_module_utils, "TIME_OUT_REMOTE_CODE", before)
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
        for kind in (hf_model.AutoConfig, hf_model.AutoModel, AutoTokenizer) if trusted else ():
            for name in filter(partial(hasattr, kind), ("from_pretrained", "from_config")):
                changed.callback(_put_back, kind, name, vars(kind).get(name))
                setattr(kind, name, staticmethod(partial(getattr(kind, name), trust_remote_code=True)))
        yield


def _put_back(kind: type, name: str, own: Any) -> None:
    if own is None:
        delattr(kind, name)
    else:
        setattr(kind, name, own)


class RowsMetric(Metric):
    """Base of torchmetrics metrics whose ``compute`` gives tensors of unknown length, a tuple of them.

    Torchmetrics wraps ``compute`` at construction, after a copy and after unpickling, and squeezes every result of one
    element to a number: one sample or one class would come back without its axis. The wrapper has no public name or
    switch. What it gives takes its shapes back here, gathering, caching and copies stay torchmetrics'.
    """

    def _wrap_compute(self, compute: Callable) -> Callable:
        def watched(*args: Any, **kwargs: Any) -> Any:
            found = compute(*args, **kwargs)
            self._shapes = [of.shape for of in found]  # of the metric, as the cached result is: copied with it
            return found

        squeezed = super()._wrap_compute(watched)

        @wraps(compute)
        def in_shape(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
            found = squeezed(*args, **kwargs)
            return tuple(of.reshape(shape) for of, shape in zip(found, self._shapes, strict=True))

        return in_shape
