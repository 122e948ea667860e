"""Exact traces of every sample: of a last layer in closed form, of other layers by one backward pass per output."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from sharpness.clusters import Parcel, do_all, parcelled, scratch_of
from sharpness.engine.scope import classifier_prefix
from sharpness.engine.second_order import SAMPLES
from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.probes.curvature.last_layer import LastLayer
from sharpness.probes.shared.work import Arrays, Work

#: Backward passes that an exact trace may take instead of a random vector, unless an estimator is named.
PASSES_PER_DRAW = 8


@dataclass(frozen=True)
class ExactTrace:
    """A way to the exact trace of the Hessian of every sample.

    Attributes:
        objective: the objective.
        passes: number of backward passes for the traces by parameters other than those of ``layer``; 0 for none.
        layer: a last layer whose traces have a closed form, if there is one in scope that the passes leave out.
        hessian: whether the trace is that of the Hessian, or of its Gauss-Newton part.
    """

    objective: Objective
    passes: int
    layer: LastLayer | None
    hessian: bool

    @classmethod
    def of(cls, objective: Objective, kind: str, most: int | None = None) -> ExactTrace:
        """Find the way; passes are tried on a few samples.

        Args:
            objective: the objective.
            kind: ``"hessian"`` or ``"ggn"``.
            most: largest number of backward passes; None for any number.

        Returns:
            The way.

        Raises:
            UserError: there is no way, or it takes more passes.
        """
        hessian = kind == "hessian"
        if (layer := LastLayer.of(objective)) is not None:
            return cls(objective, 0, layer, hessian)
        few = torch.arange(objective.num_samples)[:: -(-objective.num_samples // SAMPLES)]
        _, left, passes = objective.restrict(few).traces(most)
        if not left:  # the second derivatives of the outputs have no trace, so that both kinds agree
            return cls(objective, passes, None, hessian)
        head = objective.of_classifier()
        layer = LastLayer.of(head) if head.names == left and hessian else None
        if layer is None:
            raise UserError(
                f"the trace has no exact form: {left[0]} is not the weight of a linear or cosine head, under "
                "cross-entropy and kind='hessian': take estimator='hutchinson'"
            )
        return cls(objective, passes, layer, hessian)

    @classmethod
    def instead_of(cls, draws: int, objective: Objective, kind: str = "hessian") -> ExactTrace | None:
        """Return the way if there is one that takes few passes compared with random vectors, else None."""
        try:
            return cls.of(objective, kind, PASSES_PER_DRAW * draws)
        except UserError:
            return None

    def traces(self, work: Work, executor: Executor | None = None, layers: Sequence[slice] | None = None) -> np.ndarray:
        """Compute the traces, in a process of the executor if there is one, unless they are saved.

        Args:
            work: unfinished work.
            executor: executor for the backward passes; by default this process.
            layers: places of layers among the flat parameters, whole parameters each.

        Returns:
            The traces of all samples, (n,), or those of the blocks of layers, (n, L).
        """
        parameters = self.objective.parameters
        found = np.zeros((self.objective.num_samples, len(parameters)))
        if self.passes and executor is None:
            found += work.once(0, partial(_passed, self.objective))["traces"]
        elif self.passes and executor is not None:
            with parcelled(self.objective, scratch_of(executor, work.folder)) as parcel:
                ((_, done),) = do_all(executor, {0: partial(_sent, work, parcel)})
                found += done["traces"]
        if self.layer is not None:  # of its weight and bias together: no layer has only one of them
            prefix = classifier_prefix(self.objective.model)
            first = next(i for i, name in enumerate(self.objective.names) if name.startswith(prefix))
            found[:, first] += self.layer.traces(self.hessian)
        if layers is None:
            return found.sum(axis=1)
        starts = np.cumsum([0, *(p.numel() for p in parameters[:-1])])
        return np.stack([found[:, (starts >= at.start) & (starts < at.stop)].sum(axis=1) for at in layers], axis=1)


def _passed(objective: Objective, _: int) -> Arrays:
    return {"traces": objective.traces().values}


def _sent(work: Work, parcel: Parcel) -> Arrays:
    return work.once(0, lambda number: _passed(parcel.open(), number))
