"""A training step of twelve recipes beside a bare loop of the same mathematics, on three models.

    python benchmarks/step.py --model tiny --out runs/step        # and small, ViT-B/32; again to go on
    python benchmarks/step_table.py --add runs/step               # the table of all that was measured

Of every recipe, with 10, 100 and 1,000 classes and on pairs: processor time of a step of ours and of the bare loop
(``bare_steps.py``) in turn, in one process with one thread, loading and transforms included; the most memory above that
of the model and the data, in a process of its own for either; and the texts and positions of texts that a step of ours
encodes. The second of two tasks is measured, where there is something to replay, to distil or to stay near; what is
done once a task is not in its time, but in ours' memory, and so are the first task and its end. The bare loop holds
references and old pictures ready, and computes no value of a penalty; ours reads, transforms and computes them. Weights
are random, a class has one prompt, and captions are all different. A part of the grid can be measured at a time:
``step_table.py`` keeps the cells in the repository.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from apart import run_all
from avalanche.training.plugins import SupervisedPlugin
from bare_steps import BARE, FineTune, Task
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from resident import peak_above
from torch import nn
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks import LabelSpace, ReferencePairs, VLMBenchmark
from avalanche_vlm.benchmarks.label_space import PromptTemplates
from avalanche_vlm.benchmarks.scenario import ImageDataset, PairDataset, PairTransform, as_experience_data
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.models.factory import from_open_clip
from avalanche_vlm.training import VLMNaive, recipes
from avalanche_vlm.training.criteria import criterion_for

BATCHES = {"tiny": 128, "small": 32, "ViT-B/32": 16}
CLASSES = (10, 100, 1000)
REFERENCE = 64
WARM = 1
"""Iterations of the second task before those that count."""
TEMPLATE = PromptTemplates("photo", ("a photo of a {}.",))
LEARNING_RATE = 1e-5
PARTS = ("both", "ours", "bare")
OPTIONS: dict[str, dict[str, Any]] = {
    "lwf": {"images": "batch"},
    "ewc-clip": {"samples": 8},
    "replay": {"max_bytes": 1 << 30},
}
"""Options other than the defaults: the batch itself in the place of a draw beside it, fewer samples of the Fisher, and
room for a whole batch of old pictures."""

NEEDS_REFERENCE = ("zscl", "snd")
WORDS = """
apple bridge candle dragon engine falcon garden hammer island jacket kettle ladder mirror needle
orange pencil quilt rabbit saddle ticket umbrella violin window yellow zebra anchor basket castle
dolphin eagle feather guitar
"""


def random_model(name: str) -> VLM:
    """One of the three models, with random weights, a trained one's scale, and whole towers that train."""
    torch.manual_seed(0)
    if name == "tiny":
        model = create_vlm("tiny", "random")
    elif name == "ViT-B/32":
        model = create_vlm("ViT-B-32", "random")
    else:
        vision = {"image_size": 112, "patch_size": 16, "width": 384, "layers": 6, "head_width": 64}
        text = {"context_length": 77, "vocab_size": 49408, "width": 384, "heads": 6, "layers": 6}
        clip = CLIP(256, vision, text)
        model = from_open_clip(clip, SimpleTokenizer(), image_size=112, mean=[0.5] * 3, std=[0.5] * 3, name="small")
    nn.init.constant_(model.clip.logit_scale, math.log(100))
    return model.unfreeze("image", "text")


def names(model: VLM, first: int, n: int) -> list[str]:
    """Names of two or three words that the model's tokenizer knows, all different."""
    words = list(getattr(model.tokenizer, "words", WORDS.split()))
    found = []
    for number in range(first, first + n):
        high, low = divmod(number, len(words))
        higher, high = divmod(high, len(words))
        found.append(" ".join([words[low], words[high], *([words[higher]] if higher else [])]))
    return found


def pictures(model: VLM, n: int, seed: int) -> torch.Tensor:
    size = model.transforms.eval.size
    return torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def two_tasks(model: VLM, kind: str, classes: int, samples: int) -> VLMBenchmark:
    """Random pictures of so many classes a task, each of which has one, or with as many captions as pictures.

    :param samples: of a task, at least.
    """
    sets, n = [], max(samples, classes)
    for task in (0, 1):
        images = pictures(model, n, seed=task)
        if kind == "pairs":
            data: Any = PairDataset(images, [f"a photo of a {name}." for name in names(model, task * n, n)])
            change: Any = PairTransform(model.transforms.eval, model.tokenizer)
        else:
            y = torch.randint(classes, (n,), generator=torch.Generator().manual_seed(task))
            y[:classes] = torch.arange(classes)
            data, change = ImageDataset(images, (y + task * classes).tolist()), model.transforms.eval
        sets.append(as_experience_data(data, change, change, task))
    space = None
    if kind == "classes":
        tasks = [tuple(range(task * classes, (task + 1) * classes)) for task in (0, 1)]
        space = LabelSpace(tuple(names(model, 0, 2 * classes)), tuple(tasks), templates=(TEMPLATE,))
    return VLMBenchmark("random", kind, sets, sets, label_space=space, task_names=("first", "second"))


def reference_of(model: VLM) -> ReferencePairs:
    captions = tuple(f"a photo of a {name}." for name in names(model, 3000, REFERENCE))
    return ReferencePairs(pictures(model, REFERENCE, seed=9), captions, model.transforms.eval)


class Bare:
    """The bare loop on the second task: loading, transforms and step.

    :param own: whether the loop trains the model itself, and not a copy of it.
    """

    def __init__(self, model: VLM, recipe: str, benchmark: VLMBenchmark, batch: int, own: bool = False) -> None:
        self.model, self.batch, self.pairs = model, batch, benchmark.kind == "pairs"
        self.data = benchmark.train_stream[1].dataset
        task = Task(None)
        if not self.pairs:
            space = benchmark.label_space
            tokens = model.tokenizer([prompt for (prompt,) in space.prompts()])
            task.old_prompts, task.prompts = tokens.split([len(of) for of in space.tasks])
        reference = reference_of(model)
        task.reference = reference.batch(range(REFERENCE))
        task.captions = model.tokenizer(list(reference.captions))
        old = [benchmark.train_stream[0].dataset[i] for i in range(batch)]
        images = torch.stack([x.image if self.pairs else x for x, *_ in old])
        task.old = images, torch.stack([x.tokens for x, *_ in old]) if self.pairs else torch.tensor([s[1] for s in old])
        self.of_task = 0 if self.pairs else len(benchmark.label_space.tasks[0])
        clip = model.clip if own else copy.deepcopy(model.clip)
        self.loop: FineTune = BARE[recipe](clip, task, LEARNING_RATE, self.pairs)
        self.batches = self._batches()

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        def collate(samples):
            if self.pairs:
                return torch.stack([x.image for x, *_ in samples]), torch.stack([x.tokens for x, *_ in samples])
            return torch.stack([x for x, *_ in samples]), torch.tensor([y - self.of_task for _, y, *_ in samples])

        while True:
            yield from DataLoader(self.data, self.batch, shuffle=True, collate_fn=collate, drop_last=True)

    def step(self) -> float:
        return self.loop.step(*next(self.batches))


class Beside(SupervisedPlugin):
    """Processor time of every iteration of the second task, from one's end to the next one's, and of the bare loop's
    step after it; texts and positions that ours encodes.

    :param bare: makes the bare loop; None for ours alone.
    :param steps: iterations that count, after the first :data:`WARM`.
    """

    def __init__(self, bare: Any, steps: int) -> None:
        super().__init__()
        self.make, self.steps = bare, steps
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.texts: list[int] = []
        self.positions: list[int] = []

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.counts = strategy.experience.current_experience == 1
        if not self.counts:
            return
        self.bare = self.make() if self.make else None
        self.number, self._seen, self._read = 0, [0, 0], F.embedding
        # Not by a hook: a tower with hooks goes slower ways.
        F.embedding = self._counted
        self._mark = time.process_time()

    def _counted(self, tokens: torch.Tensor, *table: Any, **how: Any) -> torch.Tensor:
        self._seen[0] += len(tokens)
        self._seen[1] += tokens.numel()
        return self._read(tokens, *table, **how)

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if not self.counts:
            strategy.stop_training()  # one iteration of the first task is enough to stand in the second
            return
        spent = time.process_time() - self._mark
        texts, positions = self._seen
        if self.bare is not None:
            started = time.process_time()
            self.bare.step()
        if self.number >= WARM:
            self.ours.append(spent)
            self.texts.append(texts)
            self.positions.append(positions)
            if self.bare is not None:
                self.theirs.append(time.process_time() - started)
        self.number, self._seen[:] = self.number + 1, (0, 0)
        if self.number == WARM + self.steps:
            strategy.stop_training()
        self._mark = time.process_time()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        if self.counts:
            F.embedding = self._read


def one(model: str, recipe: str, kind: str, classes: int, steps: int, part: str) -> dict[str, Any]:
    """One cell of the grid.

    :param part: ``"both"`` for times; ``"ours"`` or ``"bare"`` for the memory that it takes.
    """
    told = {"model": model, "recipe": recipe, "kind": kind, "classes": classes, "part": part, "steps": steps}
    told |= {"torch": torch.__version__, "revision": revision()}
    torch.set_num_threads(1)
    vlm, batch = random_model(model), BATCHES[model]
    benchmark = two_tasks(vlm, kind, classes, (WARM + steps) * batch)
    if kind == "classes":
        vlm.set_label_space(benchmark.label_space)
    if part == "bare":
        with peak_above() as memory:
            bare = Bare(vlm, recipe, benchmark, batch, own=True)
            for _ in range(WARM + steps):
                bare.step()
        return {**told, "peak_mb": memory[0]}
    resources = {"reference": reference_of(vlm)} if recipe in NEEDS_REFERENCE else {}
    start = Bare(vlm, recipe, benchmark, batch) if part == "both" else None
    beside = Beside((lambda: start) if start else None, steps)
    with warnings.catch_warnings(), peak_above() as memory:
        warnings.simplefilter("ignore")
        plugins = recipes.build(recipe, model=vlm, **resources, **OPTIONS.get(recipe, {}))
        if recipe == "replay":
            plugins[0].batch_size = batch
        strategy = VLMNaive(
            model=vlm,
            optimizer=torch.optim.AdamW(vlm.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True),
            criterion=criterion_for(kind, vlm),
            train_mb_size=batch,
            plugins=[*plugins, beside],
            evaluator=None,
        )
        for experience in benchmark.train_stream:
            strategy.train(experience)
    if part == "ours":
        return {**told, "peak_mb": memory[0]}
    found: dict[str, Any] = {"texts": statistics.median(beside.texts), "positions": statistics.median(beside.positions)}
    ratios = sorted(a / b for a, b in zip(beside.ours, beside.theirs, strict=True))
    ours, theirs = (1000 * statistics.median(of) for of in (beside.ours, beside.theirs))
    spread = {"ratio": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}
    return {**told, **found, "ours_ms": ours, "bare_ms": theirs, **spread}


def revision() -> str:
    """The last commit that touched the package."""
    home = Path(__file__).parents[1]
    log = ["git", "log", "-1", "--format=%h", "--", "avalanche_vlm"]
    return subprocess.run(log, cwd=home, capture_output=True, text=True, check=True).stdout.strip()


def supported(recipe: str, kind: str) -> bool:
    return kind in recipes.get(recipe).kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=BATCHES, default="tiny")
    parser.add_argument("--recipes", default=",".join(BARE), help="names, with commas between them")
    parser.add_argument("--classes", default=",".join(map(str, CLASSES)), help="numbers, with commas between them")
    parser.add_argument("--steps", type=int, default=9, help="iterations that count, for times; for memory it is one")
    parser.add_argument("--parts", default=",".join(PARTS), help="both: times of the two in turn; the others: memory")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/step"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(**json.loads(options.one))))
        return
    streams = [("classes", int(n)) for n in options.classes.split(",")] + [("pairs", 0)]
    chosen = options.recipes.split(",")
    cells = [(recipe, kind, n) for recipe, (kind, n) in product(chosen, streams) if supported(recipe, kind)]
    jobs = {}
    for (recipe, kind, n), part in product(cells, options.parts.split(",")):
        name = f"{options.model.replace('/', '-')}-{recipe}-{kind}-{n}-{part}.json"
        jobs[options.out / name] = {
            "model": options.model, "recipe": recipe, "kind": kind, "classes": n, "part": part,
            "steps": options.steps if part == "both" else 1,
        }  # fmt: skip
    run_all(__file__, jobs, options.processes)


if __name__ == "__main__":
    sys.exit(main())
