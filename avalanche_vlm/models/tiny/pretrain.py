"""Pretrain the tiny CLIP on the clean picturebook: ``python -m avalanche_vlm.models.tiny.pretrain --out DIR``.

Every step draws fresh pictures with captions that mention all or part of what they show, and minimises CLIP's symmetric
contrastive loss in which every picture that a caption is true of counts as its positive. Scenes come in groups of four
that differ in one attribute: without such near misses, colours and places alone tell captions apart, and the model never
learns to read letters. Held-out combinations are never drawn.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from avalanche_vlm.benchmarks.picturebook import captions, render, scenes
from avalanche_vlm.losses.contrastive import matched_contrastive
from avalanche_vlm.models.tiny import MEAN, STD, build_tiny

NOISE = 0.03
"""Standard deviation of the pixel noise in pretraining pictures, channels in [0, 1]."""


GROUP = 4
"""Scenes that share all attributes but one."""


def draw_scenes(rng: np.random.Generator, n: int) -> scenes.Scenes:
    """``n`` scenes in groups of near misses; ``n`` is a multiple of :data:`GROUP`."""
    bases = scenes.sample_scenes(rng, n // GROUP)
    repeated = bases[np.repeat(np.arange(len(bases)), GROUP)]
    fresh = scenes.sample_scenes(rng, n)
    # The object is the hardest to see, then the pattern; glyphs are always plain, so theirs cannot change.
    changed = np.repeat(rng.choice(3, len(bases), p=(0.6, 0.3, 0.1)), GROUP)
    columns = {}
    for name in scenes.CARDINALITY:
        change = {"object": changed == 0, "pattern": changed == 1}.get(name, changed == 2)
        columns[name] = np.where(change, getattr(fresh, name), getattr(repeated, name))
    mixed = scenes.Scenes(**columns)
    columns["pattern"] = np.where(mixed.is_glyph, 0, mixed.pattern)
    mixed = scenes.Scenes(**columns)
    return scenes.Scenes(
        **{name: np.where(mixed.held_out, getattr(fresh, name), getattr(mixed, name)) for name in scenes.CARDINALITY}
    )


def batches(seed: int, steps: int, batch_size: int) -> Iterator[tuple[torch.Tensor, list[str], torch.Tensor]]:
    """Normalised pictures ``[B, 3, 32, 32]``, their captions, and which picture (row) each caption is true of."""
    rng = np.random.default_rng(seed)
    jitter = render.Jitter(angle=0.2, tint=0.06)
    for _ in range(steps):
        drawn = draw_scenes(rng, batch_size)
        pictures = render.render(drawn, rng, jitter)
        pictures += rng.normal(0, NOISE, pictures.shape).astype(np.float32)
        mentions = captions.random_mentions(rng, batch_size)
        texts = captions.caption(drawn, mentions, rng.integers(0, len(captions.INTROS), batch_size))
        yield normalise(render.to_uint8(pictures)), texts, torch.from_numpy(captions.true_of(drawn, mentions))


def normalise(pictures: np.ndarray) -> torch.Tensor:
    """Uint8 ``[N, 3, H, W]`` to the model's input range."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (torch.from_numpy(pictures).float() / 255 - mean) / std


PROMPTS = {
    "object": "a {}",
    "colour": "a {} shape",
    "ground": "a shape on a {} ground",
    "pattern": "a {} shape",
    "size": "a {} shape",
    "position": "a shape {}",
}


@torch.no_grad()
def held_out_scores(model, tokenizer, n: int = 1000) -> dict[str, float]:
    """In percent: recall@1 both ways among ``n`` held-out scenes with full captions, zero-shot accuracy per attribute."""
    rng = np.random.default_rng(0)
    drawn = scenes.distinct_scenes(rng, n, held_out=True)
    model.eval()
    image = model.encode_image(normalise(render.to_uint8(render.render(drawn, rng))), normalize=True)
    similarity = image @ model.encode_text(tokenizer(captions.caption(drawn)), normalize=True).T
    right = torch.arange(n)
    hits = {"image_to_text_r1": similarity.argmax(1) == right, "text_to_image_r1": similarity.argmax(0) == right}
    for name, prompt in PROMPTS.items():
        classes = model.encode_text(tokenizer([prompt.format(c) for c in scenes.NAMES[name]]), normalize=True)
        hits[name] = (image @ classes.T).argmax(1) == torch.from_numpy(getattr(drawn, name))
    model.train()
    return {name: round(100 * hit.float().mean().item(), 1) for name, hit in hits.items()}


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
    for step, (image, texts, matches) in enumerate(batches(seed + 1, steps, batch_size), start=1):
        rate = lr * min(step / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        distinct, y = np.unique(texts, return_inverse=True)
        tokens = tokenizer(list(distinct))
        text = model.encode_text(tokens, normalize=True)[torch.from_numpy(y)]
        logits = model.logit_scale.exp() * model.encode_image(image, normalize=True) @ text.T
        loss = matched_contrastive(logits, matches)
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3600)
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
