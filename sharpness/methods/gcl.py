r"""Gaussian clouded logits (Li, Cheung and Lu, CVPR 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from sharpness.data import LongTail, epoch_indices
from sharpness.methods.changes import Rescale
from sharpness.methods.cross_entropy import TENTHS
from sharpness.methods.recipe import Recipe, Stage
from sharpness.methods.schedules import Cosine
from sharpness.steps import Context, Loss

#: E|clamp(e, -1, 1)| for e ~ N(0, (1/3)^2): the folded normal below 3 sigma plus the mass that is clamped to 1.
MEAN_ABSOLUTE_NOISE = math.sqrt(2 / math.pi) / 3 * (1 - math.exp(-4.5)) + math.erfc(3 / math.sqrt(2))


def cloud_sizes(train_counts: Tensor) -> Tensor:
    """Return ``(log n_max - log n_c) / (log n_max - log n_min)``, shape (C,).

    The value is 0 for the largest class and 1 for the rarest; all are 0 if all classes have the same size.
    """
    delta = train_counts.double().max().log() - train_counts.double().log()
    # The clamp avoids 0 / 0 for classes of equal size; a branch on a value would prevent capture as a CUDA graph.
    return delta / delta.max().clamp_min(torch.finfo(torch.float64).tiny)


@dataclass(frozen=True)
class GCL(Loss):
    r"""Cross-entropy of logits s (cos - kappa |noise| delta_c - m 1_y), clouded with a margin, times (1 - p_y)^gamma.

    .. math:: u'_{ic} = u_{ic} - s \kappa |\varepsilon_{ic}| \bar\delta_c - s m 1[c = y_i], \qquad
              \varepsilon_{ic} \sim N(0, (1/3)^2) \text{ clamped to } [-1, 1]

    times :math:`(1 - p_y)^\gamma`, with p detached. Each call draws independent noise for every logit.
    The logits are those of a cosine head with scale s. ``noise="mean"`` replaces :math:`|\varepsilon|` by its mean.
    """

    scale: float = 30.0
    kappa: float = 0.5
    margin: float = 0.0
    gamma: float = 0.0
    noise: str = "gaussian"
    capturable = True

    def terms(self, logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        if self.noise == "mean":
            noise = torch.full_like(logits, MEAN_ABSOLUTE_NOISE)
        else:
            noise = context.normal(logits).div(3).clamp(-1, 1).abs().to(logits)
        clouded = logits - self.scale * self.kappa * noise * cloud_sizes(context.train_counts).to(logits)
        clouded = clouded - self.scale * self.margin * F.one_hot(labels, logits.shape[1])
        losses = F.cross_entropy(clouded, labels, reduction="none")
        if self.gamma:
            losses = (1 - torch.exp(-losses.detach())) ** self.gamma * losses
        return losses, torch.ones_like(losses)

    def deterministic(self) -> Loss:
        return replace(self, noise="mean")


def recipe(longtail: LongTail, sampler: str = "inverse_frequency", mixup: float = 1.0, kappa: float = 0.5) -> Recipe:
    """Both stages as released for CIFAR.

    Args:
        sampler: sampler of stage 2; the code's default is ``"inverse_frequency"``, the paper describes ``"cben"``.
        mixup: alpha of both stages, 0 for no mixup.
        kappa: size of the clouds in both stages.

    Raises:
        UserError: an unknown sampler.
    """
    # Checked by a trial draw, because the sampler is first used after stage 1 has been trained.
    epoch_indices(str(sampler), torch.zeros(1, dtype=torch.int64), 1, torch.Generator())
    return Recipe(
        method="gcl",
        paper="Li, Cheung and Lu, Long-Tailed Visual Recognition via Gaussian Clouded Logit Adjustment, CVPR 2022",
        head="cosine",
        scale=30.0,
        stages=(
            Stage("clouded logits", 200, GCL(kappa=kappa), TENTHS, mixup=mixup, batch_size=64),
            # The head and the loss, which multiplies its margins by the scale, must change their scale together.
            Stage(
                "classifier re-balancing",
                30,
                GCL(scale=20.0, kappa=kappa, margin=0.1, gamma=1.0),
                Cosine(),
                sampler=sampler,
                mixup=mixup,
                lr=0.002,
                batch_size=64,
                trainable="head",
                enter=(Rescale(20.0),),
            ),
        ),
        notes=(
            "stage 2 starts from the last epoch of stage 1, in the released code from the best on the test set",
            *(() if sampler == "cben" else (f"stage 2 draws images by {sampler}; the paper describes cben",)),
        ),
    )
