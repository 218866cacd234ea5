"""What autocast makes of numbers at the moment."""

from __future__ import annotations

import torch


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The type that autocast computes in at the moment.

    :param device: where is computed.
    :return: the type; None outside of autocast, and on a device that has none.

    >>> autocast_dtype(torch.device("cpu")) is None
    True
    """
    kind = device.type
    within = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if within else None
