"""Models from a user's own code, ``package.module:factory``, and strict loading of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.errors import UserError, shown
from sharpness.extensions import imported, importing_from_here, in_one_line, listed
from sharpness.models.hubs import hub_of

EXAMPLE = "package.module:factory, such as mynets.resnet:resnet20"


def source_of(name: str) -> Any:
    """The object behind a name: a network of a library (``timm:resnet18``), or of ``package.module:factory``.

    Raises:
        UserError: no such module or name.
    """
    return hub_of(name) or imported(name, "model", EXAMPLE)


def model_from(source: str | nn.Module | Any, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the model of ``package.module:factory``, of a library, of a callable or of an instance, in eval mode.

    Args:
        source: ``"pkg.mod:factory"`` with a function, a class or an instance behind the colon (dots reach into
            classes); ``"timm:NAME"``, ``"torchvision:NAME"`` or ``"hf:NAME_OR_FOLDER"``, with random weights; or that
            function, class or instance itself. Modules of the current directory can be imported.
        arguments: keyword arguments of the function or class.

    Raises:
        UserError: no such module or name; nothing to call and no model; it raises, or returns no ``nn.Module``.

    >>> model_from("torch.nn:Linear", {"in_features": 2, "out_features": 3})
    Linear(in_features=2, out_features=3, bias=True)
    """
    options = dict(arguments or {})
    name = source if isinstance(source, str) else getattr(source, "__qualname__", type(source).__name__)
    made = source_of(source) if isinstance(source, str) else source
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise UserError(f"model {name}: a {type(made).__name__} is neither a model nor a function that makes one")
        made = _called(name, made, options)
    elif options:
        raise UserError(f"model {name} is made already and takes no arguments: leave {', '.join(options)} out")
    if not isinstance(made, nn.Module):
        raise UserError(f"model {name} returned a {type(made).__name__}: return a torch.nn.Module")
    wrapped = {nn.DataParallel: "module", nn.parallel.DistributedDataParallel: "module"}
    while isinstance(inner := getattr(made, wrapped.get(type(made), "_orig_mod"), None), nn.Module):
        made = inner  # of a wrapper or torch.compile: files have the plain names
    if isinstance(made, torch.jit.ScriptModule):
        raise UserError(f"model {name} is TorchScript, which cannot be differentiated twice: give the plain nn.Module")
    return made.eval()


def _called(name: str, factory: Any, options: Mapping[str, Any]) -> Any:
    with importing_from_here():
        try:
            return factory(**options)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            given = ", ".join(f"{key}={value!r}" for key, value in options.items())
            raise UserError(f"model {name}({given}) raised {in_one_line(error)}") from None


def load_weights(model: nn.Module, state: Mapping[str, Any], *, where: str = "the weights") -> nn.Module:
    """Load a plain ``state_dict`` into a model whose keys match it exactly, and return the model.

    Args:
        model: changed in place; left as it was if the weights do not fit.
        state: tensors by name.
        where: what ``state`` is called in messages.

    Raises:
        UserError: missing or unexpected keys, other shapes or kinds of numbers, or values that are no tensors; the
            first few of each and their number. ``num_batches_tracked`` may be missing, as before PyTorch 0.4.1.

    >>> load_weights(nn.Linear(2, 1), {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}).weight.sum().item()
    2.0
    """
    odd = [key for key, value in state.items() if not isinstance(value, Tensor) or not isinstance(key, str)]
    if odd:
        raise UserError(f"{where}: {listed(odd)} hold no tensors: give the state_dict itself")
    wanted = model.state_dict()
    given = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")} | dict(state)
    missing = [key for key in wanted if key not in given]
    unexpected = [key for key in given if key not in wanted]
    both = [key for key in wanted if key in given and isinstance(wanted[key], Tensor)]
    shapes = [
        f"{shown(key)} is {_shape(given[key])}, the model's {_shape(wanted[key])}"
        for key in both
        if given[key].shape != wanted[key].shape
    ]
    # torch copies these without a word.
    kinds = [
        f"{shown(key)} is {_kind(given[key])}, the model's {_kind(wanted[key])}"
        for key in both
        if not _holds(wanted[key], given[key])
    ]
    wrong = {"missing": missing, "unexpected": unexpected, "of another shape": shapes, "of another kind": kinds}
    if any(wrong.values()):
        misfits = "; ".join(f"{len(keys)} {what} ({listed(keys)})" for what, keys in wrong.items() if keys)
        raise UserError(f"{where} do not fit the model {type(model).__name__}: {misfits}")
    model.load_state_dict(given)
    return model


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _holds(wanted: Tensor, given: Tensor) -> bool:
    """True unless copying loses more than digits: imaginary parts, fractions, or the scale of quantised integers."""
    if given.is_complex() or given.is_quantized:
        return wanted.dtype == given.dtype or (wanted.is_complex() and given.is_complex())
    if wanted.is_floating_point() and wanted.numel() > 1:
        return given.is_floating_point() or given.dtype is torch.bool
    if not wanted.is_floating_point() and not wanted.is_complex() and given.is_floating_point():
        return bool((given == given.round()).all())
    return True


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
