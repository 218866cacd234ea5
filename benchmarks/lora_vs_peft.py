"""LoRA and DoRA of this library beside peft's on the same image tower, whose attention is unfused for peft.

    python benchmarks/lora_vs_peft.py --threads 1

Both start from one file, at the same rank, on all projections of attention and both layers of the MLP. Their outputs
and gradients are compared, then training steps (forward, backward, AdamW on the modules) are timed in turn, so that
what else the machine does falls on both alike. Peak memory is that of processes which each take a few steps of one
kind: on a CPU what the resident set grew by (Linux), on a GPU what torch allocated.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import peft
import torch
from apart import run_all
from open_clip.model import CLIP
from resident import peak_above
from torch import nn

from avalanche_vlm.models.factory import from_open_clip
from avalanche_vlm.models.modules.dora import DoRA
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.low_rank import LowRank
from avalanche_vlm.models.modules.peft_files import export_peft
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import named

TOWERS = {
    "small": (16, {"image_size": 64, "patch_size": 8, "width": 256, "layers": 4, "head_width": 64}),
    "ViT-B/16, 2 blocks": (8, {"image_size": 224, "patch_size": 16, "width": 768, "layers": 2, "head_width": 64}),
}
"""Batch and tower. Blocks are alike: two of ViT-B/16's twelve say what twelve would."""

KINDS = {"LoRA": LowRank, "DoRA": DoRA}
TEXT = {"context_length": 8, "vocab_size": 16, "width": 64, "heads": 1, "layers": 1}


class Unfused(nn.Module):
    """Self-attention as linear layers, each projection by itself."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = attention.num_heads
        width = attention.embed_dim
        parts = zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
        for name, (weight, bias) in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
            linear = nn.Linear(width, width)
            linear.weight, linear.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
            setattr(self, name, linear)
        self.out_proj = nn.Linear(width, width)
        self.out_proj.load_state_dict(attention.out_proj.state_dict())

    def forward(self, query, key, value, need_weights=False, attn_mask=None):
        batch, length, width = query.shape
        q, k, v = (
            layer(x).view(batch, length, self.heads, -1).transpose(1, 2)
            for layer, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(y.transpose(1, 2).reshape(batch, length, width)), None


class Side:
    """An image tower with trainable modules, and its training step."""

    def __init__(self, tower: nn.Module, images: torch.Tensor) -> None:
        self.tower, self.images = tower.train(), images
        self.parameters = {name: p for name, p in tower.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=1e-4)

    def backward(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        features = self.tower(self.images)
        features.square().sum().backward()
        return features.detach()

    def step(self) -> None:
        self.backward()
        self.optimizer.step()


def sides(tower: str, kind: str, rank: int, device: str) -> tuple[Side, Side]:
    """Ours and peft's, from one file."""
    torch.manual_seed(0)
    batch, vision = TOWERS[tower]
    clip = CLIP(64, vision, TEXT).to(device).requires_grad_(False)
    images = torch.randn(batch, 3, vision["image_size"], vision["image_size"], device=device)
    unfused = copy.deepcopy(clip)
    for block in unfused.visual.transformer.resblocks:
        block.attn = Unfused(block.attn).to(device)
    unfused.requires_grad_(False)
    size = vision["image_size"]
    model = from_open_clip(clip, lambda texts: torch.zeros(len(texts), 8), image_size=size, mean=[0] * 3, std=[1] * 3)
    pool = ModulePool(named("image", inject_lora(clip.visual, make=partial(KINDS[kind], rank=rank, alpha=2 * rank))))
    pool.add("m")
    for parameter in pool.parameters("m"):
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    with tempfile.TemporaryDirectory() as folder:
        export_peft(model, pool, "m", folder)
        adapted = peft.PeftModel.from_pretrained(unfused, folder, is_trainable=True)
    return Side(clip.visual, images), Side(adapted.base_model.model.visual, images)


def by_layer(side: Side) -> dict[tuple[str, str], torch.Tensor]:
    """Gradients by layer and tensor, under the names that both have in common."""
    found = {}
    for name, parameter in side.parameters.items():
        if "lora_" in name:
            layer, _, tensor = name.partition(".lora_")
            found[layer, tensor.split(".")[0].replace("magnitude_vector", "magnitude")] = parameter.grad
        else:
            layer, _, part = name.replace(".bank.m", "").partition(".weight.")
            if not part:
                layer, part, tensor = name.replace(".bank.m", "").rsplit(".", 2)
                layer, part = f"{layer}.{part}_proj", tensor
            found[layer, part] = parameter.grad
    return found


def compare(tower: str, kind: str, rounds: int, rank: int, device: str) -> None:
    """Print how far outputs and gradients are apart, and how long steps take."""
    ours, theirs = sides(tower, kind, rank, device)
    a, b = ours.backward(), theirs.backward()
    mine, other = by_layer(ours), by_layer(theirs)
    assert mine.keys() == other.keys()
    gradients = max(float((mine[k] - other[k]).abs().max() / other[k].abs().max()) for k in mine)
    outputs = float((a - b).abs().max() / b.abs().max())
    print(
        f"{kind}, {tower}: largest difference of outputs {outputs:.1e}, of the gradients of {len(mine)} tensors "
        f"{gradients:.1e}, relative to the largest element"
    )
    ours.step(), theirs.step()
    pairs = [(timed(ours.step), timed(theirs.step)) for _ in range(rounds)]
    first, second = (1000 * statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(x / y for x, y in pairs)
    print(
        f"{kind}, {tower}: step of ours {first:.1f} ms, of peft {second:.1f} ms, ratio median "
        f"{statistics.median(ratios):.3f} (min {ratios[0]:.3f}, max {ratios[-1]:.3f}, {rounds} pairs)"
    )


def timed(function) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak(who: str, tower: str, kind: str, rank: int, device: str) -> float:
    """MB that three training steps need at most, beyond what is there before."""
    side = sides(tower, kind, rank, device)[0 if who == "ours" else 1]
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            side.step()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with peak_above() as memory:
        for _ in range(3):
            side.step()
    return memory[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(peak(*json.loads(arguments.one))))
        return
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else platform.processor() or platform.machine()
    print(
        f"{arguments.threads} thread(s), {name}, torch {torch.__version__}, peft {peft.__version__}, rank "
        f"{arguments.rank}"
    )
    for tower in TOWERS:
        for kind in KINDS:
            compare(tower, kind, arguments.rounds, arguments.rank, arguments.device)
    # Large tensors in pages of their own, which go back as soon as they are freed.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    with tempfile.TemporaryDirectory() as folder:
        for tower in TOWERS:
            for kind in KINDS:
                jobs = {
                    Path(folder, f"{kind}{len(tower)}{who}"): (who, tower, kind, arguments.rank, arguments.device)
                    for who in ("ours", "peft")
                }
                ours, theirs = run_all(__file__, jobs, 1, environment)
                print(
                    f"{kind}, {tower}: peak of ours {ours:.1f} MB, of peft {theirs:.1f} MB, ratio {ours / theirs:.3f}"
                )


if __name__ == "__main__":
    main()
