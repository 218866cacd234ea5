"""What has no public name in the data sets and loaders of torch and Avalanche."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch.utils.data import ConcatDataset, Subset
from torch.utils.data._utils.collate import default_collate_fn_map
from torch.utils.data._utils.pin_memory import pin_memory


def register_collate(kind: type, collate: Callable) -> None:
    """Teach torch's default collate function a container.

    Torch documents the map as extensible but offers no public name for the default one, and Avalanche's plugins build
    loaders with the default collate over their buffers, where no ``collate_fn`` of ours would reach.

    :param kind: the container's class.
    :param collate: ``(samples, *, collate_fn_map) -> batch``.
    """
    default_collate_fn_map[kind] = collate


def pinned(batch: Any) -> Any:
    """A batch of any make in page-locked memory, as torch's loaders pin it, who have no public name for it.

    :param batch: tensors, and what has a method ``pin_memory()``, in lists, tuples and mappings.
    """
    return pin_memory(batch)


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
