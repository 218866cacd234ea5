"""The content as Markdown: the same sections and figures as tables, for a merge request or a wiki."""

from __future__ import annotations

from typing import Any

from avalanche_vlm.report.page import markdown_views, pipes
from avalanche_vlm.report.page.charts.heatmap import NUMBERED
from avalanche_vlm.report.rounding import MISSING, show, suffix


def as_markdown(content: dict[str, Any]) -> str:
    """The report as text; figures rounded as on the page.

    :param content: what :func:`avalanche_vlm.report.page.content` gave.
    """
    c = content
    answer = c["answer"]
    blocks = [
        f"# Report: {pipes.plain(c['title'])}",
        pipes.plain(c["subject"]),
        "## The answer",
        *map(pipes.plain, answer["sentences"]),
    ]
    if answer["confidence"]:
        blocks.append(f"Confidence: **{pipes.plain(answer['confidence'])}** {pipes.plain(answer['why'] or '')}".strip())
    blocks += markdown_views.told_sides(c)
    nothing = {name for line in c["empty"] for name in line["sections"]}
    for name, part in _PARTS.items():
        blocks.extend([] if name in nothing else part(c))
    blocks += [*markdown_views.told_empty(c), *_background(c)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _exposures(c: dict[str, Any]) -> list[str]:
    rows = [
        [e["name"], show(e["points"], "points"), pipes.between(e), e["reading"], e["measure"]] for e in c["exposures"]
    ]
    heads = ["failure mode", "lost, points", "low to high", "reading", "measure"]
    return ["## What the training broke", pipes.missing(c, "exposures"), pipes.table(heads, rows, {1, 2})]


def _attribution(c: dict[str, Any]) -> list[str]:
    blocks = ["## Which cause explains the loss", pipes.missing(c, "attribution")]
    for a in c["attribution"]:
        verdict = a["verdict"]
        where = f" in {verdict['module']}" if verdict["module"] else ""
        lost = a["lost"]
        rows = [
            [i["name"], i["undoes"], show(i["recovered"], "points"), pipes.between(i), show(i["share"], "share")]
            for i in a["interventions"]
        ]
        left = a["unexplained"]
        rows.append(["nothing of these", "unexplained", show(left["points"], "points"), pipes.between(left), ""])
        named = f"**{pipes.plain(verdict['cause'] + where)}**: {pipes.plain(verdict['sentence'])}"
        blocks += [
            f"### {pipes.plain(a['score'])}",
            named if verdict["cause"] else "",
            f"Measured on {pipes.plain(a['score'])}: {show(a['before'], 'percent')} % {pipes.plain(a['before_is'])}, "
            f"{show(a['trained'], 'percent')} % after the stream: lost {show(lost['points'], 'points')} points "
            f"({pipes.between(lost)}).",
            pipes.table(["undone", "tells of", "recovered, points", "low to high", "of the loss, %"], rows, {2, 3, 4}),
        ]
    return blocks


def _modules(c: dict[str, Any]) -> list[str]:
    blocks = ["## Where in the model", pipes.missing(c, "modules")]
    if c["modules"]:
        m = c["modules"]
        for key, title, kind in (
            ("conflict", "Conflict with earlier tasks (cosine; below 0: against them)", "ratio"),
            ("updates", "Weighted update", "scale"),
        ):
            if m[key]:
                blocks += [
                    f"### {title}",
                    pipes.matrix_table("module", m["blocks"], m["tasks"][: len(m[key][0])], m[key], kind),
                ]
    for a in c["attribution"]:
        rows = [[m["block"], show(m["recovered"], "points"), pipes.between(m)] for m in a["modules"]]
        blocks += [
            f"### Each module put back alone: {pipes.plain(a['score'])}" if rows else "",
            pipes.table(["module", "recovered, points", "low to high"], rows, {1, 2}),
        ]
    if c["drift"] and c["drift"]["layers"]:
        layers = c["drift"]["layers"]
        blocks += [
            "### Layers against the pretrained model (CKA)",
            pipes.matrix_table("layer", layers["names"], layers["steps"], layers["cka"], "ratio"),
        ]
    return blocks


def _performance(c: dict[str, Any]) -> list[str]:
    blocks = ["## What the model can do after each task", pipes.missing(c, "matrices")]
    for g in c["groups"]:
        heads = ["recipe", "seeds", *(col["title"] + suffix(col["kind"]) for col in g["columns"])]
        rows = [
            [
                r["name"],
                ", ".join(r["seeds"]),
                *(pipes.mean(r["figures"][col["key"]], col["kind"]) for col in g["columns"]),
            ]
            for r in g["recipes"]
        ]
        rows += [
            [p["name"], "", *(show(p["figures"].get(col["key"]), col["kind"]) for col in g["columns"])]
            for p in g["published"]["rows"]
        ]
        differs = "; ".join(f"{d['name']}: {d['value'] or 'none'}" for d in g["differs"])
        blocks += [
            f"### {pipes.plain(g['name'])}",
            pipes.plain(differs),
            pipes.table(heads, rows, set(range(1, len(heads)))),
            *map(pipes.plain, g["published"]["sentences"]),
        ]
        for r in g["recipes"]:
            named = f"**{pipes.plain(r['name'])}**: score on each task, %"
            if len(r["matrix"]) * len(g["tasks"]) > NUMBERED:
                blocks.append(f"{named}: {len(r['matrix']):,} rows and {len(g['tasks']):,} columns, in report.json")
                continue
            cells = [
                [pipes.mean({"mean": v, "std": s}, "percent") for v, s in zip(row, spread, strict=True)]
                for row, spread in zip(r["matrix"], r["matrix_std"], strict=True)
            ]
            lines = [[step, *row] for step, row in zip(["pretrained", *g["tasks"]], cells, strict=True)]
            blocks += [named, pipes.table(["after", *g["tasks"]], lines, set(range(1, len(g["tasks"]) + 1)))]
        blocks += _weakest(g["weakest"])
    return blocks


def _weakest(classes: list[dict[str, Any]]) -> list[str]:
    if not classes:
        return []
    rows = [
        [
            k["class"],
            k["task"],
            show(k["samples"], "count"),
            show(k["pretrained"], "percent"),
            show(k["last"], "percent"),
        ]
        for k in classes
    ]
    heads = ["class", "task", "test samples", "pretrained, %", "at the end, %"]
    named = f"**{pipes.plain(classes[0]['recipe'])}**, its first seed: classes that score lowest at the end"
    return [named, pipes.table(heads, rows, {2, 3, 4})]


def _curves(c: dict[str, Any]) -> list[str]:
    blocks = ["## Over the stream", pipes.missing(c, "curves")]
    for g in c["groups"]:
        for h in g["held_out"]:
            blocks += [
                f"### Held-out {pipes.plain(h['name'])}, %",
                pipes.steps(h["lines"], "values", g["tasks"], "percent"),
            ]
    if c["drift"]:
        by_kind = [[d["name"], *(show(v, d["kind"]) for v in d["values"])] for d in c["drift"]["curves"]]
        blocks += ["### Images and texts together", pipes.ragged(c["drift"]["tasks"], by_kind)]
    if c["erosion"]:
        tasks = c["erosion"]["tasks"]
        if c["erosion"]["sets"]:
            blocks += [
                "### Abilities that no task trains: score, %",
                pipes.steps(c["erosion"]["sets"], "score", tasks, "percent"),
            ]
            blocks += [
                "### Calibration error, points",
                pipes.steps(c["erosion"]["sets"], "calibration", tasks, "points"),
            ]
        rows = [
            [k["class"], k["set"], *(show(k[f], "percent") for f in ("before", "after", "lost"))]
            for k in c["erosion"]["classes"]
        ]
        heads = ["class", "set", "pretrained, %", "at the end, %", "lost, points"]
        blocks += ["### Classes that lost most" if rows else "", pipes.table(heads, rows, {2, 3, 4})]
    return blocks


def _pareto(c: dict[str, Any]) -> list[str]:
    blocks = ["## What is gained against what is kept", pipes.missing(c, "pareto")]
    for p in c["paretos"]:
        rows = [
            [
                q["name"],
                show(q["x"], "percent"),
                show(q["y"], p["y_kind"]),
                show(q["bytes"], "bytes"),
                "yes" if q["front"] else "no",
            ]
            for q in p["points"]
        ]
        heads = [
            "recipe",
            f"{p['x']}, %",
            p["y"] + (", %" if p["y_kind"] == "percent" else ", points"),
            "stored",
            "on the front",
        ]
        blocks += [f"### {pipes.plain(p['of'])}", p["rule"], pipes.table(heads, rows, {1, 2, 3})]
    heads = [
        "recipe",
        "score",
        "last, %",
        "low to high",
        "expected on all, %",
        "held-out change, points",
        "stored",
        "seconds",
    ]
    heads += ["operational cost", "test samples", "dropped because"]
    kinds = [("expected", "percent"), ("zero_shot_kept", "points"), ("bytes", "bytes"), ("seconds", "seconds")]
    kinds += [("operational", "count"), ("n_test", "count")]
    for position, r in enumerate(c["rounds"], start=1):
        rows = [
            [
                *(q["recipe"], show(q["score"], "points"), show(q["last"], "percent"), pipes.between(q)),
                *(show(q[name], kind) for name, kind in kinds),
                q["dropped"] or "",
            ]
            for q in r["recipes"]
        ]
        table = pipes.table(heads, rows, set(range(1, 10)))
        blocks += [f"### Round {position}: {show(r['share'], 'share')} % of the data", table]
    return blocks


def _plan(c: dict[str, Any]) -> list[str]:
    blocks = ["## The plan, in stages", pipes.missing(c, "plan")]
    w = c["circumstances"]
    if w:
        asked = ", ".join(w["constraints"])
        minutes = w["minutes"]
        spent = f"Tried for {show(minutes['used'], 'scale')} of {show(minutes['asked'], 'scale')} minutes"
        spent = "Tried" if minutes["used"] is None else spent
        seeds = f", seeds {', '.join(w['seeds'])}" if w["seeds"] else ""
        wishes = f"Asked for: {asked}." if asked else "No constraint was given."
        blocks += [pipes.plain(f"{spent}{seeds}. {wishes}"), *(f"> {pipes.plain(s)}" for s in w["warnings"])]
    for s in c["plan"]:
        brings = "; ".join(f"{b['name']} {pipes.between(b)}" for b in s["brings"])
        brings += f", over {s['over']}" if s["over"] else ""
        brings += f", on {show(s['share'], 'share')} % of the data" if s["share"] is not None else ""
        costs = "; ".join(f"{k['name']} {pipes.value(k['value'], k['kind'])}" for k in s["costs"])
        lines = [("Brings, points", brings), ("Costs", costs), ("Watch", s["watch"]), ("Go on when", s["go_on_when"])]
        told = "\n".join(f"   - {name}: {pipes.plain(words)}" for name, words in lines if words)
        blocks.append(f"{show(s['stage'], 'count')}. **{pipes.plain(s['do'])}**\n{told}")
    if w and w["excluded"]:
        blocks += [
            "### Left out",
            "\n".join(f"- {pipes.plain(e['recipe'])}: {pipes.plain(e['because'])}" for e in w["excluded"]),
        ]
    return blocks


def _costs(c: dict[str, Any]) -> list[str]:
    blocks = ["## What it costs", pipes.missing(c, "ledger")]
    for ledger in c["ledgers"]:
        rows = [[x["title"], *(pipes.value(v, x["kind"]) for v in x["values"])] for x in ledger["lines"]]
        names = ledger["recipes"]
        blocks.append(f"### {pipes.plain(ledger['of'])}")
        blocks.append(pipes.table(["cost", *names], rows, set(range(1, len(names) + 1))))
    return blocks


def _background(c: dict[str, Any]) -> list[str]:
    blocks = ["## Protocol and versions"]
    for p in c["protocols"]:
        blocks += [
            f"### {pipes.plain(p['of'])}",
            pipes.table(["setting", "value"], [[r["name"], r["value"] or "none"] for r in p["rows"]]),
        ]
        blocks.append(pipes.table(["recipe", "settings"], [[s["recipe"], s["settings"]] for s in p["settings"]]))
    blocks.append("Versions: " + pipes.plain(", ".join(f"{v['name']} {v['version']}" for v in c["versions"])))
    rules = "; ".join(f"{kind}: {rule}" for kind, rule in c["rounding"].items())
    words = "\n".join(f"- **{g['term']}**: {g['words']}" for g in c["glossary"])
    return [*blocks, f"Rounding: {rules}. {MISSING}: not available.", "## The words", words]


_PARTS = {
    "exposures": _exposures,
    "attribution": _attribution,
    "modules": _modules,
    "performance": _performance,
    "changes": markdown_views.told_changes,
    "map": markdown_views.told_map,
    "curves": _curves,
    "kept": markdown_views.told_timeline,
    "pareto": _pareto,
    "plan": _plan,
    "costs": _costs,
}
"""Sections by their names on the page (:mod:`~avalanche_vlm.report.page.sections`); the background comes last."""
