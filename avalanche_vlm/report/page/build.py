"""The report's content as plain JSON types. Pure: the same files give the same content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avalanche_vlm import __version__
from avalanche_vlm.evaluation.declaration import ResultEntry
from avalanche_vlm.evaluation.figures import figures_of
from avalanche_vlm.report.page import evidence, exposure, proposal
from avalanche_vlm.report.page.glossary import glossary
from avalanche_vlm.report.page.reading import how_far, record, text
from avalanche_vlm.report.page.sections import empty_sections
from avalanche_vlm.report.page.sides import sides
from avalanche_vlm.report.rounding import ROUNDING, show

_LATIN = 0x24F
"""The last letter of the Latin blocks."""

_DIAGNOSE = ("avalanche-vlm diagnose DIR", "repeats a run with probes and fills this part.")
_DIAGNOSE_ONE = (
    "avalanche-vlm diagnose DIR/RECIPE/seed-N",
    "repeats one of these runs with probes and fills this part.",
)
_RUN = ("avalanche-vlm compare --out DIR", "trains recipes side by side and fills this part.")
_WATCHED = ("avalanche-vlm run --out DIR", "notes it while it trains and fills this part.")
_ADVISE = ("avalanche-vlm advise --out DIR", "tries recipes on your stream and fills this part.")


def content(
    results: Sequence[ResultEntry],
    diagnosis: dict[str, Any] | None = None,
    advice: dict[str, Any] | None = None,
    unfinished: Sequence[dict[str, Any]] = (),
    beside: Mapping[str, Sequence[ResultEntry]] | None = None,
) -> dict[str, Any]:
    """Everything that the report says.

    User data are addressed by position and never by name, so that a path such as ``groups.0.recipes.1.matrix.2.3``
    leads to every number whatever tasks and recipes are called.

    :param results: ``result`` (what ``result.json`` holds) and ``timing`` of each run.
    :param diagnosis: what ``diagnosis.json`` holds.
    :param advice: what ``advice.json`` holds.
    :param unfinished: what ``partial.json`` holds of each run that is not finished.
    :param beside: two of the results, by what they are called, that are put beside each other; each is a run, or runs
        that differ in the seed alone. None for a report of all.
    :return: sections by name, None or empty where the input for one is absent; ``missing`` then says what fills it.
        Scores in percent, differences in points, shares as fractions, sizes in bytes.
    """
    diagnosis, advice = record(diagnosis), record(advice)
    groups = evidence.groups(results)
    advised = proposal.pareto_of_pilots(advice)
    found = {
        "title": _title(groups, diagnosis, advice),
        "answer": _answer(groups, diagnosis, advice, unfinished),
        "sides": sides(beside) if beside else None,
        "exposures": exposure.exposures(diagnosis),
        "attribution": exposure.attribution(diagnosis),
        "modules": exposure.modules(diagnosis),
        "drift": exposure.drift(diagnosis),
        "erosion": exposure.erosion(diagnosis),
        "subject": _subject(groups, diagnosis, advice),
        "groups": groups,
        "paretos": [advised] if advised else [p for group in groups if (p := evidence.pareto_of_results(group))],
        "rounds": proposal.rounds(advice),
        "plan": proposal.plan(advice),
        "pictures": sum(len(of) for v in _shown(groups) for of in v["examples"].values()),
        "ledgers": _ledgers(groups, advice),
        "circumstances": proposal.circumstances(advice) if advice else None,
        "protocols": _protocols(groups, diagnosis, advice),
        "versions": _versions(results, diagnosis, advice),
        "scripts": _other_scripts(groups),
        "rounding": ROUNDING,
        "glossary": glossary(figures_of(results)),
    }
    missing = _missing(found)
    return {**found, "missing": missing, "empty": empty_sections(found, missing)}


def _title(groups: list[dict[str, Any]], diagnosis: dict[str, Any], advice: dict[str, Any]) -> str:
    names = [group["name"] for group in groups]
    for source in (diagnosis, advice):
        protocol = record(source.get("protocol"))
        names.append(", ".join(filter(None, (text(protocol.get(k)) for k in ("benchmark", "model")))))
    return " · ".join(dict.fromkeys(filter(None, names))) or "a stream of tasks"


def _answer(
    groups: list[dict[str, Any]],
    diagnosis: dict[str, Any],
    advice: dict[str, Any],
    unfinished: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """What hits the stream, and what to do about it; without advice, what the results say."""
    given = record(advice.get("answer"))
    advised = text(given.get("sentence"))
    said = [loss["verdict"]["sentence"] for loss in exposure.attribution(diagnosis)]
    said += [advised] if advised else [_standing(group) for group in groups]
    said += [sentence for group in groups for sentence in group["remarks"]]
    said += [how_far(run) for run in unfinished]
    sentences = [sentence for sentence in said if sentence]
    confidence = text(given.get("confidence")) or None
    return {"sentences": sentences, "confidence": confidence, "why": text(given.get("why")) or None}


def _standing(group: dict[str, Any]) -> str:
    """Who ends highest, and whether the seeds tell it from the next."""
    ranked = [r for r in group["recipes"] if r["figures"]["last"]["mean"] is not None]
    if not ranked:
        return f"{group['name']}: no recipe was scored on every task."
    ranked.sort(key=lambda r: -r["figures"]["last"]["mean"])
    best, tasks = ranked[0], len(group["tasks"])
    last = best["figures"]["last"]
    sentence = f"{best['name']} ends at {show(last['mean'], 'percent')} % over {tasks} task{'s' if tasks > 1 else ''}"
    if len(ranked) > 1:
        second = ranked[1]["figures"]["last"]
        gap = last["mean"] - second["mean"]
        sentence += f", {show(gap, 'points')} points above {ranked[1]['name']}"
        if last["std"] is None or second["std"] is None:
            sentence += " with one seed, so the order may be chance"
        elif gap <= last["std"] + second["std"]:
            sentence += ", which is within the spread over seeds"
    held = best["figures"]["held_out_loss"]["mean"]
    if held is not None:
        change = "lost" if held >= 0 else "gained"
        sentence += f"; it {change} {show(abs(held), 'points')} points of held-out R@1"
    return f"{sentence}."


def _subject(groups: list[dict[str, Any]], diagnosis: dict[str, Any], advice: dict[str, Any]) -> str:
    """What the report is of."""
    parts = []
    runs = sum(len(recipe["seeds"]) for group in groups for recipe in group["recipes"])
    if runs:
        names = dict.fromkeys(recipe["name"] for group in groups for recipe in group["recipes"])
        parts.append(f"results of {runs} run{'s' if runs > 1 else ''} ({', '.join(names)})")
    protocol = record(diagnosis.get("protocol"))
    if diagnosis:
        seed = text(protocol.get("seed"))
        of = text(protocol.get("recipe")) or "a run"
        parts.append(f"a diagnosis of {of}" + (f", seed {seed}" if seed else ""))
    if advice:
        parts.append("an advice")
    words = "; ".join(parts)
    return f"{words[:1].upper()}{words[1:]}." if words else "Nothing was measured yet."


def _protocols(groups: list[dict[str, Any]], diagnosis: dict[str, Any], advice: dict[str, Any]) -> list[dict[str, Any]]:
    shown = [{"of": f"Results: {g['name']}", "rows": g.pop("protocol"), "settings": g.pop("settings")} for g in groups]
    for name, source in (("Diagnosis", diagnosis), ("Advice", advice)):
        protocol = record(source.get("protocol"))
        if protocol:
            rows = evidence.protocol_rows(protocol)
            # What several seeds have in common is a part of what one run says.
            same = next((p["of"] for p in shown if all(row in rows for row in p["rows"])), None)
            if same:
                name, rows = f"{name}: the protocol of {same[:1].lower()}{same[1:]}", []
            own = [{"name": k, "value": text(protocol[k])} for k in ("recipe", "seed") if k in protocol]
            shown.append({"of": name, "rows": own + rows, "settings": []})
    return shown


def _ledgers(groups: list[dict[str, Any]], advice: dict[str, Any]) -> list[dict[str, Any]]:
    """What the advice measured; without one what the runs did, a table per protocol."""
    named = [("pilots of the advice", record(advice.get("ledger")))]
    named += [(f"first seed of each recipe: {group['name']}", group.pop("ledgers")) for group in groups]
    found = [{"of": of, **table} for of, entries in named if (table := proposal.ledger(entries))]
    return found[:1] if advice.get("ledger") else found


def _versions(
    results: Sequence[ResultEntry], diagnosis: dict[str, Any], advice: dict[str, Any]
) -> list[dict[str, Any]]:
    """Versions behind the figures; one package with two versions is listed twice."""
    found: dict[tuple[str, str], None] = {("avalanche-vlm, this report", __version__): None}
    sources = [record(entry["result"]["protocol"]) for entry in results]
    for given in (diagnosis, advice):
        sources += [given, record(given.get("protocol"))]
    for source in sources:
        found |= {(name, text(v)): None for name, v in record(source.get("versions")).items()}
    return [{"name": name, "version": version} for name, version in found]


def _other_scripts(groups: list[dict[str, Any]]) -> bool:
    """Whether some tasks or classes have names in other letters than Latin ones, for which fonts differ."""
    names = [name for group in groups for name in group["tasks"]]
    names += [row["class"] for group in groups for row in group["weakest"]]
    names += [name for view in _shown(groups) if view["confusions"] for name in view["confusions"]["classes"]]
    return any(letter.isalpha() and ord(letter) > _LATIN for name in names for letter in name)


def _shown(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every run whose answers and features are shown."""
    return [of for group in groups for of in group["views"]["shown"]]


def _missing(found: dict[str, Any]) -> dict[str, dict[str, str]]:
    several = sum(len(recipe["seeds"]) for group in found["groups"] for recipe in group["recipes"]) > 1
    needed = {
        **dict.fromkeys(("exposures", "attribution", "modules", "curves"), _DIAGNOSE_ONE if several else _DIAGNOSE),
        "matrices": _RUN,
        **dict.fromkeys(("changes", "map", "timeline"), _WATCHED),
        **dict.fromkeys(("pareto", "plan", "ledger"), _ADVISE),
    }
    groups = found["groups"]
    held_out = any(group["held_out"] for group in groups)
    shown = _shown(groups)
    there = {
        "curves": held_out or found["drift"] or found["erosion"],
        "matrices": groups,
        "changes": any(of["total"] for of in shown),
        "map": any(of["map"] for of in shown),
        "timeline": any(group["views"]["timelines"] for group in groups),
        "pareto": found["paretos"],
        "ledger": found["ledgers"],
    }
    absent = {name: pair for name, pair in needed.items() if not (there[name] if name in there else found[name])}
    return {name: {"command": command, "sentence": sentence} for name, (command, sentence) in absent.items()}
