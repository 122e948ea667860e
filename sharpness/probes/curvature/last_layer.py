"""A last layer with everything that its curvature depends on, from one pass over the features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.engine import distributed
from sharpness.engine.scope import classifier_prefix
from sharpness.models.heads import CosineHead
from sharpness.objective import Objective
from sharpness.objective.coordinates import scales_of

#: Largest number of probabilities (samples times classes) in memory at once.
CHUNK = 2**23


@dataclass(frozen=True)
class LastLayer:
    """A last layer with everything that its curvature depends on, in float64.

    Attributes:
        features: (n, d) features; unit vectors for a cosine layer.
        rows: (C, d) weights of the classes; unit vectors for a cosine layer.
        bias: (C,) bias of the outputs.
        first: (C,) factor of the gradient of an output: the unit of its coordinates, times s / |w_c| for a cosine
            layer.
        second: (C,) factor of the Hessian of an output: s / |w_c|² times the unit squared; 0 for a linear layer.
        scale: s; 1 for a linear layer.
        bias_unit: unit of the bias's coordinates; None if the bias is not a parameter in scope.
        targets: (n,) labels or (n, C) probabilities.
        temperature: temperature by which outputs are divided.
        weights: (n,) weights of the samples.
    """

    features: Tensor
    rows: Tensor
    bias: Tensor
    first: Tensor
    second: Tensor
    scale: float
    bias_unit: float | None
    targets: Tensor
    temperature: float
    weights: Tensor

    @property
    def cosine(self) -> bool:
        """True if outputs are cosines of features and weights."""
        return bool(self.second.any())

    @classmethod
    def of(cls, objective: Objective) -> LastLayer | None:
        """The last layer of an objective whose scope is the classifier; None if there is no closed form."""
        prefix = classifier_prefix(objective.model)
        head = dict(objective.model.named_modules()).get(prefix.removesuffix("."))
        plain = objective.loss_name == "ce" and objective.batchnorm == "eval" and distributed.world_size() == 1
        names = [prefix + name for name in ("weight", "bias")][: len(objective.names)]
        if objective.scope != "classifier" or not plain or objective.names != names:
            return None
        if type(head) is not CosineHead and not isinstance(head, nn.Linear):
            return None
        # A hook gets the inputs of the layer itself: a network may transform the features of its backbone.
        seen: list[Tensor] = []
        hook = head.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].detach().cpu()))
        try:
            objective.evaluate()  # does not keep outputs, which for many classes are larger than features
        finally:
            hook.remove()
        features = torch.cat(seen).double()
        few = slice(0, min(64, objective.num_samples))
        outputs = objective.restrict(torch.arange(few.stop)).outputs()
        if features.ndim != 2 or len(features) != objective.num_samples or outputs.ndim != 2:
            return None
        rows = objective.parameters[0].detach().cpu().double()
        scales = scales_of(objective, objective.coordinates)
        units = torch.ones(objective.num_parameters) if scales is None else scales.cpu()
        of_rows = units.double()[: rows.numel()].view_as(rows)
        bias, second, scale = torch.zeros(outputs.shape[1], dtype=torch.float64), torch.zeros(1).double(), 1.0
        if isinstance(head, CosineHead):
            norms, first, scale = rows.norm(dim=0), of_rows[0], head.scale
            second, first = scale * (first / norms).square(), scale * first / norms
            rows, features = F.normalize(rows, dim=0).T, F.normalize(features, dim=1)
        else:
            first = of_rows[:, 0]
            bias = bias if head.bias is None else head.bias.detach().cpu().double()
        layer = cls(
            features, rows, bias, first, second.expand(len(rows)), scale,
            float(units[-1]) if len(names) == 2 else None, objective.y.cpu(),
            1.0 if objective.temperature is None else objective.temperature.value, objective.weights.cpu().double(),
        )  # fmt: skip
        # If the network changes the outputs of the layer, there is no closed form.
        made, known = layer.outputs(few), outputs.double()
        if made.shape != known.shape:  # output= may select some of the classes
            return None
        return layer if torch.allclose(made, known, rtol=1e-3, atol=1e-4 * float(known.abs().max())) else None

    def outputs(self, samples: Any) -> Tensor:
        """Outputs of some samples, (m, C), before division by the temperature."""
        return self.scale * self.features[samples] @ self.rows.T + self.bias

    def probabilities(self, samples: Any) -> Tensor:
        """Probabilities of some samples, (m, C)."""
        return self.outputs(samples).div_(self.temperature).softmax(dim=1)

    def gaps(self, p: Tensor, samples: Any) -> Tensor:
        """Probabilities minus targets of some samples, (m, C)."""
        y = self.targets[samples]
        if y.is_floating_point():
            return p - y.double()
        gaps = p.clone()
        gaps[torch.arange(len(y)), y] -= 1
        return gaps

    def traces(self, hessian: bool = True) -> np.ndarray:
        """Compute the trace of the Hessian of every sample, or of its Gauss-Newton part, (n,)."""
        step = max(1, CHUNK // len(self.rows))
        chunks = [slice(i, i + step) for i in range(0, len(self.features), step)]
        return torch.cat([self._traces(one, hessian) for one in chunks]).numpy()

    def _traces(self, samples: slice, hessian: bool) -> Tensor:
        p, z = self.probabilities(samples), self.features[samples]
        squares, spread = z.square().sum(dim=1, keepdim=True), p * (1 - p) / self.temperature**2
        if not self.cosine:
            bias = 0 if self.bias_unit is None else self.bias_unit**2
            return (spread * (self.first.square() * squares + bias)).sum(dim=1)
        kappa = z @ self.rows.T
        found = (spread * self.first.square() * (squares - kappa.square())).sum(dim=1)
        if hessian:  # the trace of the Hessian of a cosine is -kappa (d - 1) / |w|²
            gaps = self.gaps(p, samples) / self.temperature
            found -= (gaps * self.second * kappa).sum(dim=1) * (z.shape[1] - 1)
        return found


class Ahead:
    """Probabilities of rows with few samples each, computed for many rows at once.

    Args:
        layer: the last layer.
        samples: indices of samples by row, in the order in which the rows will be requested.
    """

    def __init__(self, layer: LastLayer, samples: Mapping[int, np.ndarray]) -> None:
        self.layer, self.samples = layer, samples
        self.kept: dict[int, Tensor] = {}

    def __call__(self, row: int) -> Tensor:
        """Probabilities of one row, (m, C)."""
        if row not in self.kept:
            order = list(self.samples)
            later, room = order[order.index(row) :], CHUNK // len(self.layer.rows)
            sizes = np.cumsum([len(self.samples[one]) for one in later])
            chosen = later[: max(1, int(np.searchsorted(sizes, room, side="right")))]
            p = self.layer.probabilities(torch.as_tensor(np.concatenate([self.samples[one] for one in chosen])))
            self.kept = dict(zip(chosen, p.split([len(self.samples[one]) for one in chosen]), strict=True))
        return self.kept[row]
