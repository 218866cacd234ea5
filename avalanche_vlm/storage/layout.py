"""A tensor's bytes as they lie in memory, and a tensor out of such bytes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch

from avalanche_vlm.errors import InputError

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
"""Types by the names that they have in safetensors files."""
CODES = {dtype: code for code, dtype in DTYPES.items()}

MOST = 1 << 62
"""No tensor has more elements, or bytes."""


class TensorForm(NamedTuple):
    """What a tensor is besides its bytes.

    :param dtype: name of its type in safetensors files.
    :param shape: sizes of its dimensions.
    :param strides: its strides, in elements; None where its elements lie in the order of its dimensions.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def in_memory(self) -> tuple[int, ...]:
        """The sizes in the order in which the dimensions lie in memory, the slowest first."""
        if self.strides is None:
            return self.shape
        return tuple(self.shape[dim] for dim in _order(self.strides))


def layout_of(name: str, tensor: torch.Tensor) -> TensorForm:
    """The layout that a tensor has on disk, which is its own where its elements fill its memory without gaps.

    :param name: what the tensor is called, for the error.
    :param tensor: any tensor with strides, on any device.
    :raises TypeError: if the tensor is of a type or kind that files do not hold: sparse, quantized, without values.

    >>> layout_of("a", torch.zeros(2, 3).t()).in_memory
    (2, 3)
    """
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.dtype not in CODES:
        kind = tensor.layout if tensor.layout is not torch.strided else tensor.dtype
        raise TypeError(f"{name!r} is a tensor that no file can hold ({'meta' if tensor.is_meta else kind})")
    shape, strides = tuple(tensor.shape), tuple(tensor.stride())
    if not _fills_memory(shape, strides):
        strides = torch.empty_like(tensor, device="meta").stride()  # the order of dimensions stays, the gaps go
    return TensorForm(CODES[tensor.dtype], shape, None if strides == row_major(shape) else strides)


def raw(tensor: torch.Tensor, layout: TensorForm) -> memoryview:
    """A tensor's bytes in the order of a layout; they are copied only where they lie otherwise or elsewhere.

    :param tensor: any tensor with strides, on any device.
    :param layout: a layout of its type and shape.
    :return: all bytes, which change with the tensor where they were not copied.
    """
    plain, strides = tensor.detach().resolve_conj().resolve_neg(), _strides_of(layout)
    if plain.stride() != strides:
        kept = torch.empty_strided(layout.shape, strides, dtype=plain.dtype, device=plain.device)
        plain = kept.copy_(plain)
    flat = plain.as_strided((plain.numel(),), (1,)).cpu()
    return flat.view(torch.uint8).numpy().data


def lies_so(tensor: torch.Tensor, layout: TensorForm) -> bool:
    """Whether a tensor's bytes lie in memory in the order of a layout, so that :func:`raw` copies none.

    :param tensor: any tensor with strides, on any device.
    :param layout: a layout of its type and shape.
    """
    as_they_are = not (tensor.is_conj() or tensor.is_neg())
    return as_they_are and tensor.device.type == "cpu" and tensor.stride() == _strides_of(layout)


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor whose last dimension is the fastest.

    :param shape: sizes of the dimensions.

    >>> row_major((2, 3, 4))
    (12, 4, 1)
    """
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def empty(layout: TensorForm) -> torch.Tensor:
    """A tensor of a layout in new memory, whatever was there before in it.

    :param layout: what the tensor is to be.
    """
    dtype = DTYPES[layout.dtype]
    if layout.strides is None:
        return torch.empty(layout.shape, dtype=dtype)
    return torch.empty_strided(layout.shape, layout.strides, dtype=dtype)


def checked(dtype: object, shape: object, strides: object = None) -> TensorForm:
    """A layout as a file describes it.

    :param dtype: name of a type.
    :param shape: list of sizes.
    :param strides: list of strides, or None.
    :raises InputError: if there is no such layout; the message is what a sentence ends with.
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"it has a tensor of the type {dtype!r}, which is not known")
    sizes = _whole_numbers(shape)
    steps = None if strides is None else _whole_numbers(strides)
    if sizes is None or (strides is not None and steps is None) or prod(sizes) > MOST // 16:
        raise InputError("it has a tensor of a shape that there is not")
    if steps is not None and (len(steps) != len(sizes) or not _fills_memory(sizes, steps)):
        raise InputError("it has a tensor whose strides do not fit its shape")
    return TensorForm(dtype, sizes, steps)


def _strides_of(layout: TensorForm) -> tuple[int, ...]:
    return row_major(layout.shape) if layout.strides is None else layout.strides


def _whole_numbers(values: object) -> tuple[int, ...] | None:
    if not isinstance(values, (list, tuple)) or len(values) > 64:
        return None
    return tuple(values) if all(type(value) is int and 0 <= value <= MOST for value in values) else None


def _order(strides: Sequence[int]) -> list[int]:
    return sorted(range(len(strides)), key=lambda dim: -strides[dim])


def _fills_memory(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether every place from the first element to the last holds one element, and no place two."""
    expected = 1
    for dim in reversed(_order(strides)):
        if shape[dim] != 1 and strides[dim] != expected:
            return 0 in shape
        expected *= shape[dim]
    return True
