"""``retrieve``: images for texts, or texts for an image, by a saved model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from avalanche_vlm.commands.answer_files import answers_to
from avalanche_vlm.commands.predict import said
from avalanche_vlm.commands.prepare import device_of
from avalanche_vlm.commands.progress import counting
from avalanche_vlm.commands.requests import RetrieveRequest
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import tell

if TYPE_CHECKING:
    import torch

    from avalanche_vlm.models import VLM
    from avalanche_vlm.models.answers import Match
    from avalanche_vlm.models.retrieve import ImageSearch


def retrieve(request: RetrieveRequest) -> int:
    """The most similar images of each query, or the most similar texts of an image.

    :param request: what was asked for.
    :return: exit code of the process: 0 if any image could be read, 2 if none.
    """
    from avalanche_vlm.artifacts import load

    model = load(request.model, device=device_of(request.device))
    return _images(request, model) if request.image is None else _texts(request, model, request.image)


def _images(request: RetrieveRequest, model: VLM) -> int:
    from avalanche_vlm.benchmarks.sources.gathering import gathered
    from avalanche_vlm.models.reading_files import read_batches
    from avalanche_vlm.models.retrieve import ImageSearch

    search = ImageSearch(model, request.queries, request.top_k)
    find = partial(gathered, request.images, request.image_column, request.image_root)
    searched = failed = 0
    with counting(request.quiet, "images") as advance:
        for batch in read_batches(find, model.transforms.eval, request.batch_size, request.workers):
            problems = [problem for problem in batch.problems if problem is not None]
            names = [name for name, problem in zip(batch.names, batch.problems, strict=True) if problem is None]
            problems += added(search, batch.images, names)
            for problem in problems:
                tell(f"avalanche-vlm: {problem}", errors=True)
            failed += len(problems)
            searched += len(batch.names) - len(problems)
            advance(len(batch.names))
    if searched:
        _write(request, "query", search.queries, "image", search.result())
    return said(searched, failed, request.target if searched else None)


def added(search: ImageSearch, images: torch.Tensor, names: list[str]) -> list[str]:
    """Search among images, of which one without a feature takes none of the others with it.

    :param search: the search, which gets the images.
    :param images: ``[B, 3, H, W]`` under the model's transforms.
    :param names: what each is called.
    :return: a sentence on each that has no feature.
    """
    if not names:
        return []
    try:
        search.add(images, names)
        return []
    except InputError as error:
        if len(names) == 1:
            return [str(error)]
    return [sentence for row, name in enumerate(names) for sentence in added(search, images[row : row + 1], [name])]


def _texts(request: RetrieveRequest, model: VLM, image: str) -> int:
    from avalanche_vlm.models.retrieve import retrieve_texts

    found = retrieve_texts(model, image, request.texts, request.top_k)
    _write(request, "image", [image], "text", found)
    return said(1, 0, request.target)


def _write(request: RetrieveRequest, asked: str, questions: list[str], what: str, found: list[list[Match]]) -> None:
    with answers_to(request.target, (asked, "rank", what, "similarity")) as write:
        for question, matches in zip(questions, found, strict=True):
            rows = [
                {asked: question, "rank": rank, what: match.item, "similarity": match.similarity}
                for rank, match in enumerate(matches, start=1)
            ]
            listed = [{what: match.item, "similarity": match.similarity} for match in matches]
            write(rows, {asked: question, "matches": listed})
