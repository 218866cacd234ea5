"""What is known of a version beside its files: where it comes from, what it learned, and whether it was promoted.

``DIR/versions/v2.json`` lies beside the folder ``v2``, for what it says changes while the folder does not: a candidate
may be promoted later. An update's version brings its record in its ``model.json`` as well, so that it is no more than a
candidate if the process ended before the file beside it was written.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from avalanche_vlm.artifacts import current_version, open_saved, point_to, version_names
from avalanche_vlm.artifacts.description import check_there
from avalanche_vlm.artifacts.layout import DESCRIPTION, VERSIONS, known_version, pointing
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.documents import DIGITS, Document, Name, NotNegativeInt, Percent, fault_of
from avalanche_vlm.studies.living.gates import GateFinding, why_not

RECORD = "update"
"""Where a version's ``model.json`` has the record that an update made, under ``about``."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Version = Annotated[str, Field(pattern=r"^v[1-9][0-9]*$")]
"""Name of a version."""


class Kept(_Part):
    """A set whose test samples may have been kept.

    :param name: name of the experience or held-out set.
    :param samples: number of samples that were kept; 0 for none.
    :param file: the file of the samples in ``DIR/tests``; None for none.
    :param content: SHA-256 of the samples; None for none.
    :param classes: SHA-256 of the classes of their own that they have; None for those of the model, or captions.
    """

    name: Name
    samples: NotNegativeInt = 0
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+\.safetensors$")] | None = None
    content: Annotated[str, Field(pattern=DIGITS)] | None = None
    classes: Annotated[str, Field(pattern=DIGITS)] | None = None


class Record(_Part):
    """What is known of a version.

    :param version: name of the version.
    :param made: when it was made, in ISO 8601.
    :param parent: the version that it goes on from; None for the first.
    :param recipe: name of the recipe that trained it last.
    :param experiences: what it has learned, in order.
    :param held_out: sets that nothing trains.
    :param promoted: whether it was the model at any time.
    :param gates: what the gates said of it.
    :param scores: score on each set in percent, by name, as far as test samples are there.
    :param before: score of the version before on the same samples, in percent.
    :param bytes: bytes of its files.
    """

    version: Version
    made: Annotated[str, Field(max_length=100)]
    parent: Version | None = None
    recipe: str | None = None
    experiences: list[Kept] = []
    held_out: list[Kept] = []
    promoted: bool = True
    gates: list[GateFinding] = []
    scores: dict[Name, Percent | None] = {}
    before: dict[Name, Percent | None] = {}
    bytes: NotNegativeInt = 0


RECORDED: Document[Record] = Document("the record of a version", Record)


def now() -> str:
    """The time in ISO 8601, to the second, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0).isoformat()


def bytes_of(folder: Path) -> int:
    """Bytes of all files in a folder.

    :param folder: the folder whose files are counted, with those in folders in it.
    """
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read_record(folder: str | Path, version: str) -> Record:
    """What is known of a version; of one without a record beside it, what its ``model.json`` says: that of an update is
    a candidate until the record says something else.

    :param folder: the folder that was saved to.
    :param version: name of the version.
    :raises InputError: if there is no such version, or the record is damaged.
    """
    folder = Path(folder)
    path = folder / VERSIONS / f"{known_version(folder, version)}.json"
    if path.exists():
        record = RECORDED.read(path)
        if record.version != version:
            raise InputError(f"{path} is damaged: version is {record.version!r}, so that it is the record of another")
        return record
    saved = open_saved(folder / VERSIONS / version)
    if RECORD in saved.description.about:
        try:
            record = Record.model_validate(saved.description.about[RECORD])
        except ValidationError as error:
            raise InputError(f"{saved.folder / DESCRIPTION} is damaged: about.{RECORD}: {fault_of(error)}") from error
        return record.model_copy(update={"version": version, "promoted": False, "bytes": bytes_of(saved.folder)})
    result = saved.description.result or {}
    parent = (saved.description.protocol or {}).get("goes_on_from")
    built = saved.description.built
    made = datetime.datetime.fromtimestamp((saved.folder / DESCRIPTION).stat().st_mtime, datetime.timezone.utc)
    tasks = result.get("tasks")
    names = [str(name) for name in tasks] if isinstance(tasks, list) else list(_tasks_of(saved))
    return Record(
        version=version,
        made=made.replace(microsecond=0).isoformat(),
        parent=parent if isinstance(parent, str) else None,
        recipe=built[-1].recipe if built else None,
        experiences=[Kept(name=name) for name in names],
        promoted=parent is None,  # an update writes the record before it promotes
        scores=_last_row(result, names),
        bytes=bytes_of(saved.folder),
    )


def keeps_no_tests(folder: str | Path, record: Record) -> bool:
    """Whether whoever saved a version kept none of its test samples, although something noted which there are.

    :param folder: the folder that the version was saved to.
    :param record: what is known of the version.
    """
    noted = Path(folder, VERSIONS, f"{record.version}.json").exists()
    return noted and not any(of.file for of in (*record.experiences, *record.held_out))


def write_record(folder: str | Path, record: Record) -> None:
    """Write what is known of a version, whole or not at all.

    :param folder: the folder that the version was saved to.
    :param record: what is known.
    :raises InputError: if it cannot be written.
    """
    path = Path(folder, VERSIONS, f"{record.version}.json")
    RECORDED.write(path, record.model_dump(mode="json"))


def list_versions(folder: str | Path) -> list[dict[str, Any]]:
    """The versions of a model, the oldest first.

    :param folder: the folder that was saved to.
    :return: plain JSON types: what is known of each, and ``current``, whether it is the model now.
    :raises InputError: if no model was saved there.
    """
    names = version_names(folder)
    if not names:
        raise InputError(f"there is no saved model in {folder}: it has no {VERSIONS}")
    current = current_version(folder)
    return [{**read_record(folder, name).model_dump(mode="json"), "current": name == current} for name in names]


def roll_back(folder: str | Path, version: str, anyway: bool = False) -> str | None:
    """Make another version the model, at once: whoever loads it meanwhile gets the one or the other.

    :param folder: the folder that was saved to.
    :param version: name of the version, which must have been the model before.
    :param anyway: whether a candidate that was never promoted is taken as well.
    :return: name of the version that was the model until now.
    :raises InputError: if there is no such version, a file of it is missing, or it is a candidate and ``anyway`` is not
        said.
    """
    record = read_record(folder, version)
    saved = open_saved(Path(folder) / VERSIONS / version)
    check_there(saved.folder, saved.description.files)
    if not record.promoted and not anyway:
        why = why_not(record.gates)
        raise InputError(
            f"{version} was never promoted{f' ({why})' if why else ''}: --anyway makes it the model all the same"
        )
    with pointing(folder):
        before = current_version(folder)
        if not record.promoted:
            write_record(folder, record.model_copy(update={"promoted": True}))
        point_to(folder, version)
    return before


def settle(folder: str | Path, record: Record, promoted: bool) -> tuple[Record, str | None]:
    """Write what is known of an update's version and make it the model, where it is to be and its parent still is.

    :param folder: the folder that the version was saved to.
    :param record: what is known of the version.
    :param promoted: whether the version is to be the model.
    :return: the record as it was written, and name of the version that took the parent's place meanwhile and keeps this
        one from it; None for none.
    :raises InputError: if it cannot be written.
    """
    with pointing(folder):
        current = current_version(folder)
        overtaken = current if promoted and current not in (record.parent, record.version) else None
        promoted = promoted and overtaken is None
        size = bytes_of(Path(folder, VERSIONS, record.version))
        record = record.model_copy(update={"promoted": promoted, "bytes": size})
        write_record(folder, record)
        if promoted:
            point_to(folder, record.version)
    return record, overtaken


def _tasks_of(saved: Any) -> tuple[str, ...]:
    space = saved.label_space
    return () if space is None else space.task_names


def _last_row(result: Any, names: list[str]) -> dict[str, float | None]:
    matrix = result.get("matrix")
    row = matrix[-1] if isinstance(matrix, list) and matrix else []
    return dict(zip(names, row, strict=False)) if len(row) == len(names) else {}
