"""Reading an experience's data outside the training loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from avalanche_vlm._host import to_device
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.pair_pictures import PairPictures
from avalanche_vlm.benchmarks.reading import ordered_batches
from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.models import VLM
from avalanche_vlm.training.protocol import Strategy, model_of

Batch = tuple[torch.Tensor | ImageText, torch.Tensor, torch.Tensor]
"""Images or image-text pairs, class or caption ids ``[B]``, and task labels ``[B]``."""


class LabelledFeatures(NamedTuple):
    """Samples as a frozen image tower sees them.

    :param features: image features ``[N, D]``, of unit length if nothing else was asked for.
    :param y: class or caption ids ``[N]``.
    :param task: task labels ``[N]``.
    """

    features: torch.Tensor
    y: torch.Tensor
    task: torch.Tensor

    @property
    def classes(self) -> torch.Tensor:
        """The class ids that occur, in ascending order ``[n]``."""
        return self.y.unique()


def experience_batches(strategy: Strategy, batch_size: int = 256) -> Iterator[Batch]:
    """The current experience under its *evaluation* transforms, in order, on the strategy's device.

    :param strategy: the strategy, while an experience is at hand.
    :param batch_size: samples per minibatch, at least 1.
    :return: minibatches of inputs, ids and task labels.
    """
    for batch in ordered_batches(strategy.experience.dataset.eval(), batch_size):
        x, y, task = labelled(batch)
        x = x.to(strategy.device, non_blocking=True)
        yield x, to_device(y, strategy.device), to_device(task, strategy.device)


def labelled(batch: Sequence[Any]) -> Batch:
    """A minibatch with its task labels, 0 for data that have none.

    :param batch: inputs, ids, perhaps other columns, and perhaps task labels, which are the last.
    """
    x, y, *rest = batch
    return x, y, rest[-1] if rest else torch.zeros_like(y)


def rows_of_batches(parts: Iterable[Sequence[torch.Tensor]], total: int) -> tuple[torch.Tensor, ...]:
    """The rows of all batches in one tensor a column, made as soon as the first batch says what a row is.

    Results that are kept batch by batch lie between the activations of the passes that they come from, and the C
    allocator then gives none of that memory back: a process grows with every task of a long stream.

    :param parts: columns ``[B, ...]`` of every batch, of the same types and shapes but for B.
    :param total: number N of all rows.
    :return: the columns ``[N, ...]``.

    >>> rows_of_batches([(torch.tensor([1, 2]), torch.zeros(2, 3)), (torch.tensor([3]), torch.ones(1, 3))], 3)[0]
    tensor([1, 2, 3])
    """
    columns: tuple[torch.Tensor, ...] = ()
    start = 0
    for part in parts:
        if not columns:
            columns = tuple(rows.new_empty(total, *rows.shape[1:]) for rows in part)
        for column, rows in zip(columns, part, strict=True):
            column[start : start + len(rows)] = rows
        start += len(part[0])
    return columns


def experience_features(strategy: Strategy, normalize: bool = True) -> LabelledFeatures:
    """What the plain image tower says of the current experience, in eval mode and without gradients.

    The precision is that of the context around the call.

    :param strategy: the strategy, while an experience is at hand.
    :param normalize: whether features are scaled to unit length.
    """
    model = model_of(strategy)
    with model.evaluating():
        parts = (
            (model.encode_image_plain(images_of(x), normalize), y, task) for x, y, task in experience_batches(strategy)
        )
        return LabelledFeatures(*rows_of_batches(parts, len(strategy.experience.dataset)))


def train_united(strategy: Strategy, **kwargs: Any) -> None:
    """Have a strategy train on :func:`united_loader`'s minibatches, for as many epochs as its iterations then take.

    :param strategy: the strategy, before the first epoch of an experience.
    :param kwargs: options of the loader, as Avalanche gives them to callbacks.
    """
    strategy.dataloader = united_loader(strategy, **kwargs)
    plan = getattr(strategy, "plan_epochs", None)
    if plan is not None:
        plan()


def united_loader(
    strategy: Strategy,
    *,
    num_workers: int = 0,
    shuffle: bool = True,
    pin_memory: bool | None = None,
    persistent_workers: bool = False,
    drop_last: bool = False,
    **_options: Any,
) -> DataLoader:
    """Minibatches of what is trained, every sample as often as every other.

    Avalanche's own loader draws from every task label alike, and repeats the exemplars of a task until they are as many
    as the new samples.

    :param strategy: the strategy, after its data set was adapted.
    :param num_workers: number of processes that load data.
    :param shuffle: whether every epoch has an order of its own.
    :param pin_memory: whether batches lie in pinned memory; None for where the strategy trains on a GPU.
    :param persistent_workers: whether the processes live on after an epoch.
    :param drop_last: whether a last batch that is not full is left out.
    :return: a torch loader with the strategy's batch size.
    """
    return DataLoader(
        strategy.adapted_dataset,
        batch_size=strategy.train_mb_size,
        shuffle=shuffle,
        num_workers=num_workers,
        pin_memory=strategy.device.type == "cuda" if pin_memory is None else pin_memory,
        persistent_workers=persistent_workers,
        drop_last=drop_last,
        collate_fn=getattr(strategy.adapted_dataset, "collate_fn", None),
    )


def loading_processes(strategy: Strategy) -> int:
    """How many processes load the minibatches of the present experience; 0 where the strategy's loader does not tell.

    :param strategy: the strategy, while an experience is being trained.
    """
    loader = getattr(strategy, "dataloader", None)
    options = getattr(loader, "loader_kwargs", {})  # Avalanche's loaders, which are none of torch's
    return int(getattr(loader, "num_workers", options.get("num_workers", 0)))


def images_of(x: torch.Tensor | ImageText) -> torch.Tensor:
    """The images ``[B, 3, H, W]`` of a class-labelled or of an image-text batch.

    :param x: the batch's inputs.
    """
    return x.image if isinstance(x, ImageText) else x


def reference_features(model: VLM, reference: ReferencePairs, batch_size: int = 256) -> torch.Tensor:
    """Unit-length features of the reference pictures by the plain image tower ``[N, D]``.

    :param model: the model whose tower encodes them.
    :param reference: the pairs; their captions are not read.
    :param batch_size: pictures per forward pass, at least 1.
    """
    with model.evaluating():
        parts = (
            (model.encode_image_plain(images.to(model.device)),)
            for images in ordered_batches(PairPictures(reference), batch_size)
        )
        (features,) = rows_of_batches(parts, len(reference))
    return features
