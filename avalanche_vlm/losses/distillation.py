"""Knowledge distillation on logit matrices."""

from __future__ import annotations

from typing import Literal

import torch

Direction = Literal["rows", "columns", "both"]


def logit_distillation(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 2.0, direction: Direction = "both"
) -> torch.Tensor:
    """Cross-entropy of the student's softened distribution against the teacher's, times T^2 (Hinton et al., arXiv
    1503.02531).

    ``"rows"`` compares each image's distribution over the texts, ``"columns"`` each text's over the images,
    ``"both"`` is the sum of the two: ZSCL's L_dist_img + L_dist_txt (arXiv 2303.06628, eq. 4-5).

    :param student: logits ``[B, N]`` of the model that trains.
    :param teacher: logits ``[B, N]`` to imitate; no gradient flows into them.
    :param temperature: positive number that both sides' logits are divided by.
    :return: scalar, the mean over rows (columns) of the cross-entropy. Its minimum is the teacher's entropy times T^2,
        not zero; its gradient vanishes where the student equals the teacher.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]], requires_grad=True)
    >>> loss = logit_distillation(logits, logits.detach())
    >>> loss.backward(); round(loss.item(), 4), logits.grad.abs().max().item() < 1e-6
    (4.6576, True)
    """
    # Along dimension 0 the columns need no transposed copies: half the time where the texts are many.
    dims = {"rows": (1,), "columns": (0,), "both": (1, 0)}[direction]
    student, teacher = student / temperature, teacher.detach() / temperature
    crosses = [-(teacher.softmax(dim) * student.log_softmax(dim)).sum() / student.shape[1 - dim] for dim in dims]
    return torch.stack(crosses).sum() * temperature**2
