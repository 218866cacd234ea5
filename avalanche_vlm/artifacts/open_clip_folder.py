"""A model's towers as a folder of open_clip's, which open_clip alone opens: ``local-dir:DIR``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from avalanche_vlm.models import VLM
from avalanche_vlm.models.folders import CONFIG
from avalanche_vlm.models.modules.site import sites_of
from avalanche_vlm.storage import write_tensors

__all__ = ["CONFIG", "WEIGHTS", "towers_decide", "write_open_clip"]

WEIGHTS = "open_clip_model.safetensors"
"""File of the towers' tensors; open_clip takes it before any other in the folder."""


def towers_decide(model: VLM) -> bool:
    """Whether the towers alone decide what a model predicts, each as its architecture has it.

    Places of modules that have none, because they were merged or none was ever made, compute what the layer alone
    computes.

    :param model: a model, trained or not.
    """
    parts = (model.routed, model.image_path, model.text_path, model.class_head)
    return all(part is None for part in parts) and not any(len(site.bank) for site in sites_of(model.clip))


def write_open_clip(folder: Path, model: VLM, config: Mapping[str, Any]) -> list[str]:
    """Write the towers as open_clip reads them: configuration, tensors, and the tokenizer's files where it has some.

    :param folder: folder that is there.
    :param model: a model whose towers are plain.
    :param config: what ``open_clip_config.json`` says of it.
    :return: names of the tensors that were written, as ``model.clip`` has them.
    """
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {name: entry for name, entry in model.clip.state_dict().items() if isinstance(entry, torch.Tensor)}
    write_tensors(folder / WEIGHTS, tensors)
    text = config["model_cfg"].get("text_cfg", {})
    if text.get("hf_tokenizer_name") and hasattr(model.tokenizer, "save_pretrained"):
        model.tokenizer.save_pretrained(str(folder))
    return list(tensors)
