r"""Classes that determine the largest eigenvalues of a last layer, if probabilities are concentrated on a few classes.

The Hessian of some samples consists of a block for every class, minus :math:`U U'`. The entries of column i of U for
class c are :math:`\sqrt{a_i} p_{ic} j_{ic}`, divided by the temperature, where a are the shares of the samples and j is
the gradient of an output. Let A be some classes and T the others. The part of an eigenvector in T is
:math:`(\lambda - H_{TT})^{-1} H_{TA} v_A`, which for small :math:`H_{TT}` lies in the span of :math:`U_T`, with one
dimension per sample. So with :math:`U_T' U_T = R' R`

.. math::

    \tilde H = \begin{pmatrix} H_{AA} & -U_A R' \\ -R U_A' & 0 \end{pmatrix}, \qquad
    0 \le \lambda_k(H) - \lambda_k(\tilde H) \le \frac{\|R U_A'\|^2 \tau}{\lambda_k (\lambda_k - \tau)}, \qquad
    \tau = \lambda_\max(H_{TT}) \le \max_{c \in T} \sum_i a_i p_{ic} |j_{ic}|^2

by the Schur complement, where :math:`\lambda_k` in the bound is an eigenvalue of :math:`\tilde H`. For a cosine layer,
the second derivatives of the outputs add at most :math:`4 s |p_{ic} - y_{ic}| / |w_c|^2` per sample to the bound on
:math:`\tau`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpness.probes.curvature.last_layer import LastLayer

#: Largest relative error of an eigenvalue due to the classes that are left out.
ERROR = 5e-7
#: Weights, as fractions of the largest weight, below which classes are left out; tried in this order.
LEVELS = (1e-2, 1e-3, 1e-4, 1e-5)


@dataclass(frozen=True)
class Support:
    r"""A set A of classes, with bounds on the effect of the other classes T.

    Attributes:
        classes: (C,) mask of the classes in A.
        values, vectors: eigenvalues (m,) and eigenvectors (m, m) of :math:`U_T' U_T`.
        rest: upper bound on the largest eigenvalue of :math:`H_{TT}`.
        coupling: upper bound on :math:`\|R U_A'\|^2`.
    """

    classes: Tensor
    values: Tensor
    vectors: Tensor
    rest: float
    coupling: float

    def suffices(self, value: float) -> bool:
        """True if an eigenvalue found on these classes is one of all classes, up to :data:`ERROR`."""
        return value > self.rest and self.coupling * self.rest <= ERROR * value**2 * (value - self.rest)

    @property
    def root(self) -> Tensor:
        """The matrix R, (m, m)."""
        return self.values.sqrt()[:, None] * self.vectors.T

    def combination(self, y: Tensor) -> Tensor:
        """Coefficients (m,) of the columns of U_T that make the vector with coordinates y (m,)."""
        large = self.values > 1e-14 * self.values.max()
        return self.vectors @ torch.where(large, y / self.values.sqrt().where(large, torch.ones(())), 0.0)


def supports(layer: LastLayer, samples: Tensor, p: Tensor, bends: bool) -> Iterator[Support]:
    """Try growing sets of classes, up to half of all classes.

    Args:
        layer: the last layer.
        samples: indices of the samples.
        p: (m, C) probabilities of the samples.
        bends: whether second derivatives of the outputs are included.

    Yields:
        Supports that may suffice.
    """
    shares, z = layer.weights[samples] / layer.weights[samples].sum(), layer.features[samples]
    lengths, f = z.square().sum(dim=1), layer.first.square() / layer.temperature**2
    bias = torch.full_like(f, (layer.bias_unit or 0.0) ** 2 / layer.temperature**2)
    both, squares = torch.stack([shares * lengths, shares]), p.square()
    # Traces of the diagonal blocks of H + U U' and of U U', by class, from features and biases.
    mass, part = both @ p, both @ squares
    most = f * mass[0] + bias * mass[1]
    traces = f * part[0] + bias * part[1]
    weight = most - traces
    if bends:
        bent = 4 * layer.second / layer.temperature * (shares @ layer.gaps(p, samples).abs())
        most, weight = most + bent, weight + bent
    always = torch.cat([p.argmax(dim=1), *([] if layer.targets.is_floating_point() else [layer.targets[samples]])])
    largest = float(weight.max())
    for level in LEVELS:
        inside = weight > level * largest
        inside[always] = True
        if 2 * int(inside.sum()) > len(inside):
            return
        rest, near, far = float(most[~inside].max()), float(traces[inside].sum()), float(traces[~inside].sum())
        # The largest weight approximates the largest eigenvalue: skip levels that would not suffice.
        if near * far * rest > ERROR * largest**3:
            continue
        values, vectors = torch.linalg.eigh(_gram(layer, z, p * ~inside, shares))
        values = values.clamp_min(0)
        yield Support(inside, values, vectors, rest, near * float(values[-1]))


def _gram(layer: LastLayer, z: Tensor, p: Tensor, shares: Tensor) -> Tensor:
    """Compute U'U (m, m) for some probabilities (m, C)."""
    scaled = p * layer.first
    found = (scaled @ scaled.T) * (z @ z.T)
    if layer.cosine:
        turned = scaled * (z @ layer.rows.T)
        found -= turned @ turned.T
    elif layer.bias_unit is not None:
        found += layer.bias_unit**2 * (p @ p.T)
    root = shares.sqrt() / layer.temperature
    return root[:, None] * found * root
