"""Names of architectures, as far as they can be told without open_clip itself, which would take torch with it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from avalanche_vlm.errors import InputError


def architectures() -> list[str]:
    """The architectures that the installed open_clip has a configuration of, in the order of the alphabet."""
    found = find_spec("open_clip")
    folders = found.submodule_search_locations or [] if found else []
    return sorted({path.stem for folder in folders for path in Path(folder, "model_configs").glob("*.json")})


def refuse_unknown_name(name: str, known: Sequence[str]) -> None:
    """Refuse a name that no model has.

    :param name: the name that was given.
    :param known: names of open_clip's architectures.
    :raises InputError: if it is none of them, with those that are spelt alike.
    """
    if name in known:
        return
    by_lower = {model.lower(): model for model in ["tiny", *known]}  # no two differ in case alone
    near = [by_lower[model] for model in difflib.get_close_matches(name.lower(), by_lower, n=3)]
    hint = f"; did you mean {', '.join(near)}" if near else ""
    raise InputError(f"no model is called {name!r}{hint}? (avalanche_vlm knows 'tiny' and open_clip's models)")
