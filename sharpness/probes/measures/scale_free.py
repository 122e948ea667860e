"""Measures that are invariant to rescaling weights: relative flatness of the head, and the Fisher-Rao norm."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor, nn

from sharpness.engine import distributed
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
    """The linear map W (C, d) that gives the outputs, and the squared norms (n,) of its input; None if there is none.

    It need not be the last linear layer: a projector of the training may stand behind it, and an attention uses the
    weights of its last layer without calling it.
    """
    width = objective.restrict(np.arange(1)).outputs().shape[1:]
    maps = [(m, linear_map(m, torch.zeros(1, 1))) for m in objective.model.modules()]
    # Inputs of other layers are not kept: they may be large.
    heads = [m for m, found in maps if found is not None and found[0].shape[:1] == width]
    calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {head: [] for head in heads}

    def keep(head: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs and inputs[0].ndim == 2:
            calls[head].append((inputs[0].detach().cpu(), output.detach().cpu()))

    hooks = [head.register_forward_hook(keep) for head in heads]
    try:
        outputs = objective.outputs().double()
    finally:
        for hook in hooks:
            hook.remove()
    for head in reversed(heads):
        if (found := _on_all_samples(objective, calls[head])) is None:
            continue
        features, own = found
        # Logits may be the outputs of the head times a factor, such as one over a temperature.
        factor = (own * outputs).sum() / own.square().sum().clamp_min(1e-300)
        if torch.allclose(factor * own, outputs, rtol=1e-3, atol=1e-5 * float(outputs.abs().max())):
            given = linear_map(head, features.to(objective.dtype).to(objective.device))
            assert given is not None
            weight, taken = (t.detach().cpu().double() for t in given)
            return factor * weight, taken.square().sum(dim=1)
    return None


def _on_all_samples(objective: Objective, calls: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor] | None:
    """Inputs (n, d) and outputs (n, C) of a layer from its calls in every process; None if it had other inputs."""
    if not calls:  # in no process
        return None
    share = distributed.share(torch.arange(objective.num_samples))
    here = [torch.cat([call[i] for call in calls]) for i in (0, 1)]
    if not len(share):  # such a process calls the model once, for the shape of its outputs
        here = [t[:0] for t in here]
    # All processes go on, or none: each waits for the others below.
    if distributed.total(torch.tensor(float(len(here[0]) != len(share)))):
        return None
    whole = [torch.zeros(objective.num_samples, t.shape[1], dtype=torch.float64) for t in here]
    for part, own in zip(whole, here, strict=True):
        part[share] = own.double()
    features, outputs = map(distributed.total, whole)
    return features, outputs


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
