"""Weight averaging in a stage: a running average of the weights, which replaces them at the end of the stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, update_bn

from sharpness.engine import distributed
from sharpness.engine.modules import Recalibrated, batchnorms
from sharpness.flattening.spectral_normalization import SETTLING, normalized_layers, power_iteration
from sharpness.methods import Stage
from sharpness.models import Classifier
from sharpness.training.believed import check_tensors
from sharpness.training.state import RunState


def start_average(stage: Stage, network: Classifier, state: RunState, path: Path) -> AveragedModel | None:
    """Start a running average, or continue that of ``state`` (read from ``path``); None if the stage has none."""
    if stage.averaging is None:
        return None
    average = AveragedModel(network)
    if state.average:
        check_tensors(state.average, average.state_dict(), path, "average")
        average.load_state_dict(state.average)
    return average


def end_in_average(
    network: Classifier,
    average: AveragedModel,
    images: Iterator[Tensor],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> None:
    """Load the averaged weights, and set BatchNorm's statistics to their mean over ``images`` (batches of equal size).

    During this pass only BatchNorm is in training mode. Spectral normalisation first computes the singular vectors of
    the averaged weights.
    """
    network.load_state_dict(average.module.state_dict())
    power_iteration(normalized_layers(network), SETTLING)
    network.eval()
    with autocast(), torch.no_grad():
        update_bn(images, Recalibrated(network))
    for norm in batchnorms(network):  # averaged over processes, each of which had the same number of batches
        for buffer in norm.buffers(recurse=False):
            summed = distributed.total(buffer)
            buffer.copy_(summed / distributed.world_size() if buffer.is_floating_point() else summed)
