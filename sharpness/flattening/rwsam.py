r"""Uphill by the re-weighted loss, downhill by the loss itself (rwSAM, Liu et al., ICLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sharpness.flattening.passes import Passes, ascent, not_negative, positive_radius, reweighted
from sharpness.steps import Batch, Context, Loss, Shards


@dataclass(frozen=True)
class ReweightedSAM:
    r"""SAM whose perturbation comes from the loss with class c weighed by n_c^-p: uphill by that, downhill by the loss.

    .. code-block:: text

        v_c = n_c^-p, scaled so that its mean over the training images is 1
        g   = gradient of L_v at w, the loss with the terms of class c multiplied by v_c
        eps = rho * g / (|g| + 1e-12)
        w steps with the gradient of L at w + eps           # not re-weighted

    p = 0 is SAM. L and L_v share their forward pass, so a step costs two gradients. L keeps the sample weights of the
    method.

    The paper trains without labels (SimSiam, MoCo), with an adaptive radius of 7 on CIFAR and weights from a kernel
    density estimate of the features. This is the counterpart for labelled data, where class frequencies replace the
    density. There are no published values of radius and exponent: the defaults are SAM's radius and inverse frequency.

    Args:
        rho: the radius.
        p: exponent of the weights.
    """

    paper: ClassVar[str] = "Liu et al., Self-Supervised Learning Is More Robust to Dataset Imbalance, ICLR 2022"
    deviations: ClassVar[tuple[str, ...]] = (
        "rwSAM weighs classes by their size; published for self-supervised learning, with densities of features and "
        "an adaptive radius",
    )

    sharded: ClassVar[bool] = True

    rho: float = 0.05
    p: float = 1.0

    def __post_init__(self) -> None:
        positive_radius("rwSAM", "rho", self.rho, usual=0.05)
        not_negative("rwSAM", "p", self.p)

    def class_weights(self, train_counts: Tensor) -> Tensor:
        """Return the weights v of the classes, shape (C,).

        >>> import torch
        >>> ReweightedSAM().class_weights(torch.tensor([30, 10])).tolist()
        [0.6666666666666666, 2.0]
        """
        counts = train_counts.double().clamp_min(1)
        weights = (counts / counts.max()) ** -self.p
        return weights * counts.sum() / (counts * weights).sum()

    def backward(self, model: nn.Module, batch: Batch | Shards, loss: Loss, context: Context) -> Tensor:
        weights = self.class_weights(context.train_counts)
        passes = Passes(model, context)
        value, (gradient,) = passes.over(batch, lambda b, c: reweighted(loss, model, b, c, weights**0, weights))
        passes.descend(loss, batch, ascent(gradient, self.rho))
        return value
