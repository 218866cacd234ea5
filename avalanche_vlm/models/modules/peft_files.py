"""One module of a pool in peft's file format, so that it works in other tools and theirs in a pool.

peft names layers, and open_clip's attention has its projections in one parameter: a file's names are those of the same
model with every attention unfused into linear layers ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``. On such a
model peft is exact; its own support of ``nn.MultiheadAttention`` is not (it counts the output's change twice).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.dora import DoRA
from avalanche_vlm.models.modules.lora import LoRALayer
from avalanche_vlm.models.modules.low_rank import LowRank
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.storage import read_tensors, write_tensors
from avalanche_vlm.storage.json_files import read_json_file

if TYPE_CHECKING:
    from avalanche_vlm.models import VLM

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_TENSORS = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
_UNKNOWN = {
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "bias": "none",
    "lora_bias": False,
    "modules_to_save": None,
}
"""Settings of peft that change what a file says, and the only value of each that we read."""


def export_peft(model: VLM, pool: ModulePool, name: str, folder: str | Path) -> None:
    """Write a module, in both towers where it acts in both, as peft would.

    :param model: the model whose ``clip`` the pool adapts.
    :param pool: a pool of LoRA or DoRA.
    :param name: the module's name.
    :param folder: gets ``adapter_config.json`` and ``adapter_model.safetensors``.
    :raises InputError: if the pool has no such module or belongs to another model, if the module is of another kind or
        of more than one rank or scale, or if nothing can be written there.
    """
    parts = {layer: module for layer, _, module in _layers(model, pool, name)}
    kinds: set[tuple[Any, int, Any]] = {
        (type(m), len(getattr(m, "A", ())), getattr(m, "scale", None)) for m in parts.values()
    }
    for kind, *_ in kinds:
        if kind not in (LowRank, DoRA):
            raise InputError(f"peft's files hold LoRA and DoRA, and {name} is a {kind.__name__}")
    if len(kinds) > 1:
        raise InputError(f"the parts of {name} differ in kind, rank or scale: a file of peft's has one of each")
    ((kind, rank, scale),) = kinds
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": model.name,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "use_dora": kind is DoRA,
        "use_rslora": False,
        # As one expression: in a list, a name of the text tower would also stand for the image tower's of that ending.
        "target_modules": "|".join(re.escape(layer) for layer in parts),
        **_UNKNOWN,
    }
    folder = Path(folder)
    state = {
        f"{_PREFIX}{layer}.{_TENSORS[key]}": t for layer, part in parts.items() for key, t in part.state_dict().items()
    }
    write_tensors(folder / WEIGHTS, state)
    try:
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True))
    except OSError as error:
        raise InputError(f"the module's settings cannot be written to {folder / CONFIG}: {error}") from error


def import_peft(model: VLM, pool: ModulePool, name: str, folder: str | Path) -> None:
    """Read what peft or :func:`export_peft` wrote, as a frozen module of this pool.

    The file's scale (alpha over rank, or over its root) becomes part of ``B`` where the pool's own differs.

    :param model: the model whose ``clip`` the pool adapts.
    :param pool: its sites are the file's layers, of the file's kind and rank.
    :param name: the new module's name.
    :param folder: the folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
    :raises InputError: if the files are missing or no adapter, use what we have not (biases, ranks of their own), or
        belong to other layers, another kind or rank; the pool is then what it was.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    found = read_tensors(folder / WEIGHTS)
    keys = ("A", "B", "magnitude") if config.get("use_dora") else ("A", "B")
    state = {}
    for layer, key_of in _places(model, pool):
        for key in keys:
            in_file = f"{_PREFIX}{layer}.{_TENSORS[key]}"
            if in_file not in found:
                raise InputError(f"{folder / WEIGHTS} has no {in_file}, a layer that the pool adapts")
            state[f"{key_of}.{key}"] = found.pop(in_file)
    if found:
        raise InputError(f"{folder / WEIGHTS} has {next(iter(found))}, which is no layer that the pool adapts")
    pool.restore(name, state, folder / WEIGHTS)
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    for _, _, module in _layers(model, pool, name):
        if module.scale != scale:
            module.B.data.mul_(scale / module.scale)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = read_json_file(path)
        kind, rank, alpha = config["peft_type"], config["r"], config["lora_alpha"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as the settings of an adapter of peft's: {error}") from error
    if kind != "LORA" or type(rank) is not int or rank <= 0 or type(alpha) not in (int, float):
        raise InputError(f"{path} describes no LoRA with a rank and an alpha, but {kind}, {rank} and {alpha}")
    for option, value in _UNKNOWN.items():
        if config.get(option, value) != value:
            raise InputError(f"{path} sets {option} to {config[option]!r}, which has no counterpart here")
    return config


def _places(model: VLM, pool: ModulePool) -> Iterator[tuple[str, str]]:
    """The unfused name in ``model.clip`` of every layer that the pool adapts, and its name in the pool's state."""
    names = {id(module): name for name, module in model.clip.named_modules()}
    for where, site in pool.sites.items():
        if not isinstance(site, LoRALayer):
            raise InputError(f"peft's files hold LoRA and DoRA, and at {where} there is a {type(site).__name__}")
        if id(site) not in names:
            raise InputError(f"the pool adapts another model than {model.name}: {where} is not in it")
        for part in site.weights():
            layer = names[id(site)]
            yield (layer if part == "weight" else f"{layer}.{part}_proj"), f"{where}.{part}"


def _layers(model: VLM, pool: ModulePool, name: str) -> Iterator[tuple[str, str, Any]]:
    """The same with the part of one module that is there."""
    parts: dict[str, Any] = dict(pool.module(name))
    for layer, place in _places(model, pool):
        where, _, part = place.rpartition(".")
        yield layer, place, parts[where][part]
