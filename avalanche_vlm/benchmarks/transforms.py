"""Image transforms that take what benchmarks hold: PIL images of any size, tensors and arrays."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from avalanche_vlm._host import to_device
from avalanche_vlm.benchmarks.normalising import in_place
from avalanche_vlm.benchmarks.pixels import to_rgb
from avalanche_vlm.errors import InputError


class ImageTransform:
    """Any image to the model's input ``[3, size, size]``.

    Takes PIL images, and tensors ``[C, H, W]`` or ``[H, W]`` and arrays ``[H, W, C]`` or ``[H, W]`` with 1, 3 or 4
    channels: integers from 0 to 255, or floating-point numbers in [0, 1]. Grey images become three equal channels.

    A tensor that already has the model's size is only scaled and normalised, which is what keeps small worlds fast;
    everything else goes through ``resize``.

    :param size: height and width of the model's input in pixels.
    :param mean: per-channel mean that is subtracted, channels in [0, 1].
    :param std: per-channel standard deviation that is divided by.
    :param resize: PIL image to normalised tensor; a bicubic resize of the shorter side and a centre crop by default.
    :raises InputError: unless the size is a whole number of pixels, and means and deviations are three finite numbers
        each, the latter above 0.
    """

    def __init__(
        self,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        resize: Callable[[Any], torch.Tensor] | None = None,
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"the size of images is a number of pixels, not {size!r:.99}")
        self.size = size
        self.mean, self.std = _three("mean", mean), _three("standard deviation", std)
        if min(self.std) <= 0:
            raise InputError(f"the standard deviation of images is above 0, not {min(self.std)}")
        # One fused multiply-add per image: (x / 255 - mean) / std.
        self._scale = (1 / (255 * torch.tensor(self.std))).view(3, 1, 1)
        self._shift = (-torch.tensor(self.mean) / torch.tensor(self.std)).view(3, 1, 1)
        self._resize = resize or _centre_crop(size, self.mean, self.std)
        self._to_input = in_place(self._resize)

    def describe(self) -> str:
        """The transform in words, for a result's protocol."""
        said = " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", str(self._resize)).split())
        return f"{self.size} pixels, mean {list(self.mean)}, std {list(self.std)}, by {said}"

    def __call__(self, image: Any) -> torch.Tensor:
        if isinstance(image, np.ndarray):
            image = _from_array(image)
        if isinstance(image, torch.Tensor):
            image = _in_bytes(image)
            if image.shape[-3:] == (3, self.size, self.size):
                return torch.addcmul(self._shift, image.float(), self._scale)
            from torchvision.transforms.functional import to_pil_image

            image = to_pil_image(image.round().to(torch.uint8))
        picture = to_rgb(image)
        # A step of somebody's own may work on the very picture that it is given.
        return self._to_input(picture.copy() if picture is image and self._to_input is self._resize else picture)

    def to_uint8(self, images: torch.Tensor) -> torch.Tensor:
        """The inverse of the normalisation, rounded to 8 bits: exact for images that were 8-bit at the model's size.

        :param images: model inputs ``[..., 3, H, W]``.
        :return: uint8 pixels ``[..., 3, H, W]``.
        """
        scale, shift = to_device(self._scale, images.device), to_device(self._shift, images.device)
        return ((images.float() - shift) / scale).round_().clamp_(0, 255).to(torch.uint8)

    def from_uint8(self, pixels: torch.Tensor) -> torch.Tensor:
        """The normalisation of 8-bit pictures of the model's size.

        :param pixels: uint8 pixels ``[..., 3, H, W]``.
        :return: model inputs ``[..., 3, H, W]``.
        """
        scale, shift = to_device(self._scale, pixels.device), to_device(self._shift, pixels.device)
        return torch.addcmul(shift, pixels.float(), scale)


def _from_array(image: np.ndarray) -> torch.Tensor:
    """An array with channels last, or first where only that can be meant, as a tensor with channels first."""
    tensor = torch.from_numpy(np.require(image, requirements=["C", "W"]))  # torch warns of arrays that are read-only
    return tensor.permute(2, 0, 1) if tensor.ndim == 3 and tensor.shape[-1] in _CHANNELS else tensor


def _three(what: str, values: Any) -> tuple[float, ...]:
    """A number for each colour."""
    known = isinstance(values, list | tuple) and len(values) == 3
    if not known or not all(isinstance(of, int | float) and -1e6 < of < 1e6 for of in values):
        raise InputError(f"the {what} of images is three finite numbers, not {values!r:.99}")
    return tuple(values)


def _in_bytes(image: torch.Tensor) -> torch.Tensor:
    """An image ``[C, H, W]`` in the range of 8 bits, of three channels if it was grey."""
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in _CHANNELS:
        raise InputError(f"an image is [C, H, W] or [H, W] with 1, 3 or 4 channels, not {list(image.shape)}")
    if image.dtype != torch.uint8:
        low, high = (float(bound) for bound in image.aminmax())
        top = 1 if image.is_floating_point() or image.dtype == torch.bool else 255
        if not (low >= 0 and high <= top):
            kind = "floating-point" if image.is_floating_point() else "integer"
            raise InputError(
                f"{kind} images have values from 0 to {top}, not from {low:.4g} to {high:.4g}: give the images as they "
                "were before they were normalised"
            )
        image = image * (255 // top) if image.is_floating_point() or top == 255 else image.to(torch.uint8) * 255
    return image.expand(3, -1, -1) if image.shape[0] == 1 else image


_CHANNELS = (1, 3, 4)


def _centre_crop(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Any], torch.Tensor]:
    from torchvision import transforms as T

    bicubic = T.InterpolationMode.BICUBIC
    return T.Compose([T.Resize(size, bicubic), T.CenterCrop(size), T.ToTensor(), T.Normalize(mean, std)])
