"""How many tokens the text towers compute in a training step, and that none of them is read for its length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from quick import LESS, needed, slow_but_for_some
from recording import naive

from avalanche_vlm.benchmarks import image_text
from avalanche_vlm.benchmarks.padding import padding_of
from avalanche_vlm.models import prompts
from avalanche_vlm.models.text_positions import LEAST, TextPositions
from avalanche_vlm.training import recipes
from avalanche_vlm.training.criteria import criterion_for
from avalanche_vlm.training.plugins import replay
from avalanche_vlm.training.plugins.base import VLMPlugin

VECTORS = {"coop": 16, "maple": 2, "s-prompts": 4}
"""How many vectors a recipe puts among a prompt's tokens."""

FROZEN = {
    *("zero-shot", "prototype-replay", "snd", "lora", "adapter-per-task", "l2p", "dualprompt", "coda-prompt", "rapf"),
    *("rail-primal", "rail-dual", "ranpac", "simplecil", "proof"),
}
"""Recipes that leave the text tower alone, or train nothing: on class streams a prompt is encoded once for good."""

REPLAY = ("replay", "icarl", "tic-cumulative", "text-replay", "latent-replay")
"""Recipes in whose steps samples of earlier tasks bring their tasks' prompts."""

TEACHERS = {"icarl": 1, "mod-x": 1, "dkr": 1, "c-clip": 1, "ctp": 2}
"""How many teachers encode the texts of a step as well: those that follow the student, or meet texts that are new."""

REFERENCE = {"gnsp": 64, "gift": 64}
"""Captions of a reference that the student encodes in every step."""

STILL = ("gnsp",)
"""Recipes that leave the text tower alone after the first task: a set's captions and prompts are encoded once then."""

AGAIN = {"replay": 64, "text-replay": 64, "latent-replay": 64}
"""Captions of earlier tasks in a step on pairs."""

PAIRS = [recipe for recipe in recipes.list(kind="pairs") if recipe not in ("zero-shot", "gift")]
"""Those that train on pairs, but the one that needs texts of its own to begin with."""

TEACHED = ("fine-tune", "replay", "text-replay", "lwf", "zscl", "mod-x", "ctp", "lora")
BATCH = 16


class TokensPerStep(VLMPlugin):
    """Counts the tokens that go into any text tower's embedding (a model's, a teacher's) within an iteration."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.within = False
        read = F.embedding

        def counted(tokens: torch.Tensor, *table: Any, **how: Any) -> torch.Tensor:
            if self.within:
                self.steps[-1] += tokens.numel()
            return read(tokens, *table, **how)

        monkeypatch.setattr(F, "embedding", counted)

    def before_training_iteration(self, strategy, **kwargs):
        self.steps.append(0)
        self.within = True

    def after_training_iteration(self, strategy, **kwargs):
        self.within = False


def trained(model, recipe: str, benchmark, counts: TokensPerStep) -> list[list[int]]:
    """The tokens of every step, by experience."""
    options = dict(LESS.get(recipe, {}))
    options |= needed(recipe, benchmark)
    strategy = naive(model, [*recipes.build(recipe, model=model, **options), counts], lr=1e-5)
    if benchmark.kind == "pairs":
        strategy._criterion = criterion_for("pairs", model)
    found = []
    for experience in benchmark.train_stream:
        strategy.train(experience)
        found.append(counts.steps)
        counts.steps = []
    return found


@pytest.mark.parametrize("recipe", slow_but_for_some(recipes.list(kind="classes")))
def test_a_step_computes_the_words_of_the_prompts_that_compete_once(recipe, random_model, tiny_benchmark, monkeypatch):
    model, space = random_model, tiny_benchmark.label_space
    tokens = model.tokenizer([prompt for prompts in space.prompts() for prompt in prompts])
    longest = padding_of(tokens).start
    assert longest < tokens.shape[1]  # or there would be nothing to leave out
    competing = [sum(len(space.prompts()[c]) for c in classes) for classes in space.tasks]
    first, second = trained(model, recipe, tiny_benchmark, TokensPerStep(monkeypatch))
    if recipe in FROZEN:
        assert sum(first) + sum(second) <= len(tokens) * max(LEAST, longest)
        return
    each = longest + VECTORS.get(recipe, 0)
    by, more = 1 + TEACHERS.get(recipe, 0), REFERENCE.get(recipe, 0) * LEAST
    later = [(second, sum(competing) if recipe in REPLAY else competing[1])]
    if recipe in STILL:
        later = []
        assert sum(second) <= (competing[1] + REFERENCE[recipe]) * LEAST
    for steps, mine in [(first, competing[0]), *later]:
        assert 0 < max(steps[1:]) <= by * mine * each + more
        # What has no gradient is encoded once, the prompts for a teacher of this task.
        assert steps[0] <= by * mine * each + more + mine * LEAST
    if recipe == "fine-tune":
        own = model.tokenizer([prompt for c in space.tasks[0] for prompt in space.prompts()[c]])
        assert set(first) == {competing[0] * padding_of(own).start}


@pytest.mark.parametrize("recipe", slow_but_for_some(PAIRS, TEACHED))
def test_a_step_on_pairs_reads_their_words_and_waits_for_no_device(recipe, random_model, tiny_pairs, monkeypatch):
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
    texts = [sample.tokens for of in tiny_pairs.train_stream for sample, *_ in of.dataset]
    longest = padding_of(torch.stack(texts)).start
    assert longest < LEAST
    read = BATCH * (1 + TEACHERS.get(recipe, 0)) + AGAIN.get(recipe, 0)
    most = read * longest + REFERENCE.get(recipe, 0) * LEAST
    assert all(0 < step <= most for of_task in steps for step in of_task)
    if recipe in STILL:  # their own captions are new in every step
        assert sum(steps[1]) <= 4 * BATCH * longest + REFERENCE[recipe] * LEAST


def test_a_teacher_of_the_batch_itself_reads_its_words_alone(random_model, tiny_pairs, monkeypatch):
    counts = TokensPerStep(monkeypatch)
    model = random_model
    strategy = naive(model, [*recipes.build("lwf", model=model, images="batch"), counts], lr=1e-5)
    strategy._criterion = criterion_for("pairs", model)
    strategy.train(tiny_pairs.train_stream[0])
    texts = torch.stack([sample.tokens for sample, *_ in tiny_pairs.train_stream[0].dataset])
    longest = padding_of(texts).start
    assert longest < LEAST and all(BATCH < step <= 2 * BATCH * longest for step in counts.steps)
