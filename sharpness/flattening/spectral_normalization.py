r"""Spectral normalisation (Miyato et al., ICLR 2018), by torch's parametrisation.

.. math:: W = V / \sigma(V), \qquad \sigma(V) = u^T V v, \qquad
          u \leftarrow V v / \|V v\|, \; v \leftarrow V^T u / \|V^T u\|

V is the trained weight; that of a convolution is reshaped to (outputs, inputs * height * width). u and v make one power
iteration per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

SETTLING = 15  # power iterations after weights have been replaced, as many as torch makes for new weights


class OncePerStep(nn.Module):
    """Spectral normalisation with one power iteration per call of ``advance``, not per forward pass.

    Torch's own parametrisation updates u and v whenever the weight is read in training mode: in each pass of SAM or
    CC-SAM, and in layers that a stage freezes. The division runs without autocast, which would compute its
    matrix-vector products in another precision than that of u.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm.eval()

    def train(self, mode: bool = True) -> OncePerStep:
        """Stay in eval mode: only ``advance`` moves the vectors."""
        return self

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return self.norm(weight)

    def right_inverse(self, value: Tensor) -> Tensor:
        return value

    @torch.no_grad()
    def advance(self, weight: Tensor) -> None:
        """Make one power iteration."""
        self.norm.train()
        self.forward(weight)
        self.norm.eval()


@dataclass(frozen=True)
class SpectralNormalization:
    r"""Every convolution of the backbone, and a linear head, divided by its largest singular value.

    .. code-block:: text

        before training:   u, v drawn from the run's seed
        every step:        one power iteration of u, v for weights that are trained
                           gradient, by whatever rule, of the loss at V / (u^T V v)
        in a checkpoint:   W = V / (u^T V v), an ordinary network

    BatchNorm after a convolution removes the scale of its weight. A loss that does not depend on the scale of V has the
    same gradient w.r.t. V with and without the division, so for such layers training differs only through the epsilon
    of BatchNorm. The saved weights differ in scale, which changes absolute measures of sharpness but not
    filter-normalised ones. Only a linear head is actually constrained: its logits are bounded. A cosine head is not
    normalised, because it removes the scale of its weight itself.
    """

    paper: ClassVar[str] = "Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018"
    deviations: ClassVar[tuple[str, ...]] = ()

    def apply(self, model: nn.Module) -> None:
        """Parametrise a fresh ``model`` (with ``backbone`` and ``head``) in place, from torch's global generator."""
        normalize(model.backbone, nn.Conv2d)  # type: ignore[arg-type]
        normalize(model.head, nn.Linear)  # type: ignore[arg-type]


def normalize(part: nn.Module, kind: type[nn.Module]) -> None:
    """Parametrise the layers of a kind in place, except in a frozen trunk; u, v come from torch's global generator."""
    layers: list[Any] = [m for m in part.modules() if isinstance(m, kind) and isinstance(m.weight, nn.Parameter)]
    for layer in layers:
        spectral_norm(layer)
        layer.parametrizations.weight[0] = OncePerStep(layer.parametrizations.weight[0])


def normalized_layers(model: nn.Module) -> dict[str, Any]:
    """Return the layers with spectral normalisation, by name."""
    weights = {n: m.parametrizations.weight for n, m in model.named_modules() if is_parametrized(m, "weight")}
    return {n: model.get_submodule(n) for n, w in weights.items() if isinstance(w[0], OncePerStep)}


def power_iteration(layers: dict[str, Any], times: int = 1) -> None:
    """Make power iterations of the ``layers`` whose weights are trained."""
    for layer in layers.values():
        weights = layer.parametrizations.weight
        for _ in range(times if weights.original.requires_grad else 0):
            weights[0].advance(weights.original)


def ordinary_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of the same network without normalisation: W replaces V, u and v."""
    state = dict(model.state_dict())
    for name, layer in normalized_layers(model).items():
        prefix = f"{name}.parametrizations."
        state = {key: value for key, value in state.items() if not key.startswith(prefix)}
        with torch.no_grad():
            state[f"{name}.weight"] = layer.weight
    return state
