"""Pretrain the tiny CLIP on the clean picturebook: ``python -m avalanche_vlm.models.tiny.pretrain --out DIR``.

Every step draws fresh pictures with captions that mention all or part of what they show. The loss is CLIP's symmetric
contrastive loss, in which every picture that a caption is true of counts as its positive, plus per attribute the
cross-entropy of zero-shot classification over its prompts: colours and places alone tell most captions of a batch
apart, and without the second part a model of this size never learns to read letters. Held-out combinations are never
drawn.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from avalanche_vlm.benchmarks.picturebook import captions, render, scenes
from avalanche_vlm.losses.contrastive import matched_contrastive
from avalanche_vlm.models.tiny.shipped import MEAN, STD, build_tiny

if TYPE_CHECKING:
    from open_clip.model import CLIP

    from avalanche_vlm.benchmarks.picturebook.tokenizer import WordTokenizer

NOISE = 0.03
"""Standard deviation of the pixel noise in pretraining pictures, channels in [0, 1]."""


PROMPTS = {
    "object": "a {}",
    "colour": "a {} shape",
    "ground": "a shape on a {} ground",
    "pattern": "a {} shape",
    "size": "a {} shape",
    "position": "a shape {}",
}
PROMPT_WEIGHT = 0.3


@dataclass(frozen=True)
class PretrainingBatch:
    """What one step learns from.

    :param images: ``[B, 3, 32, 32]``, normalised.
    :param texts: captions, one of each picture.
    :param matches: bool ``[B, B]``: picture (row) that each caption (column) is true of.
    :param attributes: index of the value in every picture ``[B]``, by attribute.
    """

    images: torch.Tensor
    texts: list[str]
    matches: torch.Tensor
    attributes: dict[str, torch.Tensor]


def batches(seed: int, steps: int, batch_size: int) -> Iterator[PretrainingBatch]:
    """Fresh pictures for every step."""
    rng = np.random.default_rng(seed)
    jitter = render.Jitter(angle=0.2, tint=0.06)
    for _ in range(steps):
        drawn = scenes.sample_scenes(rng, batch_size)
        pictures = render.render(drawn, rng, jitter)
        pictures += rng.normal(0, NOISE, pictures.shape).astype(np.float32)
        mentions = captions.random_mentions(rng, batch_size)
        yield PretrainingBatch(
            normalise(render.to_uint8(pictures)),
            captions.caption(drawn, mentions, rng.integers(0, len(captions.INTROS), batch_size)),
            torch.from_numpy(captions.true_of(drawn, mentions)),
            {name: torch.from_numpy(getattr(drawn, name)) for name in PROMPTS},
        )


def loss_of(model: CLIP, tokenizer: WordTokenizer, batch: PretrainingBatch, intro: str) -> torch.Tensor:
    """The contrastive loss and the weighted mean of the attributes' cross-entropies.

    :param intro: words that begin this step's class prompts.
    """
    prompts = [f"{intro} {p.format(c)}".strip() for name, p in PROMPTS.items() for c in scenes.NAMES[name]]
    distinct, index = np.unique(batch.texts, return_inverse=True)
    text = model.encode_text(tokenizer([*distinct, *prompts]), normalize=True)
    image = model.encode_image(batch.images, normalize=True)
    logits = model.logit_scale.exp() * image @ text.T
    loss = matched_contrastive(logits[:, torch.from_numpy(index)], batch.matches)
    by_attribute = logits[:, len(distinct) :].split([len(scenes.NAMES[name]) for name in PROMPTS], dim=1)
    for scores, y in zip(by_attribute, batch.attributes.values(), strict=True):
        loss = loss + PROMPT_WEIGHT * F.cross_entropy(scores, y)
    return loss


def normalise(pictures: np.ndarray) -> torch.Tensor:
    """Uint8 ``[N, 3, H, W]`` to the model's input range."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (torch.from_numpy(pictures).float() / 255 - mean) / std


@torch.no_grad()
def held_out_scores(model: CLIP, tokenizer: WordTokenizer, n: int = 1000) -> dict[str, float]:
    """In percent: recall@1 both ways among ``n`` held-out full captions, and zero-shot accuracy per attribute."""
    rng = np.random.default_rng(0)
    drawn = scenes.distinct_scenes(rng, n, held_out=True)
    model.eval()
    image = model.encode_image(normalise(render.to_uint8(render.render(drawn, rng))), normalize=True)
    similarity = image @ model.encode_text(tokenizer(captions.caption(drawn)), normalize=True).T
    right = torch.arange(n)
    hits = {"image_to_text_r1": hit(similarity, right), "text_to_image_r1": hit(similarity.T, right)}
    for name, prompt in PROMPTS.items():
        classes = model.encode_text(tokenizer([prompt.format(c) for c in scenes.NAMES[name]]), normalize=True)
        hits[name] = hit(image @ classes.T, torch.from_numpy(getattr(drawn, name)))
    model.train()
    return {name: round(100 * of.mean().item(), 1) for name, of in hits.items()}


def hit(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How right each answer is: 1 / n where the true one is among the n best, 0 elsewhere.

    >>> hit(torch.tensor([[1.0, 3.0], [2.0, 2.0], [0.0, 1.0]]), torch.tensor([1, 0, 0])).tolist()
    [1.0, 0.5, 0.0]
    """
    best = scores == scores.amax(1, keepdim=True)
    return best.gather(1, y[:, None]).squeeze(1) / best.sum(1)


def pretrain(out: Path, *, steps: int, batch_size: int, lr: float, warmup: int, seed: int) -> dict[str, float]:
    """Train from scratch and write ``model.safetensors`` and ``pretrain.json`` to ``out``."""
    torch.manual_seed(seed)
    model, tokenizer = build_tiny()
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.98)
    )
    started = time.perf_counter()
    intros = np.random.default_rng(seed + 2).choice(captions.INTROS, steps)
    for step, batch in enumerate(batches(seed + 1, steps, batch_size), start=1):
        rate = lr * min(step / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(model, tokenizer, batch, str(intros[step - 1]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if step % 200 == 0 or step == steps:
            scores = held_out_scores(model, tokenizer)
            seconds = time.perf_counter() - started
            shown = ", ".join(f"{name} {value:.1f}" for name, value in scores.items())
            print(f"step {step}/{steps}  {seconds:.0f} s  loss {loss.item():.3f}  {shown}", flush=True)
            out.mkdir(parents=True, exist_ok=True)
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / "model.safetensors")
    summary = dict(steps=steps, batch_size=batch_size, lr=lr, seed=seed, seconds=round(seconds), **scores)
    (out / "pretrain.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def main() -> None:
    """Train with the settings of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = vars(parser.parse_args())
    torch.set_num_threads(arguments.pop("threads"))
    pretrain(**arguments)


if __name__ == "__main__":
    main()
