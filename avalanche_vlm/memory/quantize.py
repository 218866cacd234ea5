"""Floating-point activations in one or two bytes per value."""

from __future__ import annotations

import torch

from avalanche_vlm.errors import InputError

FP16_MAX = 65504.0


def quantize_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers from -127 to 127, and a scale for every row: symmetric, nearest value.

    The largest magnitude of a row becomes 127, so ``|x - dequantize_int8(*quantize_int8(x))| <= scale / 2`` for every
    value, up to the rounding of float32 (``scale * 2 ** -16``).

    :param x: ``[..., D]``, finite; a row is the last dimension.
    :return: int8 ``[..., D]`` and float32 ``[...]``.
    :raises InputError: if a value is not finite.

    >>> values, scales = quantize_int8(torch.tensor([[1.0, -254.0], [0.0, 0.5]]))
    >>> values.tolist(), scales[0].item()
    ([[0, -127], [0, 127]], 2.0)
    """
    x = _finite(x.float())
    # Below the smallest normal number a scale loses its digits; with it as a floor, a row of zeros needs no exception.
    scale = (x.abs().amax(-1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (x / scale[..., None]).round().clamp(-127, 127).to(torch.int8), scale


def dequantize_int8(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """What :func:`quantize_int8` took in, approximately.

    :param values: int8 ``[..., D]``.
    :param scale: scale of each row, float32 ``[...]``.
    :return: float32 ``[..., D]``.

    >>> dequantize_int8(torch.tensor([[0, -127]], dtype=torch.int8), torch.tensor([2.0])).tolist()
    [[0.0, -254.0]]
    """
    return values.float() * scale[..., None]


def to_fp16(x: torch.Tensor) -> torch.Tensor:
    """Half precision: ``|x - to_fp16(x)| <= max(|x| * 2 ** -11, 2 ** -25)`` for every value.

    :param x: any shape, finite, no magnitude above 65504.
    :return: float16, of the same shape.
    :raises InputError: if a value is not finite or too large for half precision.

    >>> to_fp16(torch.tensor([0.5, 2049.0])).tolist()
    [0.5, 2048.0]
    """
    largest = _finite(x).abs().amax().item() if x.numel() else 0.0
    if largest > FP16_MAX:
        raise InputError(f"a value of {largest:g} does not fit half precision, which ends at {FP16_MAX:g}: use int8")
    return x.half()


def _finite(x: torch.Tensor) -> torch.Tensor:
    if not bool(torch.isfinite(x).all()):
        raise InputError("there are values that are not finite (NaN or infinite): they cannot be stored")
    return x
