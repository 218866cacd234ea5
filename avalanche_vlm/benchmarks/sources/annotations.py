"""Rows of annotations in JSON: COCO captions, Karpathy's splits, and lists of objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import Row
from avalanche_vlm.benchmarks.sources.text import json_content
from avalanche_vlm.errors import InputError


def annotation_rows(path: Path, problems: Problems) -> Iterator[Row]:
    """The rows of a JSON file of annotations; a picture with several captions gives several rows.

    Read are COCO's captions (``images`` with ``id`` and ``file_name``, ``annotations`` with ``image_id`` and
    ``caption``), Karpathy's splits (``images`` with ``filename``, ``split`` and ``sentences``), and lists of objects
    with the columns of a table, whose ``caption`` may be a list.

    :param path: a JSON file of annotations.
    :param problems: takes annotations that are malformed.
    :return: number of each annotation, from 1, and its fields.
    :raises InputError: if the file as a whole is none of these.
    """
    content = json_content(path)
    if isinstance(content, list):
        return _objects(path, content, problems)
    images = content.get("images") if isinstance(content, dict) else None
    if isinstance(images, list) and isinstance(content.get("annotations"), list):
        return _coco(path, images, content["annotations"], problems)
    if isinstance(images, list) and all(isinstance(of, dict) and "sentences" in of for of in images):
        return _karpathy(path, images, problems)
    raise InputError(
        f"{path} holds no captions: expected images and annotations as in COCO's files, images with sentences, or a "
        "list of objects"
    )


def _coco(path: Path, images: list[Any], annotations: list[Any], problems: Problems) -> Iterator[Row]:
    # 0 and "0" are one id: some tools write the ids of images as numbers, and those of annotations as text.
    files = {str(of["id"]): of.get("file_name") for of in images if isinstance(of, dict) and "id" in of}
    if annotations and not any(isinstance(of, dict) and "caption" in of for of in annotations):
        raise InputError(f"{path} has annotations without captions: a file of captions is needed, not of instances")
    described = set()
    for number, annotation in enumerate(annotations, start=1):
        if not isinstance(annotation, dict):
            problems.add(f"{path}, row {number}: expected a JSON object")
        elif files.get(str(annotation.get("image_id"))) is None:
            problems.add(f"{path}, row {number}: there is no image with the id {annotation.get('image_id')!r}")
        else:
            described.add(str(annotation["image_id"]))
            yield number, {"image": files[str(annotation["image_id"])], "caption": annotation.get("caption")}
    if bare := len(files) - len(described):
        problems.notes.append(f"{path} has {bare} images without a caption: they are left out")


def _karpathy(path: Path, images: list[Mapping[str, Any]], problems: Problems) -> Iterator[Row]:
    number = 0
    for image in images:
        split, *parts = (image.get(name) for name in ("split", "filepath", "filename"))
        told = all(part is None or isinstance(part, str) for part in (split, *parts))
        for sentence in image["sentences"] if isinstance(image["sentences"], list) else ():
            number += 1
            if not told:
                problems.add(f"{path}, row {number}: the split or the name of its image is not text")
                continue
            split = "train" if split == "restval" else split
            where = "/".join(part for part in parts if part)
            text = sentence.get("raw") if isinstance(sentence, dict) else sentence
            yield number, {"image": where, "caption": text, **({"split": split} if split else {})}


def _objects(path: Path, objects: list[Any], problems: Problems) -> Iterator[Row]:
    for number, fields in enumerate(objects, start=1):
        if not isinstance(fields, dict):
            problems.add(f"{path}, row {number}: expected a JSON object")
        elif isinstance(fields.get("caption"), list):
            for caption in fields["caption"]:
                yield number, {**fields, "caption": caption}
        else:
            yield number, fields
