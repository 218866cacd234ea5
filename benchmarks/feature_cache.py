"""What it saves to encode every image once: ten epochs of a linear and of an analytic head on a frozen tower.

    python benchmarks/feature_cache.py
    python benchmarks/feature_cache.py --model ViT-B-32 --images 64 --rounds 1 --hidden 1024

Three ways to the same head: without a cache every epoch loads and encodes all images; with a cold one the first epoch
does, hashes and writes; with a warm one, in which another run has left the features, the first epoch loads and hashes,
and none encodes. An epoch of the analytic head takes the whole experience into its recursion once more. Rounds are
interleaved. Seconds are of processor time on one thread, so a slow disk is not in them. Weights of open_clip models
are random here, which changes no time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.models.feature_cache import FeatureCache
from avalanche_vlm.models.heads.analytic import RecursiveRidge
from avalanche_vlm.training.data import experience_batches

WAYS = ("without", "cold", "warm")
Epoch = Callable[[], tuple[torch.Tensor, torch.Tensor]]


def linear_head(epoch: Epoch, epochs: int, classes: int) -> torch.Tensor:
    """Weights ``[D, classes]`` of a linear probe: AdamW on minibatches of 64."""
    generator, weights, optimizer = torch.Generator().manual_seed(0), None, None
    for _ in range(epochs):
        features, y = epoch()
        if weights is None:
            weights = torch.zeros(features.shape[1], classes, requires_grad=True)
            optimizer = torch.optim.AdamW([weights], lr=0.01)
        for rows in torch.randperm(len(y), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(100 * features[rows] @ weights, y[rows]).backward()
            optimizer.step()
    return weights.detach()


def analytic_head(epoch: Epoch, epochs: int, hidden: int) -> torch.Tensor:
    """Weights ``[hidden, classes]`` of recursive least squares that saw everything ``epochs`` times."""
    head = RecursiveRidge(hidden)
    for _ in range(epochs):
        head.fit(*epoch())
    return head.weights


def epoch_of(model: VLM, experience: Any, cache: FeatureCache | None) -> Epoch:
    """Features and labels of the experience, encoded at every call or looked up."""
    strategy = SimpleNamespace(experience=experience, device=model.device)

    def encoded() -> tuple[torch.Tensor, torch.Tensor]:
        with model.evaluating():
            parts = [(model.encode_image_plain(x), y) for x, y, _ in experience_batches(strategy)]
        return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    def cached() -> tuple[torch.Tensor, torch.Tensor]:
        columns = cache.experience(model, experience, lambda: experience_batches(strategy))
        return columns["features"], columns["y"]

    return encoded if cache is None else cached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="No loggers specified")
    torch.manual_seed(0)
    model = create_vlm(options.model, freeze=("image", "text", "scale"))
    benchmark = picturebook.mtil_like(
        0,
        n_train=options.images,
        n_test=8,
        n_held_out=8,
        n_reference=8,
        order=["sketches"],
        train_transform=model.transforms.train,
        eval_transform=model.transforms.eval,
        tokenizer=model.tokenizer,
    )
    experience, classes = benchmark.train_stream[0], len(benchmark.label_space)
    heads: dict[str, Callable[[Epoch], torch.Tensor]] = {
        "linear": lambda epoch: linear_head(epoch, options.epochs, classes),
        f"analytic, {options.hidden} random features": lambda epoch: analytic_head(
            epoch, options.epochs, options.hidden
        ),
    }
    once = epoch_of(model, experience, None)
    columns = once()
    seconds: dict[tuple[str, str], list[float]] = {}
    alone: dict[str, list[float]] = {}
    furthest = dict.fromkeys(heads, 0.0)
    for _ in range(options.rounds):
        for name, train in heads.items():
            with tempfile.TemporaryDirectory() as folder:
                found = {}
                for way in WAYS:
                    cache = None if way == "without" else FeatureCache(folder)
                    started = time.process_time()
                    found[way] = train(epoch_of(model, experience, cache))
                    seconds.setdefault((name, way), []).append(time.process_time() - started)
            furthest[name] = max([furthest[name], *((found[w] - found["without"]).abs().max().item() for w in WAYS)])
            started = time.process_time()
            train(lambda: columns)
            alone.setdefault(name, []).append(time.process_time() - started)
    print(f"{model.name}, {options.images} images, {options.epochs} epochs, median of {options.rounds}\n")
    print("| head | without | cold | warm | head alone | ratio cold | ratio warm | largest difference of weights |")
    print("|---|---|---|---|---|---|---|---|")
    for name in heads:
        without, cold, warm = (statistics.median(seconds[name, way]) for way in WAYS)
        print(
            f"| {name} | {without:.2f} s | {cold:.2f} s | {warm:.2f} s | {statistics.median(alone[name]):.2f} s | "
            f"{without / cold:.1f} | {without / warm:.1f} | {furthest[name]:.1e} |"
        )


if __name__ == "__main__":
    main()
