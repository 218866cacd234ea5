"""``model.json``: what a saved model is, in words that JSON has, and the digests of the files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, Strict

from avalanche_vlm._content import sha256_of
from avalanche_vlm.artifacts.layout import DESCRIPTION
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.model_settings import check_settings
from avalanche_vlm.models.origin import Origin
from avalanche_vlm.models.precision import WeightPrecision
from avalanche_vlm.storage.documents import DIGITS, Document, NotNegativeInt

FORMAT = 1
"""Number of the format of ``model.json`` and of what lies beside it; another one is another format."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Built(_Part):
    """A recipe that was built on the base.

    :param recipe: name of the recipe.
    :param options: its options that were given, without folders of the machine that it was trained on.
    :param resources: names of the resources that it was given, such as ``reference``.
    :param frozen: the towers that were frozen when it was built; None for those that what came before had left so.
    """

    recipe: str
    options: dict[str, JsonValue] = {}
    resources: list[str] = []
    frozen: list[str] | None = None


class MadeBy(_Part):
    """An :class:`~avalanche_vlm.models.origin.Origin` in JSON types."""

    name: str
    pretrained: str | None
    precision: WeightPrecision
    image_size: int | None
    seed: int | None
    frozen: Annotated[tuple[str, ...], Strict(False)]  # a list of JSON's is the tuple
    config: dict[str, JsonValue]

    @classmethod
    def of(cls, origin: Origin) -> MadeBy:
        """The same in JSON types.

        :param origin: how the base was made.
        """
        return cls(**{name: getattr(origin, name) for name in cls.model_fields})

    def origin(self) -> Origin:
        """How the base is made.

        :raises InputError: if its settings say what is not known to run no code, since they are written into folders
            that others open.
        """
        check_settings(self.config, DESCRIPTION)
        return Origin(**{name: getattr(self, name) for name in type(self).model_fields})


class Base(_Part):
    """The model before any recipe was built on it.

    :param origin: how it is made; None for one that was built by the user's own hands.
    :param embedded: whether its weights are in the folder.
    :param frozen: the towers that were frozen before any recipe was built.
    :param weights: what :func:`~avalanche_vlm.models.fingerprint.weights_of` says of it; empty where it is unknown.
    """

    origin: MadeBy | None
    embedded: bool
    frozen: list[str]
    weights: dict[str, JsonValue]


class File(_Part):
    """What a file beside ``model.json`` must hold.

    :param bytes: number of its bytes.
    :param sha256: digest of all of it, in hexadecimal digits.
    """

    bytes: NotNegativeInt
    sha256: Annotated[str, Field(pattern=DIGITS)]


class Description(_Part):
    """What ``model.json`` holds.

    :param name: how results refer to the model.
    :param base: the model before any recipe was built on it.
    :param built: the recipes that were built on it, the first one first.
    :param state: entries of the model's state that are no tensors; ``_extra_state`` has the label space.
    :param plain: whether the towers are those of the architecture, and nothing else decides predictions: the folder is
        then one of open_clip's, and the towers' tensors are in its file.
    :param absent: entries of the base that the model does not have.
    :param strides: strides of stored tensors whose elements do not lie in the order of their dimensions.
    :param trains: names of parameters that train, and of frozen towers.
    :param modules: names of modules that lie in ``peft`` as files of peft's.
    :param tokenizer: what its tokenizer is, and a digest of the tokens that it gives.
    :param transforms: how images are prepared, in words.
    :param raw_data: whether the state of training holds samples of the user's; None if nobody knows.
    :param protocol: everything that decides the figures of its experiment; None without one.
    :param result: tasks, matrix, held-out curves and metrics of its experiment; None without one.
    :param ledger: what its recipe cost; None without an experiment.
    :param about: what else its maker wrote down.
    :param versions: versions of the packages that it was made with.
    :param files: the files beside this one, by their paths in the folder.
    """

    name: str
    base: Base
    built: list[Built]
    state: dict[str, JsonValue]
    plain: bool
    absent: list[str]
    strides: dict[str, list[int]]
    trains: dict[str, list[str]]
    modules: list[str]
    tokenizer: dict[str, JsonValue]
    transforms: dict[str, str]
    raw_data: bool | None
    protocol: dict[str, JsonValue] | None
    result: dict[str, JsonValue] | None
    ledger: dict[str, JsonValue] | None
    about: dict[str, JsonValue]
    versions: dict[str, str]
    files: dict[str, File]

    @property
    def label_space(self) -> dict[str, Any] | None:
        """The label space as :meth:`~avalanche_vlm.benchmarks.label_space.LabelSpace.as_json` has it."""
        state = self.state.get("_extra_state")
        space = state.get("label_space") if isinstance(state, dict) else None
        return space if isinstance(space, dict) else None


DESCRIBED: Document[Description] = Document("the description of a saved model", Description, FORMAT)


def write_description(folder: Path, description: Description) -> None:
    """Write ``model.json``, with a digest of its own.

    :param folder: the version's folder.
    :param description: what it says.
    :raises InputError: if it could not be read again.
    :raises ValueError: for a number that JSON does not have.
    """
    (folder / DESCRIPTION).write_bytes(DESCRIBED.text_for(folder / DESCRIPTION, description.model_dump()))


def read_description(folder: Path) -> Description:
    """Read ``model.json``.

    :param folder: the version's folder.
    :return: what it says.
    :raises InputError: in one sentence, if it is missing, damaged, changed, or of another format.
    """
    return DESCRIBED.read(folder / DESCRIPTION)


def digests(folder: Path) -> dict[str, File]:
    """Size and digest of every file below a folder, by its path in it.

    :param folder: the version's folder, before ``model.json`` is in it.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): _file(path) for path in paths}


def checked_file(folder: Path, name: str, files: Mapping[str, File]) -> Path:
    """A file of the folder, when it holds what it must.

    :param folder: the version's folder.
    :param name: path of the file in it.
    :param files: what ``model.json`` says of the files.
    :return: path of the file.
    :raises InputError: in one sentence, if it is missing, truncated or changed, or no file of the model.
    """
    path = folder / name
    if name not in files:
        raise InputError(f"{folder / DESCRIPTION} does not know {name}, which the model needs")
    if not path.is_file():
        raise InputError(f"{path} is missing, and {DESCRIPTION} says that it belongs to the model")
    try:
        found = _file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if found.bytes < files[name].bytes:
        raise InputError(f"{path} is truncated: it has {found.bytes} bytes of {files[name].bytes}")
    if found != files[name]:
        raise InputError(f"{path} was changed since the model was saved: its digest is another")
    return path


def check_there(folder: Path, files: Mapping[str, File]) -> None:
    """See that no file of a model is missing or of another length, without reading any.

    :param folder: the version's folder.
    :param files: what ``model.json`` says of the files.
    :raises InputError: in one sentence, for the first one that is.
    """
    for name, file in files.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing, and {DESCRIPTION} says that it belongs to the model")
        if (there := path.stat().st_size) != file.bytes:
            raise InputError(f"{path} was changed since the model was saved: it has {there} bytes and not {file.bytes}")


def _file(path: Path) -> File:
    return File(bytes=path.stat().st_size, sha256=sha256_of(path))
