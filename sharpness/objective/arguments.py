"""Arguments of an objective that are refused before anything is computed."""

from __future__ import annotations

from typing import Any

from torch import nn

from sharpness.engine.modules import require_eval, require_numbers
from sharpness.errors import UserError, choose

BATCHNORM = ("eval", "recalibrate")


def require_valid(model: Any, loss: Any, batch_size: Any, batchnorm: str, scope: Any, output: Any) -> None:
    """Check the arguments of :class:`~sharpness.Objective` of these names; ``scope`` is ``parameters``.

    Raises:
        UserError: the first that is none.
    """
    if not isinstance(model, nn.Module):
        raise UserError(
            f"the model is a {type(model).__name__}: give the torch.nn.Module, whose weights are to be moved"
        )
    require_numbers(model)
    choose("batchnorm policy", batchnorm, BATCHNORM)
    if batch_size != "auto" and (isinstance(batch_size, bool) or not (isinstance(batch_size, int) and batch_size >= 1)):
        raise UserError(f"batch_size={batch_size!r}: give at least 1, or 'auto'")
    if not isinstance(scope, str):
        raise UserError(
            f"parameters={scope!r}: give 'all', 'backbone', 'classifier', or one pattern of names such as '*layer3*'"
        )
    if output is not None and not callable(output):
        raise UserError(
            f"output={output!r}: give a function of what the model returns, such as output=lambda r: r[{output!r}]"
        )
    if isinstance(loss, str):
        choose("loss", loss, ("ce",))
    elif isinstance(loss, type) or not callable(loss):
        raise UserError(f"loss={loss!r}: give 'ce', or a function such as torch.nn.MSELoss(reduction='none')")
    require_eval(model)
