"""``predict``: classes of images by a saved model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from avalanche_vlm.commands.answer_files import TableRow, answers_to
from avalanche_vlm.commands.prepare import device_of
from avalanche_vlm.commands.progress import counting
from avalanche_vlm.commands.requests import PredictRequest
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import tell

if TYPE_CHECKING:
    from avalanche_vlm.models.answers import Prediction
    from avalanche_vlm.models.predict import Predictor
    from avalanche_vlm.models.reading_files import FileBatch

COLUMNS = ("image", "rank", "class", "class_id", "probability", "module", "out_of_distribution", "error")
"""Columns of the table, with a row for each class of an image."""


def predict(request: PredictRequest) -> int:
    """The most probable classes of images, written as they are found.

    :param request: what was asked for.
    :return: exit code of the process: 0 if any image was answered, 2 if none.
    """
    from avalanche_vlm.artifacts import load
    from avalanche_vlm.benchmarks.sources.gathering import gathered
    from avalanche_vlm.models.predict import Predictor
    from avalanche_vlm.models.reading_files import read_batches

    model = load(request.model, device=device_of(request.device))
    predictor = Predictor(model, request.labels, request.top_k, templates=request.templates)
    find = partial(gathered, request.paths, request.image_column, request.image_root)
    answered = failed = 0
    with counting(request.quiet, "images") as advance, answers_to(request.target, COLUMNS) as write:
        for batch in read_batches(find, model.transforms.eval, request.batch_size, request.workers):
            for name, prediction, problem in answers(predictor, batch):
                if prediction is None:
                    failed += 1
                    tell(f"avalanche-vlm: {problem}", errors=True)
                else:
                    answered += 1
                write(rows(name, prediction, problem), as_json(name, prediction, problem))
            advance(len(batch.names))
    return said(answered, failed, request.target)


def said(answered: int, failed: int, target: object) -> int:
    """The last sentence, and the exit code.

    :param answered: number of images that were answered or searched.
    :param failed: number of things that were no readable image.
    :param target: file that was written; None for standard output.
    :return: 0 if any image was answered, 2 if none.
    """
    if target is not None:
        tell(f"written to {target}")
    if failed:
        sentence = f"{failed} of {answered + failed} images could not be read" if answered else "no image could be read"
        tell(f"avalanche-vlm: {sentence}", errors=True)
    return 0 if answered else 2


def answers(predictor: Predictor, batch: FileBatch) -> Iterator[tuple[str, Prediction | None, str | None]]:
    """Name, prediction and problem of each image of a batch, of which one of the latter two is None.

    :param predictor: the model that is asked.
    :param batch: images and sentences on those that could not be read.
    """
    names = [name for name, problem in zip(batch.names, batch.problems, strict=True) if problem is None]
    found: list[Prediction | InputError]
    try:
        found = list(predictor(batch.images, names))
    except InputError:
        # An image without an answer takes none of the others with it.
        found = [_alone(predictor, batch.images[row : row + 1], [name]) for row, name in enumerate(names)]
    left = iter(found)
    for name, problem in zip(batch.names, batch.problems, strict=True):
        answer = None if problem is not None else next(left)
        if isinstance(answer, InputError):
            answer, problem = None, str(answer)
        yield name, answer, problem


def _alone(predictor: Predictor, image: Any, names: list[str]) -> Prediction | InputError:
    try:
        (found,) = predictor(image, names)
    except InputError as error:
        return error
    return found


def rows(name: str, prediction: Prediction | None, problem: str | None) -> list[TableRow]:
    """Rows of the table on one image, at least one.

    :param name: what the image is called.
    :param prediction: the model's answer; None without one.
    :param problem: the sentence on why there is none.
    """
    if prediction is None:
        return [{"image": name, "error": problem}]
    told = {"image": name, "module": prediction.module, "out_of_distribution": prediction.out_of_distribution}
    classes = enumerate(prediction.classes, start=1)
    return [
        {**told, "rank": rank, "class": found.name, "class_id": found.index, "probability": found.probability}
        for rank, found in classes
    ] or [told]


def as_json(name: str, prediction: Prediction | None, problem: str | None) -> TableRow:
    """The same as one object.

    :param name: what the image is called.
    :param prediction: the model's answer; None without one.
    :param problem: the sentence on why there is none.
    """
    if prediction is None:
        return {"image": name, "classes": [], "module": None, "out_of_distribution": None, "error": problem}
    classes = [{"class": c.name, "class_id": c.index, "probability": c.probability} for c in prediction.classes]
    told = {"module": prediction.module, "out_of_distribution": prediction.out_of_distribution}
    return {"image": name, "classes": classes, **told, "error": None}
