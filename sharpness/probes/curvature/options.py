"""Keywords that probes of curvature share."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import Annotated

from sharpness.keywords import Default
from sharpness.probes.shared.probe import Given


class LayerOptions(Given, total=False):
    """Keywords of curvature per layer.

    Attributes:
        kind: ``"hessian"``, or ``"ggn"`` for its generalised Gauss-Newton part.
        coordinates: ``"filter"`` for the Hessian :math:`D H D` with D the norms of the filters, which rescaling weights
            in front of BatchNorm does not change, ``"plain"`` for H itself: see :meth:`Objective.in_coordinates`; the
            objective's own unless given, which are plain.
        per_group: a row for each group of classes instead, with the Hessian of the loss over all its samples.
        match_samples: draw this many samples of every class first, by ``seed``, so that classes of different size are
            measured alike.
        resume: folder for unfinished work; the same call continues there, and ends with the same bits.
    """

    kind: Annotated[str, Default("hessian")]
    coordinates: str | None
    per_group: Annotated[bool, Default(False)]
    match_samples: int | None
    resume: str | Path | None


class CurvatureOptions(LayerOptions, total=False):
    """Keywords of curvature per class.

    Attributes:
        executor: computes the rows, each a task that can be pickled, see :func:`sharpness.cluster`; threads of this
            process that share its processors unless given.
    """

    executor: Executor | None
