"""Which results may share a table, and which may be averaged: what their protocols say, and nothing else.

A protocol is everything that decides figures. Results that differ in it were obtained under other conditions: they are
never averaged, and never put in one table. Two kinds of differences are what tables are for:

- *rows* of a table differ in the recipe, its options, how it trains and the resources that it makes use of;
- *samples* that are averaged in a row differ in the seed of the training, and with it in the seeds of the data and of
  random weights, if these follow it.

Where data, tables, names of classes and models lie (:data:`PLACES`) decides nothing: their content does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from avalanche_vlm._flat import flat
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.variants import row_names

ROWS = ("recipe", "recipe_options", "train", "plugins", "resources")
"""What may differ between rows of a table. A resource that two rows both use is the same for both."""

SEEDS = ("data.seed", "data.split_seed", "data.class_order_seed", "weights.seed")
"""Seeds that may follow the training's."""

_DIVIDED = ("data.split_seed", "data.class_order_seed")
"""Seeds that divide samples among training, test and tasks."""

DRAWN: Mapping[str, tuple[str, ...]] = {
    "data.content.all": ("data.seed",),
    "data.content.train": ("data.seed", *_DIVIDED),
    "data.content.test": ("data.seed", *_DIVIDED),
    "data.content.held_out": ("data.seed",),
    "data.n_train": _DIVIDED,
    "data.n_test": _DIVIDED,
    "data.class_order": ("data.class_order_seed",),
    "prompts": ("data.class_order_seed",),
    "resources.reference.content": ("data.seed",),
    "weights.content": ("weights.seed",),
    "tokenizer.texts": ("data.seed", *_DIVIDED),
}
"""Facts that are drawn: each may differ where one of these seeds does, and is the same where they agree. How many
samples a task has is drawn only where they are divided: a benchmark that draws its samples takes the numbers as
options."""

ALIKE = ("train.eval_tasks", "train.eval_every")
"""Settings of the training that rows of a table share: which cells of the matrix were measured."""

LATER = ("tokenizer.content", "tokenizer.texts", "versions.transformers", "versions.tokenizers")
"""Facts that results of earlier versions do not say, where the model's name stands for them: one that does not say such
a fact differs from none in it."""

MEANT: Mapping[str, Any] = {"train.compile": False}
"""Facts that results of earlier versions do not say, with what was so without a word."""

_Known = tuple[Mapping[str, Any], Any]
"""What decides a result's figures, and its tasks."""

PLACES: Mapping[str, str] = {
    "data.path": "stream.data",
    "data.root": "stream.options.root",
    "data.image_root": "stream.options.image_root",
    "data.class_names": "stream.options.class_names",
    "data.held_out_paths": "stream.held_out",
    "data.held_out_root": "stream.held_out_root",
    "resources.reference.path": "stream.reference",
    "resources.generator.path": "stream.generator",
}
"""Where something lies, which decides nothing, by its name in a protocol and by the setting that asks for it. What lies
there decides: pictures, captions and files of models by their digests, names of classes by that of the prompts."""


def deciding(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What decides figures, by dotted name: a protocol without the places where data lie.

    :param protocol: ``protocol`` of a result.

    >>> deciding({"data": {"path": "here", "seed": 1}, "seed": 0})
    {'data.seed': 1, 'seed': 0}
    """
    found = {name: value for name, value in flat(protocol).items() if name not in PLACES}
    if "train" in protocol:
        for name, value in MEANT.items():
            found.setdefault(name, value)
    return found


def difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first fact in which two protocols differ, so that one result does not stand for the other.

    :param stored: ``protocol`` of a result.
    :param wanted: the protocol of what would be run.
    :return: the fact's dotted name; None for equal conditions.

    >>> difference({"seed": 0, "data": {"path": "a"}}, {"seed": 0, "data": {"path": "b"}})
    >>> difference({"data": {"content": {"all": "1f"}}}, {"data": {"content": {"all": "2e"}}})
    'data.content.all'
    """
    return next(_unequal(deciding(wanted), deciding(stored)), None)


def facts_apart(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The facts in which two protocols differ, without those that results of earlier versions do not say.

    :param first: ``protocol`` of a result.
    :param second: ``protocol`` of another result.
    :return: the facts' dotted names.

    >>> facts_apart({"seed": 0}, {"seed": 1, "tokenizer": {"content": "1f"}})
    ['seed']
    """
    return list(_unequal(deciding(first), deciding(second)))


def apart(results: Sequence[Mapping[str, Any]]) -> str | None:
    """The fact that keeps results from sharing a table.

    :param results: what ``result.json`` holds, of each.
    :return: the fact's dotted name, ``tasks`` for other tasks; None if they may share one.
    """
    known: list[_Known] = []
    for result in results:
        one = deciding(result["protocol"]), result.get("tasks")
        if name := _kept_out(one, known):
            return name
        known.append(one)
    return None


def grouped(results: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Results in as few tables as they may share, each in the first that takes it.

    :param results: what ``result.json`` holds, of each.
    :return: places of the results, table by table.
    """
    groups: list[list[int]] = []
    known: list[list[_Known]] = []
    for place, result in enumerate(results):
        one = deciding(result["protocol"]), result.get("tasks")
        which = next((i for i, members in enumerate(known) if not _kept_out(one, members)), len(groups))
        if which == len(groups):
            groups.append([])
            known.append([])
        groups[which].append(place)
        known[which].append(one)
    return groups


def averaged_apart(results: Sequence[Mapping[str, Any]]) -> str | None:
    """The fact that keeps results of one recipe from being averaged: they differ in more than seeds.

    :param results: what ``result.json`` holds, of each; they may share a table.
    :return: the fact's dotted name; None if they may be averaged.
    """
    facts = [deciding(result["protocol"]) for result in results]
    for one in facts[1:]:
        for name in _unequal(facts[0], one):
            if name.split(".")[0] in ROWS and not _drawn_apart(name, facts[0], one):
                return name
    return None


def check_one_table(results: Sequence[Mapping[str, Any]]) -> None:
    """Refuse results that do not belong in one table with a row per recipe and setting, averaged over seeds.

    :param results: what ``result.json`` holds, of each.
    :raises InputError: naming the first fact in which they differ, and its values.
    """
    if name := apart(results):
        raise InputError(f"these results do not belong in one table: {_told(name, results)}")
    by_row: dict[str, list[Mapping[str, Any]]] = {}
    for name, result in zip(row_names(results), results, strict=True):
        by_row.setdefault(name, []).append(result)
    for recipe, members in by_row.items():
        if name := averaged_apart(members):
            raise InputError(f"these results of {recipe} cannot be averaged: {_told(name, members)}")
        seeds = [member["protocol"].get("seed") for member in members]
        for seed in seeds:
            if seeds.count(seed) > 1:  # it would pass for a spread of zero
                raise InputError(f"{recipe} with seed {seed} is there {seeds.count(seed)} times: a run counts once")


def shared_facts(protocols: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What results that share a table have in common, without what rows and samples differ in by their nature.

    :param protocols: ``protocol`` of each result, one at least.
    :return: the facts that are equal in all, nested as they were.

    >>> shared_facts([{"data": {"seed": 0, "n": 8}, "seed": 0}, {"data": {"seed": 1, "n": 8}, "seed": 1}])
    {'data': {'n': 8}}
    """
    shared = [{k: v for k, v in protocol.items() if k not in (*ROWS, "seed")} for protocol in protocols]
    for facts, protocol in zip(shared, protocols, strict=True):
        train = protocol.get("train") or {}
        if alike := {name: train[name] for of in ALIKE if (name := of.partition(".")[2]) in train}:
            facts["train"] = alike
    return _equal(shared)


def _equal(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = several
    found: dict[str, Any] = {}
    for name, value in first.items():
        there: list[Any] = [other.get(name) for other in others]
        if isinstance(value, Mapping) and all(isinstance(other, Mapping) for other in there):
            if (inner := _equal([value, *there])) or not value:
                found[name] = inner
        elif all(other == value for other in there):
            found[name] = value
    return found


def _told(name: str, results: Sequence[Mapping[str, Any]]) -> str:
    if name == "tasks":
        values = [result.get("tasks") for result in results]
    else:
        values = [deciding(result["protocol"]).get(name, "not said") for result in results]
    told = list(dict.fromkeys(json.dumps(value, ensure_ascii=False, default=str) for value in values))
    return f"{name} is {' in one and '.join(told)} in another" if len(told) == 2 else f"{name} is {', '.join(told)}"


def _kept_out(one: _Known, others: Sequence[_Known]) -> str | None:
    """The fact that keeps a result out of a table of others."""
    for facts, tasks in others:
        if tasks != one[1]:
            return "tasks"
        for name in _unequal(facts, one[0]):
            if not _may_differ(name, facts, one[0]):
                return name
    together = [facts for facts, _ in (*others, one)]
    return next((seed for seed in SEEDS if _in_part(together, seed)), None)


def _unequal(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    names = (name for name in {**first, **second} if not _says_the_same(name, first.get(name), second.get(name)))
    return (name for name in names if name not in LATER or (name in first and name in second))


def _says_the_same(name: str, first: Any, second: Any) -> bool:
    if name != "plugins" or not (isinstance(first, list) and isinstance(second, list) and len(first) == len(second)):
        return first == second
    # Earlier versions named the classes of further plugins alone, without what they were set to.
    pairs = [(str(a), str(b)) for a, b in zip(first, second, strict=True)]
    named = [(a, b) if "(" in a and "(" in b else (a.partition("(")[0], b.partition("(")[0]) for a, b in pairs]
    return all(a == b for a, b in named)


def _may_differ(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two results in one table may differ in this."""
    if name == "seed" or (name in SEEDS and first.get("seed") != second.get("seed")):
        return True
    if name in ALIKE:
        return False
    if name.split(".")[0] in ROWS:
        both = all(any(key.startswith(_resource(name)) for key in facts) for facts in (first, second))
        return not name.startswith("resources.") or not both or _drawn_apart(name, first, second)
    return _drawn_apart(name, first, second)


def _resource(name: str) -> str:
    """The beginning of all facts about the same resource."""
    return ".".join(name.split(".")[:2]) + "."


def _drawn_apart(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return any(first.get(seed) != second.get(seed) for seed in DRAWN.get(name, ()))


def _in_part(facts: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a seed follows the training's in some results and not in others: a mean over them would be of neither
    kind."""
    drawn = {one.get("seed"): one.get(name) for one in facts}
    return 1 < len(set(drawn.values())) < len(drawn)
