r"""Sharpness of the rare classes alone (ImbSAM, Zhou et al., ICCV 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sharpness.errors import UserError
from sharpness.flattening.passes import not_negative, positive_radius, sharpen_part
from sharpness.steps import Batch, Context, Loss, Shards


@dataclass(frozen=True)
class ImbSAM:
    r"""SAM on the loss of the tail classes, a plain gradient on that of the others.

    .. math:: \min_w \; L_{head}(w) + \max_{\|\epsilon\| \le \rho} L_{tail}(w + \epsilon), \qquad
              L_{tail} = \frac{1}{\sum_i a_i} \sum_{i: n_{y_i} < \eta} a_i \ell_i, \quad L_{head} = L - L_{tail}

    .. code-block:: text

        h   = gradient of L_head at w
        g   = gradient of L_tail at w            # from the same forward pass
        eps = rho * g / (|g| + 1e-12)
        w steps with h + tail_factor * gradient of L_tail at w + eps

    Both sums are divided by the total weight of the batch, so that they add up to its loss. The step is a plain one if
    a batch has no tail sample, for example if all classes have the same size and it is at least eta. Any other step
    costs 8/3 of a gradient (``sharpen_part``; three gradients as published).

    Args:
        rho: the radius.
        eta: tail classes have fewer training images than this; 20 is published for CIFAR-100-LT. 0: no tail.
        share: quantile of the class sizes that replaces ``eta`` if no class has fewer than ``eta`` images. 30 % of the
            classes have fewer than 20 images on CIFAR-100-LT at imbalance 100, and fewer than 232 on CIFAR-10-LT. 0: no
            tail in this case.
        tail_factor: 1 is the formula of the paper; the released code multiplies the loss of the tail by 2.
    """

    paper: ClassVar[str] = (
        "Zhou et al., ImbSAM: A Closer Look at Sharpness-Aware Minimization in Class-Imbalanced Recognition, ICCV 2023"
    )
    deviations: ClassVar[tuple[str, ...]] = (
        "ImbSAM weighs the tail as its paper does unless tail_factor is given; the released code doubles it",
        "where no class has fewer than eta images, ImbSAM's tail is the classes that are rarer than a share of them, "
        "which is not published",
        "BatchNorm's running statistics move once a step, in the released code of ImbSAM in both passes",
    )

    sharded: ClassVar[bool] = True

    rho: float = 0.05
    eta: float = 20
    share: float = 0.3
    tail_factor: float = 1.0

    def __post_init__(self) -> None:
        positive_radius("ImbSAM", "rho", self.rho, usual=0.05)
        not_negative("ImbSAM", "eta", self.eta)
        not_negative("ImbSAM", "tail_factor", self.tail_factor)
        if not 0 <= self.share < 1:
            raise UserError(f"share={self.share}: ImbSAM takes a share of the classes for its tail, from 0 to below 1")

    def tail(self, train_counts: Tensor) -> Tensor:
        """Return the mask (C,) of the perturbed classes.

        >>> import torch
        >>> ImbSAM().tail(torch.tensor([500, 100, 19, 5])).tolist()
        [False, False, True, True]
        >>> cifar = torch.tensor([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])
        >>> ImbSAM().tail(cifar).nonzero().flatten().tolist()
        [7, 8, 9]
        >>> int(ImbSAM(eta=1, share=0.29).tail(torch.arange(2, 102)).sum())
        29
        """
        tail = train_counts < self.eta
        if self.eta > 0 and not tail.any():
            number = int(round(self.share * len(train_counts), 9))  # the float 0.29 * 100 is a little below 29
            tail = train_counts < train_counts.sort().values[number]
        return tail

    def backward(self, model: nn.Module, batch: Batch | Shards, loss: Loss, context: Context) -> Tensor:
        factor = self.tail(context.train_counts).float()
        return sharpen_part(model, batch, loss, context, factor, self.rho, scale=self.tail_factor)
