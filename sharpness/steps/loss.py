"""Training losses, given by their terms per sample."""

from __future__ import annotations

from torch import Tensor, nn

from sharpness.steps.batch import Batch
from sharpness.steps.context import Context


class Loss:
    r"""A training loss, :math:`L = \sum_i a_i \ell_i / \sum_i a_i`, given by its terms.

    Attributes:
        capturable: whether a step with this loss can be replayed as a CUDA graph. This requires that its operations do
            not depend on the values of tensors, that it draws only with ``Context.normal``, and that it otherwise
            changes only with the epoch.
    """

    capturable: bool = False

    def terms(self, logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Return losses (n,) and weights (n,) for logits (n, C) and labels (n,); the weights carry no gradient."""
        raise NotImplementedError

    def __call__(self, logits: Tensor, labels: Tensor, context: Context) -> Tensor:
        r"""Return the loss of logits (n, C) and labels (n,), a scalar.

        If the context has ``factors`` f of shape (K, C), return K losses of shape (K,) that share one forward pass:
        :math:`\sum_i f_{k y_i} a_i \ell_i / \sum_i a_i`, normalised like the loss itself.
        """
        losses, weights = self.terms(logits, labels, context)
        total = weights.sum()
        if context.sums is not None:
            context.sums.append(total.detach())
        if context.factors is None:
            return (weights * losses).sum() / total
        return context.factors.to(losses)[:, labels] @ (weights * losses) / total

    def of(self, model: nn.Module, batch: Batch, context: Context) -> Tensor:
        """Return the loss of a training batch, a scalar, which gradient rules differentiate.

        Methods whose loss needs more than labelled logits, such as features or additional networks, override this
        method. They average labelled terms by calling a loss, so that ``context.factors`` apply to them, and add the
        other terms.
        """
        return mixed_loss(model.head(context.features(model, batch.x)), batch, self, context)  # type: ignore[operator]

    def parts(self, model: nn.Module, train_counts: tuple[int, ...]) -> nn.Module | None:
        """Make the module that ``of`` uses, which is trained with the network and absent at inference, or None.

        Training attaches it to the network as ``model.auxiliary``.
        """
        return None

    def deterministic(self) -> Loss:
        """Return the loss with its random terms replaced by their mean, as probes evaluate it."""
        return self


def mixed_loss(logits: Tensor, batch: Batch, loss: Loss, context: Context) -> Tensor:
    """Return the published loss of mixup, ``lam * loss(logits, first) + (1 - lam) * loss(logits, second)``."""
    value = loss(logits, batch.first, context)
    if batch.second is None:
        return value
    return batch.lam * value + (1 - batch.lam) * loss(logits, batch.second, context)
