r"""Models in eval mode as functions of their inputs, with folded BatchNorm and fused layers, for derivatives by them.

.. code-block:: text

    forward     relu(x * w + b)  and  relu(x * w + b + z)  in one operation each, BatchNorm in w and b
    backward    z' = g 1[y > 0],   x' = corr(z', w): derivatives by activations alone

Of a ResNet-32 in bfloat16, the convolutions take a third of the time of both passes; the rest is BatchNorm, ReLU and
sums, which read and write activations from memory. Here, ReLU's backward pass and the sum of the two derivatives of a
shortcut are what is left of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.engine.inference import Forward, Inference
from sharpness.engine.modules import evaluating
from sharpness.engine.program import INPUT, Untraceable
from sharpness.engine.tracing import first_line, structure, trace_whole
from sharpness.engine.undisturbed import without_autocast

logger = logging.getLogger("sharpness")


class Folded:
    """The outputs of a model at its present weights, which may change from call to call.

    Args:
        module: model in eval mode, which it must also be in when the outputs are computed: layers without a rule of
            their own are called.
        sample: a few inputs.
        dtype: dtype of convolutions and matrix products: the model's own, or ``torch.bfloat16``.

    Raises:
        Untraceable: the model cannot be traced, or the outputs of the trace differ from its own.

    >>> from sharpness.models import build_model
    >>> model, x = build_model("resnet8", num_classes=4).eval(), torch.rand(2, 3, 8, 8)
    >>> torch.allclose(Folded(model, x, torch.float32).now()(x), model(x), rtol=1e-3, atol=1e-5)
    True
    """

    def __init__(self, module: nn.Module, sample: Tensor, dtype: torch.dtype) -> None:
        try:
            self._traced = trace_whole(module, sample)
            known = {id(t) for t in (*module.parameters(), *module.buffers())}
            if any(id(t) not in known for t in self._traced.sources.values()):
                raise Untraceable(
                    "it computes with tensors that are no parameters or buffers, as if they were constants"
                )
            moving = frozenset({INPUT, *self._traced.sources})
            self._inference = Inference(self._traced, sample, moving, dtype, by_inputs=True)
            Inference(self._traced, sample, moving, torch.float64).require_trust(module, self._traced.sources, sample)
        except Untraceable:
            raise
        except Exception as error:
            raise Untraceable(f"while tracing, {first_line(error)}") from error

    def now(self) -> Forward:
        """Return the outputs as a function of the inputs, at the weights that the model has now."""
        with torch.no_grad():
            return self._inference.at({name: t.detach() for name, t in self._traced.sources.items()})


def folded(module: nn.Module, sample: Tensor, autocast: Callable[[], AbstractContextManager[Any]]) -> Folded | None:
    """Fold a model, whatever its mode, for the precision of a context; return None if it cannot be traced."""
    kind = sample.device.type
    with autocast():
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else sample.dtype
    try:
        with evaluating(module), without_autocast():
            return Folded(module, sample, dtype)
    except Untraceable as reason:
        logger.debug("%s is called as it is: %s", type(module).__name__, reason)
        return None


class Refolded:
    """A model in training that is called in eval mode from time to time, and folded again if its structure changes.

    Args:
        module: the model; on other devices than a CPU, where a test takes less time than tracing, it is not folded.
        autocast: context of its forward passes.
    """

    def __init__(self, module: nn.Module, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self._module, self._autocast = module, autocast
        self._folded: Folded | None = None
        self._structure: list[Any] | None = None

    def now(self, sample: Tensor) -> Forward:
        """Return the outputs as a function of the inputs, at present weights.

        Args:
            sample: a few inputs.
        """
        if sample.device.type == "cpu" and len(sample):
            with evaluating(self._module):
                found = structure(self._module)
            if found != self._structure:
                self._structure, self._folded = found, folded(self._module, sample, self._autocast)
        return self._module if self._folded is None else self._folded.now()
