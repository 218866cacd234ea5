"""What a prediction encodes: prompts and seconds of its first batch, of later ones, and the bytes that stay.

    python benchmarks/text_cache.py [--tasks 50] [--rounds 5] [--threads 1]

Every task has two classes, four prompts each, and a text module of its own; a batch of 32 pictures of the first task
has its texts from one module, or from all of them as a mixed batch does. The image tower runs once.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from avalanche_vlm import create_vlm
from avalanche_vlm.benchmarks.label_space import PromptTemplates, join_tasks
from avalanche_vlm.models import VLM

TEMPLATES = PromptTemplates("four", ("a photo of a {}", "a {}", "one {}", "the {}"))


class _Prompts:
    """Counts the texts that pass through a model's text tower."""

    def __init__(self, model: VLM) -> None:
        self.texts = self.passes = 0
        self._hook = model.clip.token_embedding.register_forward_pre_hook(self._count)

    def _count(self, _: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        self.texts += len(given[0])
        self.passes += 1

    def stop(self) -> None:
        self._hook.remove()


def _model(tasks: int, visible: str) -> VLM:
    names = [f"{colour} thing {number}" for number in range(tasks) for colour in ("red", "blue")]
    spaces = [(f"task {t}", names[2 * t : 2 * t + 2], TEMPLATES) for t in range(tasks)]
    model = create_vlm("tiny").eval().freeze("text")
    return model.set_label_space(join_tasks(spaces, visible))


def _cold(model: VLM, images: torch.Tensor, labels: torch.Tensor, modules: int) -> tuple[float, float, int, int, int]:
    """Seconds of the first batch and of the next, prompts and passes of the first, bytes that are kept afterwards."""
    assert model.label_space is not None
    model.set_label_space(model.label_space)
    count, seconds = _Prompts(model), []
    for turn in range(2):
        start = time.process_time()
        with torch.no_grad():
            features = model.encode_image(images)
            for module in range(modules):
                _Under.name = f"module {module}"
                model.classify(features, labels)
        seconds.append(time.process_time() - start)
        if turn == 0:
            texts, passes = count.texts, count.passes
    count.stop()
    kept = model.text_head.kept_bytes
    return seconds[0], seconds[1], texts, passes, kept


class _Under:
    """Stands for the module that changes texts now: what it changes is nothing to what is counted here."""

    name = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    from avalanche_vlm.models.heads import text

    text._module = lambda model: _Under.name
    print("| label space | modules | first batch, s | next, s | prompts | passes | bytes kept |")
    print("|---|---|---|---|---|---|---|")
    for visible in ("task", "union"):
        model = _model(asked.tasks, visible)
        images = torch.zeros(32, 3, model.transforms.eval.size, model.transforms.eval.size)
        labels = torch.zeros(32, dtype=torch.long)
        for modules in (1, asked.tasks):
            found = [_cold(model, images, labels, modules) for _ in range(asked.rounds)]
            first, following = (statistics.median(column) for column in list(zip(*found, strict=True))[:2])
            _, _, texts, passes, kept = found[0]
            print(f"| {visible} | {modules} | {first:.3f} | {following:.3f} | {texts} | {passes} | {kept} |")


if __name__ == "__main__":
    main()
