"""What every memory does, whatever it keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from typing_extensions import Self

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.files import load_memory, save_memory
from avalanche_vlm.memory.packing import Json
from avalanche_vlm.memory.state import Stateful

Columns = dict[str, torch.Tensor]
"""A batch of samples: names to tensors of equal length. ``y`` (class ids, or identities of pairs) and ``task`` (task
labels) are int64 and always there; ``pixels`` (uint8 ``[n, 3, H, W]``), ``tokens`` (int64 ``[n, L]``), ``features``
(float32 ``[n, D]``) or ``latents`` come with the memories that keep them."""


class Memory(Stateful, ABC):
    """Something kept between tasks, to draw from while later ones are trained.

    A memory of a new kind declares its state (:attr:`~avalanche_vlm.memory.state.Stateful.states`) and its settings,
    and is registered by its name with :func:`~avalanche_vlm.memory.registry.register_memory`; its bytes, whether it
    keeps raw data, and its files follow from that.

    What a memory takes in (``add`` for samples that stream by, ``fit`` for statistics of a whole experience) depends on
    what it keeps. Memories that can tell how well an input fits to what they keep also have
    ``score(features) -> [B, tasks]``, larger for a better fit, which is what a router needs.
    """

    name: ClassVar[str]
    """What this kind of memory is called in files and lists."""

    grows_with_data: ClassVar[bool] = True
    """Whether it keeps more of more data, up to its budget, as memories of samples do."""

    max_bytes: int | None
    """Bound on the bytes of all that is kept; None where there is none, or another one."""

    @abstractmethod
    def __len__(self) -> int:
        """Samples kept, or sets of statistics."""

    @abstractmethod
    def sample(self, n: int) -> Columns:
        """Draw a batch, with the memory's own random state.

        :param n: samples to draw.
        :return: ``n`` of them, or all there are where none comes twice.
        """

    def read(self, rows: Sequence[int]) -> Columns:
        """Samples by their places, without a draw. A memory that keeps samples one by one has this, and also ``labels``
        and ``task_labels``, int64 ``[n]`` of all that is kept: a union with new data needs all three
        (:class:`~avalanche_vlm.training.plugins.replay.ExemplarReplayPlugin`). By default there is nothing to read.

        :param rows: which samples, by their places, each from 0 to the number kept less one.
        :return: the samples, in the order asked for.
        :raises InputError: if this kind of memory keeps no samples one by one.
        """
        raise InputError(f"{type(self).__name__} has no samples that are read one by one")

    @abstractmethod
    def resize(self, max_bytes: int) -> None:
        """Set a new byte budget; what no longer fits is given up at once.

        :param max_bytes: bound on the bytes of all that is kept.
        :raises InputError: if nothing fits; the memory is then as before.
        """

    @property
    @abstractmethod
    def settings(self) -> dict[str, Json]:
        """Arguments of the constructor that make a memory that can take this one's state."""

    def save(self, folder: str | Path) -> None:
        """Write everything, random state included, to ``memory.safetensors`` and ``memory.json``: a loaded memory draws
        the same samples.

        :param folder: made if it is not there.
        :raises InputError: if the files cannot be written.
        """
        state = self.state_dict()
        tensors = {key: entry for key, entry in state.items() if isinstance(entry, torch.Tensor)}
        values = {key: entry for key, entry in state.items() if key not in tensors}
        save_memory(folder, self.name, tensors, {"settings": self.settings, "state": values})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote; the same draws follow. Nothing in the files is executed.

        :param folder: where it was written.
        :return: the memory, in RAM.
        :raises InputError: if the files are missing, truncated, changed, inconsistent or of another kind of memory.
        """
        return cls._loaded(folder)

    @classmethod
    def _loaded(cls, where: str | Path, /, **more: Any) -> Self:
        """A memory read from files.

        :param where: folder where it was written.
        :param more: arguments of the constructor that are no settings.
        """
        tensors, content = load_memory(where, cls.name)
        try:
            memory = cls(**content["settings"], **more)
            memory.load_state_dict({**content["state"], **tensors})
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
            raise InputError(f"the memory in {where} is damaged: {error}") from error
        return memory

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        try:
            self.check()
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"the state given to {type(self).__name__} is damaged: {error}") from error

    def check(self) -> None:
        """See whether all that was loaded fits together. By default it does.

        :raises ValueError: if it does not.
        """
