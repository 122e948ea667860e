r"""The Hessian of cross-entropy with respect to the weights of a last layer, in closed form from the features.

With outputs u of features z, probabilities p and targets y, the Hessian of a sample is
:math:`J' (\operatorname{diag} p - p p') J + \sum_c (p_c - y_c) \nabla^2 u_c`. For a linear layer, J is z for every
class and the second part vanishes. For a cosine layer, :math:`u_c = s\, \hat z' \hat w_c` has the gradient
:math:`s (\hat z - \kappa \hat w) / \|w\|` and the Hessian
:math:`-s (\hat w \hat z' + \hat z \hat w' + \kappa (I - 3 \hat w \hat w')) / \|w\|^2` with
:math:`\kappa = \hat z' \hat w_c`. For each class, the Hessian of m samples therefore acts on the span of their features
and, for a cosine layer, of the weight of the class, which has m or m + 1 dimensions. The orthogonal complement is an
eigenspace, with eigenvalue 0 or :math:`-s \sum_i (p_{ic} - y_{ic}) \kappa_{ic} / (m \|w_c\|^2)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sharpness.curvature.ends import positions
from sharpness.curvature.lanczos import Eigenpairs, lanczos
from sharpness.probes.curvature.class_support import Support, supports
from sharpness.probes.curvature.last_layer import LastLayer

if TYPE_CHECKING:
    from sharpness.probes.curvature.row_eigenvalues import RowEigenvalues

#: Value, residual, converged flag, function that makes the vector, and quadratic forms of all samples.
Pair = tuple[float, float, bool, Callable[[], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class LayerPairs:
    """Eigenpairs of a last layer.

    Attributes:
        values, residuals, converged: (m,).
        products: number of products in the span of the features.
        vectors: (m, k) in the order of the parameters; None unless requested.
        forms: (m, n) v' H_i v of every sample.
    """

    values: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    products: int
    vectors: np.ndarray | None
    forms: np.ndarray


def layer_eigenpairs(
    layer: LastLayer, samples: np.ndarray, p: Tensor, task: RowEigenvalues, callback: Callable[[int], object]
) -> LayerPairs:
    """Compute the extreme eigenpairs of the mean loss of some samples, in descending order.

    For the largest eigenvalues, the search is first restricted to classes that have nearly all of the probability, and
    the residuals include what the other classes could add, see :mod:`~sharpness.probes.curvature.class_support`.

    Args:
        layer: the last layer.
        samples: indices of the samples.
        p: (m, C) probabilities of the samples.
        task: settings; k is at most half the number of parameters.
        callback: called with numbers of products.

    Returns:
        The pairs, with their quadratic forms.
    """
    chosen, products, hessian = torch.as_tensor(samples), 0, task.kind == "hessian"
    few: Iterable[Support] = supports(layer, chosen, p, hessian and layer.cosine) if task.which == "LA" else ()
    for support in chain(few, [None]):
        span = Span(layer, chosen, p, hessian, support)
        if support is not None and task.k > span.size:
            continue
        pairs = span.eigenpairs(
            task.k, task.which, task.keep_vectors, tol=task.tol, max_iterations=task.max_iterations,
            generator=torch.Generator().manual_seed(task.seed), callback=callback,
        )  # fmt: skip
        products += pairs.products
        # The effect of the other classes must leave residuals within the tolerance.
        small = float(pairs.residuals.max()) <= task.tol * float(pairs.values[0]) or not pairs.converged.all()
        if support is None or (small and support.suffices(float(pairs.values[-1]))):
            break
    return replace(pairs, products=products)


class Span:
    """The curvature of some samples in the span of their features and, for a cosine layer, of each class's weight.

    For each class, a vector has r coordinates in the span of the features, and one more for the class's bias, or for
    the part of its weight orthogonal to the span (cosine layer with more features than samples). With a support, there
    is one coordinate per sample for all classes outside.

    Args:
        layer: the last layer.
        samples: indices of the samples.
        p: (m, C) probabilities of the samples.
        hessian: False for the Gauss-Newton part.
        support: classes to which the search is restricted; by default all classes.
    """

    def __init__(self, layer: LastLayer, samples: Tensor, p: Tensor, hessian: bool, support: Support | None) -> None:
        self.features = z = layer.features[samples]
        self.basis = torch.linalg.qr(z.T)[0] if len(z) < z.shape[1] else torch.eye(z.shape[1], dtype=z.dtype)
        self.z = z @ self.basis  # (m, r)
        self.shares = layer.weights[samples] / layer.weights[samples].sum()
        self.left = z.shape[1] - self.basis.shape[1]  # dimensions outside the span of the features
        self.bends = hessian and layer.cosine
        self.own = (layer.cosine and self.left > 0) or layer.bias_unit is not None
        self.whole, self.support, self.p = layer, support, p
        gaps = layer.gaps(p, samples) / layer.temperature if layer.cosine else p
        if support is not None:
            self.all, self.root = p, support.root
            self.p, gaps = p[:, support.classes], gaps[:, support.classes]
            rows = layer.rows[support.classes] if layer.cosine else layer.rows[: self.p.shape[1]]
            moved = {name: getattr(layer, name)[support.classes] for name in ("first", "second")}
            layer = replace(layer, rows=rows, **moved)
        self.layer = layer
        self.scaled = bool((layer.first != 1).any()) or layer.bias_unit not in (None, 1.0)
        if layer.cosine:
            self.gaps = gaps
            inside = layer.rows @ self.basis
            outside = (1 - inside.square().sum(dim=1)).clamp_min(0).sqrt()
            self.w = torch.cat([inside, outside[:, None]], dim=1) if self.own else inside
            self.kappa = self.z @ inside.T
            self.pull = (self.shares[:, None] * self.gaps).T @ self._padded(self.z)
            self.turn = (self.shares[:, None] * self.gaps * self.kappa).sum(dim=0)

    def _padded(self, z: Tensor) -> Tensor:
        """Features with one more entry: 0 for the weight's own coordinate of a cosine layer, or 1 for the bias."""
        return F.pad(z, (0, int(self.own)), value=0.0 if self.layer.cosine else 1.0)

    def _in_units(self, v: Tensor) -> Tensor:
        """Multiply vectors (C, r + own) of a linear layer by the units of their coordinates."""
        if not self.scaled:
            return v
        units = self.layer.first[:, None].expand(v.shape)
        if self.layer.bias_unit is not None:
            units = torch.cat([units[:, :-1], torch.full((len(v), 1), self.layer.bias_unit, dtype=v.dtype)], dim=1)
        return v * units

    @property
    def size(self) -> int:
        """Number of coordinates of a vector."""
        return self.inside + (0 if self.support is None else len(self.z))

    @property
    def inside(self) -> int:
        """Number of coordinates for the classes of the support."""
        return len(self.layer.rows) * (self.basis.shape[1] + int(self.own))

    def _split(self, flat: Tensor) -> tuple[Tensor, Tensor | float]:
        """Split a vector into the part (C, r + own) and the other classes' addition to each mean slope, (m, 1)."""
        v = flat[: self.inside].view(len(self.layer.rows), -1)
        if self.support is None:
            return v, 0.0
        roots = self.shares.sqrt().clamp_min(1e-150) / self.layer.temperature
        return v, (self.root.T @ flat[self.inside :] / roots)[:, None]

    def slopes(self, v: Tensor) -> Tensor:
        """The change of the outputs of every sample along v (C, r + own), (m, C)."""
        layer = self.layer
        if layer.cosine:
            return layer.first * (self._padded(self.z) @ v.T - self.kappa * (self.w * v).sum(dim=1))
        return self._padded(self.z) @ self._in_units(v).T

    def product(self, flat: Tensor) -> Tensor:
        """The product with a flat vector."""
        layer, (v, apart) = self.layer, self._split(flat)
        u = self.slopes(v)
        # In place: with many classes these are the largest arrays, and every pass over them takes time.
        t = u.mul_(self.p)
        mean = t.sum(dim=1, keepdim=True)
        t.addcmul_(self.p, mean + apart, value=-1).mul_((self.shares / layer.temperature**2)[:, None])
        others = [] if self.support is None else [-self.root @ (mean[:, 0] * self.shares.sqrt() / layer.temperature)]
        out = t.T @ self._padded(self.z)
        if not layer.cosine:
            return torch.cat([self._in_units(out).reshape(-1), *others])
        out = layer.first[:, None] * out - (layer.first * (t * self.kappa).sum(dim=0))[:, None] * self.w
        if self.bends:
            along, pulled = (self.w * v).sum(dim=1, keepdim=True), (self.pull * v).sum(dim=1, keepdim=True)
            bent = self.w * pulled + self.pull * along + self.turn[:, None] * (v - 3 * self.w * along)
            out -= layer.second[:, None] * bent
        return torch.cat([out.reshape(-1), *others])

    def forms(self, flat: Tensor) -> Tensor:
        """V' H_i v of every sample."""
        layer, (v, apart) = self.layer, self._split(flat)
        u = self.slopes(v)
        mean = (self.p * u).sum(dim=1, keepdim=True) + apart
        found = ((self.p * u.square()).sum(dim=1) - mean[:, 0].square()) / layer.temperature**2
        if self.bends:
            along, seen = (self.w * v).sum(dim=1), self._padded(self.z) @ v.T
            bent = 2 * along * seen + self.kappa * (v.square().sum(dim=1) - 3 * along.square())
            found -= (self.gaps * layer.second * bent).sum(dim=1)
        return found

    def eigenpairs(self, k: int, which: str, keep_vectors: bool, **settings: Any) -> LayerPairs:
        """Find the extreme eigenpairs by Lanczos iteration, and add those outside the span of the features."""
        pairs = lanczos(self.product, self.size, min(k, self.size), which, **settings)
        found: list[Pair] = [
            (float(value), float(residual), bool(done), partial(self._lifted, v), self.forms(v).numpy())
            for value, residual, done, v in zip(
                pairs.values, self._residuals(pairs), pairs.converged, pairs.vectors.double(), strict=True
            )
        ]
        found = sorted([*found, *self._outside(k)], key=lambda pair: pair[0])
        found = [found[i] for i in positions(which, k, len(found))]
        values, residuals, converged, vectors, forms = zip(*found, strict=True)
        return LayerPairs(
            np.array(values), np.array(residuals), np.array(converged), pairs.products,
            np.stack([vector() for vector in vectors]) if keep_vectors else None, np.stack(forms),
        )  # fmt: skip

    def _residuals(self, pairs: Eigenpairs) -> np.ndarray:
        """Upper bounds on the residuals in the space of all classes."""
        if self.support is None:
            return pairs.residuals
        return np.hypot(pairs.residuals, self.support.rest * pairs.vectors[:, self.inside :].norm(dim=1).numpy())

    def _outside(self, k: int) -> list[Pair]:
        """Eigenpairs outside the span of the features: up to k of the largest and k of the smallest."""
        left = self.left - int(self.layer.cosine)
        if left < 1:
            return []
        values = -self.layer.second * self.turn if self.bends else torch.zeros(len(self.layer.rows)).double()
        each = min(k, left)
        order = torch.argsort(values, descending=True).tolist()
        ends = list(dict.fromkeys([*order[:k], *order[-k:]]))
        found: list[Pair] = []
        for c in ends:
            forms = torch.zeros(len(self.z), dtype=torch.float64)
            if self.bends:
                forms = -self.gaps[:, c] * self.layer.second[c] * self.kappa[:, c]
            vectors = [partial(self._apart, c, each, number) for number in range(each)]
            found += [(float(values[c]), 0.0, True, vector, forms.numpy()) for vector in vectors]
        return found

    def _apart(self, c: int, each: int, number: int) -> np.ndarray:
        """One of ``each`` orthonormal vectors of a class outside the span of the features."""
        known = torch.cat([self.basis, self.layer.rows[c][:, None]], dim=1) if self.layer.cosine else self.basis
        random = torch.randn(len(known), each, generator=torch.Generator().manual_seed(c), dtype=torch.float64)
        whole = torch.zeros_like(self.layer.rows)
        whole[c] = torch.linalg.qr(torch.cat([known, random], dim=1))[0][:, known.shape[1] + number]
        return self._flat(whole, whole.new_zeros(len(whole)), self.z.new_zeros(len(self.z)))

    def _lifted(self, flat: Tensor) -> np.ndarray:
        """Convert a vector of the span to the order of the parameters."""
        v, r = self._split(flat)[0], self.basis.shape[1]
        whole, bias = v[:, :r] @ self.basis.T, v.new_zeros(len(v))
        if self.own and self.layer.cosine:
            outside = self.layer.rows - (self.layer.rows @ self.basis) @ self.basis.T
            whole += v[:, r:] * F.normalize(outside, dim=1)
        elif self.own:
            bias = v[:, r]
        return self._flat(whole, bias, flat[self.inside :])

    def _flat(self, whole: Tensor, bias: Tensor, y: Tensor) -> np.ndarray:
        """Flatten weights and biases of the span's classes, and those of other classes from coordinates y (m,)."""
        layer, support = self.whole, self.support
        if support is not None:
            # For classes outside the support, the vector is a combination of the columns of U_T.
            columns = (support.combination(y) * self.shares.sqrt() / layer.temperature)[:, None] * self.all
            others, biases = layer.first[:, None] * (columns.T @ self.features), columns.sum(dim=0)
            if layer.cosine:
                turned = (columns * (self.features @ layer.rows.T)).sum(dim=0)
                others -= (layer.first * turned)[:, None] * layer.rows
            if layer.bias_unit is not None:
                biases *= layer.bias_unit
            others[support.classes], biases[support.classes] = whole, bias
            whole, bias = others, biases
        parts = [(whole.T if layer.cosine else whole).reshape(-1), *([] if layer.bias_unit is None else [bias])]
        return torch.cat(parts).numpy()
