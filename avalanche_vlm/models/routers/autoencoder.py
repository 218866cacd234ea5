"""The best reconstruction."""

from __future__ import annotations

import torch

from avalanche_vlm.models.routers.calibrated import CalibratedRouter, TaskParts
from avalanche_vlm.models.routers.calibration import check_count
from avalanche_vlm.models.routers.registry import register_router
from avalanche_vlm.weights.fused import can_be_fused

_ROOM = 2**20
"""Numbers of the reconstructions that are made at once: four megabytes."""


@register_router("autoencoder")
class AutoencoderRouter(CalibratedRouter):
    """The best reconstruction by one small autoencoder per task (DDAS of MoE-Adapters, Yu et al., arXiv 2403.11549).

    Linear, ReLU, linear; a task's distance to a sample is the mean squared error. Batches, Adam, weight decay and
    learning rate are those of the authors' code: its optimizer is made with 3e-3, and its schedule sets 1e-2 before
    every step. Left out is that schedule's division by ten after every ten passes through the data, which few samples
    would come to within their first steps; there are 300 steps there. That code works on sigmoids of an AlexNet's last
    feature map (43,264 numbers, 100 hidden units), reconstructs them by a sigmoid, has one threshold for all tasks, and
    takes the error's mean over the whole batch. Here it is the VLM's own features, centred on the task's mean and
    divided by one number; a threshold per task; and every sample for itself.

    :param quantile: share of a task's own samples that the threshold lets in, in (0, 1).
    :param hidden: units; half the features' width if that is less.
    :param steps: number of training steps, whatever the number of samples. More is not always better: the threshold
        then comes from samples that are reconstructed worse than the learned ones.
    :param seed: seed of weights and batches, 0 or more; the global random state is left alone.
    :raises InputError: if an option is out of its range.
    """

    parts = ("encode", "encode_bias", "decode", "decode_bias")

    batch_size, learning_rate, weight_decay = 64, 1e-2, 1e-4

    def __init__(self, quantile: float = 0.95, hidden: int = 64, steps: int = 500, seed: int = 0) -> None:
        super().__init__(quantile)
        check_count("hidden", hidden)
        check_count("steps", steps)
        self.hidden = hidden
        self.steps = steps
        self.seed = seed

    def _learn(self, features: torch.Tensor, labels: torch.Tensor) -> TaskParts:
        mean = features.mean(0)
        scale = (features - mean).square().mean().sqrt().clamp_min(1e-6)
        encode, encode_bias, decode, decode_bias = self._train((features - mean) / scale)
        # Weights that take features as they are: centring and scaling are linear too.
        encode = encode / scale
        encode_bias = encode_bias - mean @ encode
        parts = (encode, encode_bias, decode * scale, decode_bias * scale + mean)
        return dict(zip(self.parts, (part[None] for part in parts), strict=True))

    def _measure(self, features: torch.Tensor, parts: TaskParts) -> torch.Tensor:
        weights = [parts[name] for name in self.parts]
        # Not all tasks at once, which would hold all reconstructions, B x T x D numbers.
        step = max(1, _ROOM // max(1, features.numel()))
        errors = []
        for tasks in zip(*(of_all.split(step) for of_all in weights), strict=True):
            encode, encode_bias, decode, decode_bias = tasks
            hidden = torch.baddbmm(encode_bias[:, None], features.expand(len(encode), -1, -1), encode).relu()
            errors.append((torch.baddbmm(decode_bias[:, None], hidden, decode) - features).square().mean(2))
        return torch.cat(errors).T

    def _train(self, samples: torch.Tensor) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        width = samples.shape[1]
        hidden = min(self.hidden, max(1, width // 2))
        weights = [
            torch.randn(width, hidden, generator=generator) * (2 / width) ** 0.5,
            torch.zeros(hidden),
            torch.randn(hidden, width, generator=generator) * (1 / hidden) ** 0.5,
            torch.zeros(width),
        ]
        weights = [weight.to(samples.device).requires_grad_() for weight in weights]
        optimizer = torch.optim.Adam(
            weights, lr=self.learning_rate, weight_decay=self.weight_decay, fused=can_be_fused(weights) or None
        )
        # The caller needs no gradients; this does.
        with torch.enable_grad():
            for _ in range(self.steps):
                rows = torch.randint(len(samples), (self.batch_size,), generator=generator)
                batch = samples[rows.to(samples.device)]
                loss = (_reconstruct(batch, weights) - batch).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return [weight.detach() for weight in weights]


def _reconstruct(samples: torch.Tensor, weights: tuple[torch.Tensor, ...] | list[torch.Tensor]) -> torch.Tensor:
    encode, encode_bias, decode, decode_bias = weights
    return torch.addmm(decode_bias, torch.addmm(encode_bias, samples, encode).relu(), decode)
