r"""The flattening-sharpness step of FS-DGPM (Deng et al., NeurIPS 2021), outside continual learning.

The ascent is projected onto a gradient projection memory (GPM, Saha et al., ICLR 2021): for each layer, the span of the
principal directions of its inputs, which hold most of their energy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from sharpness.errors import UserError, require_whole
from sharpness.flattening.passes import Passes
from sharpness.steps import (
    Batch,
    Context,
    Gradient,
    Loss,
    Rule,
    Shards,
    at_least_float32,
    frozen_running_statistics,
    twice,
)


def projector(moment: Tensor, threshold: float) -> Tensor:
    r"""Return the projector (g, d, d) onto the fewest top eigenvectors that hold a share ``threshold`` of the energy.

    .. math:: P = V_r V_r^T, \qquad r = \min\{r : \sum_{i \le r} \lambda_i \ge \tau \sum_i \lambda_i\}

    Args:
        moment: (g, d, d) second moments :math:`X^T X` of the inputs X, whose eigenvalues are the squares of the
            singular values of X.
        threshold: tau in (0, 1]; 1 keeps everything.

    >>> projector(torch.diag(torch.tensor([6.0, 3.0, 1.0]))[None], threshold=0.9).diagonal(dim1=1, dim2=2)
    tensor([[1., 1., 0.]])
    """
    if threshold >= 1:
        return torch.eye(moment.shape[-1]).to(moment).expand_as(moment).clone()
    values, vectors = eigenpairs(moment)
    energy = values.flip(-1).clamp_min(0).cumsum(-1)
    # The eigenvector that reaches the threshold is the last one kept.
    kept = torch.cat([torch.zeros_like(energy[:, :1]), energy[:, :-1]], dim=1) < threshold * energy[:, -1:]
    chosen = vectors.flip(-1) * kept[:, None, :]
    return chosen @ chosen.mT


def eigenpairs(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues (g, d), ascending, and eigenvectors (g, d, d) of symmetric matrices of any rank.

    Raises:
        FloatingPointError: an entry is not finite.
    """
    try:
        return torch.linalg.eigh(moment)
    except torch.linalg.LinAlgError:
        if not bool(torch.isfinite(moment).all()):
            raise FloatingPointError("training diverged: inputs of a layer are not finite") from None
        # Divide and conquer does not converge for some low-rank matrices, such as moments of few patches.
        pairs = [eigh(m.cpu().numpy(), driver="ev") for m in moment]
        values, vectors = (torch.from_numpy(np.stack(part)).to(moment) for part in zip(*pairs, strict=True))
        return values, vectors


def input_rows(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the inputs of a layer as columns (groups, d, rows): image patches or features."""
    if isinstance(layer, nn.Conv2d):
        # Padded separately: F.unfold takes neither padding="same" nor a padding mode.
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        patches = F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride)
        return patches.unflatten(1, (layer.groups, -1)).permute(1, 2, 0, 3).flatten(2)
    return x.flatten(0, -2).T[None]


def weight_of(layer: nn.Module) -> Tensor:
    """Return the trained weight of a layer, which may be parametrised."""
    return layer.parametrizations.weight.original if is_parametrized(layer, "weight") else layer.weight  # type: ignore


def projected(gradient: Tensor, projection: Tensor, transposed: bool) -> Tensor:
    """Return ``G P`` for a weight of shape (outputs, inputs, ...), or ``P G`` for one of shape (inputs, outputs)."""
    if transposed:
        return projection[0] @ gradient
    groups, width = projection.shape[:2]
    return (gradient.reshape(groups, -1, width) @ projection).reshape(gradient.shape)


@dataclass(frozen=True)
class FSDGPM:
    r"""Gradients after an ascent eta P g, with P the projector on the main directions of the layers' inputs.

    .. code-block:: text

        before every epoch, for every layer: P = projector(second moment of its inputs on `samples` images, threshold)
        for every batch, delta = 0, halves B_1, B_2 of it:
            for j = 1, 2:
                g      = gradient of L(B_j) at w + delta
                delta += eta * clamp(P g, -2, 2)           # not normalised
                G     += gradient of L(B) at w + delta, / 2
        w steps with G

    P acts on the inputs of convolutions, linear layers and cosine heads; biases and BatchNorm ascend along their full
    gradients, as in the released code. The inputs come from training batches and the network at the start of the epoch,
    in training mode. A step costs three gradients. BatchNorm's running statistics move in the first pass; the reported
    value is the loss of B_1, the only one computed at w.

    The parts that belong to continual learning are left out: the memory is computed from the present data instead of
    past tasks, the bases have no learnt weights (lambda is 1), nothing is replayed, and the descent G is not projected
    onto the complement of the memory. Gradients are not clipped; no rule of this package clips them.

    Args:
        eta: length of the ascent; published from 1e-3 to 5e-2.
        threshold: share of the energy that the space of a layer holds; 1 is ascent along the full gradient.
        samples: number of images from which P is computed, 300 in the released code.
        inner: number of parts of the batch, 2 as published.
    """

    paper: ClassVar[str] = (
        "Deng et al., Flattening Sharpness for Dynamic Gradient Projection Memory Benefits Continual Learning, "
        "NeurIPS 2021"
    )
    deviations: ClassVar[tuple[str, ...]] = (
        "FS-DGPM's memory is of the present data; what belongs to a sequence of tasks (past memory, learnt weights of "
        "its bases, replay, projected descent) and the clipping of gradients are left out",
        "FS-DGPM's descent takes the ascent as fixed (first order); the released commands for CIFAR-100 differentiate "
        "through it (--second_order), 2.8 % of the gradient at eta=0.05",
    )

    sharded: ClassVar[bool] = True

    eta: float = 0.01
    threshold: float = 0.9
    samples: int = 300
    inner: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.eta < math.inf:
            raise UserError(f"eta={self.eta}: FS-DGPM needs a positive step, usually 0.01")
        if not 0 < self.threshold <= 1:
            raise UserError(f"threshold={self.threshold}: FS-DGPM keeps a share of the energy, above 0 and at most 1")
        require_whole("samples", self.samples, 2)
        require_whole("inner", self.inner, 1)

    def for_epoch(self, model: nn.Module, batches: Iterator[Batch | Shards], context: Context) -> Rule:
        # Before any hook is set: making the batches may evaluate the network.
        images = list(self._images(batches))
        moments = input_moments(model, images, context)
        memory = {p: (projector(m, self.threshold).to(p.dtype), t) for p, (m, t) in moments.items()}
        return ProjectedAscent(self.eta, int(self.inner), memory)

    def _images(self, batches: Iterator[Batch | Shards]) -> Iterator[Tensor]:
        missing = int(self.samples)
        for batch in batches:
            for x in all_images(batch):
                yield x[:missing]
                missing -= len(x)
                if missing < 2:  # BatchNorm cannot process a single image
                    return


def all_images(batch: Batch | Shards) -> Sequence[Tensor]:
    """Return the images of all shards of a batch, including other processes', so that all compute the same memory."""
    if isinstance(batch, Shards):
        return batch.gathered([part.x for part in batch.mine]).split(list(batch.sizes))
    return [batch.x]


def input_moments(model: nn.Module, images: Iterable[Tensor], context: Context) -> dict[Tensor, tuple[Tensor, bool]]:
    """Return the second moments (groups, d, d) of the inputs of every trained layer, in float64, by its weight.

    The flag is true for a weight of shape (inputs, outputs).
    """
    moments: dict[Tensor, tuple[Tensor, bool]] = {}

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], transposed: bool) -> None:
        rows = input_rows(layer, at_least_float32(inputs[0].detach()))
        moment = (rows @ rows.mT).double()
        before = moments.get(weight_of(layer))
        moments[weight_of(layer)] = (moment if before is None else before[0] + moment, transposed)

    hooks = []
    for layer in model.modules():
        transposed = getattr(layer, "filter_axes", {}).get("weight") == 1
        if (isinstance(layer, (nn.Conv2d, nn.Linear)) or transposed) and weight_of(layer).requires_grad:
            hooks.append(layer.register_forward_pre_hook(partial(record, transposed=transposed)))
    try:
        with torch.no_grad(), frozen_running_statistics(model):
            for x in images:
                model.head(context.features(model, x))  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    return moments


@dataclass(frozen=True)
class ProjectedAscent:
    """The step of FS-DGPM with the projectors of an epoch, ``{weight: (P, whether the weight is transposed)}``."""

    eta: float
    inner: int = 2
    memory: Mapping[Tensor, tuple[Tensor, bool]] = field(default_factory=dict, repr=False)
    clamp: float = 2.0

    def backward(self, model: nn.Module, batch: Batch | Shards, loss: Loss, context: Context) -> Tensor:
        passes, parts = Passes(model, context), batch.split(self.inner)
        offset: Gradient = {}
        values = []
        for part in parts:
            value, (gradient,) = passes.over(part, twice(loss, model), offset)
            values.append(value)
            offset = {n: offset.get(n, 0) + self._ascent(passes.parameters[n], g) for n, g in gradient.items()}
            passes.descend(loss, batch, offset, scale=1 / len(parts))
        return values[0]

    def _ascent(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        along = projected(gradient, *self.memory[parameter]) if parameter in self.memory else gradient
        return self.eta * along.to_dense().clamp(-self.clamp, self.clamp)  # sparse gradients cannot be clamped
