"""Detection of losses that depend on other samples in the batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sharpness.engine.class_sums import PerSampleLoss
from sharpness.engine.culprit import Call, calls
from sharpness.engine.modules import buffers_kept, doubled, layer, written_by
from sharpness.engine.stateless import called_with
from sharpness.errors import UserError

#: Differences, relative to the largest loss or output, that may be rounding: kernels depend on the batch size.
ROUNDING = {torch.float64: 1e-9, torch.float32: 2e-5}
HALF = 2e-2
#: The difference in float64 that confirms a larger one, even if parts of the model round to float32.
CONFIRMED = 1e-5
#: A difference that cannot be rounding, for models that do not run in float64.
CERTAIN = 0.1
logger = logging.getLogger("sharpness")

Run = Callable[[Tensor], Tensor]


def few_samples(y: Tensor) -> Tensor:
    """Return indices of a few samples spread over the data, two of them with the same target if possible."""
    n = len(y)
    chosen = torch.linspace(0, n - 1, min(n, 5)).long().unique()
    first = y[chosen[0]]
    same = [i for i in range(min(n, 4096)) if i != int(chosen[0]) and torch.equal(y[i], first)]
    return torch.cat([chosen, torch.tensor(same[:1], dtype=torch.int64)]).unique()


@torch.no_grad()
def require_independent(module: nn.Module, loss: PerSampleLoss, x: Tensor, y: Tensor) -> None:
    """Refuse a loss that changes if a few samples are evaluated separately instead of together, or after others.

    A difference beyond rounding in the model's own dtype must be confirmed in float64, or, if the model does not run in
    float64, by a layer that writes to its state. If two passes over the same samples differ, the loss is random, which
    ``Objective.check`` reports.

    Args:
        module: the model.
        loss: function from outputs and targets to losses (n,).
        x, y: the samples; fewer than two are not examined.

    Raises:
        UserError: the model or the loss mixes samples; the message names the layer.
    """
    if len(y) < 2:
        return
    with buffers_kept(module):
        if _remembers(module, loss, x, y):
            writer = written_by(module, x)
            # Without such a layer, repeat: sums in a nondeterministic order may differ once, as if there were a state.
            if writer is not None or _remembers(module, loss, x, y):
                raise UserError(_told_of_state(module, writer or "the model"))
        mixed = _mixed(module, module, loss, x, y)
        if mixed <= ROUNDING.get(_dtype(module), HALF):
            return

        def run(x: Tensor) -> Tensor:  # with new tensors each time, because a pass may write to them
            return called_with(module, doubled(module), (x.double() if x.is_floating_point() else x,))

        try:
            confirmed = _mixed(module, run, loss, x, y) > CONFIRMED
        except Exception as error:
            logger.debug("neighbours were not examined in float64: %s", error)
            confirmed = mixed > CERTAIN or written_by(module, x) is not None
        if confirmed:
            raise UserError(_explanation(module, x, y))


def _dtype(module: nn.Module) -> torch.dtype:
    return next(p.dtype for p in module.parameters() if p.is_floating_point())  # integers may come first


def _mixed(module: nn.Module, run: Run, loss: PerSampleLoss, x: Tensor, y: Tensor) -> float:
    """Return the largest difference between joint and separate losses, relative to the largest loss or output."""
    size = 1.0

    def losses(rows: Tensor) -> Tensor:
        nonlocal size
        with buffers_kept(module):
            u = run(x[rows].clone())
            values = loss(u, y[rows]).double()
        size = max(size, float(u.abs().max()), float(values.abs().max()))
        return values

    everything = torch.arange(len(y), device=x.device)
    together, again = losses(everything), losses(everything)
    if together.shape != y.shape[:1] or not torch.equal(together, again):
        return 0.0  # not one loss per sample, not finite, or random: reported elsewhere
    largest = 0.0
    for rows in parts(len(y)):
        try:
            apart = losses(rows.to(x.device))
        except Exception:
            if len(rows) > 1:
                raise
            continue  # a single sample may be too small a batch, and is not needed for a verdict
        off = (apart - together[rows]).abs().nan_to_num(float("inf")) if apart.shape == rows.shape else torch.zeros(1)
        largest = max(largest, float(off.max()))
    return largest / size


def _remembers(module: nn.Module, loss: PerSampleLoss, x: Tensor, y: Tensor) -> bool:
    """True if the losses of half of the samples change after a pass over all samples.

    The batch is the same both times, so rounding cannot cause a difference.
    """

    def losses() -> Tensor:
        with buffers_kept(module):
            return loss(module(x[::2].clone()), y[::2])

    try:
        first = losses()
    except Exception:
        return False  # a single sample may be too small a batch
    with buffers_kept(module):
        module(x.clone())
        after = losses()
    return not torch.equal(first, after) and torch.equal(first, losses())


def parts(n: int) -> list[Tensor]:
    """Return groupings of n samples with other neighbours: reversed, every second sample, pairs, a single sample."""
    rows = torch.arange(n)
    pairs = [rows[i : i + 2] for i in range(0, n - 1, 2)] + ([rows[-2:]] if n % 2 else [])
    return [rows.flip(0), rows[::2], *(pairs if n > 2 else []), rows[:1]]


def _explanation(module: nn.Module, x: Tensor, y: Tensor) -> str:
    where = None
    for rows in parts(len(y)):
        if len(rows) > 1 or len(y) == 2:
            where = where or first_difference(module, x, x[rows], rows)
    if where is None:
        return (
            "the loss of a sample depends on which others are in its batch: the loss function mixes samples (a "
            "contrast, or a mean or normalisation over the batch): give one that takes each sample alone"
        )
    writer = written_by(module, x)
    if writer is not None:
        return _told_of_state(module, writer)
    return (
        f"a sample's loss depends on which others are in its batch: {where} mixes samples; {in_eval(module)}let it "
        "use fixed statistics (running ones), or none"
    )


def _told_of_state(module: nn.Module, writer: str) -> str:
    return (
        f"a sample's loss depends on which others are in its batch: {writer} updates its state in every pass; "
        f"{in_eval(module)}freeze it (observers of quantisation, after they have seen training data: "
        "model.apply(torch.ao.quantization.disable_observer))"
    )


def in_eval(module: nn.Module) -> str:
    """Return the remedy for a model in training mode, to be followed by another remedy."""
    return "call model.eval(), or " if any(m.training for m in module.modules()) else ""


def first_difference(module: nn.Module, one: Tensor, other: Tensor, rows: Tensor | None = None) -> str | None:
    """Describe the innermost layer whose output for a sample differs between two passes although its input does not.

    Args:
        module: the model.
        one, other: inputs of the two passes.
        rows: positions in ``one`` of the samples in ``other``; by default, all.

    Returns:
        A description, or None if there is no such layer.
    """
    passes: list[list[Call]] = []
    for x in (one, other):
        with buffers_kept(module), calls(module) as made:
            module(x.clone())
        passes.append(made)
    if len(passes[0]) != len(passes[1]):
        return "the model, which does not take the same way every time,"
    limit = ROUNDING.get(_dtype(module), HALF)

    def differ(first: Any, second: Any) -> bool:
        pairs = zip(_tensors(first), _tensors(second), strict=False)
        return any(_differ(a, b, len(one), rows, limit) for a, b in pairs)

    for first, second in zip(*passes, strict=True):
        given = differ((first.args, first.kwargs), (second.args, second.kwargs))
        if not given and differ(first.output, second.output):
            return layer(first.name, first.module)
    return None


def _tensors(output: Any) -> Sequence[Tensor]:
    return [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]


def _differ(a: Tensor, b: Tensor, samples: int, rows: Tensor | None, limit: float) -> bool:
    # A tensor whose shape is the same for fewer samples has no sample axis, such as a computed weight.
    if rows is None or len(rows) == samples or a.shape != b.shape:
        if a.ndim == 0 or len(a) % samples:
            return False
        if rows is not None:
            a = a.unflatten(0, (samples, -1))[rows.to(a.device)].flatten(0, 1)
    return a.shape == b.shape and bool((a - b).abs().max() > limit * a.abs().max().clamp_min(1e-30))
