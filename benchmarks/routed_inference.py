"""What a prediction through routed modules costs beside the plain model.

    python benchmarks/routed_inference.py --model ViT-B/32 --rounds 5    # or tiny

Processor time of a batch of images that all belong to one task, in units of the plain model's: by two whole passes,
as it would be without anything shared, and as it is; with the task's label, which says which module works; where no
image belongs to a task; and where every image belongs to a task of its own. All in turn, in one process with one
thread, texts known. Modules are in all blocks or in the upper half of them, at several numbers of tasks. A router's
distances are computed, and what it says of them is put in by hand, since random images belong nowhere.

The last table is the evaluation of one task's images right after a training, when no text is known, and again.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.benchmarks.label_space import PHOTO, join_tasks
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.models.modules.adapter import inject_adapters
from avalanche_vlm.models.modules.blocks import image_blocks
from avalanche_vlm.models.modules.experts import inject_experts
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.routed import RoutedPool
from avalanche_vlm.models.modules.site import Site, named
from avalanche_vlm.models.modules.tokens import inject_image_prompts, inject_text_prompts
from avalanche_vlm.models.routers import Route, create_router

BATCHES = {"tiny": 128, "ViT-B/32": 16}
ROUTERS: dict[str, tuple[str, dict[str, int]]] = {
    "lora": ("prototype", {}),
    "adapter-per-task": ("prototype", {}),
    "moe-adapters": ("autoencoder", {"steps": 5}),
    "s-prompts": ("kmeans", {}),
}
"""The router of each recipe. How long one is fitted makes no difference to what it costs at prediction."""


class Decided(nn.Module):
    """A router whose answers are given; what it computes for them it computes.

    :param router: the router.
    """

    def __init__(self, router: nn.Module) -> None:
        super().__init__()
        self.router = router
        self.task = torch.zeros(0, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.router)

    def score(self, features: torch.Tensor) -> Route:
        route = self.router.score(features)
        return Route(self.task.clamp_min(0), route.confidence, self.task < 0)


def sites_of(recipe: str, model: VLM, upper: bool) -> dict[str, Site]:
    """A recipe's places for modules, in all blocks or in the upper half."""
    image, text = model.tower("image"), model.tower("text")
    number = "|".join(str(n) for n in range(len(image_blocks(image).layers)) if not upper or 2 * n >= number_of(image))
    if recipe == "lora":
        pattern = rf"\bresblocks\.({number})\.(attn|mlp\.c_fc|mlp\.c_proj)$"
        return dict(named("image", inject_lora(image, pattern=pattern)))
    pattern = rf"\bresblocks\.({number})\.mlp$"
    if recipe == "adapter-per-task":
        return dict(named("image", inject_adapters(image, pattern=pattern)))
    if recipe == "moe-adapters":
        return dict(named("image", inject_experts(image, pattern=pattern)) | named("text", inject_experts(text)))
    return {**named("image", inject_image_prompts(image)), **named("text", inject_text_prompts(model))}


def number_of(image: nn.Module) -> int:
    return len(image_blocks(image).layers)


def model_of(name: str, tasks: int) -> VLM:
    torch.manual_seed(0)
    model = create_vlm("tiny" if name == "tiny" else "ViT-B-32", "random")
    spaces = [(f"task {t}", [f"{colour} {t}" for colour in ("red", "blue")], PHOTO) for t in range(tasks)]
    return model.freeze("image", "text", "scale").set_label_space(join_tasks(spaces, "task")).eval()


def routed(name: str, recipe: str, tasks: int, upper: bool) -> tuple[VLM, Decided]:
    """A model with modules of so many tasks, none of which is as it was made."""
    model = model_of(name, tasks)
    pool = ModulePool(sites_of(recipe, model, upper))
    kind, options = ROUTERS[recipe]
    router = Decided(create_router(kind, **options))
    path = RoutedPool(pool, router)
    for task in range(tasks):
        module = pool.add_next()
        with torch.no_grad():
            for parameter in pool.parameters(module):
                parameter.add_(0.02 * torch.randn_like(parameter))
        features = F.normalize(torch.randn(64, model.width), dim=1)
        router.router.fit(features, torch.zeros(64, dtype=torch.long))
        path.of_task.append(module)
        path.of_label[task] = module
    model.install("routed", path, "a benchmark")
    return model.eval(), router


def two_passes(model: VLM, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits with nothing shared between the router's pass and the module's."""
    assert model.routed is not None
    logits = images.new_empty(len(images), len(model.label_space or ()))
    encode = partial(model.encode_image_plain, normalize=False)
    for rows, features in model.routed.groups(encode, images, labels):
        logits[rows] = model.classify(F.normalize(features, dim=-1), labels[rows])
    return logits


@torch.no_grad()
def spent(call: Callable[[], torch.Tensor]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


@torch.no_grad()
def measure(name: str, recipe: str, tasks: int, upper: bool, rounds: int) -> list[float]:
    """Milliseconds of the plain model, and ratios to it of everything else."""
    model, router = routed(name, recipe, tasks, upper)
    plain, n = model_of(name, tasks), BATCHES[name]
    size = model.transforms.eval.size
    images, labels = torch.randn(n, 3, size, size), torch.zeros(n, dtype=torch.long)
    one, none, mixed = labels, labels - 1, torch.arange(n) % tasks

    def answers(task: torch.Tensor, way: Callable[..., torch.Tensor], oracle: bool = False) -> torch.Tensor:
        router.task, model.routed.use_task_labels = task, oracle
        return way(images, labels)

    ways: dict[str, Callable[[], torch.Tensor]] = {
        "plain": lambda: plain(images, labels),
        "two passes": lambda: answers(one, partial(two_passes, model)),
        "now": lambda: answers(one, model),
        "task label": lambda: answers(one, model, oracle=True),
        "no task": lambda: answers(none, model),
        "mixed": lambda: answers(mixed, model),
    }
    for way in ways.values():
        way()
    torch.testing.assert_close(ways["now"](), ways["two passes"](), rtol=0, atol=1e-5)
    found = [[spent(way) for way in ways.values()] for _ in range(rounds)]
    ratios = [[seconds / row[0] for seconds in row[1:]] for row in found]
    medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
    return [1000 * statistics.median(row[0] for row in found), *medians]


@torch.no_grad()
def evaluation(name: str, recipe: str, tasks: int, rounds: int) -> list[float]:
    """Milliseconds of the first batch of the last task's images when no text is known, and of the next ones."""
    model, router = routed(name, recipe, tasks, upper=False)
    n, size = BATCHES[name], model.transforms.eval.size
    images, labels = torch.randn(n, 3, size, size), torch.full((n,), tasks - 1)
    router.task = labels
    model(images, labels)
    found = []
    for _ in range(rounds):
        model.set_label_space(model.label_space).eval()
        found.append([spent(lambda: model(images, labels)) for _ in range(2)])
    return [1000 * statistics.median(column) for column in zip(*found, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=BATCHES, default="tiny")
    parser.add_argument("--recipes", default=",".join(ROUTERS), help="names, with commas between them")
    parser.add_argument("--tasks", default="1,10,50", help="numbers, with commas between them")
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    recipes, numbers = asked.recipes.split(","), [int(n) for n in asked.tasks.split(",")]
    print(f"{asked.model}, batches of {BATCHES[asked.model]}, one thread, torch {torch.__version__}\n")
    print("| modules | blocks | tasks | plain, ms | two passes | now | task label | no task | mixed |")
    print("|---|---|---|---|---|---|---|---|---|")
    for recipe in recipes:
        for upper in (False, True) if recipe != "s-prompts" else (False,):
            for tasks in numbers:
                plain, *ratios = measure(asked.model, recipe, tasks, upper, asked.rounds)
                cells = " | ".join(f"{ratio:.2f}" for ratio in ratios)
                print(
                    f"| `{recipe}` | {'upper half' if upper else 'all'} | {tasks} | {plain:.1f} | {cells} |", flush=True
                )
    print("\n| modules | tasks | first batch, ms | next, ms |\n|---|---|---|---|")
    for recipe in recipes:
        for tasks in numbers:
            first, following = evaluation(asked.model, recipe, tasks, asked.rounds)
            print(f"| `{recipe}` | {tasks} | {first:.1f} | {following:.1f} |", flush=True)


if __name__ == "__main__":
    main()
