"""Nested settings under dotted names, and where two of them differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names. Nothing is lost: a group without settings stands under its own name.

    :param settings: the settings, of which a mapping is a group.
    :param prefix: what stands before every name.
    :return: values by dotted name, in the order of the settings.

    >>> flat({"a": 1, "b": {"c": 2}, "d": {}})
    {'a': 1, 'b.c': 2, 'd': {}}
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {prefix + key: value}
    return found


def differing(several: Sequence[Mapping[str, Any]]) -> list[str]:
    """The dotted names under which some settings are not equal, each setting and never the group that it is in.

    :param several: nested settings, each of the same kind.
    :return: names in the order in which they are met; a setting that one of them lacks differs from any value but None.

    >>> differing([{"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}]), differing([{"b": {}}, {"b": {"c": 2}}])
    (['b.c'], ['b.c'])
    >>> differing([{"b": {}}, {}])
    ['b']
    """
    flattened = [flat(settings) for settings in several]
    names = list(dict.fromkeys(name for settings in flattened for name in settings))
    groups = {name[:end] for name in names for end, mark in enumerate(name) if mark == "."}
    # Where one has a group without settings and another settings in it, the settings are what differs.
    empty = {name for name in groups if all(settings.get(name, {}) == {} for settings in flattened)}
    return [
        name
        for name in names
        if name not in empty and any(settings.get(name) != flattened[0].get(name) for settings in flattened[1:])
    ]
