"""What is done with samples that cannot be used: the first one stops everything, or each is left out and said."""

from __future__ import annotations

from typing import Literal

from avalanche_vlm.errors import InputError

OnError = Literal["raise", "skip"]


class Problems:
    """Raises on the first problem, or notes each.

    :param on_error: ``"raise"`` or ``"skip"``.
    """

    def __init__(self, on_error: OnError) -> None:
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error is raise or skip, not {on_error!r}")
        self.on_error = on_error
        self.skipped: list[str] = []
        self.notes: list[str] = []
        """What else is to be said of the data, a sentence each."""

    def add(self, sentence: str) -> None:
        """One sample cannot be used."""
        if self.on_error == "raise":
            raise InputError(f"{sentence} (on_error=skip leaves it out)")
        self.skipped.append(sentence)
