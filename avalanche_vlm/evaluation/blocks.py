"""The blocks of a model: which weights belong together when one asks where something happened."""

from __future__ import annotations

import re
from collections.abc import Iterable

from avalanche_vlm.models.modules.bank import named_weights
from avalanche_vlm.models.vlm import VLM

_NUMBERED = re.compile(r"(?:^|\.)(?:(?:resblocks|blocks?|layers?|stages)\.(\d+)|layer(\d+))\.")
"""open_clip's and timm's transformers, the layers of a ResNet, the stages of a hierarchical tower, text encoders of
transformers. Of nested ones the outermost counts."""
_ENTRANCE = re.compile(
    r"(?:trunk\.|transformer\.)?(?:(?:conv\d|bn\d|class_embedding|positional_embedding|ln_pre|patchnorm_pre_ln|"
    r"patch_embed|cls_token|reg_token|pos_embed|norm_pre|stem|token_embedding|cls_emb|embeddings?)(?:_prompts)?|"
    r"(?:\w+_)?prompts)(?:\.|$)"
)
"""What stands before the first block. All that is neither this nor in a numbered block stands behind the last."""


def blocks(model: VLM, buffers: bool = False) -> dict[str, list[str]]:
    """Names of the parameters of ``model.clip`` by block.

    A block is ``"image.in"`` (patches, class token, positions and their norm), ``"image.<i>"`` (a residual block, a
    layer of a ResNet, a stage of a hierarchical tower), ``"image.out"`` (final norm, pooling, projection), and the
    same of ``text``. What a method hangs into a block, such as LoRA, belongs to it. The decoder of a CoCa, through
    which no embedding goes, belongs to ``text.out``. The logit scale and bias belong to none.

    :param model: model whose towers are cut into blocks.
    :param buffers: whether to name the buffers that a checkpoint holds, too, such as the running means of batch norms.
    :return: names by block, in the order of the forward pass; every name but the scale's and bias's in exactly one
        block.
    """
    names = model.clip.state_dict() if buffers else (name for name, _ in named_weights(model.clip))
    return group_by_block(names)


def group_by_block(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of parameters by block, see :func:`blocks`.

    :param names: names as ``model.clip`` has them.

    >>> group_by_block(["logit_scale", "visual.proj", "visual.conv1.weight", "visual.layer1.0.conv1.weight"])
    {'image.in': ['visual.conv1.weight'], 'image.0': ['visual.layer1.0.conv1.weight'], 'image.out': ['visual.proj']}
    """
    found: dict[tuple[str, float], list[str]] = {}
    for name in names:
        if not name.startswith("logit_"):
            found.setdefault(_place(name), []).append(name)
    grouped: dict[str, list[str]] = {}
    for tower in ("image", "text"):
        depths = sorted(depth for of, depth in found if of == tower)
        # Counted from 0 whatever the tower counts from.
        inner = [depth for depth in depths if 0 <= depth < float("inf")]
        for depth in depths:
            label = "in" if depth < 0 else "out" if depth == float("inf") else inner.index(depth)
            grouped[f"{tower}.{label}"] = found[tower, depth]
    return grouped


def tower_of(block: str) -> str:
    """The tower of a block.

    :param block: name of a block.

    >>> tower_of("image.3")
    'image'
    """
    return block.partition(".")[0]


def _place(name: str) -> tuple[str, float]:
    """Tower and depth: below 0 before the first block, infinite behind the last."""
    if name.startswith("visual."):
        tower, inner = "image", name.removeprefix("visual.")
    else:
        tower, inner = "text", name.removeprefix("text.")
    if tower == "text" and inner.startswith("text_decoder."):
        return tower, float("inf")
    if match := _NUMBERED.search(inner):
        return tower, float(match[1] or match[2])
    return tower, -1.0 if _ENTRANCE.match(inner) else float("inf")
