"""Measures that are invariant to rescaling weights: relative flatness of the head, and the Fisher-Rao norm."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from sharpness.models.heads import linear_map
from sharpness.objective import Objective
from sharpness.probes.measures.loss import means_over_images
from sharpness.probes.measures.measure import Measure, NoSettings, Passes, Subject
from sharpness.probes.shared.column import Column, sample_freedom
from sharpness.statistics.estimate import interval

logger = logging.getLogger("sharpness")


def relative_flatness(subject: Subject, settings: NoSettings) -> dict[str, Column]:
    r"""Compute the relative flatness of the last linear map (Petzka et al., NeurIPS 2021), one number per class.

    .. math:: \kappa = \sum_{s, t} \langle w_s, w_t \rangle \operatorname{tr} \nabla_{w_s} \nabla_{w_t} L_c
              = \frac{1}{A_c} \sum_i a_i \|z_i\|^2 \operatorname{tr}(W W' \nabla_u^2 \ell_i)

    with outputs u = W z + b. For a cosine head, z are unit features, and the rows of W are unit vectors times the
    scale. NaN, with a warning, if the outputs are not a linear map of a layer's inputs.
    """
    found = _head(subject.objective)
    if found is None:
        logger.warning("%s: no last linear layer gives its outputs: no relative flatness", subject.label or "the model")
        values = torch.full((subject.objective.num_samples,), torch.nan, dtype=torch.float64)
    else:
        weight, squares = found
        values = squares * _bent(subject.objective, weight)
    return means_over_images(subject, "relative_flatness", values.numpy())


def _head(objective: Objective) -> tuple[Tensor, Tensor] | None:
    """The last linear map W (C, d), and the squared norms (n,) of its input features; None if there is none."""
    heads = [m for m in objective.model.modules() if linear_map(m, torch.zeros(1, 1)) is not None]
    if not heads:
        return None
    seen: list[tuple[Tensor, Tensor]] = []
    hook = heads[-1].register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].detach(), output.detach())))
    try:
        outputs = objective.outputs()
    finally:
        hook.remove()
    features, own = (torch.cat([pair[i].cpu() for pair in seen]).double() for i in (0, 1))
    if features.ndim != 2 or own.shape != outputs.shape:
        return None
    # Logits may be the outputs of the head times a factor, such as one over a temperature.
    factor = (own * outputs.double()).sum() / own.square().sum().clamp_min(1e-300)
    if not torch.allclose(factor * own, outputs.double(), rtol=1e-3, atol=1e-5 * float(outputs.abs().max())):
        return None
    found = linear_map(heads[-1], features.to(objective.dtype).to(objective.device))
    assert found is not None
    weight, taken = (t.detach().cpu().double() for t in found)
    return factor * weight, taken.square().sum(dim=1)


def _bent(objective: Objective, weight: Tensor) -> Tensor:
    r"""Compute :math:`\operatorname{tr}(W W' \nabla_u^2 \ell_i)` of every sample, (n,), by the eigenvectors of W W'."""
    # Cross-entropy is computed in float64. Other losses may hold tensors, such as weights of classes, which fit the
    # precision and the device of the model.
    ce = objective.loss_name == "ce"
    dtype, device = (torch.float64, torch.device("cpu")) if ce else (objective.dtype, objective.device)
    outputs, targets = objective.outputs().to(device, dtype), objective.y.to(device)
    if targets.is_floating_point():
        targets = targets.to(dtype)
    values, vectors = torch.linalg.eigh(weight @ weight.T)
    total = torch.zeros(len(outputs), dtype=torch.float64)
    for value, vector in zip(values.tolist(), vectors.T.to(device, dtype), strict=True):
        along = vector.expand_as(outputs)

        def slopes(u: Tensor, along: Tensor = along) -> Tensor:
            return torch.func.jvp(lambda v: objective.loss_function(v, targets), (u,), (along,))[1]

        total += value * torch.func.jvp(slopes, (outputs,), (along,))[1].detach().cpu().double()
    return total


def fisher_rao_norm(subject: Subject, settings: NoSettings) -> dict[str, Column]:
    r"""Compute the Fisher-Rao norm (Liang et al., AISTATS 2019) with the given labels.

    .. math:: \|w\|_\mathrm{fr} = \sqrt{\tfrac{1}{A_c} \sum_i a_i \langle w, \nabla \ell_i \rangle^2}
    """
    objective = subject.objective
    slopes = objective.slopes(objective.flat_weights)
    squares = means_over_images(subject, "fisher_rao_norm", slopes**2)["fisher_rao_norm"].rows
    classes = objective.num_classes + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.sqrt(squares.value[:classes])
        errors = np.where(values > 0, squares.standard_error[:classes] / (2 * values), np.nan)
    ends = interval(values, errors, sample_freedom(objective), keeps_sign=True)
    return {"fisher_rao_norm": Column.of_images(objective, values, errors, ends)}


RELATIVE_FLATNESS = Measure(
    "relative_flatness", relative_flatness, passes=lambda settings: Passes(forwards=2), title="Relative flatness",
    lower_is_flatter=True, symlog=True, usual=False, explained="the relative flatness of the last layer",
)  # fmt: skip
FISHER_RAO = Measure(
    "fisher_rao_norm", fisher_rao_norm, passes=lambda settings: Passes(forwards=2, gradients=1),
    title="Fisher-Rao norm",
    lower_is_flatter=True, symlog=True, usual=False, explained="its Fisher-Rao norm",
)  # fmt: skip
