r"""Spectral normalisation (Miyato et al., ICLR 2018), by torch's parametrisation.

.. math:: W = V / \sigma(V), \qquad \sigma(V) = u^T V v, \qquad
          u \leftarrow V v / \|V v\|, \; v \leftarrow V^T u / \|V^T u\|

V is what is trained, a convolution's as a matrix of shape (outputs, inputs * height * width), and u, v take one power
iteration a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

SETTLING = 15  # power iterations after weights were replaced, as torch makes for fresh ones


class OncePerStep(nn.Module):
    """Spectral normalisation with one power iteration per call of ``advance``, not per forward pass.

    Torch's own moves them whenever the weight is read in training mode: in each of the passes of SAM or CC-SAM, and in
    layers that a stage freezes. The division is never made under autocast, whose matrix-vector products have another
    precision than u.
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

    BatchNorm after a convolution takes the scale of its weight out, and so does a cosine head with its own: a loss
    that does not see the scale of V has the same gradient by V with and without the division, so that there only the
    epsilon of BatchNorm distinguishes the two, beside the scale of the saved weights, which absolute measures of
    sharpness see and filter-normalised ones do not. A linear head is what the constraint binds, by bounding the logits;
    a cosine head is left alone.
    """

    paper: ClassVar[str] = "Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018"
    deviations: ClassVar[tuple[str, ...]] = ()

    def apply(self, model: nn.Module) -> None:
        """Parametrise a fresh ``model`` (with ``backbone`` and ``head``) in place, from torch's global generator."""
        normalize(model.backbone, nn.Conv2d)  # type: ignore[arg-type]
        normalize(model.head, nn.Linear)  # type: ignore[arg-type]


def normalize(part: nn.Module, kind: type[nn.Module]) -> None:
    """Parametrise the layers of a kind in place, but for a frozen trunk's; vectors are of torch's global generator."""
    layers: list[Any] = [m for m in part.modules() if isinstance(m, kind) and isinstance(m.weight, nn.Parameter)]
    for layer in layers:
        spectral_norm(layer)
        layer.parametrizations.weight[0] = OncePerStep(layer.parametrizations.weight[0])


def normalized_layers(model: nn.Module) -> dict[str, Any]:
    """Layers under spectral normalisation, by name."""
    weights = {n: m.parametrizations.weight for n, m in model.named_modules() if is_parametrized(m, "weight")}
    return {n: model.get_submodule(n) for n, w in weights.items() if isinstance(w[0], OncePerStep)}


def power_iteration(layers: dict[str, Any], times: int = 1) -> None:
    """Advance the vectors of ``layers`` whose weights are trained."""
    for layer in layers.values():
        weights = layer.parametrizations.weight
        for _ in range(times if weights.original.requires_grad else 0):
            weights[0].advance(weights.original)


def ordinary_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of the same network without normalisation: W in place of V, u and v."""
    state = dict(model.state_dict())
    for name, layer in normalized_layers(model).items():
        prefix = f"{name}.parametrizations."
        state = {key: value for key, value in state.items() if not key.startswith(prefix)}
        with torch.no_grad():
            state[f"{name}.weight"] = layer.weight
    return state
