r"""Sharpness-aware minimisation, plain (Foret et al., ICLR 2021) and adaptive (Kwon et al., ICML 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sharpness.errors import choose
from sharpness.flattening.passes import Gradient, Passes, ascent, not_negative, positive_radius
from sharpness.steps import Batch, Context, Loss, Shards, joint_norm


@dataclass(frozen=True)
class SAM:
    r"""The gradient at w + rho g / |g|, with g the gradient at w: the worst point nearby, to first order.

    .. code-block:: text

        g   = gradient of L at w
        eps = rho * g / (|g| + 1e-12)          # one norm over all trainable parameters
        G   = gradient of L at w + eps
        w steps with G

    BatchNorm's running statistics move in the first pass only; weight decay acts in the optimiser, not in eps.
    Both passes use the same random numbers, those of the loss and of dropout. A step costs two gradients.

    Re-weighted and margin losses need large radii (Rangwani et al., NeurIPS 2022): 0.5 for CE-DRW and 0.8 for
    LDAM-DRW on CIFAR-10-LT, compared with 0.1 for cross-entropy.
    """

    paper: ClassVar[str] = (
        "Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR 2021"
    )
    deviations: ClassVar[tuple[str, ...]] = (
        "BatchNorm's running statistics move once a step, in the released code of Saddle-LongTail (Rangwani et al.) in "
        "both passes",
    )

    sharded: ClassVar[bool] = True

    rho: float = 0.05

    def __post_init__(self) -> None:
        positive_radius("SAM", "rho", self.rho, usual=0.05)

    def backward(self, model: nn.Module, batch: Batch | Shards, loss: Loss, context: Context) -> Tensor:
        passes = Passes(model, context)
        value, gradient = passes.start(loss, batch)
        passes.descend(loss, batch, ascent(gradient, self.rho))
        return value


@dataclass(frozen=True)
class ASAM:
    r"""SAM at w + rho T^2 g / |T g|, T = |w| + eta: in a ball that scales with every weight, and so with every layer.

    .. code-block:: text

        g   = gradient of L at w
        T   = |w| + eta                        # of every element
        eps = rho * T^2 * g / (|T * g| + 1e-12)
        G   = gradient of L at w + eps
        w steps with G

    A step costs two gradients.

    Args:
        rho: the radius, relative to the weights.
        eta: keeps elements near 0 moving. Adaptive SAM is mostly run with 0 and radius 2: all parameters are treated
            alike, and an element that is exactly 0, such as that of a new bias, is not perturbed. The authors' code has
            0.01, with radius 0.5 for CIFAR-10 and 1 for CIFAR-100.
        biases: ``"adaptive"``, or ``"plain"`` for T = 1 at every bias (of BatchNorm as well), as in the authors' code.
    """

    paper: ClassVar[str] = (
        "Kwon et al., ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural "
        "Networks, ICML 2021"
    )
    deviations: ClassVar[tuple[str, ...]] = (
        "BatchNorm's running statistics move once a step, in the released code of ASAM in both passes",
    )

    sharded: ClassVar[bool] = True

    rho: float = 2.0
    eta: float = 0.0
    biases: str = "adaptive"

    def __post_init__(self) -> None:
        positive_radius("ASAM", "rho", self.rho, usual=2.0)
        not_negative("ASAM", "eta", self.eta)
        choose("biases", self.biases, ("adaptive", "plain"))

    def backward(self, model: nn.Module, batch: Batch | Shards, loss: Loss, context: Context) -> Tensor:
        passes = Passes(model, context)
        value, gradient = passes.start(loss, batch)
        passes.descend(loss, batch, self._ascent(gradient, passes.parameters))
        return value

    def _ascent(self, gradient: Gradient, parameters: dict[str, nn.Parameter]) -> Gradient:
        plain = {n for n in gradient if self.biases == "plain" and n.endswith("bias")}
        sizes = {n: 1.0 if n in plain else parameters[n].detach().abs() + self.eta for n in gradient}
        scaled = {n: sizes[n] * g for n, g in gradient.items()}
        length = self.rho / (joint_norm(scaled.values()) + 1e-12)
        return {n: length * sizes[n] * g for n, g in scaled.items()}
