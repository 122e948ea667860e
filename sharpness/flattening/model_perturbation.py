r"""Training under random noise on the last convolutions (F2M, Shi et al., NeurIPS 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sharpness.errors import UserError, choose
from sharpness.flattening.passes import Passes, not_negative
from sharpness.steps import Batch, Context, Loss, PlainStep, Shards, trainable

LEVELS = 5


@dataclass(frozen=True)
class ModelPerturbation:
    r"""The mean gradient at w + b v, with v random noise in [-1/2, 1/2] on the weights of the last convolutions.

    .. math:: G = \frac{1}{M} \sum_{m=1}^M \nabla L(w + b\, v_m), \qquad v_m \in [-1/2, 1/2]^k

    .. code-block:: text

        repeat M times:
            v  = noise on the weights of the last convolutions, 0 elsewhere
            G += gradient of L at w + b * v, divided by M
        w steps with G

    The loss at the unperturbed weights is never evaluated, so a step costs M gradients; the reported value is the mean
    loss of the draws, which the step minimises. BatchNorm's running statistics move in the first draw only, and all
    draws use the same random numbers of the loss. A stage that trains only the head has no convolution to perturb and
    takes plain steps; a network without convolutions is refused. Under spectral normalisation the noise is added to the
    weights before the division.

    F2M draws the five levels from a beta distribution with one random shape per tensor, and adds twice the standard
    deviation of the losses of the draws. Here the levels are equally likely and only the mean is minimised. The
    prototype-fixing loss of F2M belongs to incremental learning and is left out.

    Args:
        bound: b; 0.01 for CIFAR-100 (4 layers), 0.016 for miniImageNet (8 layers), 2e-4 for CUB.
        draws: M.
        layers: number of convolutions that are perturbed, the last ones of the network.
        noise: ``"levels"``: every element of v is one of -1/2, -1/4, 0, 1/4, 1/2; ``"uniform"``: uniform between.
    """

    paper: ClassVar[str] = (
        "Shi et al., Overcoming Catastrophic Forgetting in Incremental Few-Shot Learning by Finding Flat Minima, "
        "NeurIPS 2021"
    )
    deviations: ClassVar[tuple[str, ...]] = (
        "MP's levels of noise are equally likely, of mean 0 and standard deviation 0.35 bound; F2M draws them from a "
        "beta distribution whose shape is random, one for all of a tensor, which shifts all its weights alike (0.24 "
        "bound on average, standard deviation 0.41 bound)",
        "MP minimises the mean loss of the draws, F2M that plus twice their standard deviation; there is no "
        "prototype-fixing loss, which belongs to incremental learning",
    )

    sharded: ClassVar[bool] = True

    bound: float = 0.01
    draws: int = 2
    layers: int = 4
    noise: str = "levels"

    def __post_init__(self) -> None:
        not_negative("MP", "bound", self.bound)
        choose("noise", self.noise, ("levels", "uniform"))
        for name in ("draws", "layers"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise UserError(f"{name}={getattr(self, name)!r}: MP needs an integer, at least 1")

    def backward(self, model: nn.Module, batch: Batch | Shards, loss: Loss, context: Context) -> Tensor:
        names = self.perturbed_weights(model)
        if not names:
            return PlainStep().backward(model, batch, loss, context)
        weights = {name: model.get_parameter(name) for name in names}
        noise = [{name: self._noise(w, context) for name, w in weights.items()} for _ in range(self.draws)]
        passes = Passes(model, context)
        values = [passes.descend(loss, batch, perturbation, scale=1 / self.draws) for perturbation in noise]
        return torch.stack(values).mean()

    def perturbed_weights(self, model: nn.Module) -> list[str]:
        """Return the names of the trainable weights of the network's last ``layers`` convolutions.

        Parts that are only used in training (``model.auxiliary``) do not count.

        Raises:
            UserError: the network has no convolution.
        """
        own = (m for name, m in model.named_modules() if name.split(".")[0] != "auxiliary")
        convolutions = [m for m in own if isinstance(m, nn.Conv2d)]
        if not convolutions:
            raise UserError(
                "mp perturbs the last 2-d convolutions, and the network has none: take another rule, like sam"
            )
        # By identity: convolutions may share a weight, which has one name and is perturbed once.
        names = {id(p): name for name, p in trainable(model).items()}
        weights = (p for m in convolutions[-self.layers :] for name, p in m.named_parameters() if "weight" in name)
        return list(dict.fromkeys(names[id(p)] for p in weights if id(p) in names))

    def _noise(self, weight: Tensor, context: Context) -> Tensor:
        if self.noise == "uniform":
            v = torch.rand(weight.shape, generator=context.noise) - 0.5
        else:
            v = torch.randint(LEVELS, weight.shape, generator=context.noise) / (LEVELS - 1) - 0.5
        return self.bound * v.to(weight)
