"""How many tokens the text towers compute in a training step, and that none of them is read for its length."""

from __future__ import annotations

import pytest
import torch
from quick import LESS
from recording import naive
from torch import nn

from avalanche_vlm.benchmarks import image_text
from avalanche_vlm.benchmarks.padding import padding_of
from avalanche_vlm.models import prompts
from avalanche_vlm.models.text_positions import LEAST, TextPositions
from avalanche_vlm.training import recipes
from avalanche_vlm.training.criteria import criterion_for
from avalanche_vlm.training.plugins import replay
from avalanche_vlm.training.plugins.base import VLMPlugin

CLASSES = {
    "fine-tune": 0,
    "replay": 0,
    "lwf": 0,
    "zscl": 0,
    "ewc-clip": 0,
    "lora": 0,
    "adapter-per-task": 0,
    "moe-adapters": 0,
    "wise-ft": 0,
    "coop": 16,
    "maple": 2,
}
"""Recipes for class streams, and the vectors that each puts among a prompt's tokens."""

FROZEN = ("lora", "adapter-per-task")
"""Those of them that leave the text tower alone."""

PAIRS = ("fine-tune", "replay", "text-replay", "latent-replay", "lwf", "lwf-vr", "zscl", "snd", "mod-x", "ctp")


class TokensPerStep(VLMPlugin):
    """Counts the tokens that go into any text tower's embedding (a model's, a teacher's) within an iteration."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.within = False
        forward = nn.Embedding.forward

        def counted(layer: nn.Embedding, tokens: torch.Tensor) -> torch.Tensor:
            if self.within:
                self.steps[-1] += tokens.numel()
            return forward(layer, tokens)

        monkeypatch.setattr(nn.Embedding, "forward", counted)

    def before_training_iteration(self, strategy, **kwargs):
        self.steps.append(0)
        self.within = True

    def after_training_iteration(self, strategy, **kwargs):
        self.within = False


def trained(model, recipe: str, benchmark, counts: TokensPerStep) -> list[list[int]]:
    """The tokens of every step, by experience."""
    options = dict(LESS.get(recipe, {}))
    if "reference" in recipes.describe(recipe).needs:
        options["reference"] = benchmark.reference
    strategy = naive(model, [*recipes.build(recipe, model=model, **options), counts], lr=1e-5)
    if benchmark.kind == "pairs":
        strategy._criterion = criterion_for("pairs", model)
    found = []
    for experience in benchmark.train_stream:
        strategy.train(experience)
        found.append(counts.steps)
        counts.steps = []
    return found


@pytest.mark.parametrize("recipe", CLASSES)
def test_a_step_computes_the_words_of_the_prompts_that_compete_once(recipe, random_model, tiny_benchmark, monkeypatch):
    model, space = random_model, tiny_benchmark.label_space
    tokens = model.tokenizer([prompt for prompts in space.prompts() for prompt in prompts])
    longest = padding_of(tokens).start
    assert longest < tokens.shape[1]  # or there would be nothing to leave out
    competing = [sum(len(space.prompts()[c]) for c in classes) for classes in space.tasks]
    first, second = trained(model, recipe, tiny_benchmark, TokensPerStep(monkeypatch))
    each = max(LEAST, longest) + CLASSES[recipe]
    if recipe in FROZEN:
        assert sum(first) + sum(second) <= len(tokens) * each  # once, for as long as nothing changes them
        return
    assert max(first) <= competing[0] * each
    # A replayed sample brings its task's classes.
    assert max(second) <= (sum(competing) if recipe == "replay" else competing[1]) * each
    if recipe == "fine-tune":
        assert min(first) == competing[0] * each


@pytest.mark.parametrize("recipe", PAIRS)
def test_no_step_waits_for_a_device_to_say_how_long_texts_are(recipe, random_model, tiny_pairs, monkeypatch):
    """Played on the CPU: texts are read as they leave it, and nothing is read afterwards within an iteration."""

    def leaves(tokens, device, known):
        return padding_of(tokens) if known is None else known

    monkeypatch.setattr(image_text, "padding_before_move", leaves)
    monkeypatch.setattr(prompts, "padding_before_move", leaves)
    monkeypatch.setattr(replay, "padding_before_move", leaves)
    counts, waited = TokensPerStep(monkeypatch), []
    needed = TextPositions.needed

    def asked(positions, tokens):
        if counts.within:
            waited.append(len(tokens))
        return needed(positions, tokens)

    monkeypatch.setattr(TextPositions, "needed", asked)
    steps = trained(random_model, recipe, tiny_pairs, counts)
    assert waited == [] and len(steps[0]) == len(steps[1]) == 4
    assert all(step > 0 for of_task in steps for step in of_task)
