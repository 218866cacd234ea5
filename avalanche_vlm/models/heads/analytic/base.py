"""What the estimators share: columns for classes that come later, and a state of any shape that can be loaded."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from avalanche_vlm.compat.modules import ResizesOnLoad
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes, tensor_bytes

Precision = Literal["float64", "float32"]
DTYPES: dict[str, torch.dtype] = {"float64": torch.float64, "float32": torch.float32}


class Estimator(ResizesOnLoad):
    """How probable every class is, from features, fitted in closed form as the classes come.

    All of the state is in buffers: it is saved with the model, moves with it and is no parameter of any optimizer. The
    column of a class is its id, and a class may come again in a later experience.

    :param precision: ``"float64"`` or ``"float32"``, the precision of the state and of all that is computed with it.
    :raises InputError: for another precision.
    """

    known: torch.Tensor

    def __init__(self, precision: str = "float64") -> None:
        super().__init__()
        if precision not in DTYPES:
            raise InputError(f"the precision of a closed form is float64 or float32, not {precision!r}")
        self.dtype = DTYPES[precision]
        self.register_buffer("known", torch.zeros(0, dtype=torch.bool))
        """Bool ``[C]``: which classes have been fitted."""

    @torch.no_grad()
    def fit(self, features: torch.Tensor, y: torch.Tensor) -> None:
        """Take in another experience.

        :param features: unit-length ``[N, D]``.
        :param y: class ids ``[N]``, of new classes or of old ones.
        :raises InputError: if the two do not belong together, or have another width than before.
        """
        if features.ndim != 2 or y.shape != features.shape[:1]:
            raise InputError(f"features {list(features.shape)} and labels {list(y.shape)} do not belong together")
        if len(y) == 0:
            return
        if int(y.min()) < 0:
            raise InputError(f"a class id is 0 or more, not {int(y.min())}")
        if self.known.any() and features.shape[1] != self.width:
            raise InputError(f"the head was fitted on {self.width} features, and these are {features.shape[1]}")
        y = y.to(features.device)
        self.known = widened(self.known.to(features.device), max(len(self.known), int(y.max()) + 1))
        self.known[y] = True
        # Half precision would round a Gram matrix into another one.
        with torch.autocast(features.device.type, enabled=False):
            self.update(features.to(self.dtype), y)

    def forward(self, features: torch.Tensor, competes: torch.Tensor | None = None) -> torch.Tensor:
        """Estimates ``[B, C]``, each row from its own features; classes that are not known get 0.

        :param features: unit-length ``[B, D]``.
        :param competes: bool ``[B, C]``, which classes can be the answer; all by default.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self.estimate(features.to(self.dtype), self.known if competes is None else self.known & competes)

    @property
    def width(self) -> int:
        """Of the features that it was fitted on."""
        raise NotImplementedError

    def update(self, features: torch.Tensor, y: torch.Tensor) -> None:
        """What :meth:`fit` does, on checked input in the estimator's precision; ``known`` has the new classes."""
        raise NotImplementedError

    def estimate(self, features: torch.Tensor, competes: torch.Tensor) -> torch.Tensor:
        """What :meth:`forward` does, on features in the estimator's precision; the classes that compete are known."""
        raise NotImplementedError

    def targets(self, y: torch.Tensor) -> torch.Tensor:
        """One-hot ``[N, C]`` of class ids ``[N]``."""
        return F.one_hot(y, len(self.known)).to(self.dtype)

    def stored(self) -> StoredBytes:
        """Bytes of the whole state."""
        return StoredBytes(ram=tensor_bytes(self.buffers()))


def widened(tensor: torch.Tensor, size: int, dim: int = -1) -> torch.Tensor:
    """The tensor with zeros behind, so that the dimension has this size.

    >>> widened(torch.ones(2, 2), 3).tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    """
    missing = list(tensor.shape)
    missing[dim] = size - missing[dim]
    return torch.cat([tensor, tensor.new_zeros(missing)], dim) if missing[dim] else tensor
