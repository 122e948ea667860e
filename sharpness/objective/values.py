"""Values of a loss of a model over fixed samples, from forward passes: overall, per class, at other weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any, Generic, TypeVar, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from sharpness.data import SampleIdentity, answers_of, are_labels, told_of
from sharpness.data.rows import Rows
from sharpness.engine import distributed
from sharpness.engine.class_sums import ClassSums, PerSampleLoss, SampleSums, Scoring, WeightedBatch, cross_entropy
from sharpness.engine.devices import full_precision
from sharpness.engine.flops import forward_flops
from sharpness.engine.half_precision import half_noticed
from sharpness.engine.memory import even_batch
from sharpness.engine.modules import (
    Outputs,
    batchnorms,
    buffers_kept,
    how_to_pick,
    in_full_precision,
    recalibrate,
    require_eval,
    state_sha256,
    told_return,
)
from sharpness.engine.neighbours import few_samples, require_independent
from sharpness.engine.scope import filter_axes, hidden_noticed, parameters_in_scope
from sharpness.engine.second_order import SecondOrder
from sharpness.engine.tracing import structure
from sharpness.engine.undisturbed import undisturbed
from sharpness.errors import UserError
from sharpness.objective.coordinates import scales_of
from sharpness.objective.description import Description, SampleOptions
from sharpness.objective.evaluation import evaluation
from sharpness.objective.first_call import (
    argument_names,
    first_losses,
    first_outputs,
    largest_batch,
    require_through_outputs,
    require_valid,
    warn_of_probabilities,
)
from sharpness.objective.loss_identity import loss_identity, loss_name, settled
from sharpness.objective.repeatability import repeated_passes
from sharpness.objective.samples import Batches
from sharpness.objective.temperature import (
    AtTemperature,
    Temperature,
    chosen_temperature,
    require_answers,
    require_logits,
)
from sharpness.renamed import renamed_attribute

T = TypeVar("T")
logger = logging.getLogger("sharpness")


class OfSamples(Generic[T]):
    """An attribute of an objective that is read from its samples, under the same name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.__doc__ = f"See :attr:`Samples.{name}`."

    def __get__(self, objective: Any, owner: type) -> T:
        return self if objective is None else getattr(objective.samples, self.name)  # type: ignore[return-value]


class Values:
    """The part of an :class:`~sharpness.Objective` that only needs forward passes."""

    x = OfSamples[Tensor]()
    y = OfSamples[Tensor]()
    weights = OfSamples[Tensor]()
    classes = OfSamples[Tensor]()
    num_samples = OfSamples[int]()
    num_classes = OfSamples[int]()
    class_names = OfSamples[tuple[str, ...]]()
    classes_from = OfSamples[str]()
    class_samples = OfSamples[np.ndarray]()
    class_weights = OfSamples[np.ndarray]()
    train_counts = OfSamples["np.ndarray | None"]()
    groups = OfSamples[dict[str, tuple[int, ...]]]()
    present_groups = OfSamples[dict[str, list[int]]]()
    group_convention = OfSamples["str | None"]()
    data_sha256 = OfSamples[str]()
    identity = OfSamples[SampleIdentity]()
    image_constants = OfSamples["dict[str, list[float]] | None"]()
    class_counts = renamed_attribute("class_counts", "class_samples")

    @torch.inference_mode(False)
    @torch.enable_grad()
    @full_precision()
    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss: str | PerSampleLoss = "ce",
        *,
        batch_size: int | str = "auto",
        parameters: str = "all",
        batchnorm: str = "eval",
        output: Callable[[Any], Tensor] | None = None,
        memory: float | None = None,
        logits: str | float | Temperature = "calibrated",
        held_out: Any = None,
        **described: Unpack[SampleOptions],
    ) -> None:
        require_valid(model, loss, batch_size, batchnorm, parameters, output)
        require_logits(logits, held_out)
        self.model = model = in_full_precision(model)
        self.loss_function: PerSampleLoss = cross_entropy if isinstance(loss, str) else loss
        self.loss_name, self.loss_identity = loss_name(loss), loss_identity(loss)
        self.memory, self.batchnorm, self.scope = memory, batchnorm, parameters
        self.coordinates = "plain"
        #: The file that the model was read from; other files of its run are in the same folder.
        self.origin: str | None = None
        self._scales: Tensor | None = None
        self.batch_size = None if isinstance(batch_size, str) else int(batch_size)
        reference = next(p for p in model.parameters() if p.is_floating_point())  # integers may come first
        self.device, self.dtype = reference.device, reference.dtype
        if unknown := [name for name in described if name not in SampleOptions.__annotations__]:
            raise TypeError(f"Objective() got an unexpected keyword argument {unknown[0]!r}")
        description = Description(**described).completed_by(data)
        table = description.read(data, self.dtype, argument_names(model))
        call = None if table.layout is None else table.layout.call
        self._called = model if call is None else Outputs(model, None, call)
        self._outputs = Outputs(model, output, call)
        # The model is called before the samples are described, because the width of its outputs may give the number of
        # classes. Only the first pass warns if reentrant checkpointing hides parameters.
        first = table.x[:8].to(self.device, self.dtype if table.x.is_floating_point() else None, copy=True)
        self._largest_batch = largest_batch(self._called, first[:1].clone(), table.layout, type(model).__name__)
        with hidden_noticed() as hidden, half_noticed(model) as half:
            outputs = first_outputs(self._forward, first, type(model).__name__)
        #: A description of the half precision that the model itself computes in; empty if there is none.
        self.half_precision = "".join(half)
        if self.half_precision:
            logger.warning(
                "the model computes in %s: losses and their differences have few digits; leave autocast, or the "
                "conversion, out of its forward pass for numbers in %s", self.half_precision, self.precision,
            )  # fmt: skip
        if isinstance(loss, str):
            warn_of_probabilities(outputs)
        samples = description.samples(table, outputs.shape, self.dtype, ce=isinstance(loss, str))
        self.samples = samples.weighed_by(self.loss_function)
        width = outputs.shape[1] if outputs.ndim == 2 else None
        labels = self.num_classes if self.classes_from == "labels" else None
        self._answers = answers_of(self.y, width, labels, every=isinstance(loss, str))
        self.logits = logits if isinstance(logits, str) else "given temperature"
        if self.logits == "temperature" and held_out is None:
            require_answers(self)
        targets = self.y[: len(outputs)].to(self.device)
        values = first_losses(self.loss_function, outputs, targets)
        self._require_independent()
        # Parameters that receive no gradient have rows of zeros in the Hessian; the graph shows which to leave out.
        self.names, self.parameters = parameters_in_scope(model, values.sum(), parameters, bool(hidden))
        # At the statistics that probes see: recalibrated ones belong to another network than the running ones.
        with self.at(torch.zeros(self.num_parameters)) if batchnorm == "recalibrate" else nullcontext():
            self.temperature = chosen_temperature(self, logits, held_out, output=output, batch=description.batch)
        if self.temperature is not None:
            self.loss_function = AtTemperature(self.loss_function, self.temperature.value)
        if not isinstance(loss, str):
            require_through_outputs(self.loss_function, outputs, targets, self.names, self.parameters)
        self.loss_identity = settled(loss, self.loss_identity)
        self._engine = SecondOrder(self._outputs, self.parameters, self.loss_function)
        self._checked: SampleSums | None = None
        self._examined = self._condition()

    def _require_independent(self) -> None:
        """Refuse a loss in which samples affect each other: sums over batches, and L_c, would be meaningless."""
        few = few_samples(self.y)
        require_independent(self._outputs, self.loss_function, *(t[few].to(self.device) for t in (self.x, self.y)))

    def _condition(self) -> tuple[str, Any]:
        """Return the state for which an examination is valid: weights, buffers, modules and their settings."""
        return state_sha256(self.model), structure(self.model)

    @property
    def num_parameters(self) -> int:
        """k, the number of scalars in scope that receive a gradient."""
        return sum(p.numel() for p in self.parameters)

    @property
    def precision(self) -> str:
        """The name of the model's dtype."""
        return str(self.dtype).removeprefix("torch.")

    @cached_property
    def flops_per_sample(self) -> int:
        """Number of floating-point operations of a forward pass."""
        with buffers_kept(self.model):
            return forward_flops(self._outputs, self._first(1))

    def evaluate(self) -> ClassSums:
        """Compute loss sums, weights and correct predictions per class in one pass over the data."""
        return self.evaluate_samples()

    @torch.no_grad()
    @full_precision()
    def evaluate_samples(self, backwards: bool = False) -> SampleSums:
        """Compute loss sums, weights and correct predictions per class, with the contribution of every sample.

        Args:
            backwards: evaluate the samples in reverse order, so that each has other neighbours in its batch.
        """
        require_eval(self.model)
        rows = torch.zeros(4, self.num_samples, dtype=torch.float64)
        batches = self._batches(None, backwards)
        done = [self._scoring.rows(self._forward(x), y, a) for x, y, a in batches]
        if done:
            share = distributed.share(torch.arange(self.num_samples))
            rows[:, share.flip(0) if backwards else share] = torch.cat(done, dim=1).cpu()
        return SampleSums.of(distributed.total(rows), self.classes, self.num_classes)

    @property
    def _scoring(self) -> Scoring:
        return Scoring(self.loss_function, self.classes, self.num_classes, self._answers)

    @torch.no_grad()
    @full_precision()
    def outputs(self) -> Tensor:
        """Return the model's outputs for all samples, (n, ...), on the CPU; for a classifier, calibrated logits."""
        require_eval(self.model)
        done = [self._forward(x).cpu() for x, _, _ in self._batches(None)] or [self._forward(self._first(1)).cpu()[:0]]
        found = torch.cat(done)
        whole = found.new_zeros(self.num_samples, *found.shape[1:])
        whole[distributed.share(torch.arange(self.num_samples))] = found
        return distributed.total(whole)

    @property
    def has_answers(self) -> bool:
        """True if targets are labels of the outputs, so that predictions (the largest output) are right or wrong."""
        return self._answers is not None

    @torch.no_grad()
    @full_precision()
    def confusion(self) -> np.ndarray:
        """Return the confusion matrix (C, C): numbers of samples by label (rows) and prediction (columns).

        Raises:
            UserError: targets are not labels, or outputs are not (n, C).
        """
        require_eval(self.model)
        if self._answers is None:
            shape = tuple(self._forward(self._first(8)).shape)
            if are_labels(self.y):
                raise UserError(f"outputs have shape {shape}, not (n, {self.num_classes}): they are no logits")
            raise UserError(f"targets {told_of(self.y)} are no labels: no answer is right or wrong")
        classes = self._answers
        cells = [torch.empty(0, dtype=torch.int64)]
        for x, y, _ in self._batches(None):
            cells.append((classes * y.to(self.device) + self._forward(x).argmax(1)).cpu())
        counts = torch.bincount(torch.cat(cells), minlength=classes * classes)
        return distributed.total(counts).numpy().reshape(classes, classes)

    @full_precision()
    def evaluation(self, precision: str | None = None) -> Callable[[Tensor | None], ClassSums]:
        """Make the function ``displacement (k,) -> ClassSums`` at ``w + displacement``, for many points.

        A model that cannot be traced, or whose statistics are recalibrated, is moved in place and evaluated. Every
        process evaluates all samples; it is the points that are divided among processes.

        Args:
            precision: ``"bfloat16"``, for models in float32, or the model's own.

        Raises:
            UserError: another precision.
        """
        return evaluation(self, precision)

    def class_losses(self) -> np.ndarray:
        """Return L_c for all classes, shape (C,), from one pass; NaN for a class without samples."""
        return self.evaluate().class_means

    def _moved(self, displacement: Tensor) -> Tensor:
        """Convert a displacement u in the objective's coordinates to the displacement D u of the weights.

        D is diagonal: gradients by the weights are converted to those by u in the same way.
        """
        return displacement if self._scales is None else displacement * self._scales.to(displacement)

    def in_own_coordinates(self, displacement: Tensor) -> Tensor:
        """Convert a displacement of the weights, flat (k,), to the objective's coordinates, as used by :meth:`at`.

        Raises:
            UserError: the displacement moves a filter of zeros, which has no filter coordinates.
        """
        if self._scales is None:
            return displacement
        scales = self._scales.to(displacement)
        if bool(displacement[scales == 0].any()):
            raise UserError("a filter of zeros is moved, which has no filter coordinates: take coordinates='plain'")
        return torch.where(scales > 0, displacement / scales, 0.0)

    @property
    def flat_weights(self) -> Tensor:
        """The weights in scope, flat (k,), in the objective's coordinates and float64."""
        return self.in_own_coordinates(torch.cat([p.detach().reshape(-1) for p in self.parameters]).double())

    @property
    def weight_norm(self) -> float:
        """The norm of the weights in scope, in the objective's coordinates."""
        return float(self.flat_weights.norm())

    @contextmanager
    def at(self, displacement: Tensor) -> Iterator[None]:
        """Move the model to ``w + displacement``, flat (k,); weights and statistics are always restored exactly."""
        with undisturbed(kept=False), buffers_kept(self.model):
            norms = batchnorms(self.model) if self.batchnorm == "recalibrate" else []
            buffers = [b for m in norms for b in m.buffers()]
            moved = [*self.parameters, *buffers]
            saved = [t.detach().clone() for t in moved]
            try:
                with torch.no_grad():
                    pieces = self._moved(displacement.to(self.device, self.dtype)).split(
                        [p.numel() for p in self.parameters]
                    )
                    for p, d in zip(self.parameters, pieces, strict=True):
                        p.add_(d.view_as(p))
                if buffers:
                    recalibrate(self._called, self.x, self.device)
                yield
            finally:
                with torch.no_grad():
                    for t, old in zip(moved, saved, strict=True):
                        t.copy_(old)

    @contextmanager
    def checked(self, sums: SampleSums) -> Iterator[None]:
        """Let :meth:`check` return an earlier result, for several probes between which nothing changes."""
        self._checked = sums
        try:
            yield
        finally:
            self._checked = None

    @full_precision()
    def check(self) -> SampleSums:
        """Check that two passes agree and are finite, and return their sums; every probe calls this first.

        A model that has changed since it was examined is examined again, and filter coordinates follow its filters.

        Raises:
            UserError: the loss is random, not finite, or depends on a sample's position; the message says where. Or the
                weights have changed since a temperature was fitted to them.
        """
        if self._checked is not None:
            return self._checked
        condition = self._condition()
        if condition != self._examined:
            if self.logits == "temperature" and condition[0] != self._examined[0]:
                raise UserError(
                    "the weights have changed since their temperature was fitted: make the objective again, or give a "
                    "number, logits=2.0"
                )
            self._require_independent()
            self._engine.forget()
            self._scales = scales_of(self, self.coordinates)  # type: ignore[arg-type]
            self._examined = self._condition()
        return repeated_passes(self)

    def flatten(self, tensors: dict[str, Tensor]) -> Tensor:
        """Return one flat vector (k,) from tensors by parameter name."""
        return torch.cat([tensors[name].reshape(-1) for name in self.names]).to(self.device, self.dtype)

    @cached_property
    def filter_axes(self) -> dict[str, int | None]:
        """The axis over the filters of every parameter in scope: 0, another one, or None if it has no filters."""
        axes = filter_axes(self.model)
        return {name: axes.get(name, 0) for name in self.names}

    def model_sha256(self) -> str:
        """Return the SHA-256 of the current weights and buffers."""
        return state_sha256(self.model)

    def _forward(self, x: Tensor) -> Tensor:
        with buffers_kept(self.model):
            outputs = self._outputs(x)
        if not isinstance(outputs, Tensor):
            raise UserError(f"the model returned a {told_return(outputs)}: {how_to_pick(outputs)}")
        return outputs

    def _total(self, class_index: int | str | None) -> float:
        return float(self.weights[self.samples.indices(class_index)].double().sum())

    def _batches(self, class_index: int | str | None, backwards: bool = False) -> Iterable[WeightedBatch]:
        """Return the batches of this process's share of the samples."""
        share = distributed.share(self.samples.indices(class_index))
        share = share.flip(0) if backwards else share
        size = self.batch_size or even_batch(len(share), self._largest_batch, self.device)
        batches = Batches((self.x, self.y, self.weights), share, size, self.device)
        # Copies to another device are slow: there, batches are kept, unless they are read from disk, where there may be
        # more than fit on the device.
        return batches if self.device.type == "cpu" or isinstance(self.x, Rows) else iter(batches)

    def _first(self, samples: int) -> Tensor:
        return self.x[:samples].to(self.device, copy=True)
