"""Ridge regression on random features: recursive (RAIL's primal form), and from the Gram matrix (RanPAC)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from avalanche_vlm._memory import refuse_beyond
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.heads.analytic.base import Estimator, widened

RIDGES = tuple(10.0**power for power in range(-8, 9))
"""From which RanPAC chooses."""


def random_features(features: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
    """``ReLU(x W)``: features ``[N, D]`` and projection ``[D, H]`` to ``[N, H]``.

    >>> random_features(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, -1.0], [0.5, 0.0]])).tolist()
    [[2.0, 0.0]]
    """
    return (features @ projection).relu_()


def recursive_update_(
    inverse: torch.Tensor, weights: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor
) -> None:
    """Take samples into a ridge solution, in place (the recursion of RAIL's primal form, arXiv 2406.18868).

    With ``G = R X^T (I + X R X^T)^-1``, ``R <- R - G X R`` is the inverse by Woodbury's identity, and since G is the
    new ``R X^T``, ``W <- W + G (Y - X W)``. So the result is the solution on all samples so far, however they were cut
    into calls.

    :param inverse: R, of the regularised Gram matrix, ``[H, H]``; ``I / ridge`` before the first sample.
    :param weights: W, ``[H, C]``; zero for a class without samples.
    :param inputs: X, ``[n, H]``.
    :param targets: Y, ``[n, C]``.

    >>> R, W = torch.eye(1) / 0.5, torch.zeros(1, 1)
    >>> for x, y in ((1.0, 2.0), (2.0, 1.0)):
    ...     recursive_update_(R, W, torch.tensor([[x]]), torch.tensor([[y]]))
    >>> round(W.item(), 5) == round((1 * 2 + 2 * 1) / (1 + 4 + 0.5), 5)
    True
    """
    covered = inverse @ inputs.T
    inner = (inputs @ covered).add_(torch.eye(len(inputs), dtype=inputs.dtype, device=inputs.device))
    gain = torch.cholesky_solve(covered.T, torch.linalg.cholesky(inner)).T
    inverse.addmm_(gain, covered.T, alpha=-1)
    # Rounding would let the two halves drift apart, and then the recursion.
    inverse.add_(inverse.T.clone()).mul_(0.5)
    weights.addmm_(gain, targets - inputs @ weights)


def ridge_solution(gram: torch.Tensor, products: torch.Tensor, ridge: float) -> torch.Tensor:
    """``(X^T X + ridge I)^-1 X^T Y``, ``[H, C]``.

    :param gram: X^T X, ``[H, H]``.
    :param products: X^T Y, ``[H, C]``.
    """
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), products)


def choose_ridge(inputs: torch.Tensor, targets: torch.Tensor, ridges: Sequence[float] = RIDGES) -> float:
    """The ridge under which the first four fifths of the samples predict the last fifth with the least squared error
    (as RanPAC's code does it, arXiv 2307.02251).

    :param inputs: ``[N, H]``, at least two, in random order.
    :param targets: one-hot labels ``[N, C]``.
    """
    n = min(int(0.8 * len(inputs)), len(inputs) - 1)
    # One decomposition serves all candidates.
    values, vectors = torch.linalg.eigh(inputs[:n].T @ inputs[:n])
    products = vectors.T @ (inputs[:n].T @ targets[:n])
    held = inputs[n:] @ vectors
    values = values.clamp_min(0)[:, None]
    losses = [(held @ (products / (values + ridge)) - targets[n:]).square().mean().item() for ridge in ridges]
    return ridges[losses.index(min(losses))]


class RandomFeatures(Estimator):
    """Base of the estimators on random features: the projection, drawn with the first experience.

    :param hidden: random features, at least 1.
    :param spread: ``"uniform"`` draws the projection from +- 1 / sqrt(D), ``"normal"`` from N(0, 1).
    :param seed: seed of the projection, 0 or more.
    :raises InputError: if there are none, or more than there is memory for.
    """

    projection: torch.Tensor
    weights: torch.Tensor

    def __init__(self, hidden: int, spread: str, seed: int, precision: str) -> None:
        super().__init__(precision)
        if hidden < 1:
            raise InputError(f"there is 1 random feature or more, not {hidden}")
        refuse_beyond(hidden**2 * self.dtype.itemsize, f"the products of {hidden:,} random features")
        self.hidden, self.spread, self.seed = hidden, spread, seed
        self.register_buffer("projection", torch.zeros(0, hidden, dtype=self.dtype))
        self.register_buffer("weights", torch.zeros(hidden, 0, dtype=self.dtype))

    @property
    def width(self) -> int:
        """Numbers per feature, 0 before the first."""
        return len(self.projection)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Random features ``[N, hidden]``."""
        if not self.width:
            # On the CPU, so that a seed means the same on every device.
            generator, shape = torch.Generator().manual_seed(self.seed), (features.shape[1], self.hidden)
            if self.spread == "normal":
                drawn = torch.randn(shape, generator=generator)
            else:
                drawn = (2 * torch.rand(shape, generator=generator) - 1) / features.shape[1] ** 0.5
            self.projection = drawn.to(features)
        return random_features(features, self.projection)

    def estimate(self, features: torch.Tensor, competes: torch.Tensor) -> torch.Tensor:
        """Values of the regression ``[B, C]``."""
        return self.project(features) @ self.weights


class RecursiveRidge(RandomFeatures):
    """RAIL's primal form: recursive least squares on random features (Xu et al., arXiv 2406.18868).

    After any number of experiences the weights are those of one ridge regression of the one-hot labels on all samples
    (to 1e-6 in float64; in float32 to some 1e-3, which the tests hold). Nothing of the samples is kept but the inverse
    Gram matrix: ``hidden^2`` numbers. The published 15,000 random features make it 900 MB in float32 and 1.8 GB in
    float64; the default of 1,024 makes it 8 MB.

    The estimates are raw regression values: near 0 and 1, but not probabilities.

    :param hidden: random features; published: 15000.
    :param ridge: weight of the squared weights, positive.
    :param chunk: samples per update; changes nothing but the speed.
    :param seed: seed of the projection, uniform in +- 1 / sqrt(D) as in the authors' code.
    :param precision: precision of the state, ``"float64"`` or ``"float32"``.
    """

    inverse: torch.Tensor

    def __init__(
        self, hidden: int = 1024, ridge: float = 0.1, *, chunk: int = 256, seed: int = 0, precision: str = "float64"
    ) -> None:
        super().__init__(hidden, "uniform", seed, precision)
        if ridge <= 0 or chunk < 1:
            raise InputError(f"the ridge is positive and a chunk has 1 sample or more: not {ridge} and {chunk}")
        self.ridge, self.chunk = ridge, chunk
        self.register_buffer("inverse", torch.zeros(0, 0, dtype=self.dtype))

    def update(self, features: torch.Tensor, y: torch.Tensor) -> None:
        if not len(self.inverse):
            self.inverse = torch.eye(self.hidden, dtype=self.dtype, device=features.device) / self.ridge
        self.weights = widened(self.weights.to(features), len(self.known))
        for part, labels in zip(features.split(self.chunk), y.split(self.chunk), strict=True):
            recursive_update_(self.inverse, self.weights, self.project(part), self.targets(labels))


class RandomProjectionRidge(RandomFeatures):
    """RanPAC without its first-session tuning: class prototypes of random features, decorrelated by the inverse of
    their Gram matrix (McDonnell et al., arXiv 2307.02251).

    The Gram matrix and the sums of each class's random features add up over the experiences. The ridge is chosen anew
    with each of them on its own data alone, as in the authors' code: of 1e-8, 1e-7, ..., 1e8 the one with the least
    squared error on a fifth that the other four were fitted without. An experience of a single sample keeps the ridge.
    The published 10,000 random features make the Gram matrix 800 MB in float64.

    Differs from the code: features are of unit length there only if the network makes them so.

    :param hidden: random features; published: 10000.
    :param seed: seed of the projection, N(0, 1) as published, and of the split.
    :param precision: precision of the state, ``"float64"`` or ``"float32"``.
    """

    gram: torch.Tensor
    products: torch.Tensor
    ridge: torch.Tensor

    def __init__(self, hidden: int = 1024, *, seed: int = 0, precision: str = "float64") -> None:
        super().__init__(hidden, "normal", seed, precision)
        self.register_buffer("gram", torch.zeros(0, 0, dtype=self.dtype))
        self.register_buffer("products", torch.zeros(hidden, 0, dtype=self.dtype))
        self.register_buffer("ridge", torch.ones((), dtype=torch.float64))

    def update(self, features: torch.Tensor, y: torch.Tensor) -> None:
        inputs, targets = self.project(features), self.targets(y)
        if not len(self.gram):
            self.gram = inputs.new_zeros(self.hidden, self.hidden)
        self.gram = self.gram.addmm(inputs.T, inputs)
        self.products = widened(self.products.to(inputs), len(self.known)).addmm(inputs.T, targets)
        if len(y) > 1:
            order = torch.randperm(len(y), generator=torch.Generator().manual_seed(self.seed)).to(y.device)
            self.ridge = torch.full_like(self.ridge, choose_ridge(inputs[order], targets[order]))
        self.weights = ridge_solution(self.gram, self.products, float(self.ridge))
