"""One step of the recipe ``zscl`` beside the published loop, which asks the frozen teacher anew at every step.

    python benchmarks/zscl_speed.py --threads 1

Both take the same steps in turn, on the same batches, so that what else the machine does falls on both alike, and their
losses and weights are compared. Then the recipe alone with up to 65,536 captions, and where the time of a step goes.

What the ratio comes to depends on the model: ours costs 192 passes of images through the student (64, forward and
backward), the published loop a pass of every caption on top. An image of this model costs 3.6 times a caption, one of
ViT-B/16 about six times; where images cost more, the ratio is smaller.
"""

from __future__ import annotations

import argparse
import copy
import math
import platform
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from avalanche.training.plugins import SupervisedPlugin
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from avalanche_vlm.benchmarks import LabelSpace, ReferencePairs, VLMBenchmark
from avalanche_vlm.benchmarks.picturebook.tokenizer import WordTokenizer
from avalanche_vlm.benchmarks.scenario import ImageDataset, as_experience_data
from avalanche_vlm.memory.draws import Passes
from avalanche_vlm.models import VLM
from avalanche_vlm.models.factory import from_open_clip
from avalanche_vlm.training import VLMNaive, recipes

BATCH = 32
CLASSES = 20
LEARNING_RATE = 1e-5
SMOOTHING = 0.2
INTERVAL = 10
WIDTH = 256
VISION = {"image_size": 64, "patch_size": 8, "width": WIDTH, "layers": 4, "head_width": 64}
TEXT = {"context_length": 32, "width": 192, "heads": 3, "layers": 4}


class Published(nn.Module):
    """ZSCL as published (Zheng et al., arXiv 2303.06628, eq. 4-8, and the authors' code for MTIL), in one task.

    In every step the teacher encodes all captions of the reference set, in one batch, and the images of its batch. The
    losses are the cross-entropy against the class prompts, which the student encodes, the distillation of rows and
    columns against the teacher's captions, and the squared distance of the weights to the start. The snapshots of the
    running mean are the code's, at the start and one step after the beginning of every ``interval`` steps. Not here:
    the schedule of the learning rate, which is no part of the method.

    :param clip: becomes the student's, the teacher's and the start's weights.
    :param prompts: tokens of the classes ``[C, L]``.
    :param captions: tokens of the reference set ``[N, L]``.
    """

    def __init__(
        self,
        clip: nn.Module,
        prompts: torch.Tensor,
        captions: torch.Tensor,
        learning_rate: float = LEARNING_RATE,
        temperature: float = 2.0,
        interval: int = INTERVAL,
    ) -> None:
        super().__init__()
        self.student = copy.deepcopy(clip).train()
        self.teacher, self.start, self.mean = (copy.deepcopy(clip).eval().requires_grad_(False) for _ in range(3))
        self.prompts, self.captions = prompts, captions
        self.temperature, self.interval, self.steps = temperature, interval, 0
        trained = [p for name, p in self.student.named_parameters() if name != "logit_scale"]
        self.optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)

    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        images, texts = (x / x.norm(dim=-1, keepdim=True) for x in (images, texts))
        return self.student.logit_scale.exp() * images @ texts.t()

    def distillation(self, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        targets = F.softmax(teacher / self.temperature, dim=1)
        return F.cross_entropy(student / self.temperature, targets) * self.temperature**2

    def step(self, images: torch.Tensor, y: torch.Tensor, reference: torch.Tensor) -> float:
        """The loss before the update, on new images of the classes ``y`` and on images of the reference set."""
        logits = self.logits(self.student.encode_image(images), self.student.encode_text(self.prompts))
        loss = F.cross_entropy(logits, y, label_smoothing=SMOOTHING)
        for weight, start in zip(self.student.parameters(), self.start.parameters(), strict=True):
            loss = loss + (weight - start).square().sum()
        with torch.no_grad():
            texts = self.teacher.encode_text(self.captions)
            taught = self.logits(self.teacher.encode_image(reference), texts)
        said = self.logits(self.student.encode_image(reference), texts)
        loss = loss + self.distillation(taught, said) + self.distillation(taught.t(), said.t())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.steps % self.interval == 0:
            count = self.steps // self.interval + 1  # of snapshots that the mean holds
            with torch.no_grad():
                for mean, weight in zip(self.mean.parameters(), self.student.parameters(), strict=True):
                    mean.copy_((mean * count + weight) / (count + 1))
        self.steps += 1
        return loss.item()


class Clock(SupervisedPlugin):
    """Seconds of every iteration but a task's first, which also makes what the others find made; loading included."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._mark: float | None = None

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if self._mark is not None:
            self.seconds.append(time.perf_counter() - self._mark)
        self._mark = time.perf_counter()


class Alongside(Clock):
    """After every step of ours one of the published loop, on the same batch; their losses, and their weights at the
    end."""

    def __init__(self, published: Published, reference: ReferencePairs, batch: int) -> None:
        super().__init__()
        self.published, self.reference = published, reference
        self.theirs: list[float] = []
        self.losses: list[tuple[float, float]] = []
        self._passes = Passes(len(reference), batch, seed=0)

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        super().after_training_iteration(strategy)
        started = time.perf_counter()
        images = self.reference.batch(self._passes.next().tolist())
        loss = self.published.step(strategy.mb_x, strategy.mb_y, images)
        self.theirs.append(time.perf_counter() - started)
        self.losses.append((strategy.loss.item(), loss))
        # What the task ends on is the running mean: these are the weights before it.
        self.weights = copy.deepcopy(strategy.model.clip.state_dict())
        self._mark = time.perf_counter()


class Compared(NamedTuple):
    """The two side by side.

    :param ours: seconds of each step but the first.
    :param theirs: likewise.
    :param set_up: seconds in which the recipe has encoded its reference set.
    :param loss: the largest difference of the losses, relative to theirs.
    :param weight: the largest difference of a weight after the last step.
    :param moved: the distance of the weights of both after the last step, over the way from the start.
    :param mean: the largest difference of a weight of the running means.
    """

    ours: list[float]
    theirs: list[float]
    set_up: float
    loss: float
    weight: float
    moved: float
    mean: float


class Repeated(Sequence):
    """A few pictures again and again: as many as there are captions, without their memory."""

    def __init__(self, pictures: torch.Tensor, n: int) -> None:
        self.pictures, self.n = pictures, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.pictures[i % len(self.pictures)]


def model_of_six_million() -> VLM:
    """A CLIP with random weights, a trained one's scale, and a vocabulary of 5,000 words."""
    from open_clip.model import CLIP

    letters = "abcdefghijklmnopqr"
    words = [f"{a}{b}{c}" for a in letters for b in letters for c in letters][:5000]
    tokenizer = WordTokenizer(words, TEXT["context_length"])
    clip = CLIP(256, VISION, {**TEXT, "vocab_size": tokenizer.vocab_size})
    nn.init.constant_(clip.logit_scale, math.log(100))
    return from_open_clip(clip, tokenizer, image_size=VISION["image_size"], mean=[0.5] * 3, std=[0.5] * 3)


def pictures(model: VLM, n: int, seed: int) -> torch.Tensor:
    size = model.transforms.eval.size
    return torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def one_task(model: VLM, steps: int, batch: int = BATCH) -> VLMBenchmark:
    """Random pictures of random classes, enough for so many steps."""
    images, n = pictures(model, steps * batch, seed=1), len(model.tokenizer.words)
    y = torch.randint(CLASSES, (len(images),), generator=torch.Generator().manual_seed(2))
    y[:CLASSES] = torch.arange(CLASSES)  # every class occurs
    data = as_experience_data(ImageDataset(images, y), model.transforms.eval, model.transforms.eval)
    names = [model.tokenizer.words[i * n // CLASSES] for i in range(CLASSES)]
    return VLMBenchmark(
        "random", "classes", [data], [data], label_space=LabelSpace.from_names(names), task_names=["random"]
    )


def reference_of(model: VLM, n: int) -> ReferencePairs:
    """N distinct random sentences, with 64 pictures in turn."""
    words, room = model.tokenizer.words, model.tokenizer.context_length - 2
    generator = torch.Generator().manual_seed(3)
    captions: dict[str, None] = {}
    while len(captions) < n:
        drawn = torch.randint(len(words), (n - len(captions), room), generator=generator)
        captions |= dict.fromkeys(" ".join(words[i] for i in row) for row in drawn.tolist())
    return ReferencePairs(Repeated(pictures(model, 64, seed=4), n), tuple(captions), model.transforms.eval)


def strategy_of(model: VLM, plugins: list[SupervisedPlugin], batch: int = BATCH) -> VLMNaive:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No loggers specified")
        return VLMNaive(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0),
            criterion=nn.CrossEntropyLoss(label_smoothing=SMOOTHING),
            train_mb_size=batch,
            plugins=plugins,
            evaluator=None,
        )


def side_by_side(model: VLM, captions: int, steps: int, batch: int = BATCH) -> Compared:
    """So many steps of both, ours first each time."""
    benchmark, reference = one_task(model, steps, batch), reference_of(model, captions)
    model.set_label_space(benchmark.label_space)
    prompts = model.tokenizer([prompt for (prompt,) in benchmark.label_space.prompts()])
    published = Published(model.clip, prompts, model.tokenizer(list(reference.captions)))
    alongside = Alongside(published, reference, batch)
    started = time.perf_counter()
    zscl = recipes.build("zscl", model=model, reference=reference, batch_size=batch, interval=INTERVAL)
    set_up = time.perf_counter() - started
    strategy_of(model, [*zscl, alongside], batch).train(benchmark.train_stream[0], shuffle=False)

    start, theirs = dict(published.start.named_parameters()), dict(published.student.named_parameters())
    apart = {name: alongside.weights[name] - weight.detach() for name, weight in theirs.items()}
    way = {name: weight.detach() - start[name] for name, weight in theirs.items()}
    length = [torch.cat([x.flatten() for x in of.values()]).norm().item() for of in (apart, way)]
    means = zip(model.clip.parameters(), published.mean.parameters(), strict=True)
    return Compared(
        alongside.seconds,
        alongside.theirs[1:],
        set_up,
        max(abs(a - b) / abs(b) for a, b in alongside.losses),
        max(x.abs().max().item() for x in apart.values()),
        length[0] / length[1],
        max((a - b).abs().max().item() for a, b in means),
    )


@contextmanager
def stand_ins(model: VLM) -> Iterator[None]:
    """Random features in the place of the towers', for a set whose encoding would outlast the benchmark."""
    width = model.clip.text_projection.shape[1]
    model.encode_image = model.encode_text = lambda x: F.normalize(torch.randn(len(x), width), dim=-1)
    try:
        yield
    finally:
        del model.encode_image, model.encode_text


def ours_alone(sizes: Sequence[int], rounds: int, full_set_up: bool) -> dict[int, list[float]]:
    """Seconds per step with so many captions, in turn."""
    runs, benchmark = {}, None
    for n in sizes:
        torch.manual_seed(0)
        model = model_of_six_million()
        benchmark = benchmark or one_task(model, 2)
        model.set_label_space(benchmark.label_space)
        clock = Clock()
        with nullcontext() if full_set_up else stand_ins(model):
            started = time.perf_counter()
            zscl = recipes.build("zscl", model=model, reference=reference_of(model, n), batch_size=BATCH)
            if full_set_up:
                print(f"set-up of {n:,} pairs: {time.perf_counter() - started:.1f} s", flush=True)
        runs[n] = strategy_of(model, [*zscl, clock]), clock
    for _ in range(rounds + 1):
        for strategy, _ in runs.values():
            strategy.train(benchmark.train_stream[0])
    return {n: clock.seconds[1:] for n, (_, clock) in runs.items()}


def matrix_rate() -> float:
    """Float32 operations per second of the best of several matrix products."""
    best = 0.0
    for n in (512, 1024, 2048):
        a, b = torch.randn(n, n), torch.randn(n, n)
        for _ in range(2 + (2048 // n) ** 2):
            started = time.perf_counter()
            a @ b
            best = max(best, 2 * n**3 / (time.perf_counter() - started))
    return best


GROUPS = {
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "convolution"),
    "attention": ("scaled_dot_product",),
    "GELU": ("gelu",),
    "layer norm": ("layer_norm",),
    "softmax": ("softmax",),
    "copies and gathers": ("copy_", "cat", "stack", "index", "embedding", "fill_", "zero_", "select", "clone"),
}
"""Operator groups, by parts of the operators' names; the first that fits."""


def group_of(event: Any) -> str:
    """Whose time this event of the profiler is."""
    above = event
    while above is not None:
        if above.name.startswith("Optimizer.step"):
            return "AdamW"
        above = above.cpu_parent
    for group, names in GROUPS.items():
        if any(name in event.name for name in names):
            return group
    return "sums, products and the like" if event.name.startswith("aten::") else "autograd's and Python's own"


class Profiled(SupervisedPlugin):
    """Milliseconds per step in every group of operators, and of the steps as a whole, the first left out."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self._done = steps, 0
        self._profile = profile(activities=[ProfilerActivity.CPU])
        self.groups: dict[str, float] = {}

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if self._done == 0:
            self._profile.__enter__()
        elif self._done == self.steps:
            self._profile.__exit__(None, None, None)
            for event in self._profile.events():
                group = group_of(event)
                own = event.self_cpu_time_total / 1000 / self.steps
                self.groups[group] = self.groups.get(group, 0.0) + own
        self._done += 1


def what_is_left(captions: int, step: float) -> None:
    """A step's operations per second over the machine's rate, and the largest losses.

    :param step: its seconds, as measured without the profiler.
    """
    torch.manual_seed(0)
    model = model_of_six_million()
    steps = 4
    benchmark = one_task(model, steps + 1)
    model.set_label_space(benchmark.label_space)
    with stand_ins(model):
        zscl = recipes.build("zscl", model=model, reference=reference_of(model, captions), batch_size=BATCH)
    profiled = Profiled(steps)
    strategy_of(model, [*zscl, profiled]).train(benchmark.train_stream[0])
    counter = FlopCounterMode(display=False)
    with counter:
        strategy_of(model, zscl).train(benchmark.train_stream[0])
    counts = {str(op): flops / (steps + 1) for op, flops in counter.get_flop_counts()["Global"].items()}
    flops, rate = sum(counts.values()), matrix_rate()
    print(
        f"\na step with {captions:,} captions: {flops / 1e9:.1f} GFLOP (forward and backward; torch counts matrix "
        f"products and convolutions, and no attention on the CPU) in {step * 1000:.0f} ms: {flops / step / 1e9:.1f} "
        f"GFLOP/s, {100 * flops / step / rate:.0f} % of {rate / 1e9:.1f}, the best float32 matrix product here"
    )
    total = sum(profiled.groups.values())
    print("\n| group of operators | ms under the profiler | % of the step | GFLOP | % of the rate |")
    print("|---|---|---|---|---|")
    of_attention = sum(n for op, n in counts.items() if "attention" in op)
    counted = {"matrix products": flops - of_attention, "attention": of_attention}
    work = {group: n for group, n in counted.items() if n}
    for group, ms in sorted(profiled.groups.items(), key=lambda item: -item[1]):
        done = f"{work[group] / 1e9:.1f} | {100 * work[group] / ms * 1000 / rate:.0f}" if group in work else "|"
        print(f"| {group} | {ms:.1f} | {100 * ms / total:.1f} | {done} |")


def spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=50, help="of both, with 1,024 captions")
    parser.add_argument("--steps-4096", type=int, default=6, help="of both, with 4,096 captions")
    parser.add_argument("--rounds", type=int, default=10, help="of ours alone")
    parser.add_argument("--full-set-up", action="store_true", help="encode 65,536 pairs: many minutes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = model_of_six_million()
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    print(
        f"CLIP of {millions:.1f} M parameters, batches of {BATCH} new and {BATCH} reference images, "
        f"{options.threads} thread(s), {platform.processor() or platform.machine()}, torch {torch.__version__}"
    )
    print("\n| captions | ours, s per step | published, s per step | ratio (min to max) | our set-up, s | pays after |")
    print("|---|---|---|---|---|---|", flush=True)
    seen = {}
    for captions, steps in ((1024, options.steps), (4096, options.steps_4096)):
        torch.manual_seed(0)
        seen[captions] = c = side_by_side(model_of_six_million(), captions, steps)
        ratios = [b / a for a, b in zip(c.ours, c.theirs, strict=True)]
        ours, theirs = statistics.median(c.ours), statistics.median(c.theirs)
        print(
            f"| {captions:,} | {spread(c.ours, '.3f')} | {spread(c.theirs, '.3f')} | {spread(ratios, '.2f')} | "
            f"{c.set_up:.1f} | {c.set_up / (theirs - ours):.1f} steps |",
            flush=True,
        )
    print("\n| captions | steps | loss, relative | a weight | all weights, over their way | a weight of the mean |")
    print("|---|---|---|---|---|---|")
    for captions, c in seen.items():
        print(
            f"| {captions:,} | {len(c.ours) + 1} | {c.loss:.1e} | {c.weight:.1e} | {c.moved:.1e} | {c.mean:.1e} |",
            flush=True,
        )
    print("\n| captions | ours, s per step | ratio to 4,096 (min to max) |\n|---|---|---|")
    alone = ours_alone((4096, 16384, 65536), options.rounds, options.full_set_up)
    for captions, seconds in alone.items():
        ratios = [b / a for a, b in zip(alone[4096], seconds, strict=True)]
        print(f"| {captions:,} | {spread(seconds, '.3f')} | {spread(ratios, '.3f')} |", flush=True)
    if not options.full_set_up:
        print(
            "Here the teacher's features are random: encoding 65,536 pairs takes "
            f"{16 * seen[4096].set_up:.0f} s, if 4,096 take what they took above."
        )
    what_is_left(4096, statistics.median(alone[4096]))


if __name__ == "__main__":
    main()
