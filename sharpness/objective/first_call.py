"""Checks of an objective's arguments, and the first call of model and loss; errors say what to correct."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.data import Layout, told_of
from sharpness.engine.class_sums import PerSampleLoss, require_one_each
from sharpness.engine.memory import fastest_batch
from sharpness.engine.modules import buffers_kept, require_eval, require_numbers
from sharpness.engine.tracing import first_line
from sharpness.errors import UserError, choose

BATCHNORM = ("eval", "recalibrate")
logger = logging.getLogger("sharpness")


def require_valid(model: Any, loss: Any, batch_size: Any, batchnorm: str, scope: Any, output: Any) -> None:
    """Check the arguments of :class:`~sharpness.Objective` of these names; ``scope`` is ``parameters``.

    Raises:
        UserError: names the first invalid argument.
    """
    if not isinstance(model, nn.Module):
        raise UserError(
            f"the model is a {type(model).__name__}: give the torch.nn.Module, whose weights are to be moved"
        )
    require_numbers(model)
    choose("batchnorm policy", batchnorm, BATCHNORM)
    whole = isinstance(batch_size, Integral) and not isinstance(batch_size, bool)
    if batch_size != "auto" and not (whole and batch_size >= 1):
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


def argument_names(model: nn.Module) -> tuple[str, ...]:
    """List the names of the arguments of the model's forward pass."""
    try:
        return tuple(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        return ()


def largest_batch(model: nn.Module, x: Tensor, layout: Layout | None, name: str) -> int:
    """Call a model on one sample, and choose the batch size from its activations.

    Args:
        model: the model to call on x.
        x: one input, shape (1, ...).
        layout: layout of several inputs packed into one.
        name: name of the model, for errors.

    Raises:
        UserError: the model does not accept the input.
    """
    try:
        with buffers_kept(model):
            return fastest_batch(model, x)
    except UserError:
        raise
    except Exception as error:
        parts = [x] if layout is None else layout.unpack(x)
        shapes = " and ".join(str(tuple(part.shape)) for part in parts)
        channels_last = len(parts) == 1 and x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4)
        turned = "x.permute(0, 3, 1, 2)" if channels_last else "x"
        remedy = f"channels come first, give {turned}" if channels_last else "check size, channels and layout"
        if len(parts) == 1 and not x.is_floating_point() and "type" in str(error):
            kind = str(x.dtype).removeprefix("torch.")
            how = f"{turned}.float()" + (" / 255, normalised as in training" if kind == "uint8" else "")
            remedy = f"inputs are {kind}: give them as the model was trained on them, such as {how}"
        elif "size()[0] ==" in str(error):
            remedy = "it was exported for one batch size: export it with a dynamic one, or give the module itself"
        raise UserError(f"{name} raised {first_line(error)} on inputs of shape {shapes}: {remedy}") from error


def first_outputs(forward: Callable[[Tensor], Tensor], x: Tensor, name: str) -> Tensor:
    """Return the outputs for several samples, with a graph, of a model that has already run without gradients.

    Args:
        forward: function that calls the model.
        x: several inputs; they are not changed.
        name: name of the model, for errors.

    Raises:
        UserError: the model raises, does not return one row for each sample, or changes its inputs.
    """
    untouched = x.clone()
    try:
        outputs = forward(x)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{name} raised {first_line(error)} on several samples, with gradients: let its forward pass take any "
            "number of samples, and nothing in it run under torch.inference_mode()"
        ) from error
    if outputs.ndim == 0 or len(outputs) != len(x):
        raise UserError(
            f"the model returned outputs of shape {tuple(outputs.shape)} for {len(x)} samples: let it return one row "
            "for each, or give output=, such as output=lambda r: r.transpose(0, 1)"
        )
    if not torch.equal(x.nan_to_num(), untouched.nan_to_num()):
        raise UserError("the model changes its inputs in place: let its forward pass start from a copy")
    return outputs


def warn_of_probabilities(outputs: Tensor) -> None:
    """Warn if outputs are class probabilities, (n, C): cross-entropy would apply another softmax to them."""
    if outputs.ndim != 2 or outputs.shape[1] == 1 or bool((outputs < 0).any()):
        return
    if bool(((outputs.detach().sum(1) - 1).abs() <= 1e-3).all()):
        logger.warning(
            "the outputs of each sample are probabilities, which add up to 1, and cross-entropy takes logits: leave "
            "the softmax out, or give output=lambda p: p.log()"
        )


def first_losses(loss: PerSampleLoss, outputs: Tensor, y: Tensor) -> Tensor:
    """Compute the losses of the first samples, with their graph.

    Raises:
        UserError: the loss does not accept these outputs and targets, or does not return one value per sample.
    """
    try:
        values = loss(outputs, y)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the loss raised {first_line(error)} on outputs of shape {tuple(outputs.shape)} and targets "
            f"{told_of(y)}: let it convert them, such as t.to(u), or give targets of the dtype that it takes"
        ) from error
    try:
        return require_one_each(values, outputs, y)
    except UserError as error:
        if isinstance(getattr(loss, "weight", None), Tensor):
            raise UserError(
                f"{error}; for torch's mean, which is divided by the sum of its class weights w, give the loss without "
                "them, and weights=w[y]"
            ) from None
        raise


def require_through_outputs(
    loss: PerSampleLoss, outputs: Tensor, y: Tensor, names: Sequence[str], parameters: Sequence[Tensor]
) -> None:
    """Refuse a loss that uses parameters in scope directly: derivatives are only taken through the outputs.

    Raises:
        UserError: the loss uses parameters directly, as weight decay does; the message names the first of them.
    """
    apart = loss(outputs.detach().clone(), y)
    reached = torch.autograd.grad(apart.sum(), parameters, allow_unused=True) if apart.requires_grad else []
    for name, gradient in zip(names, reached, strict=False):
        if gradient is not None:
            raise UserError(
                f"the loss takes the parameter {name!r} itself, beside the outputs: leave that term out (a penalty "
                "d |w|^2 adds 2 d to every eigenvalue), or let the model return it as one more column of its outputs"
            )
