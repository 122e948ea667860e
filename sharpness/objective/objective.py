"""A loss of a model over fixed samples, split by class: values, gradients and Hessian-vector products."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any, Generic, TypeVar, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from sharpness.data import SampleIdentity, answers_of, are_labels, number_of, told_of
from sharpness.data.rows import Rows
from sharpness.engine import distributed
from sharpness.engine.class_sums import ClassSums, PerSampleLoss, SampleSums, WeightedBatch, cross_entropy, sample_rows
from sharpness.engine.devices import full_precision
from sharpness.engine.double_backward import slopes
from sharpness.engine.flops import forward_flops
from sharpness.engine.memory import even_batch, memory_budget
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
from sharpness.engine.operator import CurvatureOperator
from sharpness.engine.products import Products
from sharpness.engine.scope import filter_axes, hidden_noticed, parameters_in_scope
from sharpness.engine.second_order import SecondOrder
from sharpness.engine.tracing import structure
from sharpness.engine.undisturbed import undisturbed
from sharpness.errors import UserError
from sharpness.keywords import keywords_of
from sharpness.objective.arguments import require_valid
from sharpness.objective.batches import Batches
from sharpness.objective.coordinates import scales_of
from sharpness.objective.description import Description, SampleOptions
from sharpness.objective.evaluation import evaluation
from sharpness.objective.first_call import (
    argument_names,
    first_losses,
    largest_batch,
    warn_of_probabilities,
    with_gradients,
)
from sharpness.objective.provenance import provenance
from sharpness.objective.repeatability import repeated_passes
from sharpness.objective.samples import Samples, Selection
from sharpness.objective.temperature import AtTemperature, Temperature, chosen_temperature, require_logits
from sharpness.renamed import renamed_attribute

T = TypeVar("T")


class OfSamples(Generic[T]):
    """An attribute of an objective that is the one of the same name of its samples."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.__doc__ = f"See :attr:`Samples.{name}`."

    def __get__(self, objective: Any, owner: type) -> T:
        return self if objective is None else getattr(objective.samples, self.name)  # type: ignore[return-value]


class Objective:
    r"""``L(w) = sum_i a_i l(f_w(x_i), y_i) / sum_i a_i`` over fixed samples, and its restriction to every class.

    A target y_i is whatever the loss takes; the class of a sample, by which answers are split, is its integer label
    unless ``classes`` or ``group_by`` tell another. Where there is neither, there is one class, named "all".

    ``L_c`` is the same over the samples of class c. Sums and weights are accumulated separately, in float64, and
    divided once, so that the batch size never changes a value. With equal weights
    :math:`\sum_c (n_c / N) \nabla^2 L_c = \nabla^2 L`. The model is left as it was found: nothing here writes
    to its weights (except inside :meth:`at`), buffers, ``.grad`` or mode.

    Args:
        model: any module from inputs to outputs, in eval mode if it has BatchNorm or dropout. One in half precision is
            measured in float32, in a copy made now, which a notice reports.
        data: ``(x, y)``, an object with ``.tensors`` (an :class:`~sharpness.data.ImageSet`, a ``TensorDataset``), a
            map-style dataset, a ``DataLoader``, or a list or another iterable of samples or of batches: (input, target)
            or dicts with usual names, read once and in order. Several inputs are a tuple or a dict of tensors, for
            ``model(*inputs)`` or ``model(**inputs)``. Inputs should carry no random augmentation. Targets are
            labels (n,), or anything else with samples along the first axis that the loss takes: numbers, several
            labels at once, probabilities, masks, sequences. What a :class:`~sharpness.data.ForeignData` knows of its
            classes (number, names, training images, groups by the convention "oltr") and the weights of limited ones
            are taken from it, unless given. Or :class:`Samples`, such as ``other.samples``: these keep their classes,
            weights and groups, which are left out here.
        loss: ``"ce"``, of labels or of class probabilities (n, C), or a function of outputs and targets that returns
            one value per sample, shape (n,). It gets integers in int64, other numbers in the model's dtype.
        num_classes: C; the width of the outputs, or what ``classes`` or ``group_by`` tell, unless given.
        classes: (n,) an integer from 0 on for every sample, whatever its target is: a subpopulation, a quantile.
            Accuracy still compares answers with labels, where targets are labels.
        group_by: (n,) a value of any kind for every sample, such as the name of its domain or annotator, or a function
            of all inputs and all targets that gives them. The sorted values become classes and their names, unless
            ``class_names`` give another order, or more of them.
        weights: the a_i, shape (n,), positive; those that ``loss.weights(y)`` gives if there is such a method,
            else 1. Losses and accuracies of all samples count them alike.
        batch_size: samples in one pass, or ``"auto"`` for the fastest that fits in memory. Never changes a value.
        memory: GiB that the saved activations of an :meth:`operator` may take; half of what is free unless given.
        parameters: the scope: ``"all"``, ``"backbone"``, ``"classifier"``, or a shell pattern of names such as
            ``"*layer3*"``. Parameters that are frozen or that no gradient reaches are left out.
        batchnorm: ``"eval"`` uses the running statistics; ``"recalibrate"`` re-estimates them from this data,
            as means over equal batches of at most 250, whenever the weights have been moved by :meth:`at`.
        groups: named sets of classes (indices, or names), for tables; or a convention by which ``train_counts`` make
            many, medium and few, see :func:`~sharpness.data.class_groups`: "oltr" unless groups are given.
        output: picks the outputs from what a model returns, if that is not a tensor.
        class_names: names of the classes, for tables and plots.
        train_counts: (C,) images of each class that the model was trained on, where that is known; the data here may
            be others, or a part of them.
        names: whatever tells the samples apart, such as paths, (n,): samples of other objectives are the same where
            names and labels are. Pixels do unless given, where they are known, else unchanged inputs.
        mean: per channel, of pixels in [0, 1]: what was subtracted from inputs that are tensors, so that 8-bit pixels
            tell the samples apart, however they were normalised. An :class:`~sharpness.data.ImageSet` knows its own.
        std: per channel, what they were divided by.
        batch: makes ``(inputs, targets)`` of a sample or a batch as the data hand it out, where that is not plain.
        logits: ``"calibrated"``, the outputs as they are; ``"temperature"``, divided by the model's own temperature, so
            that models are compared at equal confidence; or a number or a :class:`Temperature` to divide them by.
            ``objective.temperature`` holds it, with its standard error; None for the outputs as they are.
        held_out: images that are not probed, as ``data``, which the temperature is fitted on. Without them it is fitted
            on the probed ones, with a warning: on training images it tells how well these are known by heart.

    Raises:
        UserError: labels out of range, targets that the loss does not take, a loss that is not one value per sample,
            weights that are not positive, a model in training mode, one that does not return a tensor, an empty scope.

    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = nn.init.zeros_(model.weight)
    >>> objective = Objective(model, (torch.eye(2), torch.tensor([0, 1])))
    >>> round(objective.loss(), 4), objective.num_parameters
    (0.6931, 4)
    >>> objective.gradient(class_index=0).tolist()
    [-0.5, 0.0, 0.5, 0.0]

    A regression, of which two sites are told apart:

    >>> data, squares = (torch.eye(2), torch.tensor([0.5, 1.5])), lambda u, t: (u.sum(1) - t) ** 2
    >>> objective = Objective(model, data, squares, group_by=["Oslo", "Bern"])
    >>> objective.loss(), objective.class_names, objective.class_losses().tolist()
    (1.25, ('Bern', 'Oslo'), [2.25, 0.25])
    """

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
        self.loss_name = loss if isinstance(loss, str) else getattr(loss, "__name__", repr(loss))
        self.memory, self.batchnorm, self.scope = memory, batchnorm, parameters
        self.coordinates = "plain"
        #: The file that the model was read from, beside which a run keeps what else is known of it.
        self.origin: str | None = None
        self._scales: Tensor | None = None
        self.batch_size = None if isinstance(batch_size, str) else batch_size
        reference = next(p for p in model.parameters() if p.is_floating_point())  # integers may stand before it
        self.device, self.dtype = reference.device, reference.dtype
        if unknown := [name for name in described if name not in SampleOptions.__annotations__]:
            raise TypeError(f"Objective() got an unexpected keyword argument {unknown[0]!r}")
        description = Description(**described).completed_by(data)
        table = description.read(data, self.dtype, argument_names(model))
        call = None if table.layout is None else table.layout.call
        self._called = model if call is None else Outputs(model, None, call)
        self._outputs = Outputs(model, output, call)
        # The model is called before the samples are described: the width of its outputs may tell how many classes
        # there are. That reentrant checkpointing hides parameters is said by a warning of the first pass alone.
        first = table.x[:8].to(self.device, self.dtype if table.x.is_floating_point() else None, copy=True)
        self._largest_batch = largest_batch(self._called, first[:1].clone(), table.layout, type(model).__name__)
        untouched = first.clone()
        with hidden_noticed() as hidden, with_gradients(type(model).__name__):
            outputs = self._forward(first)
        if outputs.ndim == 0 or len(outputs) != len(first):
            raise UserError(
                f"the model returned outputs of shape {tuple(outputs.shape)} for {len(first)} samples: let it "
                "return one row for each, or give output=, such as output=lambda r: r.transpose(0, 1)"
            )
        if not torch.equal(first.nan_to_num(), untouched.nan_to_num()):
            raise UserError("the model changes its inputs in place: let its forward pass start from a copy")
        if isinstance(loss, str):
            warn_of_probabilities(outputs)
        samples = description.samples(table, outputs.shape, self.dtype, ce=isinstance(loss, str))
        self.samples = samples.weighed_by(self.loss_function)
        width = outputs.shape[1] if outputs.ndim == 2 else None
        labels = self.num_classes if self.classes_from == "labels" else None
        self._answers = answers_of(self.y, width, labels, every=isinstance(loss, str))
        self.logits = logits if isinstance(logits, str) else "given temperature"
        self.temperature = chosen_temperature(self, logits, held_out, output=output, batch=description.batch)
        if self.temperature is not None:
            self.loss_function = AtTemperature(self.loss_function, self.temperature.value)
        values = first_losses(self.loss_function, outputs, self.y[: len(outputs)].to(self.device))
        self._require_independent()
        # Parameters that no gradient reaches have rows of zeros in the Hessian: the graph tells which are left out.
        self.names, self.parameters = parameters_in_scope(model, values.sum(), parameters, bool(hidden))
        self._engine = SecondOrder(self._outputs, self.parameters, self.loss_function)
        self._checked: SampleSums | None = None
        self._examined = self._condition()

    def _require_independent(self) -> None:
        """Refuse a loss of which one sample changes another's: sums over batches, and L_c itself, have no meaning."""
        few = few_samples(self.y)
        require_independent(self._outputs, self.loss_function, *(t[few].to(self.device) for t in (self.x, self.y)))

    def _condition(self) -> tuple[str, Any]:
        """The state of the model that an examination holds for: weights, buffers, modules and their settings."""
        return state_sha256(self.model), structure(self.model)

    @property
    def num_parameters(self) -> int:
        """k: scalars in scope that receive a gradient."""
        return sum(p.numel() for p in self.parameters)

    @property
    def precision(self) -> str:
        """The model's own: the name of its dtype."""
        return str(self.dtype).removeprefix("torch.")

    @cached_property
    def flops_per_sample(self) -> int:
        """Floating-point operations of a forward pass."""
        with buffers_kept(self.model):
            return forward_flops(self._outputs, self._first(1))

    def evaluate(self) -> ClassSums:
        """Loss sums, weights and correct predictions per class, from one pass over the data."""
        return self.evaluate_samples()

    @torch.no_grad()
    @full_precision()
    def evaluate_samples(self, backwards: bool = False) -> SampleSums:
        """The same, with what every sample adds to the sums.

        Args:
            backwards: evaluate the samples in the reverse order, in which each has other neighbours.
        """
        require_eval(self.model)
        rows = torch.zeros(4, self.num_samples, dtype=torch.float64)
        batches = self._batches(None, backwards)
        done = [sample_rows(self._forward(x), y, a, self.loss_function, self._answers) for x, y, a in batches]
        if done:
            share = distributed.share(torch.arange(self.num_samples))
            rows[:, share.flip(0) if backwards else share] = torch.cat(done, dim=1).cpu()
        return SampleSums.of(distributed.total(rows), self.classes, self.num_classes)

    @torch.no_grad()
    @full_precision()
    def outputs(self) -> Tensor:
        """The model's outputs of all samples, (n, ...), on the CPU: calibrated logits of a classifier."""
        require_eval(self.model)
        done = [self._forward(x).cpu() for x, _, _ in self._batches(None)] or [self._forward(self._first(1)).cpu()[:0]]
        found = torch.cat(done)
        whole = found.new_zeros(self.num_samples, *found.shape[1:])
        whole[distributed.share(torch.arange(self.num_samples))] = found
        return distributed.total(whole)

    @property
    def has_answers(self) -> bool:
        """True if the largest output is a prediction that is right or wrong: targets are labels of the outputs."""
        return self._answers is not None

    @torch.no_grad()
    @full_precision()
    def confusion(self) -> np.ndarray:
        """The confusion matrix (C, C): samples of each label (rows) by prediction (columns).

        Raises:
            UserError: targets are no labels, or the outputs are not (n, C).
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

        A model that cannot be traced, or whose statistics are recalibrated, is moved and evaluated as it is. Every
        process evaluates all samples: points are what processes share.

        Args:
            precision: ``"bfloat16"``, for models in float32, or the model's own.

        Raises:
            UserError: another precision.
        """
        evaluate, scales = evaluation(self, precision), self._scales
        return evaluate if scales is None else lambda u: evaluate(None if u is None else self._moved(u))

    def loss(self, class_index: int | str | None = None) -> float:
        """L, or L_c of a class by its index or name."""
        if class_index is None:
            return self.evaluate().mean
        return self.restrict(self.samples.indices(class_index)).loss()

    def class_losses(self) -> np.ndarray:
        """L_c, shape (C,), from one pass; NaN for a class without samples."""
        return self.evaluate().class_means

    @torch.inference_mode(False)
    @full_precision()
    def gradient(self, class_index: int | str | None = None) -> Tensor:
        """The gradient of L, or of L_c: flat, shape (k,), in the model's dtype."""
        require_eval(self.model)
        with buffers_kept(self.model):
            part = Products(self._engine, self._batches(class_index)).gradient_sum()
        return self._moved((distributed.total(part) / self._total(class_index)).to(self.dtype))

    def hvp(self, vector: Tensor, class_index: int | str | None = None, kind: str = "hessian") -> Tensor:
        """The Hessian of L, or of L_c, times a vector: shapes (k,) to (k,), exact, in the model's dtype.

        For many products with the same data take :meth:`operator`, which keeps what they have in common.

        Args:
            kind: ``"hessian"``, or ``"ggn"`` for its generalised Gauss-Newton part.
        """
        with buffers_kept(self.model):
            return self._operator(class_index, kind, 0)(vector)

    @property
    @torch.inference_mode(False)
    @full_precision()
    def is_traced(self) -> bool:
        """True if derivatives come from a trace of the model, which leaves the module alone: traced now if need be."""
        with buffers_kept(self.model):
            return self._engine.is_traced(next(iter(self._batches(None))))

    @contextmanager
    def operator(self, class_index: int | str | None = None, kind: str = "hessian") -> Iterator[CurvatureOperator]:
        """The Hessian of L, or of L_c, for many products: a function, (k,) to (k,), that keeps activations.

        >>> model = nn.Linear(2, 2, bias=False)
        >>> objective = Objective(model, (torch.eye(2), torch.tensor([0, 1])))
        >>> with objective.operator() as hessian:
        ...     product = hessian(torch.ones(4))
        >>> hessian.size, hessian.products, hessian.samples
        (4, 1, 2)
        """
        operator = self._operator(class_index, kind, memory_budget(self.device, self.memory))
        try:
            with buffers_kept(self.model):
                yield operator
        finally:
            operator.close()

    @torch.inference_mode(False)
    @full_precision()
    def quadratic_forms(
        self, vector: Tensor, class_index: int | str | None = None, operator: CurvatureOperator | None = None
    ) -> np.ndarray:
        r""":math:`v' H_i v` of every sample, shape (n,); their weighted mean is v' H v.

        Args:
            operator: the :meth:`operator` of these samples, whose activations serve here as well.
        """
        require_eval(self.model)
        indices = self.samples.indices(class_index)
        positions = distributed.share(torch.arange(len(indices)))
        forms = torch.zeros(len(indices), dtype=torch.float64)
        if len(positions):
            with buffers_kept(self.model):
                known = self._operator(class_index, "hessian", 0) if operator is None else operator
                forms[positions] = known.quadratic_forms(vector).cpu()
        return distributed.total(forms).numpy()

    @torch.inference_mode(False)
    @full_precision()
    def slopes(self, vector: Tensor, class_index: int | str | None = None) -> np.ndarray:
        r""":math:`v' \nabla \ell_i` of every sample, shape (n,); their weighted mean is v' times the gradient."""
        require_eval(self.model)
        indices = self.samples.indices(class_index)
        positions = distributed.share(torch.arange(len(indices)))
        found = torch.zeros(len(indices), dtype=torch.float64)
        if len(positions):
            vector = self._moved(vector.detach().to(self.device, self.dtype, copy=vector.is_inference()))
            with buffers_kept(self.model):
                batches = self._batches(class_index)
                found[positions] = slopes(self._outputs, self.parameters, batches, self.loss_function, vector).cpu()
        return distributed.total(found).numpy()

    def restrict(self, what: Selection) -> Objective:
        """The objective of a class (its index or name), of a group, or of the samples at some indices or of a mask.

        Raises:
            UserError: an unknown class or group, one without samples, or indices that are none of these samples.
        """
        return self._over(self.samples.restrict(what))

    def matched(self, samples: int, seed: int = 0) -> Objective:
        """The objective of equally many samples of every class that has any: see :meth:`Samples.matched`."""
        return self._over(self.samples.matched(samples, seed))

    def in_order_of(self, other: Objective) -> Objective:
        """The same with its samples in the order of an objective that has the same ones; equal inputs are shared."""
        return self._over(self.samples.in_order_of(other.samples))

    def counted(self, train_counts: Sequence[int]) -> Objective:
        """The same with other training images per class, (C,), and groups by them where groups were not given.

        Raises:
            UserError: they are of other classes.
        """
        return self._over(self.samples.counted(train_counts))

    def in_coordinates(self, coordinates: str) -> Objective:
        r"""The same loss as a function of u, with weights w + D u: derivatives and displacements are those of u = 0.

        With ``"filter"`` D is diagonal, the norm of each parameter's filter, see
        :func:`~sharpness.objective.coordinates.filter_scales`: the Hessian is :math:`D H D`, which no rescaling of
        weights in front of BatchNorm, or between two layers with ReLU, changes. ``"plain"`` is D = 1.

        Raises:
            UserError: other coordinates.

        >>> model = nn.Linear(2, 2, bias=False)
        >>> objective = Objective(model, (torch.eye(2), torch.tensor([0, 1])))
        >>> objective.in_coordinates("filter").coordinates
        'filter'
        """
        other = copy.copy(self)
        other.coordinates, other._scales = coordinates, scales_of(self, coordinates)
        return other

    def _moved(self, displacement: Tensor) -> Tensor:
        """A displacement u in the objective's coordinates as one of the weights, D u; D is its own transpose."""
        return displacement if self._scales is None else displacement * self._scales.to(displacement)

    @property
    def weight_norm(self) -> float:
        """The norm of the weights in scope, in the objective's coordinates."""
        weights = torch.cat([p.detach().reshape(-1) for p in self.parameters]).double()
        if self._scales is not None:
            weights = weights[self._scales > 0] / self._scales[self._scales > 0]
        return float(weights.norm())

    def _over(self, samples: Samples) -> Objective:
        """The same loss of the same model over other samples, without tracing the model again."""
        if samples is self.samples:
            return self
        other = copy.copy(self)
        other.samples, other._checked = samples, None
        return other

    @contextmanager
    def at(self, displacement: Tensor) -> Iterator[None]:
        """The model at ``w + displacement``, flat (k,); weights and statistics are put back exactly, come what may."""
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
        """Let :meth:`check` return what it returned before, for several probes between which nothing changes."""
        self._checked = sums
        try:
            yield
        finally:
            self._checked = None

    @full_precision()
    def check(self) -> SampleSums:
        """Check that two passes agree and are finite, and return the loss at the centre. Every probe begins with it.

        A model that was changed since it was examined is examined again.

        Raises:
            UserError: the loss is random, or not finite, or a sample's depends on its place; the message says where.
        """
        if self._checked is not None:
            return self._checked
        if self._condition() != self._examined:
            self._require_independent()
            self._engine.forget()
            self._examined = self._condition()
        return repeated_passes(self, self._statistics)

    def _statistics(self) -> AbstractContextManager[None]:
        """BatchNorm's statistics as probes see them at w."""
        return self.at(torch.zeros(self.num_parameters)) if self.batchnorm == "recalibrate" else nullcontext()

    def flatten(self, tensors: dict[str, Tensor]) -> Tensor:
        """One flat vector (k,) from tensors by parameter name."""
        return torch.cat([tensors[name].reshape(-1) for name in self.names]).to(self.device, self.dtype)

    @cached_property
    def filter_axes(self) -> dict[str, int]:
        """For every parameter in scope, the axis that runs over its filters (0 unless its module says otherwise)."""
        axes = filter_axes(self.model)
        return {name: axes.get(name, 0) for name in self.names}

    def model_sha256(self) -> str:
        """Of all weights and buffers as they are now."""
        return state_sha256(self.model)

    def provenance(self) -> dict[str, Any]:
        """Everything that is needed to understand and repeat a result, in plain values."""
        return provenance(self)

    def __repr__(self) -> str:
        return (
            f"Objective({type(self.model).__name__}, {self.num_samples} samples, {number_of(self.num_classes)}, "
            f"loss={self.loss_name}, k={self.num_parameters}, batchnorm={self.batchnorm})"
        )

    def _forward(self, x: Tensor) -> Tensor:
        with buffers_kept(self.model):
            outputs = self._outputs(x)
        if not isinstance(outputs, Tensor):
            raise UserError(f"the model returned a {told_return(outputs)}: {how_to_pick(outputs)}")
        return outputs

    def _total(self, class_index: int | str | None) -> float:
        return float(self.weights[self.samples.indices(class_index)].double().sum())

    def _batches(self, class_index: int | str | None, backwards: bool = False) -> Iterable[WeightedBatch]:
        """This process's share of the samples."""
        share = distributed.share(self.samples.indices(class_index))
        share = share.flip(0) if backwards else share
        size = self.batch_size or even_batch(len(share), self._largest_batch, self.device)
        batches = Batches((self.x, self.y, self.weights), share, size, self.device)
        # A copy to another device takes longer than one in memory: there batches stay, unless a disk has more of them
        # than the device holds.
        return batches if self.device.type == "cpu" or isinstance(self.x, Rows) else iter(batches)

    def _operator(self, class_index: int | str | None, kind: str, budget: int) -> CurvatureOperator:
        require_eval(self.model)
        chosen = self.samples.indices(class_index)
        return CurvatureOperator(
            self._engine,
            lambda: self._batches(class_index),
            samples=len(chosen),
            weight=self._total(class_index),
            kind=kind,
            budget=budget,
            scales=self._scales,
        )

    def _first(self, samples: int) -> Tensor:
        return self.x[:samples].to(self.device, copy=True)


_own = list(inspect.signature(Objective.__init__).parameters.values())[1:-1]
Objective.__signature__ = inspect.Signature([*_own, *keywords_of(SampleOptions)])  # type: ignore[attr-defined]
