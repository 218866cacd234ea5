"""``export``: a saved model for other programs."""

from __future__ import annotations

from avalanche_vlm.commands.requests import ExportRequest
from avalanche_vlm.units import tell


def export(request: ExportRequest) -> int:
    """Write a saved model as another program reads it, and say how far that is from the model.

    :param request: what was asked for.
    :return: exit code of the process.
    """
    from avalanche_vlm.artifacts import export as write

    found = write(request.model, request.to, request.target, module=request.module)
    for sentence in found.sentences:
        tell(sentence)
    tell(f"written to {found.folder}")
    return 0
