"""A saved model for other programs: open_clip, peft, a model hub, or torch alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avalanche_vlm.artifacts.hub import write_hub_folder
from avalanche_vlm.artifacts.loading import open_saved
from avalanche_vlm.artifacts.merging import write_plain
from avalanche_vlm.artifacts.programs import write_programs
from avalanche_vlm.artifacts.shared_copies import check_module
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.peft_files import export_peft
from avalanche_vlm.storage import staged

TARGETS = {
    "open_clip": "a folder of plain weights that open_clip alone opens",
    "peft": "a folder of peft's for every LoRA",
    "hub-folder": "a folder with a model card, ready for upload",
    "torch-export": "programs of torch.export: towers and head",
}
"""What a model can be exported to, each with what is written."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    :param folder: the folder that is there now.
    :param sentences: what is in it, how far it is from the model where that was measured, and what is not in it.
    """

    folder: Path
    sentences: tuple[str, ...]


def export(model: VLM | str | Path, to: str, folder: str | Path, *, module: str | None = None) -> Exported:
    """Write a model for another program. What is written is compared with the model first.

    :param model: a model, or the folder that one was saved to; ``"hub-folder"`` takes a folder.
    :param to: one of :data:`TARGETS`.
    :param folder: the folder that is made, whole or not at all; there must be none of its name, unless it is empty.
    :param module: name of the module that answers every image, of a model that chooses among modules: other programs
        do not choose. None for all of them where that can be.
    :return: the folder, and what is to be said of it.
    :raises InputError: in one sentence, if there is no such target, the model cannot be had in this form, or the folder
        cannot be written.
    """
    if to not in TARGETS:
        raise InputError(f"a model is exported to {', '.join(TARGETS)}, not to {to!r}")
    with staged(folder) as unfinished:
        if to == "hub-folder":
            if isinstance(model, VLM):
                raise InputError("a hub's folder is written from the folder of a saved model: save it first")
            if module is not None:
                raise InputError("a hub's folder has all modules of the model: leave out module (--module)")
            sentences = write_hub_folder(open_saved(model), unfinished)
        else:
            vlm = model if isinstance(model, VLM) else open_saved(model).model()
            if to == "open_clip":
                sentences = write_plain(vlm, unfinished, module)
            elif to == "peft":
                sentences = _write_peft(vlm, unfinished, module)
            else:
                sentences = write_programs(vlm, unfinished, module)
    return Exported(Path(folder), tuple(sentences))


def _write_peft(model: VLM, folder: Path, module: str | None) -> list[str]:
    check_module(model, module)
    pool = None if model.routed is None else model.routed.pool
    if pool is None or not pool.names:
        raise InputError(
            f"{model.name} has no modules, and peft's files hold LoRA and DoRA alone: export it to open_clip"
        )
    if module is not None:
        export_peft(model, pool, module, folder)
        return [f"peft's files of the module {module!r}, without the router that chooses it"]
    for name in pool.names:
        export_peft(model, pool, name, folder / name)
    return [f"a folder of peft's for each of {', '.join(pool.names)}, without the router that chooses one of them"]
