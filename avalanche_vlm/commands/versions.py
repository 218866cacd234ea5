"""``versions``, ``rollback`` and ``diff``: the versions of a saved model."""

from __future__ import annotations

import json

from avalanche_vlm.commands.requests import DiffRequest, RollbackRequest, VersionsRequest
from avalanche_vlm.units import tell


def versions(request: VersionsRequest) -> int:
    """The versions of a saved model.

    :param request: what was asked for.
    :return: exit code of the process.
    """
    from avalanche_vlm.studies.living import list_versions

    found = list_versions(request.out)
    if request.as_json:
        tell(json.dumps(found, indent=1))
        return 0
    rows = [["", "version", "made", "from", "recipe", "promoted", "learned", "MB", "scores"]]
    for of in found:
        scores = "  ".join(f"{name} {value:.1f}" for name, value in of["scores"].items() if value is not None)
        mark, promoted = "*" if of["current"] else "", "yes" if of["promoted"] else "no"
        learned, size = str(len(of["experiences"])), f"{of['bytes'] / 1e6:.1f}"
        rows.append(
            [mark, of["version"], of["made"], of["parent"] or "", of["recipe"] or "", promoted, learned, size, scores]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        tell(" ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip())
    return 0


def rollback(request: RollbackRequest) -> int:
    """Another version becomes the model.

    :param request: what was asked for.
    :return: exit code of the process.
    """
    from avalanche_vlm.studies.living import roll_back

    before = roll_back(request.out, request.version, request.anyway)
    tell(f"{request.version} is the model now; {before} was until now" if before else f"{request.version} is the model")
    return 0


def diff(request: DiffRequest) -> int:
    """What sets two versions apart.

    :param request: what was asked for.
    :return: exit code of the process.
    """
    from avalanche_vlm.studies.living.difference import difference_of, told

    found = difference_of(
        request.out, request.first, request.second, examples=request.examples, pictures=request.pictures
    )
    tell(json.dumps(found, indent=1) if request.as_json else "\n".join(told(found)))
    if request.pictures is not None:
        written = sum("picture" in example for of in found["sets"] for example in of.get("examples", ()))
        tell(f"{written} pictures written to {request.pictures}", errors=True)
    return 0
