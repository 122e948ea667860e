r"""Sharpness of every class, with a larger weight for rarer classes (Focal-SAM, Li et al., ICML 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sharpness.flattening.passes import not_negative, positive_radius, sharpen_part
from sharpness.steps import Batch, Context, Loss, Shards


@dataclass(frozen=True)
class FocalSAM:
    r"""The loss and lambda times the sharpness of a focal part of it, with class c weighed by (1 - n_c / N)^gamma.

    .. math:: \min_w \; L(w) + \lambda \Big[\max_{\|\epsilon\| \le \rho} L^\gamma(w + \epsilon) - L^\gamma(w)\Big],
              \qquad L^\gamma = \frac{\sum_i (1 - \pi_{y_i})^\gamma a_i \ell_i}{\sum_i a_i}, \quad \pi_c = n_c / N

    .. code-block:: text

        h   = gradient of L - lambda * L^gamma at w
        g   = gradient of L^gamma at w             # from the same forward pass
        eps = rho * g / (|g| + 1e-12)
        w steps with h + lambda * gradient of L^gamma at w + eps

    lambda = 0 is plain SGD; gamma = 0 and lambda = 1 is SAM. A step costs 8/3 of a gradient for any number of classes
    (``sharpen_part``; three gradients as published).

    Args:
        rho, gamma, lam: radius, focus and weight. Published with logit adjustment: 0.2, 3, 0.5 for CIFAR-10-LT at
            imbalance 100 (the default); 0.3, 3.2, 0.8 for CIFAR-100-LT; radius 0.1 rising to 0.2, 0.8, 0.8 for
            ImageNet-LT; 0.2, 2, 1.1 for iNaturalist.
    """

    paper: ClassVar[str] = (
        "Li et al., Focal-SAM: Focal Sharpness-Aware Minimization for Long-Tailed Classification, ICML 2025"
    )
    deviations: ClassVar[tuple[str, ...]] = (
        "BatchNorm's running statistics move once a step, in the released code of Focal-SAM in all passes",
    )

    sharded: ClassVar[bool] = True

    rho: float = 0.2
    gamma: float = 3.0
    lam: float = 0.5

    def __post_init__(self) -> None:
        positive_radius("Focal-SAM", "rho", self.rho, usual=0.2)
        not_negative("Focal-SAM", "gamma", self.gamma)
        not_negative("Focal-SAM", "lam", self.lam)

    def backward(self, model: nn.Module, batch: Batch | Shards, loss: Loss, context: Context) -> Tensor:
        counts = context.train_counts.double()
        factor = self.lam * (1 - counts / counts.sum()) ** self.gamma
        return sharpen_part(model, batch, loss, context, factor, self.rho)
