r"""The classes that matter to the largest eigenvalues of a last layer, where outputs are concentrated on few of many.

The Hessian of some samples is a block for every class, minus :math:`U U'`: column i of U has, of class c,
:math:`\sqrt{a_i} p_{ic} j_{ic}` over the temperature, with a the shares of the samples and j the gradient of an output.
Let A be some classes and T the others. An eigenvector's part in T is :math:`(\lambda - H_{TT})^{-1} H_{TA} v_A`, which
for small :math:`H_{TT}` lies in the span of :math:`U_T`, one dimension a sample. So with :math:`U_T' U_T = R' R`

.. math::

    \tilde H = \begin{pmatrix} H_{AA} & -U_A R' \\ -R U_A' & 0 \end{pmatrix}, \qquad
    0 \le \lambda_k(H) - \lambda_k(\tilde H) \le \frac{\|R U_A'\|^2 \tau}{\lambda_k (\lambda_k - \tau)}, \qquad
    \tau = \lambda_\max(H_{TT}) \le \max_{c \in T} \sum_i a_i p_{ic} |j_{ic}|^2

by the Schur complement, where :math:`\lambda_k` of the bound is that of :math:`\tilde H`. What bends a cosine layer
adds at most :math:`4 s |p_{ic} - y_{ic}| / |w_c|^2` of a sample to the bound of :math:`\tau`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpness.probes.curvature.last_layer import LastLayer

#: Relative error that an eigenvalue may have for the classes that are left out.
ERROR = 5e-7
#: Weights, in parts of the largest, below which classes are left out, in the order in which they are tried.
LEVELS = (1e-2, 1e-3, 1e-4, 1e-5)


@dataclass(frozen=True)
class Support:
    """Some classes, and what is to know of the others.

    Attributes:
        classes: a mask of those in A (C,).
        values, vectors: of :math:`U_T' U_T`, (m,) and (m, m).
        rest: the bound of the largest eigenvalue among the others.
        coupling: one of the squared norm of the block between.
    """

    classes: Tensor
    values: Tensor
    vectors: Tensor
    rest: float
    coupling: float

    def suffices(self, value: float) -> bool:
        """True if an eigenvalue that was found so is one of all classes, to :data:`ERROR`."""
        return value > self.rest and self.coupling * self.rest <= ERROR * value**2 * (value - self.rest)

    @property
    def root(self) -> Tensor:
        """R, (m, m)."""
        return self.values.sqrt()[:, None] * self.vectors.T

    def combination(self, y: Tensor) -> Tensor:
        """Coefficients (m,) of the columns of U_T in the vector with the coordinates y (m,)."""
        large = self.values > 1e-14 * self.values.max()
        return self.vectors @ torch.where(large, y / self.values.sqrt().where(large, torch.ones(())), 0.0)


def supports(layer: LastLayer, samples: Tensor, p: Tensor, bends: bool) -> Iterator[Support]:
    """More and more classes, as long as they are less than half.

    Args:
        layer: of the samples.
        samples: their indices.
        p: (m, C) their probabilities.
        bends: whether the Hessian of the outputs counts.

    Yields:
        Those that may suffice.
    """
    shares, z = layer.weights[samples] / layer.weights[samples].sum(), layer.features[samples]
    lengths, f = z.square().sum(dim=1), layer.first.square() / layer.temperature**2
    bias = torch.full_like(f, (layer.bias_unit or 0.0) ** 2 / layer.temperature**2)
    both, squares = torch.stack([shares * lengths, shares]), p.square()
    # What a class weighs by its features, and by its bias: its trace, and that with other samples' classes certain.
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
        # The largest weight is near the largest eigenvalue: a level is not tried in vain.
        if near * far * rest > ERROR * largest**3:
            continue
        values, vectors = torch.linalg.eigh(_gram(layer, z, p * ~inside, shares))
        values = values.clamp_min(0)
        yield Support(inside, values, vectors, rest, near * float(values[-1]))


def _gram(layer: LastLayer, z: Tensor, p: Tensor, shares: Tensor) -> Tensor:
    """U'U of some probabilities (m, C), (m, m)."""
    scaled = p * layer.first
    found = (scaled @ scaled.T) * (z @ z.T)
    if layer.cosine:
        turned = scaled * (z @ layer.rows.T)
        found -= turned @ turned.T
    elif layer.bias_unit is not None:
        found += layer.bias_unit**2 * (p @ p.T)
    root = shares.sqrt() / layer.temperature
    return root[:, None] * found * root
