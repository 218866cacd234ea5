"""Training steps of twelve methods in plain PyTorch on an open_clip CLIP: what ``step.py`` puts beside ours.

They are the loops that somebody would write who knows what costs time: prompts cut behind their last end token, each
encoded once, frozen towers' features made once, teachers' features of a reference set likewise, the fused optimizer,
and quadratic penalties added to the gradient. They know nothing of the package.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Inside = Callable[[int, nn.Module, torch.Tensor], torch.Tensor]
"""A residual block: its number, the block, and what goes in."""


@dataclass
class Task:
    """What a step is made of.

    :param prompts: tokens of the classes ``[C, L]``, one prompt each; of a stream of pairs none.
    :param temperature: of distillation.
    :param old: a batch of old samples as ``(images, y)``, or ``(images, tokens)`` for pairs, with prompts before those
        of the task: for replay.
    :param reference: images ``[R, 3, H, W]`` of a reference set.
    :param captions: tokens of its captions ``[R, L]``.
    """

    prompts: torch.Tensor | None
    old: tuple[torch.Tensor, torch.Tensor] | None = None
    old_prompts: torch.Tensor | None = None
    reference: torch.Tensor | None = None
    captions: torch.Tensor | None = None
    temperature: float = 2.0
    options: dict[str, Any] = field(default_factory=dict)


def cut(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens without the positions behind the last end token, which has the largest id."""
    return tokens[:, : int(tokens.argmax(1).max()) + 1]


def plain_block(_number: int, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A residual block as it is, images."""
    return block(x)


def image_features(clip: Any, images: torch.Tensor, inside: Inside = plain_block) -> torch.Tensor:
    """Unit-length features of CLIP's vision transformer."""
    tower = clip.visual
    x = tower.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([tower.class_embedding.expand(len(x), 1, -1), x], 1) + tower.positional_embedding
    x = tower.ln_pre(x)
    for number, block in enumerate(tower.transformer.resblocks):
        x = inside(number, block, x)
    return F.normalize(tower.ln_post(x[:, 0]) @ tower.proj, dim=-1)


def text_features(
    clip: Any, tokens: torch.Tensor, inside: Inside | None = None, context: torch.Tensor | None = None
) -> torch.Tensor:
    """Unit-length features of CLIP's text transformer, of no more positions than there are words.

    :param inside: what happens in a block; None for the block itself, under the causal mask.
    :param context: vectors ``[n, D]`` between the start token and the words.
    """
    tokens = cut(tokens)
    x = clip.token_embedding(tokens)
    n = 0 if context is None else len(context)
    if context is not None:
        x = torch.cat([x[:, :1], context.expand(len(x), -1, -1), x[:, 1:]], 1)
    length = x.shape[1]
    x = x + clip.positional_embedding[:length]
    mask = clip.attn_mask[:length, :length]
    for number, block in enumerate(clip.transformer.resblocks):
        x = block(x, attn_mask=mask) if inside is None else inside(number, block, x)
    x = clip.ln_final(x[torch.arange(len(x)), tokens.argmax(1) + n])
    return F.normalize(x @ clip.text_projection, dim=-1)


def distilled(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross-entropy of rows and of columns with the teacher's softmax, times the squared temperature."""
    rows = F.cross_entropy(student / temperature, F.softmax(teacher / temperature, 1))
    columns = F.cross_entropy(student.T / temperature, F.softmax(teacher.T / temperature, 1))
    return (rows + columns) * temperature**2


class FineTune:
    """Fine-tuning of whole towers.

    :param clip: open_clip's CLIP, which it trains.
    :param task: what a step is made of.
    :param lr: learning rate of AdamW.
    :param pairs: whether batches are images with texts, told apart within the batch.
    """

    text_trains = True

    def __init__(self, clip: nn.Module, task: Task, lr: float, pairs: bool) -> None:
        self.clip: Any = clip.train()
        self.task, self.pairs = task, pairs
        self.prepare()
        for name, parameter in self.clip.named_parameters():
            parameter.requires_grad_(self.trains(name))
        self.weights = [p for p in self.clip.parameters() if p.requires_grad] + self.added()
        self.optimizer = torch.optim.AdamW(self.weights, lr=lr, weight_decay=0.0, fused=True)
        self.cached: torch.Tensor | None = None

    def prepare(self) -> None:
        """Before the task."""

    def trains(self, name: str) -> bool:
        """Whether a weight of the CLIP trains."""
        return name != "logit_scale"

    def added(self) -> list[nn.Parameter]:
        """What trains beside the CLIP's weights."""
        return []

    def image(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.clip.encode_image(images), dim=-1)

    def text(self, tokens: torch.Tensor) -> torch.Tensor:
        return text_features(self.clip, tokens)

    def prompts(self) -> torch.Tensor:
        """Features of the task's prompts, made once where nothing in their way trains."""
        assert self.task.prompts is not None
        if self.text_trains:
            return self.text(self.task.prompts)
        if self.cached is None:
            with torch.no_grad():
                self.cached = self.text(self.task.prompts)
        return self.cached

    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        return self.clip.logit_scale.exp() * images @ texts.T

    def loss(self, images: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The task's loss; of pairs ``y`` are tokens, all different."""
        if not self.pairs:
            return F.cross_entropy(self.logits(self.image(images), self.prompts()), y)
        logits = self.logits(self.image(images), self.text(y))
        own = torch.arange(len(y))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def pull(self) -> None:
        """What is added to the gradients."""

    def step(self, images: torch.Tensor, y: torch.Tensor) -> float:
        """One iteration; the loss before the update."""
        self.optimizer.zero_grad()
        loss = self.loss(images, y)
        loss.backward()
        self.pull()
        self.optimizer.step()
        return loss.item()


class Replay(FineTune):
    """New samples and old ones in a batch; every sample is told among the classes of its own task."""

    def loss(self, images: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        assert self.task.old is not None
        new = len(images)
        images, y = torch.cat([images, self.task.old[0]]), torch.cat([y, self.task.old[1]])
        if self.pairs:
            return super().loss(images, y)
        assert self.task.prompts is not None and self.task.old_prompts is not None
        old, texts = len(self.task.old_prompts), torch.cat([self.task.old_prompts, self.task.prompts])
        logits = self.logits(self.image(images), self.text(texts))
        logits[:new, :old], logits[new:, old:] = -1e4, -1e4
        y = torch.cat([y[:new] + old, y[new:]])
        return F.cross_entropy(logits, y)


class LwF(FineTune):
    """The teacher's answers on the batch itself, against its features of the task's prompts (the batch's texts)."""

    def prepare(self) -> None:
        self.teacher: Any = copy.deepcopy(self.clip).eval().requires_grad_(False)
        with torch.no_grad():
            self.taught = None if self.pairs else text_features(self.teacher, self.task.prompts)

    def loss(self, images: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        features = self.image(images)
        with torch.no_grad():
            texts = text_features(self.teacher, y) if self.taught is None else self.taught
            teacher = self.logits(F.normalize(self.teacher.encode_image(images), dim=-1), texts)
        logits = self.logits(features, self.text(y) if self.pairs else self.prompts())
        own = torch.arange(len(y)) if self.pairs else y
        task = F.cross_entropy(logits, own)
        if self.pairs:
            task = (task + F.cross_entropy(logits.T, own)) / 2
        return task + distilled(self.logits(features, texts), teacher, self.task.temperature)


class ZSCL(FineTune):
    """Distillation on reference images against the teacher's captions, and the distance to the start."""

    def prepare(self) -> None:
        assert self.task.reference is not None and self.task.captions is not None
        with torch.no_grad():
            self.taught = text_features(self.clip, self.task.captions)
            pictures = F.normalize(self.clip.encode_image(self.task.reference), dim=-1)
            self.teacher = self.logits(pictures, self.taught)

    def loss(self, images: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "start"):
            self.start = [w.detach().clone() for w in self.weights]
        student = self.logits(self.image(self.task.reference), self.taught)
        return super().loss(images, y) + distilled(student, self.teacher, self.task.temperature)

    def pull(self) -> None:
        away = torch._foreach_sub([w.detach() for w in self.weights], self.start)
        torch._foreach_add_([w.grad for w in self.weights], away, alpha=2.0)


class SnD(FineTune):
    """The image tower follows two teachers' features of reference images, each where a score says so."""

    text_trains = False

    def prepare(self) -> None:
        assert self.task.reference is not None
        with torch.no_grad():
            self.first = F.normalize(self.clip.encode_image(self.task.reference), dim=-1)
        self.before = self.first.clone()

    def trains(self, name: str) -> bool:
        return name.startswith("visual.")

    def loss(self, images: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        features = self.image(self.task.reference)
        eta = torch.sigmoid(6.0 * ((self.first - self.before).norm(dim=1) - 0.2))
        to_before, to_first = ((features - taught).square().sum(1) for taught in (self.before, self.first))
        return super().loss(images, y) + (9.0 * eta * to_before + 0.5 * (1 - eta) * to_first).mean()


class EWC(FineTune):
    """Fisher-weighted distance to where the last task ended."""

    def pull(self) -> None:
        if not hasattr(self, "anchor"):
            self.anchor = [w.detach().clone() for w in self.weights]
            self.fisher = [torch.rand_like(w) for w in self.weights]
        away = torch._foreach_sub([w.detach() for w in self.weights], self.anchor)
        torch._foreach_mul_(away, self.fisher)
        torch._foreach_add_([w.grad for w in self.weights], away)


class OnTop(FineTune):
    """Modules on frozen towers."""

    text_trains = False

    def trains(self, name: str) -> bool:
        return False

    def added(self) -> list[nn.Parameter]:
        return list(self.modules.parameters())

    @property
    def width(self) -> int:
        return self.clip.visual.transformer.width

    @property
    def blocks(self) -> int:
        return len(self.clip.visual.transformer.resblocks)

    def image(self, images: torch.Tensor) -> torch.Tensor:
        return image_features(self.clip, images, self.inside)

    def inside(self, number: int, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class LoRA(OnTop):
    """Low-rank changes of attention and MLP in every block of the image tower."""

    rank = 8

    def prepare(self) -> None:
        d = self.width
        shapes = {"q": (d, d), "k": (d, d), "v": (d, d), "out": (d, d), "fc": (d, 4 * d), "proj": (4 * d, d)}
        self.modules = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: nn.Sequential(nn.Linear(i, self.rank, bias=False), nn.Linear(self.rank, o, bias=False))
                    for name, (i, o) in shapes.items()
                }
            )
            for _ in range(self.blocks)
        )
        for block in self.modules:
            for module in block.values():
                nn.init.zeros_(module[1].weight)

    def inside(self, number: int, block: Any, x: torch.Tensor) -> torch.Tensor:
        lora: Any = self.modules[number]
        attention, h = block.attn, block.ln_1(x)
        q, k, v = F.linear(h, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        heads = [
            (a + lora[name](h)).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for name, a in zip("qkv", (q, k, v), strict=True)
        ]
        y = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = x + attention.out_proj(y) + lora["out"](y)
        h = block.ln_2(x)
        h = block.mlp.gelu(block.mlp.c_fc(h) + lora["fc"](h))
        return x + block.mlp.c_proj(h) + lora["proj"](h)


def adapter(width: int, bottleneck: int = 64) -> nn.Sequential:
    """A bottleneck whose last layer starts at zero."""
    layers = nn.Sequential(nn.Linear(width, bottleneck), nn.ReLU(), nn.Dropout(0.1), nn.Linear(bottleneck, width))
    nn.init.zeros_(layers[-1].weight)
    return layers


class AdapterPerTask(OnTop):
    """A bottleneck beside the MLP of every block of the image tower."""

    def prepare(self) -> None:
        self.modules = nn.ModuleList(adapter(self.width) for _ in range(self.blocks))

    def inside(self, number: int, block: Any, x: torch.Tensor) -> torch.Tensor:
        x = x + block.attention(block.ln_1(x))
        h = block.ln_2(x)
        return x + block.mlp(h) + 0.1 * self.modules[number](h)


class Experts(nn.Module):
    """Adapters of which a noisy gate gives every sample two, and how unequally a batch uses them."""

    def __init__(self, width: int, experts: int, k: int = 2) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(adapter(width) for _ in range(experts))
        self.gate, self.noise = (nn.Parameter(torch.zeros(width, experts)) for _ in range(2))
        self.k = k
        self.balance = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        clean, deviation = x[:, 0] @ self.gate, F.softplus(x[:, 0] @ self.noise) + 0.01
        noisy = clean + deviation * torch.randn_like(clean)
        top, which = noisy.topk(self.k + 1, 1)
        weights, chosen = top[:, : self.k].softmax(1), which[:, : self.k]
        limit = top[:, self.k - 1 : self.k].expand_as(clean).scatter(1, chosen, top[:, self.k :].expand_as(chosen))
        load = torch.special.ndtr((clean - limit) / deviation).sum(0)
        importance = torch.zeros_like(load).index_add(0, chosen.flatten(), weights.flatten())
        self.balance = sum(v.var(correction=0) / (v.mean().square() + 1e-10) for v in (importance, load))
        total = torch.zeros_like(x)
        for number, expert in enumerate(self.adapters):
            rows, place = (chosen == number).nonzero(as_tuple=True)
            if len(rows):
                total.index_add_(0, rows, 0.1 * weights[rows, place][:, None, None] * expert(x[rows]))
        return total


class MoEAdapters(OnTop):
    """Experts beside the MLP of every block of both towers."""

    text_trains = True

    def prepare(self) -> None:
        n, text = self.task.options.get("experts", 22), self.clip.transformer
        of_texts = [Experts(text.width, n) for _ in text.resblocks]
        self.modules = nn.ModuleDict(
            {
                "image": nn.ModuleList(Experts(self.width, n) for _ in range(self.blocks)),
                "text": nn.ModuleList(of_texts),
            }
        )

    def inside(self, number: int, block: Any, x: torch.Tensor) -> torch.Tensor:
        x = x + block.attention(block.ln_1(x))
        h = block.ln_2(x)
        return x + block.mlp(h) + self.modules["image"][number](h)

    def in_text(self, number: int, block: Any, x: torch.Tensor) -> torch.Tensor:
        mask = self.clip.attn_mask[: x.shape[1], : x.shape[1]]
        x = x + block.attention(block.ln_1(x), attn_mask=mask)
        h = block.ln_2(x)
        return x + block.mlp(h) + self.modules["text"][number](h)

    def text(self, tokens: torch.Tensor) -> torch.Tensor:
        return text_features(self.clip, tokens, self.in_text)

    def loss(self, images: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = super().loss(images, y)
        return loss + 0.01 * sum(e.balance for of_tower in self.modules.values() for e in of_tower)


class CoOp(OnTop):
    """A learned context in front of every prompt; the image tower is as it was."""

    text_trains = True

    def prepare(self) -> None:
        self.context = nn.Parameter(0.02 * torch.randn(4, self.clip.transformer.width))

    def added(self) -> list[nn.Parameter]:
        return [self.context]

    def image(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return F.normalize(self.clip.encode_image(images), dim=-1)

    def text(self, tokens: torch.Tensor) -> torch.Tensor:
        return text_features(self.clip, tokens, context=self.context)


class MaPLe(OnTop):
    """Deep text prompts, and visual prompts that are linear functions of them."""

    text_trains = True
    length = 2

    def prepare(self) -> None:
        text = self.clip.transformer
        self.depth = min(9, self.blocks, len(text.resblocks))
        self.modules = nn.ModuleList(nn.Linear(text.width, self.width) for _ in range(self.depth))
        self.contexts = nn.ParameterList(0.02 * torch.randn(self.length, text.width) for _ in range(self.depth))

    def added(self) -> list[nn.Parameter]:
        return [*self.modules.parameters(), *self.contexts]

    def inside(self, number: int, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if number < self.depth:
            visual = self.modules[number](self.contexts[number]).expand(len(x), -1, -1)
            x = torch.cat([x if number == 0 else x[:, : -self.length], visual], 1)
        x = block(x)
        return x[:, : -self.length] if number == self.blocks - 1 else x

    def in_text(self, number: int, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if 0 < number < self.depth:
            context = self.contexts[number].expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], context, x[:, 1 + self.length :]], 1)
        return block(x, attn_mask=self.clip.attn_mask[: x.shape[1], : x.shape[1]])

    def text(self, tokens: torch.Tensor) -> torch.Tensor:
        return text_features(self.clip, tokens, self.in_text, self.contexts[0])


BARE: dict[str, type[FineTune]] = {
    "fine-tune": FineTune,
    "replay": Replay,
    "lwf": LwF,
    "zscl": ZSCL,
    "snd": SnD,
    "ewc-clip": EWC,
    "magmax": FineTune,
    "lora": LoRA,
    "adapter-per-task": AdapterPerTask,
    "moe-adapters": MoEAdapters,
    "coop": CoOp,
    "maple": MaPLe,
}
"""The step of each recipe; magmax merges at a task's end and is fine-tuning until then."""
