"""Which results are one row of a table, and what the row is called: those that differ in nothing but the seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from avalanche_vlm._flat import differing, flat


def row_names(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the row of each result is called: its recipe, and what sets it apart from the recipe's other rows.

    :param results: what ``result.json`` holds, of each.
    :return: names in the order of the results; those of one row are equal.

    >>> lora = lambda lr, seed: {"protocol": {"recipe": "lora", "seed": seed, "train": {"lr": lr}}}
    >>> row_names([lora(0.1, 0), lora(0.1, 1)]), row_names([lora(0.1, 0), lora(0.5, 0)])
    (['lora', 'lora'], ['lora (lr=0.1)', 'lora (lr=0.5)'])
    """
    settings = [row_settings(result) for result in results]
    keys = [
        (str(result["protocol"]["recipe"]), json.dumps(of, sort_keys=True, default=str))
        for result, of in zip(results, settings, strict=True)
    ]
    first = dict(zip(keys, settings, strict=True))
    names: dict[tuple[str, str], str] = {}
    for key in dict.fromkeys(keys):
        recipe = key[0]
        apart = differing([of for (other, _), of in first.items() if other == recipe])
        own = flat(first[key])
        told = [f"{name.rpartition('.')[2]}={_words(own.get(name))}" for name in apart]
        names[key] = f"{recipe} ({', '.join(told)})" if told else recipe
    return [names[key] for key in keys]


def row_settings(result: Mapping[str, Any]) -> dict[str, Any]:
    """What rows of a table differ in: options of the recipe, training settings, resources and plugins.

    :param result: what ``result.json`` holds.
    """
    protocol = result["protocol"]
    resources = {
        # What is drawn with the data differs from seed to seed, and where it lies is of no account.
        name: {key: value for key, value in _record(facts).items() if key not in ("content", "path")}
        for name, facts in _record(protocol.get("resources")).items()
    }
    return {
        "recipe_options": _record(protocol.get("recipe_options")),
        "train": _record(protocol.get("train")),
        **({"resources": resources} if resources else {}),
        **({"plugins": protocol["plugins"]} if protocol.get("plugins") else {}),
    }


def _record(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _words(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list) and not any(isinstance(of, dict | list) for of in value):
        return ", ".join(map(_words, value))
    return json.dumps(value, ensure_ascii=False)
