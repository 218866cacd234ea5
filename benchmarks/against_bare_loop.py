"""What the library adds to a plain PyTorch loop of the same mathematics, side by side in one run.

``python benchmarks/against_bare_loop.py --threads 1``: fine-tuning steps at batch 128, and evaluations of a task and of
the whole eight-task stream with unchanged weights, ours and bare in turn, with the ratio of each pair and its median.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.benchmarks.picturebook.tasks import MTIL_LIKE
from avalanche_vlm.benchmarks.scenario import ImageDataset
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.training import VLMNaive

BATCH = 128


class Bare:
    """The loop that a user would write: one data set, one DataLoader, AdamW, cross-entropy against class prompts."""

    def __init__(self, model: VLM, dataset: ImageDataset, prompts: list[str]) -> None:
        self.clip, self.transform, self.tokenizer = model.clip, model.transforms.eval, model.tokenizer
        self.dataset, self.prompts = dataset, prompts
        self.device = model.device
        parameters = [p for p in self.clip.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.0)

    def batches(self, batch_size: int, shuffle: bool):
        """Images and local class indices."""

        def collate(samples):
            images = torch.stack([self.transform(image) for image, _ in samples])
            return images, torch.tensor([y for _, y in samples])

        for images, y in DataLoader(self.dataset, batch_size, shuffle=shuffle, collate_fn=collate):
            yield images.to(self.device), y.to(self.device)

    def logits(self, images: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        image = F.normalize(self.clip.encode_image(images), dim=-1)
        return self.clip.logit_scale.exp() * image @ text.T

    def text(self) -> torch.Tensor:
        """Class features, each the normalised mean of its prompts."""
        tokens = self.tokenizer(self.prompts).to(self.device)
        features = F.normalize(self.clip.encode_text(tokens), dim=-1)
        return F.normalize(features.view(-1, 3, features.shape[-1]).sum(1), dim=-1)

    def train(self) -> None:
        self.clip.train()
        for images, y in self.batches(BATCH, shuffle=True):
            self.optimizer.zero_grad()
            F.cross_entropy(self.logits(images, self.text()), y).backward()
            self.optimizer.step()

    @torch.no_grad()
    def evaluate(self) -> float:
        self.clip.eval()
        text = self.text()
        right = sum(int((self.logits(x, text).argmax(1) == y).sum()) for x, y in self.batches(256, shuffle=False))
        return right / len(self.dataset)


def timed(function) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(name: str, ours, bare, steps: int, rounds: int) -> None:
    """Time the two in turn and print the medians and the median ratio."""
    ours(), bare()
    pairs = [(timed(ours), timed(bare)) for _ in range(rounds)]
    a, b = (1000 * statistics.median(side) / steps for side in zip(*pairs, strict=True))
    ratios = sorted(x / y for x, y in pairs)
    print(
        f"{name}: ours {a:.2f} ms, bare {b:.2f} ms, ratio median {statistics.median(ratios):.3f} "
        f"(min {ratios[0]:.3f}, max {ratios[-1]:.3f}, {rounds} pairs)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else platform.processor() or platform.machine()
    print(f"tiny model, {arguments.threads} thread(s), {name}, torch {torch.__version__}")

    benchmark = picturebook.mtil_like(n_train=5 * BATCH, n_test=250, n_held_out=50, n_reference=10)
    model = create_vlm("tiny", device=arguments.device).set_label_space(benchmark.label_space)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No loggers specified")
        strategy = VLMNaive(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=BATCH,
            eval_mb_size=256,
            device=torch.device(arguments.device),
            evaluator=None,
        )
    prompts = benchmark.label_space.prompts()

    def bare_on(t: int, split: str, n: int) -> Bare:
        pictures, labels = MTIL_LIKE[t].draw(n, 0, split)
        classes = benchmark.label_space.tasks[t]
        data = ImageDataset(torch.from_numpy(pictures), labels)
        return Bare(create_vlm("tiny", device=arguments.device), data, [p for c in classes for p in prompts[c]])

    train, test = benchmark.train_stream[0], benchmark.test_stream
    bare_train = bare_on(0, "train", 5 * BATCH)
    compare(f"training step, batch {BATCH}", lambda: strategy.train(train), bare_train.train, 5, arguments.rounds)
    bare_tests = [bare_on(t, "test", 250) for t in range(len(MTIL_LIKE))]
    compare("evaluation of one task", lambda: strategy.eval(test[:1]), bare_tests[0].evaluate, 1, arguments.rounds)

    def bare_stream() -> None:
        for bare in bare_tests:
            bare.evaluate()

    compare("evaluation of eight tasks", lambda: strategy.eval(test), bare_stream, 1, arguments.rounds)


if __name__ == "__main__":
    main()
