r"""The Hessian of cross-entropy in the weights of a last layer, in closed form from one pass of features.

With outputs u of features z, probabilities p and targets y, the Hessian of a sample is
:math:`J' (\operatorname{diag} p - p p') J + \sum_c (p_c - y_c) \nabla^2 u_c`. Of a linear layer J is z for every class,
and the second part vanishes; of a cosine layer :math:`u_c = s\, \hat z' \hat w_c` has the gradient
:math:`s (\hat z - \kappa \hat w) / \|w\|` and the Hessian
:math:`-s (\hat w \hat z' + \hat z \hat w' + \kappa (I - 3 \hat w \hat w')) / \|w\|^2` with
:math:`\kappa = \hat z' \hat w_c`. So the Hessian of m samples acts, of each class, on the span of their features
and, of a cosine layer, of the class's weight: m numbers or m + 1. What is orthogonal is an eigenspace, of 0 or
:math:`-s \sum_i (p_{ic} - y_{ic}) \kappa_{ic} / (m \|w_c\|^2)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.curvature import Eigenpairs, lanczos
from sharpness.engine import distributed
from sharpness.engine.scope import classifier_prefix
from sharpness.models.heads import CosineHead
from sharpness.objective import Objective
from sharpness.objective.coordinates import scales_of
from sharpness.probes.curvature.class_support import Support, supports

#: Samples whose probabilities are in memory at once, in numbers of them times classes.
CHUNK = 2**23
#: Value, residual, whether it has converged, what makes the vector, and the quadratic forms of all samples.
Pair = tuple[float, float, bool, Callable[[], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class LastLayer:
    """A last layer with all that its curvature needs, in float64.

    Attributes:
        features: (n, d), unit ones of a cosine layer.
        rows: (C, d) the weights of the classes, unit ones of a cosine layer.
        bias: (C,) of the outputs.
        first: (C,) factor of the gradient of an output: s / |w_c| of a cosine layer, and the unit of its coordinate.
        second: (C,) factor of its Hessian, s / |w_c|² and the unit squared; zeros of a linear layer.
        scale: s; 1 of a linear layer.
        bias_unit: the unit of the bias's coordinates; None where it is no parameter.
        targets: (n,) labels or (n, C) probabilities.
        temperature: that outputs are divided by.
        weights: (n,) of the samples.
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
        """True where outputs are cosines of features and weights."""
        return bool(self.second.any())

    @classmethod
    def of(cls, objective: Objective) -> LastLayer | None:
        """That of an objective whose scope is its classifier; None where there is no closed form."""
        prefix = classifier_prefix(objective.model)
        head = dict(objective.model.named_modules()).get(prefix.removesuffix("."))
        plain = objective.loss_name == "ce" and objective.batchnorm == "eval" and distributed.world_size() == 1
        names = [prefix + name for name in ("weight", "bias")][: len(objective.names)]
        if objective.scope != "classifier" or not plain or objective.names != names:
            return None
        if type(head) is not CosineHead and not isinstance(head, nn.Linear):
            return None
        # The layer's inputs are what it is called with: a network may do anything between its backbone and it.
        seen: list[Tensor] = []
        hook = head.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].detach().cpu()))
        try:
            objective.evaluate()  # no pass that keeps the outputs of all: of many classes they are larger than features
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
        # A network may also change what the layer returns, and has no closed form then.
        made, known = layer.outputs(few), outputs.double()
        return layer if torch.allclose(made, known, rtol=1e-3, atol=1e-4 * float(known.abs().max())) else None

    def outputs(self, samples: Any) -> Tensor:
        """(m, C), before the temperature."""
        return self.scale * self.features[samples] @ self.rows.T + self.bias

    def probabilities(self, samples: Any) -> Tensor:
        """Those of some samples, (m, C)."""
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
        """The trace of the Hessian of every sample, or of its Gauss-Newton part, (n,)."""
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

    def eigenpairs(
        self, samples: np.ndarray, p: Tensor, k: int, which: str, hessian: bool = True, keep_vectors: bool = True,
        *, tol: float, generator: torch.Generator, **settings: Any,
    ) -> LayerPairs:  # fmt: skip
        """The extreme eigenpairs of the mean loss of some samples, in descending order.

        The largest are looked for on classes that have nearly all of the probability, and what the others could add is
        part of the residuals: :mod:`~sharpness.probes.curvature.class_support`.

        Args:
            samples: their indices.
            p: (m, C) their probabilities.
            k: pairs at each end, at most the number of parameters over 2.
            which: of the ends.
            hessian: False for the Gauss-Newton part.
            keep_vectors: with one number for every parameter each.
            tol: of :func:`~sharpness.curvature.lanczos`, as the following.
            generator: of start vectors.
            settings: the others.

        Returns:
            The pairs, with their quadratic forms.
        """
        chosen, products, begun = torch.as_tensor(samples), 0, generator.get_state()
        few: Iterable[Support] = supports(self, chosen, p, hessian and self.cosine) if which == "LA" else ()
        for support in chain(few, [None]):
            span = Span(self, chosen, p, hessian, support)
            if support is not None and k > span.size:
                continue
            generator.set_state(begun)
            pairs = span.eigenpairs(k, which, keep_vectors, tol=tol, generator=generator, **settings)
            products += pairs.products
            # What the other classes do to the vectors must leave residuals as small as they were asked to be.
            small = float(pairs.residuals.max()) <= tol * float(pairs.values[0]) or not pairs.converged.all()
            if support is None or (small and support.suffices(float(pairs.values[-1]))):
                break
        return replace(pairs, products=products)


class Ahead:
    """Probabilities of rows of few samples each, made of many rows at once.

    Args:
        layer: of the samples.
        samples: indices by row, in the order in which they will be asked for.
    """

    def __init__(self, layer: LastLayer, samples: Mapping[int, np.ndarray]) -> None:
        self.layer, self.samples = layer, samples
        self.kept: dict[int, Tensor] = {}

    def __call__(self, row: int) -> Tensor:
        """Those of one row, (m, C)."""
        if row not in self.kept:
            order = list(self.samples)
            later, room = order[order.index(row) :], CHUNK // len(self.layer.rows)
            sizes = np.cumsum([len(self.samples[one]) for one in later])
            chosen = later[: max(1, int(np.searchsorted(sizes, room, side="right")))]
            p = self.layer.probabilities(torch.as_tensor(np.concatenate([self.samples[one] for one in chosen])))
            self.kept = dict(zip(chosen, p.split([len(self.samples[one]) for one in chosen]), strict=True))
        return self.kept[row]


@dataclass(frozen=True)
class LayerPairs:
    """Eigenpairs of a last layer.

    Attributes:
        values, residuals, converged: (m,).
        products: in the span of the features.
        vectors: (m, k) in the order of the parameters; None unless they were asked for.
        forms: (m, n) v' H_i v of every sample.
    """

    values: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    products: int
    vectors: np.ndarray | None
    forms: np.ndarray


class Span:
    """The curvature of some samples in the span of their features, and of a cosine layer of each class's weight.

    A vector has, of each class, the r coordinates in the span of features, then that of the part of the class's weight
    that is orthogonal to it (of a cosine layer with more features than samples) or of its bias; of classes outside a
    support it has one coordinate for each sample.

    Args:
        layer: of the samples.
        samples: their indices.
        p: (m, C) their probabilities.
        hessian: False for the Gauss-Newton part.
        support: of the eigenvectors that are looked for; all classes unless given.
    """

    def __init__(self, layer: LastLayer, samples: Tensor, p: Tensor, hessian: bool, support: Support | None) -> None:
        self.features = z = layer.features[samples]
        self.basis = torch.linalg.qr(z.T)[0] if len(z) < z.shape[1] else torch.eye(z.shape[1], dtype=z.dtype)
        self.z = z @ self.basis  # (m, r)
        self.shares = layer.weights[samples] / layer.weights[samples].sum()
        self.left = z.shape[1] - self.basis.shape[1]  # dimensions that no feature reaches
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
        """Features with a number for a cosine layer's own coordinate, which they do not reach, or for the bias."""
        return F.pad(z, (0, int(self.own)), value=0.0 if self.layer.cosine else 1.0)

    def _in_units(self, v: Tensor) -> Tensor:
        """Vectors (C, r + own) of a linear layer times the units of their coordinates."""
        if not self.scaled:
            return v
        units = self.layer.first[:, None].expand(v.shape)
        if self.layer.bias_unit is not None:
            units = torch.cat([units[:, :-1], torch.full((len(v), 1), self.layer.bias_unit, dtype=v.dtype)], dim=1)
        return v * units

    @property
    def size(self) -> int:
        """Numbers of a vector."""
        return self.inside + (0 if self.support is None else len(self.z))

    @property
    def inside(self) -> int:
        """Those of the classes of the support."""
        return len(self.layer.rows) * (self.basis.shape[1] + int(self.own))

    def _split(self, flat: Tensor) -> tuple[Tensor, Tensor | float]:
        """The part (C, r + own) of a vector, and what the other classes add to a sample's mean slope, (m, 1)."""
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
        # In place: of many classes these are the largest arrays, and each pass over them counts.
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
        """The extreme ones by :func:`~sharpness.curvature.lanczos`, and those that no feature reaches."""
        pairs = lanczos(self.product, self.size, min(k, self.size), which, **settings)
        found: list[Pair] = [
            (float(value), float(residual), bool(done), partial(self._lifted, v), self.forms(v).numpy())
            for value, residual, done, v in zip(
                pairs.values, self._residuals(pairs), pairs.converged, pairs.vectors.double(), strict=True
            )
        ]
        found = sorted([*found, *self._outside(k)], key=lambda pair: -pair[0])
        if which == "both":
            found = found if len(found) <= 2 * k else [*found[:k], *found[-k:]]
        else:
            found = found[:k] if which == "LA" else found[-k:]
        values, residuals, converged, vectors, forms = zip(*found, strict=True)
        return LayerPairs(
            np.array(values), np.array(residuals), np.array(converged), pairs.products,
            np.stack([vector() for vector in vectors]) if keep_vectors else None, np.stack(forms),
        )  # fmt: skip

    def _residuals(self, pairs: Eigenpairs) -> np.ndarray:
        """Those in the space of all classes, at most."""
        if self.support is None:
            return pairs.residuals
        return np.hypot(pairs.residuals, self.support.rest * pairs.vectors[:, self.inside :].norm(dim=1).numpy())

    def _outside(self, k: int) -> list[Pair]:
        """Eigenpairs that no feature reaches, as many of the largest and of the smallest as could be wanted."""
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
        """One of some orthonormal vectors of a class that no feature reaches."""
        known = torch.cat([self.basis, self.layer.rows[c][:, None]], dim=1) if self.layer.cosine else self.basis
        random = torch.randn(len(known), each, generator=torch.Generator().manual_seed(c), dtype=torch.float64)
        whole = torch.zeros_like(self.layer.rows)
        whole[c] = torch.linalg.qr(torch.cat([known, random], dim=1))[0][:, known.shape[1] + number]
        return self._flat(whole, None)

    def _lifted(self, flat: Tensor) -> np.ndarray:
        """A vector of the span as one of the parameters."""
        v, r = self._split(flat)[0], self.basis.shape[1]
        whole = v[:, :r] @ self.basis.T
        if not self.own:
            return self._flat(whole, None, flat)
        if not self.layer.cosine:
            return self._flat(whole, v[:, r], flat)
        outside = self.layer.rows - (self.layer.rows @ self.basis) @ self.basis.T
        return self._flat(whole + v[:, r:] * F.normalize(outside, dim=1), None, flat)

    def _flat(self, whole: Tensor, bias: Tensor | None, flat: Tensor | None = None) -> np.ndarray:
        layer = self.whole
        if layer.bias_unit is not None and bias is None:
            bias = torch.zeros(len(whole), dtype=torch.float64)
        if self.support is not None:
            whole, bias = self._with_others(whole, bias, flat)
        parts = [(whole.T if layer.cosine else whole).reshape(-1), *([] if bias is None else [bias])]
        return torch.cat(parts).numpy()

    def _with_others(self, whole: Tensor, bias: Tensor | None, flat: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """A vector with the part of classes outside the support: some combination of the columns of U_T."""
        layer, support = self.whole, self.support
        assert support is not None
        y = self.z.new_zeros(len(self.z)) if flat is None else flat[self.inside :]
        columns = (support.combination(y) * self.shares.sqrt() / layer.temperature)[:, None] * self.all
        others = layer.first[:, None] * (columns.T @ self.features)
        if layer.cosine:
            turned = (columns * (self.features @ layer.rows.T)).sum(dim=0)
            others -= (layer.first * turned)[:, None] * layer.rows
        others[support.classes] = whole
        if bias is None:
            return others, None
        biases = (layer.bias_unit or 0.0) * columns.sum(dim=0)
        biases[support.classes] = bias
        return others, biases
