"""What sets two versions of a model apart: answers, features, weights, bytes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from avalanche_vlm._generators import generators_kept
from avalanche_vlm.artifacts import open_saved
from avalanche_vlm.artifacts.layout import VERSIONS
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.evaluation.paired import paired_loss
from avalanche_vlm.evaluation.probes.similarity import linear_cka
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.bank import named_weights
from avalanche_vlm.studies.living.answers import SampleAnswers, TestSet, answers_of
from avalanche_vlm.studies.living.kept import file_name, kept_sets
from avalanche_vlm.studies.living.records import Kept, read_record

Difference = dict[str, Any]

_LEAST_FOR_CKA = 4


def difference_of(
    folder: str | Path,
    first: str,
    second: str,
    *,
    examples: int = 10,
    pictures: str | Path | None = None,
    device: str | torch.device = "cpu",
    base: VLM | None = None,
) -> Difference:
    """Compare two versions on the test samples that were kept.

    :param folder: the folder that they were saved to.
    :param first: name of the version that is compared with.
    :param second: name of the version that is compared.
    :param examples: most samples of each set that are listed of those whose answer changed.
    :param pictures: folder that the pictures of these are written to, as PNG; None for none.
    :param device: where the models live.
    :param base: the models' base, for one that was built by the user's own hands.
    :return: plain JSON types: ``versions``; ``sets``, of each experience and held-out set both scores in percent, the
        difference with its interval, how far features moved, classes and examples that changed; ``weights``; ``bytes``.
    :raises InputError: if there is no such version, or it or its test samples cannot be read.
    """
    folder = Path(folder)
    records = [read_record(folder, version) for version in (first, second)]
    saved = [open_saved(folder / VERSIONS / version) for version in (first, second)]
    models = [of.model(device=device, base=copy.deepcopy(base)) for of in saved]  # a base becomes the model
    transform = models[1].transforms.eval
    learned = _joined([record.experiences for record in records])
    aside = _joined([record.held_out for record in records])
    found = []
    with generators_kept(models[1].device):
        for role, group in (("experience", learned), ("held-out", aside)):
            for kept in group:
                asked = next(iter(kept_sets(folder, [kept], transform)), None)
                entry: Difference = {"name": kept.name, "role": role, "samples": kept.samples}
                if asked is None:
                    found.append(entry)
                    continue
                before, after = (answers_of(model, asked) for model in _able(models, kept, records[0].experiences))
                entry |= _compared(models[1], asked, before, after)
                entry["examples"] = list(_examples(models[1], asked, before, after, examples))
                if pictures is not None:
                    _write_pictures(Path(pictures), asked, entry)
                found.append(entry)
    return {
        "versions": [first, second],
        "recipes": [record.recipe for record in records],
        "parents": [record.parent for record in records],
        "sets": found,
        "weights": _moved(*models),
        "bytes": [record.bytes for record in records],
    }


def _joined(groups: Sequence[Sequence[Kept]]) -> list[Kept]:
    """What either version has, each once; where one has kept samples, these."""
    found: dict[str, Kept] = {}
    for kept in (of for group in groups for of in group):
        key = kept.file or kept.name
        found.setdefault(key, kept)
    named = {of.name for of in found.values() if of.file is not None}
    return [of for of in found.values() if of.file is not None or of.name not in named]


def _able(models: Sequence[VLM], kept: Kept, of_first: Sequence[Kept]) -> Sequence[VLM]:
    """Both models with words for the classes of a set: the first has none for what came after it, where its label space
    is the beginning of the second's."""
    first, second = models
    if kept in of_first or first.label_space is None or second.label_space is None:
        return models
    if first.label_space.begins(second.label_space) and first.label_space != second.label_space:
        first.grow_label_space(second.label_space)
    return models


def _compared(model: VLM, asked: TestSet, before: SampleAnswers, after: SampleAnswers) -> Difference:
    loss = paired_loss(before.right.tolist(), after.right.tolist(), independent=before.independent)
    percent = {name: round(100 * value, 4) for name, value in
               (("first", before.score), ("second", after.score), ("change", -loss.value),
                ("low", -loss.high), ("high", -loss.low))}  # fmt: skip
    drift = {"image cosine": _cosine(before.features, after.features)}
    if len(before.features) >= _LEAST_FOR_CKA:
        drift["image CKA"] = linear_cka(after.features, before.features, debiased=True)
    if before.texts is not None and after.texts is not None:
        drift["text cosine"] = _cosine(before.texts, after.texts)
        drift["pair cosine before"] = _cosine(before.features, before.texts)
        drift["pair cosine after"] = _cosine(after.features, after.texts)
    return {
        **percent,
        "drift": {name: round(value, 6) for name, value in drift.items()},
        "classes": _classes(_names(model, asked), before, after),
    }


def _classes(names: Sequence[str], before: SampleAnswers, after: SampleAnswers) -> list[Difference]:
    """Classes whose accuracy changed, the greatest loss first."""
    if before.texts is not None:
        return []
    found = []
    for y in before.y.unique().tolist():
        rows = before.y == y
        scores = [round(100 * float(of.right[rows].mean()), 4) for of in (before, after)]
        if scores[0] != scores[1]:
            of = {"class": names[y], "samples": int(rows.sum()), "first": scores[0], "second": scores[1]}
            found.append({**of, "change": round(scores[1] - scores[0], 4)})
    return sorted(found, key=lambda of: of["change"])


def _examples(
    model: VLM, asked: TestSet, before: SampleAnswers, after: SampleAnswers, most: int
) -> Iterator[Difference]:
    """Samples whose answer changed: right ones that are wrong now come first."""
    names = _names(model, asked)
    pairs = before.texts is not None
    changed = before.right != after.right if pairs else before.chosen != after.chosen
    rows = changed.nonzero().squeeze(1)
    worse = (after.right - before.right)[rows].argsort(stable=True)
    for row in rows[worse][:most].tolist():
        entry: Difference = {"sample": row}
        if pairs:
            entry |= {"first": float(before.right[row]), "second": float(after.right[row])}
        else:
            said = {"true": before.y, "first": before.chosen, "second": after.chosen}
            entry |= {which: names[int(of[row])] for which, of in said.items()}
        yield entry


def _names(model: VLM, asked: TestSet) -> Sequence[str]:
    space = asked.label_space or model.label_space
    return () if space is None else space.class_names


def _write_pictures(folder: Path, asked: TestSet, entry: Difference) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for example in entry["examples"]:
        x = asked.dataset[example["sample"]][0]
        pixels = getattr(asked.dataset, "transform").to_uint8(x.image if isinstance(x, ImageText) else x)  # noqa: B009
        path = folder / f"{file_name(entry['name'])}-{example['sample']}.png"
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
        example["picture"] = str(path)


def _moved(first: VLM, second: VLM) -> Difference:
    """How much of the towers changed: shares of the parameters, and the length of the change against what was there."""
    before, after = (dict(named_weights(model.clip)) for model in (first, second))
    both = [name for name in before.keys() & after.keys() if before[name].shape == after[name].shape]
    changed = [name for name in both if not torch.equal(before[name], after[name])]
    length = sum(float((after[n] - before[n]).detach().double().square().sum()) for n in changed) ** 0.5
    there = sum(float(before[n].detach().double().square().sum()) for n in both) ** 0.5
    return {
        "parameters": sum(p.numel() for p in after.values()),
        "changed": sum(after[name].numel() for name in changed),
        "added": sum(after[name].numel() for name in after.keys() - before.keys()),
        "relative change": round(length / there, 6) if there else None,
    }


def _cosine(before: torch.Tensor, after: torch.Tensor) -> float:
    return float((before.double() * after.double()).sum(1).mean())


def told(difference: Mapping[str, Any]) -> list[str]:
    """A difference in lines of text.

    :param difference: what :func:`difference_of` gave.
    """
    first, second = difference["versions"]
    lines = [f"{first} ({difference['recipes'][0]}) and {second} ({difference['recipes'][1]})"]
    for of in difference["sets"]:
        if "first" not in of:
            lines.append(f"{of['name']} ({of['role']}): no test samples were kept")
            continue
        lines.append(
            f"{of['name']} ({of['role']}, {of['samples']} samples): {of['first']:.1f} and {of['second']:.1f} %, change "
            f"{round(of['change'], 1) + 0.0:+.1f} points (95 % interval {of['low']:+.1f} to {of['high']:+.1f}); "
            + ", ".join(f"{name} {value:.3f}" for name, value in of["drift"].items())
        )
        if of["classes"]:
            changes = ", ".join(f"{c['class']} {c['change']:+.0f}" for c in of["classes"][:6])
            more = f" and {len(of['classes']) - 6} more" if len(of["classes"]) > 6 else ""
            lines.append(f"  classes: {changes}{more}")
        for example in of["examples"][:3]:
            said = f"  sample {example['sample']}: {example['first']} before, {example['second']} now"
            lines.append(said + (f", is {example['true']}" if "true" in example else ""))
    weights = difference["weights"]
    share = 100 * weights["changed"] / max(1, weights["parameters"])
    lines.append(
        f"weights: {share:.1f} % of {weights['parameters']:,} parameters changed, by {weights['relative change']} of "
        f"their length; {weights['added']:,} added"
    )
    lines.append(f"bytes on disk: {difference['bytes'][0]:,} and {difference['bytes'][1]:,}")
    return lines
