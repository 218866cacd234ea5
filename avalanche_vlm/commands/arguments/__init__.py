"""What may be written on the command line, a module for each group of commands. Nothing heavy is imported here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.commands.arguments.parser import parse
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = ["parse"]
