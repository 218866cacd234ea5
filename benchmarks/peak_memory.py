"""The most memory that two tasks of a recipe take, in units of the model's bytes.

    python benchmarks/peak_memory.py --out runs/peak    # again to go on

A process per recipe: the resident memory above what there was before the model, at its highest while two tasks of two
steps are trained. The model is a CLIP with random weights, mostly embeddings, so that the activations of a small batch
are few beside the weights. The floor is 4: weights, gradient, and AdamW's two moments.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from apart import run_all
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from resident import peak_above
from step import NEEDS_REFERENCE, random_model, reference_of, two_tasks

from avalanche_vlm.models import VLM
from avalanche_vlm.models.factory import from_open_clip
from avalanche_vlm.training import VLMNaive, recipes
from avalanche_vlm.training.criteria import criterion_for
from avalanche_vlm.weights.fused import can_be_fused

RECIPES = ("fine-tune", "lwf", "magmax", "ewc-clip", "ties", "zscl", "gift", "snd", "ctp", "wise-ft")
BATCH, CLASSES, STEPS = 4, 4, 2
OPTIONS: dict[str, dict[str, Any]] = {
    "ewc-clip": {"samples": 4},
    "gift": {"n": 8, "batch_size": 4},
    "lwf": {"images": "batch"},
    "snd": {"batch_size": 4},
    "zscl": {"batch_size": 4, "interval": 1},
}
"""Batches as small as the task's, and a running mean that counts after two steps."""


def embedding_heavy() -> VLM:
    """A model of 160 MB, of which 133 MB are the embeddings of tokens."""
    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 16, "width": 256, "layers": 1, "head_width": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 672, "heads": 8, "layers": 1}
    clip = CLIP(256, vision, text)
    model = from_open_clip(clip, SimpleTokenizer(), image_size=32, mean=[0.5] * 3, std=[0.5] * 3, name="heavy")
    return model.unfreeze("image", "text")


def drawn(prompts: Sequence[str], seed: int) -> torch.Tensor:
    """Pictures of nothing, for recipes that have theirs generated."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (len(prompts), 3, 32, 32), dtype=torch.uint8, generator=generator)


def train(recipe: str, model: VLM) -> None:
    """Two tasks of two steps."""
    of_recipe = recipes.get(recipe)
    kind = "classes" if "classes" in of_recipe.kinds else "pairs"
    benchmark = two_tasks(model, kind, CLASSES, STEPS * BATCH)
    if kind == "classes":
        model.set_label_space(benchmark.label_space)
    resources: dict[str, Any] = {"reference": reference_of(model)} if recipe in NEEDS_REFERENCE else {}
    resources |= {"generator": drawn} if recipe == "gift" else {}
    plugins = recipes.build(recipe, model=model, **resources, **OPTIONS.get(recipe, {}))
    trainable = list(model.trainable_parameters().values())
    strategy = VLMNaive(
        model=model,
        optimizer=torch.optim.AdamW(trainable, lr=1e-5, fused=can_be_fused(trainable) or None),
        criterion=criterion_for(kind, model),
        train_mb_size=BATCH,
        plugins=plugins,
        evaluator=None,
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)


def one(recipe: str) -> dict[str, Any]:
    """The peak of one recipe, and the model's bytes, in MB."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    train(recipe, random_model("tiny"))  # what libraries load at their first call is no part of it
    with peak_above() as memory:
        model = embedding_heavy()
        train(recipe, model)
    return {"peak_mb": memory[0], "model_mb": sum(p.nbytes for p in model.parameters()) / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default=",".join(RECIPES), help="names, with commas between them")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/peak"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(**json.loads(options.one))))
        return
    chosen = options.recipes.split(",")
    found = run_all(__file__, {options.out / f"{name}.json": {"recipe": name} for name in chosen}, options.processes)
    print("| recipe | peak, MB | in models |\n|---|---|---|")
    for name, row in zip(chosen, found, strict=True):
        print(f"| `{name}` | {row['peak_mb']:.0f} | {row['peak_mb'] / row['model_mb']:.1f} |")


if __name__ == "__main__":
    sys.exit(main())
