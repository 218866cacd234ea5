"""A trained model into a folder, whole or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm._versions import package_versions
from avalanche_vlm.artifacts.bases import EMBEDDED, made_again, tokenizer_of
from avalanche_vlm.artifacts.description import Base, Built, Description, MadeBy, digests, write_description
from avalanche_vlm.artifacts.layout import (
    VERSIONS,
    checked_version,
    next_version,
    point_to,
    pointing,
    replacing,
)
from avalanche_vlm.artifacts.open_clip_folder import towers_decide, write_open_clip
from avalanche_vlm.artifacts.rebuilding import build_again, without_paths
from avalanche_vlm.artifacts.tensors import changed_tensors, strides_of, tensors_of
from avalanche_vlm.artifacts.training_files import write_training
from avalanche_vlm.errors import DataWarning, InputError
from avalanche_vlm.memory.state import keeps_raw_data, undeclared
from avalanche_vlm.models import VLM
from avalanche_vlm.models.fingerprint import weights_of
from avalanche_vlm.models.modules.lora import LoRALayer
from avalanche_vlm.models.modules.peft_files import export_peft
from avalanche_vlm.storage import write_tensors

TENSORS = "model.safetensors"
PEFT = "peft"

_OF_RESULT = ("tasks", "matrix", "held_out", "alignment", "metrics", "figures")


def save_model(
    folder: str | Path,
    model: VLM,
    *,
    recipe: str | None = None,
    options: Mapping[str, Any] | None = None,
    resources: Sequence[str] = (),
    frozen: Sequence[str] | None = None,
    earlier: Sequence[Built] = (),
    plugins: Sequence[SupervisedPlugin] | None = None,
    result: Mapping[str, Any] | None = None,
    ledger: Mapping[str, Any] | None = None,
    base: VLM | None = None,
    embed_base: bool = False,
    version: str | None = None,
    current: bool = True,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Save a model, so that :func:`~avalanche_vlm.artifacts.load` gives one that predicts the same, bit for bit.

    What is bit for bit what the model's base has is not written: the base is made again when the model is loaded, and
    has to be what it was. The folder's ``model`` points to the new version when all of it is on the disk.

    :param folder: gets ``versions/v1`` and so on, and ``model``, a link to the newest.
    :param model: any model, trained or not.
    :param recipe: name of the recipe that was built on it; None if none was.
    :param options: the recipe's options by name; those that are not given have the recipe's defaults.
    :param resources: names of the resources that the recipe was given, such as ``reference``.
    :param frozen: the towers that were frozen when it was built, where recipes came before it; None for those that they
        have frozen.
    :param earlier: recipes that were built on the model before this one, the first one first.
    :param plugins: the recipe's plugins, whose state is saved as well, so that training can go on; None leaves it out.
    :param result: what an experiment came to, whose protocol and figures are kept.
    :param ledger: what the recipe cost.
    :param base: the model as it was before anything was built on it, which a model that was built by the user's own
        hands should bring: without, all of its tensors are written.
    :param embed_base: whether the base's weights are written along, so that nothing else is needed to load.
    :param version: name of the version, which takes the place of one that is there; None for the next one.
    :param current: whether the version becomes the model, as it is loaded from the folder, or lies beside it.
    :param about: what else is to be kept in ``model.json``, in JSON types.
    :return: the version's folder.
    :raises InputError: if the model cannot be saved so that it can be loaded, or a file cannot be written; the folder
        then holds what it held.
    """
    folder = Path(folder)
    version = next_version(folder) if version is None else checked_version(version)
    built = [*earlier]
    if recipe is not None:
        kept = without_paths(recipe, options or {})
        before = None if frozen is None else list(frozen)
        built.append(Built(recipe=recipe, options=kept, resources=list(resources), frozen=before))
    if plugins is not None and (unknown := undeclared(plugins)):
        warnings.warn(
            f"the model is saved without the state of its training, for nobody knows what {unknown[0]} keeps: it "
            "predicts, and cannot go on learning",
            DataWarning,
            stacklevel=2,
        )
    origin = model.origin
    if origin is None and embed_base:
        raise InputError(
            f"{model.name} was built by hand, so that its architecture and its tokenizer cannot be written down: save "
            "it without its base, and load it with load(DIR, base=model)"
        )
    if origin is not None and base is None:
        base = made_again(origin)
    home = folder / VERSIONS / version
    try:
        with replacing(home) as unfinished:
            _write(
                unfinished,
                model,
                base,
                built,
                plugins,
                embed_base=embed_base,
                protocol=None if result is None else result.get("protocol"),
                result=None if result is None else {name: result[name] for name in _OF_RESULT if name in result},
                ledger=ledger,
                about=about or {},
            )
    except OSError as error:
        raise InputError(f"cannot save the model to {home}: {error.strerror or error}") from error
    if current:
        with pointing(folder):
            point_to(folder, version)
    return home


def _write(
    folder: Path,
    model: VLM,
    base: VLM | None,
    built: list[Built],
    plugins: Sequence[SupervisedPlugin] | None,
    *,
    embed_base: bool,
    protocol: Any,
    result: Any,
    ledger: Any,
    about: Mapping[str, Any],
) -> None:
    """All files of a version, ``model.json`` last."""
    origin = model.origin
    state, of_base = model.state_dict(), {} if base is None else base.state_dict()
    tensors, own = tensors_of(state), changed_tensors(state, of_base)
    plain, in_folder = origin is not None and towers_decide(model), set[str]()
    if plain:
        assert origin is not None
        in_folder = {f"clip.{name}" for name in write_open_clip(folder, model, origin.config)}
    write_tensors(folder / TENSORS, {name: tensor for name, tensor in own.items() if name not in in_folder})
    if embed_base:
        assert origin is not None and base is not None
        (folder / EMBEDDED).mkdir()
        write_open_clip(folder / EMBEDDED, base, origin.config)
    if plugins is not None and not undeclared(plugins):
        write_training(folder, model, plugins, of_base)
    space = model.label_space
    description = Description(
        name=model.name,
        base=Base(
            origin=None if origin is None else MadeBy.of(origin),
            embedded=embed_base,
            frozen=_frozen_before(model, base, built, protocol),
            weights={} if base is None else weights_of(base),
        ),
        built=built,
        state=cast("Any", {name: entry for name, entry in state.items() if name not in tensors}),
        plain=plain,
        absent=sorted(tensors_of(of_base).keys() - state.keys()),
        strides=strides_of({**own, **{name: state[name] for name in in_folder}}),
        trains=model.training_state(),
        modules=_write_peft(folder, model),
        tokenizer=tokenizer_of(model, [] if space is None else list(space.class_names)),
        transforms={"train": model.transforms.train.describe(), "eval": model.transforms.eval.describe()},
        raw_data=False if plugins is None else keeps_raw_data(plugins),
        protocol=protocol,
        result=result,
        ledger=cast("Any", ledger),
        about=dict(about),
        versions=package_versions(),
        files=digests(folder),
    )
    write_description(folder, description)
    if base is not None:
        _check_loadable(base, model, built)


def _check_loadable(base: VLM, model: VLM, built: list[Built]) -> None:
    """Do what loading does, on a base that is needed for nothing else any more."""
    try:
        build_again(base, built, "the saved model", model.label_space)
        base.load_state_dict(model.state_dict())
    except (RuntimeError, InputError) as error:
        names = ", ".join(step.recipe for step in built) or "no recipe"
        raise InputError(
            f"the model could not be loaded again, so it is not saved: it has other parts than {names} builds "
            f"({' '.join(str(error).split())})"
        ) from error


def _frozen_before(model: VLM, base: VLM | None, built: Sequence[Built], protocol: Any) -> list[str]:
    """The towers that were frozen before the first recipe was built."""
    if len(built) > 1 and built[0].frozen is not None:
        return list(built[0].frozen)  # a protocol may be that of the last recipe alone
    weights = protocol.get("weights") if isinstance(protocol, Mapping) else None
    if isinstance(weights, Mapping) and isinstance(weights.get("frozen"), list):
        return list(weights["frozen"])
    if model.origin is not None:
        return list(model.origin.frozen)
    return ["scale"] if base is None else list(base.frozen)


def _write_peft(folder: Path, model: VLM) -> list[str]:
    """The modules that peft has a format for, each in a folder of its own."""
    pool = None if model.routed is None else model.routed.pool
    if pool is None or not all(isinstance(site, LoRALayer) for site in pool.sites.values()):
        return []
    written = []
    for name in pool.names:
        with suppress(InputError):  # of another kind than LoRA and DoRA, which peft does not know
            export_peft(model, pool, name, folder / PEFT / name)
            written.append(name)
    return written
