"""The curvature of a loss as a symmetric linear operator, for algorithms that only need products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from sharpness.engine import distributed
from sharpness.engine.class_sums import WeightedBatch
from sharpness.engine.devices import full_precision
from sharpness.engine.double_backward import hvp_sum
from sharpness.engine.modules import require_eval, strided
from sharpness.engine.products import Products
from sharpness.engine.second_order import SecondOrder
from sharpness.errors import UserError


class CurvatureOperator:
    r"""The operator :math:`v \mapsto \frac{1}{\sum_i a_i} \sum_i a_i H_i v`, (k,) to (k,), at the current weights.

    With ``scales`` D (k,) it is :math:`D H D`, the curvature in coordinates with units D.

    H_i is the Hessian of the loss of sample i, or for ``kind="ggn"`` its Gauss-Newton part
    :math:`J_i' (\nabla_u^2 \ell_i) J_i`, which is positive semi-definite for a loss that is convex in the outputs u.

    Attributes:
        size: k.
        products: number of products made so far.
        samples: number of samples in a product, over all processes.
    """

    def __init__(
        self,
        engine: SecondOrder,
        batches: Callable[[], Iterable[WeightedBatch]],
        *,
        samples: int,
        weight: float,
        kind: str = "hessian",
        budget: int = 0,
        scales: Tensor | None = None,
    ) -> None:
        self._engine, self._batches, self._budget = engine, batches, budget
        self.samples, self.weight, self.kind = samples, weight, kind
        self.parameters: Sequence[Tensor] = engine.parameters
        self.size = sum(p.numel() for p in engine.parameters)
        self.dtype, self.device = engine.parameters[0].dtype, engine.parameters[0].device
        self.products = 0
        self._scales = scales
        self._open()

    @property
    def kept_bytes(self) -> int:
        """Bytes of the tapes that are currently kept."""
        return self._products.kept_bytes

    @property
    def keeps(self) -> bool:
        """True if tapes are kept as far as they fit, so that a gradient shares its passes with products."""
        return self._budget > 0

    @property
    def route(self) -> str:
        """A description of how products are computed, in one line."""
        return self._engine.route

    @torch.inference_mode(False)
    @full_precision()
    def __call__(self, vector: Tensor) -> Tensor:
        """Return the product with a vector, in the dtype of the parameters.

        Raises:
            UserError: a vector of another shape, a model in training mode, or a product that is not finite.
        """
        if vector.shape != (self.size,):
            raise UserError(f"the vector has shape {tuple(vector.shape)}: this Hessian needs ({self.size},)")
        self._renew()
        vector = self._scaled(vector.detach().to(self.device, self.dtype, copy=vector.is_inference()))
        product = self._scaled(distributed.total(self._products(vector)) / self.weight)
        self.products += 1
        # The sum takes a single pass; it is finite unless an entry is not or the sum itself overflows.
        if not bool(torch.isfinite(product.sum())) and not bool(torch.isfinite(product).all()):
            raise UserError("a Hessian-vector product is not finite: check inputs and weights for inf and nan")
        return product.to(self.dtype)

    @torch.inference_mode(False)
    @full_precision()
    def gradient(self) -> Tensor:
        """Return the gradient of the same loss, (k,); its passes are those that the first product would need."""
        self._renew()
        return self._scaled(distributed.total(self._products.gradient_sum()) / self.weight).to(self.dtype)

    @torch.inference_mode(False)
    @full_precision()
    def rows(self, vectors: Tensor) -> Tensor:
        """Return the products with all rows of ``vectors``, (p, k) to (p, k); much faster than calls for few samples.

        Computed in one double-backward pass, if torch supports it and the first product agrees with that of a call.
        """
        if not len(vectors):
            return vectors.to(self.device, self.dtype)
        if self.kind != "hessian":  # that pass computes Hessian products, whose first row might agree by chance
            return torch.stack([self(v) for v in vectors])
        first = self(vectors[0])
        vectors = vectors.detach().to(self.device, self.dtype, copy=vectors.is_inference())
        try:
            moved = self._scaled(vectors)
            found = hvp_sum(self._engine.module, self.parameters, self._batches(), self._engine.loss, moved)
        except (RuntimeError, UserError):
            found = torch.full_like(vectors, torch.nan)
        found = self._scaled(distributed.total(found) / self.weight).to(self.dtype)
        error, scale = (found[0] - first).norm(), found.norm(dim=1).max()
        if not error <= torch.finfo(self.dtype).eps ** 0.5 * scale:  # NaN as well
            return torch.stack([first, *(self(v) for v in vectors[1:])])
        self.products += len(vectors) - 1
        return found

    def _scaled(self, vectors: Tensor) -> Tensor:
        return vectors if self._scales is None else vectors * self._scales.to(vectors)

    @torch.inference_mode(False)
    @full_precision()
    def quadratic_forms(self, vector: Tensor) -> Tensor:
        r"""Return :math:`v' H_i v` for the Hessian of every sample of this process, (n,), in float64."""
        self._renew()
        vector = vector.detach().to(self.device, self.dtype, copy=vector.is_inference())
        return self._products.quadratic_forms(self._scaled(vector))

    def close(self) -> None:
        """Free the tapes; no tapes are kept from then on."""
        self._products.close()
        self._budget = self._products.budget = 0

    def _renew(self) -> None:
        """Drop the tapes if weights or buffers have changed.

        Raises:
            UserError: the model is in training mode.
        """
        require_eval(self._engine.module)
        now = self._state()
        if len(now) != len(self._seen) or not all(map(torch.equal, now, self._seen)):
            self._products.close()
            self._open()

    @torch.inference_mode(False)
    def _open(self) -> None:
        self._seen = [t.clone() for t in self._state()]
        self._products = Products(self._engine, self._batches(), self.kind, self._budget)

    @torch.no_grad()
    def _state(self) -> list[Tensor]:
        """Return all weights and buffers, to detect changes by comparison: writes through ``p.data`` count no version.

        On a GPU, they are concatenated, because every comparison synchronises.
        """
        module = self._engine.module
        tensors = [strided(t) for t in (*module.parameters(), *module.buffers())]
        return tensors if self.device.type == "cpu" else [torch.cat([t.reshape(-1) for t in tensors])]

    def __repr__(self) -> str:
        return f"CurvatureOperator({self.kind}, {self.size} x {self.size}, {self.samples} samples, {self.route})"
