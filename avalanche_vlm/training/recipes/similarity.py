"""Cross-modal regularization (CREG) by the distillation of similarity matrices."""

from __future__ import annotations

import torch

from avalanche_vlm.losses.similarity import two_way
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins import Comparison, DistillationPlugin
from avalanche_vlm.training.recipes.registry import Plugins, recipe
from avalanche_vlm.training.reference import CurrentBatch
from avalanche_vlm.training.teachers import PreviousTeacher


@recipe("mod-x", family="CREG")
def mod_x(model: VLM, *, weight: float = 20.0, temperature: float = 1.0) -> Plugins:
    """Mod-X: the off-diagonal of the batch's similarities stays as the previous model had it, rows and columns in
    which that model errs excepted (Ni et al., arXiv 2305.07437, section 3.3).

    The authors' code multiplies the mean of the two directions, each summed over its rows, by 20, with plain cosines.
    Ours averages over the rows, so the published weight is ``20 * batch size`` here; the default is milder. On
    class-labelled streams the texts are the prompts of the classes in the batch.

    :param weight: of the mean over rows and directions.
    :param temperature: divides the *scaled* similarities; the published plain cosines are a temperature of the model's
        scale.
    """

    def loss(c: Comparison) -> torch.Tensor:
        return weight * two_way(
            c.student.logits, c.teacher.logits, temperature=temperature, rows="mod-x", right=c.matches
        )

    return [DistillationPlugin(model, loss, CurrentBatch("batch"), PreviousTeacher())]
