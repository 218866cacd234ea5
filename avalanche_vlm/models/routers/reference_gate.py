"""A gate in front of any router that knows what out-of-distribution samples look like."""

from __future__ import annotations

import torch

from avalanche_vlm.compat.modules import ResizesOnLoad
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes, tensor_bytes
from avalanche_vlm.models.heads.analytic.ridge import random_features, ridge_solution
from avalanche_vlm.models.routers.base import Route
from avalanche_vlm.models.routers.calibrated import CalibratedRouter
from avalanche_vlm.models.routers.calibration import check_count, check_share


class ReferenceGate(ResizesOnLoad):
    """Ask a router for the task, and let a sample into it if it looks like that task rather than like the reference.

    A threshold around a task says nothing about who else is within it, and lets in more out-of-distribution samples
    with every task. Where there are reference data, which stand for what the pretrained model is to be left with, one
    can do better: per task a ridge regression on random features tells its samples (1) from the reference's (-1), both
    with half of the weight. What is beyond the router's thresholds stays out as well. The gate's own threshold, one for
    all tasks, is set anew with each of them, so that of a held-out fifth of the reference at most the share
    ``ood_accepted`` passes it at the task that the router sends it to. MoE-Adapters' authors also fit a model of their
    router to outside images (arXiv 2403.11549, in the code), as one more place to go to.

    The promise is about samples like the reference, and all tasks together. How many other out-of-distribution samples
    pass, and how many of a task's own are turned away, has to be measured:
    :func:`~avalanche_vlm.models.routers.achieved_rates`.

    :param router: chooses among the tasks.
    :param reference: unit-length features of the plain tower ``[N, D]``, at least ten.
    :param ood_accepted: share of samples like the reference that may be let in, in (0, 1). Fewer than ``1 / (N / 5)``
        cannot be told apart: none of the held-out ones comes in then.
    :param margin: distance that the threshold keeps from the held-out scores, in units of the regression, whose targets
        are 1 and -1; 0 or more.
    :param hidden: number of random features, at least 1.
    :param ridge: weight of the squared weights, in units of the random features' mean square; positive.
    :param seed: seed of the random features, and of what is held out.
    :raises InputError: if an option is out of its range, or there are fewer reference features.
    """

    reference: torch.Tensor
    projection: torch.Tensor
    weights: torch.Tensor
    threshold: torch.Tensor

    def __init__(
        self,
        router: CalibratedRouter,
        reference: torch.Tensor,
        ood_accepted: float = 0.001,
        margin: float = 0.1,
        hidden: int = 1024,
        ridge: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_share("ood_accepted", ood_accepted)
        check_count("hidden", hidden)
        if len(reference) < 10:
            raise InputError(f"a gate needs at least ten reference samples, not {len(reference)}")
        if ridge <= 0 or margin < 0:
            raise InputError(f"a ridge is positive and a margin not negative, not {ridge} and {margin}")
        self.router = router
        self.ood_accepted, self.margin, self.ridge = ood_accepted, margin, ridge
        generator = torch.Generator().manual_seed(seed)
        reference = reference.float()[torch.randperm(len(reference), generator=generator).to(reference.device)]
        projection = torch.randn(reference.shape[1], hidden, generator=generator)
        self.register_buffer("reference", reference.clone())
        self.register_buffer("projection", projection.to(reference))
        self.register_buffer("weights", torch.empty(hidden + 1, 0, device=reference.device))
        self.register_buffer("threshold", torch.zeros((), device=reference.device))

    @property
    def least_samples(self) -> int:
        """Fewest samples of a task that it can be fitted to: those of its router."""
        return self.router.least_samples

    def __len__(self) -> int:
        return len(self.router)

    def fit(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Add the next task, as :meth:`~avalanche_vlm.models.routers.calibrated.CalibratedRouter.fit` does."""
        self.router.fit(features, labels)
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            held, learned = self.reference.float().tensor_split([len(self.reference) // 5])
            self.weights = torch.cat([self.weights, self._tell_apart(features.float(), learned)], 1)
            scores = self._scores(held, self.router.score(held)).sort(descending=True).values
            # The highest score that is one too many: what is above it comes in.
            self.threshold = scores[min(int(self.ood_accepted * len(held)), len(held) - 1)] + self.margin

    @torch.no_grad()
    def score(self, features: torch.Tensor) -> Route:
        """Route samples.

        :param features: unit-length features of the plain tower ``[B, D]``.
        :raises InputError: before the first fit.
        """
        route = self.router.score(features)
        with torch.autocast(features.device.type, enabled=False):
            scores = self._scores(features.float(), route)
        # Written so that NaN stays out.
        return route._replace(is_out_of_distribution=~(scores > self.threshold.float()))

    def stored(self) -> StoredBytes:
        """Bytes of the router, the reference and the gate."""
        return self.router.stored() + StoredBytes(ram=tensor_bytes(self.buffers(recurse=False)))

    def _scores(self, features: torch.Tensor, route: Route) -> torch.Tensor:
        scores = (self._inputs(features) * self.weights.float().T[route.task]).sum(1)
        return scores.masked_fill(route.is_out_of_distribution, -torch.inf)

    def _inputs(self, features: torch.Tensor) -> torch.Tensor:
        inputs = random_features(features, self.projection.float())
        return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)

    def _tell_apart(self, own: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Weights ``[hidden + 1, 1]`` of the regression."""
        gram = products = torch.zeros((), dtype=torch.float64, device=own.device)
        for target, features in ((1.0, own), (-1.0, others)):
            inputs = self._inputs(features).double()
            gram = gram + inputs.T @ inputs / (2 * len(inputs))
            products = products + target * inputs.mean(0)[:, None] / 2
        return ridge_solution(gram, products, self.ridge * gram.diagonal().mean().item()).float()
