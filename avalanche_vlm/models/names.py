"""Names of architectures, as far as they can be told without open_clip itself, which would take torch with it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from avalanche_vlm.errors import InputError
from avalanche_vlm.units import did_you_mean


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
    near = did_you_mean(name, ["tiny", *known])  # no two differ in case alone
    raise InputError(f"no model is called {name!r}{near}; there are tiny and open_clip's (avalanche-vlm list models)")
