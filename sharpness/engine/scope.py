"""The parameters in scope: those of a backbone, a classifier or a pattern that receive a gradient."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from sharpness.errors import UserError

REENTRANT = "give torch.utils.checkpoint use_reentrant=False"


def classifier_prefix(model: nn.Module) -> str:
    """Return the prefix of the classifier: ``head.``, ``fc.``, ... if present, else the last module with weights."""
    # A child without tensors is skipped: an nn.Identity may have replaced it.
    children = [name for name, child in model.named_children() if [*child.parameters(), *child.buffers()]]
    for name in ("head", "classifier", "fc", "linear"):
        if name in children:
            return name + "."
    owners = [n for n, m in model.named_modules() if n and any(True for _ in m.parameters(recurse=False))]
    return owners[-1] + "." if owners else ""


@contextmanager
def hidden_noticed() -> Iterator[list[str]]:
    """Collect warnings that checkpointing hides parameters from gradients; other warnings are passed on.

    Reentrant checkpointing of a part whose inputs need no gradient cuts off its parameters and only issues a warning.
    """
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    for w in caught:
        if "None of the inputs have requires_grad=True" in str(w.message):
            found.append(str(w.message))
        else:
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)


def parameters_in_scope(model: nn.Module, value: Tensor, scope: str, hidden: bool) -> tuple[list[str], list[Tensor]]:
    """Return the names and tensors of the parameters in scope that receive a gradient.

    Args:
        model: the model.
        value: a loss of the model, with its graph.
        scope: ``"all"``, ``"backbone"``, ``"classifier"``, or a shell pattern of names.
        hidden: whether a warning said that checkpointing hides parameters.

    Raises:
        UserError: nothing is trainable, nothing receives a gradient, the pattern matches nothing, or two parameters
            share memory.
    """
    everything = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if not everything:
        raise UserError("all parameters are frozen (requires_grad is False): unfreeze those to be probed")
    if hidden and not value.requires_grad:
        raise UserError(f"activation checkpointing hides all parameters from gradients: {REENTRANT}")
    if not value.requires_grad:
        raise UserError("the loss does not depend on any parameter: is the forward pass under no_grad?")
    try:
        gradients = torch.autograd.grad(value, [p for _, p in everything], allow_unused=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if "use_reentrant" in reason:
            reason = f"activation checkpointing allows none: {REENTRANT}"
        raise UserError(f"the gradient of the loss by the parameters cannot be taken: {reason}") from error
    # Unused parameters are left out. If parameters are hidden, any missing gradient is an error, because hidden and
    # unused parameters cannot be distinguished here.
    reached = [(n, p) for (n, p), g in zip(everything, gradients, strict=True) if g is not None]
    if hidden and len(reached) < len(everything):
        first = next(n for n, g in zip([n for n, _ in everything], gradients, strict=True) if g is None)
        raise UserError(f"activation checkpointing hides parameters from gradients, {first!r} first: {REENTRANT}")
    classifier = classifier_prefix(model)

    def inside(name: str) -> bool:
        if scope in ("classifier", "backbone"):
            return name.startswith(classifier) == (scope == "classifier")
        return scope == "all" or fnmatch.fnmatchcase(name, scope)

    chosen = [(n, p) for n, p in reached if inside(n)]
    if not chosen:
        raise UserError(
            f"parameters={scope!r} matches no parameter that receives a gradient: take 'all', 'backbone', "
            f"'classifier' or a pattern of names such as {reached[0][0]!r}"
        )
    _require_apart(chosen)
    return [n for n, _ in chosen], [p for _, p in chosen]


def _require_apart(named: Sequence[tuple[str, Tensor]]) -> None:
    """Refuse parameters that are views of the same memory: moving one would move the other.

    Raises:
        UserError: names the first two such parameters.
    """
    spans = [(p.data_ptr(), p.data_ptr() + p.numel() * p.element_size(), n) for n, p in named if p.is_contiguous()]
    for (_, end, one), (start, _, other) in pairwise(sorted(spans)):
        if start < end:
            raise UserError(
                f"parameters {one!r} and {other!r} are different tensors in the same memory: tie them by assigning one "
                "to the other, or clone one"
            )


#: Names of a layer's weight: its own, and those under spectral or weight norm, old and new.
PARAMETRIZED = (
    "weight", "weight_orig", "weight_v", "parametrizations.weight.original", "parametrizations.weight.original1"
)  # fmt: skip


def filter_axes(model: nn.Module) -> dict[str, int | None]:
    """Return the filter axes that are not 0, by parameter name; None for a parameter without filters.

    The axis is 1 for transposed convolutions, whose weights are (inputs, outputs, ...), unless they are depthwise; with
    other groups, a filter holds the weights of one output of every group. LayerNorm and RMSNorm scale and
    shift every number of a sample by one of its own, however many axes these have. A module can declare its own axes in
    an attribute ``filter_axes``.
    """
    axes: dict[str, int | None] = {}
    for prefix, module in model.named_modules():
        declared: dict[str, int | None] = {}
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            depthwise = module.groups == module.in_channels == module.out_channels
            declared = dict.fromkeys(PARAMETRIZED, 0 if depthwise else 1)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            declared = {"weight": None, "bias": None}
        for name, axis in (declared | getattr(module, "filter_axes", {})).items():
            axes[f"{prefix}.{name}".lstrip(".")] = axis
    return axes
