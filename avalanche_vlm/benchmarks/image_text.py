"""The container of an image-text sample or batch.

It stands in ``mbatch[0]`` where Avalanche expects a tensor, so it answers to everything that Avalanche's strategies and
stock plugins do to one: move, pin, index, measure, concatenate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import default_collate

from avalanche_vlm._host import rows_of_all, sliced, to_device
from avalanche_vlm.benchmarks.padding import Padding, padding_before_move
from avalanche_vlm.compat.data_sets import register_collate

_JOINS = (torch.cat, torch.concat, torch.concatenate, torch.stack)


@dataclass(eq=False)
class ImageText:
    """Images with their tokenised texts.

    :param image: ``[3, H, W]`` for a sample, ``[B, 3, H, W]`` for a batch.
    :param tokens: ``[L]`` or ``[B, L]``, int64.
    :param padding: the padding of these texts, or of more texts that they are among; None if nobody has read it. It is
        read when the tokens leave the CPU.

    >>> batch = ImageText(torch.zeros(4, 3, 8, 8), torch.arange(8).view(4, 2))
    >>> len(torch.cat([batch, batch[:1]])), batch[batch.tokens[:, 0] > 3].tokens.tolist()
    (5, [[4, 5], [6, 7]])
    """

    image: torch.Tensor
    tokens: torch.Tensor
    padding: Padding | None = None

    def to(self, *args: Any, **kwargs: Any) -> ImageText:
        """Move both tensors; a dtype changes the image only (tokens stay integers).

        :param args: positional arguments of :meth:`torch.Tensor.to`.
        :param kwargs: named arguments of :meth:`torch.Tensor.to`.
        :return: the moved pair.
        """
        image = self.image.to(*args, **kwargs)
        padding = padding_before_move(self.tokens, image.device, self.padding)
        tokens = to_device(self.tokens, image.device)
        return ImageText(image, tokens, padding)

    def pin_memory(self) -> ImageText:
        """Copies of both tensors in page-locked memory."""
        return ImageText(self.image.pin_memory(), self.tokens.pin_memory(), self.padding)

    def clone(self) -> ImageText:
        """Copies of both tensors."""
        return ImageText(self.image.clone(), self.tokens.clone(), self.padding)

    def detach(self) -> ImageText:
        """The same values without a gradient; tokens never have one."""
        return ImageText(self.image.detach(), self.tokens, self.padding)

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: Any) -> ImageText:
        tokens = sliced(self.tokens, index) if isinstance(index, slice) else self.tokens[index]
        return ImageText(self.image[index], tokens, self.padding)

    def size(self, dim: int | None = None) -> Any:
        """The image's size: what plugins ask for is the batch size.

        :param dim: a dimension of the image; None for all of them.
        :return: the size of that dimension, or of all.
        """
        return self.image.size() if dim is None else self.image.size(dim)

    @property
    def shape(self) -> torch.Size:
        """The image's shape."""
        return self.image.shape

    @property
    def device(self) -> torch.device:
        """The device that both tensors are on."""
        return self.image.device

    @property
    def dtype(self) -> torch.dtype:
        """The image's dtype."""
        return self.image.dtype

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Concatenation and stacking along the batch, however they are called: all that Avalanche does to inputs
        beside the above."""
        if func in _JOINS:
            named = dict(kwargs or {})
            named |= dict(zip(("tensors", "dim"), args, strict=False))
            items: Sequence[ImageText] = named.pop("tensors")
            dim = named.pop("dim", named.pop("axis", 0))
            if dim == 0 and not named and all(isinstance(item, ImageText) for item in items):
                padding = Padding.joined([item.padding for item in items])
                tokens = [item.tokens for item in items]
                join = torch.stack if func is torch.stack else rows_of_all
                return cls(func([i.image for i in items]), join(tokens), padding)
        return NotImplemented


def _collate(samples: Sequence[ImageText], *, collate_fn_map: dict[Any, Any] | None = None) -> ImageText:
    return ImageText(default_collate([s.image for s in samples]), default_collate([s.tokens for s in samples]))


register_collate(ImageText, _collate)
