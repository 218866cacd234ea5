"""What is known of every sample of a data set beside the sample, as Avalanche's data sets take it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from avalanche.benchmarks.utils import DataAttribute


class SampleValues(DataAttribute[int]):
    """A number for each sample. Avalanche's own attribute asks for every one of them by itself, which takes a
    microsecond each time, to tell which there are; of a list Python knows it at once.

    :param values: a number for each sample, in their order.
    :param name: name of the attribute.
    :param use_in_getitem: whether the number stands behind the sample where that is read.
    """

    def __init__(self, values: Sequence[int], name: str, use_in_getitem: bool = False) -> None:
        super().__init__(values, name, use_in_getitem)
        self._values = values
        self._different = set(values)

    def __iter__(self) -> Iterator[int]:
        return iter(self._values)

    @property
    def uniques(self) -> set[int]:
        """The numbers that occur."""
        return self._different


class Targets(SampleValues):
    """The class ids of samples, or the identities of pairs.

    :param values: class ids or identities, in the order of the samples.
    """

    def __init__(self, values: Sequence[int]) -> None:
        super().__init__(values, "targets")


class TaskLabels(SampleValues):
    """The task labels of samples, which stand behind them where they are read.

    :param values: task labels, in the order of the samples.
    """

    def __init__(self, values: Sequence[int]) -> None:
        super().__init__(values, "targets_task_labels", use_in_getitem=True)
