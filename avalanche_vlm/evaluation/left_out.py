"""What is said of images that runs have met and could not read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avalanche_vlm.evaluation.declaration import found_at, number


def images_passed_over(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The sentence on images in whose place others were read; none where all could be read.

    :param results: what ``result.json`` holds, of recipes and seeds on one stream.

    >>> images_passed_over([{"data": {"passed_over": {"count": 1, "files": []}}}])
    ['1 image could not be read, and another took its place: result.json names it (data.passed_over).']
    """
    counts = {int(number(found_at(of, "data", "passed_over", "count")) or 0) for of in results}
    most = max(counts, default=0)
    if not most:
        return []
    images = f"{most} image{'' if most == 1 else 's'}{' at most of a run' if len(counts) > 1 else ''}"
    places, them = ("another took its place", "it") if most == 1 else ("others took their places", "them")
    return [f"{images} could not be read, and {places}: result.json names {them} (data.passed_over)."]
