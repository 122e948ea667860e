"""Inspection of modules: parameter scope, BatchNorm layers, buffers, filter axes."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from sharpness.engine.undisturbed import default_device
from sharpness.errors import UserError, shown

RECALIBRATION_BATCH = 250
HALF = (torch.float16, torch.bfloat16)
logger = logging.getLogger("sharpness")


class Recalibrated(nn.Module):
    """A model that exposes only its BatchNorm layers to ``update_bn``, so that other layers keep their modes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList(batchnorms(model))
        self.run = [model]  # in a list, to hide it from modules()

    def forward(self, x: Tensor) -> Any:
        return self.run[0](x)


class Outputs(nn.Module):
    """A model followed by the function that extracts its outputs.

    Args:
        model: the model.
        output: function of the returned value; None if that is the outputs.
        call: ``call(model, x)`` runs the model on a tensor that contains several inputs.
    """

    def __init__(
        self,
        model: nn.Module,
        output: Callable[[Any], Tensor] | None,
        call: Callable[[nn.Module, Tensor], Any] | None = None,
    ) -> None:
        super().__init__()
        self.training = model.training
        self.model = model
        self.output = output
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        with default_device():
            outputs = self.model(x) if self.call is None else self.call(self.model, x)
        if self.output is None:
            return outputs
        try:
            with default_device():
                return self.output(outputs)
        except UserError:
            raise
        except Exception as error:
            told = shown(f"{type(error).__name__}: {error}", 120)
            raise UserError(f"output= raised {told} on the {told_return(outputs)} that the model returns") from error


def told_return(returned: Any) -> str:
    """Describe what a model returned: its type, and the keys of a mapping.

    >>> told_return({"logits": 1}), told_return((1, 2))
    ('dict of logits', 'tuple of 2')
    """
    kind = type(returned).__name__
    if isinstance(returned, Mapping):
        return f"{kind} of {shown(', '.join(map(str, returned)))}"
    return f"{kind} of {len(returned)}" if isinstance(returned, tuple | list) else kind


def how_to_pick(returned: Any) -> str:
    """Return the remedy for a model that does not return a tensor.

    >>> how_to_pick({"logits": torch.zeros(1)})
    "pass output=, a function that picks the logits, such as output=lambda r: r['logits'] (--logits logits on the \
command line)"
    """
    how = "pass output=, a function that picks the logits, such as output=lambda r: r"
    if isinstance(returned, Mapping) and returned:
        return f"{how}[{(key := _likeliest(returned))!r}] (--logits {key} on the command line)"
    if isinstance(returned, tuple | list) and returned:
        shapes = ", ".join(str(tuple(v.shape)) if isinstance(v, Tensor) else type(v).__name__ for v in returned[:9])
        key = _likeliest(dict(enumerate(returned)))
        return f"{how}[{key}] (--logits {key} on the command line); they are {shapes}"
    if names := {n: v for n, v in getattr(returned, "__dict__", {}).items() if isinstance(v, Tensor)}:
        return f"{how}.{_likeliest(names)}"
    return "let its forward pass return the outputs, one row for each sample, as a tensor"


def _likeliest(entries: Mapping[Any, Any]) -> Any:
    """Return the key of the entry that is most likely the logits: by name, and with two axes."""

    def unlikely(key: Any) -> tuple[bool, ...]:
        named = any(part in str(key) for part in ("logit", "output"))
        shape = getattr(entries[key], "ndim", 0) == 2
        return not isinstance(entries[key], Tensor), not named, not shape, "logit" not in str(key)

    return min(entries, key=unlikely)


def in_full_precision(model: nn.Module) -> nn.Module:
    """Return the model, or a copy in float32 if it has weights or buffers in half precision.

    With the 8 or 11 bits of half precision, changes of the loss are lost in rounding, and Hessians even more so.

    Raises:
        UserError: the model cannot be copied, or was made under ``torch.inference_mode()`` and has no gradients.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if any(t.is_inference() for t in tensors):
        raise UserError(
            "the model's weights were made under torch.inference_mode(), and no gradient can be taken by them: make "
            "the model outside of it, or give copy.deepcopy(model), taken outside of it"
        )
    found = next((t.dtype for t in tensors if t.dtype in HALF), None)
    if found is None:
        return model
    name = str(found).removeprefix("torch.")
    try:
        twin = copy.deepcopy(model)
    except Exception as error:
        # Any exception: a user's network may contain anything.
        reason = f"{type(error).__name__}: {shown(str(error).strip().partition(chr(10))[0], 120)}"
        raise UserError(f"the model is in {name} and cannot be copied ({reason}): give model.float()") from None
    for module in twin.modules():
        module._apply(lambda t: t.float() if t.dtype in HALF else t, recurse=False)
    logger.warning("the model is in %s: measured in float32, in a copy with the same weights", name)
    return twin


def require_numbers(model: nn.Module) -> None:
    """Refuse a model whose weights are not real numbers or have no values yet.

    Raises:
        UserError: no parameters, lazy parameters, parameters on the device "meta", sparse or complex parameters.
    """
    kind = type(model).__name__
    for name, p in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(p):
            raise UserError(f"{name!r} of {kind} has no shape yet: call the model on a few inputs first, model(x[:2])")
        if p.is_meta and type(p.detach()) is Tensor:  # a subclass may store its values elsewhere
            raise UserError(
                f"{name!r} of {kind} is on the device 'meta' and has no values: load the weights first, such as "
                "model.load_state_dict(state, assign=True)"
            )
        if p.is_complex() and p.requires_grad:
            raise UserError(
                f"{name!r} of {kind} has complex numbers: give their real and imaginary parts as a parameter, "
                "nn.Parameter(torch.view_as_real(w)), and take torch.view_as_complex of it in the forward pass"
            )
        if p.layout is not torch.strided and p.requires_grad:
            raise UserError(
                f"{name!r} of {kind} is sparse, and displacements and second derivatives of it are dense: give "
                "nn.Parameter(w.to_dense()), or take it out of scope with requires_grad_(False)"
            )
    if not any(p.is_floating_point() for p in model.parameters()):
        raise UserError(f"{kind} has no parameters: there is nothing to probe")


def batchnorms(model: nn.Module) -> list[nn.Module]:
    """Return all BatchNorm layers, except in frozen parts (the scale is a buffer), whose statistics are fixed."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and "weight" not in m._buffers]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set a model to eval mode, and restore the mode of every module afterwards."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Restore buffers and tensor attributes that a forward pass writes to or replaces.

    Values are compared, because fused observers of quantisation-aware networks write without incrementing the version
    counter. BatchNorm statistics are not restored: no pass changes them in eval mode, and recalibration is meant to.
    Embeddings with ``max_norm`` write to their weights, which are restored as well.
    """
    saved = [
        (state, name, t, t.detach().clone())
        for m in model.modules()
        if not isinstance(m, nn.modules.batchnorm._BatchNorm)
        for state in (m._buffers, vars(m))
        for name, t in state.items()
        if isinstance(t, Tensor) and t.layout is torch.strided
    ]
    saved += [
        (m._parameters, "weight", m.weight, m.weight.detach().clone())
        for m in model.modules()
        if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.max_norm is not None and "weight" in m._parameters
    ]
    try:
        yield
    finally:
        for state, name, tensor, old in saved:
            state[name] = tensor
            if not torch.equal(tensor, old):
                with torch.no_grad():
                    (tensor if tensor.shape == old.shape else tensor.resize_(old.shape)).copy_(old)


@torch.no_grad()
def written_by(model: nn.Module, x: Tensor) -> str | None:
    """Describe the first layer with a buffer or tensor attribute that changes in a pass over all or half of the inputs.

    Half of the inputs are needed because a moving average over these very inputs only changes with a part of them.
    """
    with buffers_kept(model):
        before = {n: {k: t.clone() for k, t in _state(m).items()} for n, m in model.named_modules()}
        for part in (x, x[::2], x[1::2]) if len(x) > 3 else (x,):
            model(part.clone())
        for name, m in model.named_modules():
            now = _state(m)
            if any(not torch.equal(t, now[k]) for k, t in before[name].items() if k in now):
                return layer(name, m)
    return None


def _state(m: nn.Module) -> dict[str, Tensor]:
    return {k: t for k, t in (m._buffers | vars(m)).items() if isinstance(t, Tensor) and t.layout is torch.strided}


def layer(name: str, module: nn.Module) -> str:
    """Describe a layer, given its name in ``Outputs``.

    >>> layer("model.0.norm", nn.LayerNorm(2)), layer("model", nn.Tanh())
    ("layer '0.norm' (LayerNorm)", 'the model (Tanh) itself')
    """
    if isinstance(module, Outputs):
        return "the function output="
    name = name.removeprefix("model").removeprefix(".")
    kind = type(module).__name__
    return f"layer {name!r} ({kind})" if name else f"the model ({kind}) itself"


def strided(t: Tensor) -> Tensor:
    """Return a contiguous dense tensor with the same values; the given one may be sparse."""
    return (t if t.layout is torch.strided else t.to_dense()).contiguous()


def doubled(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name, with real numbers in float64."""
    everything = [*module.named_parameters(), *module.named_buffers()]
    return {n: t.detach().double() if t.is_floating_point() else t.detach() for n, t in everything}


def recalibrate(model: nn.Module, x: Tensor, device: torch.device) -> None:
    """Set running statistics to their mean over equal batches of at most 250 inputs, at the current weights.

    Meanwhile, only BatchNorm layers are in training mode; modes and momenta are restored, also after an error.

    Raises:
        UserError: a layer receives a single value per channel, which has no variance.
    """
    norms: list[Any] = batchnorms(model)
    saved = [(m, m.training, m.momentum) for m in norms]
    batches = x.tensor_split(-(-len(x) // RECALIBRATION_BATCH))
    try:
        update_bn((part.to(device) for part in batches), Recalibrated(model))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError("one sample is too few to recalibrate BatchNorm: give more, or batchnorm='eval'") from None
    finally:
        for m, training, momentum in saved:
            m.training, m.momentum = training, momentum


def require_eval(model: nn.Module) -> None:
    """Refuse a model whose outputs depend on the batch or are random.

    Raises:
        UserError: BatchNorm or dropout in training mode; names the first such layer.
    """
    noisy = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.RReLU)
    training = [n for n, m in model.named_modules() if isinstance(m, noisy) and m.training]
    batchwise = [n for n, m in model.named_modules() if isinstance(m, noisy[0]) and m.running_mean is None]
    if batchwise and not training:
        raise UserError(
            f"BatchNorm layer {batchwise[0]!r} keeps no running statistics, so a sample's loss depends on its batch: "
            "give it some, with track_running_stats=True and a pass over training data"
        )
    if training:
        raise UserError(
            f"the model is in training mode ({len(training)} BatchNorm or dropout layers, {training[0]!r} first): "
            "call model.eval() before probing it"
        )


def state_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of all tensors in the model's state dict and of its other buffers, with their names."""
    digest = hashlib.sha256()
    # Outputs also depend on buffers that are not saved. A module may put objects of any type into its state, by
    # `get_extra_state`.
    tensors = dict(model.named_buffers()) | model.state_dict()
    for name, t in sorted((n, t) for n, t in tensors.items() if isinstance(t, Tensor)):
        digest.update(name.encode() + strided(t.detach()).cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
