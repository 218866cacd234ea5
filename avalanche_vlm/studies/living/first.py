"""The first version's part: what an update needs of the stream that a model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from avalanche_vlm.artifacts import open_saved
from avalanche_vlm.artifacts.layout import VERSIONS
from avalanche_vlm.benchmarks.identities import Identities
from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.storage.documents import EXACT, Document
from avalanche_vlm.studies.living.growth import identities_of
from avalanche_vlm.studies.living.kept import KEPT_BY_DEFAULT, keep_tests
from avalanche_vlm.studies.living.records import Record, read_record, write_record

Digest = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
"""What an image is known by."""
Unknown = Annotated[str, Field(max_length=0)]
"""In the place of a digest, for an image that no other process would know again."""


class KnownPairs(TypedDict):
    """What :meth:`~avalanche_vlm.benchmarks.identities.Identities.state_dict` gives: digests by number."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    captions: list[Digest]
    images: list[Digest | Unknown]


IDENTITIES: Document[KnownPairs] = Document("what a version has learned of pairs", KnownPairs)


def record_first(
    folder: str | Path, version: str, benchmark: VLMBenchmark, model: VLM, samples: int = KEPT_BY_DEFAULT
) -> Record:
    """Put beside a version that was saved after a training what its updates need: test samples of every experience and
    of the held-out sets, and of pairs digests of captions and pictures, which say who is who.

    :param folder: the folder that the version was saved to.
    :param version: name of the version.
    :param benchmark: the stream that it was trained on.
    :param model: the model, whose transform reads the samples.
    :param samples: test samples of each set that are kept, the user's own pictures or captions; 0 keeps none, and
        nothing will say what later versions have forgotten.
    :return: what is known of the version now.
    :raises InputError: if something cannot be written.
    """
    folder = Path(folder)
    known = read_record(folder, version)
    experiences, held_out = keep_tests(folder, benchmark, model.transforms.eval, samples, owner=version)
    if benchmark.kind == "pairs" and (identities := identities_of(benchmark)) is not None:
        write_identities(folder, version, identities)
    record = known.model_copy(update={"experiences": experiences, "held_out": held_out})
    write_record(folder, record)
    return record


def write_identities(folder: Path, version: str, identities: Identities) -> None:
    """Write who is who among the pairs that a version has learned.

    :param folder: the folder that the version was saved to.
    :param version: name of the version.
    :param identities: numbers of pictures and captions, of which digests are written.
    :raises InputError: if it cannot be written.
    """
    IDENTITIES.write(_identities(folder, version), identities.state_dict())


def read_identities(folder: Path, version: str) -> Identities:
    """Who is who among the pairs that a version has learned.

    :param folder: the folder that the version was saved to.
    :param version: name of the version.
    :raises InputError: if that was not written, or is damaged.
    """
    path, found = _identities(folder, version), Identities()
    if not path.exists():
        raise InputError(
            f"{open_saved(folder).folder} does not say which captions it has learned: there is no {path}, which run "
            "writes and, after an experiment of your own, record_first"
        )
    found.load_state_dict(IDENTITIES.read(path))  # type: ignore[arg-type]
    return found


def _identities(folder: Path, version: str) -> Path:
    return folder / VERSIONS / f"{version}.identities.json"
