"""The residual blocks of towers, and an image tower run in two parts: up to a block, and from it on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from avalanche_vlm._ranks import alone
from avalanche_vlm.compat.modules import has_hooks, is_compiled
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.bank import TORCHS
from avalanche_vlm.models.modules.site import HookedSite, Site

Encode = Callable[[torch.Tensor], torch.Tensor]
"""An image tower as it stands: images ``[B, 3, H, W]`` to features ``[B, D]``, not normalised."""


class TowerBlocks(NamedTuple):
    """The residual blocks of a tower.

    :param name: name within the tower of the submodule that holds them.
    :param host: the submodule of that name.
    :param layers: the blocks in their order.
    :param width: width of the activations.
    :param dim: the sequence's dimension in the activations: 1 for ``[B, L, D]``, 0 for ``[L, B, D]``.
    """

    name: str
    host: nn.Module
    layers: list[nn.Module]
    width: int
    dim: int


def open_clip_blocks(tower: nn.Module) -> TowerBlocks | None:
    """Those of a tower of open_clip's own, None for others."""
    host: Any = getattr(tower, "transformer", None)
    if not hasattr(host, "resblocks"):
        return None
    return TowerBlocks("transformer", host, list(host.resblocks), host.width, int(getattr(host, "batch_first", True)))


def tower_blocks(tower: Any) -> list[nn.Module] | None:
    """The residual blocks of a tower in their order.

    :param tower: an image or a text tower, or the transformer of one.
    :return: the blocks of open_clip's own towers and of timm's vision transformers; None for any other tower.
    """
    if hasattr(tower, "resblocks"):  # the text tower of a CLIP that has no module of its own for it
        return list(tower.resblocks)
    blocks = open_clip_blocks(tower) or _timm_blocks(tower)
    return None if blocks is None else blocks.layers


def image_blocks(tower: nn.Module) -> TowerBlocks:
    """Those of an image tower, open_clip's or a timm vision transformer.

    :raises InputError: for others, such as ResNets.
    """
    blocks = open_clip_blocks(tower) or _timm_blocks(tower)
    if blocks is None:
        kind = type(getattr(tower, "trunk", None) or tower).__name__
        raise InputError(f"prompts need an image tower of residual blocks that pass tokens on, and a {kind} is none")
    return blocks


def _timm_blocks(tower: nn.Module) -> TowerBlocks | None:
    from timm.models.vision_transformer import VisionTransformer

    trunk: Any = getattr(tower, "trunk", None)
    if not isinstance(trunk, VisionTransformer):
        return None
    return TowerBlocks("trunk", trunk, list(trunk.blocks), trunk.embed_dim, 1)


def stopped_before(layer: nn.Module, encode: Encode, images: torch.Tensor) -> Any:
    """What goes into a layer when a tower encodes images. The tower does not run past it, nor do hooks of the layer.

    :param layer: a layer of the tower.
    :param encode: the tower as it stands.
    :param images: images ``[B, 3, H, W]``.
    :return: the layer's first argument as it is; None if the tower does not call it with one.
    """

    def stop(_layer: nn.Module, args: tuple) -> None:
        raise _Reached(args[0] if args else None)

    handle = layer.register_forward_pre_hook(stop, prepend=True)
    try:
        with alone():
            encode(images)
    except _Reached as reached:
        return reached.activations
    finally:
        handle.remove()
    return None


class _Reached(Exception):
    """Ends a pass of the tower before a layer."""

    def __init__(self, activations: Any) -> None:
        super().__init__()
        self.activations = activations


class Halves(NamedTuple):
    """An image tower in two parts. What both give one after the other is what the whole tower gives, bit for bit.

    :param below: images ``[B, 3, H, W]`` to the activations between the parts.
    :param above: these activations to features ``[B, D]``, float32 and not normalised.
    :param dim: the dimension of the activations that is the batch.
    """

    below: Encode
    above: Encode
    dim: int = 0

    def rows(self, activations: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The activations of some samples.

        :param activations: activations of a batch, as :attr:`below` gives them.
        :param rows: numbers of these samples in the batch, int64 ``[n]``.
        """
        return activations.index_select(self.dim, rows)


def halves(clip: Any, encode: Encode) -> Halves | None:
    """The image tower, cut before the first block in which passes may differ: where modules have a place, or a hook
    hangs, ours or another's; of a block that is known here and in whose MLP alone they may, behind its attention. The
    part below is the same for every module and nobody watches it.

    Where no block is such a one, all is below, and features are the same whichever module is active. Towers of
    open_clip's own and timm's vision transformers are cut. None stands for one that has to be run whole: any other
    (a ResNet, a ConvNeXt, code of the user's, be it in the place of a single instance's method), one that checkpoints
    its activations, one that is compiled or traced, in whole or in part, and one with a module or a hook outside its
    blocks, or with hooks of torch's for all modules, which would see something else.

    :param clip: any of open_clip's models.
    :param encode: its image tower as it stands.
    """
    tower = clip.visual
    behind = _behind_blocks(clip, tower)
    if behind is None or torch.compiler.is_compiling() or torch.jit.is_tracing() or has_hooks(None):
        return None
    if _is_patched(clip) or any(_is_patched(module) for module in tower.modules()):
        return None
    blocks = image_blocks(tower)
    inside = {id(module) for layer in blocks.layers for module in layer.modules()}
    if any(_differs(module) for module in tower.modules() if id(module) not in inside):
        return None
    first = next((n for n, layer in enumerate(blocks.layers) if any(map(_differs, layer.modules()))), None)
    if first is None:
        return Halves(encode, lambda features: features)

    entry, rest = _behind_attention(blocks.layers[first]) or (blocks.layers[first], blocks.layers[first])

    def below(images: torch.Tensor) -> torch.Tensor:
        return stopped_before(entry, encode, images)

    def above(x: torch.Tensor) -> torch.Tensor:
        x = rest(x)
        for layer in blocks.layers[first + 1 :]:
            x = layer(x)
        return behind(x).float()

    return Halves(below, above, 1 - blocks.dim)


def _differs(module: nn.Module) -> bool:
    """Whether a module may do something else in another pass, or somebody sees how often it is called."""
    # A place that follows a layer has its hook there, and is never called itself.
    return has_hooks(module) or (isinstance(module, Site) and not isinstance(module, HookedSite))


def _behind_attention(layer: Any) -> tuple[nn.Module, Encode] | None:
    """A block's layer that reads what its attention has added to, and what the block does from there on; None unless it
    is a block whose code is known here, and passes may differ in its MLP alone."""
    from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock
    from timm.models.vision_transformer import Block

    def of_open_clip(x: torch.Tensor) -> torch.Tensor:
        return x + layer.ls_2(layer.mlp(layer.ln_2(x)))

    def of_timm(x: torch.Tensor) -> torch.Tensor:
        return x + layer.drop_path2(layer.ls2(layer.mlp(layer.norm2(x))))

    if type(layer).forward in (ResidualAttentionBlock.forward, CustomResidualAttentionBlock.forward):
        entry, rest = layer.ln_2, of_open_clip
    elif type(layer).forward is Block.forward:
        entry, rest = layer.norm2, of_timm
    else:
        return None
    in_mlp = {id(module) for module in layer.mlp.modules()}
    apart = (module for module in layer.modules() if id(module) not in in_mlp)
    return None if any(map(_differs, apart)) else (entry, rest)


def _is_patched(module: nn.Module) -> bool:
    """Whether an instance is compiled, or has a function of its own in the place of a method of its class: nobody knows
    what that does."""
    own = vars(module).keys() - TORCHS  # this runs before every batch, and what all modules have is most of it
    return is_compiled(module) or any(callable(getattr(type(module), name, None)) for name in own)


def _behind_blocks(clip: Any, tower: Any) -> Encode | None:
    """What an image tower does with what its last block gives; None where its code is not known here."""
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import Transformer, VisionTransformer
    from timm.models.vision_transformer import VisionTransformer as TimmTransformer

    if getattr(type(clip), "encode_image", None) not in (
        CLIP.encode_image,
        CustomTextCLIP.encode_image,
        CoCa.encode_image,
    ):
        return None
    if type(tower).forward is VisionTransformer.forward:
        known = type(tower.transformer).forward is Transformer.forward and not tower.transformer.grad_checkpointing
        pools = tower.attn_pool is None or tower.attn_pool_contrastive is None
        return partial(_behind_open_clip, tower) if known and pools and tower.pool_type in ("tok", "avg") else None
    trunk = getattr(tower, "trunk", None)
    if type(tower).forward is TimmModel.forward and isinstance(trunk, TimmTransformer):
        own = ("forward", "forward_features", "forward_head")
        known = all(getattr(type(trunk), name) is getattr(TimmTransformer, name) for name in own)
        return partial(_behind_timm, tower) if known and not trunk.grad_checkpointing else None
    return None


def _behind_open_clip(tower: Any, x: torch.Tensor) -> torch.Tensor:
    x = x if tower.transformer.batch_first else x.transpose(0, 1)
    last = tower.attn_pool is None and tower.final_ln_after_pool
    x = x if tower.attn_pool is None else tower.attn_pool(x)
    x = x if last else tower.ln_post(x)
    x = x[:, 0] if tower.pool_type == "tok" else x[:, 1:].mean(dim=1)
    x = tower.ln_post(x) if last else x
    return x if tower.proj is None else x @ tower.proj


def _behind_timm(tower: Any, x: torch.Tensor) -> torch.Tensor:
    return tower.head(tower.trunk.forward_head(tower.trunk.norm(x)))
