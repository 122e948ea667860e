"""A loss of a model over fixed samples, split by class: values, gradients and Hessian-vector products."""

from __future__ import annotations

import copy
import inspect
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.data import are_labels, number_of, told_of
from sharpness.engine import distributed
from sharpness.engine.devices import full_precision
from sharpness.engine.double_backward import slopes
from sharpness.engine.memory import memory_budget
from sharpness.engine.modules import buffers_kept, require_eval
from sharpness.engine.operator import CurvatureOperator
from sharpness.engine.products import Products
from sharpness.keywords import keywords_of
from sharpness.objective.coordinates import scales_of
from sharpness.objective.description import SampleOptions
from sharpness.objective.samples import Samples, Selection
from sharpness.objective.values import Values
from sharpness.version import __version__


class Objective(Values):
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
        class_names: names of the classes, for tables and plots: in their order, ``{label: name}`` or ``{name: label}``.
        train_counts: (C,) images of each class that the model was trained on, where that is known, or a mapping or
            Series by labels or names; the data here may be others, or a part of them.
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

    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
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

    def loss(self, class_index: int | str | None = None) -> float:
        """L, or L_c of a class by its index or name."""
        if class_index is None:
            return self.evaluate().mean
        return self.restrict(self.samples.indices(class_index)).loss()

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

        >>> model = torch.nn.Linear(2, 2, bias=False)
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

        def forms() -> Tensor:
            known = self._operator(class_index, "hessian", 0) if operator is None else operator
            return known.quadratic_forms(vector)

        return self._of_every_sample(class_index, forms)

    @torch.inference_mode(False)
    @full_precision()
    def slopes(self, vector: Tensor, class_index: int | str | None = None) -> np.ndarray:
        r""":math:`v' \nabla \ell_i` of every sample, shape (n,); their weighted mean is v' times the gradient."""
        along = self._moved(vector.detach().to(self.device, self.dtype, copy=vector.is_inference()))

        def found() -> Tensor:
            return slopes(self._outputs, self.parameters, self._batches(class_index), self.loss_function, along)

        return self._of_every_sample(class_index, found)

    def _of_every_sample(self, class_index: int | str | None, compute: Callable[[], Tensor]) -> np.ndarray:
        """Numbers of all samples, of which ``compute`` gives those of this process, if it has any."""
        require_eval(self.model)
        whole = torch.zeros(len(self.samples.indices(class_index)), dtype=torch.float64)
        positions = distributed.share(torch.arange(len(whole)))
        if len(positions):
            with buffers_kept(self.model):
                whole[positions] = compute().cpu()
        return distributed.total(whole).numpy()

    def restrict(self, what: Selection) -> Objective:
        """The objective of a class (index or name), a group, several names, or samples at some indices or of a mask.

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

        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> objective = Objective(model, (torch.eye(2), torch.tensor([0, 1])))
        >>> objective.in_coordinates("filter").coordinates
        'filter'
        """
        other = copy.copy(self)
        other.coordinates, other._scales = coordinates, scales_of(self, coordinates)
        return other

    def _over(self, samples: Samples) -> Objective:
        """The same loss of the same model over other samples, without tracing the model again."""
        if samples is self.samples:
            return self
        other = copy.copy(self)
        other.samples, other._checked = samples, None
        return other

    def provenance(self) -> dict[str, Any]:
        """Everything that is needed to understand and repeat a result, in plain values."""
        heads = [m for m in self.model.modules() if hasattr(m, "scale") and hasattr(m, "filter_axes")]
        # Plain values: they are written to files, and digested as keys of unfinished work.
        return {
            "model": type(self.model).__name__,
            "model_sha256": self.model_sha256(),
            "data_sha256": self.data_sha256,
            "samples": self.num_samples,
            "class_samples": self.class_samples.tolist(),
            "loss": self.loss_name,
            "targets": "labels" if are_labels(self.y) else told_of(self.y),
            "classes": self.classes_from,
            "group_convention": self.group_convention,
            "logit_scale": float(heads[0].scale) if heads else 1.0,  # type: ignore[arg-type]
            "logits": self.logits,
            **({} if self.temperature is None else self.temperature.provenance()),
            "scope": self.scope,
            "num_parameters": self.num_parameters,
            "coordinates": self.coordinates,
            "batchnorm": self.batchnorm,
            "dtype": self.precision,
            "device": self.device.type,
            "sharpness": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        }

    def __repr__(self) -> str:
        return (
            f"Objective({type(self.model).__name__}, {self.num_samples} samples, {number_of(self.num_classes)}, "
            f"loss={self.loss_name}, k={self.num_parameters}, batchnorm={self.batchnorm})"
        )

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


_own = list(inspect.signature(Values.__init__).parameters.values())[1:-1]
Objective.__signature__ = inspect.Signature([*_own, *keywords_of(SampleOptions)])  # type: ignore[attr-defined]
