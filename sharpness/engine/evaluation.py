"""Class sums of one model over fixed data at many points of parameter space, with one forward pass each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sharpness.engine.class_sums import ClassSums, Scoring, WeightedBatch
from sharpness.engine.devices import full_precision
from sharpness.engine.inference import Inference
from sharpness.engine.modules import buffers_kept
from sharpness.engine.program import Untraceable
from sharpness.engine.threads import in_threads
from sharpness.engine.tracing import first_line, trace_whole


class Evaluation:
    """``displacement -> ClassSums`` at ``w + displacement``, from a trace of the model; the module is never changed.

    Activations below the layers in scope are computed once and kept, within ``budget`` bytes. Batches run in parallel,
    one thread each, and are summed in order.

    Args:
        module: module from inputs to outputs, in eval mode.
        parameters: parameters to move, in the order of the displacement.
        scoring: computation of the class sums.
        batches: inputs, targets and weights, on any device.
        dtype: dtype of convolutions and matrix products: the model's own, or ``torch.bfloat16``.
        budget: bytes of activations that may be kept.

    Raises:
        Untraceable: the model cannot be traced, or the outputs of the trace differ from its own.
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Sequence[Tensor],
        scoring: Scoring,
        batches: Sequence[WeightedBatch],
        dtype: torch.dtype,
        budget: int,
    ) -> None:
        self.scoring = scoring
        self.parameters = list(parameters)
        self.device = self.parameters[0].device
        self.batches = [(x, y.to(self.device), a.to(self.device)) for x, y, a in batches]
        sample = batches[0][0][:4].to(self.device)
        try:
            with buffers_kept(module):  # a pass may write to weights; points are relative to their original values
                traced = trace_whole(module, sample)
            self.sources = {name: t.detach().clone() for name, t in traced.sources.items()}
            index = {id(p): i for i, p in enumerate(self.parameters)}
            self.positions = {n: index[id(t)] for n, t in traced.sources.items() if id(t) in index}
            self.inference = Inference(traced, sample, frozenset(self.positions), dtype)
            for trusted in (torch.float64, *([torch.float32] if self.parameters[0].dtype is torch.float32 else [])):
                inference = Inference(traced, sample, frozenset(self.positions), trusted)
                inference.require_trust(module, self.sources, sample)
        except Untraceable:
            raise
        except Exception as error:
            raise Untraceable(f"while tracing, {first_line(error)}") from error
        self._before = self.inference.before(self.sources)
        self._kept: list[tuple[Tensor, ...] | None] = [None] * len(self.batches)
        self._room = budget

    @full_precision()
    def __call__(self, displacement: Tensor | None = None) -> ClassSums:
        forward = self.inference.at(self._moved(displacement))

        def rows(i: int) -> tuple[Tensor, tuple[Tensor, ...]]:
            x, y, a = self.batches[i]
            kept = self._kept[i]
            with torch.no_grad():
                inputs = kept[0] if kept else x.to(self.device)
                given = kept or self._before(inputs)
                # Inputs that are read from disk on access would all end up in memory if the kept values were as large.
                # Pooled features are smaller, inputs in another memory layout are not.
                fresh = not kept and not isinstance(x, Tensor) and _bytes(given) >= _bytes((inputs,))
                return self.scoring.rows(forward(*given), y, a), () if fresh else given

        parts = []
        for i, (part, given) in enumerate(in_threads(rows, range(len(self.batches)), self.device)):
            parts.append(part)
            if given:
                self._keep(i, given)
        return self.scoring.sums(parts)

    def _keep(self, i: int, given: tuple[Tensor, ...]) -> None:
        """Keep the output of the fixed layers of a batch for later points, while there is room."""
        if self._kept[i] is None:
            size = _bytes(given)
            if size <= self._room:
                self._kept[i], self._room = given, self._room - size

    def _moved(self, displacement: Tensor | None) -> dict[str, Tensor]:
        """Return the model's tensors at ``w + displacement``."""
        if displacement is None:
            return self.sources | {n: self.sources[n].clone() for n in self.positions}  # a pass may write to them
        displacement = displacement.detach().to(self.device, self.parameters[0].dtype)
        pieces = displacement.split([p.numel() for p in self.parameters])
        moved = {n: self.sources[n] + pieces[i].view_as(self.sources[n]) for n, i in self.positions.items()}
        return self.sources | moved


def _bytes(tensors: Sequence[Tensor | None]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))
